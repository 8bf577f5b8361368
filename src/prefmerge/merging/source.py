"""The task vectors of one tensor, read from checkpoints block by block.

    tau_t = float32(theta_t) - float32(theta_0), or the stored tau_t of a task-vector file

Every value read is checked (NaN and infinity name file, tensor and place) and hashed for the receipt while it is in the
cache. Cost: the conversion of a block where it is not stored as float32. Left out: which tensors to read (plan) and
what to do with them (methods).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from prefmerge.checkpoints import CHUNK, Checkpoint, Fingerprint, is_task_vector, require_unchanged
from prefmerge.checkpoints.dtypes import to_float, to_float32
from prefmerge.errors import NonFiniteValue
from prefmerge.methods import kernels

FAR = 4096  # elements between two that are gathered, beyond which each is read for itself


class _Blocks(threading.local):
    """What one thread has read: a block of the base, which the next task needs as well, and one of a task."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}
        self.held: tuple[str, int, int] | None = None  # tensor, start, stop of `values`
        self.values = np.empty(0, np.float32)
        self.gathered: tuple[str, np.ndarray, np.ndarray] | None = None  # tensor, indices, the base's values there

    def buffer(self, name: str, nbytes: int) -> np.ndarray:
        if name not in self.buffers or self.buffers[name].size < nbytes:
            self.buffers[name] = np.empty(nbytes, np.uint8)
        return self.buffers[name]


@dataclass
class Input:
    """A checkpoint in use: what it is, under which name each tensor is stored there, and what of it was hashed."""

    checkpoint: Checkpoint
    role: str  # "base" or "task 'birds'", for messages
    fingerprint: Fingerprint
    vector: bool = False
    touched: bool = False  # anything read at all
    stands_for: tuple[Input, str] | None = None  # of a decoded tensor: whose it is, and its name there
    blocks: _Blocks = field(default_factory=_Blocks, repr=False, compare=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint, role: str) -> Input:
        return cls(
            checkpoint,
            role,
            Fingerprint(checkpoint.tensors.values(), aliases=checkpoint.aliases),
            is_task_vector(checkpoint),
        )

    def stored_name(self, tensor: str) -> str:
        """The name under which this checkpoint stores what shares `tensor`'s elements."""
        return self.checkpoint.aliases.get(tensor, tensor)

    def read(self, tensor: str, start: int, stop: int, blocks: _Blocks, buffer: str) -> np.ndarray:
        """The stored elements [start, stop) of `tensor`, in that buffer of `blocks`; of an input that counts as read
        (`touched`) their chunks are in the fingerprint then.
        """
        name = self.stored_name(tensor)
        reach = self.fingerprint.reach(name, start, stop) if self.touched else stop
        space = blocks.buffer(buffer, (reach - start) * self.checkpoint.tensors[name].dtype.itemsize)
        stored = self.checkpoint.read(name, start, reach, space)
        if self.touched:
            self.fingerprint.add(name, stored, start)
        return stored[: stop - start]

    def where(self, tensor: str) -> str:
        """`base (model.safetensors)`, for messages."""
        return f"{self.role} ({self.checkpoint.file_of(tensor)})"


