"""Inputs as they lie on disk: of the target, with or without labels, and of the tasks.

    inputs     a folder of images or of .txt files, a list of texts or of paths, a CSV with a column for them
    pairs      CSV with an input and a label, or a folder of images per class

Cost: ids, labels and texts in memory; images stay on disk. No torch. Not here: encoding (`models.features`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prefmerge.data.examples import Examples, InputKind
from prefmerge.data.hub import open_folder
from prefmerge.data.images import SUFFIXES
from prefmerge.data.labels import mapped
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
from prefmerge.data.tables import TABLES, ReadTable, open_table, read_table
from prefmerge.data.whole import Steady, read_whole
from prefmerge.errors import DataError
from prefmerge.ground.draws import rank
from prefmerge.ground.words import listed, quoted
from prefmerge.target.given.embeddings import EMBEDDED
from prefmerge.target.given.files import lines, named_column, there
from prefmerge.target.given.labels import Matched, matched

MOST = 2000  # inputs of the target that are encoded at most; transport between 500 and 2,000 points takes seconds

_INPUT_COLUMNS: Mapping[InputKind, tuple[str, ...]] = {"text": TEXT_COLUMNS, "image": IMAGE_COLUMNS}
_FORMS: Mapping[InputKind, str] = {
    "image": "a folder of images, a .txt with the path of an image a line, or a CSV with a column `image`",
    "text": "a folder of .txt files, a .txt with a text a line, or a CSV with a column `text`",
}
_SHOWN = 5  # names that a message lists
_ROWS = 3  # labels that a message lists with their rows


def read_inputs(path: Path, kind: InputKind) -> Examples:
    """Inputs without labels (theirs are all -1) for a model that reads `kind`; at least one. Nothing is decoded yet.

    Raises DataError where there are none, or they are of the other kind; `read` raises it for an image that is none.
    """
    path = there(path, f"{kind}s")
    suffix = path.suffix.lower()
    if path.is_dir():
        rows = _of_folder(path, kind)
    elif suffix == ".txt":
        rows = _of_list(path, kind)
    elif suffix in TABLES:
        table = open_table(path)
        name = _input_column(table, kind)
        rows = read_table(table, path.stem, input=name, label=name, kind=kind)
    else:
        told = "holds embeddings, and those of the tasks are not" if suffix in EMBEDDED else f"is none of {kind}s"
        raise DataError(f"{path}: {told}. Expected {_FORMS[kind]}.")
    return _examples(rows, np.full(len(rows), -1, np.int64))


def read_pairs(path: Path, classes: Sequence[str], kind: InputKind) -> tuple[Examples, tuple[str, ...]]:
    """The target's inputs with their labels, which count into `classes`; and a note where up to half of the labels are
    none of them: those samples are left aside. Raises DataError where more are.
    """
    rows = _labelled(path, kind)
    result = _matched(rows, classes)
    result.require_half(classes, f"{path}: ")
    lost = set(result.unknown)
    examples = _examples(rows, _mapped(rows, classes, lost))
    at = [i for i, label in enumerate(rows.labels) if str(label) not in lost]
    return examples.take(at) if lost else examples, result.note()


def read_labelled(path: Path, classes: Sequence[str], kind: InputKind, hint: str = "") -> Examples:
    """A task's inputs with their labels. Raises DataError naming labels that are none of the `classes`; then `hint`
    says where the names of the classes come from.
    """
    rows = _labelled(path, kind)
    result = _matched(rows, classes)
    if result.unknown:
        raise DataError(f"{path}: {_not_classes(result, classes)}{hint}")
    return _examples(rows, _mapped(rows, classes))


def labels_of(path: Path, kind: InputKind) -> tuple[str, ...]:
    """The labels that a task's inputs have, each once. Raises DataError where they have none."""
    return tuple(dict.fromkeys(str(label) for label in _labelled(path, kind).labels))


def _labelled(path: Path, kind: InputKind) -> Rows:
    path = there(path, f"{kind}s with labels")
    if path.is_dir():
        if kind == "text":
            raise DataError(f"{path}: is a folder; texts with labels are a CSV with the columns text and label.")
        source = open_folder(path)
        if len(source.splits) > 1:
            raise DataError(
                f"{path}: holds several parts ({', '.join(source.splits)}). Give the one that is of the target, such "
                f"as {path / next(iter(source.splits))}."
            )
        rows = source.rows(next(iter(source.splits)))
        if rows.kind != kind:
            raise DataError(f"{path}: holds {rows.kind}s, and the model reads {kind}s.")
    elif path.suffix.lower() in TABLES:
        table = open_table(path)
        name, columns = _input_column(table, kind), table.columns
        label = named_column(columns, LABEL_COLUMNS)
        if columns and label is None:
            raise DataError(
                f"{path}: no column looks like the label ({', '.join(LABEL_COLUMNS[:4])}, …); the columns are: "
                f"{', '.join(columns)}. Name it `label`; without labels, give the file as --inputs."
            )
        rows = read_table(table, path.stem, input=name, label=label, kind=kind)
    else:
        raise DataError(
            f"{path}: {kind}s with labels are a CSV with the columns {kind} and label"
            f"{', or a folder of images per class' if kind == 'image' else ''}."
        )
    return rows


def _matched(rows: Rows, classes: Sequence[str]) -> Matched:
    """The labels by the names of the classes; of each that is none, the row where it is first."""
    labels = [str(label) for label in rows.labels]
    result = matched(Counter(labels), classes)
    return replace(result, rows={label: rows.ids[labels.index(label)] for label in result.unknown})


