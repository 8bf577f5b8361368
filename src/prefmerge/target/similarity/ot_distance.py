"""How far a target is from each task by optimal transport (OT) between two samples of embeddings.

    C_ij = |f_t(x_i) - f_t(y_j)|^2 / max C,   P = argmin over plans of <P, C> - regularization entropy(P)
    d_t = <P, C>,   sim_t = exp(-100 d_t)

Source: Tunable MAGMAX, section 3.3.1; the largest cost, regularization, iterations and gamma from the authors' code.
Solvers are POT's. Shapes: x (N, E) task, y (M, E) target, uniform weights; 0 <= d <= 1. Cost per task: N M E for the
costs, then 2 N M exponentials per iteration in the log domain (it stops early once the marginals hold to 1e-9); about
five matrices of 8 N M bytes; `debiased` also N^2 and M^2. Not here: labels (OTDD's label-to-label costs).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from prefmerge.errors import MissingExtra, PreferenceError
from prefmerge.target.kinds import Solver
from prefmerge.target.similarity.samples import checked, scaled, squared_distances
from prefmerge.target.similarity.similarity import Similarity, checked_gamma, from_distances, positive

_CONVERGED = 1e-9  # norm of what the target's marginal misses; POT's own default
_SAFE = 200.0  # largest cost / regularization outside the log domain: exp(-200), squared, is far from underflow
_PIVOTS = 10_000_000  # of the exact solver; POT's 100,000 is not enough for thousands of samples
_BACKENDS = ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")


def pot() -> Any:
    """The module `ot`, imported without the frameworks that it would probe for, which takes seconds and memory.

    The one place that imports it. Raises MissingExtra where it is absent.
    """
    variables = [f"POT_BACKEND_DISABLE_{name}" for name in _BACKENDS]
    absent = [name for name in variables if name not in os.environ]
    os.environ.update(dict.fromkeys(absent, "1"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ot
    except ImportError as error:
        raise MissingExtra("optimal transport", "places") from error
    finally:
        for name in absent:
            del os.environ[name]
    return ot


def optimal_transport(
    tasks: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    solver: Solver = "sinkhorn",
    regularization: float = 0.1,  # of the largest cost; authors' code
    iterations: int = 100,  # authors' code
    gamma: float = 100.0,  # paper
) -> Similarity:
    """OT similarity of a target to T tasks: tasks[t] (N_t, E) and target[t] (M, E), both embedded by task t's encoder.

    `sinkhorn`: the transport cost <P, C> of the entropic plan, the paper's; above 0 for a sample and itself. `exact`:
    of the best plan; no regularization. `debiased`: the Sinkhorn divergence S(x, y) - (S(x, x) + S(y, y)) / 2, with the
    entropy counted in S (Feydy et al. 2019: only so is it never negative once converged; clamped at 0) and the costs of
    all three divided by the largest of S(x, y).

    Samples that all coincide are at distance 0. The order of samples matters to 1e-9 (when iterations stop), `exact`
    and `debiased` likewise. Raises PreferenceError for features that do not fit one another and settings that make no
    sense, MissingExtra without POT.
    """
    settings = _checked(solver, regularization, iterations)
    gamma = checked_gamma(gamma)
    ours, theirs, known = checked(tasks, target, names)
    pot()
    distances = [_distance(x, y, **settings) for x, y in zip(ours, theirs, strict=True)]
    return from_distances("ot", known, distances, gamma, **settings)


def _checked(solver: Solver, regularization: float, iterations: int) -> dict[str, Any]:
    if solver not in get_args(Solver):
        raise PreferenceError(f"solver {solver!r} is not known; use {', '.join(get_args(Solver))}.")
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)) or iterations < 1:
        raise PreferenceError(f"iterations: expected a whole number of at least 1, found {iterations!r}.")
    return {
        "solver": solver,
        "regularization": positive(regularization, "regularization"),
        "iterations": int(iterations),
    }


def _distance(x: np.ndarray, y: np.ndarray, solver: Solver, regularization: float, iterations: int) -> float:
    x, y, _ = scaled(x, y)
    cost = squared_distances(x, y)
    largest = cost.max()
    if largest == 0:
        return 0.0
    a, b = _uniform(len(x)), _uniform(len(y))
    if solver == "exact":
        return _exact(cost / largest, a, b)
    if solver == "sinkhorn":
        return _sinkhorn(cost / largest, a, b, regularization, iterations)[0]
    between, *within = (
        _sinkhorn_many(c / largest, p[:, None], q[:, None], regularization, iterations)[1]
        for c, p, q in ((cost, a, b), (squared_distances(x, x), a, a), (squared_distances(y, y), b, b))
    )
    return max(float((between - sum(within) / 2)[0]), 0.0)


def _uniform(count: int) -> np.ndarray:
    return np.full(count, 1 / count)


def _exact(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """<P, C> of the best plan between weights a (N,) and b (M,) above zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, log = pot().emd(a, b, cost, numItermax=_PIVOTS, log=True)
    if log["warning"] is not None:
        raise PreferenceError(
            f"the exact solver gave up on {len(a)} by {len(b)} samples: {log['warning']} Use fewer samples or solver "
            "sinkhorn."
        )
    return max(float(log["cost"]), 0.0)


