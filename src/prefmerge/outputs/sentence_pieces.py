"""The tokens of a model whose tokenizer only SentencePiece reads: tokenizer.model or spiece.model.

    ModelProto: field 1, repeated: a piece, whose field 1 is its text; its place is its id

Over the pieces lie the tokens that were added later (added_tokens.json, added_tokens_decoder in tokenizer_config.json)
and T5's <extra_id_0> and so on, which its code puts behind the pieces. Protocol buffers are read as far as that needs:
nothing else of the file is looked at. Some families number tokens otherwise than their file does (fairseq's and
Pegasus's, whose code moves all of them); they are refused, by the class of the tokenizer, the type of the model, or
because an added token is a piece with another number. Cost: the file, about a microsecond a piece. Not here: the files
of these families (sentencepiece.bpe.model), writing such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefmerge.ground import jsons
from prefmerge.ground.disk import read_text_file

NAMES = ("tokenizer.model", "spiece.model")  # whose pieces have their places as ids
LARGEST = 32 << 20  # bytes; that of 256,000 pieces has 4 MB
MOST = 1 << 20  # pieces
OTHERS = 64  # fields that are no pieces, and fields of one piece; there are five and three
EXTRA = 100  # T5's, where nothing else is said
_VARINT, _EIGHT, _TEXT, _FOUR = 0, 1, 2, 5  # kinds of values in a protocol buffer
_MOVED_CLASSES = (
    *("pegasus", "xlmroberta", "camembert", "mbart", "mbart50", "nllb", "xglm", "barthez", "layoutxlm", "mluke"),
    *("plbart", "seamlessm4t"),
)
_MOVED_MODELS = (
    *("pegasus", "pegasus_x", "bigbird_pegasus", "xlm-roberta", "xlm-roberta-xl", "camembert", "mbart", "xglm"),
    *("plbart", "nllb-moe", "seamless_m4t"),
)


class NoPieces(ValueError):
    """What is wrong with a file of pieces, or with what lies over it, without the name of the file."""


def file_of_pieces(files: Mapping[str, Path]) -> Path | None:
    """Of the files of a tokenizer the one that has its pieces."""
    return next((files[name] for name in NAMES if name in files), None)


def ids_of_pieces(path: Path, files: Mapping[str, Path]) -> dict[str, int]:
    """Token -> id. `files`: of the tokenizer. Raises NoPieces."""
    try:
        content = read_text_file(path, LARGEST)
    except OSError as error:
        raise NoPieces(f"it cannot be read ({error.strerror or error})") from error
    pieces = pieces_in(content)
    config = _json(files.get("tokenizer_config.json"))
    model_type = _json(path.parent / "config.json").get("model_type")
    kind = _kind(config.get("tokenizer_class"))
    if kind in _MOVED_CLASSES or (not kind and model_type in _MOVED_MODELS):
        raise NoPieces("models of its kind number their tokens otherwise than this file does")
    ids = {piece: at for at, piece in enumerate(pieces)}
    added = _added(config, _json(files.get("added_tokens.json")))
    for token, at in added.items():
        if ids.get(token, at) != at:
            raise NoPieces(f"{token[:40]!r} is its piece {ids[token]}, and beside it stands that it is token {at}")
    if (kind == "t5" or (not kind and model_type == "t5")) and "<extra_id_0>" not in added:
        extra = config.get("extra_ids", EXTRA)
        count = min(extra, MOST) if type(extra) is int else 0
        added |= {f"<extra_id_{i}>": len(pieces) + count - 1 - i for i in range(count)}
    over = {at: token for token, at in added.items()}
    return {token: at for token, at in ids.items() if over.get(at, token) == token} | added


def pieces_in(content: bytes) -> list[str]:
    """The pieces in order of their ids. Raises NoPieces."""
    pieces: list[str] = []
    others = 0
    for field, kind, start, stop in _fields(content, 0, len(content)):
        if field != 1:
            others += 1
            if others > OTHERS:
                raise NoPieces("it is no file of SentencePiece")
            continue
        if kind != _TEXT:
            raise NoPieces("it is no file of SentencePiece")
        text = b""
        for i, (own, form, first, last) in enumerate(_fields(content, start, stop)):
            if i > OTHERS:
                raise NoPieces("it is no file of SentencePiece")
            if own == 1 and form == _TEXT:
                text = content[first:last]
        try:
            pieces.append(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise NoPieces(f"its piece {len(pieces)} is no UTF-8") from error
        if len(pieces) > MOST:
            raise NoPieces(f"it has more than {MOST:,} pieces")
    if not pieces:
        raise NoPieces("it has no pieces")
    if len(set(pieces)) < len(pieces):
        known: set[str] = set()
        twice = next(piece for piece in pieces if piece in known or known.add(piece))
        raise NoPieces(f"its piece {twice[:40]!r} is there twice")
    return pieces


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field, kind, where its value begins, where that ends) of one message."""
    while at < end:
        tag, at = _number(content, at, end)
        field, kind = tag >> 3, tag & 7
        if kind == _TEXT:
            size, at = _number(content, at, end)
            stop = at + size
        elif kind == _VARINT:
            _, stop = _number(content, at, end)
        elif kind in (_EIGHT, _FOUR):
            stop = at + (8 if kind == _EIGHT else 4)
        else:
            raise NoPieces("it is no file of SentencePiece")
        if stop > end or not field:
            raise NoPieces("it is no file of SentencePiece, or was cut off")
        yield field, kind, at, stop
        at = stop


def _number(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for place in range(10):
        if at + place >= end:
            raise NoPieces("it is no file of SentencePiece, or was cut off")
        byte = content[at + place]
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, at + place + 1
    raise NoPieces("it is no file of SentencePiece")


def _added(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that lie over the pieces: what tokenizer_config.json says goes before the older file."""
    ids = {token: at for token, at in added.items() if type(at) is int and 0 <= at < MOST}
    decoder = config.get("added_tokens_decoder")
    for at, token in (decoder if isinstance(decoder, dict) else {}).items():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and at.isdecimal() and len(at) < 10 and int(at) < MOST:
            ids[text] = int(at)
    return ids


def _kind(name: Any) -> str:
    return name.removesuffix("Fast").removesuffix("Tokenizer").lower() if isinstance(name, str) else ""


def _json(path: Path | None) -> dict[str, Any]:
    value = None if path is None else jsons.peek(path)
    return value if isinstance(value, dict) else {}
