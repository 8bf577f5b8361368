"""Data sets of the hub's kind: a hub id, a local copy in its layout, what `save_to_disk` wrote, a folder of images.

All become tables of the `datasets` library, memory-mapped where it can; images stay encoded until they are read. A
folder of images holds a folder per class (with any folders in it), or train/ and test/ with those inside; where domains
are asked for, a folder per domain with those of its classes. Cost: labels and file names in memory; the first opening
of a parquet copy writes the library's cache, never the user's folder.
Not here: streaming, columns that hold several labels, data sets that need a script.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.data.examples import InputKind
from prefmerge.data.images import SUFFIXES
from prefmerge.data.rows import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    ContentHash,
    Decoded,
    Encoded,
    Rows,
    column,
)
from prefmerge.data.whole import Steady
from prefmerge.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN_FOLDERS = ("train", "training")
DOMAIN_FOLDER = "folder"  # the column of domains that are folders
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class OpenedDataSet:
    """An opened data set: its splits, by the names it gives them."""

    where: str
    splits: Mapping[str, Dataset]
    folder: Path | None = None  # a folder of images, to which ids are relative

    def rows(
        self,
        split: str,
        *,
        input: str | None = None,
        label: str | None = None,
        domain: str | None = None,
        kind: InputKind | None = None,
    ) -> Rows:
        """One split. Columns that are not said are recognised by their names.

        Raises DataError naming data set, split and column, with those that there are.
        """
        if split not in self.splits:
            there = ", ".join(self.splits)
            raise DataError(f"{self.where}: there is no split {split!r}; the splits are: {there}.")
        data, where = self.splits[split], f"{self.where}, split {split!r}"
        columns = data.column_names
        input = column(input, TEXT_COLUMNS + IMAGE_COLUMNS, columns, "input", where)
        label = column(label, LABEL_COLUMNS, columns, "label", where)
        if domain is not None:
            domain = column(domain, (), columns, "domain", where)
        if not len(data):
            raise DataError(f"{where}: holds no samples.")
        inputs, files = _inputs(data, input, where, kind)
        labels, names = _words(data, label, where)
        image = files is not None
        if self.folder is not None and files is not None:
            start = len(str(self.folder)) + 1
            ids = tuple((file or "")[start:].replace(os.sep, "/") for file in files)
        else:
            ids = tuple(f"{split}/{i:05d}" for i in range(len(data)))

        contents = _ImageColumn(where, input, ids, inputs) if image else None
        texts = _TextColumn(input, inputs)
        return Rows(
            where=where,
            kind="image" if image else "text",
            ids=ids,
            labels=labels,
            read=texts if contents is None else Decoded(contents, contents.name),
            fingerprint=ContentHash(Encoded(texts) if contents is None else contents),
            names=names,
            domains=None if domain is None else tuple(str(value) for value in _words(data, domain, where)[0]),
            files=None if files is None else tuple(None if file is None else os.path.basename(file) for file in files),
        )


def open_hub(name: str, config: str | None, revision: str | None) -> OpenedDataSet:
    """A data set of the hub, downloaded or from the library's cache. Raises DataError when it cannot be had."""
    library = _library()
    try:
        loaded = library.load_dataset(name, config, revision=revision)
    except Exception as error:  # whatever keeps the data away: no network, no such id, a licence to accept, a script
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data set {name!r}: no such folder here, and it cannot be had from the hub ({reason}). Give `path:` with "
            "a local copy in the hub's layout, or go online."
        ) from error
    return OpenedDataSet(f"data set {name!r}", _splits(loaded))


