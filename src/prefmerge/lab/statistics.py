"""Statistics of scores: means over variants and seeds, and paired differences between methods with an interval.

    accuracy of a method in an environment:  mean over its variants, for each seed; then mean and s over the seeds
    difference at a target p:  d_p = mean over seeds of (right_a - right_b) / n;   mean(d) ± t(level, P - 1) s(d) / √P

A target is one variant of one environment, P of them; s has P - 1 (seeds: S - 1) below the line. Source: Tunable
MAGMAX, section 4.3 (means); the paired differences are ours. Seeds are averaged first, because two trainings scored at
one target are not two targets. Printed is the t interval: with the five variants of an environment the bootstrap, which
draws targets with replacement, is too short (it misses the truth in 1 of 7 draws where it promises 1 of 20). Both take
the trainings as given and speak of targets like these: what another training would do, they do not know. Shapes: plain
numbers, fractions of 1. Cost: O(scores). Not here: corrections for many comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, stdev

from prefmerge.errors import DataError
from prefmerge.ground.stats import DRAWS, LEVEL, bootstrap_interval, t_interval
from prefmerge.ground.words import listed
from prefmerge.lab.results import Results, Score, TaskScores

SHOWN = 6  # names that a sentence lists
EnvironmentKey = tuple[str, int]  # environment, variant


@dataclass(frozen=True)
class Mean:
    """`value` over `seeds`, with their standard deviation (None for one seed)."""

    value: float
    std: float | None
    seeds: tuple[int, ...]


def by_size(scale: str) -> Fraction:
    """Sorts scales and alphas as numbers; a method's own scale ("") before all."""
    return Fraction(scale) if scale else Fraction(-1)


def over_seeds(values: Mapping[int, float]) -> Mean | None:
    """Mean and sample standard deviation of one value per seed; None where there is none."""
    several = list(values.values())
    if not several:
        return None
    return Mean(fmean(several), stdev(several) if len(several) > 1 else None, tuple(values))


# Which scores belong together


class StudyScores:
    """The scores of one study, by method, scale, seed and target. Raises DataError where two methods saw other samples
    at one target, or a score is there twice.
    """

    def __init__(self, results: Results, study: str = "places") -> None:
        self.study = study
        self.seeds = results.seeds
        mine = [score for score in results.scores if score.study == study]
        self.methods = tuple(dict.fromkeys(score.method for score in mine))
        self._by: dict[tuple[str, str], dict[tuple[int, EnvironmentKey], Score]] = {}
        seen: dict[tuple[int, EnvironmentKey], Score] = {}
        for score in mine:
            key = (score.seed, (score.environment, score.variant))
            _same_samples(score, seen.setdefault(key, score))
            cell = self._by.setdefault((score.method, score.scale), {})
            if key in cell:
                raise DataError(f"{_called(score)}: there are two scores. Keep the one that is right.")
            cell[key] = score
        known = [(one.name, one.variant) for one in results.environments]
        names = {score.environment for score in mine}
        places = dict.fromkeys([*(place for place in known if place[0] in names), *(place for _, place in seen)])
        self.variants: dict[str, tuple[int, ...]] = {}
        for name, variant in places:
            self.variants[name] = (*self.variants.get(name, ()), variant)

    @property
    def environments(self) -> tuple[str, ...]:
        return tuple(self.variants)

    @property
    def places(self) -> list[EnvironmentKey]:
        return [(name, variant) for name, variants in self.variants.items() for variant in variants]

    def scales(self, method: str) -> tuple[str, ...]:
        """The scales at which the method was scored; "" where it chooses its own."""
        return tuple(scale for name, scale in self._by if name == method)

    def at(self, method: str, scale: str) -> Mapping[tuple[int, EnvironmentKey], Score]:
        """(seed, target) -> score; of a method that chooses its own scale, those, whatever `scale`."""
        return self._by.get((method, scale)) or self._by.get((method, ""), {})

    def lacking(self, method: str, scale: str, environment: str) -> tuple[int, int]:
        """How many of the environment's scores are missing, and how many there should be."""
        there = self.at(method, scale)
        wanted = [(seed, (environment, v)) for seed in self.seeds for v in self.variants[environment]]
        return sum(key not in there for key in wanted), len(wanted)

    def per_seed(self, method: str, scale: str, environment: str) -> dict[int, float]:
        """The mean accuracy over the variants, for each seed that has them all."""
        there, variants = self.at(method, scale), self.variants[environment]
        return {
            seed: fmean(there[seed, (environment, v)].accuracy for v in variants)
            for seed in self.seeds
            if all((seed, (environment, v)) in there for v in variants)
        }

    def mean(self, method: str, scale: str, environment: str) -> Mean | None:
        return over_seeds(self.per_seed(method, scale, environment))

    def average(self, method: str, scale: str) -> Mean | None:
        """Over the environments, each weighing the same, for the seeds that have them all."""
        several = [self.per_seed(method, scale, name) for name in self.environments]
        return over_seeds(
            {seed: fmean(one[seed] for one in several) for seed in self.seeds if all(seed in one for one in several)}
        )

    def best_scale(self, method: str) -> str | None:
        """The scale with the highest average over all environments, of equal ones the lowest. Only scales with the most
        complete seeds compete; None where no scale has a complete seed. "" for a method that chooses its own.
        """
        if self.scales(method) == ("",):
            return ""
        means = {scale: self.average(method, scale) for scale in sorted(self.scales(method), key=by_size)}
        most = max((len(mean.seeds) for mean in means.values() if mean is not None), default=0)
        values = {scale: mean.value for scale, mean in means.items() if mean is not None and len(mean.seeds) == most}
        return max(values, key=lambda scale: values[scale]) if values else None

    def own(self, method: str, scale: str) -> str:
        """The scale of what `at` gives: "" for a method that chooses its own."""
        return scale if (method, scale) in self._by else ""


