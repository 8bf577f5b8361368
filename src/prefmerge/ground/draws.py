"""What is drawn by a key: who is chosen, and how many of each.

    keyed(purpose, seed, name)     xxh3_64 of the three, a 0 byte between them: 64 bits that look random
    largest_remainder(q, total)    floor(q_i), and one more each where q_i - floor(q_i) is largest; they sum to total

A sample's place depends on its id, the seed and the purpose alone: neither on the order of the file nor on how many
are asked for, so a larger number keeps the samples of a smaller one. `held_out`: class c with n_c samples gives
floor(f n_c) to the test set, and what lacks to round(f N) goes by largest remainder; a class of two or more gives at
least one. `in_proportion` and `split` choose in the same spirit. Shapes: N ids, N labels. Cost: one hash a sample.
Not here: contents (equal images may be parted); numbers for the elements of tensors, which are `methods.keyed`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import xxhash


def keyed(purpose: str, seed: int, name: str) -> int:
    """64 bits that look random, the same on every machine."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\0{seed}\0{name}".encode("utf-8", "surrogatepass"))


def rank(purpose: str, seed: int, name: str) -> tuple[int, str]:
    """What to sort by for an order that looks random: the number of `keyed`, of equal ones the name."""
    return keyed(purpose, seed, name), name


def largest_remainder(quotas: Sequence[Fraction], total: int, before: Sequence[Any] | None = None) -> tuple[int, ...]:
    """Whole numbers near `quotas` (not negative, together within their number of `total`) that sum to `total`: each is
    rounded down, or up where its remainder is among the largest. Of equal remainders the first is rounded up, or the
    one with the lowest entry in `before`.
    """
    counts = [int(quota) for quota in quotas]
    ties = range(len(counts)) if before is None else before
    order = sorted(range(len(counts)), key=lambda i: (-(quotas[i] % 1), ties[i]))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def held_out(ids: Sequence[str], labels: np.ndarray, seed: int, fraction: Fraction = Fraction(1, 5)) -> np.ndarray:
    """Ascending positions (n,) of the test samples, a stratified `fraction` of all (round half up)."""
    members = [_ranked(ids, at, "held out", seed) for at in _by_label(labels)]
    wanted = int(fraction * len(ids) + Fraction(1, 2))
    # Ties by the class's first sample, not by its number: renumbering the classes must not move a sample.
    first = [rank("held out", seed, ids[at[0]]) for at in members]
    quota = largest_remainder([fraction * len(at) for at in members], wanted, first)
    chosen = [i for at, n in zip(members, quota, strict=True) for i in at[: max(n, 1) if len(at) > 1 else 0]]
    return np.asarray(sorted(chosen), dtype=np.int64)


def per_class(ids: Sequence[str], labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ascending positions of at most `count` samples of each class."""
    chosen = [i for at in _by_label(labels) for i in _ranked(ids, at, "per class", seed)[:count]]
    return np.asarray(sorted(chosen), dtype=np.int64)


def in_proportion(ids: Sequence[str], labels: np.ndarray, count: int, purpose: str, seed: int = 0) -> np.ndarray:
    """Ascending positions of `count` samples: one of every class that has several, then of each class in proportion to
    its size. A larger count keeps those of a smaller one; the last sample of a class is taken after all others.
    """
    order = [
        (0 if place == 0 and len(at) > 1 else (place + 1) / len(at), rank(purpose, seed, ids[i]), i)
        for at in _by_label(labels)
        for place, i in enumerate(_ranked(ids, at, purpose, seed))
    ]
    return np.asarray(sorted(i for _, _, i in sorted(order)[:count]), dtype=np.int64)


def split(labels: Sequence[int] | np.ndarray, ids: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which samples are held out, (N,) bool: round(fraction N) of them, from each class its part, rounded up or down.

    Of two samples or more at least one is on either side, unless the fraction is 0.
    """
    count = len(ids)
    wanted = min(max(round(fraction * count), 1), count - 1) if fraction > 0 else 0
    classes = np.asarray(labels).tolist()
    order = sorted(
        range(count),
        key=lambda i: (keyed("class held out", seed, str(classes[i])), *rank("held out", seed, ids[i])),
    )
    held = np.zeros(count, bool)
    for position, i in enumerate(order):  # every (count / wanted)-th of the samples, class after class
        held[i] = (position + 1) * wanted // count > position * wanted // count
    return held


def _ranked(ids: Sequence[str], at: list[int], purpose: str, seed: int) -> list[int]:
    return sorted(at, key=lambda i: rank(purpose, seed, ids[i]))


def _by_label(labels: np.ndarray) -> list[list[int]]:
    """The positions of each class, the lowest label first."""
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(position)
    return [at for _, at in sorted(members.items())]
