"""Vocabularies as the files of a tokenizer have them, and the union of several as one tokenizer.json.

    union = the first one's tokens with their ids, then what the others have beside them: words in order of model and
            id, then added tokens (<|im_end|>) in order of model and id

Words go into the model of the tokenizer (BPE with their merges, Unigram with their scores, WordPiece, WordLevel), so
that texts are cut into them. A word that the first one has keeps its score there. Plain JSON; the tokenizers package is
not needed. Cost: these files, and the ids of each vocabulary that differs from the first. Not here: the rows of the
embeddings (`merging.vocabulary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefmerge.errors import CheckpointMismatch
from prefmerge.ground import jsons
from prefmerge.ground.words import counted, quoted
from prefmerge.outputs.sentence_pieces import NoPieces, file_of_pieces, ids_of_pieces
from prefmerge.outputs.tokenizer import added_in, ids_in

SHOWN = 3
_OF_WORDS = ("BPE", "Unigram", "WordPiece", "WordLevel")  # kinds of tokenizers that can take more words
# Parts of a tokenizer by which a text becomes words, and words a text, in the words of a message.
_READING = {"normalizer": "normalise texts", "pre_tokenizer": "split texts"}
_SAVE = "Save it with transformers (AutoTokenizer.from_pretrained(..).save_pretrained(..)), which writes one."


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model. `whole`: its tokenizer.json. `extended`: it was made here, and is in no file."""

    who: str  # "base", or a task's name
    files: Mapping[str, Path]
    ids: Mapping[str, int]
    whole: Mapping[str, Any] | None = None
    extended: bool = False

    @property
    def rows(self) -> int:
        """How many rows its embeddings need."""
        return max(self.ids.values()) + 1

    @property
    def of_pieces(self) -> bool:
        """Whether only SentencePiece reads its tokenizer, so that its code may add tokens that no file names."""
        return self.whole is None and "vocab.json" not in self.files and file_of_pieces(self.files) is not None

    @property
    def added(self) -> list[dict[str, Any]]:
        """Its added tokens, in order of their ids."""
        return added_in(self.whole) if self.whole is not None else []


def read_vocabulary(who: str, files: Mapping[str, Path]) -> Vocabulary | None:
    """What the files of a tokenizer say; None where there are none. Raises CheckpointMismatch where they do not say
    which tokens there are.
    """
    if not files:
        return None
    ids = ids_in(files)
    if not ids:
        if not any(name.startswith(("tokenizer.", "vocab", "spiece", "sentencepiece")) for name in files):
            return None
        raise CheckpointMismatch(
            f"{who}: {next(iter(files.values())).parent} has a tokenizer, but no tokenizer.json that says which tokens "
            f"it has{_why_no_pieces(files)}. {_SAVE}"
        )
    whole = jsons.peek(files["tokenizer.json"]) if "tokenizer.json" in files else None
    return Vocabulary(who, files, ids, whole if isinstance(whole, dict) else None)


def _why_no_pieces(files: Mapping[str, Path]) -> str:
    path = file_of_pieces(files)
    try:
        if path is not None:
            ids_of_pieces(path, files)
    except NoPieces as error:
        return f", and its {path.name} does not say it either: {error}" if path is not None else ""
    return ""


def union(first: Vocabulary, others: Sequence[tuple[Vocabulary, int]]) -> Vocabulary:
    """The tokens of all, those of the first with their ids. `others`: with how many rows each model has; a token beyond
    them is not used. Raises CheckpointMismatch where no tokenizer.json can hold them.
    """
    added: dict[str, dict[str, Any]] = {}
    for one, rows in others:
        for token in one.added:
            if token["content"] not in first.ids and token["id"] < rows:
                added.setdefault(token["content"], token)
    known = {*first.ids, *added}
    words: dict[str, float] = {}
    merges: list[tuple[str, str]] = []
    for one, rows in others:
        new = [token for token, at in sorted(one.ids.items(), key=lambda pair: pair[1]) if at < rows]
        new = [token for token in new if token not in known]
        if new:
            _require_alike(first, one, new)
            scores = _scores(one)
            words |= {token: scores.get(token, 0.0) for token in new}
            known.update(new)
            merges += _merges_into(set(new), one)
    return _extended(first, words, merges, list(added.values()))


def reads_otherwise(one: Vocabulary, other: Vocabulary) -> list[str]:
    """What two tokenizers do to a text in different ways before they look for words, in words."""
    if one.whole is None or other.whole is None:
        return []
    return [what for part, what in _READING.items() if one.whole.get(part) != other.whole.get(part)]


