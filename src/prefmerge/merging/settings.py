"""What a recipe says of its checkpoints, resolved: shares for the tasks that change anything, and all values.

Cost: none. Not here: what the checkpoints hold (`plan`), and what may be written in a recipe (`recipe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from prefmerge.checkpoints import Checkpoint, is_task_vector
from prefmerge.errors import MethodError, PreferenceError
from prefmerge.merging.order import refuse_independent
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import Method, NeedsOrder, Settings
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import CARRY, PREFERENCE, SCALE, SCOPE, STRENGTH
from prefmerge.methods.protocol import varies
from prefmerge.preference import Preference, as_text, carried


def settings_of(
    recipe: Recipe,
    method: Method,
    tasks: Sequence[Checkpoint],
    names: Sequence[str],
    idle: Sequence[str],
    notes: list[str],
    layers: Mapping[str, tuple[Fraction, int]],
) -> Settings:
    """`idle`: the tasks that are the base itself. `layers`: the tensors that are merged, how deep each lies and in
    which slice.
    """
    shares = counts = None
    if method.honours(PREFERENCE):
        preference = recipe[PREFERENCE] or Preference.uniform()

        def resolved(one: Preference) -> tuple[Fraction, ...]:
            given = _shares(one, recipe[CARRY], names, idle)
            return tuple(given.get(name, Fraction(0)) for name in names)

        if isinstance(preference, ByLayer):
            rules = preference.or_else(Preference.uniform())
            shares = rules.map(resolved)
            notes += [
                f"task {name!r} does not differ from the base: the elements of its shares stay the base's."
                for name in idle
            ]
            left_out = [name for name in names if all(name in one.left_out(names) for one in rules.values())]
        else:
            shares = resolved(preference)
            given = _shares(preference, recipe[CARRY], names, idle)
            notes += [_of_idle(name, given.get(name)) for name in idle]
            left_out = preference.left_out(names)
            counts = _counts(recipe, preference) if preference.kind == "counts" else None
        if left_out:
            notes.append(f"the preference does not mention {', '.join(left_out)}: share 0.")
    else:
        notes += [f"task {name!r} does not differ from the base." for name in idle]
    settings = Settings(
        tasks=len(tasks),
        scale=recipe.value(SCALE),
        shares=shares,
        counts=counts,
        values={one.name: recipe.value(one) for one in method.parameters if one.name != SCALE.name},
    )
    _require_scope(method, settings)
    for needed in _checked(method, settings, layers):
        refuse_independent(
            tasks, names, f"{needed.what} looks at what each task changed after the one before it", needed.instead
        )
        vectors = [name for task, name in zip(tasks, names, strict=True) if is_task_vector(task)]
        if needed.vectors and vectors:
            notes.append(
                f"{needed.vectors} takes {', '.join(vectors)}, a task vector, for the checkpoint of its place in the "
                "order."
            )
    return settings


def _shares(preference: Preference, carry: Fraction, names: Sequence[str], idle: Sequence[str]) -> dict[str, Fraction]:
    """The share of each task that may have one. Tasks that change nothing have none unless they were asked for."""
    asked = preference.kind in ("shares", "counts")
    active = names if asked else [name for name in names if name not in idle] or names
    return dict(zip(active, carried(preference.shares(active), carry), strict=True))


def _of_idle(name: str, share: Fraction | None) -> str:
    unless = "it gets no share unless you ask for one by name."
    stay = unless if share is None else f"the elements of its share ({as_text(share)}) stay the base's."
    return f"task {name!r} does not differ from the base: {stay}"


def _require_scope(method: Method, settings: Settings) -> None:
    """Raise MethodError where what is chosen over the whole model would differ from layer to layer."""
    if method.by_tensor(settings):
        return
    several = {PREFERENCE.name: settings.shares, **settings.values}
    name = next((name for name, value in several.items() if varies(value)), None)
    if name is not None:
        raise MethodError(
            f"{name} differs from layer to layer, and with --scope model one choice is made over all layers. Use "
            f"--scope tensor, or give one value."
        )


def _checked(method: Method, settings: Settings, layers: Mapping[str, tuple[Fraction, int]]) -> Sequence[NeedsOrder]:
    """What a method needs. Raises MethodError for what it cannot merge, in any layer."""
    each = {"": settings.at("", Fraction(0))}
    if settings.varies and layers:
        each = {repr(one): one for one in (settings.at(name, *where) for name, where in layers.items())}
    return [method.check(one) for one in each.values()][-1]


def _counts(recipe: Recipe, preference: Preference) -> tuple[int, ...] | None:
    if recipe[SCOPE] != "model":
        raise PreferenceError(
            "explicit counts are a budget over the whole model, but scope is 'tensor', where each tensor has its "
            "own. Use --scope model, or give shares."
        )
    # With carry or strength the counts are only a proportion: what is asked is decided after both.
    return tuple(int(n) for n in preference.values) if recipe[CARRY] == 0 and recipe[STRENGTH] == 1 else None
