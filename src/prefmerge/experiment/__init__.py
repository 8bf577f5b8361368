"""The papers' experiments on a run's checkpoints: recipe -> cells (side by side, kept) -> results -> report.

`recipe` says what, `cells` are the pieces of work, `runner` does those that are not done yet, `results` is what they
add up to, `tables`, `figures` and `report` show it; `published` holds the papers' own numbers.
"""