def with_tokens(vocabulary: Vocabulary, tokens: Sequence[str]) -> Vocabulary:
    """The vocabulary with these as added tokens, as far as it lacks them."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    new = [{"content": token, **plain} for token in tokens if token not in vocabulary.ids]
    return _extended(vocabulary, {}, [], new)


def _require_alike(first: Vocabulary, one: Vocabulary, new: Sequence[str]) -> None:
    """Raise CheckpointMismatch where words of one tokenizer are no words of the other."""
    lacks = f"the tokenizer of {one.who} has {counted(len(new), 'word')} that the base's lacks ({quoted(new, SHOWN)})"
    remedy = "Take the vocabulary of one of the models instead (tokenizer source base, or the model's name)."
    for each in (first, one):
        if each.whole is None:
            raise CheckpointMismatch(
                f"{lacks}, and a union needs a tokenizer.json of each; {each.who} has none. {_SAVE}"
            )
    kinds = [_kind(each) for each in (first, one)]
    if kinds[0] != kinds[1]:
        raise CheckpointMismatch(f"{lacks}, and they are of two kinds: {kinds[0]} and {kinds[1]}. {remedy}")
    if kinds[0] not in _OF_WORDS:
        raise CheckpointMismatch(f"{lacks}, and a tokenizer of kind {kinds[0]} cannot take words of another. {remedy}")
    if (first.whole or {}).get("decoder") != (one.whole or {}).get("decoder"):
        raise CheckpointMismatch(
            f"{lacks}, and the two spell words in different ways (their decoders differ). {remedy}"
        )
    if kinds[0] == "Unigram":  # its scores mean something only for texts that are read in one way
        for part, what in _READING.items():
            if (first.whole or {}).get(part) != (one.whole or {}).get(part):
                raise CheckpointMismatch(
                    f"{lacks}, and the two {what} in different ways (their {part}s differ). {remedy}"
                )
        falls = [bool(((each.whole or {}).get("model") or {}).get("byte_fallback")) for each in (first, one)]
        if falls[0] != falls[1]:
            has, not_ = (first.who, one.who) if falls[0] else (one.who, first.who)
            raise CheckpointMismatch(
                f"{lacks}, and that of {has} spells unknown characters in bytes (byte_fallback), that of {not_} does "
                f"not. {remedy}"
            )


def _kind(vocabulary: Vocabulary) -> str:
    model = (vocabulary.whole or {}).get("model")
    if not isinstance(model, dict):
        return "unknown"
    return str(model.get("type") or ("BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece"))


def _scores(vocabulary: Vocabulary) -> dict[str, float]:
    """Of the words of a Unigram; empty for the other kinds."""
    pieces = ((vocabulary.whole or {}).get("model") or {}).get("vocab")
    return {str(one[0]): float(one[1]) for one in pieces} if isinstance(pieces, list) else {}


def _merges_into(new: set[str], one: Vocabulary) -> list[tuple[str, str]]:
    """The merges of a BPE that make one of these words."""
    model = (one.whole or {}).get("model") or {}
    pairs = [_pair(merge) for merge in model.get("merges") or ()]
    return [pair for pair in pairs if "".join(pair) in new]


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _extended(
    vocabulary: Vocabulary,
    words: Mapping[str, float],
    merges: Sequence[tuple[str, str]],
    added: Sequence[dict[str, Any]],
) -> Vocabulary:
    """The vocabulary with more words, each with its score, and more added tokens behind its own."""
    if not words and not added:
        return vocabulary
    if vocabulary.whole is None:
        names = quoted([*words, *(token["content"] for token in added)], SHOWN)
        raise CheckpointMismatch(
            f"tokens are to be added ({names}), and the tokenizer of {vocabulary.who} has no tokenizer.json to add "
            f"them to. {_SAVE}"
        )
    ids, at = dict(vocabulary.ids), vocabulary.rows
    for token in [*words, *(token["content"] for token in added)]:
        ids[token], at = at, at + 1
    tokens = [*vocabulary.added, *({**token, "id": ids[token["content"]]} for token in added)]
    tokens = [{"id": token["id"], **token} for token in tokens]
    whole = {**vocabulary.whole, "added_tokens": tokens}
    if words:
        model = dict(vocabulary.whole["model"])
        if isinstance(model["vocab"], list):
            model["vocab"] = _pieces(vocabulary, model["vocab"], ids, words)
            return replace(vocabulary, ids=ids, whole={**whole, "model": model}, extended=True)
        # A token that is in the model has the id that stands there; others would be numbered after the model's words.
        model["vocab"] = {**model["vocab"], **{token: ids[token] for token in words}}
        model["vocab"] |= {token["content"]: token["id"] for token in tokens}
        if merges or "merges" in model:
            model["merges"] = [*(model.get("merges") or ()), *_written(merges, model.get("merges") or ())]
        whole["model"] = model
    return replace(vocabulary, ids=ids, whole=whole, extended=True)


def _pieces(
    vocabulary: Vocabulary, pieces: Sequence[Any], ids: Mapping[str, int], scores: Mapping[str, float]
) -> list[Any]:
    """The words of a Unigram, whose places are their ids, up to the last of `ids`. An added token that has to stand
    among them gets the lowest score that there is: texts are cut at it before they are looked at, and the score of what
    is unknown follows from the lowest.
    """
    at = {own: token for token, own in ids.items()}
    places = range(len(pieces), max(at) + 1)
    empty = next((place for place in places if place not in at), None)
    if empty is not None:
        raise CheckpointMismatch(
            f"the tokenizer of {vocabulary.who} has no token with id {empty}, and words are to be added behind it; a "
            "Unigram cannot leave an id out. Take the vocabulary of one of the models instead (tokenizer source base, "
            "or the model's name)."
        )
    lowest = min(_scores(vocabulary).values(), default=0.0)
    return [*pieces, *([at[place], scores.get(at[place], lowest)] for place in places)]


def _written(merges: Sequence[tuple[str, str]], like: Sequence[Any]) -> list[Any]:
    """Merges as the tokenizer writes its own: "a b", or a list of two, which may have spaces."""
    if like and isinstance(like[0], str):
        return [f"{left} {right}" for left, right in merges]
    return [list(pair) for pair in merges]
