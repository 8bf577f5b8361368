"""Where the receipt of an output is, also where a merge was killed between its two renames.

    merged/receipt.json                    of a folder
    merged.safetensors.receipt.json        of a file

Cost: one reading of the weights where a killed merge left its receipt behind; a listing of a folder that is to be
replaced. Not here: what a receipt says.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import content_fingerprint
from prefmerge.checkpoints.safetensors_file import SafetensorsFile
from prefmerge.errors import CheckpointError
from prefmerge.ground import atomic, disk, jsons
from prefmerge.report import place

RECEIPT = "receipt.json"
HELD = "output"  # the sub-folder of a temporary folder that has more than the output in it: pieces to resume from
FORMATS = "prefmerge-receipt/"  # how the format of every receipt begins
PUT_ANYWHERE = (  # names of what systems, libraries and this package leave in any folder
    *("__pycache__", ".cache", ".ipynb_checkpoints", ".DS_Store", "._*", ".directory", ".localized"),
    *(".Trash*", ".nfs*", ".fuse_hidden*", ".*.prefmerge-*.tmp"),
)


def receipt_beside(target: Path) -> Path:
    """Where the receipt of an output file is: OUT.receipt.json."""
    return target.with_name(target.name + ".receipt.json")


def _waiting(target: Path, workspace: Path) -> Path:
    """Where the receipt of an output file waits until its weights are in place."""
    held = workspace / HELD
    return (held if held.is_dir() else workspace) / receipt_beside(target).name


def find_receipt(out: str | Path) -> Path | None:
    """The receipt of the output at `out`, None when it has none.

    The receipt of a file may still wait in a temporary folder, because the merge was killed at the last moment. It
    counts when it describes the weights that are there; this reads them once. Whether a receipt in its proper place
    does is for `verify` to say.
    """
    out = Path(out)
    if out.is_dir():
        return out / RECEIPT if (out / RECEIPT).is_file() else None
    if not out.is_file():
        return None
    for workspace in atomic.work_folders(out):
        if _describes(_waiting(out, workspace), out):
            return _waiting(out, workspace)
    return receipt_beside(out) if receipt_beside(out).is_file() else None


def _describes(receipt: Path, weights: Path) -> bool:
    """Whether `receipt` is there, whole, and about exactly these weights."""
    try:
        output = jsons.read(receipt, nan=True)["output"]
        if [entry["bytes"] for entry in output["files"]] != [weights.stat().st_size]:
            return False
        opened = SafetensorsFile.open(weights)
        return content_fingerprint(opened) == output["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return False


def settle(target: Path, workspace: Path) -> None:
    """Finish what a killed merge began: put its receipt in place if its weights are."""
    waiting = _waiting(target, workspace)
    if _describes(waiting, target):
        os.replace(waiting, receipt_beside(target))
        disk.sync_path(target.parent)


def added_by_others(folder: Path) -> list[str] | None:
    """The files in an output folder that its merge did not write, by their paths in it; None where the folder is none
    of ours. What systems and libraries leave anywhere does not count, nor a report of ours. Other hidden files do. A
    hidden folder counts as one: it may be the history of a repository.
    """
    try:
        content: Any = jsons.read(folder / RECEIPT, nan=True)
        if not content["format"].startswith(FORMATS):
            return None
        output = content["output"]
        if output.get("beside") is None:  # the first versions did not say
            return []
        own = {RECEIPT, *output["beside"], *(entry["name"] for entry in output["files"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        own_folders = [name for name in folders if not _put_anywhere(name)]
        folders[:] = sorted(name for name in own_folders if not name.startswith("."))
        whole = [name for name in own_folders if name.startswith(".") or (Path(root) / name).is_symlink()]
        found += [(inside / name).as_posix() for name in (*sorted(names), *sorted(whole)) if not _put_anywhere(name)]
    return [name for name in found if name not in own and not _is_report(folder, name)]


def _put_anywhere(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in PUT_ANYWHERE)


def _is_report(folder: Path, name: str) -> bool:
    return place.is_report(name) and place.is_ours(folder / name)
