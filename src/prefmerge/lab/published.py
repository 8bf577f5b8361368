"""The papers' own numbers, to stand beside ours: every table of accuracies of both papers.

    environments("cifar100-5")["MAGMAX"]["mean"]   [83, 83, 83, 83, 83]: e1 to e5, in percent

Source: Tunable MAGMAX (arXiv:2605.20803), tables 2 to 8, printed there as fractions with two digits; MAGMAX
(arXiv:2407.06322), supplementary material, tables 1 and 2, percent with two digits. Always percent here. Methods have
the names of `prefmerge.plotting.METHODS`. The printed averages are of unrounded means: they may lie up to one point
off the mean of the printed ones, and four of them lie 0.6 off. Cost: two small files, read once. Not here: figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, Literal

from prefmerge.errors import ConfigError
from prefmerge.ground import jsons
from prefmerge.ground.words import did_you_mean

TableKind = Literal["environments", "ablation", "supplement"]

NAMES = ("e1", "e2", "e3", "e4", "e5")  # the environments of `environments`, in order
SCALE = "0.5"  # of every merge in tables 2 to 8
# MAGMAX, section 4: which checkpoints each method of the supplement merges, and at which scale.
TRAININGS = {
    "Zero-shot": "",
    "Joint": "joint",
    "LwF": "lwf",
    "EWC": "ewc",
    "Rand Mix": "independent",
    "Max Abs": "independent",
    "Average": "independent",
    "TIES": "independent",
    "MAGMAX": "sequential",
}


@cache
def _file(name: str) -> dict[str, Any]:
    folder = resources.files("prefmerge.lab").joinpath("published_tables")
    return jsons.decoded(folder.joinpath(f"{name}.json").read_bytes())


def _tables(kind: TableKind) -> dict[str, Any]:
    if kind == "supplement":
        return _file("magmax_supplement")["tables"]
    part = _file("tunable_magmax")[kind]
    return part["tables"] if kind == "environments" else part["rows"]


def number(kind: TableKind, key: str) -> int:
    """The number of the table in its paper. Raises ConfigError for a key that there is not."""
    table = _table(kind, key)
    return _file("tunable_magmax")["ablation"]["table"] if kind == "ablation" else table["table"]


def keys(kind: TableKind) -> tuple[str, ...]:
    """What can be asked for: scenarios ("cifar100-5"), numbers of tasks ("5"), models ("vit-b-16-laion400m")."""
    return tuple(_tables(kind))


def _table(kind: TableKind, key: str) -> Any:
    tables = _tables(kind)
    if key not in tables:
        raise ConfigError(f"paper.{kind}: no table was published for {key!r}.{_nearest(key, tables)}")
    return tables[key]


def _nearest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"{did_you_mean(key, known)} There are {', '.join(known)}."


def environments(key: str) -> dict[str, dict[str, Any]]:
    """Tables 2, 3, 5 to 8: method -> {"mean": five numbers, "std": five, "average": one}; percent, whole numbers.

    Raises ConfigError for another key.
    """
    return {
        method: {"mean": list(row["mean"]), "std": list(row["std"]), "average": row["average"]}
        for method, row in _table("environments", key)["rows"].items()
    }


def ablation(tasks: str) -> dict[str, float]:
    """Table 4, CIFAR-100 with so many tasks: method -> average over e1 to e5; percent, whole numbers."""
    return dict(_table("ablation", tasks))


def columns(model: str) -> tuple[str, ...]:
    """The columns of a table of the supplement: "CIFAR100/5" to "Cars/20"."""
    return tuple(_table("supplement", model)["rows"]["MAGMAX"]["values"])


def supplement(model: str, column: str) -> dict[str, float]:
    """Tables 1 and 2 of the MAGMAX supplement: method -> accuracy over all classes in percent, two digits.

    `column` is one of `columns`, or "average". Zero-shot and joint have one number per data set. Raises ConfigError.
    """
    rows = _table("supplement", model)["rows"]
    if column == "average":
        return {method: row["average"] for method, row in rows.items()}
    if column not in columns(model):
        raise ConfigError(
            f"paper.column: the table of {model} has no column {column!r}.{_nearest(column, columns(model))}"
        )
    data = column.partition("/")[0]
    return {method: row["values"].get(column, row["values"].get(data)) for method, row in rows.items()}


def setting(kind: TableKind, key: str) -> tuple[str, int] | None:
    """The data set and the number of tasks of a table: of "cifar100-5", of an ablation's "5", of a column of the
    supplement. None for "average", which is of all.
    """
    if kind == "ablation":
        return "cifar100", int(key)
    data, _, tasks = key.rpartition("/" if kind == "supplement" else "-")
    return (data, int(tasks)) if data else None


def source(kind: TableKind, key: str) -> str:
    """Where a table is printed, as a reader would look it up."""
    file = _file("magmax_supplement" if kind == "supplement" else "tunable_magmax")
    number = file["ablation"]["table"] if kind == "ablation" else _table(kind, key)["table"]
    return f"{file['source']}{', supplementary material' if kind == 'supplement' else ''}, table {number}"
