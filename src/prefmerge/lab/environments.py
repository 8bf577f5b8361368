"""Target environments: mixes of the test samples of a few tasks, drawn once.

    asked_m = a_m * size, rounded;  taken_m = the min(asked_m, N_m) samples of task m of the lowest hash(seed, mix, id)
    meta = the round(taken / 10) samples of the lowest hash under another purpose;  test = the others

Source: Tunable MAGMAX, section 4.3 (e1..e5, five variants, 10 % meta data) and figure 4 (diversity). Rounded by largest
remainder, of equal ones the first: the counts add up to `size`. Ranks of hashes are no random stream: a draw is the
same for any order of tasks and samples, a sample that is added displaces at most one other, and a task that is asked
for more keeps what it gave. Seed and name of the mix are in the key, so variants and mixes are drawn independently,
tasks included (the paper does not say). Cost: one hash for each sample of the tasks that are mixed, one reading of the
contents that are taken. Not here: inputs; mixes of classes inside a task; the file that keeps them (`manifest`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from prefmerge.checkpoints.fingerprint import PREFIX
from prefmerge.errors import DataError, PreferenceError
from prefmerge.ground.draws import largest_remainder, rank
from prefmerge.ground.words import did_you_mean
from prefmerge.preference import Number, as_text, exact

SEEDS = (42, 123, 456, 789, 1011)  # one for each variant; authors' code
DIVERSITY = (1, 2, 3, 5, 10, 20)  # numbers of tasks; Tunable MAGMAX, figure 4


@dataclass(frozen=True)
class Pool:
    """The test samples of one task. Raises DataError where an id occurs twice."""

    name: str
    ids: tuple[str, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)  # names of classes, one for each id
    fingerprint: Callable[[Sequence[int]], str] = field(repr=False)  # positions -> hash of the contents, in this order

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise DataError(f"task {self.name!r} has {len(self.ids)} ids and {len(self.labels)} labels; give one each.")
        if len(self.at) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise DataError(f"task {self.name!r}: the id {twice!r} occurs twice. Ids of test samples must differ.")

    @cached_property
    def at(self) -> dict[str, int]:
        """The position of each id."""
        return {name: i for i, name in enumerate(self.ids)}


@dataclass(frozen=True)
class Mix:
    """A kind of environment: how much of it comes from each of its tasks. `ratios` are normalised. Raises DataError
    for a ratio that is not positive.
    """

    name: str
    ratios: tuple[Fraction, ...]
    tasks: tuple[str, ...] | None = None  # one for each ratio; None: drawn for each variant

    def __post_init__(self) -> None:
        if not self.name:
            raise DataError("a mix has no name. Give it one: it is what tables call it.")
        where = f"mix {self.name!r}"
        if not self.ratios:
            raise DataError(f"{where} has no ratios. Give one for each of its tasks, such as 0.8, 0.2.")
        for i, ratio in enumerate(self.ratios, start=1):
            if ratio <= 0:
                raise DataError(
                    f"{where}: ratio {i} is {as_text(ratio)}; a part of an environment needs a positive ratio."
                )
        if self.tasks is not None:
            if len(self.tasks) != len(self.ratios):
                raise DataError(
                    f"{where} has {len(self.ratios)} ratios and {len(self.tasks)} tasks ({', '.join(self.tasks)}). "
                    "Give one ratio for each task."
                )
            twice = [name for name, count in Counter(self.tasks).items() if count > 1]
            if twice:
                raise DataError(f"{where} names the task {twice[0]!r} twice. Add up its ratios.")
        total = sum(self.ratios, Fraction(0))
        object.__setattr__(self, "ratios", tuple(ratio / total for ratio in self.ratios))

    @classmethod
    def of(cls, name: str, ratios: Sequence[Number], tasks: Sequence[str] | None = None) -> Mix:
        """A mix of ratios as a user writes them: `0.8`, `"1/3"` and `4` are taken exactly."""
        try:
            values = tuple(exact(ratio, f"ratio {i}") for i, ratio in enumerate(ratios, start=1))
        except PreferenceError as error:
            raise DataError(f"mix {name!r}: {error}") from error
        return cls(name, values, None if tasks is None else tuple(tasks))


PAPERS = (
    Mix("e1", (Fraction(1, 2),) * 2),
    Mix("e2", (Fraction(4, 5), Fraction(1, 5))),
    Mix("e3", (Fraction(1, 3),) * 3),
    Mix("e4", (Fraction(2, 5), Fraction(2, 5), Fraction(1, 5))),
    Mix("e5", (Fraction(3, 5), Fraction(1, 5), Fraction(1, 5))),
)


def diversity(tasks: int, counts: Sequence[int] = DIVERSITY) -> tuple[Mix, ...]:
    """Equal shares of 1, 2, 3, ... tasks, called m1, m2, m3, ...: those of `counts` that `tasks` tasks allow."""
    if any(count < 1 for count in counts):
        raise DataError(f"the diversity study mixes at least one task, found {min(counts)}.")
    return tuple(Mix(f"m{count}", (Fraction(1, count),) * count) for count in counts if count <= tasks)


@dataclass(frozen=True)
class Portion:
    """What an environment takes from one task: ids of samples, in the order of the draw."""

    task: str
    asked: int
    meta: tuple[str, ...] = field(repr=False)
    test: tuple[str, ...] = field(repr=False)

    @property
    def taken(self) -> int:
        return len(self.meta) + len(self.test)


@dataclass(frozen=True)
class Environment:
    """One variant of one mix: the samples that every method is tested on, and those that it is shown (meta)."""

    name: str  # of the mix
    variant: int  # counts from 0
    seed: int
    ratios: tuple[Fraction, ...]  # one for each part; they sum to 1
    size: int  # samples asked for
    parts: tuple[Portion, ...]
    contents: str  # hash of the inputs and labels of all samples

    @property
    def key(self) -> str:
        """`e1/0`: what cells and lookups call it."""
        return f"{self.name}/{self.variant}"

    @property
    def meta_ids(self) -> tuple[str, ...]:
        """In the order of the parts."""
        return tuple(name for part in self.parts for name in part.meta)

    @property
    def test_ids(self) -> tuple[str, ...]:
        """In the order of the parts."""
        return tuple(name for part in self.parts for name in part.test)

    @property
    def shortfall(self) -> dict[str, int]:
        """How many samples a task lacks of what was asked; tasks that have enough are not in it."""
        return {part.task: part.asked - part.taken for part in self.parts if part.taken < part.asked}

    @cached_property
    def digest(self) -> str:
        """A hash of all that the manifest says of this environment: every id, their order and their contents."""
        text = json.dumps(self._said(), sort_keys=True, separators=(",", ":"))
        return PREFIX + xxhash.xxh3_128_hexdigest(text.encode())

    @property
    def title(self) -> str:
        """`e2, variant 1: 80 % task-05, 20 % task-02`; variants as they are numbered everywhere, from 0."""
        shares = (f"{_percent(r)} {part.task}" for r, part in zip(self.ratios, self.parts, strict=True))
        return f"{called(self.name, self.variant)}: {', '.join(shares)}"

    def truth(self, tasks: Sequence[str]) -> tuple[float, ...]:
        """The share of each of `tasks` among the samples taken, which is not the ratio where samples lack. They sum to
        1. Raises DataError where a task of this environment is not among them.
        """
        for part in self.parts:
            require_known(part.task, tasks, called(self.name, self.variant))
        taken = {part.task: part.taken for part in self.parts}
        total = sum(taken.values())
        return tuple(taken.get(task, 0) / total for task in tasks)

    def meta_positions(self, pool: Pool) -> np.ndarray:
        """Positions (n,) int64 in `pool` of the meta samples that come from it, in the order of `Portion.meta`; none
        where the environment takes nothing from that task. Raises DataError for an id that the pool lacks.
        """
        return self._positions(pool, "meta")

    def test_positions(self, pool: Pool) -> np.ndarray:
        """`meta_positions`, of the test samples."""
        return self._positions(pool, "test")

    def label_counts(self, pools: Iterable[Pool]) -> dict[str, int]:
        """How often each class occurs in the meta data, by name: what is known of a target by its labels alone.

        `pools` hold at least those of this environment's tasks. Raises DataError where one is missing.
        """
        by_name = {pool.name: pool for pool in pools}
        for part in self.parts:
            require_known(part.task, by_name, called(self.name, self.variant))
        labels = (pool.labels[i] for pool in by_name.values() for i in self.meta_positions(pool))
        return dict(sorted(Counter(labels).items()))

    def _positions(self, pool: Pool, which: str) -> np.ndarray:
        ids = [name for part in self.parts if part.task == pool.name for name in getattr(part, which)]
        require_present(ids, pool, called(self.name, self.variant))
        return np.asarray([pool.at[name] for name in ids], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ratios are text, so that nothing is rounded."""
        return {**self._said(), "digest": self.digest}

    def _said(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "variant": self.variant,
            "seed": self.seed,
            "size": self.size,
            "shortfall": self.shortfall,
            "contents": self.contents,
            "parts": [
                {
                    "task": part.task,
                    "ratio": as_text(ratio),
                    "asked": part.asked,
                    "meta": list(part.meta),
                    "test": list(part.test),
                }
                for ratio, part in zip(self.ratios, self.parts, strict=True)
            ],
        }


