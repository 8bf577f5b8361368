"""The digits and their places: disjoint, frozen, in the right proportion; label similarity against a count."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import combinations

import pytest

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")

from prefmerge.lab.demo.digits import (
    MAIN_SHARE,
    META_LABELS,
    NAMES,
    PLACES,
    SHOWN,
    TASKS,
    Digits,
    load_digits,
    scenario_of,
)
from prefmerge.lab.demo.run import label_preference


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def test_split_is_a_partition(digits: Digits) -> None:
    assert {part: len(ids) for part, ids in digits.parts.items()} == {
        "meta": 100,
        "test": 500,
        "validation": 200,
        "train": 997,
    }
    for one, other in combinations(digits.parts.values(), 2):
        assert not set(one) & set(other)
    assert sorted(i for ids in digits.parts.values() for i in ids) == list(range(1797))


def test_split_is_frozen(digits: Digits) -> None:
    text = repr({part: tuple(map(int, ids)) for part, ids in sorted(digits.parts.items())})
    pixels = hashlib.sha256(digits.pixels.tobytes() + digits.labels.tobytes()).hexdigest()
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2f3546578dad7ddbafad2b5bddf438a104e3ae6b051241a44f951b0420af82f7"
    )
    assert pixels == "8b3b6ae90863430bdef06a3f7d1ec2f6a905a53d3375655b18cf63780ad98772"


def test_tasks_hold_their_two_digits(digits: Digits) -> None:
    assert sorted(y for classes in TASKS for y in classes) == list(range(10))
    for part in digits.parts:
        for t, classes in enumerate(TASKS):
            assert set(digits.label_counts(digits.ids(part, t))) == set(classes)
        assert sum(len(digits.ids(part, t)) for t in range(len(TASKS))) == len(digits.parts[part])


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("tasks", PLACES)
def test_places_keep_the_proportion_and_their_labels_to_themselves(
    digits: Digits, tasks: tuple[int, int], part: str
) -> None:
    place = digits.place(tasks, part)
    for ids, source in ((place.test, part), (place.meta, "meta"), (place.photos, "meta")):
        assert set(ids) <= set(digits.parts[source])
        assert len(set(ids)) == len(ids)
        of_main = sum(int(digits.labels[i]) in TASKS[tasks[0]] for i in ids)
        of_side = sum(int(digits.labels[i]) in TASKS[tasks[1]] for i in ids)
        assert of_main + of_side == len(ids)
        assert Fraction(of_main, len(ids)) == MAIN_SHARE
    assert not {*place.meta, *place.photos} & set(place.test)
    assert len(place.meta) == META_LABELS
    assert len(place.photos) == 25


def test_preference_follows_the_labels(digits: Digits) -> None:
    names = [f"t{t}" for t in range(len(TASKS))]
    for tasks in PLACES:
        preference = label_preference(digits, digits.place(tasks))
        assert preference.names is not None
        shares = preference.shares(preference.names)
        assert sum(shares) == 1
        assert [t for t in range(len(names)) if shares[t]] == sorted(tasks)
        # 16 of 20 labels are the main task's; tasks of nearly equal digits make its share nearly 0.8.
        assert abs(float(shares[tasks[0]]) - 0.8) < 0.02


def test_the_scenario_holds_the_tasks_in_order(digits: Digits) -> None:
    scenario = scenario_of(digits)
    assert [info.name for info in scenario.classes] == [str(y) for y in range(10)]
    assert [task.name for task in scenario.tasks] == list(NAMES)
    for t, task in enumerate(scenario.tasks):
        assert (task.classes, task.among) == (TASKS[t], tuple(range(10)))
        for part, examples in (("train", task.train), ("test", task.test)):
            assert examples.ids == tuple(f"digit-{i}" for i in digits.ids(part, t))
            assert set(examples.labels.tolist()) == set(TASKS[t])


def test_images_are_in_range(digits: Digits) -> None:
    images = digits.examples(digits.place(SHOWN).test).read(range(125))
    assert {image.shape for image in images} == {(1, 8, 8)}
    assert {image.dtype.name for image in images} == {"float32"}
    assert 0 <= min(image.min() for image in images) < max(image.max() for image in images) <= 1
