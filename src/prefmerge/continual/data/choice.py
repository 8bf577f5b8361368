"""Which samples are used: a held-out fifth, or so many of each class, chosen by a keyed hash of their ids.

A sample's place depends on its id, the seed and the purpose alone: neither on the order of the file nor on how many
are asked for, so a larger number keeps the samples of a smaller one. `held_out`: class c with n_c samples gives
floor(f n_c) to the test set, and what lacks to round(f N) comes one each from the classes with the largest remainders;
a class of two or more gives at least one. `in_proportion` chooses so many in the same spirit. Cost: one hash a sample.
Leaves out: contents (equal images may be parted).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import xxhash


def keyed(purpose: str, seed: int, name: str) -> int:
    """64 bits that look random, the same on every machine."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\0{seed}\0{name}".encode())


def held_out(ids: Sequence[str], labels: np.ndarray, seed: int, fraction: Fraction = Fraction(1, 5)) -> np.ndarray:
    """Ascending positions (n,) of the test samples, a stratified `fraction` of all (round half up)."""
    members = {label: _ranked(ids, at, "held out", seed) for label, at in _by_label(labels).items()}
    quota = {label: int(fraction * len(at)) for label, at in members.items()}
    wanted = int(fraction * len(ids) + Fraction(1, 2))
    # Ties by the class's first sample, not by its number: renumbering the classes must not move a sample.
    by_remainder = sorted(
        members,
        key=lambda label: (-(fraction * len(members[label]) % 1), _rank(ids[members[label][0]], "held out", seed)),
    )
    for label in by_remainder[: wanted - sum(quota.values())]:
        quota[label] += 1
    chosen = [i for label, at in members.items() for i in at[: max(quota[label], 1) if len(at) > 1 else 0]]
    return np.asarray(sorted(chosen), dtype=np.int64)


def per_class(ids: Sequence[str], labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ascending positions of at most `count` samples of each class."""
    chosen = [i for at in _by_label(labels).values() for i in _ranked(ids, at, "per class", seed)[:count]]
    return np.asarray(sorted(chosen), dtype=np.int64)


def in_proportion(ids: Sequence[str], labels: np.ndarray, count: int, purpose: str, seed: int = 0) -> np.ndarray:
    """Ascending positions of `count` samples: one of every class that has several, then of each class in proportion to
    its size. A larger count keeps those of a smaller one; the last sample of a class is taken after all others.
    """
    order = [
        (0 if place == 0 and len(at) > 1 else (place + 1) / len(at), _rank(ids[i], purpose, seed), i)
        for at in _by_label(labels).values()
        for place, i in enumerate(_ranked(ids, at, purpose, seed))
    ]
    return np.asarray(sorted(i for _, _, i in sorted(order)[:count]), dtype=np.int64)


def _rank(name: str, purpose: str, seed: int) -> tuple[int, str]:
    return keyed(purpose, seed, name), name


def _ranked(ids: Sequence[str], at: list[int], purpose: str, seed: int) -> list[int]:
    return sorted(at, key=lambda i: _rank(ids[i], purpose, seed))


def _by_label(labels: np.ndarray) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(position)
    return dict(sorted(members.items()))
