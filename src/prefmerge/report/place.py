"""Where a report goes.

    report=True           report.html in an output folder; beside an output file, NAME.report.html
    report="page.html"    there

The rule is the same for every command. A file that is there is replaced where it is a report of ours, or with `force`.
An output folder is made whole, so of what lies in it only its report.html can be asked for.
Cost: a look at the file. Not here: what a report says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prefmerge.errors import OutputError, OutputExists, UsageError
from prefmerge.ground import atomic
from prefmerge.ground.refused import remedy
from prefmerge.report.page import GENERATOR

REPORT = "report.html"
SUFFIXES = (".html", ".htm")
ReportWhere = bool | str | Path | None  # what a caller says
_HEAD = 1024  # bytes in which a report of ours says so


@dataclass(frozen=True)
class ReportPlace:
    """A report that was asked for: in this file; None: where the output is."""

    file: Path | None = None

    def of(self, out: Path, *, folder: bool) -> Path:
        """The file of the report on an output."""
        if self.file is not None:
            return self.file
        return out / REPORT if folder else out.with_name(f"{out.name}.{REPORT}")


def asked(where: ReportWhere, *, force: bool = False, made: Path | None = None) -> ReportPlace | None:
    """The place that a caller names; None where no report is wanted. `made`: a folder that will be there when the
    report is written. Raises UsageError, OutputExists.
    """
    to = _named(where)
    if to is not None and to.file is not None:
        require_free(to.file, force=force, made=made)
    return to


def asked_of(where: ReportWhere, out: Path, *, folder: bool, force: bool = False) -> ReportPlace | None:
    """The same for a report on the output at `out`, which need not be there yet. Raises UsageError, OutputExists."""
    to = _named(where)
    if to is None:
        return None
    own = ReportPlace().of(out, folder=folder)
    if to.file is not None and _real(to.file) == _real(own):
        to = ReportPlace()
    if to.file is None:
        if not folder:  # what is in a folder goes with it
            _require_ours(own, force=force)
        return to
    if folder and _real(out) in (_real(to.file), *_real(to.file).parents):
        raise UsageError(
            f"--report {to.file}: that is in the output folder {out}, whose report is called {REPORT}. "
            "Give --report alone for it, or a file outside the folder."
        )
    require_free(to.file, force=force)
    return to


def is_default(where: ReportWhere) -> bool:
    """Whether a report is asked for where the output is, or none, and not in a file that is named."""
    return where is None or isinstance(where, bool) or str(where) in ("", ".")


def _named(where: ReportWhere) -> ReportPlace | None:
    if where is None or where is False:
        return None
    if isinstance(where, bool) or is_default(where):
        return ReportPlace()
    file = Path(where)
    if not is_report(file):
        raise UsageError(f"--report {file}: a report is an HTML file. Give a name that ends in .html.")
    return ReportPlace(file)


def _real(path: Path) -> Path:
    """Where a path leads, but for a link at its end, which a report would replace."""
    path = path.absolute()
    return Path(os.path.realpath(path.parent)) / path.name


def is_report(file: str | Path) -> bool:
    """Whether a report may be called so."""
    return Path(file).suffix.lower() in SUFFIXES


def require_free(file: Path, *, force: bool = False, made: Path | None = None) -> None:
    """Raise OutputExists unless the report may be written there, UsageError where its folder is not there and is not
    `made` later.
    """
    _require_ours(file, force=force)
    if made is not None and os.path.realpath(file.absolute().parent) == os.path.realpath(made.absolute()):
        return
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--report {file}: there is no folder {file.absolute().parent}. Make it first.")


def _require_ours(file: Path, *, force: bool) -> None:
    if file.is_dir() or (file.exists() and not force and not is_ours(file)):
        what = "is a folder" if file.is_dir() else "exists already, and prefmerge did not make it"
        raise OutputExists(f"{file}: {what}. Give the report another name.")


def write(file: Path, text: str) -> None:
    """Write a report, whole or not at all. Raises OutputError."""
    try:
        atomic.write_whole(file, text.encode())
    except OSError as error:
        way = remedy(error, "Give another place.")
        raise OutputError(f"{file}: the report cannot be written: {error.strerror or error}. {way}") from error


def remove(file: Path) -> None:
    """Remove a report of ours, for what it told of is there no more; leave anything else. Raises OutputError."""
    if not is_ours(file):
        return
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be removed ({error.strerror or error}), and it tells of the model that was there before. "
            "Remove it yourself."
        ) from error


def is_ours(file: Path) -> bool:
    """Whether a file says in its head that it is a report of ours."""
    try:
        with file.open("rb") as opened:
            return f'name="generator" content="{GENERATOR} '.encode() in opened.read(_HEAD)
    except OSError:
        return False
