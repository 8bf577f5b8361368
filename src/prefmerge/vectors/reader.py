"""The task vectors of one tensor: a reader for each pair of tensor and task, and the base beside them.

    tau_t = float32(theta_t) - float32(theta_0), or the stored tau_t of a task-vector file
    tau_t = 0 where theta_t is theta_0 rounded to the 16 bits of theta_t's format

Every value is checked as it is read; NaN and infinity name file, tensor and place. Vectors are flat; `shape` is the
tensor's, for methods that work on matrices. Where many plans want the same tensor, `held` decodes each stretch of it
once, when it is first asked for, and `shared` each block that all work on before the next. Cost: one pass over a block,
0.15 to 0.6 ns an element by number format; held: float32 of the base and of every task that is asked for, for one
tensor at a time. Not here: which tensors to read (plan) and what to do with them (methods).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol, final

import numpy as np

from prefmerge.checkpoints import CHUNK, TensorInfo, require_unchanged
from prefmerge.checkpoints.dtypes import rounds, to_float, to_float32
from prefmerge.errors import NonFiniteValue
from prefmerge.vectors import kernels
from prefmerge.vectors.kernels import operand
from prefmerge.vectors.reading import Reading, ReadInput, ReadTensor, ThreadBuffers


class BaseReader(Protocol):
    """The base's elements of one tensor."""

    name: str

    def operand(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop] in a format that the kernels take. Valid until the thread asks for another stretch."""
        ...

    def values(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32. Valid until the thread asks for another stretch."""
        ...

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """theta_0 at `indices`, ascending, in a format that the kernels take."""
        ...

    def model(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop]: float64 where it is stored so, else float32. Raises NonFiniteValue."""
        ...

    def complain(self, indices: np.ndarray) -> None:
        """Raise NonFiniteValue where theta_0 holds one at `indices`, CheckpointChanged where its file has changed."""
        ...


class VectorReader(Protocol):
    """One task's vector of one tensor, which has this shape."""

    shape: tuple[int, ...]

    def read(self, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out`, float32, with tau[start:stop]. True if any is not zero. Raises NonFiniteValue."""
        ...

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with tau at `indices`, ascending. Raises NonFiniteValue."""
        ...

    def model(self, start: int, stop: int, *, compare: bool) -> tuple[np.ndarray, bool]:
        """theta_t[start:stop], float64 where it is stored so, else float32; and with `compare` whether it differs from
        the base anywhere. Raises NonFiniteValue.
        """
        ...


@final
class StoredBase(BaseReader):
    """The base's elements, read from its checkpoint."""

    def __init__(self, reading: Reading, name: str) -> None:
        self.name = name
        self._source, self._space, self._stored = reading.base, reading.space, ReadTensor(reading.base, name)
        self._dtype = self._source.checkpoint.tensors[name].dtype

    def operand(self, start: int, stop: int) -> np.ndarray:
        return self._kept("base", start, stop, self._read)

    def values(self, start: int, stop: int) -> np.ndarray:
        if self._dtype.code == "F32":
            return self.operand(start, stop)
        return self._kept("base's values", start, stop, self._converted)

    def _kept(self, buffer: str, start: int, stop: int, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
        key = (self.name, start, stop)
        kept = self._space.kept.get(buffer)
        if kept is None or kept[0] != key:
            kept = self._space.kept[buffer] = (key, read(start, stop))
        return kept[1]

    def _read(self, start: int, stop: int) -> np.ndarray:
        return operand(self._stored.read(start, stop, self._space, "base"), self._dtype)

    def _converted(self, start: int, stop: int) -> np.ndarray:
        nbytes = (stop - start) * 4
        out = self._space.buffer("base's values", nbytes)[:nbytes].view(np.float32)
        kernels.convert(self.operand(start, stop), out)
        return out

    def gather(self, indices: np.ndarray) -> np.ndarray:
        before = self._space.gathered
        if before is not None and before[0] == self.name and np.array_equal(before[1], indices):
            return before[2]  # one task after the other is asked for the same
        stored = self._source.gather(self._source.stored_name(self.name), indices, self._space)
        taken = operand(stored, self._dtype)
        self._space.gathered = (self.name, indices, taken) if len(indices) <= CHUNK else None
        return taken

    def model(self, start: int, stop: int) -> np.ndarray:
        self._source.touched = True
        values = to_float(self._stored.read(start, stop, self._space, "base's model"), self._dtype)
        if not np.isfinite(_narrow(values)).all():
            self.complain(np.arange(start, stop))
        return values

    def complain(self, indices: np.ndarray) -> None:
        require_unchanged(self._source.checkpoint)  # or the fault is not the file's own
        values = np.empty(len(indices), np.float32)
        kernels.convert(self.gather(indices), values)
        _complain(self._source, self.name, self.name, values, indices)


@final
class StoredVector(VectorReader):
    """A task's vector, read from its checkpoint. `stored_as`: what that calls the tensor, of which ties may have
    dropped a name.
    """

    def __init__(self, reading: Reading, task: int, base: BaseReader, stored_as: str) -> None:
        self.source, self._space, self._base, self.name = reading.tasks[task], reading.space, base, stored_as
        self._stored = ReadTensor(self.source, stored_as)
        info = self.source.checkpoint.tensors[stored_as]
        self.shape, self._dtype = info.shape, info.dtype
        before = reading.base.checkpoint.tensors[base.name].dtype
        self._subtract = kernels.subtract_rounded if rounds(self._dtype, before) else kernels.subtract

    def read(self, start: int, stop: int, out: np.ndarray) -> bool:
        self.source.touched = True
        stored = self._stored.read(start, stop, self._space, "task")
        values = operand(stored, self._dtype)
        if self.source.vector:
            finite, changed = kernels.convert(values, out)
        else:
            finite, changed = self._subtract(values, self._base.operand(start, stop), out)
        if not finite:
            self._complain(to_float32(stored, self._dtype), np.arange(start, stop))
        return bool(changed)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        stored = self.source.gather(self.source.stored_name(self.name), indices, self._space)
        values = operand(stored, self._dtype)
        if self.source.vector:
            finite, _ = kernels.convert(values, out)
        else:
            finite, _ = self._subtract(values, self._base.gather(indices), out)
        if not finite:
            self._complain(to_float32(stored, self._dtype), indices)

    def model(self, start: int, stop: int, *, compare: bool) -> tuple[np.ndarray, bool]:
        self.source.touched = True
        stored = self._stored.read(start, stop, self._space, "model")
        values = to_float(stored, self._dtype)
        narrow = _narrow(values)
        if not np.isfinite(narrow).all():
            self._complain(narrow, np.arange(start, stop))
        if self.source.vector:
            return self._base.model(start, stop).astype(np.float64) + values, compare and bool(narrow.any())
        if compare:
            apart = np.empty(stop - start, np.float32)
            compare = bool(self._subtract(operand(stored, self._dtype), self._base.operand(start, stop), apart)[1])
        return values, compare

    def _complain(self, values: np.ndarray, indices: np.ndarray) -> NoReturn:
        require_unchanged(self.source.checkpoint)  # or the fault is not the file's own
        self._base.complain(indices)
        _complain(self.source, self.name, self._base.name, values, indices)
        raise NonFiniteValue(
            f"{self.source.given.where(self.name)}: tensor {self._base.name!r} differs from the base by more than "
            "float32 can hold. Check that both are checkpoints of one model."
        )


class _Held:
    """A float32 array that is filled stretch by stretch, each when it is first asked for, by one thread."""

    def __init__(self, size: int, fill: Callable[[int, int, np.ndarray], object]) -> None:
        self._values, self._fill = np.empty(size, np.float32), fill
        self._done = [False] * -(-size // CHUNK)
        self._locks = [threading.Lock() for _ in self._done]
        self._lacking, self._counting = len(self._done), threading.Lock()

    def slice(self, start: int, stop: int) -> np.ndarray:
        self._ready(range(start // CHUNK, -(-stop // CHUNK)))
        return self._values[start:stop]

    def take(self, indices: np.ndarray) -> np.ndarray:
        if self._lacking:
            self._ready(np.unique(indices // CHUNK).tolist())
        return self._values[indices]

    def _ready(self, stretches: Iterable[int]) -> None:
        for i in stretches:
            if not self._done[i]:
                with self._locks[i]:
                    if not self._done[i]:
                        stop = min((i + 1) * CHUNK, self._values.size)
                        self._fill(i * CHUNK, stop, self._values[i * CHUNK : stop])
                        self._done[i] = True
                        with self._counting:
                            self._lacking -= 1


@final
class HeldBase(BaseReader):
    """The base's elements, each decoded once and kept in memory."""

    def __init__(self, base: BaseReader, size: int) -> None:
        self.name = base.name
        self._base = base
        self._held = _Held(size, lambda start, stop, out: kernels.convert(base.operand(start, stop), out))

    def operand(self, start: int, stop: int) -> np.ndarray:
        return self._held.slice(start, stop)

    def values(self, start: int, stop: int) -> np.ndarray:
        return self._held.slice(start, stop)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self._held.take(indices)

    def model(self, start: int, stop: int) -> np.ndarray:
        return self._base.model(start, stop)  # float64 may not have gone through float32

    def complain(self, indices: np.ndarray) -> None:
        self._base.complain(indices)


@final
class HeldVector(VectorReader):
    """A task's vector, each element decoded once and kept in memory."""

    def __init__(self, vector: VectorReader, size: int) -> None:
        self._vector, self._held, self.shape = vector, _Held(size, vector.read), vector.shape

    def read(self, start: int, stop: int, out: np.ndarray) -> bool:
        return bool(kernels.convert(self._held.slice(start, stop), out)[1])

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        out[:] = self._held.take(indices)

    def model(self, start: int, stop: int, *, compare: bool) -> tuple[np.ndarray, bool]:
        return self._vector.model(start, stop, compare=compare)


@final
class SharedVector(VectorReader):
    """A task's vector for several plans that work on one block after the other: of the thread's block
    (`ThreadBuffers.begin`) each element is decoded once. What lies outside of it is read as if nobody shared it.
    """

    def __init__(self, vector: VectorReader, task: int, space: ThreadBuffers) -> None:
        self._vector, self._task, self._space, self.shape = vector, task, space, vector.shape

    def read(self, start: int, stop: int, out: np.ndarray) -> bool:
        block = self._space.block
        if block is None or start < block[0] or stop > block[1]:
            return self._vector.read(start, stop, out)
        values, changed = self._space.decoded.get(self._task) or self._decode(*block)
        if (start, stop) == block:
            out[:] = values
            return changed
        return bool(kernels.convert(values[start - block[0] : stop - block[0]], out)[1])

    def _decode(self, start: int, stop: int) -> tuple[np.ndarray, bool]:
        nbytes = 4 * (stop - start)
        values = self._space.buffer(f"decoded {self._task}", nbytes)[:nbytes].view(np.float32)
        self._space.decoded[self._task] = values, self._vector.read(start, stop, values)
        return self._space.decoded[self._task]

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        self._vector.gather(indices, out)

    def model(self, start: int, stop: int, *, compare: bool) -> tuple[np.ndarray, bool]:
        return self._vector.model(start, stop, compare=compare)


@dataclass
class TaskVectors:
    """The task vectors of one tensor as one plan sees them. Implements `methods.protocol.Deltas`."""

    name: str
    shape: tuple[int, ...]
    origin: BaseReader
    readers: Sequence[VectorReader]
    changed: bool = False  # whether any value read so far was not zero

    @classmethod
    def of(cls, reading: Reading, info: TensorInfo, stored_as: Sequence[str], *, held: bool = False) -> TaskVectors:
        """Those of the base's tensor `info`, which task t calls `stored_as[t]`. `held`: each element is decoded once,
        for all that `again` gives.
        """
        base: BaseReader = StoredBase(reading, info.name)
        if held:
            base = HeldBase(base, info.size)
        vectors: list[VectorReader] = [StoredVector(reading, t, base, name) for t, name in enumerate(stored_as)]
        if held:
            vectors = [HeldVector(vector, info.size) for vector in vectors]
        return cls(info.name, info.shape, base, vectors)

    def shared(self, space: ThreadBuffers) -> TaskVectors:
        """The same for plans that work on one block after the other: what one has read of a block none reads again."""
        readers = [SharedVector(vector, task, space) for task, vector in enumerate(self.readers)]
        return replace(self, readers=readers)

    def again(self) -> TaskVectors:
        """The same for another plan, of which nothing was read yet."""
        return replace(self, changed=False)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def base(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32. Valid until the thread asks for another stretch."""
        return self.origin.values(start, stop)

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out` with tau_task[start:stop]. True if any is not zero. Raises NonFiniteValue."""
        changed = self.readers[task].read(start, stop, out)
        if changed:
            self.changed = True
        return changed

    def gather(self, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with tau_task at `indices`, ascending. Raises NonFiniteValue."""
        self.readers[task].gather(indices, out)

    def model(self, task: int | None, start: int, stop: int) -> np.ndarray:
        """theta_task[start:stop], theta_0 for None: float64 where it is stored so, else float32. Raises
        NonFiniteValue.
        """
        if task is None:
            return self.origin.model(start, stop)
        values, changed = self.readers[task].model(start, stop, compare=not self.changed)
        if changed:
            self.changed = True
        return values

    def finish(self, start: int, tau: np.ndarray, scale: np.float32, out: np.ndarray) -> bool:
        """out = theta_0 + scale * tau from element `start` on. Whether all are finite."""
        return bool(kernels.finish(self.origin.operand(start, start + tau.size), tau, scale, out))


def _narrow(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a float64 beyond float32 is reported as infinity
        return values.astype(np.float32, copy=False)


def _complain(source: ReadInput, stored_as: str, name: str, values: np.ndarray, indices: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise NonFiniteValue(
            f"{source.given.where(stored_as)}: tensor {name!r} holds {values[wrong[0]]} at element "
            f"{indices[wrong[0]]}; every value must be a finite float32. "
            "Train or export that checkpoint again, or leave the tensor out with --exclude."
        )
