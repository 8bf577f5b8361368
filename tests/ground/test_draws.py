"""Keyed choice, largest remainder, splits: against plain counting, laws, and the draws that old runs were made with."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.ground.draws import held_out, in_proportion, keyed, largest_remainder, per_class, rank, split

IDS = [f"train/{i:05d}" for i in range(20)]
LABELS = np.asarray([i % 2 for i in range(20)])


def test_draws_are_pinned():
    """The same on every machine and in every version: manifests of old runs name what was drawn."""
    assert [keyed("a", 0, "b"), keyed("held out", 7, "train/0"), keyed("", -1, "é")] == [
        1821480407190722076,
        13518244097487746322,
        4933434202540576400,
    ]
    assert sorted("abcd", key=lambda name: rank("environment samples", 42, f"e1\0{name}")) == ["c", "a", "d", "b"]
    assert per_class(IDS, LABELS, 2, 0).tolist() == [4, 6, 7, 13]
    assert held_out(IDS, LABELS, 0, Fraction(1, 5)).tolist() == [1, 2, 9, 18]
    assert in_proportion(IDS, LABELS, 5, "p", 3).tolist() == [2, 3, 5, 8, 14]
    assert np.flatnonzero(split(LABELS, IDS, 0.3, 5)).tolist() == [3, 4, 5, 12, 13, 14]


def test_a_key_is_a_hash_of_what_it_is_made_of():
    assert keyed("held out", 3, "x") == xxhash.xxh3_64_intdigest(b"held out\x003\x00x")
    assert rank("held out", 3, "x") == (keyed("held out", 3, "x"), "x")
    assert keyed("p", 0, "\udcff") != keyed("p", 0, "\udcfe")  # names of files that are not UTF-8


quotas = st.lists(st.fractions(0, 5, max_denominator=7), min_size=1, max_size=4)


@given(quotas, st.integers(0, 4), st.permutations(range(4)))
def test_largest_remainder_against_every_way_to_round(shares: list[Fraction], more: int, ties: list[int]):
    """Of all ways to round down or up with that sum, the nearest to the quotas; of equal ones by the order of ties."""
    more = min(more, len(shares))
    total = sum(int(share) for share in shares) + more
    before = ties[: len(shares)]
    ways = [ups for ups in product((0, 1), repeat=len(shares)) if sum(ups) == more]
    best = min(
        ways,
        key=lambda ups: (
            sum((int(q) + up - q) ** 2 for q, up in zip(shares, ups, strict=True)),
            sorted(tie for tie, up in zip(before, ups, strict=True) if up),
        ),
    )
    assert largest_remainder(shares, total, before) == tuple(int(q) + up for q, up in zip(shares, best, strict=True))


def test_of_equal_remainders_the_first_is_rounded_up():
    assert largest_remainder([Fraction(200, 3)] * 3, 200) == (67, 67, 66)
    assert largest_remainder([Fraction(1, 2)] * 3, 1) == (1, 0, 0)
    assert largest_remainder([Fraction(1, 2)] * 3, 1, "cab") == (0, 1, 0)
    assert largest_remainder([], 0) == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 9))
def test_held_out_against_plain_counting(labels: list[int], seed: int):
    ids = [f"s{i}" for i in range(len(labels))]
    draws = {i: keyed("held out", seed, ids[i]) for i in range(len(ids))}
    queue = {c: sorted((i for i in draws if labels[i] == c), key=draws.__getitem__) for c in set(labels)}
    chosen = {c: len(queue[c]) // 5 for c in queue}
    rest = (2 * len(labels) + 5) // 10 - sum(chosen.values())  # round(N / 5), half up
    for c in sorted(queue, key=lambda c: (-(len(queue[c]) % 5), draws[queue[c][0]]))[:rest]:
        chosen[c] += 1
    expected = []
    for c in queue:
        if len(queue[c]) == 1:
            chosen[c] = 0  # a class of one is learned, not tested
        elif chosen[c] == 0:
            chosen[c] = 1
        expected += queue[c][: chosen[c]]
    assert held_out(ids, np.asarray(labels), seed).tolist() == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 9))
def test_a_larger_number_keeps_the_samples_of_a_smaller_one(labels: list[int], count: int, seed: int):
    ids, of = [f"s{i}" for i in range(len(labels))], np.asarray(labels)
    for choose in (
        lambda n: per_class(ids, of, n, seed),
        lambda n: in_proportion(ids, of, n, "purpose", seed),
    ):
        few, more = choose(count).tolist(), choose(count + 1).tolist()
        assert set(few) <= set(more)
        assert few == sorted(few)
    assert len(in_proportion(ids, of, count, "purpose", seed)) == min(count, len(ids))
    assert all(n <= count for n in Counter(of[per_class(ids, of, count, seed)].tolist()).values())


def test_the_order_of_the_samples_moves_none():
    turned = np.random.default_rng(0).permutation(len(IDS))
    ids, labels = [IDS[i] for i in turned], LABELS[turned]
    for choose in (
        lambda ids, labels: held_out(ids, labels, 1),
        lambda ids, labels: per_class(ids, labels, 3, 1),
        lambda ids, labels: in_proportion(ids, labels, 7, "p", 1),
    ):
        assert {ids[i] for i in choose(ids, labels)} == {IDS[i] for i in choose(IDS, LABELS)}


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_the_held_out_part_is_stratified_and_keyed(fraction: float):
    labels = np.repeat([3, 1, 4], [40, 17, 3])
    ids = [f"sample {i}" for i in range(60)]
    held = split(labels, ids, fraction, seed=5)
    assert held.sum() == round(fraction * 60)
    for label, count in Counter(labels.tolist()).items():
        part = Fraction(round(fraction * 60), 60) * count
        assert part - 1 < held[labels == label].sum() < part + 1
    order = np.random.default_rng(0).permutation(60)
    shuffled = split(labels[order], [ids[i] for i in order], fraction, seed=5)
    assert shuffled.tolist() == held[order].tolist()
    assert split(labels, ids, fraction, seed=6).tolist() != held.tolist()
    assert not split(labels, ids, 0, seed=5).any()
