"""The checkpoints of a merge while they are read: stretches of stored elements, in buffers, hashed where asked.

What a run reads of an input is hashed while it is in the cache, chunk by chunk; at the end `hash_rest` reads what is
missing of every input of which anything was used. So a receipt costs no second reading, and a run without receipts
hashes nothing. Memory: a few blocks per thread. Not here: number formats and what is done with the elements (reader).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from prefmerge.checkpoints import CHUNK, Checkpoint, Fingerprint, is_task_vector
from prefmerge.checkpoints.rearranged import Rearranged, original
from prefmerge.vectors.adapter import AdapterVector

FAR = 4096  # elements between two that are gathered, beyond which each is read for itself


@dataclass(frozen=True)
class Input:
    """A checkpoint in use: the base, a task, or a task's vector."""

    checkpoint: Checkpoint
    role: str  # "base" or "task 'birds'", for messages
    vector: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpoint, role: str) -> Input:
        return cls(checkpoint, role, is_task_vector(checkpoint))

    def where(self, tensor: str) -> str:
        """`base (model.safetensors)`, for messages."""
        return f"{self.role} ({self.checkpoint.file_of(tensor)})"


class ThreadBuffers(threading.local):
    """One thread's buffers, and what it read of the base, which the next task needs as well."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}
        self.kept: dict[str, tuple[tuple[str, int, int], np.ndarray]] = {}  # (tensor, start, stop) of what is in one
        self.gathered: tuple[str, np.ndarray, np.ndarray] | None = None  # tensor, indices, the base's elements there
        self.block: tuple[int, int] | None = None  # the stretch that several plans are at, one after the other
        self.decoded: dict[int, tuple[np.ndarray, bool]] = {}  # by task: its vector there, and whether any is not zero

    def begin(self, block: tuple[int, int] | None) -> None:
        """Several plans will ask for `block` of one tensor; None: no longer."""
        self.block = block
        self.decoded.clear()

    def buffer(self, name: str, nbytes: int) -> np.ndarray:
        """A buffer of bytes; its contents are lost."""
        self.kept.pop(name, None)
        if name not in self.buffers or self.buffers[name].size < nbytes:
            self.buffers[name] = np.empty(nbytes, np.uint8)
        return self.buffers[name]


class ReadInput:
    """One input while it is read. `hashed`: its content is hashed on the way. `touched`: anything of it was used."""

    def __init__(self, given: Input, *, hashed: bool) -> None:
        self.given, self.checkpoint, self.vector = given, given.checkpoint, given.vector
        self.hashed = hashed
        self.fingerprint = None
        self._original = original(self.checkpoint)
        self._moved = self.checkpoint.moved if isinstance(self.checkpoint, Rearranged) else frozenset()
        if hashed and not isinstance(self._original, AdapterVector):  # what is computed is not hashed
            self.fingerprint = Fingerprint(self._original.tensors.values(), aliases=self._original.aliases)
        self.touched = False

    def stored_name(self, tensor: str) -> str:
        """The name under which this checkpoint stores what shares `tensor`'s elements."""
        return self.checkpoint.aliases.get(tensor, tensor)

    def read(self, tensor: str, start: int, stop: int, space: ThreadBuffers, buffer: str) -> np.ndarray:
        """As `ReadTensor.read`, of one stretch alone."""
        return ReadTensor(self, tensor).read(start, stop, space, buffer)

    def gather(self, tensor: str, indices: np.ndarray, space: ThreadBuffers) -> np.ndarray:
        """The stored elements at `indices`, ascending: read in stretches, for a call costs as much as a few thousand
        elements.
        """
        dtype = self.checkpoint.tensors[tensor].dtype
        buffer = space.buffer("gathered", CHUNK * dtype.itemsize)
        stored = np.empty(len(indices), dtype.storage)
        apart = (np.diff(indices) > FAR) | (np.diff(indices // CHUNK) != 0)
        cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(indices)]
        for low, high in pairwise(cuts):
            if low < high:
                first = int(indices[low])
                stretch = self.checkpoint.read(tensor, first, int(indices[high - 1]) + 1, buffer)
                np.take(stretch, indices[low:high] - first, out=stored[low:high])
        return stored

    def fingerprint_of(self, stored: str) -> Fingerprint | None:
        """What the elements of a tensor are hashed into when they are read; None where they are not."""
        return None if stored in self._moved else self.fingerprint

    def hash_rest(self) -> None:
        """Hash what was not read, so that the fingerprint covers the whole checkpoint."""
        if self.fingerprint is not None:
            for name in self._original.tensors:
                if name not in self._original.aliases:
                    self.fingerprint.add_missing(name, self._original)

    def content(self) -> str | None:
        """The fingerprint of all its elements; None where not all were hashed."""
        if isinstance(self._original, AdapterVector):
            return self._original.content() if self.hashed and self.touched else None
        return self.fingerprint.hexdigest() if self.fingerprint is not None and self.fingerprint.covered() else None


@final
class ReadTensor:
    """One tensor of an input while it is read: what is the same for all its blocks is looked up once."""

    def __init__(self, source: ReadInput, tensor: str) -> None:
        self._source, self._name = source, source.stored_name(tensor)
        self._itemsize = source.checkpoint.tensors[self._name].dtype.itemsize
        self._fingerprint = source.fingerprint_of(self._name)
        self._read = source.checkpoint.read

    def read(self, start: int, stop: int, space: ThreadBuffers, buffer: str) -> np.ndarray:
        """The stored elements [start, stop), in that buffer of `space`; of an input that counts as used (`touched`)
        their chunks are hashed then.
        """
        name, fingerprint = self._name, self._fingerprint
        reach = fingerprint.reach(name, start, stop) if fingerprint is not None and self._source.touched else None
        if fingerprint is None or reach is None:
            return self._read(name, start, stop, space.buffer(buffer, (stop - start) * self._itemsize))
        stored = self._read(name, start, reach, space.buffer(buffer, (reach - start) * self._itemsize))
        fingerprint.add(name, stored, start)
        return stored[: stop - start]


class Reading:
    """A base and its tasks while one run reads them."""

    def __init__(self, base: ReadInput, tasks: Sequence[ReadInput]) -> None:
        self.base, self.tasks = base, tuple(tasks)
        self.space = ThreadBuffers()

    @classmethod
    def of(cls, base: Input, tasks: Sequence[Input], *, hashed: bool) -> Reading:
        """`hashed`: a receipt will name the content of all."""
        return cls(ReadInput(base, hashed=hashed), [ReadInput(task, hashed=hashed) for task in tasks])

    def hash_rest(self) -> None:
        """Hash what was not read of each input of which anything was used, be it a row that another lacks."""
        used = [source.checkpoint for source in (self.base, *self.tasks) if source.touched]
        givers = {id(giver) for one in used if isinstance(one, Rearranged) for giver in one.donors}
        for source in (self.base, *self.tasks):
            source.touched |= id(original(source.checkpoint)) in givers
            if source.touched:
                source.hash_rest()