def environments(
    pools: Sequence[Pool],
    mixes: Sequence[Mix],
    *,
    size: int,
    seeds: Sequence[int] = SEEDS,
    meta: Number = Fraction(1, 10),
) -> tuple[Environment, ...]:
    """Every mix in a variant for each seed: mix by mix, its variants in the order of the seeds.

    `size` samples each, of which `meta` (rounded, half up; at least one) are meta data: a simple random part of the
    whole environment. A task with too few samples gives all it has, the others what they were asked for. Raises
    DataError for ids that occur twice, for a mix that the tasks do not allow, and where a part, or the test samples,
    would be empty.
    """
    pool_of = by_name(pools)
    if size < 1:
        raise DataError(f"the size of an environment is {size}; expected a number of samples of at least 2.")
    fraction = _meta_fraction(meta)
    for what, values in (("mixes", [mix.name for mix in mixes]), ("seeds", list(seeds))):
        if not values:
            raise DataError(f"there are no {what} to draw environments from. Give at least one.")
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise DataError(f"two of the {what} are {twice[0]!r}, which would draw the same twice. Make them differ.")
    return tuple(
        _drawn(pool_of, mix, variant, seed, size, fraction) for mix in mixes for variant, seed in enumerate(seeds)
    )


def apportioned(ratios: Sequence[Fraction], size: int) -> tuple[int, ...]:
    """Whole numbers in proportion to `ratios`, which sum to 1; they sum to `size`. By largest remainder: none is off by
    one or more, and of equal remainders the first is rounded up.
    """
    return largest_remainder([ratio * size for ratio in ratios], size)


