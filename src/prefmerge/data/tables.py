"""A user's own CSV or TSV: a column of texts, or of paths of images, and a column of labels.

One line of configuration: `data: train.csv`. Columns are recognised by their names or said (`input`, `label`,
`domain`); an `id` column gives the ids. UTF-8, a header line, quotes as spreadsheets write them; cells are separated by
what separates the names in the header: commas, semicolons, tabs or bars. Paths are relative to the file. Cost: the file
in memory, read once; images stay on disk. Not here: types (every cell is text), several labels a row.
"""

from __future__ import annotations

import csv
import io
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefmerge.data.examples import InputKind
from prefmerge.data.images import SUFFIXES
from prefmerge.data.rows import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    ContentHash,
    Decoded,
    Encoded,
    Rows,
    Texts,
    column,
    distinct,
    shown,
)
from prefmerge.data.whole import Steady, read_whole
from prefmerge.errors import DataError

TABLES = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t", "|")
_BLANK = re.compile(r"(?:[ \t]*\r?\n)+")  # lines above the header
_SAID = re.compile(r"sep=(.)\r?\n")  # the first line, as some spreadsheets write it


@dataclass(frozen=True)
class ReadTable:
    """A file's cells: the names of its columns, rows as wide as these, and the line on which each row begins."""

    file: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_table(
    source: Path | ReadTable,
    prefix: str,
    *,
    input: str | None = None,
    label: str | None = None,
    domain: str | None = None,
    kind: InputKind | None = None,
) -> Rows:
    """The rows of a CSV or TSV file; ids are `prefix/00012` where nothing better is there.

    Raises DataError naming file, line and column.
    """
    table = source if isinstance(source, ReadTable) else open_table(source)
    file, columns, cells, lines = table.file, table.columns, table.rows, table.lines
    if not cells:
        raise DataError(
            f"{file}: holds {'a header but no samples' if columns else 'nothing'}. Expected a header line and then a "
            "sample a line."
        )
    where = str(file)
    input = column(input, TEXT_COLUMNS + IMAGE_COLUMNS, columns, "input", where)
    label = column(label, LABEL_COLUMNS, columns, "label", where)
    wanted = [input, label, *([column(domain, (), columns, "domain", where)] if domain else [])]
    own_ids = next((name for name in columns if name.casefold() in ID_COLUMNS and name not in wanted), None)
    values = {
        name: [row[columns.index(name)].strip() for row in cells] for name in (*wanted, *([own_ids] if own_ids else []))
    }
    for name, in_column in values.items():
        for line, value in zip(lines, in_column, strict=True):
            if not value:
                raise DataError(
                    f"{where}: line {line} has nothing in column {name!r}. Fill the cell or remove the line."
                )
    if own_ids and len(set(values[own_ids])) != len(cells):
        counts = Counter(values[own_ids])
        twice = next(value for value, count in counts.items() if count > 1)
        raise DataError(
            f"{where}: the id {twice!r} occurs twice in column {own_ids!r}. Ids must differ; or rename the column."
        )
    if kind is None:
        looks = values[input][0].lower().endswith(SUFFIXES) or input.casefold() in IMAGE_COLUMNS
        kind = "image" if looks else "text"
    numbered = tuple(f"{prefix}/{i:05d}" for i in range(len(cells)))
    shared = {
        "where": where,
        "kind": kind,
        "labels": tuple(values[label]),
        "domains": tuple(values[domain]) if domain else None,
    }
    if kind == "text":
        texts = Texts(tuple(row[columns.index(input)] for row in cells))
        return Rows(
            ids=tuple(values[own_ids]) if own_ids else numbered,
            read=texts,
            fingerprint=ContentHash(Encoded(texts)),
            **shared,
        )
    paths = tuple(file.parent / value for value in values[input])
    _require_files(where, input, lines, zip(paths, values[input], strict=True))
    files = _Files(where, tuple(lines), paths)
    return Rows(
        ids=tuple(values[own_ids]) if own_ids else distinct(values[input]),
        read=Decoded(files, files.name),
        fingerprint=ContentHash(files),
        files=tuple(path.name for path in paths),
        **shared,
    )


def _require_files(where: str, input: str, lines: Sequence[int], named: Iterable[tuple[Path, str]]) -> None:
    """Raise DataError for a path that is no file. `named`: the path, and what the cell of that line says."""
    for line, (path, value) in zip(lines, named, strict=True):
        try:
            there = stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except (OSError, ValueError) as error:  # too long, a NUL in it, a folder that may not be entered
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(
                f"{where}: line {line}, column {input!r}: {shown(value)} cannot be the path of an image: {reason}. "
                "Correct the cell; or, if it is a text, say `kind: text`."
            ) from error
        if not there:
            raise DataError(
                f"{where}: line {line} names {str(path)!r}, and there is no such file. Paths are relative to the CSV."
            )


@dataclass(frozen=True)
class _Files:
    """The contents of the files that a table names."""

    where: str
    lines: tuple[int, ...]
    paths: tuple[Path, ...]
    steady: Steady = field(default_factory=Steady)

    def name(self, i: int) -> str:
        return f"{self.where}: line {self.lines[i]}: image {str(self.paths[i])!r}"

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        return [self.steady.read(self.paths[i], self.name(i)) for i in at]


def open_table(file: Path) -> ReadTable:
    """The cells of a CSV or TSV file, which may have no rows. Raises DataError naming file and line."""
    if not file.is_file():
        raise DataError(f"{file}: no such file.")
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        text = read_whole(file, str(file)).decode("utf-8-sig")
        if "\n" not in text:  # as spreadsheets of long ago end their lines
            text = text.replace("\r", "\n")
        blank = _BLANK.match(text)
        above, text = text[: blank.end()].count("\n") if blank else 0, text[blank.end() if blank else 0 :]
        said = _SAID.match(text)
        separator = said[1] if said else _separator(text, file)
        reader = csv.reader(
            io.StringIO(text[said.end() if said else 0 :], newline=""), delimiter=separator, strict=True
        )
        columns = [name.strip() for name in next(reader, [])]
        first = above + (2 if said else 1)
        begins = reader.line_num + first
        for row in reader:
            if row:  # an empty line is no sample
                rows.append(row)
                lines.append(begins)
            begins = reader.line_num + first
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(
            f"{file}: line {lines[-1] + 1 if lines else 1} or one soon after cannot be read: {error}. Close every "
            "quote, and save it as CSV again."
        ) from error
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{file}: the column {twice!r} occurs twice in the header. Rename one.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) > len(columns):
            raise DataError(
                f"{file}: line {line} has {len(row)} cells, the header has {len(columns)}. Quote cells that hold a "
                "separator."
            )
        row.extend([""] * (len(columns) - len(row)))
    return ReadTable(file, columns, rows, lines)


def _separator(text: str, file: Path) -> str:
    """What separates the header's names: what a file of this name usually has, else another that does separate them."""
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    header = text[: text.find("\n")] if "\n" in text else text
    for separator in (usual, *_SEPARATORS):
        if len(next(csv.reader([header], delimiter=separator), [])) > 1:
            return separator
    return usual
