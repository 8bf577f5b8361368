"""What a user has of a place, as it lies on disk: labels, inputs, both; and the same of the tasks.

    labels     CSV with a column `label`, a list of them (.txt, or a CSV of one column), JSON: how often each occurs
    inputs     a folder of images or of .txt files, a list of texts or of paths, a CSV with a column for them
    pairs      CSV with an input and a label, or a folder of images per class
    embedded   .npy (N, E), or .npz with an array for each task, for those who encode by themselves

Labels are matched to classes by name, as written or folded, and never by position. Cost: ids, labels and texts in
memory; images stay on disk. No torch. Leaves out: encoding (`features`), what it all means (`prefmerge.target.prefer`).
"""

from __future__ import annotations

import csv
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.data.examples import Examples, InputKind
from prefmerge.data.hub import open_folder
from prefmerge.data.images import SUFFIXES, content_of
from prefmerge.data.labels import folded, mapped
from prefmerge.data.rows import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    ContentHash,
    Decoded,
    Encoded,
    Rows,
    Texts,
    distinct,
    shown,
)
from prefmerge.data.tables import TABLES, read_table
from prefmerge.errors import DataError
from prefmerge.ground import jsons
from prefmerge.ground.draws import rank
from prefmerge.ground.words import nearest, quoted

EMBEDDED = (".npy", ".npz")
_COUNT_COLUMNS = ("count", "counts", "n", "samples")
_INPUT_COLUMNS: Mapping[InputKind, tuple[str, ...]] = {"text": TEXT_COLUMNS, "image": IMAGE_COLUMNS}
_FORMS: Mapping[InputKind, str] = {
    "image": "a folder of images, a .txt with the path of an image a line, or a CSV with a column `image`",
    "text": "a folder of .txt files, a .txt with a text a line, or a CSV with a column `text`",
}
_SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class Matched:
    """How often each class occurs among a place's labels, and what is no class."""

    known: Counter[str]  # by the names of the classes
    unknown: Counter[str]  # as written
    nearest: Mapping[str, str]  # unknown label -> the class whose name is near, where one is


def read_labels(path: Path) -> Counter[str]:
    """How often each label occurs: labels as written, at least one.

    Raises DataError naming file and line.
    """
    path = _there(path, "labels")
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; labels are a CSV with a column `label`, a .txt with a label a line, or a JSON "
            "object of counts."
        )
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _json(path)
        counts = Counter(map(str, found)) if isinstance(found, list) else Counter(_counts(found, str(path)))
    elif suffix in TABLES:
        counts = _labels_of_table(path)
    elif suffix == ".txt":
        counts = Counter(line for _, line in _lines(path))
    else:
        raise DataError(
            f"{path}: its name ends in {suffix or 'nothing'!r}; labels are read from .csv, .tsv, .txt or .json."
        )
    counts = +counts
    if not counts:
        raise DataError(f"{path}: holds no labels. Give a label for each sample of the place.")
    return counts


def read_task_labels(path: Path) -> dict[str, dict[str, int]]:
    """How many training samples of each class each task had, task by task in the order of the file.

    From JSON `{task: {class: n}}` or a CSV with the columns task, label and count. Raises DataError.
    """
    path = _there(path, "label counts of the tasks")
    if path.suffix.lower() == ".json":
        found = _json(path)
        if not isinstance(found, dict) or not all(isinstance(counts, dict) for counts in found.values()):
            raise DataError(f"{path}: expected an object of objects, {{task: {{class: number of samples}}}}.")
        tasks = {str(task): _counts(counts, f"{path}: task {task!r}") for task, counts in found.items()}
    elif path.suffix.lower() in TABLES:
        columns = header(path)
        named = {what: _column(columns, known) for what, known in _TASK_COLUMNS.items()}
        lacking = [what for what, name in named.items() if name is None]
        if columns and lacking:
            raise DataError(
                f"{path}: there is no column {lacking[0]!r}; the columns are: {', '.join(columns)}. Expected task, "
                "label and count."
            )
        rows = {what: read_table(path, "row", input=name, label=name, kind="text") for what, name in named.items()}
        tasks: dict[str, dict[str, int]] = {}
        for i, (task, label, count) in enumerate(zip(*(rows[what].labels for what in _TASK_COLUMNS), strict=True)):
            counts = tasks.setdefault(str(task), {})
            counts[str(label)] = counts.get(str(label), 0) + _whole(count, f"{path}: sample {i + 1}: count")
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


_TASK_COLUMNS = {"task": ("task",), "label": LABEL_COLUMNS, "count": _COUNT_COLUMNS}


