"""The merge with the best accuracy on labelled samples of a place, and whether they show that it is better.

space.py     which settings are tried, and what stands for each in the search
study.py     trials that are kept as they are made, and what to try next (optuna)
tuning.py    the search itself: batches of trials, patience, the choice on held-out samples
found.py     the result: trials, intervals, in words, as JSON, as a picture
place.py     the same for a run of fine-tuning and a file of samples with labels

Source: Tunable MAGMAX, section 3.3 (last remark). Importing this loads neither torch nor optuna.
"""

from prefmerge.target.search.found import Found, Trial
from prefmerge.target.search.place import Output, among_of, scorer, search
from prefmerge.target.search.space import Space
from prefmerge.target.search.tuning import tune

__all__ = ["Found", "Output", "Space", "Trial", "among_of", "scorer", "search", "tune"]
