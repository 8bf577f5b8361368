"""What a search leaves in OUT/: study.journal (the trials), search.json, search.png, preference.json, head.safetensors.

The paper's search leaves no head, and a model without a preference no preference.json.
The same command resumes from the journal. Cost: small files. Not here: the search (`on_target`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.errors import MissingExtra, OutputError, OutputExists, RunError
from prefmerge.ground import atomic, jsons, locks
from prefmerge.ground.refused import remedy
from prefmerge.target.search.study import FILE

RESULT, PREFERENCE, PICTURE, HEAD = "search.json", "preference.json", "search.png", "head.safetensors"


@dataclass(frozen=True)
class SearchFolder:
    """Where a search leaves what."""

    folder: Path
    preference: Path

    @classmethod
    def of(cls, out: str | Path) -> SearchFolder:
        """`out`: a folder; or a .json, which is then the preference, with the rest in a folder beside it."""
        out = Path(out)
        if out.suffix == ".json":
            return cls(out.with_suffix(".search"), out)
        return cls(out, out / PREFERENCE)

    @property
    def head(self) -> Path:
        return self.folder / HEAD

    @property
    def journal(self) -> Path:
        return self.folder / FILE

    @contextlib.contextmanager
    def held(self, force: bool) -> Iterator[None]:
        """Inside, the folder is there and locked for this process; what another search left goes with `force`."""
        folder, other = self.folder, self.preference
        if folder.exists() and not folder.is_dir():
            raise OutputExists(f"{folder}: is a file. Give a new folder.")
        ours = (folder / FILE).exists()
        if folder.is_dir() and any(folder.iterdir()) and not ours:
            raise OutputExists(f"{folder}: holds something that is not a search. Give a new or empty folder.")
        if other.exists() and not ours and not force:
            raise OutputExists(f"{other}: exists already. Give another -o OUT, or --force to replace it.")
        busy = RunError(f"{folder}: another process is at work on this search. Wait for it.")
        with contextlib.ExitStack() as lock:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.enter_context(locks.held(folder, busy))
            except OSError as error:
                raise _refused(error, folder) from error
            try:
                if force:
                    for name in (RESULT, PREFERENCE, PICTURE, HEAD, FILE):
                        (folder / name).unlink(missing_ok=True)
                yield
            finally:
                lock.close()
                with contextlib.suppress(OSError):  # not empty: then it stays
                    folder.rmdir()

    def write(
        self,
        result: Mapping[str, Any],
        preference: Mapping[str, Any] | None,
        draw: Callable[[Path], None],
        head: bytes | None = None,
    ) -> None:
        """Write all but the journal. `draw`: what makes the picture. Raises OutputError."""
        try:
            jsons.write(self.folder / RESULT, dict(result))
            if preference is not None:
                jsons.write(self.preference, dict(preference))
            elif self.preference.exists():
                self.preference.unlink()
            if head is not None:
                atomic.write_whole(self.folder / HEAD, head)
            with contextlib.suppress(MissingExtra):  # a picture is not worth an error after hours
                draw(self.folder / PICTURE)
        except OSError as error:
            raise _refused(error, self.folder) from error


def _refused(error: OSError, folder: Path) -> OutputError:
    reason, way = error.strerror or error, remedy(error, "Give another -o OUT.")
    return OutputError(f"{error.filename or folder}: cannot be written: {reason}. {way}")
