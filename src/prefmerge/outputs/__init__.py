"""What a merge leaves behind: whole or not at all.

write.py        an output file or folder, published at once, with its receipt
receipts.py     where the receipt of an output is
companions.py   what belongs beside the weights
"""
