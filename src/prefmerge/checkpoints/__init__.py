"""Open any checkpoint lazily.

protocol.py          what a checkpoint looks like to everyone else
dtypes.py            number formats, to float32 and back
input_file.py        the bytes of a file as it was opened, or an error
safetensors_file.py  one safetensors file: checks, layout
torch_file.py        .pt, .bin, .pth, .ckpt
harmless.py          what may lie in them beside tensors
state_dicts.py       which dict in them is meant
adapter.py           LoRA adapters
rearranged.py        embeddings with the rows of another vocabulary
folder.py            folders of weights, indexes, and `open_checkpoint`
hub.py               hub ids: what is fetched, and what to say where it cannot be had
hub_files.py         which files of a repository are a checkpoint
layouts.py           which sub-folder is meant: caches, pipelines, outputs of trainers
paths.py             what a user writes for a checkpoint, and its name
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
from prefmerge.checkpoints.paths import is_there, names_of, split_adapter, split_key
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
    "is_there",
    "is_torch_tensor",
    "names_of",
    "open_checkpoint",
    "reading",
    "require_mergeable",
    "require_unchanged",
    "same_elements",
    "sha256_files",
    "split_adapter",
    "split_key",
    "task_vector_metadata",
    "to_float32",
]
