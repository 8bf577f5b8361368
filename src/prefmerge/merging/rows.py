"""Brings the embeddings of all models into the rows of one vocabulary, so that row i means one token in each.

    row i of model m = m's own row of token i, where it has the token
                     = else what `tokens` says of it: a model's row of it or of another token, or zeros
                     = else the row of the one model that has it; of the base, if it is among several
                     = else the mean of the models that have it; zeros where none has

    rows_from: row i of model m = its own, where every model has row i; else that of the model that is named

These are mergekit 0.1.5's rules. Embeddings are known by their names, heads and their biases by names and by as many
rows. Of a task vector a row that its model lacks is 0. Cost: the tokenizers' files, and three integers for each model
and row. Not here: how rows are read (`checkpoints.rearranged`), the files of the output (`vocabulary_files`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmerge.checkpoints import Checkpoint, TensorInfo, is_task_vector
from prefmerge.checkpoints.rearranged import MEAN, PADDING, ZERO, Giver, Rearranged, RowMap, with_rows
from prefmerge.errors import CheckpointMismatch, RecipeError
from prefmerge.ground.words import counted, did_you_mean, listed
from prefmerge.merging.parameters import AS_TASK_VECTOR
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.stacks import home_of
from prefmerge.merging.vocabularies import BASE, ROWS_FROM, TOKENIZER, UNION
from prefmerge.outputs.tokenizer import EMBEDDINGS, ids_in, tokenizer_files
from prefmerge.outputs.vocabulary import Vocabulary, read_vocabulary, reads_otherwise, union, with_tokens
from prefmerge.vectors.adapter import AdapterVector

SHOWN = 5
BINARY = (".model", ".spm")  # of files of tokenizers that are no text
_HEADS = re.compile(
    r"(.*\.)?(lm_head|lm_head\.decoder|embed_out|output|head|predictions|predictions\.decoder|vocab_projector"
    r"|generator_lm_head|lm_loss|proj_out)\.(weight|bias)|(.*\.)?final_logits_bias"
)


@dataclass(frozen=True)
class OutputVocabulary:
    """What the files of the output are to say: `rows` in place of the base's `before`. `task`: the place of the one
    whose tokenizer it has, None for the base's. `vocabulary`: None where tokenizers were not looked at.
    """

    rows: int
    before: int
    task: int | None = None
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class Arranged:
    """The models with their rows in one order; `output` is None where nothing was to be done."""

    base: Checkpoint
    tasks: tuple[Checkpoint, ...]
    output: OutputVocabulary | None = None
    notes: tuple[str, ...] = ()


def arranged(recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> Arranged:
    """The models as the recipe's tokenizer, or its `rows_from`, has them. Raises CheckpointMismatch, RecipeError."""
    tokenizer, rows_from = recipe[TOKENIZER], recipe[ROWS_FROM]
    if tokenizer is None and rows_from is None:
        return Arranged(base, tuple(tasks))
    if tokenizer is not None and rows_from is not None:
        raise RecipeError(
            f"{TOKENIZER.spelled} and {ROWS_FROM.spelled} both say which rows the embeddings have. Give one of them."
        )
    models = _Models(base, tasks, names)
    made = _by_rows(rows_from, models) if rows_from is not None else _by_tokens(tokenizer or {}, models)
    if recipe[AS_TASK_VECTOR] and any(isinstance(one, Rearranged) for one in (made.base, *made.tasks)):
        raise CheckpointMismatch(
            "a task vector with other rows than the base's would belong to no model. Merge a whole model, or leave "
            f"{TOKENIZER.spelled} and {ROWS_FROM.spelled} out."
        )
    return made


def of_vocabulary(tensors: Mapping[str, TensorInfo]) -> tuple[list[str], int]:
    """The tensors that have a row for each token, and how many rows they have."""
    sizes = [info.shape[0] for name, info in tensors.items() if len(info.shape) == 2 and EMBEDDINGS.fullmatch(name)]
    rows = max(sizes, default=0)
    named = [name for name in tensors if EMBEDDINGS.fullmatch(name) or _HEADS.fullmatch(name)]
    floats = [name for name in named if tensors[name].dtype.family == "float" and tensors[name].shape]
    return [name for name in floats if with_rows(tensors[name].shape, rows) == tensors[name].shape], rows


