"""What an interrupted merge had finished: its tensors, taken by the next merge that would make the very same bytes.

    key = digest of recipe, settings, tensors, headers of the inputs, sources of the engine, layout of the output
    taken: record there under the key, inputs the same, elements in the output's file with the recorded hash

The elements lie where the interrupted merge wrote them, in the files of the output to be; a piece is the records of the
tensors that were finished in half a second: hashes of what was written and of what was read, owners, reports. An input
counts as the same where its files are the very ones (number, size, times), else where its elements have the recorded
hashes. Budgets over the whole model depend on all elements: there all files must be the same ones.
A tensor whose rows were moved between vocabularies is always merged again; what is copied is copied again.
Cost: 8 bytes for every 65,536 elements read; to resume, one reading of what is taken. Not here: where the folder lies
and when it goes (`outputs.write`).
"""

from __future__ import annotations

import functools
import inspect
import json
import threading
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.checkpoints import Checkpoint, Fingerprint, require_unchanged
from prefmerge.checkpoints.rearranged import Rearranged, original
from prefmerge.ground.store import Store, digest, digest_of_file
from prefmerge.merging.added import Added, entries
from prefmerge.merging.kept import KeptMagnitude
from prefmerge.merging.outcome import Outcome
from prefmerge.merging.plan import Plan, PlannedTensor
from prefmerge.merging.recording import versions
from prefmerge.merging.sinks import HashedSink
from prefmerge.methods import Report
from prefmerge.methods.by_layer import ByLayer
from prefmerge.outputs.refusals import reporting
from prefmerge.outputs.shards import ShardFiles
from prefmerge.preference import as_text
from prefmerge.vectors.adapter import AdapterVector
from prefmerge.vectors.reading import Reading, ReadInput
from prefmerge.vectors.workspace import Workspace

FORMAT = "prefmerge-pieces/1"
EVERY = 0.5  # seconds between two pieces
ENGINE = ("preference.py", "checkpoints", "vectors", "methods", "merging")  # the sources that decide bytes


def key_of(plan: Plan, added: Added | None) -> str:
    """A digest of what decides the output's bytes beside the elements of the inputs and its layout. Threads, memory and
    blocks are no part of it.
    """
    shares = plan.settings.shares
    return digest(
        {
            "format": FORMAT,
            "engine": _engine(),
            "source": _source(type(plan.method)),
            "versions": versions(),
            "recipe": plan.recipe.settings(plan.names),
            "tasks": plan.names,
            "shares": shares.to_json(_texts) if isinstance(shares, ByLayer) else shares and _texts(shares),
            "counts": plan.settings.counts,
            "tensors": [
                [one.name, one.info.dtype.code, one.info.shape, one.dtype.code, one.role, one.stored_as, one.tied_to]
                for one in plan.entries
            ],
            "layers": {name: [str(depth), at] for name, (depth, at) in plan.layers.items()},
            "inputs": [[one.name, _header(original(one))] for one in plan.checkpoints],
            "added": None if added is None else entries(added),
        },
        sort=True,
    )


def _texts(shares: Sequence[Fraction]) -> list[str]:
    return list(map(as_text, shares))


def _header(checkpoint: Checkpoint) -> str:
    """A digest of names, formats and shapes. Sizes and metadata of files may differ where the tensors are the same."""
    return digest([[name, info.dtype.code, info.shape] for name, info in checkpoint.tensors.items()])


@functools.cache
def _engine() -> str:
    """A digest of the sources: what an earlier version made may differ."""
    home = Path(__file__).parents[1]
    files = [
        file for part in ENGINE for file in ([home / part] if part.endswith(".py") else (home / part).rglob("*.py"))
    ]
    return digest([[file.relative_to(home).as_posix(), digest_of_file(file)] for file in sorted(files)])


def _source(method: type) -> list[str]:
    """Of a method that the user registered, its source counts too."""
    try:
        return [method.__qualname__, digest_of_file(Path(inspect.getfile(method)))]
    except (OSError, TypeError):  # typed into an interpreter: the same only within this process
        return [method.__qualname__, str(id(method))]


