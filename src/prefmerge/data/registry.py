"""The papers' data sets: where they are, what their columns mean, what their classes are called.

`REGISTRY[name]` is a `DataSet` read from `registry.json`; `CLASS_ORDERS` are the papers' (`class_orders.json`). Classes
stand in the label order that the papers index, in the wording of CLIP's prompts where CLIP has the data set; `verified`
and `unverified` say what public pages confirmed, and which. Cost: two small files, read once. Not here: the data
themselves, which come from the hub or from a local copy in the hub's layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from typing import Any

from prefmerge.data.labels import folded
from prefmerge.ground import jsons


@dataclass(frozen=True)
class HeldOut:
    """How the test samples of a data set that has no test set are chosen: frozen, the same for every run."""

    scheme: str
    seed: int
    fraction: Fraction
    identity: str  # in words: what of a sample is hashed


@dataclass(frozen=True)
class DataSet:
    """One registered data set."""

    name: str
    title: str
    hub: str  # the hub's id
    config: str | None  # the hub's configuration
    columns: Mapping[str, str]  # input, label and, where there is one, domain
    splits: Mapping[str, str]  # train and test; or all, where there is one split
    samples: Mapping[str, int]  # as published, by split; empty where no page confirms them
    classes: tuple[str, ...]
    templates: tuple[str, ...]  # one {} each
    class_order: str  # what the papers use: natural, or a key of CLASS_ORDERS
    epochs: Mapping[str, int]  # the papers', by kind of scenario
    numbered: bool  # whether bare numbers count the classes in this order
    verified: tuple[Mapping[str, str], ...]  # what was confirmed, and the page
    unverified: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # other names
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of classes
    label_prefix: str | None = None  # regular expression of what stands before the names of labels
    file_domain: str | None = None  # regular expression whose group is the domain, in the name of an image's file
    domain_order: tuple[str, ...] = ()  # the papers'
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class ClassOrder:
    """A published order of learning classes."""

    source: str  # the registered data set whose labels it indexes
    what: str
    positions: tuple[int, ...]


def _file(name: str, kind: str) -> Any:
    content = jsons.decoded(resources.files("prefmerge.data").joinpath(name).read_bytes())
    assert content["format"] == kind, f"{name} is not {kind}"
    return content


def _registry() -> dict[str, DataSet]:
    content = _file("registry.json", "prefmerge-registry/1")
    data_sets = {}
    for name, fields in content["data"].items():
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        if isinstance(values["templates"], str):
            values["templates"] = tuple(content["templates"][values["templates"]])
        if "held_out" in values:
            rule = values["held_out"]
            values["held_out"] = HeldOut(rule["scheme"], rule["seed"], Fraction(rule["fraction"]), rule["identity"])
        data_sets[name] = DataSet(name=name, config=values.pop("config", None), **values)
    return data_sets


REGISTRY: Mapping[str, DataSet] = _registry()
CLASS_ORDERS: Mapping[str, ClassOrder] = {
    name: ClassOrder(order["source"], order["what"], tuple(order["positions"]))
    for name, order in _file("class_orders.json", "prefmerge-class-orders/1")["orders"].items()
}
_NAMES = {
    folded(spelling): data_set
    for data_set in REGISTRY.values()
    for spelling in (data_set.name, data_set.title, *data_set.also)
} | {data_set.hub: data_set for data_set in REGISTRY.values()}


def registered(name: str) -> DataSet | None:
    """The data set of a name, however spelled (`CIFAR-100`, `cifar100`), or of a hub id; None for a path or any other
    name.
    """
    if name in _NAMES:
        return _NAMES[name]
    return _NAMES.get(folded(name)) if re.fullmatch(r"[\w -]+", name) else None
