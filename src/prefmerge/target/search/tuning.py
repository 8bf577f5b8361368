"""The search for the settings with the best accuracy on labelled samples of the target.

    maximise over settings   mean over i in the search part of [model(settings) is right on i]

Source: Tunable MAGMAX, section 3.3 (the preference as parameters of optuna's TPE, patience 10). Beyond it: it starts
with the preference that the labels give and with MAGMAX; a part of the samples (30 %) ranks nothing and chooses among
the best; several trials are merged in one reading of the checkpoints. Shapes: M samples. Cost: a merge and M answers a
trial. Not here: where answers come from (`scoring`); a second choice on the held-out part would wear it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prefmerge.errors import DataError, UsageError
from prefmerge.ground.draws import split
from prefmerge.preference import Preference
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.space import Space, Start
from prefmerge.target.search.study import Study
from prefmerge.target.search.trial import Trial, digest, key_of, read_kept
from prefmerge.target.search.trying import Limits, carry_on

LEAST = 10  # samples; with fewer one answer weighs more than what any setting changes
Weights = dict[str, np.ndarray]
Scoring = Callable[[Weights], np.ndarray]  # a model's weights -> (M,) bool: the samples that it names correctly
Tried = Callable[[Trial, float, int, int], None]  # trial, best accuracy so far (search part), done, most


class Merging(Protocol):
    """What `prefmerge.merging.candidates.Candidates` is here."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def models(self, settings: Sequence[Mapping[str, Any]]) -> list[Weights]: ...


def tune(
    candidates: Merging,
    score: Scoring,
    labels: Sequence[int] | np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    space: Space | None = None,
    first: Preference | None = None,
    held_out: float = 0.3,
    patience: int = 10,
    trials: int = 50,
    batch: int = 4,
    seed: int = 0,
    study: Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Tried | None = None,
) -> SearchResult:
    """Search for the settings whose model is right most often. labels: of the M samples that `score` speaks of; ids:
    their names, which decide who is held out (by default their positions).

    first: the preference to start with (equal shares by default). held_out: the fraction of the samples that ranks
    nothing; 0: none. It ends after `trials`, or when `patience` trials after the best one none was better. batch:
    trials that are chosen and merged together. study: a file that keeps the trials, from which the same call
    resumes. about: what decides the answers beside the arguments; another one is refused there. Raises UsageError,
    DataError, RunError (another search's file), MissingExtra, and what merging raises.
    """
    space = space or Space()
    limits = Limits(trials, patience, batch)
    if not 0 <= held_out <= 0.9:
        raise UsageError(f"held-out is {held_out:g}; expected a fraction from 0 to 0.9, such as 0.3.")
    if len(labels) < LEAST:
        raise DataError(f"{len(labels)} samples with labels are too few to search with. Give at least {LEAST}.")
    samples = [str(i) for i in range(len(labels))] if ids is None else list(ids)
    searching = ~split(labels, samples, held_out, seed)
    names = candidates.names
    preference = Preference.uniform() if first is None else first
    starts = space.starts(names, first)
    identity = {
        **(about or {}),
        "tasks": list(names),
        "space": space.to_json(),
        "first": preference.to_json(),
        "samples": digest([samples, np.asarray(labels).tolist()]),
        "held_out": held_out,
        "batch": batch,
        "seed": seed,
    }
    kept = Study(study, identity, space.dimensions(len(names)), seed)
    done = [read_kept(number, one, len(searching), str(study)) for number, one in enumerate(kept.kept[:trials])]

    def accuracy(trial: Trial) -> float:
        return float(trial.right[searching].mean())

    def tried(waiting: Sequence[Start]) -> Iterator[Trial]:
        known = {key_of(one.settings): one.right for one in done}
        new = {key_of(one.settings): one.settings for one in waiting if key_of(one.settings) not in known}
        models = dict(zip(new, candidates.models(list(new.values())), strict=True))
        for one in waiting:
            key = key_of(one.settings)
            if key not in known:
                known[key] = _answers(score(models.pop(key)), len(searching))
            yield Trial(len(done), one.what, one.settings, known[key], len(done) < len(starts))

    def seen(trial: Trial) -> None:
        if progress is not None:
            progress(trial, max(map(accuracy, done)), len(done), trials)

    stopped = carry_on(
        kept,
        done,
        starts,
        limits,
        drawn=lambda number, params: Start(f"trial {number + 1}", space.settings(params, names, preference), params),
        tried=tried,
        value=accuracy,
        seen=seen,
    )
    settings = {"seed": seed, "batch": batch, "patience": patience, "trials_at_most": trials, "held_out": held_out}
    made = {"settings": settings, "about": dict(about or {})}
    return SearchResult(names, tuple(done), searching, space, stopped, made)


def _answers(right: np.ndarray, count: int) -> np.ndarray:
    answers = np.asarray(right)
    if answers.shape != (count,) or answers.dtype != bool:
        raise ValueError(f"score gave {answers.dtype} of shape {answers.shape}; expected bool of shape ({count},)")
    return answers
