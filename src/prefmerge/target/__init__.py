"""From what a user has of the target to a model for it.

shares.py   how much of the target comes from each task, and how sure that is: from labels, inputs, pairs, or stated
shift.py    which task an input comes from, by the base's embeddings; the mix that explains many inputs best
"""
