"""The keyword arguments that `merge`, `plan` and `merge_state_dicts` share: the parameters of a recipe, with types.

    def plan(base, tasks, **given: Unpack[RecipeArguments]) -> Plan: ...

A type checker and an editor read `RecipeArguments`. `help` and `inspect.signature` show the same names with the
defaults that the parameters declare (`with_declared`). A test compares the names and types with the declarations, so a
new parameter of ours needs one line here. The parameters of a method that somebody registers are given in
`parameters`, or by keyword where no type checker looks. Not here: what the parameters mean (`parameters`, `methods`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from prefmerge.ground.words import did_you_mean
from prefmerge.merging.parameters import METHOD, every
from prefmerge.methods.parameters import Parameter
from prefmerge.preference import Number, Preference

F = TypeVar("F", bound=Callable[..., Any])
# One value, several from the first layer to the last, or rules {filter, value} (`methods.by_layer`).
OverLayers = Number | Sequence[Number] | Sequence[Mapping[str, Any]]
OnePreference = Preference | str | Sequence[Number] | Mapping[str, Number]


class RecipeArguments(TypedDict, total=False):
    """Every parameter of a recipe. `docs/parameters.md` says what each is, and what the default of one that is None
    depends on.
    """

    method: str
    preference: OnePreference | Sequence[OnePreference] | Sequence[Mapping[str, Any]] | None
    scale: OverLayers | None
    seed: int
    selection: Literal["paper", "optimal", "printed", "released"] | None
    importance: Literal["magnitude", "step"] | None
    strength: OverLayers
    carry: Number
    toward_last: OverLayers
    start: OverLayers
    boost: OverLayers
    drop: OverLayers
    t: OverLayers
    nuslerp_row_wise: bool
    nuslerp_flatten: bool
    max_iter: int
    tol: Number
    filter_wise: bool
    select_topk: Number
    alpha: Number
    scope: Literal["tensor", "model"]
    passes: int
    weights: Sequence[Number | None] | None  # one for each task
    base_weight: OverLayers
    density: Number | Sequence[Number | None] | None  # one for all tasks, or one for each
    gamma: Number | Sequence[Number | None]
    epsilon: Number | Sequence[Number | None]
    normalize: bool | None
    rescale: bool | None
    sequential: bool | None
    as_published: bool
    dtype: str | None
    exclude: str | Sequence[str]
    rename: str | Sequence[str]
    as_task_vector: bool
    tokenizer: str | Mapping[str, Any] | None
    rows_from: str | None
    chat_template: str | None


def with_declared(function: F) -> F:
    """`function` with the declared parameters in its signature, in the place of its `**given`."""
    hints = get_type_hints(RecipeArguments)
    own = inspect.signature(function, eval_str=True)
    stated = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    first = [one for one in stated if one.kind is not one.KEYWORD_ONLY]
    declared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default_of(one), annotation=hints[one.name])
        for one in (METHOD, *every().values())
        if one.name in hints
    ]
    function.__dict__["__signature__"] = own.replace(parameters=[*first, *declared, *stated[len(first) :]])
    return function


def default_of(parameter: Parameter[Any]) -> Any:
    """What a signature shows: None where each method, merge or task has its own."""
    if parameter.varies or (parameter.per_task and not parameter.flag):
        return None
    value = parameter.default
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return value


def stated(function: Callable[..., Any], given: Mapping[str, Any], parameters: Mapping[str, object] | None) -> Any:
    """Both together. Raises TypeError for a keyword that no parameter has, or that is in both."""
    known = {METHOD.name, *every()}
    for name in given:
        what = f"{function.__name__}() got an unexpected keyword argument {name!r}."
        if name not in known:
            raise TypeError(what + did_you_mean(name, [*inspect.signature(function).parameters, *known]))
        if name in (parameters or {}):
            raise TypeError(f"{function.__name__}() got {name!r} twice: as a keyword argument and in `parameters`.")
    return {**given, **(parameters or {})}
