"""A state dict in memory, NumPy arrays or torch tensors, as a checkpoint.

Arrays are taken as they are where they are contiguous and on the CPU, and copied where not. Two names for the same
elements (same address, shape, strides and dtype) are aliases of the first. torch is never imported: a torch tensor
brings it along. Not here: sparse, quantised and meta tensors, object arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np

from prefmerge.checkpoints.dtypes import DTYPES, Dtype
from prefmerge.checkpoints.input_file import InputFile, fill
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.errors import CheckpointCorrupt, UnsupportedDtype
from prefmerge.ground.brief import brief
from prefmerge.shown import value as shortened

MOST_REPEATED = 1 << 28  # bytes that a tensor may take whose elements are stored once and repeated (`expand`)
_BY_NAME: dict[str, Dtype] = {dtype.name: dtype for dtype in DTYPES.values()}


@final
@dataclass(frozen=True, eq=False)
class StateDict:
    """Named arrays that are at hand: a `Checkpoint`. `path` and `files` are those of the file they came from, if any.

    What still lies in that file only has its place in `_offsets`.
    """

    __repr__ = brief

    name: str
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    _arrays: dict[str, np.ndarray]
    path: Path | None = None
    files: tuple[Path, ...] = ()
    inputs: tuple[InputFile, ...] = ()
    _offsets: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def file_of(self, tensor: str) -> str:
        return self.files[0].name if self.files else self.name

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        if tensor in self._offsets:
            storage = self.tensors[tensor].dtype.storage
            return fill(self.inputs[0], self._offsets[tensor] + start * storage.itemsize, stop - start, storage, buffer)
        for file in self.inputs:
            file.check()  # the array may be a map of the file: better an error than the fault of one cut short
        return self._arrays[tensor][start:stop]

    def raw(self, tensor: str) -> np.ndarray:
        elements = self.read(tensor, 0, self.tensors[tensor].size)
        elements.flags.writeable = False
        return elements

    def close(self) -> None:
        self._arrays.clear()
        for file in self.inputs:
            file.close()

    def backed_by(self, file: InputFile) -> StateDict:
        """The same tensors, read from `file` where they are a map of it. Then nothing is left that could fault."""
        offsets: dict[str, int] = {}
        maps = file.mapped_at()
        for name, array in self._arrays.items():
            address = array.__array_interface__["data"][0]
            for low, high, offset in maps:
                if array.size and low <= address and address + array.nbytes <= high:
                    offsets[name] = offset + address - low
        rest = {name: array for name, array in self._arrays.items() if name not in offsets}
        return replace(self, inputs=(file,), _arrays=rest, _offsets=offsets)


def from_state_dict(
    tensors: Mapping[str, Any],
    *,
    name: str,
    path: Path | None = None,
    file: Path | None = None,
    notes: tuple[str, ...] = (),
) -> StateDict:
    """`tensors`, NumPy arrays or torch tensors of any device, as a checkpoint called `name`. `path`: where the user
    said they are, `file`: the file that is.

    Raises CheckpointCorrupt for what is not a tensor, UnsupportedDtype for a number format that no checkpoint has.
    """
    where = str(path) if path else f"state dict {name!r}"
    infos: dict[str, TensorInfo] = {}
    arrays: dict[str, np.ndarray] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    held: list[Any] = []  # keeps every value alive to the end: a freed one's address could come back as another's
    for key in tensors:
        if not isinstance(key, str):
            raise CheckpointCorrupt(f"{where}: key {key!r} is a {type(key).__name__}; tensors are named by strings.")
    for key in sorted(tensors):
        value = tensors[key]
        held.append(value)
        if is_torch_tensor(value):
            dtype, shape, identity, flat = _from_torch(value, where, key)
        elif isinstance(value, np.ndarray | np.generic):
            dtype, shape, identity, flat = _from_numpy(np.asarray(value), where, key)
        else:
            raise CheckpointCorrupt(
                f"{where}: {key!r} is a {type(value).__module__}.{type(value).__name__}, "
                "not a NumPy array or a torch tensor. Convert it with numpy.asarray, or leave it out."
            )
        infos[key] = TensorInfo(key, dtype, shape)
        first = seen.setdefault(identity, key) if infos[key].size else key
        if first != key:
            aliases[key] = first
            flat = arrays[first]
        flat.flags.writeable = False
        arrays[key] = flat
    file = file or path
    return StateDict(name, infos, aliases, arrays, path, (file,) if file else (), notes=notes)


def is_torch_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, parameters and subclasses included, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _unsupported(where: str, key: str, kind: str, how: str = "Convert it to float32, float16 or bfloat16") -> NoReturn:
    raise UnsupportedDtype(f"{where}: tensor {key!r} is {kind}, which prefmerge cannot read. {how}, or leave it out.")


# dtype, shape, what an alias would share, flat elements
_Taken = tuple[Dtype, tuple[int, ...], tuple[Any, ...], np.ndarray]


def _from_numpy(array: np.ndarray, where: str, key: str) -> _Taken:
    dtype = _BY_NAME.get(array.dtype.name)  # ml_dtypes names its bfloat16 and 8-bit floats as we do
    if dtype is None:
        _unsupported(where, key, f"a NumPy array of {array.dtype}")
    identity = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str, array.dtype.name)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    flat = np.ascontiguousarray(array).reshape(-1)
    return dtype, array.shape, identity, flat.view(np.uint8).view(dtype.storage)


def _from_torch(tensor: Any, where: str, key: str) -> _Taken:
    import torch  # already imported by whoever made the tensor

    dtype = _BY_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if tensor.is_quantized:
        kind = f"a quantised tensor of {tensor.dtype}".replace("torch.", "")
        _unsupported(where, key, kind, "Save the model that was not quantised")
    if tensor.layout != torch.strided:
        kind = f"a {tensor.layout} tensor of {tensor.dtype}".replace("torch.", "")
        _unsupported(where, key, kind, "Save what its to_dense() gives")
    if dtype is None:
        _unsupported(where, key, f"a tensor of {tensor.dtype}".replace("torch.", ""))
    if tensor.is_nested:
        _unsupported(where, key, f"a nested tensor of {tensor.dtype}".replace("torch.", ""))
    if tensor.is_meta:
        raise CheckpointCorrupt(
            f"{where}: tensor {key!r} is on the meta device and has no values. Load the weights before merging."
        )
    tensor = tensor.detach()
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes > max(MOST_REPEATED, tensor.untyped_storage().nbytes()):
        raise CheckpointCorrupt(
            f"{where}: tensor {key!r} of shape {shortened(tuple(tensor.shape))} repeats few elements until they take "
            f"{nbytes} bytes. Leave it out."
        )
    identity = (
        tensor.device,
        tensor.data_ptr(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )
    values = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    # Not reshape(-1): that keeps the odd stride which a lone element may have, and then there is no view of its bytes.
    values = values.as_strided((values.numel(),), (1,))
    return dtype, tuple(tensor.shape), identity, values.view(torch.uint8).numpy().view(dtype.storage)
