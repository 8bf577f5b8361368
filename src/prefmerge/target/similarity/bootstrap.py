"""How sure a share is, given that another M samples of the same target would have been others.

    features: s* = shares of M samples drawn with replacement; [low, high] = quantiles of s* at q and 1 - q,
              q = Phi(-t sqrt(M / (M - 1))), t = Student's quantile at (1 + level) / 2 with M - 1 degrees of freedom
    labels:   w_c ~ Gamma(m_c) for the m_c samples of class c, e ~ Gamma(1) for one sample that was not drawn;
              s*_t(k) = (sum over c of w_c r_tc + e r_tk) / sum over all tasks of the same;
              low = quantile at (1 - level) / 2 of min over k of s*_t(k), high = at (1 + level) / 2 of max over k

Source: percentile bootstrap (Efron 1979) widened for small samples (Hesterberg 2015); Bayesian bootstrap (Rubin 1981)
with one imagined sample (Walley's imprecise Dirichlet model, s = 1). Cost: labels, B T classes; features, B columns of
weights over one matrix of costs per task. Not here: that the tasks' own samples, and their encoders, are samples too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.ground.stats import t_near_normal
from prefmerge.target.draws import check_draws
from prefmerge.target.kinds import FeatureKind
from prefmerge.target.similarity import cosine_distance, mean_discrepancy, ot_distance
from prefmerge.target.similarity.label_overlap import label
from prefmerge.target.similarity.similarity import Similarity, normalised


@dataclass(frozen=True, eq=False)
class Interval:
    """Where the shares of T tasks lie, at the level asked for. Both (T,) float64; each task's interval is its own."""

    low: np.ndarray
    high: np.ndarray


def label_interval(
    tasks: Sequence[Mapping[str, int]],
    target: Mapping[str, int],
    names: Sequence[str],
    *,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Interval:
    """Intervals for the label shares (eq. 7) that the target itself has, of which `target` is a sample.

    A plain bootstrap gives a task without any sample the interval [0, 0], which claims too much. Here each end is taken
    with one more sample imagined, of the class that moves that end furthest. Where classes are disjoint and tasks
    weigh their classes equally, a share is a binomial proportion and this is Clopper and Pearson's interval, up to the
    draws: coverage is never below the level, and above it for small samples and shares near 0 and 1. Tests hold it to
    the level with unequal and overlapping tasks too; a share of zero is always held. Labels that no task knows cancel,
    and count as no sample.

    Raises PreferenceError like `label`, and for a level or number of draws that makes no sense.
    """
    check_draws(draws, level, PreferenceError)
    estimate = label(tasks, target, names)
    classes = sorted({name for task in tasks for name in task}, key=str)
    sizes = [sum(task.values()) for task in tasks]
    rates_TC = np.array([[task.get(c, 0) / size for c in classes] for task, size in zip(tasks, sizes, strict=True)])
    counts_C = np.array([target.get(c, 0) for c in classes])
    drawn = counts_C > 0
    random = np.random.default_rng(seed)
    weights = random.standard_gamma(counts_C[drawn].astype(np.float64), size=(draws, int(drawn.sum())))
    extra = random.standard_exponential(draws)
    own_BT = weights @ rates_TC[:, drawn].T
    all_B = own_BT.sum(axis=1)
    low, high = np.empty(len(tasks)), np.empty(len(tasks))
    for t, rates in enumerate(rates_TC):
        lowest, highest = np.ones(draws), np.zeros(draws)
        for rate, total in np.unique(np.stack([rates, rates_TC.sum(axis=0)], axis=1), axis=0):
            share = (own_BT[:, t] + extra * rate) / (all_B + extra * total)
            lowest, highest = np.minimum(lowest, share), np.maximum(highest, share)
        low[t] = np.quantile(lowest, (1 - level) / 2)
        high[t] = np.quantile(highest, (1 + level) / 2)
    return _around(estimate, low, high)


def feature_interval(
    kind: FeatureKind,
    tasks: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
    **settings: Any,
) -> Interval:
    """Intervals for the shares that a much larger sample of the target would give; `settings` are those of the kind.

    The same samples are drawn for every task. One sample alone says nothing: [0, 1].

    Coverage is somewhat below the level, and a test holds by how much. It is lowest for `ot` in many dimensions, since
    the largest cost, which divides the others, grows with the sample; for `exact` and `debiased`, whose estimates are
    biased in small samples; and for so few samples that they may miss a task of the target, which cannot be foreseen.

    Solver `exact`, and a regularization below 1/200, which is solved draw by draw in the log domain, take many times as
    long as the others.

    Raises PreferenceError like the kind, and for a kind, level or number of draws that makes no sense.
    """
    kinds: dict[FeatureKind, tuple[Callable[..., Similarity], Callable[..., np.ndarray]]] = {
        "ot": (ot_distance.optimal_transport, ot_distance.resampled),
        "cosine": (cosine_distance.cosine, cosine_distance.resampled),
        "mmd": (mean_discrepancy.mmd, mean_discrepancy.resampled),
    }
    if kind not in kinds:
        raise PreferenceError(f"intervals of features are known for {', '.join(kinds)}, not for {kind!r}.")
    check_draws(draws, level, PreferenceError)
    measure, resampled = kinds[kind]
    estimate = measure(tasks, target, names, **settings)
    samples = len(target[0])
    if samples == 1:
        alone = len(estimate.names) == 1
        return Interval(np.full(len(estimate.names), float(alone)), np.ones(len(estimate.names)))
    random = np.random.default_rng(seed)
    weights_MB = random.multinomial(samples, np.full(samples, 1 / samples), size=draws).T / samples
    used = {
        name: value for name, value in estimate.settings.items() if name in ("solver", "regularization", "iterations")
    }
    distances_TB = np.stack(
        [
            resampled(np.asarray(x, np.float64), np.asarray(y, np.float64), weights_MB, **used)
            for x, y in zip(tasks, target, strict=True)
        ]
    )
    shares_TB = normalised(-estimate.settings["gamma"] * distances_TB)
    tail = NormalDist().cdf(-t_near_normal(level, samples - 1) * math.sqrt(samples / (samples - 1)))
    low, high = np.quantile(shares_TB, [tail, 1 - tail], axis=1)
    return _around(estimate, low, high)


def _around(estimate: Similarity, low: np.ndarray, high: np.ndarray) -> Interval:
    """Never without the estimate itself, which a bias of resampling could leave outside."""
    shares = estimate.shares()
    return Interval(np.clip(np.minimum(low, shares), 0, 1), np.clip(np.maximum(high, shares), 0, 1))
