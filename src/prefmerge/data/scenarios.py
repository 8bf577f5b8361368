"""Tasks out of data sets: class-incremental, domain-incremental, a sequence of data sets.

Class-incremental: with C classes in a given order, task i of T takes those at floor(C i / T) .. floor(C (i + 1) / T)
(authors' code); or each task is a name with its classes. Domain-incremental: a task is a domain, with all classes. A
sequence: a task is a data set, with its own classes. Labels of all tasks index the one list of classes of the scenario,
whose rows the head has. `joined` makes the one task of joint training. Cost: milliseconds; inputs are not read. Not
here: the order of classes and domains (`orders`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from prefmerge.data.examples import Corpus, Examples, InputKind, concatenated, no_examples
from prefmerge.data.orders import classes_of_tasks, order_of_classes, order_of_domains
from prefmerge.data.registry import registered
from prefmerge.errors import ConfigError, DataError
from prefmerge.ground.draws import in_proportion
from prefmerge.ground.words import quoted

if TYPE_CHECKING:
    from prefmerge.config import FinetuneConfig

DEFAULT_TASKS = 5  # both papers' smallest T
HELD_OUT = 100  # samples of a task that are held out by default, or a tenth of it where that is less


@dataclass(frozen=True)
class ClassInfo:
    """A class: its name, and the phrases whose embeddings make its row of a text head."""

    name: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What one checkpoint learns. Labels of its samples are positions in the scenario's classes."""

    name: str  # letters, digits, - and _ only: also the name of the checkpoint's folder
    classes: tuple[int, ...]  # the head's rows in training
    among: tuple[int, ...]  # the head's rows when the task is not known: all, or those of its own data set
    train: Examples
    test: Examples
    held_out: Examples = field(default_factory=no_examples)  # training samples that no training sees
    epochs: int | None = None  # where the data set has its own; None: training.epochs


@dataclass(frozen=True)
class Scenario:
    """Tasks in the order of training, over one list of classes."""

    kind: str
    inputs: InputKind
    classes: tuple[ClassInfo, ...]
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()  # what whoever starts a run should know


def build_scenario(config: FinetuneConfig, corpora: Sequence[Corpus]) -> Scenario:
    """The tasks that `config.scenario` asks for, out of the data sets of `config.data`, in the same order.

    Raises ConfigError for an order or a number of tasks that does not fit the data, DataError naming a task without
    samples or a data set without domains.
    """
    kind = config.scenario.kind
    if kind == "auto":
        kind = "datasets" if len(corpora) > 1 else "class-incremental"
    if kind != "datasets" and len(corpora) != 1:
        raise ConfigError(
            f"scenario: {kind} takes one data set, found {len(corpora)}: {', '.join(c.name for c in corpora)}. "
            "Use `kind: datasets` for one task per data set."
        )
    if len({corpus.kind for corpus in corpora}) > 1:
        described = ", ".join(f"{corpus.name} ({corpus.kind})" for corpus in corpora)
        raise DataError(f"data: one encoder reads either images or texts, found both: {described}.")
    if kind == "class-incremental":
        scenario = _class_incremental(config, corpora[0])
    elif kind == "domain-incremental":
        scenario = _domain_incremental(config, corpora[0])
    else:
        scenario = _datasets(config, corpora)
    if kind != "class-incremental" and isinstance(config.scenario.tasks, dict):
        raise ConfigError(
            f"scenario.tasks: tasks by name are made of the classes of one data set, and a {kind} scenario makes its "
            f"own ({', '.join(task.name for task in scenario.tasks)}). Leave `tasks` out, or ask for `kind: "
            "class-incremental`."
        )
    if kind != "class-incremental" and config.scenario.tasks not in (None, len(scenario.tasks)):
        raise ConfigError(
            f"scenario.tasks: {config.scenario.tasks}, but a {kind} scenario of these data has {len(scenario.tasks)} "
            f"tasks ({', '.join(task.name for task in scenario.tasks)}). Leave `tasks` out."
        )
    scenario = replace(scenario, tasks=_with_held_out(scenario.tasks, config.held_out))
    for task in scenario.tasks:
        for split, examples in (("training", task.train), ("test", task.test)):
            if not len(examples):
                names = quoted((scenario.classes[c].name for c in task.classes), 5)
                raise DataError(
                    f"task {task.name!r} (classes {names}) has no {split} samples. Give it some, leave the "
                    "classes out, or ask for fewer tasks."
                )
    return scenario


