"""What a recipe may say of vocabularies: which one the output has, whose rows fill gaps, which chat template.

    tokenizer: {source: union, tokens: {<|im_end|>: {source: cars, force: true}}, pad_to_multiple_of: 64}
    tokenizer_source: base          the same as tokenizer: {source: base}
    rows_from: cars                 without tokenizers: rows that all have are merged, the rest are those of cars
    chat_template: auto

Models are called `base` or by their tasks' names; in a recipe file they may be written as its models are. The values
are plain JSON. Cost: none; nothing heavy is imported. Not here: what is done with it (`rows`, `vocabulary_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefmerge.ground.words import did_you_mean
from prefmerge.methods.parameters import Group, Kind, Parameter

BASE, UNION, AUTO = "base", "union", "auto"
KEYS = ("tokenizer_source", "tokenizer", "chat_template", "rows_from")  # of a recipe file; they name models
_OF_TOKENIZER = ("source", "tokens", "pad_to_multiple_of", "missing")
_OF_TOKEN = ("source", "force")
_KINDS = {"zero": ("kind",), "model_token": ("kind", "model", "token", "token_id")}


def is_template(text: str) -> bool:
    """Whether it is the text of a chat template, not the name of one."""
    return "{" in text or "\n" in text


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a text, found {str(value)!r}")
    return value


def _model(value: Any) -> str:
    """A model: its name, or what mergekit writes for its path."""
    while isinstance(value, Mapping) and len(value) == 1 and ("path" in value or "model" in value):
        value = next(iter(value.values()))
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected base or the name of a task, found {str(value)!r}")
    return value


def _whole(value: Any) -> int:
    """A whole number, which a recipe file spells."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number, found {str(value)!r}")
    return value


def _known(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}.{did_you_mean(str(key), known)} Keys: {', '.join(known)}")


def _token_source(value: Any, token: str) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind is None:
        return _model(value)
    if kind not in _KINDS:
        raise ValueError(f"the source of token {token!r} is of kind {kind!r}; expected zero or model_token")
    _known(value, _KINDS[kind], f"the source of token {token!r}")
    if kind == "zero":
        return {"kind": kind}
    if "model" not in value or ("token" in value) == ("token_id" in value):
        raise ValueError(f"the source of token {token!r} needs a model, and either a token or a token_id")
    which = (
        {"token": _text(value["token"])} if "token" in value else {"token_id": _whole(value["token_id"])}
    )  # whatever the token is in that model
    return {"kind": kind, "model": _model(value["model"]), **which}


def _token(value: Any, token: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or "source" not in value:
        raise ValueError(f"token {token!r}: 'source' is missing: a model, or kind: zero")
    _known(value, _OF_TOKEN, f"token {token!r}")
    force = value.get("force", False)
    if not isinstance(force, bool):
        raise ValueError(f"token {token!r}: force is {force!r}; expected true or false")
    return {"source": _token_source(value["source"], token), "force": force}


def _tokenizer(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return {"source": _model(value)}
    if set(value) and set(value) <= {"path", "model"}:
        return {"source": _model(value)}
    _known(value, _OF_TOKENIZER, "tokenizer")
    read: dict[str, Any] = {"source": _model(value.get("source", UNION))}
    tokens = value.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise ValueError(f"expected tokens as token: {{source: ..}}, found {str(tokens)!r}")
    if tokens:
        read["tokens"] = {_text(token): _token(own, token) for token, own in tokens.items()}
    if value.get("pad_to_multiple_of") is not None:
        read["pad_to_multiple_of"] = _whole(value["pad_to_multiple_of"])
        if not read["pad_to_multiple_of"]:
            raise ValueError("pad_to_multiple_of is 0; expected at least 1")
    if value.get("missing", BASE) not in (BASE, "mean"):
        raise ValueError(f"missing is {value['missing']!r}; expected base or mean")
    return read | ({"missing": "mean"} if value.get("missing") == "mean" else {})


TOKENIZER: Parameter[dict[str, Any] | None] = Parameter(
    "tokenizer",
    Kind(_tokenizer, "SOURCE"),
    None,
    "give the output the vocabulary of all models (union), of the base (base) or of a task (its name), and bring every "
    "model's embeddings into its order",
    flag_name="--tokenizer-source",
    top=True,
    mergekit=("tokenizer_source",),
    quiet=True,
    group=Group.OUTPUT,
)
ROWS_FROM: Parameter[str | None] = Parameter(
    "rows_from",
    Kind(lambda value: None if value is None else _model(value), "NAME"),
    None,
    "merge the rows of the embeddings that all models have, and take the others from the base (base) or a task (its "
    "name): for models whose vocabularies begin alike and differ in size",
    top=True,
    quiet=True,
    group=Group.OUTPUT,
)
CHAT_TEMPLATE: Parameter[str | None] = Parameter(
    "chat_template",
    Kind(lambda value: None if value is None else _text(value), "TEMPLATE"),
    None,
    "give an output folder this chat template: that of most models (auto), of the base (base) or of a task (its name), "
    "chatml, or the text of a template",
    top=True,
    mergekit=("chat_template",),
    quiet=True,
    group=Group.OUTPUT,
)


OF_VOCABULARIES: tuple[Parameter[Any], ...] = (TOKENIZER, ROWS_FROM, CHAT_TEMPLATE)


def of_recipe_file(key: str, written: Any, named: Callable[[str], str | None], *, based: bool) -> dict[str, Any]:
    """The value of one of `KEYS`, by the parameter's name, from what a recipe file has. `named`: what a recipe calls
    the model that is written so, None where it is none of its models. `based`: the file names a base model. Raises
    ValueError.
    """

    def name(text: str) -> str:
        own = named(text)
        if own is None:
            raise ValueError(f"{text!r} is none of the recipe's models; expected base or one of them")
        return own

    if written is None:
        return {}
    if key == "chat_template":
        text = _text(written)
        return {CHAT_TEMPLATE.name: text if text == AUTO or is_template(text) else named(text) or text}
    if key == "rows_from":
        return {ROWS_FROM.name: name(_model(written))}
    value = _tokenizer(written)
    assert value is not None
    if value["source"] != UNION:
        value["source"] = name(value["source"])
    for token in value.get("tokens", {}).values():
        source = token["source"]
        if isinstance(source, str):
            token["source"] = name(source)
        elif "model" in source:
            source["model"] = name(source["model"])
    return {TOKENIZER.name: value if based else {**value, "missing": "mean"}}
