"""Task vectors block by block: what merging and measuring stand on, below any method.

reading.py       the inputs of a run: stored elements in buffers, hashed on the way
reader.py        one tensor's task vectors, a reader for each task, with the tensor's shape
kernels.py       the loops over number formats: convert, subtract, check, finish
workspace.py     threads, blocks and large arrays
process.py       whether the process is ours
kernel_cache.py  how kernels are compiled, and where their machine code is kept
ready.py         that code called without loading numba
"""
