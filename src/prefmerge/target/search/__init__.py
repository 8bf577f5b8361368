"""The merge with the best accuracy on labelled samples of the target, and whether they show that it is better.

space.py      which settings are tried, and what stands for each in the search
study.py      trials that are kept as they are made, and what to try next (optuna)
trial.py      one trial, in memory and as the study keeps it
tuning.py     the search itself: batches of trials, patience, the choice on held-out samples
result.py     the result: trials, intervals, in words, as JSON, as a picture
scoring.py    which samples a model names correctly
folder.py     the files that a search leaves
on_target.py  the search for a run of fine-tuning and a file of samples with labels

Source: Tunable MAGMAX, section 3.3 (last remark). Importing this loads neither torch nor optuna.
"""

from prefmerge.target.search.folder import SearchFolder
from prefmerge.target.search.on_target import search
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.scoring import among_of, scorer
from prefmerge.target.search.space import Space
from prefmerge.target.search.trial import Trial
from prefmerge.target.search.tuning import tune

__all__ = ["SearchFolder", "SearchResult", "Space", "Trial", "among_of", "scorer", "search", "tune"]
