"""A recipe in a YAML file: mergekit's keys where the meaning is the same, and ours.

With mergekit's keys come mergekit's defaults (ties: density 1; the base listed among the models skipped, or, for
methods of whole models, one of them), so its recipes run unchanged. Every refusal names file, line and key, and says
what to write instead.
Cost: one small file; no checkpoint is opened, only looked for, unless it says how many layers a model has. Not here:
stacks of slices, what a key says of tokenizers (`vocabularies`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import is_there, split_adapter
from prefmerge.checkpoints.paths import expanded, hub_id, names_of
from prefmerge.errors import CheckpointNotFound, MethodError, PreferenceError, RecipeError
from prefmerge.ground.words import did_you_mean, quoted
from prefmerge.ground.yaml_file import NotYaml, composed, merged_keys
from prefmerge.merging.layers import counts
from prefmerge.merging.opening import open_base
from prefmerge.merging.parameters import METHOD, every, per_task, read
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.vocabularies import BASE, KEYS, TOKENIZER, of_recipe_file
from prefmerge.methods import METHODS
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import AS_PUBLISHED, BASE_WEIGHT, PREFERENCE, RESCALE, WEIGHTS, YES_OR_NO, Parameter
from prefmerge.preference import Preference, as_text

_TOP = ("merge_method", "base_model", "models", "slices", "parameters")  # with the parameters of this level
_MODEL = ("model", "name", "parameters")
_SLICE = ("sources", "parameters")
_SOURCE = ("model", "name", "layer_range", "parameters")
# mergekit's keys that may be there and say nothing here
_IDLE = {key: Parameter(key, YES_OR_NO, False) for key in ("int8_mask", RESCALE.name)}


def _by_key(top: bool) -> dict[str, Parameter[Any]]:
    """Key -> the parameter that it sets. Keys that mean what they mean in mergekit have its names."""
    return {key: one for one in every().values() if one.top == top for key in one.keys}


def _levels() -> dict[str, tuple[str, ...]]:
    """Where a recipe file has keys, and which."""
    return {
        "the top level": (*_TOP, *_by_key(top=True)),
        "models[]": _MODEL,
        "parameters": (*_by_key(top=False), *_IDLE),
        "models[].parameters": tuple(one.keys[0] for one in per_task()),
    }


_OTHER_METHODS = ("multislerp", "nearswap", "ram", "ramplus_tl", "core_space")
_WHOLE_MODELS = "prefmerge merges whole models. List them under 'models'."
_UNSUPPORTED = {  # mergekit's keys that prefmerge does not have -> what to do
    "modules": _WHOLE_MODELS,
    "filter": "A parameter holds for every tensor. To leave tensors out of the merge, use 'exclude'.",
    **dict.fromkeys(
        ("adaptive_mass", "embed_slerp"),
        "It belongs to a method that prefmerge does not have. Remove the key.",
    ),
}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file.

        recipe = prefmerge.read_recipe("recipe.yaml")
        recipe.method, recipe.scale

    Raises RecipeError, PreferenceError, CheckpointNotFound naming file, line and key.
    """
    return _RecipeFile(Path(path)).read()


