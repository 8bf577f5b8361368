"""Candidates whose embeddings lie about the head's rows: the stronger, the more of the samples they have right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmerge.preference import Preference
from prefmerge.target.choice import Answers, Judge
from prefmerge.target.prior import make_prior
from prefmerge.target.proxy import make_proxy
from prefmerge.target.shares import Tasks, stated

WIDTH, SCALE = 6, 5.0
TASKS = Tasks(("left", "right"), ("a", "b", "c", "d"), ((0, 1), (2, 3)), np.array([[9, 9, 0, 0], [0, 0, 9, 9]]))
SHARES = stated(TASKS, Preference.parse("0.6,0.4"))


def samples(each: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and tasks (2 each,): both tasks have `each` samples, their classes in turn."""
    tasks = np.repeat([0, 1], each)
    return 2 * tasks + np.arange(2 * each) % 2, tasks


def head(seed: int = 0) -> np.ndarray:
    """Rows (4, E) of unit norm."""
    rows = np.random.default_rng(seed).standard_normal((4, WIDTH))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def around(rows: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Unit embeddings (N, E), float32: `strength` times the row of the truth, and noise."""
    found = strength * rows[labels] + 0.5 * np.random.default_rng(seed).standard_normal((len(labels), rows.shape[1]))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def answers(judge: Judge, name: str, single: bool, strength: float, seed: int) -> Answers:
    """Of one candidate, for every sample."""
    return Answers(name, single, judge.proxy.everything, around(judge.rows, judge.proxy.labels, strength, seed))


def judge_of(
    specs: Sequence[tuple[str, bool, float]], each: int, *, first: int = 50, seed: int = 0
) -> tuple[Judge, list[Answers]]:
    """A judge over `each` samples a task, and a candidate for each (name, whether single, strength)."""
    labels, tasks = samples(each)
    proxy = make_proxy([f"s{i}" for i in range(len(labels))], labels, tasks, first=first, seed=seed)
    judge = Judge(proxy, make_prior(TASKS, SHARES), head(seed), SCALE)
    return judge, [answers(judge, *spec, 100 * seed + i) for i, spec in enumerate(specs)]
