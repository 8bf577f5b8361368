"""The tokenizer of a task in place of the base's.

    tokenizer.json  vocab.txt  merges.txt  special_tokens_map.json  chat_template.jinja  spiece.model ...

Which tokens a tokenizer has is read from tokenizer.json, vocab.json or vocab.txt, with added_tokens.json; how many rows
its model has, from config.json. Cost: these files. Not here: rows for tokens that the base lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.errors import CheckpointMismatch
from prefmerge.ground import jsons
from prefmerge.ground.words import listed
from prefmerge.outputs.companions import SHOWN, Companions, find_companions

_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*"),
    *("*.model", "*.spm", "additional_chat_templates/*"),
)
_EMBEDDINGS = re.compile(
    r"(.*\.)?(embed_tokens|word_embeddings|wte|shared|token_embedding|tok_embeddings|embed_in)\.weight"
)


def with_tokenizer(
    companions: Companions, base: Checkpoint, task: Checkpoint, name: str, tensors: Sequence[TensorInfo]
) -> Companions:
    """The companions of `base` with the tokenizer of the task called `name` in place of its own. Raises
    CheckpointMismatch where that has none, or one for another number of embeddings than `tensors` have.
    """
    folder = task.path
    if folder is None or not folder.is_dir():
        raise CheckpointMismatch(
            f"--tokenizer-from {name}: the task is no folder, so it has no tokenizer. Give the folder that holds its "
            "weights and its tokenizer."
        )
    own = {file: path for file, path in find_companions(task).files.items() if _is_of_tokenizer(file)}
    if not own:
        raise CheckpointMismatch(
            f"--tokenizer-from {name}: {folder} holds no tokenizer, such as tokenizer.json or vocab.txt. Put it there, "
            f"or leave --tokenizer-from out."
        )
    replaced = {file: path for file, path in companions.files.items() if _is_of_tokenizer(file)}
    rows = _embedding_rows(tensors)
    if rows is not None:
        _require_fit(name, folder, own, _tokens(replaced), rows)
    files = {**{file: path for file, path in companions.files.items() if file not in replaced}, **own}
    told = f"the tokenizer is that of task {name!r}: {listed(sorted(own), SHOWN)}"
    told += (
        "."
        if rows is not None
        else "; no tensor is called as embeddings of tokens are, so whether it fits is not known."
    )
    sizes = [sum(path.stat().st_size for path in some.values()) for some in (own, replaced)]
    return replace(
        companions,
        files=dict(sorted(files.items())),
        size=companions.size + sizes[0] - sizes[1],
        more=(*companions.more, told),
    )


def _is_of_tokenizer(name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in _FILES)


def _embedding_rows(tensors: Iterable[TensorInfo]) -> int | None:
    """How many tokens a model has an embedding for; None where no tensor is called as embeddings of tokens are."""
    rows = [info.shape[0] for info in tensors if len(info.shape) == 2 and _EMBEDDINGS.fullmatch(info.name)]
    return max(rows, default=None)


def _require_fit(task: str, folder: Path, files: Mapping[str, Path], of_base: int | None, rows: int) -> None:
    """Raise CheckpointMismatch where the tokenizer of a task is not one for `rows` embeddings. A model may have rows to
    spare: then its config says as many rows, or the base's tokenizer has as many tokens (`of_base`).
    """
    tokens, stated = _tokens(files), _stated(folder)
    wrong = tokens if tokens is not None and tokens > rows else None
    size = tokens if stated is None else stated
    if wrong is None and size is not None and size not in (rows, of_base):
        wrong = size
    if wrong is not None:
        raise CheckpointMismatch(
            f"--tokenizer-from {task}: its vocabulary has {wrong:,} tokens, and the embeddings of the output have "
            f"{rows:,} rows. Leave --tokenizer-from out to keep the base's tokenizer."
        )


def _tokens(files: Mapping[str, Path]) -> int | None:
    """One more than the largest id of a token; None where no file that can be read says it."""
    ids: set[int] = set()
    whole: Any = jsons.peek(files["tokenizer.json"]) if "tokenizer.json" in files else None
    if isinstance(whole, dict):
        model, added = whole.get("model"), whole.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        ids |= _ids(vocabulary)
        ids |= {one["id"] for one in added or () if isinstance(one, dict) and type(one.get("id")) is int}
    for name in ("vocab.json", "added_tokens.json"):
        ids |= _ids(jsons.peek(files[name])) if name in files else set()
    if not ids and "vocab.txt" in files:
        ids = {files["vocab.txt"].read_bytes().rstrip(b"\n").count(b"\n")}
    return max(ids) + 1 if ids else None


def _ids(vocabulary: Any) -> set[int]:
    """Of token -> id, or (of a unigram model) a list of tokens."""
    if isinstance(vocabulary, dict):
        return {one for one in vocabulary.values() if type(one) is int}
    return {len(vocabulary) - 1} if isinstance(vocabulary, list) and vocabulary else set()


def _stated(folder: Path) -> int | None:
    """The size of the vocabulary that a model's config says, its own or its text part's."""
    config: Any = jsons.peek(folder / "config.json")
    parts = [config, config.get("text_config")] if isinstance(config, dict) else []
    sizes = [part.get("vocab_size") for part in parts if isinstance(part, dict)]
    return next((size for size in sizes if type(size) is int), None)