class _RecipeFile:
    """One reading of one file. Walks YAML nodes, not loaded values: they know their line and a number's text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._listed: dict[str, Any] = {}  # place -> node of each model
        self._alone: dict[str, Any] = {}  # what the one model of a method that takes no other says for all
        self._of_a_model = {one.keys[0]: one for one in per_task()}  # key -> what a model may have of its own
        try:
            self._loader, self._root = composed(path)
        except FileNotFoundError as error:
            raise RecipeError(f"recipe {path} does not exist.") from error
        except NotYaml as error:
            line = f", line {error.line}" if error.line else ""
            raise RecipeError(f"recipe {path}{line}: this is not YAML: {error.problem}.") from error
        except OSError as error:
            raise RecipeError(f"recipe {path} cannot be read: {error.strerror or error}.") from error
        if self._root is None:
            raise RecipeError(f"recipe {path} is empty. Give at least merge_method, base_model and models.")

    def read(self) -> Recipe:
        levels = _levels()
        top = self._mapping(self._root, "", levels["the top level"])
        method = self._method(top.get(METHOD.keys[0]))
        if METHODS[method].most == 0:  # of one model alone, which may have what holds for all
            self._of_a_model |= {one.keys[0]: one for one in METHODS[method].parameters}
        parameters = self._mapping(top["parameters"], "parameters", levels["parameters"]) if "parameters" in top else {}
        sliced = self._slice(top["slices"]) if "slices" in top else {}
        of_slice: dict[str, Any] = {}
        if "parameters" in sliced:
            of_slice = self._mapping(sliced["parameters"], "slices[0].parameters", levels["parameters"])
        given = {
            one.name: one.mergekit_default for one in METHODS[method].parameters if one.mergekit_default is not None
        }
        given |= self._at_the_top(top)
        for level in (parameters, of_slice):  # what a slice says goes before, and where it says nothing the others hold
            for name, value in self._parameters(level, method).items():
                given[name] = value.or_else(given[name]) if isinstance(value, ByLayer) and name in given else value
        parameters |= of_slice
        self._listed = self._model_nodes(top, sliced)
        base, base_weight, entries = self._models(top, method, given.get(WEIGHTS.name))
        given |= self._alone
        for key in KEYS:
            if key in top:
                given |= self._of_vocabularies(top, key, base, entries)
        if METHODS[method].honours(BASE_WEIGHT):
            given[BASE_WEIGHT.name] = base_weight
        recipe = Recipe(base=base, tasks=tuple(entries), method=method, given=given)
        self._check_used(recipe, top, parameters)
        return recipe.model_copy(update={"notes": tuple(self.notes)})

    def _at_the_top(self, top: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for key, one in _by_key(top=True).items():
            if key not in top or key in KEYS:
                continue
            node = top[key]
            if one.several and _kind(node) == "list":
                value: Any = [self._text(item, key) for item in node.value]
            else:
                value = self._scalar(node, key)
            if value is not None or one.default is not None:  # nothing is what the default says too
                given[one.name] = self._value(node, key, one, value)
        return given

    def _method(self, node: Any) -> str:
        if node is None:
            raise RecipeError(f"recipe {self.path}: 'merge_method' is missing. Methods: {', '.join(METHODS)}.")
        name = self._text(node, "merge_method")
        if name.replace("-", "_") in _OTHER_METHODS and name.replace("-", "_") not in METHODS:
            raise self._error(
                node, f"{name!r} is a method of mergekit that prefmerge does not have. Methods: {', '.join(METHODS)}."
            )
        return self._value(node, METHOD.keys[0], METHOD, name)

    def _parameters(self, parameters: Mapping[str, Any], method: str) -> dict[str, Any]:
        given: dict[str, Any] = {}
        known, ignores = _by_key(top=False), METHODS[method].ignores
        for one in known.values():
            twice = [key for key in one.keys if key in parameters]
            if len(twice) > 1:
                raise self._error(
                    parameters[twice[1]],
                    f"{twice[0]!r} and {twice[1]!r} are two names of one parameter; give one of them.",
                )
        for key, node in parameters.items():
            place = f"parameters.{key}"
            if key in _IDLE and not (key in known and METHODS[method].honours(known[key])):
                self._idle(node, place, key)
            elif key in ignores:
                self.notes.append(f"{key} has no effect on {method}, {ignores[key]}.")
            elif known[key] is PREFERENCE:
                given[PREFERENCE.name] = self._prefer(node)
            else:
                given[known[key].name] = self._setting(node, place, known[key])
        return given

    def _idle(self, node: Any, place: str, key: str) -> None:
        value = self._value(node, place, _IDLE[key], self._scalar(node, place))
        if key == "int8_mask":
            self.notes.append("int8_mask has no effect: signs are elected in float64 whatever it says.")
        elif value:
            raise self._error(
                node,
                f"{key}: true belongs to methods that drop elements at random. Remove the key, or use dare_linear or "
                "dare_ties.",
            )

    def _prefer(self, node: Any) -> Preference:
        place = "parameters.prefer"
        try:
            if _kind(node) == "list":
                return Preference.explicit([self._text(item, place) for item in node.value])
            if _kind(node) == "mapping":
                return Preference.named(
                    {key: self._text(value, place) for key, value in self._mapping(node, place, None).items()}
                )
            spec = self._text(node, place)
            if spec.startswith("@"):
                beside = self.path.parent / spec[1:]
                spec = f"@{beside}" if beside.exists() else spec
            return Preference.parse(spec)
        except PreferenceError as error:
            raise PreferenceError(f"recipe {self.path}, line {_line(node)}: {place}: {error}") from error

    def _model_nodes(self, top: Mapping[str, Any], sliced: Mapping[str, Any]) -> dict[str, Any]:
        """Place -> node of every model that is listed, under `models` or as the sources of the one slice."""
        if "models" in top and sliced:
            raise self._error(top["slices"], "'models' and 'slices' both list the models; give one of them.")
        key, node = ("slices[0].sources", sliced["sources"]) if sliced else ("models", top.get("models"))
        if node is None:
            raise RecipeError(
                f"recipe {self.path}: 'models' is missing. List the task checkpoints under it, in the order in "
                f"which they were trained."
            )
        if _kind(node) != "list":
            raise self._error(node, f"{key}: expected a list with one '- model: PATH' per task.")
        return {f"{key}[{i}]": row for i, row in enumerate(node.value)}

    def _slice(self, node: Any) -> dict[str, Any]:
        """The one slice of a recipe, which must be all layers of its models. A stack of slices is another model."""
        rows = node.value if _kind(node) == "list" else []
        if len(rows) != 1:
            what = f"slices: expected one, over all layers of its models, found {len(rows) or _found(node)}"
            raise self._error(node, f"{what}. {_WHOLE_MODELS}")
        slice = self._mapping(rows[0], "slices[0]", _SLICE)
        if "sources" not in slice:
            raise self._error(rows[0], "slices[0]: 'sources' is missing; it lists the models.")
        return slice

    def _of_vocabularies(self, top: Mapping[str, Any], key: str, base: str, tasks: list[TaskEntry]) -> dict[str, Any]:
        """What a key says of tokenizers, with the models by their names."""
        called = names_of([task.path for task in tasks], [task.name for task in tasks])
        known = {os.path.realpath(task.path): name for task, name in zip(tasks, called, strict=True)}
        known[os.path.realpath(base)] = BASE

        def named(text: str) -> str | None:
            if text in known.values():
                return text
            return known.get(os.path.realpath(self._place(text) or text))

        if key in TOKENIZER.keys and all(one in top for one in TOKENIZER.keys):
            raise self._error(top[key], f"{quoted(TOKENIZER.keys, 2)} say the same; give one of them.")
        try:
            written = self._plain(top[key], key)
            return of_recipe_file(key, written, named, based="base_model" in top)
        except ValueError as error:
            raise self._error(top[key], f"{key}: {error}.") from error

    def _check_layers(self, node: Any, place: str, path: str) -> None:
        """Refuse a range that is not all layers of the model."""
        numbers = [self._text(item, place) for item in node.value] if _kind(node) == "list" else []
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise self._error(node, f"{place}: expected two numbers, such as [0, 32].")
        first, last = map(int, numbers)
        with closing(open_base(split_adapter(path)[0] or path)) as model:
            there = counts(model.tensors)
        if first != 0 or last not in there:
            known = f", which has {' and '.join(map(str, sorted(there)))}" if there else ""
            what = f"{place}: [{first}, {last}] is not all layers of the model{known}"
            raise self._error(node, f"{what}. {_WHOLE_MODELS}")

    def _models(
        self, top: Mapping[str, Any], method: str, weight: Fraction | None
    ) -> tuple[str, Fraction, list[TaskEntry]]:
        """The base, its own weight (for methods of whole models) and the tasks, in the file's order. `weight`: the one
        given for all.
        """
        of_models, weighed = METHODS[method].of_models, METHODS[method].honours(BASE_WEIGHT)
        rows = [self._model(node, place) for place, node in self._listed.items()]
        stated = None
        if "base_model" in top and self._scalar(top["base_model"], "base_model") is not None:
            stated = self._locate(top["base_model"], "base_model")
        if stated is None and not of_models:
            raise RecipeError(
                f"recipe {self.path}: 'base_model' is missing, and {method} needs it: task vectors are "
                f"differences from it."
            )
        base = stated or (rows[0].path if rows else "")
        listed = [row for row in rows if os.path.realpath(row.path) == os.path.realpath(base)]
        base_weight = self._base_weight(method, listed, weight) if weighed else Fraction(0)
        if listed and not of_models:
            self.notes.append(
                f"the base is also listed under models; {method} skips it there, since its task vector is zero."
            )
        return base, base_weight, [row for row in rows if row not in listed]

    def _base_weight(self, method: str, listed: list[TaskEntry], weight: Fraction | None) -> Fraction:
        """The base's weight in a sum of models. `listed`: where it is among them. `weight`: the one given for all."""
        if not METHODS[method].honours(WEIGHTS):
            listed, weight = [TaskEntry() for _ in listed], None
        if len(listed) == 1:
            return listed[0].own.get(WEIGHTS.name, WEIGHTS.default if weight is None else weight)
        for value in [weight, *(row.own.get(WEIGHTS.name) for row in listed)]:
            if isinstance(value, ByLayer):
                raise RecipeError(
                    f"recipe {self.path}: the base takes part in {method}, and its weight differs from layer to layer. "
                    "List the base among the models, once, with a weight of its own."
                )
        if listed:
            common = WEIGHTS.default if weight is None else weight
            return sum((row.own.get(WEIGHTS.name, common) for row in listed), Fraction(0))
        added = METHODS[method].unlisted(weight)  # mergekit adds the base to the models
        if added:
            all_alike = f"with weight {as_text(added)}, the one given for all models"
            how = "as one of the models" if weight is None else all_alike
            self.notes.append(f"the base takes part {how}, as in mergekit.")
        return added

    def _model(self, node: Any, place: str) -> TaskEntry:
        row = self._mapping(node, place, _SOURCE if place.startswith("slices") else _MODEL)
        if "model" not in row:
            raise self._error(node, f"{place}: 'model' is missing; it holds the path of a checkpoint.")
        place_of_own, own = f"{place}.parameters", {}
        for one, value in self._own(row, place_of_own).items():
            place_of_one = f"{place_of_own}.{one.keys[0]}"
            own[one.name] = self._setting(value, place_of_one, one)
            if not one.per_task:
                self._alone[one.name] = own.pop(one.name)
        name = self._text(row["name"], f"{place}.name") if "name" in row else None
        path = self._locate(row["model"], f"{place}.model")
        if "layer_range" in row:
            self._check_layers(row["layer_range"], f"{place}.layer_range", path)
        return TaskEntry(path=path, name=name, own=own)

    def _own(self, row: Mapping[str, Any], place: str) -> dict[Parameter[Any], Any]:
        """What a model says of its own: parameter -> node."""
        known = self._of_a_model
        nodes = self._mapping(row["parameters"], place, tuple(known)) if "parameters" in row else {}
        return {known[key]: node for key, node in nodes.items()}

    def _check_used(self, recipe: Recipe, top: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """What the method would ignore: an error, but a note where mergekit ignores it too."""
        stated = {key: one for key, one in _by_key(top=False).items() if key in parameters and key not in _IDLE}
        stated |= {key: one for key, one in _by_key(top=True).items() if key in top}
        rows = [self._mapping(node, "", None) for node in self._listed.values()]
        stated |= {one.keys[0]: one for row in rows for one in self._own(row, "")}
        ignored = set(recipe.ignored(one.name for one in stated.values()))
        for key, one in stated.items():
            if one.name not in ignored:
                continue
            if METHODS[recipe.method].mergekit and key in one.mergekit:
                self.notes.append(f"{key} has no effect on {recipe.method}.")
            else:
                node = parameters.get(key) or top.get(key) or next(iter(self._listed.values()), self._root)
                raise self._error(node, recipe.why_ignored(one.name, repr(key)))
        for name in recipe.given_twice():
            key = next(key for key, one in stated.items() if one.name == name)
            said = recipe.why_twice(name, repr(AS_PUBLISHED.name), repr(key))
            raise self._error(parameters[key], said)

    def _locate(self, node: Any, place: str) -> str:
        """The path from here: relative to the recipe's folder or else, as in mergekit, to the working directory."""
        text = self._reference(node, place)
        if not text:
            raise self._error(node, f"{place}: expected the path of a checkpoint, found an empty text.")
        there = self._place(text)
        for at in (i for i, letter in enumerate(text) if letter == "+" and there is None):
            model, adapter = self._place(text[:at]), self._place(text[at + 1 :])
            if model is not None and adapter is not None:
                return f"{model}+{adapter}"
        if there is not None:
            return there
        raise CheckpointNotFound(
            f"recipe {self.path}, line {_line(node)}: {place}: {text!r} is neither in the recipe's folder nor "
            f"in the working directory. "
            "Correct the path; what is on the Hugging Face hub is called org/name or org/name@revision."
        )

    def _reference(self, node: Any, place: str) -> str:
        """A checkpoint as it is written: PATH, PATH+ADAPTER, {path: PATH} or {model: .., lora: ADAPTER}."""
        if _kind(node) == "mapping":
            parts = self._mapping(node, place, ("model", "path", "lora"))
            key = "path" if "path" in parts else "model"
            if key not in parts:
                raise self._error(node, f"{place}: 'path' is missing; it holds the path of a checkpoint.")
            model = self._reference(parts[key], f"{place}.{key}")
            return f"{model}+{self._reference(parts['lora'], f'{place}.lora')}" if "lora" in parts else model
        if _kind(node) != "scalar":
            raise self._error(node, f"{place}: expected the path of a checkpoint, found {_found(node)}.")
        return self._text(node, place)

    def _place(self, text: str) -> str | None:
        """Where a checkpoint is, or its hub id; None where it is not there and no id."""
        beside = self.path.parent / expanded(text)
        return str(beside) if text and is_there(beside) else text if text and (is_there(text) or hub_id(text)) else None

    def _setting(self, node: Any, place: str, one: Parameter[Any]) -> Any:
        """The value of a parameter, or what it is by layer."""
        if not one.by_layer or _kind(node) not in ("list", "mapping"):
            return self._value(node, place, one, self._scalar(node, place))
        return self._value(node, place, one, self._plain(node, place))

    def _plain(self, node: Any, place: str) -> Any:
        """Lists and rules of scalars as Python has them."""
        if _kind(node) == "list":
            return [self._plain(item, place) for item in node.value]
        if _kind(node) == "mapping":
            rows = self._mapping(node, place, None).items()
            return {key: self._plain(value, f"{place}.{key}") for key, value in rows}
        return self._scalar(node, place)

    # YAML nodes

    def _error(self, node: Any, message: str) -> RecipeError:
        return RecipeError(f"recipe {self.path}, line {_line(node)}: {message}")

    def _mapping(self, node: Any, place: str, known: tuple[str, ...] | None) -> dict[str, Any]:
        """Key -> value node. `known` None allows any key."""
        if _kind(node) == "nothing":
            return {}
        if _kind(node) != "mapping":
            raise self._error(node, f"{place or 'the recipe'}: expected 'key: value' lines, found {_found(node)}.")
        try:
            merged_keys(self._loader, node)
        except NotYaml as error:
            raise self._error(node, f"{place or 'the recipe'}: {error}.") from error
        nodes: dict[str, Any] = {}
        for key_node, value in node.value:
            key = key_node.value if _kind(key_node) == "scalar" else _kind(key_node)
            where = f" in {place}" if place else ""
            if known is not None and key not in known:
                raise self._error(key_node, self._unknown(key, where, known))
            if key in nodes:
                raise self._error(key_node, f"{key!r} appears twice{where}.")
            nodes[key] = value
        return nodes

    def _unknown(self, key: str, where: str, known: tuple[str, ...]) -> str:
        if key in _UNSUPPORTED:
            return f"{key!r}{where} is a key of mergekit that prefmerge does not support. {_UNSUPPORTED[key]}"
        level = next((level for level, keys in _levels().items() if key in keys), None)
        if level is not None:
            return f"unknown key {key!r}{where}. It belongs in {level}."
        return f"unknown key {key!r}{where}.{did_you_mean(key, known)} Known keys: {', '.join(known)}."

    def _scalar(self, node: Any, place: str) -> Any:
        """A bool or None as such, everything else as its text."""
        kind = _kind(node)
        if kind == "list":
            raise self._error(
                node,
                f"{place} is a list (a gradient over layers in mergekit); it has one value for all layers. Give one.",
            )
        if kind == "mapping":
            raise self._error(
                node,
                f"{place} has conditions (filter and value in mergekit); it has one value for all tensors. Give one.",
            )
        if kind == "nothing":
            return None
        try:
            return self._loader.construct_object(node) if node.tag.endswith((":bool", ":int")) else node.value
        except (ValueError, KeyError):  # what a tag calls a number and is none
            return node.value

    def _text(self, node: Any, place: str) -> str:
        if _kind(node) not in ("scalar", "nothing"):
            raise self._error(node, f"{place}: expected one value, found {_found(node)}.")
        return str(node.value)

    def _value(self, node: Any, place: str, parameter: Parameter[Any], value: Any) -> Any:
        try:
            return read(parameter, value, place)
        except MethodError as error:
            raise self._error(node, str(error)) from error


def _line(node: Any) -> int:
    return node.start_mark.line + 1


def _kind(node: Any) -> str:
    """mapping, list, nothing (an empty value) or scalar."""
    if node.id == "scalar":
        return "nothing" if node.tag.endswith(":null") else "scalar"
    return "mapping" if node.id == "mapping" else "list"


def _found(node: Any) -> str:
    return {"scalar": "one value", "nothing": "nothing"}.get(_kind(node), f"a {_kind(node)}")
