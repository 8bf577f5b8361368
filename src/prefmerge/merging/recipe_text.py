"""The recipe file of a merge that is done, which `prefmerge merge` takes back.

    merge_method: tunable_magmax
    base_model: base
    models:
    - model: cars
      name: cars
    parameters:
      prefer: {cars: 0.8, birds: 0.2}

Every parameter is spelled out, with its default too, so the file means the same in a later version. Checkpoints are
called by the last name of their path, or by their id on the hub. Cost: none. Not here: reading one (`recipe_file`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefmerge.checkpoints.paths import in_stack
from prefmerge.merging.configs import hub_id
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.places import name_alone
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import BASE_WEIGHT, PREFERENCE, WEIGHTS, Parameter
from prefmerge.methods.shares_by_layer import plain
from prefmerge.preference import Preference


def recipe_text(receipt: Receipt) -> str | None:
    """The recipe file; None where no file can say it: with a method that is not registered here, or with one to which
    mergekit's recipes always give the base.
    """
    base, *paths = checkpoints(receipt)
    return recipe_file_text(receipt.recipe, base, paths, receipt.tasks)


def recipe_file_text(settings: Mapping[str, Any], base: str, paths: Sequence[str], names: Sequence[str]) -> str | None:
    """The same for what a receipt has as its recipe, over checkpoints that are called so."""
    if settings[METHOD.name] not in METHODS:
        return None
    return text_of(Recipe.from_settings(settings, base=base, tasks=paths, names=names))


def text_of(recipe: Recipe) -> str | None:
    """The recipe file of a recipe with a name for every task; None where no file can say it."""
    base, paths, names = recipe.base, [task.path for task in recipe.tasks], recipe.names
    method = METHODS[recipe.method]
    stated = [one for one in every().values() if one is not PREFERENCE and _is_stated(recipe, one)]
    stated = [one for one in stated if one.name not in recipe.ignored([each.name for each in stated])]
    models: list[dict[str, Any]] = [{"model": path, "name": name} for path, name in zip(paths, names, strict=True)]
    own = [one for one in stated if one.per_task]
    for i, model in enumerate(models):
        if own:
            model["parameters"] = {one.keys[0]: _plain(one.to_json(recipe.value(one)[i])) for one in own}
    weight = recipe[BASE_WEIGHT] if method.honours(BASE_WEIGHT) else None
    if weight is not None and not method.honours(WEIGHTS) and weight != method.unlisted(None):
        return None
    if weight is not None and method.honours(WEIGHTS):
        weighed = {WEIGHTS.keys[0]: _plain(BASE_WEIGHT.to_json(weight))}
        models.insert(0, {"model": base, "parameters": weighed})
    common = {one: _plain(one.to_json(recipe.value(one))) for one in stated if not one.per_task}
    parameters = {one.keys[0]: value for one, value in common.items() if not one.top}
    if method.honours(PREFERENCE):
        parameters[PREFERENCE.keys[0]] = _preference(recipe[PREFERENCE] or Preference.uniform(), names)
    file = {METHOD.keys[0]: recipe.method, "base_model": base, "models": models}
    file |= {"parameters": parameters} if parameters else {}
    return yaml_text({**file, **{one.keys[0]: value for one, value in common.items() if one.top}})


def checkpoints(receipt: Receipt) -> list[str]:
    """What the base and the tasks are called where others are to find them."""
    entries = (receipt.inputs.base, *receipt.inputs.tasks)
    names = (receipt.inputs.base.name, *receipt.tasks)
    known = [None if entry.path is None else in_stack(entry.path, _called) for entry in entries]
    alike = Counter(known)
    return [name if called is None or alike[called] > 1 else called for called, name in zip(known, names, strict=True)]


def _called(path: str) -> str:
    return hub_id(path) or name_alone(path)


def yaml_text(value: dict[str, Any]) -> str:
    """YAML in the order given, a line for each entry, with no character that is not to be printed."""
    import yaml  # which few merges need

    def written(unicode: bool) -> str:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=unicode, width=1 << 30)

    plain = written(True)
    return plain if plain.replace("\n", "").isprintable() else written(False)


def _is_stated(recipe: Recipe, one: Parameter[Any]) -> bool:
    """Whether a recipe file can say it, and it says something."""
    value = recipe.used(one)
    return one.recorded and bool(one.keys) and value not in (None, ()) and not (one.top and value is False)


def _preference(preference: Preference | ByLayer, names: Sequence[str]) -> Any:
    if isinstance(preference, ByLayer):
        return preference.to_json(lambda one: plain(one, names, _plain))
    return plain(preference, names, _plain)


def _plain(value: Any) -> Any:
    """An exact number as YAML writes numbers, where that loses nothing."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):  # a rule for a part of the layers, whose filter is a text, or a tokenizer
        return {**value, "value": _plain(value["value"])} if "value" in value else value
    for kind in (int, float):
        try:
            if isinstance(value, str) and str(kind(value)) == value:
                return kind(value)
        except ValueError:
            pass
    return value