def matched(labels: Mapping[str, int], classes: Iterable[str]) -> Matched:
    """The labels by the names of the classes: as written, else folded (letters and digits, no case)."""
    names = list(dict.fromkeys(classes))
    alike = Counter(folded(name) for name in names)  # names that fold alike (C, C++) are told apart only as written
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


def read_features(path: Path, kind: InputKind) -> Examples:
    """Inputs without labels (theirs are all -1) for a model that reads `kind`; at least one. Nothing is decoded yet.

    Raises DataError where there are none, or they are of the other kind; `read` raises it for an image that is none.
    """
    path = _there(path, f"{kind}s")
    suffix = path.suffix.lower()
    if path.is_dir():
        rows = _of_folder(path, kind)
    elif suffix == ".txt":
        rows = _of_list(path, kind)
    elif suffix in TABLES:
        name = _input_column(path, kind)
        rows = read_table(path, path.stem, input=name, label=name, kind=kind)
    else:
        told = "holds embeddings, and those of the tasks are not" if suffix in EMBEDDED else f"is none of {kind}s"
        raise DataError(f"{path}: {told}. Expected {_FORMS[kind]}.")
    return _examples(rows, np.full(len(rows), -1, np.int64))


def read_pairs(path: Path, classes: Sequence[str], kind: InputKind, hint: str = "") -> Examples:
    """Inputs with their labels, which count into `classes`. Raises DataError naming labels that are none of them; then
    `hint` says where the names of the classes come from.
    """
    path = _there(path, f"{kind}s with labels")
    if path.is_dir():
        if kind == "text":
            raise DataError(f"{path}: is a folder; texts with labels are a CSV with the columns text and label.")
        source = open_folder(path)
        if len(source.splits) > 1:
            raise DataError(
                f"{path}: holds several parts ({', '.join(source.splits)}). Give the one that is of the place, such as "
                f"{path / next(iter(source.splits))}."
            )
        rows = source.rows(next(iter(source.splits)))
        if rows.kind != kind:
            raise DataError(f"{path}: holds {rows.kind}s, and the model reads {kind}s.")
    elif path.suffix.lower() in TABLES:
        name, columns = _input_column(path, kind), header(path)
        label = _column(columns, LABEL_COLUMNS)
        if columns and label is None:
            raise DataError(
                f"{path}: no column looks like the label ({', '.join(LABEL_COLUMNS[:4])}, …); the columns are: "
                f"{', '.join(columns)}. Name it `label`; without labels, give the file as --features."
            )
        rows = read_table(path, path.stem, input=name, label=label, kind=kind)
    else:
        raise DataError(
            f"{path}: {kind}s with labels are a CSV with the columns {kind} and label"
            f"{', or a folder of images per class' if kind == 'image' else ''}."
        )
    labels = [str(label) for label in rows.labels]
    found = matched(Counter(labels), classes)
    if found.unknown:
        raise DataError(f"{path}: {_not_classes(found, labels, rows.ids, classes)}{hint}")
    # A place need not see every class, so what a source declares beside the labels that occur does not matter.
    return _examples(rows, mapped(replace(rows, labels=tuple(labels), names=None), classes))


def _not_classes(found: Matched, labels: Sequence[str], ids: Sequence[str], classes: Sequence[str]) -> str:
    lost = list(found.unknown)
    near = next((found.nearest[label] for label in lost if label in found.nearest), None)
    bare = all(label.isascii() and label.isdigit() for label in lost)
    hint = " Write the names of the classes." if bare else f" Did you mean {near!r}?" if near else ""
    what = f"the label {lost[0]!r}" if len(lost) == 1 else f"{len(lost)} labels {quoted(lost, _SHOWN)}"
    return (
        f"{what} (first at sample {ids[labels.index(lost[0])]!r}) {'is' if len(lost) == 1 else 'are'} not among the "
        f"{len(classes)} classes {quoted(classes, _SHOWN)}.{hint}"
    )


