"""Where a report goes.

    report=True           report.html in an output folder; beside an output file, NAME.report.html
    report="page.html"    there

The rule is the same for every command. A file that is there is replaced where it is a report of ours, or with `force`.
Cost: a look at the file. Not here: what a report says.
"""

from __future__ import annotations

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


def asked(where: ReportWhere, *, force: bool = False) -> ReportPlace | None:
    """The place that a caller names; None where no report is wanted. Raises UsageError, OutputExists."""
    if where is None or where is False:
        return None
    if where is True or str(where) in ("", "."):
        return ReportPlace()
    file = Path(where)
    if not is_report(file):
        raise UsageError(f"--report {file}: a report is an HTML file. Give a name that ends in .html.")
    require_free(file, force=force)
    return ReportPlace(file)


def is_report(file: str | Path) -> bool:
    """Whether a report may be called so."""
    return Path(file).suffix.lower() in SUFFIXES


def require_free(file: Path, *, force: bool = False) -> None:
    """Raise OutputExists unless the report may be written there, UsageError where its folder is not there."""
    if file.is_dir() or (file.exists() and not force and not _is_ours(file)):
        what = "is a folder" if file.is_dir() else "exists already, and prefmerge did not make it"
        raise OutputExists(f"{file}: {what}. Give the report another name.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--report {file}: there is no folder {file.absolute().parent}. Make it first.")


def write(file: Path, text: str) -> None:
    """Write a report, whole or not at all. Raises OutputError."""
    try:
        atomic.write_whole(file, text.encode())
    except OSError as error:
        way = remedy(error, "Give another place.")
        raise OutputError(f"{file}: the report cannot be written: {error.strerror or error}. {way}") from error


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return f'name="generator" content="{GENERATOR} '.encode() in opened.read(_HEAD)
    except OSError:
        return False
