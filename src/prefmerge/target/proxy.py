"""Labelled samples that stand for the target: held-out samples of its tasks, weighed as the target has them, and pairs.

    held-out sample i of task t and class c:  h_i = q(t, c) / n_tc        (sum 1; effective size m = 1 / sum h_i^2)
    pair i of M:                              1 / M
    weight:  m / (m + M) of the former, M / (m + M) of the latter

q: the joint prior without its guard (`prior`); n_tc: how many samples of that task and class are at hand. Folds are
drawn by a keyed hash of the samples' ids, class by class, so they do not depend on the order. Shapes: N samples. Cost:
N. Not here: encoding, and what is done with the weights (`choice`, `estimates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.ground.draws import keyed
from prefmerge.target.parameters import Metric

FOLDS = 10  # 5 outer folds, and 2 inner ones that cut across them


@dataclass(frozen=True, eq=False)
class Proxy:
    """`labels`, `tasks`, `pair`, `first`, `fold` are (N,); `allowed` (N, C), or None where every sample is named
    among all classes. `tasks` is -1 for a pair. `first`: the samples on which every candidate is tried.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    tasks: np.ndarray
    pair: np.ndarray
    first: np.ndarray
    fold: np.ndarray
    allowed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def everything(self) -> np.ndarray:
        """All positions, (N,)."""
        return np.arange(len(self))

    def outer(self, positions: np.ndarray) -> np.ndarray:
        """Which of five folds each sample is judged in."""
        return self.fold[positions] % 5

    def inner(self, positions: np.ndarray) -> np.ndarray:
        """Which of two halves each sample is fitted in."""
        return self.fold[positions] % 2  # not // 5: a class of few samples would lie in one half

    def weights(
        self, joint: np.ndarray, positions: np.ndarray, metric: Metric = "accuracy", drawn: np.ndarray | None = None
    ) -> np.ndarray:
        """How much each sample at `positions` counts, (n,), sum 1. `joint` (T, C). `drawn` (n,): how often a bootstrap
        drew each; None: once. Zeros where the target has none of them.
        """
        times = np.ones(len(positions)) if drawn is None else drawn
        labels, tasks, pair = self.labels[positions], self.tasks[positions], self.pair[positions]
        classes = joint.shape[1]
        if metric == "balanced":
            total = joint.sum(axis=0)
            joint = joint / np.where(total > 0, total, 1)
        held = np.flatnonzero(~pair)
        weights = np.zeros(len(positions))
        cell = tasks[held] * classes + labels[held]
        sizes = np.bincount(cell, times[held], minlength=joint.size)
        with np.errstate(divide="ignore", invalid="ignore"):
            of_cell = np.where(sizes > 0, joint.ravel() / sizes, 0.0)
        held_weights = of_cell[cell] * times[held]
        pairs = np.flatnonzero(pair)
        pair_weights = times[pairs].copy()
        if metric == "balanced" and len(pairs):
            pair_weights /= np.bincount(labels[pairs], times[pairs], minlength=classes)[labels[pairs]]
        parts = []
        for at, own in ((held, held_weights), (pairs, pair_weights)):
            if len(at) and own.sum() > 0:
                own = own / own.sum()
                parts.append((at, own, 1 / np.sum(own**2)))
        most = sum(size for _, _, size in parts)
        for at, own, size in parts:
            weights[at] = own * size / most
        return weights


def make_proxy(
    ids: Sequence[str],
    labels: np.ndarray,
    tasks: np.ndarray,
    *,
    first: int,
    seed: int = 0,
    allowed: np.ndarray | None = None,
) -> Proxy:
    """The proxy of samples given by id, class and task (-1: a pair). `first`: how many of each task, and how many
    pairs, every candidate is tried on.
    """
    labels, tasks = np.asarray(labels, np.int64), np.asarray(tasks, np.int64)
    chosen, fold = np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
    draw = [keyed("proxy", seed, one) for one in ids]
    for task in np.unique(tasks).tolist():
        # Class by class, so that a fold and the first samples hold each class as often as all samples do.
        own = sorted(np.flatnonzero(tasks == task).tolist(), key=lambda i: (labels[i], draw[i], ids[i]))
        fold[own] = (np.arange(len(own)) + task) % FOLDS
        rank: dict[int, int] = {}
        turn = []
        for i in own:
            rank[int(labels[i])] = turn_of = rank.get(int(labels[i]), -1) + 1
            turn.append((turn_of, draw[i], i))
        chosen[[i for _, _, i in sorted(turn)[:first]]] = True
    return Proxy(tuple(ids), labels, tasks, tasks < 0, chosen, fold, allowed)
