"""JSON as prefmerge writes and reads it: whole files of UTF-8 that any reader takes.

    write(path, value)    the old file or the new one, never a part; indented by one, a newline at the end
    read(path)            the value, or NotJson saying what is wrong with the text

NaN and infinity are no JSON: they are refused both ways, unless `nan` allows Python's spelling of them. So is an object
with one key twice, of which a reader would silently keep one. Cost: O(size), all of it in memory. Not here: files of
other programs (a model's config.json), which are read as those programs read them; a number beyond floats (1e999),
which reads as infinity; JSON lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefmerge.ground import atomic
from prefmerge.ground.disk import read_text_file

DEEPEST = 64  # levels of lists and objects
MOST = 1 << 22  # lists and objects


class NotJson(ValueError):
    """A text that is no JSON, or not ours: what is wrong with it, without the name of the file."""


def encoded(
    value: Any, *, indent: int | None = 1, ascii: bool = True, nan: bool = False, by_line: str | None = None
) -> bytes:
    """The bytes of a file that holds `value`, with a newline at the end. Without `ascii`, letters stay as they are, and
    halves of surrogate pairs, as in paths that are not UTF-8, are written as escapes. `by_line`: the key of an object
    in `value` whose entries take a line each, where there are thousands. Raises ValueError for NaN or infinity,
    TypeError for what JSON has no form for.
    """
    written = json.JSONEncoder(ensure_ascii=ascii, allow_nan=nan, indent=indent).encode
    if by_line is None or not value[by_line]:
        text = written(value)
    else:
        short = json.JSONEncoder(ensure_ascii=ascii, allow_nan=nan).encode
        rows = ",\n".join(f"  {short(key)}: {short(entry)}" for key, entry in value[by_line].items())
        # Only a key of `value` itself stands behind a line break and one space.
        opening = f"\n {short(by_line)}: {{"
        text = written({**value, by_line: {}}).replace(f"{opening}}}", f"{opening}\n{rows}\n }}", 1)
    return (text + "\n").encode("utf-8", "backslashreplace")


def write(path: Path, value: Any, *, indent: int | None = 1, replace: bool = True) -> None:
    """Write a file that is there with all of `value` or not at all. Raises what `encoded` raises, before anything is
    touched; OSError; FileExistsError where something is there and `replace` is false.
    """
    atomic.write_whole(path, encoded(value, indent=indent), replace=replace)


def read(path: Path, *, nan: bool = False) -> Any:
    """The value in a file. Raises OSError, NotJson."""
    return decoded(read_text_file(path), nan=nan)


def decoded(content: bytes | str, *, nan: bool = False) -> Any:
    """The value that a text spells; a byte order mark before it is skipped. Raises NotJson."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        _few(text)
        return shallow(json.loads(text, object_pairs_hook=_object, parse_constant=None if nan else _no_number))
    except NotJson:
        raise
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise NotJson("it is no UTF-8 text; save it as UTF-8") from error
    except ValueError as error:
        raise NotJson(str(error)) from error


def foreign(path: Path) -> Any:
    """The value in a file of another program, as Python reads it: of a key that is there twice, the last. Raises
    OSError, NotJson.
    """
    try:
        content = read_text_file(path)
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        _few(text)
        return shallow(json.loads(text))
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    except NotJson:
        raise
    except ValueError as error:
        raise NotJson(str(error)) from error


def peek(path: Path) -> Any:
    """The same, or None where there is no such file or no JSON in it: what cannot be read says nothing."""
    try:
        return foreign(path)
    except (OSError, NotJson):
        return None


def shallow(value: Any) -> Any:
    """The value, if its lists and objects lie in one another at most `DEEPEST` levels deep, which whoever walks it may
    rely on. Raises NotJson.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, dict | list)
        ]
        if not level:
            return value
    raise NotJson("it is nested too deeply")


def laid_out(value: Any, indent: str = "") -> str:
    """JSON with a line for each entry, and for each list or object of plain values."""
    entries = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)) or not any(isinstance(entry, (dict, list)) for entry in entries):
        return json.dumps(value, allow_nan=False)
    deeper = indent + " "
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    lines = [f"\n{deeper}{key}{laid_out(entry, deeper)}" for key, entry in zip(keys, entries, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{','.join(lines)}\n{indent}{closing}"


def _few(text: str) -> None:
    """Raise NotJson where the lists and objects would take gigabytes."""
    if text.count("[") + text.count("{") > MOST:
        raise NotJson(f"it has more than {MOST:,} lists and objects")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise NotJson(f"the key {twice[:200]!r} is there twice")
    return made


def _no_number(spelled: str) -> Any:
    raise NotJson(f"{spelled} is no JSON number")
