"""What merging and measuring stand on, below any method.

workspace.py     threads, blocks and large arrays
kernel_cache.py  how kernels are compiled, and where their machine code is kept
"""
