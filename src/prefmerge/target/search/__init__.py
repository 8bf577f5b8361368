"""Settings of a merge that do best at a target, tried one after another, and whether they are better than `adapt`'s.

by_score.py   the search that ranks as `adapt` does, and starts with its candidates
field.py      the samples that rank, and those that compare
decision.py   the best trial against what `adapt` chooses
outcome.py    the result: in words, as JSON, as a picture
on_target.py  the paper's search, for a run and pairs: by plain accuracy
tuning.py     the paper's search itself, for any function from weights to right answers
result.py     its result: trials, intervals
scoring.py    which samples a model names correctly

What both have:
space.py      which settings are tried, and what stands for each in the search
trying.py     trials one batch after another, patience
study.py      trials that are kept as they are made, and what to try next (optuna)
trial.py      one trial, in memory and as the study keeps it
folder.py     the files that a search leaves

Source: Tunable MAGMAX, section 3.3 (last remark). Importing this loads neither torch nor optuna.
"""

from prefmerge.target.search.by_score import search_by_score
from prefmerge.target.search.folder import SearchFolder
from prefmerge.target.search.on_target import search_by_accuracy
from prefmerge.target.search.outcome import SearchOutcome
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.scoring import among_of, scorer
from prefmerge.target.search.space import Space
from prefmerge.target.search.trial import ScoredTrial, Trial
from prefmerge.target.search.tuning import tune

__all__ = [
    "ScoredTrial",
    "SearchFolder",
    "SearchResult",
    "SearchOutcome",
    "Space",
    "Trial",
    "among_of",
    "scorer",
    "search_by_accuracy",
    "search_by_score",
    "tune",
]
