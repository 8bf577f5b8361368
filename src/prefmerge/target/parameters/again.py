"""An earlier result of `adapt`, to start again from or to compare with: its parameters, and what was shown.

    parameters = those of the file, where none are given now
    labels     = those that the file counts + those that are given now
    inputs, pairs: the file holds no samples, so the old ones are given again with the new ones
    a stated mix: until labels or inputs are given in its place

The file holds no path, since it may be published. The run is looked for where the receipt beside the file says that the
base was; other paths are asked for again. Cost: two small files. Not here: whether the tasks are the same, and the sum
(`evidence`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge import runs
from prefmerge.errors import CheckpointCorrupt, DataError, UsageError
from prefmerge.ground import jsons
from prefmerge.ground.words import counted, flag, joined, listed
from prefmerge.merging.receipt import Receipt
from prefmerge.target.files import FORMAT, RECEIPT, RESULT
from prefmerge.target.parameters.scored import COMMANDS, OF_SCORE

PATHS = (
    "checkpoints",
    "run",
    "labels",
    "inputs",
    "pairs",
    "task_samples",
    "task_labels",
    "head",
    "candidate",
    "compare",
)  # parameters of which the file has the name alone
_OF_CHECKPOINTS = ("task_samples", "task_labels", "head", "model")


@dataclass(frozen=True)
class Earlier:
    """What adapt.json holds. `labels`: class -> how many were shown; `inputs` and `pairs`: how many."""

    file: Path
    data: Mapping[str, Any]

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.data["parameters"]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.data["tasks"])

    @property
    def labels(self) -> dict[str, int]:
        return dict(self.data["shown"]["labels"])

    @property
    def inputs(self) -> int:
        return int(self.data["shown"]["inputs"])

    @property
    def pairs(self) -> int:
        return int(self.data["shown"]["pairs"])

    def require_tasks(self, names: tuple[str, ...]) -> None:
        """Raise UsageError where the tasks are others."""
        if names != self.tasks:
            raise UsageError(
                f"{self.file} is of the tasks {listed(self.tasks, 5)}; these are {listed(names, 5)}. Give the run or "
                "the checkpoints that it was made from."
            )

    def run(self) -> Path | None:
        """The run that it was made from, where that is still where it was."""
        try:
            place = Receipt.load(self.file.with_name(RECEIPT)).inputs.base.place
        except CheckpointCorrupt:
            return None
        if place is None:
            return None
        folder = Path(place).parent
        return folder if (folder / runs.FILE).is_file() and folder.name == self.parameters.get("run") else None


def read_earlier(path: Path) -> Earlier:
    """The result in a file, or in the folder that `adapt` wrote. Raises DataError, UsageError."""
    file = path / RESULT if path.is_dir() else path
    if str(path).startswith("-") and not path.exists():
        raise UsageError(
            f"{path} stands where the folder that `prefmerge adapt -o` wrote is expected. Give that first."
        )
    try:
        data = jsons.read(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file. Give the folder that `prefmerge adapt -o` wrote.") from None
    except (OSError, jsons.NotJson) as error:
        raise DataError(f"{file}: cannot be read: {error}. Give the folder that `prefmerge adapt -o` wrote.") from error
    kinds = {"parameters": dict, "shown": dict, "tasks": list, "target": dict}
    whole = isinstance(data, dict) and data.get("format") == FORMAT
    if not whole or not all(isinstance(data.get(name), kind) for name, kind in kinds.items()):
        raise DataError(f"{file}: is no result of this version of `prefmerge adapt`. Give the folder that it wrote.")
    shown = data["shown"]
    if not isinstance(shown.get("labels"), dict) or not all(type(n) is int for n in shown["labels"].values()):
        raise DataError(f"{file}: does not say which labels were shown. Give the folder as `prefmerge adapt` wrote it.")
    return Earlier(file, data)


def taken_from(earlier: Earlier, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The parameters of an earlier result that `given` does not have, without what was shown; and what is missing."""
    old, missing = earlier.parameters, list[str]()
    apart = (*PATHS, "prefer", *COMMANDS) if given.get("score") else (*PATHS, "prefer", *COMMANDS, *OF_SCORE)
    taken = {name: value for name, value in old.items() if name not in apart and value is not None}
    if given.get("run") is not None:
        taken = {name: value for name, value in taken.items() if name not in _OF_CHECKPOINTS}
    elif old.get("run") and not given.get("checkpoints"):
        taken["run"] = earlier.run()
        if taken["run"] is None:
            missing.append(f"--run (it was {old['run']!r})")
    else:
        if not given.get("checkpoints"):
            missing.append(f"BASE TASK... (they were {' '.join(old.get('checkpoints', ()))})")
        for name in ("task_samples", "task_labels", "head"):
            if old.get(name) and not given.get(name):
                missing.append(f"{flag(name)} (it was {_named(old[name])})")
    return taken, missing


def continued(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters to start again with: those of an earlier result, and in their place those `given`.

    Raises DataError, and UsageError naming all paths that must be given again.
    """
    earlier, given = read_earlier(path), {name: value for name, value in given.items() if value is not None}
    taken, missing = taken_from(earlier, given)
    if earlier.parameters.get("candidate") and not given.get("candidate"):
        missing.append(f"--candidate (it was {_named(earlier.parameters['candidate'])})")
    for name in COMMANDS:
        if earlier.parameters.get(name) and not given.get(name):
            missing.append(f"{flag(name)} (it was {earlier.parameters[name]!r}; no command is run out of a file)")
    if not given.get("forget"):
        stated = earlier.parameters.get("prefer")
        if stated is not None and not any(given.get(name) for name in ("labels", "inputs", "prefer")):
            taken["prefer"] = stated
        _require_together(earlier, given)
        for name, count in (("inputs", earlier.inputs), ("pairs", earlier.pairs)):
            if count and not given.get(name):
                what = counted(count, name.removesuffix("s"))
                missing.append(f"{flag(name)} (the {what} of before, together with new ones)")
    if missing:
        raise UsageError(f"{earlier.file} holds no paths and no samples. Give again: {joined(missing)}.")
    return {**taken, **given}


def _require_together(earlier: Earlier, given: Mapping[str, Any]) -> None:
    """Raise UsageError for what cannot be added to what was shown."""
    hint = "Give --forget to take the parameters alone."
    if given.get("prefer") and (earlier.labels or earlier.inputs):
        raise UsageError(f"--prefer states the mix, and {earlier.file} estimates it from what was shown. {hint}")
    if given.get("labels") and earlier.pairs:
        raise UsageError(
            f"--labels: {earlier.file} was made with {counted(earlier.pairs, 'pair')}, which have labels already. Give "
            f"--pairs, with those of before in it. {hint}"
        )
    if given.get("pairs") and earlier.labels:
        raise UsageError(f"--pairs have labels, and {earlier.file} counts labels too, perhaps the same ones. {hint}")


def _named(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)
