"""Tasks out of data sets: class-incremental, domain-incremental, a sequence of data sets.

Class-incremental: with C classes in a given order, task i of T takes those at floor(C i / T) .. floor(C (i + 1) / T)
(authors' code). Domain-incremental: a task is a domain, with all classes. A sequence: a task is a data set, with its own
classes. Labels of all tasks index the one list of classes of the scenario, whose rows the head has.
Cost: milliseconds; inputs are not read. Leaves out: training on one task of all classes ("joint"), which is made from a
scenario by `joined`.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefmerge.continual.data.examples import Examples, Kind


@dataclass(frozen=True)
class ClassInfo:
    """A class: its name, and the phrases whose embeddings make its row of a text head."""

    name: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What one checkpoint learns. Labels of `train` and `test` are positions in the scenario's classes."""

    name: str  # letters, digits, - and _ only: also the name of the checkpoint's folder
    classes: tuple[int, ...]  # the head's rows in training
    among: tuple[int, ...]  # the head's rows when the task is not known: all, or those of its own data set
    train: Examples
    test: Examples
    epochs: int | None = None  # where the data set has its own; None: training.epochs


@dataclass(frozen=True)
class Scenario:
    """Tasks in the order of training, over one list of classes."""

    kind: str
    inputs: Kind
    classes: tuple[ClassInfo, ...]
    tasks: tuple[Task, ...]
