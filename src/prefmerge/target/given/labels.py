"""Labels as they lie on disk, and the classes that they name.

    labels         CSV with a column `label`, a list of them (.txt, or a CSV of one column), JSON: how often each occurs
    of the tasks   JSON {task: {class: n}}, or a CSV with the columns task, label and count

Labels are matched to classes by name, as written or folded, and never by position. Cost: labels in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefmerge.data.labels import folded
from prefmerge.data.rows import LABEL_COLUMNS
from prefmerge.data.tables import TABLES, open_table, read_table
from prefmerge.errors import DataError
from prefmerge.ground.words import counted, listed, nearest, quoted
from prefmerge.target.given.files import Whole, checked, lines, named_column, read_json, there, whole

_COUNT_COLUMNS = ("count", "counts", "n", "samples")
_TASK_COLUMNS = {"task": ("task",), "label": LABEL_COLUMNS, "count": _COUNT_COLUMNS}
_Label = bool | int | float | str  # in a list
_SHOWN = 3  # labels or classes that a message lists


@dataclass(frozen=True)
class Matched:
    """How often each class occurs among labels, and what is no class."""

    known: Counter[str]  # by the names of the classes
    unknown: Counter[str]  # as written
    nearest: Mapping[str, str]  # unknown label -> the class whose name is near, where one is
    rows: Mapping[str, str] = field(default_factory=dict)  # unknown label -> its first row, where rows have names

    def note(self) -> tuple[str, ...]:
        """What to say where some labels are no class and do not count."""
        return (f"{self._what()} and not counted: {self._unknown()}.{self._hint()}",) if self.unknown else ()

    def refusal(self, classes: Sequence[str], of: str = "the tasks' class names") -> str:
        """What to say where the labels cannot be used. `of`: what to write in their place."""
        return (
            f"{self._what()}: {self._unknown()}. The {len(classes)} classes are {quoted(classes, _SHOWN)}."
            f"{self._hint()} Write the labels as {of}."
        )

    def require_half(self, classes: Sequence[str], where: str = "") -> None:
        """Raise DataError where more than half of the labels are no class. `where`: before the message."""
        if self.unknown.total() > self.known.total():
            raise DataError(where + self.refusal(classes))

    def _what(self) -> str:
        unknown, total = self.unknown.total(), self.unknown.total() + self.known.total()
        of = counted(total, "label")
        return f"{unknown} of the target's {of} {'is' if unknown == 1 else 'are'} no class of any task"

    def _often(self) -> list[str]:
        return sorted(self.unknown, key=lambda name: (-self.unknown[name], name))

    def _unknown(self) -> str:
        def form(name: str) -> str:
            return f"{name!r} (first at sample {self.rows[name]!r})" if name in self.rows else repr(name)

        return listed(self._often(), _SHOWN, form=form)

    def _hint(self) -> str:
        near = next((name for name in self._often() if name in self.nearest), None)
        return "" if near is None else f" Did you mean {self.nearest[near]!r} by {near!r}?"


def read_labels(path: Path) -> Counter[str]:
    """How often each label occurs: labels as written, at least one.

    Raises DataError naming file and line.
    """
    path = there(path, "labels")
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; labels are a CSV with a column `label`, a .txt with a label a line, or a JSON "
            "object of counts."
        )
    suffix = path.suffix.lower()
    if suffix == ".json":
        written = read_json(path)
        if isinstance(written, list):
            counts = Counter(map(str, checked(path, written, list[_Label], ("a list of labels", "a label"))))
        else:
            expected = ("an object {label: number of samples} or a list of labels", "a number of samples")
            counts = Counter(checked(path, written, dict[str, Whole], expected))
    elif suffix in TABLES:
        counts = _labels_of_table(path)
    elif suffix == ".txt":
        counts = Counter(line for _, line in lines(path))
    else:
        raise DataError(
            f"{path}: its name ends in {suffix or 'nothing'!r}; labels are read from .csv, .tsv, .txt or .json."
        )
    counts = +counts
    if not counts:
        raise DataError(f"{path}: holds no labels. Give a label for each sample of the target.")
    return counts


def read_task_labels(path: Path) -> dict[str, dict[str, int]]:
    """How many training samples of each class each task had, task by task in the order of the file.

    From JSON `{task: {class: n}}` or a CSV with the columns task, label and count. Raises DataError.
    """
    path = there(path, "label counts of the tasks")
    tasks: dict[str, dict[str, int]]
    if path.suffix.lower() == ".json":
        expected = (
            "an object {task: {class: number of samples}}",
            "an object {class: number of samples}",
            "a number of samples",
        )
        tasks = checked(path, read_json(path), dict[str, dict[str, Whole]], expected)
    elif path.suffix.lower() in TABLES:
        table = open_table(path)
        columns = table.columns
        named = {what: named_column(columns, known) for what, known in _TASK_COLUMNS.items()}
        lacking = [what for what, name in named.items() if name is None]
        if columns and lacking:
            raise DataError(
                f"{path}: there is no column {lacking[0]!r}; the columns are: {', '.join(columns)}. Expected task, "
                "label and count."
            )
        rows = {what: read_table(table, "row", input=name, label=name, kind="text") for what, name in named.items()}
        tasks = {}
        for i, (task, label, count) in enumerate(zip(*(rows[what].labels for what in _TASK_COLUMNS), strict=True)):
            counts = tasks.setdefault(str(task), {})
            counts[str(label)] = counts.get(str(label), 0) + _in_table(count, f"{path}: sample {i + 1}: count")
    else:
        raise DataError(
            f"{path}: label counts of the tasks are a .json, {{task: {{class: n}}}}, or a .csv with the columns task, "
            "label and count."
        )
    tasks = {task: {label: n for label, n in counts.items() if n} for task, counts in tasks.items()}
    empty = next((task for task, counts in tasks.items() if not counts), None)
    if empty is not None or not tasks:
        what = "names no tasks" if empty is None else f"task {empty!r} has no samples"
        raise DataError(f"{path}: {what}. Every task needs the number of its samples of each class.")
    return tasks


def matched(labels: Mapping[str, int], classes: Iterable[str]) -> Matched:
    """The labels by the names of the classes: as written, else folded (letters and digits, no case)."""
    names = list(dict.fromkeys(classes))
    alike = Counter(folded(name) for name in names)  # names that fold alike (C, C++) match only as written
    by_fold = {folded(name): name for name in names if alike[folded(name)] == 1 and folded(name)}
    exact = {name: name for name in names}
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    meant: dict[str, str] = {}
    for label, count in labels.items():
        name = exact.get(label, by_fold.get(folded(label)))
        if name is not None:
            known[name] += count
            continue
        unknown[label] += count
        near = nearest(label, names, fold=True)
        if near is not None:
            meant[label] = near
    return Matched(known, unknown, meant)


def _labels_of_table(path: Path) -> Counter[str]:
    table = open_table(path)
    columns = table.columns
    name, many = named_column(columns, LABEL_COLUMNS), named_column(columns, _COUNT_COLUMNS)
    if name is None and len(columns) == 1:  # a list without a header
        return Counter(row[0].strip() for row in (columns, *table.rows) if row[0].strip())
    if columns and name is None:
        raise DataError(
            f"{path}: no column looks like the label ({', '.join(LABEL_COLUMNS[:4])}, …); the columns are: "
            f"{', '.join(columns)}. Name it `label`."
        )
    labels = read_table(table, "row", input=name, label=name, kind="text").labels
    if many is None:
        return Counter(map(str, labels))
    counts: Counter[str] = Counter()
    for i, (label, count) in enumerate(
        zip(labels, read_table(table, "row", input=many, label=many, kind="text").labels, strict=True)
    ):
        counts[str(label)] += _in_table(count, f"{path}: row {i + 1}: {many}")
    return counts


def _in_table(value: object, where: str) -> int:
    try:
        return whole(value)
    except ValueError as error:
        raise DataError(f"{where} is {value!r}; {error}.") from error
