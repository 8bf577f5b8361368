"""How often each class occurs at the target, and what that adds to the logits.

    q(t, c) = (n_c + M sum_t' s_t' / |C_t'|) / (n + M) * part of task t in c,   pi_c = sum_t q(t, c)
    guarded_c = (1 - GUARD) pi_c + GUARD mean_t [c in C_t] / |C_t|
    a_c = log guarded_c - log(|C_t| p(c | t))

s: shares of the tasks; n_c: labels of the target (0 where only inputs are known); C_t: the classes of task t; p(c | t):
how often c occurred in training, which a trained model has learned and the target need not repeat (0 where even). The
guard keeps a class that was not seen possible: a mix is estimated from few samples, and it drifts. Source: ours, after
Saerens, Latinne and Decaestecker 2002. Shapes: T tasks, C classes. Cost: T C. Not here: how s and n are
estimated (`shares`), biases that are fitted (`fit`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefmerge.target.shares import Shares, Tasks

EVIDENCE = 50.0  # labels that the shares are worth beside labels that were counted
GUARD = 0.05  # part of the target that may come evenly from all tasks, unknown to us


@dataclass(frozen=True, eq=False)
class Prior:
    """How often each class occurs at the target."""

    joint: np.ndarray  # q(t, c), shape (T, C); sums to 1
    logits: np.ndarray  # a_c, what goes on the logits, shape (C,), in nats

    @property
    def classes(self) -> np.ndarray:
        """pi (C,): how often each class occurs at the target, without the guard."""
        return self.joint.sum(axis=0)


def make_prior(tasks: Tasks, shares: Shares, guard: float = GUARD) -> Prior:
    """The prior of the target from its shares and label counts."""
    joint = joint_of(tasks, shares.shares, shares.label_counts)
    return Prior(joint, log_prior_of(tasks, joint, shares.shares, guard))


def log_prior_of(tasks: Tasks, joint: np.ndarray, shares: np.ndarray, guard: float = GUARD) -> np.ndarray:
    """a (C,) of a joint prior (T, C) and the shares (T,) that it was made of."""
    inside = _inside(tasks)
    even = (inside / inside.sum(axis=1, keepdims=True)).mean(axis=0)
    guarded = (1 - guard) * joint.sum(axis=0) + guard * even
    with np.errstate(divide="ignore"):
        return np.where(guarded > 0, np.log(guarded) - _learned(tasks, shares), 0.0)


def joint_of(tasks: Tasks, shares: np.ndarray, label_counts: np.ndarray) -> np.ndarray:
    """q (T, C) of one mix: shares (T,) and label counts (C,)."""
    inside = _inside(tasks)
    spread = shares[:, None] * inside / inside.sum(axis=1, keepdims=True)
    expected = spread.sum(axis=0)
    rates = (label_counts + EVIDENCE * expected) / (label_counts.sum() + EVIDENCE)
    # A class of several tasks is theirs in proportion to their shares; evenly where none of them has any.
    holders = inside.sum(axis=0)
    part = np.where(expected > 0, spread / np.where(expected > 0, expected, 1), inside / np.maximum(holders, 1))
    joint = part * rates
    return joint / joint.sum()


def _inside(tasks: Tasks) -> np.ndarray:
    """(T, C): 1 where a class belongs to a task."""
    inside = np.zeros((len(tasks.names), len(tasks.classes)))
    for task, own in enumerate(tasks.of_task):
        inside[task, list(own)] = 1
    return inside


def _learned(tasks: Tasks, shares: np.ndarray) -> np.ndarray:
    """log(|C_t| p(c | t)), (C,): what training on uneven classes has taught already; tasks weigh by their shares."""
    inside = _inside(tasks)
    totals = tasks.counts.sum(axis=1, keepdims=True)
    sizes = inside.sum(axis=1, keepdims=True)
    known = inside * (tasks.counts > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(known > 0, np.log(sizes * tasks.counts / np.maximum(totals, 1)), 0.0)
    weight = known * (shares[:, None] + 1e-9)
    return (weight * relative).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
