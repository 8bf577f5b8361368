"""Every public name of the package: its signature, what its docstring says, what a result holds, the tree of errors.

Not here: the parameters of a merge and of `adapt` one by one (`listing`, `commands`).
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, cast

import prefmerge
from pages.reference.markdown import code, comments, first_paragraph, of_docstring, table
from prefmerge import errors
from prefmerge.merging.parameters import METHOD, every

HEAD = """# Python

This page is made from the code: `python -m pages.reference`. Every name is one of `import prefmerge`, which
is cheap: what is heavy comes with the first name that needs it. Names of parameters are those of
[the methods](parameters.md) and of [the commands](commands.md), with `_` for `-`. Counts are elements, shares and
accuracies are fractions of 1, sizes are bytes. `Number` stands for `int | float | str | Fraction`: text keeps a number
exact.
"""
NUMBER = "int | float | str | Fraction"
RESULTS = {  # what annotations name that are not imported where they stand
    "CommandOutcome": "prefmerge.target.by_command",
    "Evaluation": "prefmerge.models.evaluation",
    "Inventory": "prefmerge.analysis",
    "Measured": "prefmerge.analysis",
    "Ownership": "prefmerge.analysis",
    "Run": "prefmerge.runs",
    "SweptModel": "prefmerge.merging.sweep",
    "VerifyReport": "prefmerge.merging.verify",
}
PARTS = {  # what these hold, and who reads a result needs
    "Candidate": "prefmerge.target.pool",
    "Count": "prefmerge.models.evaluation",
    "Estimate": "prefmerge.target.estimates",
    "Estimates": "prefmerge.target.estimates",
    "KeptMagnitude": "prefmerge.merging.kept",
    "MeasuredPart": "prefmerge.analysis",
    "Moved": "prefmerge.target.moved",
    "OwnedRow": "prefmerge.analysis",
    "Prior": "prefmerge.target.prior",
    "PushedFile": "prefmerge.merging.push",
    "Recall": "prefmerge.target.estimates",
    "ReceiptElements": "prefmerge.merging.receipt",
    "ReceiptFile": "prefmerge.merging.receipt",
    "ReceiptInput": "prefmerge.merging.receipt",
    "ReceiptInputs": "prefmerge.merging.receipt",
    "ReceiptOutput": "prefmerge.merging.receipt",
    "ReceiptRun": "prefmerge.merging.receipt",
    "ReceiptTensor": "prefmerge.merging.receipt",
    "ReceiptTotals": "prefmerge.merging.receipt",
    "Row": "prefmerge.target.estimates",
    "RunTask": "prefmerge.runs",
    "ScoredTrial": "prefmerge.target.search.trial",
    "Shares": "prefmerge.target.shares.estimate",
    "Signs": "prefmerge.analysis",
    "Trial": "prefmerge.target.search.trial",
}
FEW = 5  # parameters of a merge that a function lists; it says of more that they are those of merge
WIDTH = 110


def page() -> str:
    """The page, in Markdown."""
    names = [name for name in prefmerge.__all__ if not name.startswith("__")]
    functions = [name for name in names if name.islower()]
    classes = [name for name in names if name not in functions and name != errors.PrefmergeError.__name__]
    places = {name: name if name in functions else f"class-{name.lower()}" for name in (*functions, *classes)}
    index = [
        [f"[`{name}`](#{places.get(name, name.lower())})", first_paragraph(getattr(prefmerge, name).__doc__)]
        for name in names
    ]
    lines = [HEAD, *table(["name", "what it is"], index), "", "## Functions", ""]
    for name in functions:
        lines += _function(name, getattr(prefmerge, name))
    lines += ["## Classes", ""]
    for name in classes:
        lines += _class(name, getattr(prefmerge, name))
    lines += ["## What functions return", "", "Beside the classes above.", ""]
    for name, module in sorted(_results(functions).items()):
        if name not in names:
            lines += _class(name, getattr(importlib.import_module(module), name))
    lines += ["## What results hold", "", "T tasks, C classes.", ""]
    for name, module in PARTS.items():
        lines += _class(name, getattr(importlib.import_module(module), name))
    return "\n".join([*lines, *_errors(), ""])


def _results(functions: list[str]) -> dict[str, str]:
    """The classes of ours that the functions return, and their modules."""
    said = " ".join(_annotation(inspect.signature(getattr(prefmerge, name)).return_annotation) for name in functions)
    known = dict(RESULTS)
    for name in functions:
        of = vars(inspect.getmodule(getattr(prefmerge, name)))
        known |= {key: one.__module__ for key, one in of.items() if isinstance(one, type)}
    return {
        name: module
        for name, module in known.items()
        if re.search(rf"\b{name}\b", said) and module.startswith("prefmerge.") and name != "FinetuneConfig"
    }


def _function(name: str, one: Any) -> list[str]:
    return [f"### {name}", "", *_signature(f"prefmerge.{name}", one), "", of_docstring(inspect.getdoc(one) or ""), ""]


def _signature(called: str, one: Any) -> list[str]:
    signature = inspect.signature(one)
    returns = _annotation(signature.return_annotation)
    words, ours = list[str](), {METHOD.name, *every()}
    shared = [each for each in signature.parameters if each in ours]
    if called == "prefmerge.merge" or len(shared) < FEW:
        shared = []
    last = None
    for each in signature.parameters.values():
        if last is each.POSITIONAL_ONLY and each.kind is not last:
            words.append("/")
        if each.kind is each.KEYWORD_ONLY and last is not each.KEYWORD_ONLY:
            words.append("*")
        last = each.kind
        if each.name not in shared:
            words.append(_parameter(each))
        elif each.name == shared[0]:
            words.append(f"{shared[0]} to {shared[-1]}: as in prefmerge.merge")
    line = f"{called}({', '.join(words)}) -> {returns}"
    body = [line] if len(line) <= WIDTH else [f"{called}(", *(f"    {word}," for word in words), f") -> {returns}"]
    return ["```text", *body, "```"]


def _parameter(one: inspect.Parameter) -> str:
    text = one.name if one.annotation is one.empty else f"{one.name}: {_annotation(one.annotation)}"
    return text if one.default is one.empty else f"{text} = {_default(one.default)}"


def _default(value: Any) -> str:
    return "<its own>" if repr(value).startswith("<") else repr(value)


def _annotation(kind: Any) -> str:
    """A type as one reads it: without modules, and `X | None` for what may be absent."""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    text = re.sub(r"\b(?!torch\.)(?:[a-z_]+\.)+(?=[A-Za-z])", "", text.strip("'"))
    while (whole := re.fullmatch(r"Optional\[(.*)\]", text)) is not None:
        text = f"{whole[1]} | None"
    return text.replace(NUMBER, "Number")


def _class(name: str, one: type) -> list[str]:
    doc = inspect.getdoc(one) if "__doc__" in vars(one) else ""
    lines = [f"### class {name}", "", of_docstring(doc or ""), ""]
    rows = list(_members(one))
    return [*lines, *table(["member", "what it is"], rows), ""] if rows else lines


def _members(one: type) -> Iterator[list[str]]:
    """Every public field, property and method of a class, in the order of its source."""
    said, known = {}, {}
    for cls in reversed(one.__mro__):
        if cls.__module__.startswith("prefmerge."):
            said |= comments(cls)
            fields = {key: kind for key, kind in vars(cls).get("__annotations__", {}).items() if key in comments(cls)}
            known |= {key: (kind, None) for key, kind in fields.items()}
            known |= {key: (None, value) for key, value in vars(cls).items() if key not in fields}
    for key, (kind, value) in known.items():
        if key.startswith("_") or key == "model_config":
            continue
        if kind is not None:
            yield [code(f"{key}: {_annotation(kind)}"), said[key]]
        elif isinstance(value, property):
            returned = inspect.signature(cast(Any, value.fget)).return_annotation
            yield [code(f"{key}: {_annotation(returned)}"), first_paragraph(value.__doc__)]
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            yield [code(f"{key}{_call(getattr(one, key))}"), first_paragraph(value.__doc__)]


def _call(method: Any) -> str:
    signature = inspect.signature(method)
    words = [
        _parameter(each)
        for each in signature.parameters.values()
        if each.name != "self" and each.kind is not each.KEYWORD_ONLY
    ]
    named = [_parameter(each) for each in signature.parameters.values() if each.kind is each.KEYWORD_ONLY]
    return f"({', '.join([*words, *(['*'] if named else []), *named])}) -> {_annotation(signature.return_annotation)}"


def _errors() -> list[str]:
    rows = [
        [f"{'— ' * depth}`{one.__name__}`", str(one.exit_code), first_paragraph(one.__doc__)]
        for depth, one in _tree(errors.PrefmergeError)
    ]
    told = inspect.getdoc(errors.PrefmergeError) or ""
    head = [f"## {errors.PrefmergeError.__name__}", "", told, "", "All of them are in `prefmerge.errors`:", ""]
    return [*head, *table(["error", "exit code", "when"], rows)]


def _tree(top: type[errors.PrefmergeError], depth: int = 0) -> Iterator[tuple[int, type[errors.PrefmergeError]]]:
    yield depth, top
    for one in top.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from _tree(one, depth + 1)