def _called(score: Score) -> str:
    return (
        f"{score.method}{f' at scale {score.scale}' if score.scale else ''}, seed {score.seed}, {score.environment}, "
        f"variant {score.variant}"
    )


def _same_samples(score: Score, other: Score) -> None:
    if (score.samples, score.n) != (other.samples, other.n):
        raise DataError(
            f"seed {score.seed}, {score.environment}, variant {score.variant}: {score.method} was scored on {score.n} "
            f"samples (digest {score.samples}), {other.method} on {other.n} samples (digest {other.samples}). Methods "
            "can be compared on the same samples only: score both on one frozen manifest."
        )


# Paired differences


@dataclass(frozen=True)
class Difference:
    """`mean` of first minus second over `places`; where the first won, tied and lost. Intervals: None for one."""

    mean: float
    interval: tuple[float, float] | None  # t
    bootstrap: tuple[float, float] | None
    places: int
    won: int
    tied: int
    lost: int

    @property
    def verdict(self) -> int:
        """1: the interval lies above zero; -1: below; 0: it holds zero, or there is none."""
        if self.interval is None:
            return 0
        return 1 if self.interval[0] > 0 else -1 if self.interval[1] < 0 else 0


@dataclass(frozen=True)
class Comparison:
    """One method against another, paired by seed, environment and variant."""

    first: str
    second: str
    scales: tuple[str, str]
    overall: Difference
    environments: Mapping[str, Difference]
    per_seed: Mapping[int, float]  # mean difference over the places
    missing: tuple[str, ...]  # pairs that could not be made, in words


def _difference(values: Sequence[Fraction], level: float, draws: int) -> Difference:
    numbers = [float(value) for value in values]
    return Difference(
        fmean(numbers),
        t_interval(numbers, level),
        bootstrap_interval(numbers, level, draws=draws),
        len(values),
        sum(value > 0 for value in values),
        sum(value == 0 for value in values),
        sum(value < 0 for value in values),
    )


def compare(
    scores: StudyScores, first: str, second: str, scale: str, second_scale: str | None = None, *, level: float = LEVEL,
    draws: int = DRAWS,
) -> Comparison | None:  # fmt: skip
    """`first` minus `second`, each at its scale. None where they have no target in common.

    Differences are exact until averaged, so that a tie is a tie.
    """
    second_scale = scale if second_scale is None else second_scale
    one, other = scores.at(first, scale), scores.at(second, second_scale)
    by_place: dict[EnvironmentKey, list[Fraction]] = {}
    by_seed: dict[int, list[float]] = {}
    lost: dict[str, list[str]] = {}
    for place in scores.places:
        for seed in scores.seeds:
            a, b = one.get((seed, place)), other.get((seed, place))
            if a is None or b is None:
                who = " and ".join(name for name, score in ((first, a), (second, b)) if score is None)
                lost.setdefault(who, []).append(f"{place[0]} variant {place[1]} seed {seed}")
                continue
            difference = Fraction(a.right - b.right, a.n)
            by_place.setdefault(place, []).append(difference)
            by_seed.setdefault(seed, []).append(float(difference))
    if not by_place:
        return None
    means = {place: sum(several, Fraction(0)) / len(several) for place, several in by_place.items()}
    per_environment = {
        name: [value for place, value in means.items() if place[0] == name] for name in scores.environments
    }
    return Comparison(
        first,
        second,
        (scores.own(first, scale), scores.own(second, second_scale)),
        _difference(list(means.values()), level, draws),
        {name: _difference(values, level, draws) for name, values in per_environment.items() if values},
        {seed: fmean(several) for seed, several in by_seed.items()},
        tuple(f"no score of {who}: {listed(pairs, SHOWN)}" for who, pairs in lost.items()),
    )


def total_variation(shares: Sequence[float], truth: Sequence[float]) -> float:
    """Half the sum of the absolute differences: 0 for the same shares, 1 for shares that have no task in common."""
    return sum(abs(a - b) for a, b in zip(shares, truth, strict=True)) / 2


# Models on all tasks


def by_alpha(results: Results) -> dict[str, dict[str | None, list[TaskScores]]]:
    """scale -> alpha (None: MAGMAX) -> one entry per seed; scales and alphas by size, MAGMAX last. MAGMAX is taken from
    the study of methods where the study of alpha has none.
    """
    study = [one for one in results.task_scores if one.study == "alpha"]
    by_scale: dict[str, dict[str | None, list[TaskScores]]] = {}
    for one in sorted((one for one in study if one.alpha is not None), key=_scale_and_alpha):
        by_scale.setdefault(one.scale, {}).setdefault(one.alpha, []).append(one)
    for scale, alphas in by_scale.items():
        for name in ("alpha", "methods"):
            magmax = [
                one
                for one in results.task_scores
                if (one.study, one.method, one.training, one.alpha) == (name, "MAGMAX", "sequential", None)
                and by_size(one.scale) == by_size(scale)
            ]
            if magmax and None not in alphas:
                alphas[None] = magmax
    return by_scale


def _scale_and_alpha(one: TaskScores) -> tuple[Fraction, Fraction]:
    return by_size(one.scale), Fraction(one.alpha or 0)


def over_tasks(several: Sequence[TaskScores], value: Callable[[TaskScores], float]) -> Mean | None:
    """Mean and deviation over the seeds of what `value` reads off a model's scores on all tasks."""
    return over_seeds({one.seed: value(one) for one in several})