def _sinkhorn(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, regularization: float, iterations: int
) -> tuple[float, float]:
    """<P, C>, and <P, C> + regularization KL(P | a b'), of POT's plan between weights a (N,) and b (M,) above zero.
    Begun at u = a (POT's own start where a is uniform), so that a sample given twice is a sample of twice the weight.

    With log P = log u + log v - C / regularization the latter is regularization times
    <P 1, log u - log a> + <P' 1, log v - log b>.
    """
    # Unused exp(log u) overflow; entries of P that vanish are zeros.
    with np.errstate(all="ignore"):
        log_a, log_b = np.log(a), np.log(b)
        plan, log = pot().bregman.sinkhorn_log(
            a,
            b,
            cost,
            regularization,
            numItermax=iterations,
            stopThr=_CONVERGED,
            warn=False,
            log=True,
            warmstart=(log_a, log_b),
        )
        transport = float((plan * cost).sum())
        gained = plan.sum(axis=1) @ (log["log_u"] - log_a) + plan.sum(axis=0) @ (log["log_v"] - log_b)
    return transport, float(regularization * gained)


def resampled(
    task: np.ndarray,
    target: np.ndarray,
    weights_MB: np.ndarray,
    *,
    solver: Solver,
    regularization: float,
    iterations: int,
) -> np.ndarray:
    """Distances (B,) of a task's sample (N, E) to the target's (M, E) under each column of weights, which sum to 1.

    What `optimal_transport` would find for the resample: the costs are divided by the largest among the samples that
    the column holds. Columns with one such divisor are solved together, two matrix products per iteration, where
    cost / regularization is at most 200; beyond, and for `exact`, one by one.
    """
    x, y, _ = scaled(task, target)
    cost = squared_distances(x, y)
    of_x, of_y = (squared_distances(z, z) if solver == "debiased" else np.zeros((1, 1)) for z in (x, y))
    largest = np.where(weights_MB > 0, cost.max(axis=0)[:, None], 0).max(axis=0)
    distances = np.zeros(weights_MB.shape[1])
    a = _uniform(len(x))
    for divisor in np.unique(largest[largest > 0]):
        columns = np.flatnonzero(largest == divisor)
        weights = weights_MB[:, columns]
        if solver == "exact":
            distances[columns] = [_exact(cost[:, w > 0] / divisor, a, w[w > 0]) for w in weights.T]
            continue
        transport, entropic = _sinkhorn_many(cost / divisor, a[:, None], weights, regularization, iterations)
        if solver == "debiased":
            _, own = _sinkhorn_many(of_x / divisor, a[:, None], a[:, None], regularization, iterations)
            _, their = _sinkhorn_many(of_y / divisor, weights, weights, regularization, iterations)
            distances[columns] = np.maximum(entropic - (own + their) / 2, 0)
        else:
            distances[columns] = transport
    return distances


def _sinkhorn_many(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, regularization: float, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """`_sinkhorn` for every column of the weights a (N, B) or (N, 1) and b (M, B), some of them zero; (B,) twice."""
    rows, columns = (w.any(axis=1) for w in (a, b))
    cost, a, b = cost[np.ix_(rows, columns)], np.broadcast_to(a[rows], (rows.sum(), b.shape[1])), b[columns]
    if cost.max() > _SAFE * regularization:
        both = [
            _sinkhorn(cost[np.ix_(p > 0, q > 0)], p[p > 0], q[q > 0], regularization, iterations)
            for p, q in zip(a.T, b.T, strict=True)
        ]
        transport, entropic = np.array(both).T
        return transport, entropic
    kernel = np.exp(cost / -regularization)
    u, v = a, b
    for i in range(iterations):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
        if i % 10 == 0 and np.linalg.norm(v * (kernel.T @ u) - b, axis=0).max() < _CONVERGED:
            break
    transport = (u * ((kernel * cost) @ v)).sum(axis=0)
    gained = _weighed_log(u * (kernel @ v), u, a) + _weighed_log(v * (kernel.T @ u), v, b)
    return transport, regularization * gained


def _weighed_log(weights: np.ndarray, value: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Column sums of weights log(value / of); terms of weight zero are zero."""
    held = of > 0
    return (weights * np.log(np.where(held, value, 1) / np.where(held, of, 1))).sum(axis=0)