class Pieces:
    """The finished tensors of one plan. `folder`: where their records are. `key`: of the output. `files`, `hashed`:
    where the elements are, and the sink over them. `target`: the output that messages name.
    """

    def __init__(self, folder: Path, key: str, plan: Plan, files: ShardFiles, hashed: HashedSink, target: Path) -> None:
        self._store = Store(folder, ".json", sealed=True)
        self._key, self._plan, self._files, self._hashed, self._target = key, plan, files, hashed, target
        self._whole = not plan.method.by_tensor(plan.settings)
        self._states = [_state(one) for one in map(original, plan.checkpoints)]
        self._moved = [one.moved if isinstance(one, Rearranged) else frozenset[str]() for one in plan.checkpoints]
        self._twins: dict[str, list[str]] = {}
        for entry in plan.of_role("tied"):
            self._twins.setdefault(entry.tied_to or "", []).append(entry.name)
        self._pending: list[dict[str, Any]] = []
        self._pending_lock = threading.Lock()
        self._due = time.monotonic() + EVERY
        self.load()

    def load(self) -> int:
        """Read what is kept. Returns how many tensors that are."""
        self.report: Report | None = None
        self._records: dict[str, dict[str, Any]] = {}
        for name in self._store.keys(""):
            self._load(self._store.read(name))
        return len(self._records)

    def _load(self, content: bytes | None) -> None:
        piece = None if content is None else json.loads(content)
        if piece is None or piece["key"] != self._key or (self._whole and piece["states"] != self._states):
            return
        self.report = Report.of(piece["report"]) or self.report
        for record in piece["tensors"]:
            self._records[record["name"]] = {**record, "states": piece["states"]}

    def take(self, entry: PlannedTensor, outcome: Outcome, work: Workspace) -> bool:
        """Whether a tensor is there as this merge would make it; then it counts as merged, with what is known of it."""
        record = self._records.get(entry.name)
        if record is None or not self._same_inputs(entry, record, outcome.reading):
            return False
        if outcome.measured and record["changed"] and record["kept"] is None:
            return False
        written = {name: self._hashes_written(name, work) for name in self._names(entry)}
        if {name: digest(hashes) for name, hashes in written.items()} != record["written"]:
            return False
        for name, hashes in written.items():
            self._hashed.fingerprint.take(name, bytes.fromhex(hashes))
            self._files.is_there(name)
        for place, source, name in self._inputs(entry, outcome.reading):
            if place in record["touched"]:
                source.touched = True
                if source.fingerprint is not None:
                    source.fingerprint.take(name, bytes.fromhex(record["read"][place][1]))
        outcome.changed[entry.name] = record["changed"]
        if outcome.measured and record["kept"] is not None:
            outcome.magnitudes[entry.name] = KeptMagnitude.from_json(record["kept"])
        if record["owned"] is not None:
            outcome.owned[entry.name] = np.array(record["owned"], np.int64)
        report = Report.of(record["report"])
        if report is not None:
            outcome.reports[entry.name] = report
        return True

    def add(self, entry: PlannedTensor, outcome: Outcome) -> None:
        """Keep a tensor that is written. Raises CheckpointChanged where an input is no longer what was opened,
        OutputError where nothing can be kept. Called from any thread.
        """
        if any(name in self._moved[int(place)] for place, _, name in self._inputs(entry, outcome.reading)):
            return
        owned, report = outcome.owned.get(entry.name), outcome.reports.get(entry.name)
        inputs, kept = self._inputs(entry, outcome.reading), outcome.magnitudes.get(entry.name)
        touched = [place for place, source, _ in inputs if source.touched]
        read = {
            place: [source.checkpoint.file_of(name), _hashes_read(source, name)]
            for place, source, name in inputs
            if place in touched or place == "0"  # the base tells what is changed, whether its values are used or not
        }
        record = {
            "name": entry.name,
            "written": {name: digest(self._hashes_written(name, None)) for name in self._names(entry)},
            "read": read,
            "touched": touched,
            "changed": outcome.changed[entry.name],
            "owned": None if owned is None else owned.tolist(),
            "report": None if report is None else report.entries(),
            "kept": None if kept is None else kept.to_json(),
        }
        with self._pending_lock:
            self._pending.append(record)
            self.report = outcome.report
            if time.monotonic() < self._due:
                return
        self.flush()

    def flush(self) -> None:
        """Write what was added since. Raises as `add`."""
        with self._pending_lock:
            records, self._pending = self._pending, []
            self._due = time.monotonic() + EVERY
        if not records:
            return
        require_unchanged(*self._plan.checkpoints)
        report = None if self.report is None else self.report.entries()
        piece = {"key": self._key, "states": self._states, "report": report, "tensors": records}
        with reporting(self._target):
            self._store.write(digest([self._key, [one["name"] for one in records]]), json.dumps(piece).encode())

    def _names(self, entry: PlannedTensor) -> list[str]:
        return [entry.name, *self._twins.get(entry.name, ())]

    def _inputs(self, entry: PlannedTensor, reading: Reading) -> list[tuple[str, ReadInput, str]]:
        """Each input's place, itself, and what it calls the elements of a tensor."""
        called = zip((reading.base, *reading.tasks), (entry.name, *entry.stored_as), strict=True)
        return [(str(i), source, source.stored_name(name)) for i, (source, name) in enumerate(called)]

    def _same_inputs(self, entry: PlannedTensor, record: Mapping[str, Any], reading: Reading) -> bool:
        for place, source, name in self._inputs(entry, reading):
            if place in record["read"]:
                file, hashes = record["read"][place]
                same = record["states"][int(place)] == self._states[int(place)] and file == source.checkpoint.file_of(
                    name
                )
                if not same and (not hashes or hashes != _hashes_read(source, name)):
                    return False
        return True

    def _hashes_written(self, name: str, work: Workspace | None) -> str:
        """The hashes of a tensor's chunks as they are in the file now; without `work`, as they were written."""
        if work is None:
            own = self._hashed.fingerprint
            for start, stop in own.missing(name):
                own.add(name, self._files.raw(name)[start:stop], start)
            return own.hashes(name).hex()
        own, raw = Fingerprint([self._files.infos[name]]), self._files.raw(name)
        work.map(lambda chunk: own.add(name, raw[slice(*chunk)], chunk[0]), own.missing(name))
        return own.hashes(name).hex()


def _state(checkpoint: Any) -> str:
    """Differs where the files of a checkpoint may hold something else."""
    if isinstance(checkpoint, AdapterVector):
        return checkpoint.content()
    return digest([str(checkpoint.path), [file.state for file in checkpoint.inputs]])


def _hashes_read(source: ReadInput, name: str) -> str:
    """The hashes of a tensor's chunks in an input; empty for what is not hashed but as a whole."""
    if source.fingerprint is None:
        return ""
    given = original(source.checkpoint)
    own = source.fingerprint if source.touched else Fingerprint([given.tensors[name]])
    own.add_missing(name, given)
    return own.hashes(name).hex()