class _Models:
    """All models, the base first, with their tensors that have a row for each token."""

    def __init__(self, base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> None:
        self.base, self.tasks = base, tuple(tasks)
        self.all = [base, *tasks]
        self.names = [BASE, *names]
        self.vectors = [is_task_vector(one) for one in self.all]
        known = [of_vocabulary(one.tensors) for one in self.all]
        self.tensors, self.rows = [tensors for tensors, _ in known], [rows for _, rows in known]

    def require_rows(self) -> None:
        """Raise CheckpointMismatch where a model has no tensor that is known to have a row for each token."""
        for who, tensors, one in zip(self.names, self.tensors, self.all, strict=True):
            if not tensors:
                raise CheckpointMismatch(
                    f"{who} ({one.path or one.name}) has no tensor that is called as embeddings of tokens are "
                    "(embed_tokens, wte, word_embeddings ..), so rows cannot be brought into another order. Leave "
                    f"{TOKENIZER.spelled} and {ROWS_FROM.spelled} out."
                )

    def index(self, name: str, key: str) -> int:
        """Which model is called so. Raises RecipeError."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise RecipeError(f"{key}: {name!r} is none of the models: {known}.{did_you_mean(name, self.names)}")
        return self.names.index(name)

    def vocabularies(self) -> tuple[list[Vocabulary | None], list[str]]:
        """Each model's, and notes. An adapter has that of the model that it was trained over; who has no tokenizer has
        the base's.
        """
        if self._share_a_file():
            return [None for _ in self.all], []
        first = read_vocabulary(BASE, tokenizer_files(home_of(self.base)))
        several, without = [first], []
        for who, one in zip(self.names[1:], self.tasks, strict=True):
            if isinstance(one, AdapterVector):
                several.append(first)
                continue
            own = read_vocabulary(who, tokenizer_files(home_of(one)))
            if own is None:
                without.append(who)
            several.append(
                first if own is None or (first and own.ids == first.ids and _same_added(own, first)) else own
            )
        note = f"no tokenizer beside {listed(without, SHOWN)}: taken for the base's."
        return several, [note] if without and first else []

    def _share_a_file(self) -> bool:
        """Whether the base has a tokenizer that only SentencePiece reads, and each task has the same or none."""
        files = [tokenizer_files(home_of(one)) for one in self.all]
        if ids_in(files[0]) or not any(name.endswith(BINARY) for name in files[0]):
            return False
        own = [{name: path.read_bytes() for name, path in one.items() if name.endswith(BINARY)} for one in files]
        return all(one in ({}, own[0]) and not ids_in(of) for one, of in zip(own, files, strict=True))

    def arranged(self, maps: Sequence[RowMap]) -> tuple[Checkpoint, tuple[Checkpoint, ...]]:
        """The models with their rows moved, as far as any moves."""
        rows = [
            one if own.is_identity(i, self.rows[i]) else Rearranged(one, own, self._parts(i, own))
            for i, (one, own) in enumerate(zip(self.all, maps, strict=True))
        ]
        return rows[0], tuple(rows[1:])

    def _parts(self, model: int, rows: RowMap) -> dict[str, list[Giver | None]]:
        """What each model calls the tensors of one. Raises CheckpointMismatch where rows are to come from a model that
        lacks the tensor, or has another width.
        """
        used = {i for i in np.unique(rows.source).tolist() if i >= 0 and i != model}
        mean = rows.source == MEAN
        if mean.any():
            used |= {i for i, own in enumerate(rows.own) if i != model and bool((own[mean] >= 0).any())}
        parts: dict[str, list[Giver | None]] = {}
        for name in self.tensors[model]:
            own: list[Giver | None] = [None] * len(self.all)
            own[model] = (self.all[model], self.all[model].aliases.get(name, name))
            for i in sorted(used):
                own[i] = self._part(i, name, model)
            parts[name] = own
        return parts

    def _part(self, giver: int, name: str, model: int) -> Giver:
        if self.vectors[giver]:
            raise CheckpointMismatch(
                f"rows of {self.names[giver]} are needed for tokens that other models lack, and it is an adapter or a "
                "task vector, which has no rows of its own. Give the whole model, or say in 'tokens' whose to take."
            )
        one, width = self.all[giver], self.all[model].tensors[name].size // self.rows[model]
        end = name.rpartition(".")[0].rpartition(".")[2] + "." + name.rpartition(".")[2]
        alike = [other for other in self.tensors[giver] if other == name]
        alike = alike or [other for other in self.tensors[giver] if other.endswith(end)] or self.tensors[giver]
        fitting = [other for other in alike if one.tensors[other].size == width * self.rows[giver]]
        if not fitting:
            raise CheckpointMismatch(
                f"{self.names[giver]} ({one.path or one.name}) has no rows like those of {name!r} of "
                f"{self.names[model]}, and is to give some. Say in 'tokens' whose rows to take."
            )
        return one, one.aliases.get(fitting[0], fitting[0])


def _same_added(one: Vocabulary, other: Vocabulary) -> bool:
    """Where only the second says which of its tokens were added, they may be the first's too."""
    return one.whole is None or [token["content"] for token in one.added] == [token["content"] for token in other.added]


def _by_rows(name: str, models: _Models) -> Arranged:
    """Rows that every model has are its own; the others are those of one model."""
    giver = models.index(name, ROWS_FROM.spelled)
    models.require_rows()
    if models.vectors[giver]:
        giver = 0  # what belongs to the base has its rows
    rows, common = models.rows[giver], min(models.rows)
    if len(set(models.rows)) == 1:
        note = f"{ROWS_FROM.spelled} has no effect: all models have {rows:,} rows."
        return Arranged(models.base, models.tasks, notes=(note,))
    at = np.arange(rows, dtype=np.int32)
    own = np.array([np.where(at < common, at, -1) for _ in models.all], np.int32)
    others = np.where(at < common, -1, giver).astype(np.int16)
    maps = _maps(own, others, at, np.zeros(rows, bool), models.vectors)
    base, tasks = models.arranged(maps)
    note = f"embeddings have {rows:,} rows: the first {common:,} are merged"
    note += f", the others are those of {name}." if rows > common else "; what others have beyond them is left out."
    output = OutputVocabulary(rows, models.rows[0], giver - 1 if giver else None)
    return Arranged(base, tasks, output, (note,))


def _by_tokens(asked: Mapping[str, Any], models: _Models) -> Arranged:
    """Rows in the order of one vocabulary."""
    source, tokens, pad = asked["source"], asked.get("tokens", {}), asked.get("pad_to_multiple_of", 1)
    several, notes = models.vocabularies()
    first = several[0]
    chosen = None if source == UNION else models.index(source, TOKENIZER.spelled)
    if first is None:
        if len(set(models.rows)) == 1 and not tokens and pad == 1 and not any(several):
            note = f"{TOKENIZER.spelled} has no effect: nobody says which tokens there are, and all have as many rows."
            return Arranged(models.base, models.tasks, notes=(note,))
        raise CheckpointMismatch(
            f"base ({models.base.path or models.base.name}) has no tokenizer.json, so which token each row belongs to "
            f"is not known. Put it there, or use {ROWS_FROM.spelled}."
        )
    vocabularies = [one or first for one in several]
    if chosen is None:
        chosen = _of_all(vocabularies, models.rows)
    wanted = with_tokens(_wanted(vocabularies, chosen, models.rows), list(tokens))
    alike = all(one is first for one in (*vocabularies, wanted)) and len(set(models.rows)) == 1
    kept = alike and pad == 1 and (not tokens or wanted.rows <= models.rows[0])
    if not kept or tokens:
        models.require_rows()
    rows = models.rows[0] if kept else -(-wanted.rows // pad) * pad
    own, used = _own_rows(wanted, vocabularies, models.rows, rows)
    others, row, forced = _others(own, asked, wanted, models, vocabularies)
    if kept:  # rows to spare are merged as any other
        own[:, ~used] = np.flatnonzero(~used)
        used[:] = True
    others[~used] = PADDING
    base, tasks = models.arranged(_maps(own, others, row, forced | ~used, models.vectors))
    moved = any(isinstance(one, Rearranged) for one in (base, *tasks))
    if not moved and not chosen:
        note = f"{TOKENIZER.spelled} has no effect: all models have the base's vocabulary."
        return Arranged(base, tasks, notes=(*notes, note))
    what = "the union of all models'" if source == UNION else f"that of {source}"
    what += f", which {models.names[chosen]} has" if source == UNION and chosen is not None else ""
    size = f"{counted(len(wanted.ids), 'token')}, {counted(rows, 'row')}"
    notes.append(f"the vocabulary is {what}: {size}{_gaps(own, used, models)}.")
    if of_pieces := [who for who, one in zip(models.names, vocabularies, strict=True) if one.of_pieces]:
        notes.append(
            f"the tokens of {listed(of_pieces, SHOWN)} are those of a file of SentencePiece and those added to it; a "
            "row for any other is a mean."
        )
    for who, one in zip(models.names, vocabularies, strict=True):
        if differently := reads_otherwise(wanted, one):
            notes.append(
                f"the output's tokenizer does not {' and '.join(differently)} as that of {who}, so texts of {who} may "
                "become other tokens than it was trained on. Check some of them."
            )
    return Arranged(
        base, tasks, OutputVocabulary(rows, models.rows[0], chosen - 1 if chosen else None, wanted), tuple(notes)
    )


def _gaps(own: np.ndarray, used: np.ndarray, models: _Models) -> str:
    """How many tokens each model lacks."""
    lacking = ((own < 0) & used).sum(axis=1).tolist()
    parts = [f"{who} lacks {count:,}" for who, count in zip(models.names, lacking, strict=True) if count]
    return f"; {listed(parts, SHOWN)}" if parts else ""


def _wanted(vocabularies: Sequence[Vocabulary], chosen: int | None, rows: Sequence[int]) -> Vocabulary:
    if chosen is not None:
        return vocabularies[chosen]
    others = zip(vocabularies[1:], rows[1:], strict=True)
    return union(vocabularies[0], [(one, most) for one, most in others if one is not vocabularies[0]])


def _of_all(vocabularies: Sequence[Vocabulary], rows: Sequence[int]) -> int | None:
    """The model that has the tokens of all, where no tokenizer.json can hold their union; None where there is none, or
    it can.
    """
    first = vocabularies[0]
    used = [{token for token, at in one.ids.items() if at < most} for one, most in zip(vocabularies, rows, strict=True)]
    adding = [one for one, own in zip(vocabularies, used, strict=True) if not own <= first.ids.keys()]
    if not adding or all(one.whole is not None for one in (first, *adding)):
        return None
    tokens = set(first.ids).union(*used)
    return next((model for model, one in enumerate(vocabularies) if tokens <= one.ids.keys()), None)


def _own_rows(
    wanted: Vocabulary, vocabularies: Sequence[Vocabulary], sizes: Sequence[int], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(models, rows): each model's own row of the output's row, -1 where it has none; and which rows have a token."""
    tokens = [token for token, at in wanted.ids.items() if at < rows]
    at = np.array([wanted.ids[token] for token in tokens], np.int64)
    own, used = np.full((len(vocabularies), rows), -1, np.int32), np.zeros(rows, bool)
    used[at] = True
    known: dict[int, np.ndarray] = {}
    for model, (one, size) in enumerate(zip(vocabularies, sizes, strict=True)):
        if id(one) not in known:
            known[id(one)] = np.fromiter((one.ids.get(token, -1) for token in tokens), np.int32, len(tokens))
        ids = known[id(one)]
        own[model, at] = np.where(ids < size, ids, -1)
    return own, used


def _others(
    own: np.ndarray,
    asked: Mapping[str, Any],
    wanted: Vocabulary,
    models: _Models,
    vocabularies: Sequence[Vocabulary],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row what models get that lack it: a model's number and row, or a code; and whether all get it."""
    having = own >= 0
    count = having.sum(axis=0)
    others = np.where(count == 1, having.argmax(axis=0), np.where(count == 0, ZERO, MEAN)).astype(np.int16)
    if asked.get("missing") != "mean":
        others[having[0]] = 0
    row = own[np.maximum(others, 0), np.arange(own.shape[1])].copy()
    forced = np.zeros(own.shape[1], bool)
    for token, entry in asked.get("tokens", {}).items():
        at, source = wanted.ids[token], entry["source"]
        if entry["force"] or not having[:, at].all():
            others[at], row[at] = _given(token, source, int(at), own, models, vocabularies)
            forced[at] = entry["force"]
    return others, row, forced


def _given(
    token: str, source: Any, at: int, own: np.ndarray, models: _Models, vocabularies: Sequence[Vocabulary]
) -> tuple[int, int]:
    """The model and the row that `tokens` gives for one token."""
    if isinstance(source, Mapping) and source["kind"] == "zero":
        return ZERO, 0
    name = source["model"] if isinstance(source, Mapping) else source
    model = models.index(name, f"tokens: {token!r}")
    if isinstance(source, str):
        row, what = int(own[model, at]), repr(token)
    elif "token" in source:
        row, what = vocabularies[model].ids.get(source["token"], -1), repr(source["token"])
    else:
        row, what = source["token_id"], f"id {source['token_id']}"
    if not 0 <= row < models.rows[model]:
        raise CheckpointMismatch(
            f"tokens: {token!r} is to have the row of {what} of {name}, which has no such token. Name a model that has "
            "it, or give it zeros (source: {kind: zero})."
        )
    return model, row


def _maps(
    own: np.ndarray, others: np.ndarray, row: np.ndarray, forced: np.ndarray, vectors: Sequence[bool]
) -> list[RowMap]:
    """Each model's map: its own rows, and the others where it has none or all are to have them."""
    maps: list[RowMap] = []
    for model, mine in enumerate(own):
        has = (mine >= 0) & ~forced
        rest = np.where(others == PADDING, PADDING, ZERO).astype(np.int16) if vectors[model] else others
        maps.append(RowMap(np.where(has, model, rest).astype(np.int16), np.where(has, mine, row).astype(np.int32), own))
    return maps


def key_of(recipe: Recipe) -> str:
    """What decides the arrangement of given models."""
    return json.dumps([recipe[TOKENIZER], recipe[ROWS_FROM]])
