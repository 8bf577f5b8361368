"""What a recipe says of its checkpoints, resolved: shares for the tasks that change anything, and all values.

Cost: none. Not here: what the checkpoints hold (`plan`), and what may be written in a recipe (`recipe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from prefmerge.checkpoints import Checkpoint, is_task_vector
from prefmerge.errors import PreferenceError
from prefmerge.merging.order import refuse_independent
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import Method, NeedsOrder, Settings
from prefmerge.methods.parameters import CARRY, PREFERENCE, SCALE, SCOPE, STRENGTH
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
        asked = preference.kind in ("shares", "counts")
        active = names if asked else [name for name in names if name not in idle] or names
        given = dict(zip(active, carried(preference.shares(active), recipe[CARRY]), strict=True))
        shares = tuple(given.get(name, Fraction(0)) for name in names)
        for name in idle:
            share = given.get(name)
            notes.append(
                f"task {name!r} does not differ from the base: "
                + (
                    "it gets no share unless you ask for one by name."
                    if share is None
                    else f"the elements of its share ({as_text(share)}) stay the base's."
                )
            )
        left_out = preference.left_out(names)
        if left_out:
            notes.append(f"the preference does not mention {', '.join(left_out)}: share 0.")
        if preference.kind == "counts":
            counts = _counts(recipe, preference)
    else:
        notes += [f"task {name!r} does not differ from the base." for name in idle]
    settings = Settings(
        tasks=len(tasks),
        scale=recipe.value(SCALE),
        shares=shares,
        counts=counts,
        values={one.name: recipe.value(one) for one in method.parameters if one.name != SCALE.name},
    )
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


def _checked(method: Method, settings: Settings, layers: Mapping[str, tuple[Fraction, int]]) -> Sequence[NeedsOrder]:
    """What a method needs. Raises MethodError for what it cannot merge, in any layer."""
    each = {"": settings}
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