def chosen(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` of the samples, by a keyed hash of their ids: a larger count keeps those of a smaller one."""
    return examples if len(examples) <= count else examples.take(chosen_at(examples.ids, count, seed))


def chosen_at(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Ascending positions of at most `count` of the ids."""
    return sorted(sorted(range(len(ids)), key=lambda i: rank("similarity", seed, ids[i]))[:count])


def task_sources(given: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Where each task's samples lie: one path for each, in order, or a folder with a part named after each.

    Raises DataError naming the task without samples.
    """
    if len(given) != 1:
        if len(given) != len(names):
            raise DataError(
                f"samples are given for {len(given)} tasks, and there are {len(names)}: {', '.join(names)}. Give "
                "--task-samples once for each, in this order, or once with a folder that has a part named after each."
            )
        return [_there(path, f"samples of task {name!r}") for path, name in zip(given, names, strict=True)]
    folder = _there(given[0], "samples of the tasks")
    parts = _parts_of(folder)
    if len(names) == 1 and names[0] not in parts:
        return [folder]
    lacking = next((name for name in names if name not in parts), None)
    if lacking is not None:
        there = f"it has {quoted(sorted(parts), _SHOWN)}" if parts else "it has none"
        raise DataError(
            f"{folder}: there are no samples of task {lacking!r}: expected a folder (or .txt, .csv or .npy) named "
            f"after each of the {len(names)} tasks; {there}. Or give --task-samples once for each task."
        )
    return [parts[name] for name in names]


def read_embeddings(path: Path, names: Sequence[str], what: str, shared: bool = True) -> list[np.ndarray]:
    """Embeddings (N, E) for each of the T tasks out of one file: an array by the name of each task; or, where it may be
    `shared`, one for all.

    Raises DataError naming file and array.
    """
    found = _arrays(path, what)
    if len(names) == 1 and names[0] not in found and len(found) == 1:
        shared = True
    if shared and len(found) == 1 and not set(found) & set(names):
        name, array = next(iter(found.items()))
        return [_checked(array, f"{path}{f': array {name!r}' if name else ''}")] * len(names)
    lacking = next((name for name in names if name not in found), None)
    if lacking is not None:
        there = quoted([name for name in found if name], _SHOWN) or "one without a name"
        raise DataError(
            f"{path}: there is no array for task {lacking!r}; it holds {there}. Expected {what}: an .npz with an array "
            f"named after each task{', or one array for all' if shared else ''}."
        )
    return [_checked(found[name], f"{path}: array {name!r}") for name in names]


def embedding_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in an .npz, in its order: those of the tasks."""
    return tuple(_arrays(path, "embeddings of the tasks' samples"))


def _arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, or that of an .npy, which has none."""
    path = _there(path, what)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot be read as .npy or .npz: {reason}.") from error


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: has shape {array.shape} and type {array.dtype}; expected numbers of shape (samples, width)."
        )
    if not array.size:
        raise DataError(f"{where}: holds no embeddings: its shape is {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: holds NaN or infinity.")
    return array


def _parts_of(folder: Path) -> dict[str, Path]:
    """What a folder holds, by name; a file by its stem, where no folder is called that."""
    if not folder.is_dir():
        return {}
    inside = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    files = {one.stem: one for one in inside if one.suffix.lower() in (".txt", *TABLES, *EMBEDDED)}
    return files | {one.name: one for one in inside if one.is_dir()}


def _there(path: str | Path, what: str) -> Path:
    try:
        path = Path(path).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file or folder; expected {what}.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{shown(str(path))}: cannot be read: {reason}; expected {what}.") from error
    return path


def _json(path: Path) -> Any:
    try:
        return jsons.read(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}.") from error


def _counts(found: Any, where: str) -> dict[str, int]:
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object {{label: number of samples}}, found {type(found).__name__}.")
    return {str(label): _whole(count, f"{where}: count of {label!r}") for label, count in found.items()}


def _whole(value: Any, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{where} is {value!r}; expected a number of samples.")
    return value


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that hold something, stripped, with their numbers."""
    try:
        found = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return [(number, line.strip()) for number, line in enumerate(found, 1) if line.strip()]


def header(path: Path) -> list[str]:
    """The names of a table's columns; none where it cannot be read, which `read_table` then says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            return [name.strip() for name in next(reader, [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of `known` that is there, compared without case."""
    by_fold = {name.casefold(): name for name in reversed(columns)}
    return next((by_fold[name] for name in known if name in by_fold), None)


def _labels_of_table(path: Path) -> Counter[str]:
    columns = header(path)
    name, many = _column(columns, LABEL_COLUMNS), _column(columns, _COUNT_COLUMNS)
    if name is None and len(columns) == 1:  # a list without a header
        return Counter(next(csv.reader([line]))[0].strip() for _, line in _lines(path))
    if columns and name is None:
        raise DataError(
            f"{path}: no column looks like the label ({', '.join(LABEL_COLUMNS[:4])}, …); the columns are: "
            f"{', '.join(columns)}. Name it `label`."
        )
    labels = read_table(path, "row", input=name, label=name, kind="text").labels
    if many is None:
        return Counter(map(str, labels))
    counts: Counter[str] = Counter()
    for i, (label, count) in enumerate(
        zip(labels, read_table(path, "row", input=many, label=many, kind="text").labels, strict=True)
    ):
        counts[str(label)] += _whole(count, f"{path}: row {i + 1}: {many}")
    return counts


def _input_column(path: Path, kind: InputKind) -> str | None:
    """The column that holds what the model reads; None where the table cannot be read, which `read_table` says."""
    columns, other = header(path), "image" if kind == "text" else "text"
    name = _column(columns, _INPUT_COLUMNS[kind])
    if not columns or name is not None:
        return name
    theirs = _column(columns, _INPUT_COLUMNS["image" if kind == "text" else "text"])
    if theirs is not None:
        raise DataError(
            f"{path}: has a column {theirs!r} of {other}s, and the model reads {kind}s. Expected {_FORMS[kind]}."
        )
    raise DataError(
        f"{path}: no column looks like the {kind} ({', '.join(_INPUT_COLUMNS[kind][:4])}, …); the columns are: "
        f"{', '.join(columns)}. Name it `{kind}`."
    )


def _of_folder(folder: Path, kind: InputKind) -> Rows:
    suffixes: Mapping[InputKind, tuple[str, ...]] = {"image": SUFFIXES, "text": (".txt",)}
    other: InputKind = "image" if kind == "text" else "text"
    files = _files(folder, suffixes[kind])
    if not files:
        theirs = len(_files(folder, suffixes[other]))
        if theirs:
            raise DataError(
                f"{folder}: holds {theirs} {other} files and no {kind} files, and the model reads {kind}s. Expected "
                f"{_FORMS[kind]}."
            )
        raise DataError(f"{folder}: holds no {kind} files ({', '.join(suffixes[kind])}), nor do the folders in it.")
    ids = tuple(file.relative_to(folder).as_posix() for file in files)
    if kind == "image":
        return _images(str(folder), ids, tuple(files), tuple(str(file) for file in files))
    texts = []
    for file in files:
        content = content_of(file, str(file))
        try:
            text = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
        if not text:
            raise DataError(f"{file}: holds no text. Fill or remove it.")
        texts.append(text)
    return _texts(str(folder), ids, texts)


def _of_list(path: Path, kind: InputKind) -> Rows:
    lines = _lines(path)
    if not lines:
        raise DataError(
            f"{path}: holds nothing. Expected {'a text' if kind == 'text' else 'the path of an image'} a line."
        )
    like_images = all(line.lower().endswith(SUFFIXES) for _, line in lines)
    if kind == "text":
        if like_images:
            raise DataError(f"{path}: lists images, and the model reads texts. Expected {_FORMS[kind]}.")
        return _texts(str(path), tuple(f"{path.stem}/{i:05d}" for i in range(len(lines))), [line for _, line in lines])
    files = tuple(path.parent / line for _, line in lines)
    for (number, line), file in zip(lines, files, strict=True):
        if not os.path.isfile(file):
            also = (
                "Paths are relative to the list."
                if like_images
                else f"The model reads images. Expected {_FORMS[kind]}."
            )
            raise DataError(f"{path}: line {number} names {shown(line)}, and there is no such file. {also}")
    told = tuple(f"{path}: line {number}: image {str(file)!r}" for (number, _), file in zip(lines, files, strict=True))
    return _images(str(path), distinct(line for _, line in lines), files, told)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and in those below it, hidden ones left out, in an order that every machine shares."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that was read, or that holds this one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found)


@dataclass(frozen=True)
class _Contents:
    """The contents of image files; `name` is what a message calls one."""

    files: tuple[Path, ...]
    told: tuple[str, ...]

    def name(self, i: int) -> str:
        return self.told[i]

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        return [content_of(self.files[i], self.told[i]) for i in at]


def _images(where: str, ids: tuple[str, ...], files: tuple[Path, ...], told: tuple[str, ...]) -> Rows:
    contents = _Contents(files, told)
    return Rows(where, "image", ids, ("",) * len(ids), Decoded(contents, contents.name), ContentHash(contents))


def _texts(where: str, ids: tuple[str, ...], texts: Sequence[str]) -> Rows:
    read = Texts(tuple(texts))
    return Rows(where, "text", ids, ("",) * len(ids), read, ContentHash(Encoded(read)))


def _examples(rows: Rows, labels: np.ndarray) -> Examples:
    return Examples(ids=rows.ids, labels=labels, read=rows.read, fingerprint=rows.fingerprint)
