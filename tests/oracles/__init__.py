"""Slow, obvious answers to compare the package with: plain loops over exact fractions and float64, written from the
paper and the design.

Nothing here imports prefmerge. `shares` makes budgets, `selection` says which assignments are right, `methods`
computes the other merges. Cost: quadratic and worse; for problems of at most a few thousand elements.
"""
