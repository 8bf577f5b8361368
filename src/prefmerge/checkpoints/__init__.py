"""Open any checkpoint lazily.

protocol.py          what a checkpoint looks like to everyone else
dtypes.py            number formats, to float32 and back
input_file.py        the bytes of a file as it was opened, or an error
safetensors_file.py  one safetensors file: checks, layout
torch_file.py        .pt, .bin, .pth, .ckpt
folder.py            Hugging Face folders, indexes, and `open_checkpoint`
quantised.py         signs that weights are codes, not values
memory.py            state dicts of NumPy arrays and torch tensors
fingerprint.py       content hashes
task_vector.py       files that hold a task vector
names.py             what weights, shards and indexes are called
"""

from prefmerge.checkpoints.dtypes import DTYPES, FLOATS, Dtype, by_name, from_float32, require_mergeable, to_float32
from prefmerge.checkpoints.fingerprint import (
    CHUNK,
    Fingerprint,
    content_fingerprint,
    file_entries,
    fingerprint_of,
    header_fingerprint,
    sha256_files,
)
from prefmerge.checkpoints.folder import open_checkpoint
from prefmerge.checkpoints.memory import from_state_dict, is_torch_tensor
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo, reading, require_unchanged, same_elements
from prefmerge.checkpoints.task_vector import base_fingerprint, is_task_vector, task_vector_metadata

__all__ = [
    "CHUNK",
    "DTYPES",
    "FLOATS",
    "Checkpoint",
    "Dtype",
    "Fingerprint",
    "TensorInfo",
    "base_fingerprint",
    "by_name",
    "content_fingerprint",
    "file_entries",
    "fingerprint_of",
    "from_float32",
    "from_state_dict",
    "header_fingerprint",
    "is_task_vector",
    "is_torch_tensor",
    "open_checkpoint",
    "reading",
    "require_mergeable",
    "require_unchanged",
    "same_elements",
    "sha256_files",
    "task_vector_metadata",
    "to_float32",
]