def _with_held_out(tasks: Sequence[Task], asked: int | tuple[int, ...] | None) -> tuple[Task, ...]:
    """The tasks with so many of their training samples held out; the rest keeps its order."""
    counts = asked if isinstance(asked, tuple) else (asked,) * len(tasks)
    if len(counts) != len(tasks):
        raise ConfigError(
            f"held_out: {len(counts)} numbers for {len(tasks)} tasks ({', '.join(task.name for task in tasks)}). Give "
            "one number, or one for each task."
        )
    result = []
    for task, count in zip(tasks, counts, strict=True):
        # No seed: runs that differ in theirs are judged on the same samples.
        most = len(task.train) - len(task.train.label_counts())  # so that every class is trained on
        count = min(HELD_OUT, len(task.train) // 10, most) if count is None else count
        if count > most and count:
            raise ConfigError(
                f"held_out: {count} of the {len(task.train)} training samples of task {task.name!r}, which needs one "
                f"to train on for each of its {len(task.train.label_counts())} classes. Hold at most {most} out."
            )
        if count:
            chosen = in_proportion(task.train.ids, task.train.labels, count, "held out of training")
            rest = np.setdiff1d(np.arange(len(task.train)), chosen)
            task = replace(task, train=task.train.take(rest), held_out=task.train.take(chosen))
        result.append(task)
    return tuple(result)


def joined(scenario: Scenario) -> Scenario:
    """One task `joint` of all classes and all samples: what the upper bound trains on. Epochs are the tasks' where they
    agree.
    """
    epochs = {task.epochs for task in scenario.tasks}
    everything = tuple(range(len(scenario.classes)))
    joint = Task(
        name="joint",
        classes=everything,
        among=everything,
        train=concatenated([task.train for task in scenario.tasks]),
        test=concatenated([task.test for task in scenario.tasks]),
        held_out=concatenated([task.held_out for task in scenario.tasks]),
        epochs=epochs.pop() if len(epochs) == 1 else None,
    )
    return replace(scenario, kind="joint", tasks=(joint,))


def _class_incremental(config: FinetuneConfig, corpus: Corpus) -> Scenario:
    corpus, groups, notes = _groups(config, corpus)
    everything = tuple(range(len(corpus.classes)))
    tasks = tuple(
        Task(
            name=name,
            classes=own,
            among=everything,
            train=_of_classes(corpus.train, own),
            test=_of_classes(corpus.test, own),
            epochs=_epochs(config, 0, "class-incremental"),
        )
        for name, own in groups
    )
    return Scenario("class-incremental", corpus.kind, _infos(corpus), tasks, notes)


def _groups(
    config: FinetuneConfig, corpus: Corpus
) -> tuple[Corpus, list[tuple[str, tuple[int, ...]]], tuple[str, ...]]:
    """The corpus of the classes that are learned, the name and classes of each task, and notes."""
    asked, count = config.scenario.tasks, len(corpus.classes)
    if isinstance(asked, dict):
        if config.scenario.class_order != "auto":
            raise ConfigError(
                "scenario: `class_order` orders classes, and `tasks` lists them by task. Leave `class_order` out."
            )
        groups = classes_of_tasks(asked, corpus)
        learned = sorted(c for own in groups for c in own)
        rest = [name for c, name in enumerate(corpus.classes) if c not in set(learned)]
        notes = (f"Classes that no task has are left out: {quoted(rest, 5)}.",)
        at = {c: i for i, c in enumerate(learned)}
        named = [(name, tuple(at[c] for c in own)) for name, own in zip(safe_names(asked), groups, strict=True)]
        return _restricted(corpus, learned), named, notes if rest else ()
    several = asked or DEFAULT_TASKS
    if several > count:
        raise ConfigError(
            f"scenario.tasks: {several} tasks out of the {count} classes of {corpus.name!r}; each task needs a class. "
            f"Ask for at most {count}."
        )
    order = order_of_classes(config, corpus)
    digits = max(2, len(str(several)))
    numbered = [
        (f"task-{i + 1:0{digits}d}", tuple(order[count * i // several : count * (i + 1) // several]))
        for i in range(several)
    ]
    return corpus, numbered, ()


def _restricted(corpus: Corpus, classes: Sequence[int]) -> Corpus:
    """The corpus with these of its classes alone, in this order."""
    if len(classes) == len(corpus.classes):
        return corpus
    at = np.full(len(corpus.classes), -1, np.int64)
    at[list(classes)] = np.arange(len(classes))

    def of(examples: Examples) -> Examples:
        some = _of_classes(examples, classes)
        return some.take(np.arange(len(some)), labels=at[some.labels])

    return replace(
        corpus,
        classes=tuple(corpus.classes[c] for c in classes),
        train=of(corpus.train),
        test=of(corpus.test),
    )


def _domain_incremental(config: FinetuneConfig, corpus: Corpus) -> Scenario:
    if corpus.train.domains is None or corpus.test.domains is None:
        raise DataError(
            f"data set {corpus.name!r} names no domains, which a domain-incremental scenario needs. Say which column "
            "holds them: `data: {name: …, domain: COLUMN}`. Images in folders DOMAIN/CLASS/IMAGE (or train/DOMAIN/… "
            "and test/DOMAIN/…): `data: {name: …, domain: folder}`."
        )
    domains = order_of_domains(config, corpus)
    everything = tuple(range(len(corpus.classes)))
    tasks = tuple(
        Task(
            name=name,
            classes=everything,
            among=everything,
            train=_of_domain(corpus.train, domain),
            test=_of_domain(corpus.test, domain),
            epochs=_epochs(config, 0, "domain-incremental"),
        )
        for name, domain in zip(safe_names(domains), domains, strict=True)
    )
    return Scenario("domain-incremental", corpus.kind, _infos(corpus), tasks)


def _datasets(config: FinetuneConfig, corpora: Sequence[Corpus]) -> Scenario:
    names = safe_names([corpus.name for corpus in corpora])
    starts = np.cumsum([0, *(len(corpus.classes) for corpus in corpora)]).tolist()
    plain = [name for corpus in corpora for name in corpus.classes]
    shared = {name for name in plain if plain.count(name) > 1}
    classes: list[ClassInfo] = []
    tasks = []
    for i, (name, corpus) in enumerate(zip(names, corpora, strict=True)):
        own = tuple(range(starts[i], starts[i + 1]))
        # The same word in two data sets is two classes: a 7 of MNIST is none of SVHN's.
        classes += [
            ClassInfo(f"{name}/{info.name}" if info.name in shared else info.name, info.phrases)
            for info in _infos(corpus)
        ]
        tasks.append(
            Task(
                name=name,
                classes=own,
                among=own,
                train=_moved(corpus.train, starts[i]),
                test=_moved(corpus.test, starts[i]),
                epochs=_epochs(config, i, "datasets"),
            )
        )
    return Scenario("datasets", corpora[0].kind, tuple(classes), tuple(tasks))


def safe_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of letters, digits, - and _ only, each once: what folders can be called."""
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "task"
        unique, number = plain, 1
        # Some file systems take Birds and birds for one folder.
        while unique.casefold() in {other.casefold() for other in result}:
            number += 1
            unique = f"{plain}-{number}"
        result.append(unique)
    return tuple(result)


def _infos(corpus: Corpus) -> tuple[ClassInfo, ...]:
    return tuple(
        ClassInfo(name, tuple(template.replace("{}", name) for template in corpus.templates)) for name in corpus.classes
    )


def _of_classes(examples: Examples, classes: Sequence[int]) -> Examples:
    return examples.take(np.flatnonzero(np.isin(examples.labels, np.asarray(classes, dtype=np.int64))))


def _of_domain(examples: Examples, domain: str) -> Examples:
    return examples.take([i for i, own in enumerate(examples.domains or ()) if own == domain])


def _moved(examples: Examples, start: int) -> Examples:
    return examples.take(np.arange(len(examples)), labels=examples.labels + start)


def _epochs(config: FinetuneConfig, index: int, kind: str) -> int | None:
    """The epochs of the data set's own, or the papers'; None where `training.epochs` decides."""
    data = config.data[index]
    if data.epochs is not None or config.training.epochs is not None:
        return data.epochs
    known = registered(data.name)
    return None if known is None else known.epochs.get(kind)
