"""The log prior against loops, and what it must be: a distribution, guarded, without what training taught already."""

from __future__ import annotations

import numpy as np
import pytest

from prefmerge.preference import Preference
from prefmerge.target.prior import EVIDENCE, GUARD, joint_of, make_prior
from prefmerge.target.shares import Shares, Tasks, from_labels, stated
from tests.oracles import target as oracle

DISJOINT = ((0, 1), (2, 3, 4), (5,))
SHARED = ((0, 1, 2), (2, 3, 4), (4, 5))
ALIKE = ((0, 1, 2, 3, 4, 5),) * 3


def tasks_of(of_task: tuple[tuple[int, ...], ...], seed: int | None = None) -> Tasks:
    """`seed`: training samples of each class differ, some are none; None: they are even."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(of_task), 6), np.int64)
    for t, own in enumerate(of_task):
        counts[t, list(own)] = 10 if seed is None else rng.integers(0, 9, len(own))
    names = tuple(f"task-{t}" for t in range(len(of_task)))
    return Tasks(names, tuple(f"class-{c}" for c in range(6)), of_task, counts)


def shares_of(tasks: Tasks, shares: np.ndarray, counts: np.ndarray) -> Shares:
    draws, label_draws = shares[None], counts[None]
    return Shares(
        tasks.names, tasks.classes, shares, draws, shares, shares, 0.9, int(counts.sum()), counts, label_draws, "labels"
    )


@pytest.mark.parametrize("of_task", [DISJOINT, SHARED, ALIKE])
@pytest.mark.parametrize("seed", [None, *range(6)])
def test_it_is_that_of_loops(of_task: tuple[tuple[int, ...], ...], seed: int | None):
    tasks = tasks_of(of_task, seed)
    rng = np.random.default_rng(seed)
    for shares in (rng.dirichlet(np.ones(3)), np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])):
        for counts in (np.zeros(6, np.int64), rng.integers(0, 20, 6)):
            found = make_prior(tasks, shares_of(tasks, shares, counts))
            expected = oracle.joint(of_task, 6, shares.tolist(), counts.tolist())
            np.testing.assert_allclose(found.joint, expected, atol=1e-15)
            np.testing.assert_allclose(found.classes, np.sum(expected, axis=0), atol=1e-15)
            given = (shares.tolist(), counts.tolist(), tasks.counts.tolist(), GUARD)
            # Tasks without a share weigh 1e-9 in what training taught, not nothing: hence 1e-7.
            np.testing.assert_allclose(found.logits, oracle.log_prior(of_task, *given), atol=1e-7)


@pytest.mark.parametrize("of_task", [DISJOINT, SHARED, ALIKE])
def test_the_joint_is_a_distribution_over_what_tasks_have(of_task: tuple[tuple[int, ...], ...]):
    tasks = tasks_of(of_task)
    found = joint_of(tasks, np.array([0.2, 0.8, 0]), np.array([3, 0, 0, 0, 1, 7]))
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    assert not found[~tasks.has_TC].any()


def test_without_labels_classes_of_a_task_are_even_and_shares_are_kept():
    found = joint_of(tasks_of(DISJOINT), np.array([0.5, 0.3, 0.2]), np.zeros(6))
    np.testing.assert_allclose(found.sum(axis=0), [0.25, 0.25, 0.1, 0.1, 0.1, 0.2])
    np.testing.assert_allclose(found.sum(axis=1), [0.5, 0.3, 0.2])


def test_many_labels_outweigh_the_shares():
    counts = np.array([900, 0, 50, 0, 0, 50]) * 1000
    found = joint_of(tasks_of(DISJOINT), np.array([0.9, 0.05, 0.05]), counts)
    np.testing.assert_allclose(found.sum(axis=0), counts / counts.sum(), atol=EVIDENCE / counts.sum())


def test_the_guard_keeps_every_class_possible():
    tasks = tasks_of(DISJOINT)
    found = make_prior(tasks, stated(tasks, Preference.parse("1,0,0")))
    np.testing.assert_array_equal(found.classes, [0.5, 0.5, 0, 0, 0, 0])
    even = np.array([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1]) / 3
    np.testing.assert_allclose(np.exp(found.logits), (1 - GUARD) * found.classes + GUARD * even)
    assert np.exp(found.logits).sum() == pytest.approx(1)


def test_a_target_like_the_training_moves_no_answer_within_a_task():
    """A model that learned uneven classes has them in its logits: the same classes again add nothing."""
    tasks = tasks_of(((0, 1), (2, 3, 4, 5)))
    tasks.counts[0, :2] = [30, 10]
    tasks.counts[1, 2:] = [40, 20, 10, 10]
    seen = {f"class-{c}": 10**6 * int(n) for c, n in enumerate(tasks.counts.sum(axis=0))}
    found = make_prior(tasks, from_labels(tasks, seen), guard=0.0).logits
    np.testing.assert_allclose(found[:2], found[0], atol=1e-3)
    np.testing.assert_allclose(found[2:], found[2], atol=1e-3)
    # Between tasks: 40 samples a task of 2 classes, 80 a task of 4.
    assert found[0] - found[2] == pytest.approx(np.log((40 / 2) / (80 / 4)), abs=1e-3)


def test_relabelled_classes_relabel_it():
    tasks, order = tasks_of(SHARED, 3), np.array([3, 0, 5, 1, 4, 2])  # old class -> new
    of_task = tuple(tuple(int(order[c]) for c in own) for own in SHARED)
    counts = np.zeros_like(tasks.counts)
    counts[:, order] = tasks.counts
    moved = Tasks(tasks.names, tasks.classes, of_task, counts)
    shares, seen = np.array([0.2, 0.5, 0.3]), np.array([1, 4, 0, 2, 9, 0])
    again = np.zeros_like(seen)
    again[order] = seen
    one = make_prior(tasks, shares_of(tasks, shares, seen))
    other = make_prior(moved, shares_of(moved, shares, again))
    np.testing.assert_allclose(other.logits[order], one.logits)
    np.testing.assert_allclose(other.joint[:, order], one.joint)
