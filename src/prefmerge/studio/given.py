"""What is dropped on the page: labels or inputs of the target; and the shares that follow, with their intervals.

Files are kept in a folder of their own while they are read, and go with it; their names are not used, but for how they
end. A table or a list of images is refused, for it names files of this machine. Cost: labels: milliseconds; inputs: a
forward pass each under the base. Not here: the estimates (`target.shares`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from prefmerge.data.images import SUFFIXES
from prefmerge.errors import PrefmergeError
from prefmerge.ground.progress import Progress
from prefmerge.studio.asked import Refused, refused
from prefmerge.studio.front import UNITS, in_units
from prefmerge.studio.measured import Meter
from prefmerge.studio.opened import Opened
from prefmerge.target import given
from prefmerge.target.evidence import weigh
from prefmerge.target.shares import Shares, from_labels, known_counts
from prefmerge.target.source import Source

MOST_LABELS = 2 << 20  # bytes of a file of labels
MOST_INPUTS = 64 << 20  # bytes of all inputs together
LABELS = (".csv", ".tsv", ".txt", ".json")
TEXTS = (".txt", ".csv", ".tsv")

File = tuple[str, bytes]  # its name where it came from, and what it holds


def labels(opened: Opened, file: File) -> dict[str, Any]:
    """The dials that labels set. Raises Refused."""
    source = _source(opened, "labels")
    name, content = file
    suffix = _suffix(name, LABELS, "labels")
    with tempfile.TemporaryDirectory(prefix="prefmerge-studio-") as folder:
        path = Path(folder) / f"labels{suffix}"
        path.write_bytes(content)
        try:
            counts, notes = known_counts(given.matched(given.read_labels(path), source.tasks.classes), source.tasks)
            return _told(from_labels(source.tasks, counts), notes)
        except PrefmergeError as error:
            raise _of_field(refused(error, folder), "labels") from error


def inputs(measured: Meter, files: Sequence[File], progress: Progress) -> dict[str, Any]:
    """The dials that inputs without labels set. Raises Refused."""
    source = _source(measured.opened, "inputs")
    if not files:
        raise Refused("there is no file. Drop images, or a list of texts.", "inputs")
    if source.kind == "text" and len(files) > 1 and any(_suffix(name, TEXTS, "texts") != ".txt" for name, _ in files):
        raise Refused("drop one table, or .txt files only.", "inputs")
    with tempfile.TemporaryDirectory(prefix="prefmerge-studio-") as folder:
        paths = []
        for i, (name, content) in enumerate(files):
            suffix = _suffix(name, SUFFIXES if source.kind == "image" else TEXTS, f"{source.kind}s")
            paths.append(Path(folder) / f"{i + 1:05d}{suffix}")
            paths[-1].write_bytes(content)
        alone = source.kind == "text" and len(paths) == 1
        try:
            examples = given.read_inputs(paths[0] if alone else Path(folder), source.kind)
            forwards = measured.forwards(progress)
            made = weigh(forwards.asked, source, forwards.embeddings_of_base, inputs=examples)
            return _told(made.shares, ())
        except PrefmergeError as error:
            raise _of_field(refused(error, folder), "inputs") from error


def _source(opened: Opened, what: str) -> Source:
    if opened.source is None:
        raise Refused(
            f"a recipe does not say which classes its tasks have, so {what} cannot set the dials. Start the studio "
            "with a run of `prefmerge finetune`.",
            what,
        )
    return opened.source


def _suffix(name: str, known: Sequence[str], what: str) -> str:
    suffix = PurePath(name).suffix.lower()
    if suffix not in known:
        field = "labels" if what == "labels" else "inputs"
        raise Refused(f"{name[:100]!r}: {what} are files that end in {', '.join(known)}.", field)
    return suffix


def _of_field(error: Refused, field: str) -> Refused:
    error.field = field
    return error


def _told(shares: Shares, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "dials": in_units([float(share) for share in shares.shares / shares.shares.sum()]),
        "low": [round(UNITS * float(low)) for low in shares.low],
        "high": [round(UNITS * float(high)) for high in shares.high],
        "level": shares.level,
        "samples": shares.samples,
        "tells": shares.tells,
        "notes": list(dict.fromkeys((*notes, *shares.notes))),
    }
