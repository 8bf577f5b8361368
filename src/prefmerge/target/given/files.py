"""Files of the user, read or refused: what is there, lines, a column by its names, JSON that pydantic checks.

Refusals name file, key or line, what was expected and what was found. Cost: one file in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from prefmerge.data.rows import shown
from prefmerge.data.whole import read_whole
from prefmerge.errors import DataError
from prefmerge.ground import jsons


def there(path: str | Path, what: str) -> Path:
    try:
        path = Path(path).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file or folder; expected {what}.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{shown(str(path))}: cannot be read: {reason}; expected {what}.") from error
    return path


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises DataError."""
    try:
        return jsons.read(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}.") from error


def checked(path: Path, value: Any, kind: Any, expected: Sequence[str]) -> Any:
    """`value` out of a file as pydantic reads it into the type `kind`. Raises DataError naming the key that is wrong;
    `expected` says what belongs at the top, within each key of it, and so on.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = list(first["loc"])[: len(expected) - 1]
        at = "".join(f"{key!r}: " if isinstance(key, str) else f"entry {key + 1}: " for key in keys)
        raise DataError(
            f"{path}: {at}expected {expected[len(keys)]}, found {shown(repr(first['input']))[1:-1]}."
        ) from error


def whole(value: Any) -> int:
    """A number of samples, which may be written as text. Raises ValueError."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("expected a number of samples")
    return value


Whole = Annotated[int, BeforeValidator(whole)]


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines that hold something, stripped, with their numbers."""
    try:
        text = read_whole(path, str(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    return [(number, line.strip()) for number, line in enumerate(text, 1) if line.strip()]


def named_column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of `known` that is there, compared without case."""
    by_fold = {name.casefold(): name for name in reversed(columns)}
    return next((by_fold[name] for name in known if name in by_fold), None)
