"""Tasks: which classes, which samples, which names; and what cannot be made into tasks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data import CLASS_ORDERS, REGISTRY, Corpus
from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import Scenario, build_scenario, joined, safe_names
from prefmerge.errors import ConfigError, DataError
from tests.data.datasets import text_corpus, text_examples


def config(data: object = "words", scenario: object = "auto", **rest: object) -> FinetuneConfig:
    return make_config({"model": "m", "data": data, "scenario": scenario, "held_out": 0, **rest})


def build(corpus: Corpus, scenario: object = "auto", data: object | None = None, **rest: object) -> Scenario:
    return build_scenario(config(data or {"name": corpus.name}, scenario, **rest), [corpus])


def names(scenario: Scenario, task: int) -> list[str]:
    return [scenario.classes[c].name for c in scenario.tasks[task].classes]


# Class-incremental.


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_class_incremental_against_plain_ranges(classes: int, tasks: int, seed: int):
    corpus = text_corpus(classes=[f"c{i}" for i in range(classes)], train=2, test=1)
    if tasks > classes:
        with pytest.raises(ConfigError, match=f"{tasks} tasks out of the {classes} classes"):
            build(corpus, {"tasks": tasks})
        return
    scenario = build(corpus, {"tasks": tasks, "class_order": "random"}, seed=seed)
    order = [c for task in scenario.tasks for c in task.classes]
    assert sorted(order) == list(range(classes)), "every class in exactly one task"
    assert [len(task.classes) for task in scenario.tasks] == [
        int((i + 1) * classes / tasks + 1e-9) - int(i * classes / tasks + 1e-9) for i in range(tasks)
    ]
    for task in scenario.tasks:
        assert task.among == tuple(range(classes))
        for split, count in ((task.train, 2), (task.test, 1)):
            assert split.label_counts() == dict.fromkeys(sorted(task.classes), count)
            assert all(
                text.endswith(f" of {label}")
                for text, label in zip(split.read(range(len(split))), split.labels, strict=True)
            )
    ids = [name for task in scenario.tasks for name in task.train.ids]
    assert sorted(ids) == sorted(corpus.train.ids)


def test_names_sizes_and_the_default():
    corpus = text_corpus(classes=[f"c{i:03d}" for i in range(120)], train=1, test=1)
    assert [task.name for task in build(corpus).tasks] == [f"task-{i:02d}" for i in range(1, 6)]
    assert build(corpus, {"tasks": 120}).tasks[0].name == "task-001"
    scenario = build(corpus, {"kind": "class-incremental", "tasks": 3, "class_order": "natural"})
    assert (scenario.kind, scenario.inputs) == ("class-incremental", "text")
    assert scenario.tasks[1].classes == tuple(range(40, 80))
    assert scenario.classes[0].phrases == ("c000",)


def test_orders_by_name_and_by_seed():
    corpus = text_corpus(classes=("a b", "c", "d"))
    scenario = build(corpus, {"tasks": 3, "class_order": ["d", "A_B", "c"]})
    assert [names(scenario, i) for i in range(3)] == [["d"], ["a b"], ["c"]]
    orders = {
        tuple(c for t in build(corpus, {"tasks": 3, "class_order": "random"}, seed=s).tasks for c in t.classes)
        for s in range(20)
    }
    assert len(orders) > 3
    turned = text_corpus(classes=("d", "c", "a b"))
    for seed in range(5):
        one, two = (build(c, {"tasks": 3, "class_order": "random"}, seed=seed) for c in (corpus, turned))
        assert [names(one, i) for i in range(3)] == [names(two, i) for i in range(3)], "by name, not by position"


def registered_corpus(name: str, classes: tuple[str, ...] | None = None) -> Corpus:
    return text_corpus(name, classes or REGISTRY[name].classes, train=1, test=1)


@pytest.mark.parametrize(("name", "order"), [("cifar100", "A"), ("imagenet_r", "imagenet_r"), ("cub200", "imagenet_r")])
def test_auto_is_the_papers_order(name: str, order: str):
    result = build(registered_corpus(name), {"tasks": 5})
    assert [c for task in result.tasks for c in task.classes] == list(CLASS_ORDERS[order].positions)
    assert build(registered_corpus("cars"), {"tasks": 4}).tasks[0].classes == tuple(range(49))


def test_a_published_order_maps_by_name():
    """A folder of CIFAR-100 whose classes stand in another order learns the same names in the same order."""
    expected = build(registered_corpus("cifar100"), {"tasks": 5, "class_order": "B"})
    turned = text_corpus("mine", tuple(name.replace(" ", "_") for name in reversed(REGISTRY["cifar100"].classes)))
    result = build(turned, {"tasks": 5, "class_order": "B"})
    assert [n.replace("_", " ") for i in range(5) for n in names(result, i)] == [
        n for i in range(5) for n in names(expected, i)
    ]


# Domains.


def test_domain_incremental():
    corpus = text_corpus(classes=("x", "y"), domains=("north sea", "south"))
    scenario = build(corpus, "domain-incremental")
    assert [task.name for task in scenario.tasks] == ["north-sea", "south"]
    for task, domain in zip(scenario.tasks, ("north sea", "south"), strict=True):
        assert (task.classes, task.among) == ((0, 1), (0, 1))
        assert set(task.train.domains or ()) == set(task.test.domains or ()) == {domain}
        assert (len(task.train), len(task.test)) == (8, 4)
    turned = build(corpus, {"kind": "domain-incremental", "domain_order": ["South", "north_sea"]})
    assert [task.name for task in turned.tasks] == ["south", "north-sea"]


# Data sets.


def several(**options: object) -> tuple[FinetuneConfig, list[Corpus]]:
    corpora = [text_corpus("svhn", ("0", "1")), text_corpus("mnist", ("1", "2", "3")), text_corpus("my set", ("4",))]
    data = [{"name": "svhn"}, {"name": "mnist", "epochs": 2}, {"name": "my set"}]
    return config(data, **options), corpora  # type: ignore[arg-type]


def test_a_sequence_of_data_sets():
    settings, corpora = several()
    scenario = build_scenario(settings, corpora)
    assert scenario.kind == "datasets"
    assert [task.name for task in scenario.tasks] == ["svhn", "mnist", "my-set"]
    assert [info.name for info in scenario.classes] == ["0", "svhn/1", "mnist/1", "2", "3", "4"]
    assert [info.phrases for info in scenario.classes[1:3]] == [("1",), ("1",)], "phrases name the class alone"
    assert [task.classes for task in scenario.tasks] == [(0, 1), (2, 3, 4), (5,)]
    assert all(task.among == task.classes for task in scenario.tasks), "each data set has its own head"
    for task, corpus in zip(scenario.tasks, corpora, strict=True):
        assert task.train.labels.tolist() == [c + task.classes[0] for c in corpus.train.labels.tolist()]
        assert task.train.read([1]) == corpus.train.read([1])
    assert len({info.name for info in scenario.classes}) == 6


def test_two_data_sets_of_one_name():
    corpora = [text_corpus("train", ("a", "b")), text_corpus("train", ("a",))]
    scenario = build_scenario(config([{"name": "x/train.csv"}, {"name": "y/train.csv"}]), corpora)
    assert [task.name for task in scenario.tasks] == ["train", "train-2"]
    assert [info.name for info in scenario.classes] == ["train/a", "b", "train-2/a"]


def test_epochs_of_the_data_set_else_of_all_else_the_papers():
    settings, corpora = several()
    assert [task.epochs for task in build_scenario(settings, corpora).tasks] == [4, 2, None]
    settings, corpora = several(training={"epochs": 7})
    assert [task.epochs for task in build_scenario(settings, corpora).tasks] == [None, 2, None]
    for name, kind, epochs in (
        ("cifar100", "auto", 10),
        ("cub200", "auto", 30),
        ("cars", "auto", 30),
        ("cars", "datasets", 35),
    ):
        assert build(registered_corpus(name), kind).tasks[0].epochs == epochs
    assert build(text_corpus()).tasks[0].epochs is None


# Joint.


def test_joined_holds_everything_once():
    corpus = text_corpus()
    scenario = build(corpus, {"tasks": 3})
    (task,) = joined(scenario).tasks
    assert (joined(scenario).kind, task.name, task.classes, task.among) == (
        "joint",
        "joint",
        tuple(range(6)),
        tuple(range(6)),
    )
    assert sorted(task.train.ids) == sorted(corpus.train.ids)
    assert sorted(task.test.ids) == sorted(corpus.test.ids)
    assert all(
        text.endswith(f" of {label}") for text, label in zip(task.train.read(range(24)), task.train.labels, strict=True)
    )
    settings, corpora = several()
    assert joined(build_scenario(settings, corpora)).tasks[0].epochs is None, "the data sets' own epochs differ"
    assert joined(build(registered_corpus("cub200"))).tasks[0].epochs == 30


@given(st.lists(st.text(max_size=6), min_size=1, max_size=12))
def test_names_are_safe_and_different(wanted: list[str]):
    result = safe_names(wanted)
    assert len(result) == len(wanted)
    assert len({name.casefold() for name in result}) == len(wanted)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in result)


# What cannot be made into tasks.


def with_splits(corpus: Corpus, train: list[int], test: list[int]) -> Corpus:
    made = (text_examples("train", train), text_examples("test", test))
    return Corpus(corpus.name, "text", corpus.classes, corpus.templates, *made)


def pictures(corpus: Corpus) -> Corpus:
    return Corpus("pets", "image", corpus.classes, corpus.templates, corpus.train, corpus.test)


SIX = text_corpus()
BREAKAGES = {
    "more tasks than classes": (
        lambda: build(SIX, {"tasks": 7}),
        ConfigError,
        r"scenario\.tasks: 7 tasks out of the 6 classes of 'words'; each task needs a class\. Ask for at most 6\.",
    ),
    "no training samples": (
        lambda: build(with_splits(SIX, [0, 1, 2], [0, 1, 2, 3, 4, 5]), {"tasks": 2}),
        DataError,
        r"task 'task-02' \(classes 'd', 'e', 'f'\) has no training samples",
    ),
    "no test samples": (
        lambda: build(with_splits(SIX, [0, 1, 2, 3, 4, 5], [4]), {"tasks": 2}),
        DataError,
        r"task 'task-01' \(classes 'a', 'b', 'c'\) has no test samples\. Give it some, leave the classes out, or ask",
    ),
    "no domains": (
        lambda: build(SIX, "domain-incremental"),
        DataError,
        r"data set 'words' names no domains, .*Say which column holds them: `data: \{name: …, domain: COLUMN\}`",
    ),
    "an unknown domain": (
        lambda: build(text_corpus(domains=("n", "s")), {"kind": "domain-incremental", "domain_order": ["n", "east"]}),
        ConfigError,
        r"scenario\.domain_order: 'east' not among the domains of 'words'; 's' missing\. List each of the 2 domains",
    ),
    "tasks of domains": (
        lambda: build(text_corpus(domains=("n", "s")), {"kind": "domain-incremental", "tasks": 3}),
        ConfigError,
        r"scenario\.tasks: 3, but a domain-incremental scenario of these data has 2 tasks \(n, s\)\. Leave `tasks` out",
    ),
    "an unknown order": (
        lambda: build(SIX, {"class_order": "D"}),
        ConfigError,
        r"class_order: 'D' is not known\. Use auto, natural, random, A, B, C, imagenet_r, or a list of class names",
    ),
    "an order of other classes": (
        lambda: build(SIX, {"class_order": "A"}),
        ConfigError,
        r"class_order: 'A' orders the 100 classes of cifar100, and 'words' has 6\. Use natural, random",
    ),
    "an order that lacks a class": (
        lambda: build(SIX, {"class_order": ["a", "b", "c", "d", "e"]}),
        ConfigError,
        r"class_order: 'f' missing\. List each of the 6 classes of 'words' once\.",
    ),
    "an order that names a class twice": (
        lambda: build(SIX, {"class_order": ["a", "b", "c", "d", "e", "f", "a"]}),
        ConfigError,
        r"class_order: 'a' occurs twice\.",
    ),
    "several data sets in one order of classes": (
        lambda: build_scenario(config([{"name": "a"}, {"name": "b"}], "class-incremental"), [SIX, SIX]),
        ConfigError,
        r"class-incremental takes one data set, found 2: words, words\. Use `kind: datasets`",
    ),
    "images and texts": (
        lambda: build_scenario(config([{"name": "a"}, {"name": "b"}]), [SIX, pictures(SIX)]),
        DataError,
        r"one encoder reads either images or texts, found both: words \(text\), pets \(image\)",
    ),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_what_cannot_be_made_into_tasks_is_named(case: str):
    act, error, message = BREAKAGES[case]
    with pytest.raises(error, match=message):
        act()


def test_labels_stay_int64():
    scenario = build(text_corpus(), {"tasks": 2})
    assert all(split.labels.dtype == np.int64 for task in scenario.tasks for split in (task.train, task.test))


# Held-out samples


def held_out_of(config_held_out: Any, train: int = 40, classes: int = 4, tasks: int = 2) -> Scenario:
    """Class-incremental over a corpus of `train` samples a class, with so many held out."""
    result = make_config(
        {"model": "m", "data": "x", "scenario": {"tasks": tasks, "class_order": "natural"}, "held_out": config_held_out}
    )
    return build_scenario(result, [plain_corpus([train] * classes)])


def plain_corpus(sizes: list[int]) -> Corpus:
    def examples(part: str, counts: list[int]) -> Examples:
        labels = np.repeat(np.arange(len(counts)), counts)
        ids = tuple(f"{part}/{i}" for i in range(len(labels)))
        return Examples(ids, labels, lambda at: [ids[i] for i in at], lambda at: " ".join(ids[i] for i in at))

    names = tuple(f"class {c}" for c in range(len(sizes)))
    return Corpus("x", "text", names, ("{}",), examples("train", sizes), examples("test", [3] * len(sizes)))


@pytest.mark.parametrize(
    ("asked", "train", "found"),
    [(None, 40, 8), (None, 4, 0), (None, 5, 1), (None, 600, 100), (0, 40, 0), (6, 40, 6)],
    ids=["a tenth", "fewer than ten", "ten", "at most 100", "none", "a number"],
)
def test_how_many_samples_are_held_out(asked: int | None, train: int, found: int):
    for task in held_out_of(asked, train).tasks:
        assert len(task.held_out) == found
        assert len(task.train) == 2 * train - found
        assert not set(task.train.ids) & set(task.held_out.ids)
        assert task.held_out.read([0])[0] == task.held_out.ids[0] if found else True


def test_none_held_out_leaves_the_tasks_as_they_are():
    plain, asked = held_out_of(0), held_out_of(8)
    for one, other in zip(plain.tasks, asked.tasks, strict=True):
        assert len(one.held_out) == 0
        kept = [i for i in one.train.ids if i not in other.held_out.ids]
        assert list(other.train.ids) == kept  # in the order that they had


def test_each_task_may_have_a_number_of_its_own():
    assert [len(task.held_out) for task in held_out_of([3, 0]).tasks] == [3, 0]
    with pytest.raises(ConfigError, match=r"held_out: 3 numbers for 2 tasks \(task-01, task-02\)\. Give one number"):
        held_out_of([1, 2, 3])


def test_every_class_keeps_a_sample_to_train_on():
    assert len(held_out_of(78).tasks[0].train) == 2
    with pytest.raises(
        ConfigError, match=r"held_out: 79 of the 80 training samples of task 'task-01'.* at most 78 out"
    ):
        held_out_of(79)
    result = make_config({"model": "m", "data": "x", "scenario": {"tasks": 1}})
    task = build_scenario(result, [plain_corpus([1] * 30)]).tasks[0]
    assert (len(task.train), len(task.held_out)) == (30, 0)


def test_held_out_samples_are_in_proportion_and_a_larger_number_keeps_them():
    result = make_config({"model": "m", "data": "x", "scenario": {"tasks": 1}})
    corpus, before = plain_corpus([200, 100, 40, 3, 1]), set[str]()
    for count in (1, 4, 5, 17, 34, 60, 339):
        one = result.model_copy(update={"held_out": count})
        task = build_scenario(one, [corpus]).tasks[0]
        assert len(task.held_out) == count
        assert before <= set(task.held_out.ids)
        before = set(task.held_out.ids)
        counts = task.held_out.label_counts()
        if count == 4:
            assert counts == {0: 1, 1: 1, 2: 1, 3: 1}  # one of every class that has several
        if count == 34:
            assert counts == {0: 20, 1: 9, 2: 4, 3: 1} or counts == {0: 19, 1: 10, 2: 4, 3: 1}
        assert set(task.train.label_counts()) == {0, 1, 2, 3, 4}


def test_other_samples_and_their_order_move_none_that_is_held_out():
    result = make_config({"model": "m", "data": "x", "scenario": {"tasks": 1}, "held_out": 10})
    corpus = plain_corpus([50, 50])
    turned = replace(corpus, train=corpus.train.take(np.arange(100)[::-1]))
    one, other = (build_scenario(result, [c]).tasks[0].held_out for c in (corpus, turned))
    assert set(one.ids) == set(other.ids)
    seeded = build_scenario(result.model_copy(update={"seed": 9}), [corpus]).tasks[0]
    assert seeded.held_out.ids == one.ids  # runs of other seeds are judged on the same


def test_joint_training_holds_out_what_its_tasks_do():
    scenario = held_out_of(6)
    joint = joined(scenario).tasks[0]
    assert joint.held_out.ids == scenario.tasks[0].held_out.ids + scenario.tasks[1].held_out.ids
    assert not set(joint.train.ids) & set(joint.held_out.ids)