def called(name: str, variant: int) -> str:
    """What messages call an environment."""
    return f"{name}, variant {variant}"


def _percent(ratio: Fraction) -> str:
    return f"{float(100 * ratio):.3g} %"


def by_name(pools: Sequence[Pool]) -> dict[str, Pool]:
    """The pools by name. Raises DataError where two have one name, or one id."""
    if not pools:
        raise DataError("environments are mixed from the test samples of tasks, and there are no tasks.")
    result: dict[str, Pool] = {}
    owner: dict[str, str] = {}
    for pool in pools:
        if pool.name in result:
            raise DataError(f"two tasks are called {pool.name!r}. Names of tasks must differ.")
        result[pool.name] = pool
        for name in pool.ids:
            if name in owner:
                raise DataError(
                    f"the id {name!r} is a test sample of the tasks {owner[name]!r} and {pool.name!r}. Ids must differ "
                    "across tasks: put the name of the task before them."
                )
            owner[name] = pool.name
    return result


def require_known(task: str, tasks: Iterable[str], where: str) -> None:
    """Raise DataError where there is no such task."""
    names = list(tasks)
    if task not in names:
        hint = did_you_mean(task, names)
        raise DataError(f"{where} names the task {task!r}, but the tasks are {', '.join(names)}.{hint}")


