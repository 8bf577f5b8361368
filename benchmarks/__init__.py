"""One question per file; each checks the result first, then measures, and writes `results/<question>.json`.

Run from the repository's root: `python -m benchmarks.merge_speed --help`. Tables in `docs` are generated from the
results.
"""
