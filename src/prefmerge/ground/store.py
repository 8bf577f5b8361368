"""Finished pieces of work in a folder, under keys that are digests of what decides them: what a job resumes from.

    key = digest of everything that decides a piece;   FOLDER/KEY.SUFFIX holds it, written whole

So a piece that was made with other inputs or parameters has another key and is never taken, a kill leaves all pieces
that were done, and two processes that make one piece write the same. A sealed piece opens with 16 bytes, the xxh3_128
of the rest; what does not fit its seal counts as absent. Cost: one file a piece, hashed once if sealed. Not here: who
may work in a folder, which its owner locks once (`locks.held`) where doing work twice would be a waste; the removal of
pieces that nobody asks for any more, but by `clear`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from prefmerge.ground import atomic

_SEAL = 16  # bytes
_KEY = re.compile(r"(?:[a-z0-9.-]*-)?(?:[0-9a-f]{32}|[0-9a-f]{16})")  # words for people, and a digest


def digest(value: Any, *, short: bool = False, sort: bool = False) -> str:
    """The xxh3 of a value's JSON, 128 bits as hexadecimal digits; `short`: 64. `sort`: the order of keys is not part of
    it. Not cryptographic.
    """
    text = json.dumps(value, sort_keys=sort).encode()
    return xxhash.xxh3_64_hexdigest(text) if short else xxhash.xxh3_128_hexdigest(text)


def digest_of_file(file: Path) -> str:
    """The xxh3 of a file's bytes, 128 bits as hexadecimal digits."""
    state = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            state.update(part)
    return state.hexdigest()


@dataclass(frozen=True)
class Store:
    """The pieces in `folder` whose files end in `suffix`. A key is a digest, words and a hyphen before it if wanted."""

    folder: Path
    suffix: str
    sealed: bool = False

    def file(self, key: str) -> Path:
        """Where the piece is, or would be. Raises ValueError for what is no key."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"expected a key that ends in a digest, found {key!r}")
        return self.folder / f"{key}{self.suffix}"

    def read(self, key: str) -> bytes | None:
        """What was kept under the key; None where it is absent or damaged."""
        try:
            content = self.file(key).read_bytes()
        except OSError:
            return None
        if not self.sealed:
            return content
        return content[_SEAL:] if xxhash.xxh3_128_digest(content[_SEAL:]) == content[:_SEAL] else None

    def write(self, key: str, content: bytes) -> None:
        """Keep a piece, whole or not at all, in place of what is there. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_whole(self.file(key), xxhash.xxh3_128_digest(content) + content if self.sealed else content)

    def keys(self, start: str) -> list[str]:
        """The keys of the pieces that are there and begin with `start`."""
        names = [file.name for file in self.folder.iterdir()] if self.folder.is_dir() else []
        keys = [name.removesuffix(self.suffix) for name in names if name.startswith(start)]
        return sorted(key for key in keys if _KEY.fullmatch(key))

    def size(self) -> int:
        """The bytes that the pieces take."""
        return sum(file.stat().st_size for file in self._files())

    def clear(self) -> int:
        """Remove the pieces, and nothing else that is there. Returns the bytes freed."""
        freed = self.size()
        for file in self._files():
            file.unlink(missing_ok=True)
        return freed

    def _files(self) -> list[Path]:
        """The pieces, and the temporaries that a kill left of them."""
        if not self.folder.is_dir():
            return []
        piece = f"{_KEY.pattern}{re.escape(self.suffix)}"
        ours = re.compile(rf"{piece}|\.{piece}\..*\.tmp")
        return sorted(file for file in self.folder.iterdir() if ours.fullmatch(file.name))