def _mapped(rows: Rows, classes: Sequence[str], lost: Container[str] = ()) -> np.ndarray:
    """Labels (N,) into the classes. Those in `lost` become the first, for whoever takes them out. A target need not see
    every class, so what a source declares beside the labels that occur does not matter.
    """
    names = tuple(classes[0] if str(label) in lost else str(label) for label in rows.labels)
    return mapped(replace(rows, labels=names, names=None), classes)


def _not_classes(result: Matched, classes: Sequence[str]) -> str:
    lost = list(result.unknown)
    near = next((result.nearest[label] for label in lost if label in result.nearest), None)
    bare = all(label.isascii() and label.isdigit() for label in lost)
    hint = " Write the names of the classes." if bare else f" Did you mean {near!r}?" if near else ""
    shown = listed(lost, _ROWS, form=lambda label: f"{label!r} (first at sample {result.rows[label]!r})")
    what = f"the label {shown} is" if len(lost) == 1 else f"{len(lost)} labels {shown} are"
    return f"{what} not among the {len(classes)} classes {quoted(classes, _SHOWN)}.{hint}"


def chosen(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` of the samples, by a keyed hash of their ids: a larger count keeps those of a smaller one."""
    return examples if len(examples) <= count else examples.take(chosen_at(examples.ids, count, seed))


def chosen_at(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Ascending positions of at most `count` of the ids."""
    return sorted(sorted(range(len(ids)), key=lambda i: rank("similarity", seed, ids[i]))[:count])


def within_most(ids: Sequence[str], seed: int) -> tuple[list[int], tuple[str, ...]]:
    """Ascending positions of the target's inputs that are used, `MOST` at most, and a note where there are more."""
    return chosen_at(ids, MOST, seed), (
        (f"{MOST} of the target's {len(ids)} inputs were used.",) if len(ids) > MOST else ()
    )


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
        return [there(path, f"samples of task {name!r}") for path, name in zip(given, names, strict=True)]
    folder = there(given[0], "samples of the tasks")
    parts = _parts_of(folder)
    if len(names) == 1 and names[0] not in parts:
        return [folder]
    lacking = next((name for name in names if name not in parts), None)
    if lacking is not None:
        has = f"it has {quoted(sorted(parts), _SHOWN)}" if parts else "it has none"
        raise DataError(
            f"{folder}: there are no samples of task {lacking!r}: expected a folder (or .txt, .csv or .npy) named "
            f"after each of the {len(names)} tasks; {has}. Or give --task-samples once for each task."
        )
    return [parts[name] for name in names]


def _parts_of(folder: Path) -> dict[str, Path]:
    """What a folder holds, by name; a file by its stem, where no folder is called that."""
    if not folder.is_dir():
        return {}
    inside = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    files = {one.stem: one for one in inside if one.suffix.lower() in (".txt", *TABLES, *EMBEDDED)}
    return files | {one.name: one for one in inside if one.is_dir()}


def _input_column(table: ReadTable, kind: InputKind) -> str | None:
    """The column that holds what the model reads; None where there is no column, which `read_table` says."""
    path, columns, other = table.file, table.columns, "image" if kind == "text" else "text"
    name = named_column(columns, _INPUT_COLUMNS[kind])
    if not columns or name is not None:
        return name
    theirs = named_column(columns, _INPUT_COLUMNS["image" if kind == "text" else "text"])
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
        content = read_whole(file, str(file))
        try:
            text = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
        if not text:
            raise DataError(f"{file}: holds no text. Fill or remove it.")
        texts.append(text)
    return _texts(str(folder), ids, texts)


def _of_list(path: Path, kind: InputKind) -> Rows:
    written = lines(path)
    if not written:
        raise DataError(
            f"{path}: holds nothing. Expected {'a text' if kind == 'text' else 'the path of an image'} a line."
        )
    like_images = all(line.lower().endswith(SUFFIXES) for _, line in written)
    if kind == "text":
        if like_images:
            raise DataError(f"{path}: lists images, and the model reads texts. Expected {_FORMS[kind]}.")
        return _texts(
            str(path), tuple(f"{path.stem}/{i:05d}" for i in range(len(written))), [line for _, line in written]
        )
    files = tuple(path.parent / line for _, line in written)
    for (number, line), file in zip(written, files, strict=True):
        if not os.path.isfile(file):
            also = (
                "Paths are relative to the list."
                if like_images
                else f"The model reads images. Expected {_FORMS[kind]}."
            )
            raise DataError(f"{path}: line {number} names {shown(line)}, and there is no such file. {also}")
    told = tuple(
        f"{path}: line {number}: image {str(file)!r}" for (number, _), file in zip(written, files, strict=True)
    )
    return _images(str(path), distinct(line for _, line in written), files, told)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and in those below it, without hidden ones, in an order that every machine shares."""
    files: list[Path] = []
    seen: set[str] = set()
    for inside, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(inside)
        if real in seen:  # a link to a folder that was read, or that holds this one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(inside, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(files)


@dataclass(frozen=True)
class _Contents:
    """The contents of image files; `name(i)` is what a message calls one."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    steady: Steady = field(default_factory=Steady)

    def name(self, i: int) -> str:
        return self.names[i]

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        return [self.steady.read(self.files[i], self.names[i]) for i in at]


def _images(where: str, ids: tuple[str, ...], files: tuple[Path, ...], names: tuple[str, ...]) -> Rows:
    contents = _Contents(files, names)
    return Rows(where, "image", ids, ("",) * len(ids), Decoded(contents, contents.name), ContentHash(contents))


def _texts(where: str, ids: tuple[str, ...], texts: Sequence[str]) -> Rows:
    read = Texts(tuple(texts))
    return Rows(where, "text", ids, ("",) * len(ids), read, ContentHash(Encoded(read)))


def _examples(rows: Rows, labels: np.ndarray) -> Examples:
    return Examples(ids=rows.ids, labels=labels, read=rows.read, fingerprint=rows.fingerprint)
