"""What a search leaves: OUT/ with study.journal (the trials), search.json, preference.json and search.png.

The same command resumes from the journal. Cost: small files. Not here: the search (`on_target`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefmerge.errors import MissingExtra, OutputError, OutputExists, RunError
from prefmerge.ground import jsons, locks
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.study import FILE

RESULT, PREFERENCE, PICTURE = "search.json", "preference.json", "search.png"


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
                raise OutputError(
                    f"{folder}: cannot be written: {error.strerror or error}. Give another -o OUT."
                ) from error
            try:
                if force:
                    for name in (RESULT, PREFERENCE, PICTURE, FILE):
                        (folder / name).unlink(missing_ok=True)
                yield
            finally:
                lock.close()
                with contextlib.suppress(OSError):  # not empty: then it stays
                    folder.rmdir()

    def write(self, result: SearchResult, inputs: Sequence[str]) -> None:
        """Write all but the journal. `inputs`: what `merge` merges. Raises OutputError."""
        command = result.command(inputs, str(self.preference))
        preference = result.preference_json()
        try:
            jsons.write(self.folder / RESULT, {**result.to_json(), "command": command})
            if preference is not None:
                jsons.write(self.preference, preference)
            elif self.preference.exists():
                self.preference.unlink()
            with contextlib.suppress(MissingExtra):  # a picture is not worth an error after hours
                result.draw(self.folder / PICTURE)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}.") from error
