"""Where the inputs of a receipt are, in words that may be published.

    receipt in work/out, input work/cars.safetensors    ../cars.safetensors
    the same, input on another disk                     cars.safetensors, which is elsewhere

A path is written relative to the receipt's folder, so it holds where the two are moved together. Where the way from one
to the other leads through the root or the folder of all homes, or names the user, the last name alone is written. The
whole path then goes into a small file among this user's caches, under the digest of the receipt: there the same user
finds it again, and nobody else. Cost: none; that file where it is needed. Not here: the receipt.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import xxhash

from prefmerge.checkpoints.paths import in_stack, is_one, is_there, split_adapter, split_key, split_stack
from prefmerge.ground import jsons
from prefmerge.ground.caches import cache_folder
from prefmerge.ground.store import Store, digest_of_file

_HOMES = ("/home", "/Users")
# A path that begins with / ./ ../ or ~/
_QUOTED = re.compile(r"(?P<quote>['\"])(?:~\w*|\.{1,2})?/[^'\"\n]*(?P=quote)")  # one of these with spaces in it
_ROOTED = re.compile(r"(?<![\w:/.~-])(?:~\w*|\.{1,2})?(?:/(?:[^/\s'\",:;()\[\]<>\\]|\\.)+)+")


def told(path: str, folder: Path) -> str | None:
    """The path as a receipt in `folder` may say it; None where it is elsewhere, and the receipt has its name alone."""
    if split_stack(path) is not None:
        return in_stack(path, lambda one: told(one, folder))
    model, own = split_adapter(path)
    if model is not None:
        parts = [told(str(one), folder) for one in (model, own)]
        return None if None in parts else "+".join(filter(None, parts))
    file, key = split_key(path)
    here, there = os.path.abspath(folder), os.path.abspath(file)
    shared = os.path.commonpath([here, there])
    if _is_above_homes(shared) or _users() & set(Path(there).relative_to(shared).parts):
        return None
    return os.path.relpath(there, here) + ("" if key is None else f"#{key}")


def name_alone(path: str) -> str:
    """The name that a receipt has of a path that is elsewhere."""
    if split_stack(path) is not None:
        return in_stack(path, name_alone) or path
    model, own = split_adapter(path)
    if model is not None:
        return f"{name_alone(str(model))}+{name_alone(str(own))}"
    file, key = split_key(path)
    return file.name + ("" if key is None else f"#{key}")


def absolute(text: str, folder: Path) -> str:
    """Where a path that a receipt in `folder` says leads to."""
    if split_stack(text) is not None:
        return in_stack(text, lambda one: absolute(one, folder)) or text
    if os.path.isabs(text):
        return text
    folders = [os.path.abspath(folder), os.path.realpath(folder)]  # one of them, if a link leads to the output
    ways = [_joined(one, text) for one in folders]
    whole = next(filter(is_one, ways), None)
    if whole is not None:
        return whole
    cuts = [i for i, letter in enumerate(text) if letter == "+"]
    pairs = [f"{_joined(one, text[:at])}+{_joined(one, text[at + 1 :])}" for at in cuts for one in folders]
    return next((way for way in (*pairs, *ways) if is_there(way)), ways[0])


def remember(receipt: bytes, paths: Sequence[str | None]) -> None:
    """Keep the whole paths of the inputs of a receipt for this user, if a cache can be written."""
    with contextlib.suppress(OSError):
        _store().write(xxhash.xxh3_128_hexdigest(receipt), jsons.encoded(list(paths)))


def remembered(receipt: Path, count: int) -> list[str | None]:
    """The whole paths that were kept for the receipt in a file, None for each of `count` where there are none."""
    content = _store().read(digest_of_file(receipt))
    paths = None if content is None else jsons.decoded(content)
    return paths if isinstance(paths, list) and len(paths) == count else [None] * count


def without_places(text: str, known: Iterable[str] = ()) -> str:
    """The text with the last names of paths in place of the paths: of those `known`, and of all that look like one."""
    for path in sorted({path for path in known if os.path.isabs(path)}, key=len, reverse=True):
        text = text.replace(path, name_alone(path))
    text = _QUOTED.sub(lambda match: match["quote"] + match[0].rpartition("/")[2], text)
    return _ROOTED.sub(lambda match: match[0].rpartition("/")[2], text)


def _joined(folder: str, text: str) -> str:
    return os.path.normpath(os.path.join(folder, text))


def _is_above_homes(folder: str) -> bool:
    homes = {*_HOMES, os.path.dirname(os.path.expanduser("~")), os.path.dirname(os.path.realpath(Path.home()))}
    return any(Path(home).is_relative_to(folder) for home in homes)


def _users() -> set[str]:
    names = {Path.home().name}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without an entry
        names.add(getpass.getuser())
    return names - {""}


def _store() -> Store:
    return Store(cache_folder("places"), ".json", sealed=True)
