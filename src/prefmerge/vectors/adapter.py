"""A LoRA adapter as the task vector that it is.

    tau = scaling * B A                     of the trained modules' weights; 0 where nothing was trained
    tau = theta - theta_0                   of whole tensors (modules_to_save)
    tau = (theta_1 - theta_0) + scaling * B A    over another model than the base

Nobody holds a product: a stretch of elements is computed from the two factors when it is read, summed in float64 in
order of rank and rounded once to float32, so that no block size changes a bit. (A product of two float32 is exact in
float64.) Cost: 2 r operations an element (2 ns at rank 16); the factors of the tensors in use, float32. Not here: what
an adapter's file says (`checkpoints.adapter`).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import xxhash

from prefmerge.checkpoints import Checkpoint, TensorInfo, content_fingerprint
from prefmerge.checkpoints.adapter import Adapter, LowRank, in_names_of
from prefmerge.checkpoints.dtypes import DTYPES, rounds
from prefmerge.checkpoints.fingerprint import PREFIX
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.paths import name_of
from prefmerge.checkpoints.task_vector import KIND_KEY, TASK_VECTOR
from prefmerge.errors import CheckpointMismatch
from prefmerge.ground.brief import brief
from prefmerge.ground.words import counted, quoted
from prefmerge.shown import value

HELD = 4  # tensors whose factors an adapter keeps at hand; a large one is read by all threads at once
SHOWN = 3


@final
class AdapterVector:
    """An adapter over an open base: a `Checkpoint` of the base's float tensors that holds a task vector.

    `model`: what the adapter was trained over where that is not the base; `over` is its path. Raises CheckpointMismatch
    where it is not an adapter of this base.
    """

    __repr__ = brief

    def __init__(self, adapter: Adapter, base: Checkpoint, model: Checkpoint | None = None) -> None:
        self.name, self.path, self.adapter = adapter.name, adapter.path, adapter
        self.over = None if model is None else model.path
        self._base, self._model = base, model
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, DTYPES["F32"], info.shape)
            for name, info in base.tensors.items()
            if info.dtype.family == "float"
        }
        self.aliases: Mapping[str, str] = {name: of for name, of in base.aliases.items() if name in self.tensors}
        called = in_names_of(adapter, base.tensors)
        if model is not None:
            _require_alike(adapter, base, model)
        self._updates: dict[str, LowRank] = {}
        self._added: dict[str, tuple[str, float]] = {}
        self._whole: dict[str, str] = {}
        for module, update in adapter.updates.items():
            name = self._first(called[f"{module}.weight"])
            self._updates[name] = replace(update, transposed=self._is_turned(module, update, name))
        for module, bias in adapter.biases.items():
            self._added[self._first(called[f"{module}.bias"])] = bias
        for own, stored in adapter.whole.items():
            self._whole[self._first(called[own])] = stored
        for name, update in self._updates.items():
            adapter.require_fits(update, self.tensors[name].shape)
        for name, stored in [*self._whole.items(), *((name, key) for name, (key, _) in self._added.items())]:
            shape = adapter.stored.tensors[stored].shape
            if shape != self.tensors[name].shape:
                raise CheckpointMismatch(
                    f"{adapter.where}: {stored!r} has shape {shape}, and {name!r} of the base has "
                    f"{self.tensors[name].shape}. Give the base that the adapter was trained over; if its "
                    "vocabulary was changed, the base's must be too."
                )
        self._held: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def _is_turned(self, module: str, update: LowRank, name: str) -> bool:
        """Whether a weight is stored turned round. PEFT's configuration has one word for all modules, that of the last
        one; so of a square weight the base's others of that name decide, whose biases are as long as one axis.
        """
        if module in self.adapter.embeddings or not self.adapter.is_square(update):
            return update.transposed
        end = "." + ".".join(name.split(".")[-2:])
        for other, info in self._base.tensors.items():
            bias = self._base.tensors.get(other.removesuffix("weight") + "bias")
            if other.endswith(end) and bias is not None and len(info.shape) == 2 and info.shape[0] != info.shape[1]:
                return bias.shape == (info.shape[1],)
        return update.transposed

    def _first(self, name: str) -> str:
        """The name under which the elements of a tensor are read: what shares them changes with it."""
        if name not in self.tensors:
            raise CheckpointMismatch(f"{self.adapter.where}: it changes {name!r}, which is not of floats in the base.")
        return self.aliases.get(name, name)

    @property
    def metadata(self) -> Mapping[str, str]:
        return {KIND_KEY: TASK_VECTOR}

    @property
    def notes(self) -> tuple[str, ...]:
        parts = [counted(len(self._updates), "weight")]
        if self._whole:
            parts.append(f"{counted(len(self._whole), 'whole tensor')} ({quoted(list(self._whole), SHOWN)})")
        return (f"a LoRA adapter of {' and '.join(parts)}{self._other_model()}",)

    def _other_model(self) -> str:
        of, over = self.adapter.base, self._model or self._base
        return f", which names {value(of)} as its model" if of is not None and name_of(Path(of)) != over.name else ""

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.adapter.stored.files, *(self._model.files if self._model else ()))

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        return (*self.adapter.stored.inputs, *(self._model.inputs if self._model else ()))

    def file_of(self, tensor: str) -> str:
        files = self.adapter.stored.files
        return files[0].name if files else self.name

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        from prefmerge.vectors import kernels

        tensor = self.aliases.get(tensor, tensor)  # what changes one name of the elements changes them all
        nbytes = 4 * (stop - start)
        space = buffer if buffer is not None and buffer.nbytes >= nbytes else np.empty(nbytes, np.uint8)
        out = space[:nbytes].view(np.float32)
        if tensor in self._whole:
            self._subtract(self.adapter.stored, self._whole[tensor], tensor, start, stop, out)
        elif self._model is not None:
            self._subtract(self._model, tensor, tensor, start, stop, out)
        else:
            out[:] = 0
        if tensor in self._updates:
            left, right = self._factors(tensor)
            kernels.add_product(left, right, self._updates[tensor].scaling, start, out)
        if tensor in self._added:
            key, scaling = self._added[tensor]
            stored = self.adapter.stored
            bias = np.empty(stop - start, np.float32)
            kernels.convert(kernels.operand(stored.read(key, start, stop), stored.tensors[key].dtype), bias)
            out += np.float32(scaling) * bias
        return out

    def _subtract(self, one: Checkpoint, own: str, name: str, start: int, stop: int, out: np.ndarray) -> None:
        """out = what `one` stores less the base."""
        from prefmerge.vectors import kernels

        dtype, before = one.tensors[own].dtype, self._base.tensors[name].dtype
        subtract = kernels.subtract_rounded if rounds(dtype, before) else kernels.subtract
        base = kernels.operand(self._base.read(name, start, stop), before)
        subtract(kernels.operand(one.read(own, start, stop), dtype), base, out)

    def _factors(self, tensor: str) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            held = self._held.pop(tensor, None)
            if held is None:
                held = self.adapter.factors(self._updates[tensor], self.tensors[tensor].shape)
            self._held[tensor] = held
            while len(self._held) > HELD:
                self._held.popitem(last=False)
            return held

    def raw(self, tensor: str) -> np.ndarray:
        elements = self.read(tensor, 0, self.tensors[tensor].size)
        elements.flags.writeable = False
        return elements

    def content(self) -> str:
        """A fingerprint of what decides the vector beside the base: factors, scalings and the model, if there is
        one. The products themselves are not hashed: they are as large as the model.
        """
        scalings = {name: [update.scaling, update.transposed] for name, update in sorted(self._updates.items())}
        parts = [content_fingerprint(one) for one in (self.adapter.stored, self._model) if one is not None]
        text = json.dumps(["prefmerge adapter 1", parts, scalings])
        return PREFIX + xxhash.xxh3_128_hexdigest(text.encode())

    def close(self) -> None:
        self.adapter.close()
        if self._model is not None:
            self._model.close()


def _require_alike(adapter: Adapter, base: Checkpoint, model: Checkpoint) -> None:
    for name, info in base.tensors.items():
        if info.dtype.family == "float" and (
            name not in model.tensors
            or model.tensors[name].shape != info.shape
            or model.tensors[name].dtype.family != "float"
        ):
            raise CheckpointMismatch(
                f"{adapter.where}: the model that it goes with ({model.path}) has no tensor {name!r} like the base's. "
                "An adapter over another model needs one whose tensors have the base's names and shapes."
            )