def require_present(ids: Sequence[str], pool: Pool, where: str) -> None:
    """Raise DataError where a sample is not among those of the task."""
    gone = [name for name in ids if name not in pool.at]
    if gone:
        raise DataError(
            f"{where}: {len(gone)} of its {len(ids)} samples of task {pool.name!r} are not among the test samples of "
            f"that task, {gone[0]!r} for one. Give the data that the environment was drawn from, or draw again."
        )


def _meta_fraction(meta: Number) -> Fraction:
    try:
        fraction = exact(meta, "the share of meta data")
    except PreferenceError as error:
        raise DataError(str(error)) from error
    if not 0 < fraction < 1:
        raise DataError(f"the share of meta data is {as_text(fraction)}; it must lie between 0 and 1, as 0.1 does.")
    return fraction


def _ranked(names: Iterable[str], purpose: str, seed: int, mix: str) -> list[str]:
    """The names in an order that looks random: by a keyed hash, of equal ones by name."""
    return sorted(names, key=lambda name: rank(purpose, seed, f"{mix}\0{name}"))


def _tasks_of(mix: Mix, pools: Mapping[str, Pool], seed: int) -> list[str]:
    where, wanted = f"mix {mix.name!r}", len(mix.ratios)
    if mix.tasks is not None:
        for task in mix.tasks:
            require_known(task, pools, where)
        return list(mix.tasks)
    if wanted > len(pools):
        raise DataError(
            f"{where} mixes {wanted} tasks, but there are {len(pools)}: {', '.join(pools)}. Remove the mix, or give "
            "it fewer ratios."
        )
    return _ranked(pools, "environment tasks", seed, mix.name)[:wanted]


def _drawn(pools: Mapping[str, Pool], mix: Mix, variant: int, seed: int, size: int, fraction: Fraction) -> Environment:
    where = called(mix.name, variant)
    tasks = _tasks_of(mix, pools, seed)
    asked = apportioned(mix.ratios, size)
    taken: list[list[str]] = []
    for task, count, ratio in zip(tasks, asked, mix.ratios, strict=True):
        if count == 0:
            raise DataError(
                f"{where}: {_percent(ratio)} of {size} samples leaves task {task!r} none. Ask for a size of at least "
                f"{math.ceil(1 / min(mix.ratios))}, or give the task a larger ratio."
            )
        if not pools[task].ids:
            raise DataError(
                f"{where}: task {task!r} has no test samples. Give it some, or remove the task from the mix."
            )
        taken.append(_ranked(pools[task].ids, "environment samples", seed, mix.name)[:count])
    every = _ranked([name for names in taken for name in names], "environment meta", seed, mix.name)
    count = max(1, int(fraction * len(every) + Fraction(1, 2)))
    if count >= len(every):
        raise DataError(
            f"{where}: all of its {len(every)} samples are meta data and none is left to test. Ask for a larger size "
            f"(it is {size}) or a smaller share of meta data (it is {as_text(fraction)})."
        )
    meta = set(every[:count])
    parts = tuple(
        Portion(task, n, tuple(i for i in names if i in meta), tuple(i for i in names if i not in meta))
        for task, n, names in zip(tasks, asked, taken, strict=True)
    )
    return Environment(mix.name, variant, seed, mix.ratios, size, parts, contents_of(parts, pools))


def contents_of(parts: Iterable[Portion], pools: Mapping[str, Pool]) -> str:
    """A hash of the inputs and labels of the samples, in their order."""
    digest = xxhash.xxh3_128()
    for part in parts:
        pool = pools[part.task]
        at = [pool.at[name] for name in (*part.meta, *part.test)]
        said = [pool.fingerprint(at), [pool.labels[i] for i in at]]
        digest.update(json.dumps(said).encode() + b"\n")
    return PREFIX + digest.hexdigest()