def open_folder(folder: Path, config: str | None = None, *, domains: bool = False) -> OpenedDataSet:
    """A local folder: parquet files in the layout of the hub, what `save_to_disk` wrote, or a folder of images.

    `domains`: the images lie in DOMAIN/CLASS/IMAGE. Raises DataError where it is none of them.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such file or folder. Give a folder of images, a CSV, a copy of a hub data set or its id."
        )
    library = _library()
    where = str(folder)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return OpenedDataSet(where, _splits(library.load_from_disk(where)))
        if any(name.endswith(".parquet") for _, _, names in os.walk(folder) for name in names):
            return OpenedDataSet(where, _splits(_parquet(library, folder, config)))
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        raise DataError(f"{where}: cannot be read as a data set: {str(error).strip().splitlines()[0]}") from error
    return _image_folder(library, folder, domains)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("reading data sets of the hub and folders of images", "train") from error
    # Its bars and its advice are not ours: progress of a run is shown by whoever runs it.
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _parquet(library: Any, folder: Path, config: str | None) -> Any:
    if config is not None and not (folder / "README.md").is_file() and (folder / config).is_dir():
        return library.load_dataset(str(folder / config))  # copied without the card that lists configurations
    if config is None:
        return library.load_dataset(str(folder))
    try:
        return library.load_dataset(str(folder), config)
    except ValueError as error:
        if "BuilderConfig" not in str(error):
            raise
        return library.load_dataset(str(folder))  # one configuration alone was copied


def _image_folder(library: Any, folder: Path, domains: bool) -> OpenedDataSet:
    parts = {
        split: next((folder / name for name in names if _holds_folders(folder / name)), None)
        for split, names in (("train", TRAIN_FOLDERS), ("test", TEST_FOLDERS))
    }
    chosen = {split: part for split, part in parts.items() if part is not None}
    if "train" not in chosen:  # class folders, of which one may be called train
        chosen = {"train": folder}
    files = {split: _images(part, domains) for split, part in chosen.items()}
    under = "DOMAIN/CLASS/IMAGE" if domains else "CLASS/IMAGE"
    for split, listed in files.items():
        if not listed:
            raise DataError(
                f"{chosen[split]}: no images ({', '.join(SUFFIXES)}) in folders named after their classes. Expected "
                f"{under}, or train/{under} and test/{under}."
            )
    return OpenedDataSet(
        str(folder), {split: _of_files(library, several, domains) for split, several in files.items()}, folder
    )


def _of_files(library: Any, files: Sequence[tuple[str, str, str]], domains: bool) -> Dataset:
    """A table of (file, class, domain). It declares its own classes alone: which of those of several splits are the
    same is decided by name, as everywhere (`labels`).
    """
    # Not the library's builder of image folders: it takes file names for patterns, so that `bird [1].jpg` is not found.
    images, labels, outer = (list(column) for column in zip(*files, strict=True))
    features = {"image": library.Image(decode=False), "label": library.ClassLabel(names=sorted(set(labels)))}
    columns = {"image": images, "label": labels}
    if domains:
        features[DOMAIN_FOLDER], columns[DOMAIN_FOLDER] = library.Value("string"), outer
    return library.Dataset.from_dict(columns, library.Features(features))


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(one.is_dir() for one in folder.iterdir())


def _images(folder: Path, domains: bool) -> list[tuple[str, str, str]]:
    """The images of class folders, their classes and domains, without hidden ones, in an order that every machine
    shares.

    The class is the folder directly in `folder`, however deep the image; with `domains` that is the domain, and the
    folder in it the class. A link to a folder is followed once, and not where it leads to what holds it: each folder is
    read once, under its own name if it has one here.
    """
    root = Path(os.path.realpath(folder))
    images: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    starts = [str(folder)]
    while starts:
        links: list[str] = []
        for start in starts:
            for path, folders, names in os.walk(start):
                real = os.path.realpath(path)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = [name for name in folders if not name.startswith(".")]
                for link in (os.path.join(path, name) for name in folders if os.path.islink(os.path.join(path, name))):
                    target = os.path.realpath(link)
                    if not root.is_relative_to(target) and not Path(real).is_relative_to(target):
                        links.append(link)
                inside = Path(path).relative_to(folder).parts
                own = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")] if inside else []
                if own and domains and len(inside) == 1:
                    raise DataError(
                        f"{os.path.join(path, own[0])}: lies in a domain and in no class. Expected DOMAIN/CLASS/IMAGE."
                    )
                domain, label = (inside[0], inside[1]) if own and domains else ("", inside[0] if own else "")
                images += [(os.path.join(path, name), label, domain) for name in own]
        starts = sorted(links)  # after all real folders, so that those keep their own class
    return sorted(images)


def _splits(loaded: Any) -> dict[str, Dataset]:
    return dict(loaded) if hasattr(loaded, "items") else {str(loaded.split or "train"): loaded}


def _inputs(
    data: Dataset, input: str, where: str, kind: InputKind | None
) -> tuple[Dataset, Sequence[str | None] | None]:
    """The column of inputs alone; and, for images, the file that each came from (None for texts)."""
    import datasets

    feature = data.features[input]
    inputs = data.select_columns([input])
    if isinstance(feature, datasets.Image):
        image = True
        inputs = inputs.cast_column(input, datasets.Image(decode=False))
        files = list(inputs.flatten().select_columns([f"{input}.path"])[:][f"{input}.path"])
    else:
        dtype = getattr(feature, "dtype", None)
        image = dtype in ("binary", "large_binary")
        files = [None] * len(data)
        if not image and dtype not in ("string", "large_string"):
            raise DataError(
                f"{where}: column {input!r} holds {feature}; expected images or texts. Say which with `input: COLUMN`."
            )
    if kind is not None and kind != ("image" if image else "text"):
        raise DataError(
            f"{where}: column {input!r} holds {'images' if image else 'texts'}, and `kind: {kind}` was asked for."
        )
    if not image:
        empty = next((i for i, text in enumerate(inputs[:][input]) if text is None), None)
        if empty is not None:
            raise DataError(f"{where}: row {empty} has nothing in column {input!r}.")
    return inputs, files if image else None


def _words(data: Dataset, name: str, where: str) -> tuple[Any, tuple[str, ...] | None]:
    """The values of a column of labels or domains (names where it has them, else integers), and all names declared."""
    import datasets

    feature = data.features[name]
    values = data.select_columns([name])[:][name]
    lacking = next((i for i, value in enumerate(values) if value is None or value == -1), None)
    if lacking is not None:
        raise DataError(f"{where}: row {lacking} has nothing in column {name!r}; every sample needs a value.")
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        return tuple(names[value] for value in values), names
    if any(isinstance(value, bool) or not isinstance(value, str | int) for value in values):
        raise DataError(f"{where}: column {name!r} holds {feature}; expected class labels, names or integers.")
    return tuple(values), None


@dataclass(frozen=True)
class _TextColumn:
    """A column of texts."""

    input: str
    data: Dataset

    def __call__(self, at: Sequence[int]) -> list[Any]:
        return list(self.data[list(at)][self.input]) if len(at) else []


@dataclass(frozen=True)
class _ImageColumn:
    """A column of images, as their bytes or as the paths of their files."""

    where: str
    input: str
    ids: tuple[str, ...]
    data: Dataset
    steady: Steady = field(default_factory=Steady)

    def name(self, i: int) -> str:
        return f"{self.where}: sample {self.ids[i]!r}, column {self.input!r}"

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        cells = self.data[list(at)][self.input] if len(at) else []
        return [self._content(one, self.name(i)) for i, one in zip(at, cells, strict=True)]

    def _content(self, cell: Any, what: str) -> bytes:
        if isinstance(cell, bytes):
            return cell
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise DataError(f"{what}: holds no image.")
        if cell["bytes"] is not None:
            return cell["bytes"]
        return self.steady.read(Path(cell["path"]), f"{what} ({cell['path']})")
