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

import numpy as np

from prefmerge.checkpoints import Checkpoint, Fingerprint, is_task_vector
from prefmerge.checkpoints.dtypes import to_float, to_float32
from prefmerge.errors import NonFiniteValue
from prefmerge.methods import kernels


@dataclass
class Input:
    """A checkpoint in use: what it is, under which name each tensor is stored there, and what of it was hashed."""

    checkpoint: Checkpoint
    role: str  # "base" or "task 'birds'", for messages
    fingerprint: Fingerprint
    vector: bool = False
    touched: bool = False  # anything read at all
    stands_for: tuple[Input, str] | None = None  # of a decoded tensor: whose it is, and its name there

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

    def where(self, tensor: str) -> str:
        """`base (model.safetensors)`, for messages."""
        return f"{self.role} ({self.checkpoint.file_of(tensor)})"


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
    _local: threading.local = field(default_factory=threading.local)

    def base(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32."""
        if getattr(self._local, "span", None) != (start, stop):
            stored = self.origin.checkpoint.raw(self.name)[start:stop]
            self._local.values = to_float32(stored, self.origin.checkpoint.tensors[self.name].dtype)
            self._local.span = (start, stop)
        return self._local.values

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out` with tau_task[start:stop]. True if any is not zero. Raises NonFiniteValue."""
        source, name = self.tasks[task], self.names[task]
        raw = source.checkpoint.raw(name)
        source.touched = True
        source.fingerprint.add(source.stored_name(name), raw, start, stop)
        values = to_float32(raw[start:stop], source.checkpoint.tensors[name].dtype)
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
        raw = source.checkpoint.raw(name)
        source.touched = True
        source.fingerprint.add(source.stored_name(name), raw, start, stop)
        values = to_float(raw[start:stop], source.checkpoint.tensors[name].dtype)
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
        values = to_float32(source.checkpoint.raw(name)[indices], source.checkpoint.tensors[name].dtype)
        base = to_float32(
            self.origin.checkpoint.raw(self.name)[indices], self.origin.checkpoint.tensors[self.name].dtype
        )
        if source.vector:
            out[:] = values
        else:
            np.subtract(values, base, out=out)
        if not np.isfinite(out).all():
            self._complain(task, indices, values, base)

    def _complain(self, task: int, indices: np.ndarray, values: np.ndarray, base: np.ndarray) -> None:
        source = self.tasks[task]
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
            source.fingerprint.add_missing(name, source.checkpoint.raw(name))
