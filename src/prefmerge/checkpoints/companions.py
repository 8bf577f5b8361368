"""The files of a base folder that belong beside merged weights: without them nobody can load the result.

A list of what is taken, by name, and not of what is left: an unknown file stays behind. Taken: configuration,
tokenizer, vocabulary, preprocessor, generation and chat-template files, the model's own Python code, licences, and
what sentence-transformers reads (modules.json, 1_Pooling/config.json). Left: weights and their indexes, receipts and
run manifests, optimizer and trainer state, the model card (the merge writes its own), other sub-folders. Cost: one
listing of the folder.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from prefmerge.checkpoints.folder import INDEX_SUFFIX, TORCH_SUFFIXES
from prefmerge.checkpoints.protocol import Checkpoint

MODULES = "modules.json"  # of sentence-transformers: which sub-folders there are, such as 1_Pooling
TAKEN = (
    "config.json",
    MODULES,
    "config_sentence_transformers.json",
    "*_config.json",  # generation, tokenizer, preprocessor, processor, open_clip, ...
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "sentencepiece*.model",
    "source.spm",
    "target.spm",
    "*.tiktoken",
    "normalizer.json",
    "chat_template*",
    "*.jinja",
    "*.py",
    "license*",
    "licence*",
    "copying*",
    "notice*",
    "use_policy*",
)
LEFT = (
    "adapter_*",
    "train*",
    "optimizer*",
    "*receipt*.json",
    "*manifest*.json",
    *(
        f"*{suffix}"
        for suffix in (*TORCH_SUFFIXES, INDEX_SUFFIX, ".safetensors", ".h5", ".msgpack", ".onnx", ".gguf", ".tmp")
    ),
)


def companion_files(base: Checkpoint) -> dict[str, Path]:
    """The companions of a base that is a folder, by their path in it, sorted; empty for a single file and for a state
    dict in memory."""
    if base.path is None:
        return {}
    folder = base.path.parent if base.path.name.endswith(INDEX_SUFFIX) else base.path
    if not folder.is_dir():
        return {}
    found = [entry for entry in folder.iterdir() if _belongs(entry.name.lower()) and entry.is_file()]
    if (folder / MODULES).is_file():
        found += folder.glob("[0-9]_*/config.json")
    return {path.relative_to(folder).as_posix(): path for path in sorted(found) if path.is_file()}


def _belongs(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in TAKEN) and not any(
        fnmatchcase(name, pattern) for pattern in LEFT
    )
