"""The tokenizer of a task in place of the base's.

    tokenizer.json  vocab.txt  merges.txt  special_tokens_map.json  chat_template.jinja  spiece.model ...

Which tokens a tokenizer has is read from tokenizer.json; else from vocab.json, from the pieces of SentencePiece or from
vocab.txt, with added_tokens.json; how many rows its model has, from config.json. Cost: these files. Not here: rows for
tokens that the base lacks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.hub_files import RepositoryFiles
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.errors import CheckpointMismatch
from prefmerge.ground import jsons
from prefmerge.ground.words import listed
from prefmerge.outputs.companions import SHOWN, Companions, companions_among, find_companions
from prefmerge.outputs.sentence_pieces import NoPieces, file_of_pieces, ids_of_pieces

_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*"),
    *("*.model", "*.spm", "additional_chat_templates/*"),
)
EMBEDDINGS = re.compile(
    r"(.*\.)?(embed_tokens|word_embeddings?|wte|shared|token_embedding|tok_embeddings|embed_in|embeddings)\.weight"
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
    own = tokenizer_files(task)
    if not own:
        raise CheckpointMismatch(
            f"--tokenizer-from {name}: {folder} holds no tokenizer, such as tokenizer.json or vocab.txt. Put it there, "
            f"or leave --tokenizer-from out."
        )
    replaced = {file: path for file, path in companions.files.items() if is_of_tokenizer(file)}
    rows = _embedding_rows(tensors)
    if rows is not None:
        _require_fit(name, folder, own, _tokens(replaced), rows)
    told = f"the tokenizer is that of task {name!r}: {listed(sorted(own), SHOWN)}"
    told += (
        "."
        if rows is not None
        else "; no tensor is called as embeddings of tokens are, so whether it fits is not known."
    )
    return replace(with_files(companions, own), more=(*companions.more, told))


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """The files of the tokenizer beside a checkpoint that is a folder."""
    return {file: path for file, path in find_companions(checkpoint).files.items() if is_of_tokenizer(file)}


def tokenizer_among(names: Sequence[str], of: RepositoryFiles) -> list[str]:
    """Of the files of a repository those that say what tokens a model has: what is to be fetched with it."""
    files = companions_among(names, of)
    return [name for name in files if is_of_tokenizer(name.removeprefix(of.root)) or name.endswith("config.json")]


def with_files(companions: Companions, own: Mapping[str, Path]) -> Companions:
    """The companions with the files `own` in place of their tokenizer."""
    replaced = {file: path for file, path in companions.files.items() if is_of_tokenizer(file)}
    files = {**{file: path for file, path in companions.files.items() if file not in replaced}, **own}
    sizes = [sum(path.stat().st_size for path in some.values()) for some in (own, replaced)]
    return replace(companions, files=dict(sorted(files.items())), size=companions.size + sizes[0] - sizes[1])


def is_of_tokenizer(name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in _FILES)


def _embedding_rows(tensors: Iterable[TensorInfo]) -> int | None:
    """How many tokens a model has an embedding for; None where no tensor is called as embeddings of tokens are."""
    rows = [info.shape[0] for info in tensors if len(info.shape) == 2 and EMBEDDINGS.fullmatch(info.name)]
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
    ids = ids_in(files)
    return max(ids.values()) + 1 if ids else None


def ids_in(files: Mapping[str, Path]) -> dict[str, int]:
    """Token -> id; empty where no file that can be read says it. What tokenizer.json says goes before older files."""
    whole: Any = jsons.peek(files["tokenizer.json"]) if "tokenizer.json" in files else None
    ids = ids_of(whole) if isinstance(whole, dict) else {}
    if ids:
        return ids
    ids = _ids(jsons.peek(files["vocab.json"])) if "vocab.json" in files else {}
    pieces = file_of_pieces(files)
    if not ids and pieces is not None:
        with contextlib.suppress(NoPieces):
            return ids_of_pieces(pieces, files)
    if not ids and "vocab.txt" in files:
        lines = files["vocab.txt"].read_bytes().rstrip(b"\n").split(b"\n")
        ids = {line.rstrip(b"\r").decode("utf-8", "replace"): i for i, line in enumerate(lines)}
    return ids | (_ids(jsons.peek(files["added_tokens.json"])) if ids and "added_tokens.json" in files else {})


def ids_of(whole: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of what a tokenizer.json holds."""
    model = whole.get("model")
    return _ids(model.get("vocab") if isinstance(model, dict) else None) | {
        token["content"]: token["id"] for token in added_in(whole)
    }


def added_in(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer.json, in order of their ids."""
    added = whole.get("added_tokens")
    several = [one for one in added if isinstance(one, dict)] if isinstance(added, list) else []
    known = [one for one in several if type(one.get("id")) is int and isinstance(one.get("content"), str)]
    return sorted(known, key=lambda one: one["id"])


def _ids(vocabulary: Any) -> dict[str, int]:
    """Of token -> id, or (of a unigram model) a list of tokens and their scores."""
    if isinstance(vocabulary, list):
        return {str(one[0]): i for i, one in enumerate(vocabulary) if isinstance(one, list) and one}
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ()
    return {token: one for token, one in pairs if type(one) is int}


def _stated(folder: Path) -> int | None:
    """The size of the vocabulary that a model's config says, its own or its text part's."""
    config: Any = jsons.peek(folder / "config.json")
    parts = [config, config.get("text_config")] if isinstance(config, dict) else []
    sizes = [part.get("vocab_size") for part in parts if isinstance(part, dict)]
    return next((size for size in sizes if type(size) is int), None)
