"""From a line of configuration to a `Corpus`: find the source, map labels to classes by name, split, choose.

Sources: a registered name, a hub id, a local copy of either, a folder of images, a CSV. Labels are (N,) int64 into the
classes. Where there is no test set a stratified fifth is held out, by a keyed hash of the ids and the seed; for
ImageNet-R by a frozen rule, the same for every seed. Cost: ids and labels of all samples; no input is decoded. Not
here: what tasks are made of the samples (`scenarios`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prefmerge.data.examples import Corpus, Examples, InputKind
from prefmerge.data.hub import DOMAIN_FOLDER, TEST_FOLDERS, OpenedDataSet, open_folder, open_hub
from prefmerge.data.labels import classes_of, mapped, require_same_classes
from prefmerge.data.registry import REGISTRY, DataSet, registered
from prefmerge.data.rows import Rows, shown
from prefmerge.data.tables import TABLES, read_table
from prefmerge.data.unreadable import unreadable, without
from prefmerge.errors import DataError
from prefmerge.ground.draws import held_out, per_class
from prefmerge.ground.progress import phase
from prefmerge.ground.words import did_you_mean

if TYPE_CHECKING:
    from prefmerge.config import DataConfig

DEFAULT_TEMPLATES: dict[InputKind, tuple[str, ...]] = {"image": ("a photo of a {}.",), "text": ("{}",)}


@phase("opening the data")
def load_corpus(config: DataConfig, seed: int) -> Corpus:
    """The data set that a part of the configuration names. `seed` chooses what is held out and which samples are used.

    Raises DataError naming file or data set, what was found, what was expected and what to do.
    """
    known = registered(config.name)
    train, test = _rows(config, known)
    skipped = config.skip or ()
    if skipped == "unreadable":
        skipped = tuple(name for rows in (train, test) if rows is not None for name in unreadable(rows))
    train, test = without(train, skipped), None if test is None else without(test, skipped)
    if test is not None and test.kind != train.kind:
        raise DataError(f"{test.where}: holds {test.kind}s, and the training samples are {train.kind}s.")
    if test is not None and known is None and config.classes is None:
        require_same_classes(train, test)
    classes = _classes(config, known, [train] if test is None else [train, test])
    train_examples, test_examples = _split(config, known, train, test, classes, seed)
    if config.train_per_class is not None:
        chosen = per_class(train_examples.ids, train_examples.labels, config.train_per_class, seed)
        train_examples = train_examples.take(chosen)
    if config.test_per_class is not None:
        chosen = per_class(test_examples.ids, test_examples.labels, config.test_per_class, seed)
        test_examples = test_examples.take(chosen)
    return Corpus(
        name=known.name if known else _plain(config.name),
        kind=train.kind,
        classes=classes,
        templates=config.templates or (known.templates if known else DEFAULT_TEMPLATES[train.kind]),
        train=train_examples,
        test=test_examples,
        skipped=skipped,
    )


@dataclass(frozen=True)
class _Columns:
    """Which columns the configuration names; None: recognised by their names."""

    input: str | None = None
    label: str | None = None
    domain: str | None = None
    kind: InputKind | None = None

    def table(self, file: Path, prefix: str) -> Rows:
        return read_table(file, prefix, input=self.input, label=self.label, domain=self.domain, kind=self.kind)

    def folder(self, path: Path, config: str | None = None) -> OpenedDataSet:
        return open_folder(path, config, domains=self.domain == DOMAIN_FOLDER)

    def split(self, source: OpenedDataSet, split: str) -> Rows:
        return source.rows(split, input=self.input, label=self.label, domain=self.domain, kind=self.kind)


def _rows(config: DataConfig, known: DataSet | None) -> tuple[Rows, Rows | None]:
    """The training rows that the configuration means, wherever they are, and the test rows where there are any."""
    columns = _Columns(config.input, config.label, config.domain, None if config.kind == "auto" else config.kind)
    place = config.path or (None if known is not None else config.name)
    if place is None:
        assert known is not None
        return _of_source(open_hub(known.hub, known.config, config.revision), config, known, columns)
    path = _path(place, "data set ")
    if path.suffix.lower() in TABLES:
        if config.test is None:
            return columns.table(path, path.stem), None
        return columns.table(path, "train"), _separate(config.test, columns)
    table = next((path / f"train{suffix}" for suffix in TABLES if os.path.isfile(path / f"train{suffix}")), None)
    if table is not None:
        beside = table.with_stem("test")
        test = config.test or (str(beside) if beside.is_file() else None)
        return columns.table(table, "train"), None if test is None else _separate(test, columns)
    if not path.exists() and config.path is None:
        if re.fullmatch(r"[\w.-]+/[\w.-]+", place) is None or place.startswith("."):
            raise _unknown(place)
        return _of_source(open_hub(place, None, config.revision), config, None, columns)
    return _of_source(columns.folder(path, known.config if known else None), config, known, columns)


def _of_source(
    source: OpenedDataSet, config: DataConfig, known: DataSet | None, columns: _Columns
) -> tuple[Rows, Rows | None]:
    only = next(iter(source.splits)) if len(source.splits) == 1 else None
    train, test = only or "train", next((name for name in TEST_FOLDERS if name in source.splits and name != only), None)
    if known is not None and source.folder is None:  # a folder of images has columns and splits of its own
        train, test = known.splits.get("all") or known.splits["train"], known.splits.get("test")
        has = source.splits[train].column_names if train in source.splits else []
        columns = replace(
            columns,
            input=columns.input or known.columns["input"],
            label=columns.label or known.columns["label"],
            domain=columns.domain or next((c for c in (known.columns.get("domain"),) if c in has), None),
        )
    if config.test is not None and config.test not in source.splits:
        if not _path(config.test, "test: ").exists():
            raise DataError(
                f"{source.where}: `test: {config.test}` is neither a split nor a file or folder; the splits are: "
                f"{', '.join(source.splits)}."
            )
        return columns.split(source, train), _separate(config.test, columns)
    test = config.test or test
    return columns.split(source, train), None if test is None else columns.split(source, test)


def _separate(test: str, columns: _Columns) -> Rows:
    """Test samples that lie apart from the training samples; their ids begin with test/, so that none meets another."""
    path = _path(test, "test: ")
    if path.suffix.lower() in TABLES:
        return columns.table(path, "test")
    source = columns.folder(path)
    rows = columns.split(
        source, next((name for name in TEST_FOLDERS if name in source.splits), next(iter(source.splits)))
    )
    return replace(rows, ids=tuple(name if name.startswith("test/") else f"test/{name}" for name in rows.ids))


def _path(given: str, what: str) -> Path:
    """The path, whether something is there or not. Raises DataError where nothing could be: a name too long, a NUL."""
    try:
        path = Path(given).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Path(given).expanduser()
    except RuntimeError as error:
        user = Path(given).parts[0]
        raise DataError(
            f"{what}{shown(given)}: no home directory is known for {shown(user)}. Write the path out in full."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{what}{shown(given)}: cannot be a path: {reason}. Give a folder of images, a CSV, or a hub id such as "
            "owner/name."
        ) from error
    return path


def _plain(name: str) -> str:
    """What a data set given by its place is called: the last part of the path or hub id."""
    path = Path(os.path.expanduser(name))
    return path.stem if path.suffix.lower() in TABLES else path.name or path.resolve().name


def _unknown(name: str) -> DataError:
    hint = did_you_mean(name.casefold(), REGISTRY)
    return DataError(
        f"data set {name!r}: no such file or folder, and no registered name.{hint} Registered: {', '.join(REGISTRY)}. "
        "Or give a folder of images, a CSV, or a hub id such as owner/name."
    )


def _classes(config: DataConfig, known: DataSet | None, rows: list[Rows]) -> tuple[str, ...]:
    if config.classes is None:
        return known.classes if known else classes_of(rows)
    twice = next((name for name in config.classes if config.classes.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"data set {config.name!r}: `classes` lists {twice!r} twice.")
    return config.classes


def _split(
    config: DataConfig, known: DataSet | None, train: Rows, test: Rows | None, classes: tuple[str, ...], seed: int
) -> tuple[Examples, Examples]:
    """Mapped training and test samples; held out where there are no test samples."""
    labels = _mapped(train, classes, config, known)
    train = _with_domains(train, known)
    if test is not None:
        # Where the classes are listed, test samples need not have all of them.
        labels_of_test = _mapped(test if config.classes is None else replace(test, names=None), classes, config, known)
        return _examples(train, labels), _examples(_with_domains(test, known), labels_of_test)
    both = _examples(train, labels)
    if known is not None and known.held_out is not None:
        at = held_out(_identities(known, train, labels, classes), labels, known.held_out.seed, known.held_out.fraction)
    else:
        at = held_out(train.ids, labels, seed)
    return both.take(np.setdiff1d(np.arange(len(both)), at)), both.take(at)


def _mapped(rows: Rows, classes: tuple[str, ...], config: DataConfig, known: DataSet | None) -> np.ndarray:
    if known is None:
        return mapped(rows, classes)
    if known.label_prefix is not None:
        prefix = re.compile(known.label_prefix)
        plain = tuple(prefix.sub("", label) if isinstance(label, str) else label for label in rows.labels)
        names = None if rows.names is None else tuple(prefix.sub("", name) for name in rows.names)
        rows = replace(rows, labels=plain, names=names)
    return mapped(rows, classes, known.aliases, numbered=known.numbered or config.classes is not None)


def _with_domains(rows: Rows, known: DataSet | None) -> Rows:
    """Domains out of the names of files, where a registered data set keeps them there."""
    if rows.domains is not None or known is None or known.file_domain is None or rows.files is None:
        return rows
    matches = [re.match(known.file_domain, file or "") for file in rows.files]
    if any(match is None for match in matches):
        return rows
    return replace(rows, domains=tuple(match.group(1) for match in matches if match is not None))


def _identities(known: DataSet, rows: Rows, labels: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """What the frozen split hashes: `WordNet id/file`, whatever the layout; contents where file names were not kept."""
    if rows.files is None or any(file is None for file in rows.files):
        return [rows.fingerprint([i]) for i in range(len(rows))]
    wordnet = {name: alias for alias, name in known.aliases.items()}
    return [
        f"{wordnet.get(classes[label], classes[label])}/{file}"
        for label, file in zip(labels.tolist(), rows.files, strict=True)
    ]


def _examples(rows: Rows, labels: np.ndarray) -> Examples:
    return Examples(ids=rows.ids, labels=labels, read=rows.read, fingerprint=rows.fingerprint, domains=rows.domains)
