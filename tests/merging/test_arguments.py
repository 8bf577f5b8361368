"""The arguments of the public functions are the declared parameters: names, types and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

import prefmerge
from prefmerge.errors import UsageError
from prefmerge.merging.arguments import OnePreference, OverLayers, RecipeArguments
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.vocabularies import TOKENIZER
from prefmerge.methods.parameters import PREFERENCE, YES_OR_NO, Parameter
from prefmerge.preference import Number

FUNCTIONS = [prefmerge.merge, prefmerge.plan, prefmerge.merge_state_dicts]
OWN = {
    "merge": [
        "base",
        "tasks",
        "out",
        "names",
        "parameters",
        "threads",
        "max_memory",
        "force",
        "sha256",
        "max_shard_size",
        "tokenizer_from",
        "resume",
        "ray",
        "report",
        "progress",
    ],
    "plan": ["base", "tasks", "names", "parameters"],
    "merge_state_dicts": ["base", "tasks", "names", "parameters", "threads", "block"],
}


def expected(one: Parameter[Any]) -> Any:
    """The type that Python callers may give, from what the command line and recipes may write."""
    if one is PREFERENCE:
        return OnePreference | Sequence[OnePreference] | Sequence[Mapping[str, Any]] | None
    if one is TOKENIZER:
        return str | Mapping[str, Any] | None
    if one.several:
        return str | Sequence[str]
    if one.kind is YES_OR_NO:
        single: Any = bool
    elif "|" in one.kind.metavar:
        single = Literal[tuple(one.kind.metavar.split("|"))]  # pyright: ignore[reportInvalidTypeForm]
    elif type(one.default) is int:
        return int
    else:
        single = str if one.kind.metavar in ("METHOD", "DTYPE", "NAME", "TEMPLATE") else Number
    if one.by_layer and not one.per_task:
        single = OverLayers
    if one.per_task:
        single = Number | Sequence[Number | None] if one.flag else Sequence[Number | None] | None
    return single | None if one.varies or one.default is None else single


def test_the_types_are_those_of_the_declared_parameters() -> None:
    declared = {one.name: expected(one) for one in (METHOD, *every().values())}
    assert list(get_type_hints(RecipeArguments)) == list(declared)
    assert get_type_hints(RecipeArguments) == declared


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_the_signature_has_every_parameter_with_its_default(function: Callable[..., Any]) -> None:
    shown = inspect.signature(function).parameters
    declared = {one.name: one for one in (METHOD, *every().values())}
    assert [name for name in shown if name not in declared] == OWN[function.__name__]
    hints = get_type_hints(RecipeArguments)
    for name, one in declared.items():
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].annotation == hints[name]
        default = shown[name].default
        if default is None:
            assert one.default is None or one.varies or (one.per_task and not one.flag)
        else:
            assert one.read(default) == one.default


STATES = [{"w": np.array(values, np.float32)} for values in ([0, 0, 0, 0], [1, 2, 3, 4], [4, 3, 2, 1])]


def test_the_defaults_of_the_signature_say_nothing() -> None:
    shown = inspect.signature(prefmerge.merge_state_dicts).parameters
    given = {name: shown[name].default for name in get_type_hints(RecipeArguments)}
    merged, receipt = prefmerge.merge_state_dicts(STATES[0], STATES[1:])
    again, other = prefmerge.merge_state_dicts(STATES[0], STATES[1:], **given)
    assert again["w"].tobytes() == merged["w"].tobytes()
    assert other.recipe == receipt.recipe


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("name", "hint"), [("sed", " Did you mean 'seed'?"), ("parameter", " Did you mean 'parameters'?"), ("zzz", "")]
)
def test_a_wrong_name_is_a_type_error_with_a_hint(function: Callable[..., Any], name: str, hint: str) -> None:
    places = ["out"] if function is prefmerge.merge else []
    with pytest.raises(TypeError) as caught:
        function("base", ["task"], *places, **{name: 1})
    assert str(caught.value) == f"{function.__name__}() got an unexpected keyword argument {name!r}.{hint}"


def test_parameters_by_name_in_a_mapping() -> None:
    given: dict[str, Any] = {"method": "linear", "weights": [2, 1], "normalize": False}
    merged, receipt = prefmerge.merge_state_dicts(STATES[0], STATES[1:], parameters=given)
    again, other = prefmerge.merge_state_dicts(STATES[0], STATES[1:], method="linear", weights=[2, 1], normalize=False)
    assert merged["w"].tobytes() == again["w"].tobytes()
    assert receipt.recipe == other.recipe
    with pytest.raises(TypeError, match=r"got 'method' twice: as a keyword argument and in `parameters`\."):
        prefmerge.merge_state_dicts(STATES[0], STATES[1:], method="linear", parameters=given)
    with pytest.raises(UsageError, match="'lambada' is not a parameter of a recipe"):
        prefmerge.merge_state_dicts(STATES[0], STATES[1:], parameters={"lambada": 1})


def test_one_number_where_each_task_needs_its_own() -> None:
    with pytest.raises(UsageError, match=r"weights is one number, 2; give one per task\."):
        prefmerge.merge_state_dicts(STATES[0], STATES[1:], parameters={"method": "linear", "weights": 2})
