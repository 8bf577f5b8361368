"""Every key of the three kinds of YAML file: recipes of a merge, configurations of fine-tuning, recipes of experiments.

From the declared parameters and `recipe_keys`, and from the sections of the two configurations with the comments that
stand beside their fields. Cost: their source is read. Not here: what a wrong key is answered.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pages.reference.markdown import code, comments, table
from prefmerge.cli.derived import help_of
from prefmerge.config import FinetuneConfig
from prefmerge.ground.yaml_file import Section
from prefmerge.lab.recipe import Experiment
from prefmerge.merging.parameters import METHOD
from prefmerge.merging.recipe_keys import ABOUT, REFUSED, by_key, levels
from prefmerge.methods.parameters import Parameter
from prefmerge.preference import as_text, exact

HEAD = """# Keys of the YAML files

This page is made from the code: `python -m pages.reference`. An unknown key is refused, with file, line
and the nearest known one.

- [Recipes of `merge`](#recipes-of-merge), which `plan`, `sweep` and `studio` take too.
- [Configurations of `finetune`](#configurations-of-finetune).
- [Recipes of `bench`](#recipes-of-bench).

## Recipes of merge

mergekit's keys mean here what they mean there, so its recipes run unchanged ([from mergekit](from-mergekit.md)).
[The methods](parameters.md) have different parameters; one that the method has no use for is refused, or noted where
mergekit ignores it too. A number among the parameters may also be a list, which is interpolated over the layers, or a
list of `{filter: PATTERN, value: NUMBER}`, where mergekit's may. Several documents in one file are several recipes,
which may take each other's models by their `name`. Keys that begin with `x-` may hold anchors, and say nothing.
"""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def page() -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            HEAD,
            *_of_merge(),
            "## Configurations of finetune",
            "",
            "[Fine-tuning](finetuning.md) has examples. Where nothing is said, a key has the papers' value. `tasks` "
            "may stand at the top level too.",
            "",
            *_sections(FinetuneConfig, "The top level"),
            "## Recipes of bench",
            "",
            "[Experiments](experiments.md) has examples. Where nothing is said, a key has the papers' value.",
            "",
            *_sections(Experiment, "The top level of an experiment"),
        ]
    )


def _of_merge() -> list[str]:
    known: Mapping[str, Parameter[Any]] = {METHOD.keys[0]: METHOD, **by_key(top=True), **by_key(top=False)}
    lines = []
    for level, keys in levels().items():
        rows = [[code(key), ABOUT[key] if key in ABOUT else _help(known[key], key)] for key in dict.fromkeys(keys)]
        lines += [
            "### The top level" if level == "the top level" else f"### `{level}`",
            "",
            *table(["key", "what it is"], rows),
            "",
        ]
    refused = [[code(key), what] for key, what in REFUSED.items()]
    return [*lines, "### Keys of mergekit that are refused", "", *table(["key", "what to do"], refused), ""]


def _help(one: Parameter[Any], key: str) -> str:
    if one.keys[0] != key:
        return f"Another name of `{one.keys[0]}`."
    return f"One of the [methods](parameters.md). {help_of(one)}" if one is METHOD else help_of(one)


def _sections(section: type[Section], title: str, place: str = "") -> list[str]:
    """A table for a section, and one for each section in it."""
    doc = " ".join((section.__doc__ or "").split())
    told, inner, rows = comments(section), list[str](), []
    for name, field in section.model_fields.items():
        key, own = f"{place}{name}", _inner(field.annotation)
        what = f"[Its keys](#{_anchor(key)})." if own else _sentence(told[name])
        if own:
            many = get_origin(field.annotation) is tuple
            what += f" {' '.join((own.__doc__ or '').split())}"
            inner += _sections(own, f"`{key}`", f"{key}[]." if many else f"{key}.")
        rows.append([code(name), _default(field, own), _kind(field), what])
    heading = f"### {title}" if not place else f"#### {title}"
    return [heading, "", doc, "", *table(["key", "default", "value", "what it is"], rows), "", *inner]


def _anchor(key: str) -> str:
    return key.replace(".", "").replace("[]", "")


def _inner(kind: Any) -> type[Section] | None:
    """The section that a field holds, alone or in a list."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next((own for one in get_args(kind) if (own := _inner(one)) is not None), None)


def _default(field: FieldInfo, own: type[Section] | None) -> str:
    if field.default is PydanticUndefined:
        return "-" if field.default_factory is not None else "required"
    if isinstance(field.default, Section) or field.default is None:
        return "-"
    return code(_written(field.default))


def _written(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return as_text(exact(value)) if isinstance(value, float) else str(value)


def _sentence(comment: str) -> str:
    """A comment as a sentence for people who write YAML, where nothing stands for None."""
    text = comment.replace("None:", "not given:")
    return text if text.endswith(".") else f"{text}."


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{word} {_written(getattr(one, name))}"
        for one in field.metadata
        for name, word in BOUNDS
        if hasattr(one, name)
    ]
    return ", ".join([_named(field.annotation), *bounds])


def _named(kind: Any) -> str:
    """A type in words."""
    of, parts = get_origin(kind), get_args(kind)
    if of is Literal:
        return _either([code(str(one)) for one in parts])
    if of in (Union, types.UnionType):
        return _either([_named(one) for one in parts if one is not type(None)])
    if of is tuple:
        return f"list of {_named(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} values, {_named(parts[0])}"
    if of is dict:
        return "keys"
    return "keys" if isinstance(kind, type) and issubclass(kind, Section) else WORDS[kind]


def _either(words: list[str]) -> str:
    """All of the words, `or` before the last."""
    *several, last = words
    return f"{', '.join(several)} or {last}" if several else last