def _gathered(source: Input, tensor: str, indices: np.ndarray) -> np.ndarray:
    """The elements at `indices`, ascending, float32: read in stretches, for a call costs as much as a few thousand
    elements.
    """
    checkpoint = source.checkpoint
    dtype = checkpoint.tensors[tensor].dtype
    buffer = source.blocks.buffer("task", CHUNK * dtype.itemsize)
    stored = np.empty(len(indices), dtype.storage)
    apart = (np.diff(indices) > FAR) | (np.diff(indices // CHUNK) != 0)
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(indices)]
    for low, high in pairwise(cuts):
        if low < high:
            first = int(indices[low])
            stretch = checkpoint.read(tensor, first, int(indices[high - 1]) + 1, buffer)
            np.take(stretch, indices[low:high] - first, out=stored[low:high])
    return to_float32(stored, dtype)


@dataclass
class TensorDeltas:
    """Implements `methods.protocol.Deltas` over checkpoints. `names[t]`: the tensor's name in task t (ties may have
    dropped one).
    """

    name: str
    size: int
    origin: Input
    tasks: Sequence[Input]
    names: Sequence[str]
    changed: bool = False

    def base(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32. Valid until the thread asks for another stretch."""
        blocks, key = self.origin.blocks, (self.name, start, stop)
        if blocks.held != key:
            blocks.held = None  # what the buffer holds is about to go
            stored = self.origin.read(self.name, start, stop, blocks, "base")
            blocks.values = to_float32(stored, self.origin.checkpoint.tensors[self.name].dtype)
            blocks.held = key
        return blocks.values

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out` with tau_task[start:stop]. True if any is not zero. Raises NonFiniteValue."""
        source, name = self.tasks[task], self.names[task]
        source.touched = True
        stored = source.read(name, start, stop, self.origin.blocks, "task")
        values = to_float32(stored, source.checkpoint.tensors[name].dtype)
        if source.vector:
            out[:] = values
            finite, changed = kernels.survey(values)
        else:
            finite, changed = kernels.subtract(values, self.base(start, stop), out)
        if not finite:
            self._complain(task, np.arange(start, stop), values, self.base(start, stop))
        if changed:
            self.changed = True
        return bool(changed)

    def model(self, task: int | None, start: int, stop: int) -> np.ndarray:
        """theta_task[start:stop], theta_0 for None: float64 where it is stored so, else float32. Raises
        NonFiniteValue.
        """
        if task is None:
            source, name = self.origin, self.name
        else:
            source, name = self.tasks[task].stands_for or (self.tasks[task], self.names[task])
        source.touched = True
        stored = source.read(name, start, stop, self.origin.blocks, "base's model" if task is None else "model")
        values = to_float(stored, source.checkpoint.tensors[name].dtype)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is reported as infinity
            narrow = values.astype(np.float32)
        if not np.isfinite(narrow).all():
            self._complain(task or 0, np.arange(start, stop), narrow, self.base(start, stop))
        if task is None:
            return values
        if source.vector:
            values = self.model(None, start, stop).astype(np.float64) + values
            self.changed = self.changed or bool(narrow.any())
        elif not self.changed and not np.array_equal(narrow, self.base(start, stop)):
            self.changed = True
        return values

    def gather(self, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with tau_task at `indices`. Raises NonFiniteValue."""
        source, name = self.tasks[task], self.names[task]
        values = _gathered(source, name, indices)
        base = self._gathered_base(indices)
        if source.vector:
            out[:] = values
        else:
            np.subtract(values, base, out=out)
        if not np.isfinite(out).all():
            self._complain(task, indices, values, base)

    def _gathered_base(self, indices: np.ndarray) -> np.ndarray:
        blocks = self.origin.blocks
        held = blocks.gathered
        if held is not None and held[0] == self.name and np.array_equal(held[1], indices):
            return held[2]  # one task after the other is asked for the same
        base = _gathered(self.origin, self.name, indices)
        blocks.gathered = (self.name, indices, base) if len(indices) <= CHUNK else None
        return base

    def _complain(self, task: int, indices: np.ndarray, values: np.ndarray, base: np.ndarray) -> None:
        source = self.tasks[task]
        require_unchanged(source.checkpoint, self.origin.checkpoint)  # or the fault is not the file's own
        for found, where in ((base, self.origin.where(self.name)), (values, source.where(self.names[task]))):
            wrong = np.flatnonzero(~np.isfinite(found))
            if wrong.size:
                raise NonFiniteValue(
                    f"{where}: tensor {self.name!r} holds {found[wrong[0]]} at element {indices[wrong[0]]}; every "
                    "value must be a finite float32. "
                    "Train or export that checkpoint again, or leave the tensor out with --exclude."
                )
        raise NonFiniteValue(
            f"{source.where(self.names[task])}: tensor {self.name!r} differs from the base by more than float32 can "
            "hold. "
            "Check that both are checkpoints of one model."
        )


def hash_rest(source: Input, tensors: Sequence[str] | None = None) -> None:
    """Hash what was not read, so that the fingerprint covers the whole checkpoint."""
    for name in tensors if tensors is not None else source.checkpoint.tensors:
        if name not in source.checkpoint.aliases:
            source.fingerprint.add_missing(name, source.checkpoint)
