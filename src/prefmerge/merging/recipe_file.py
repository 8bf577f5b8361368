"""A recipe in a YAML file: mergekit's keys where the meaning is the same, and ours.

With mergekit's keys come mergekit's defaults (ties: density 1; the base listed among the models skipped, or, for
linear, one of them), so its recipes for linear, task_arithmetic and ties run unchanged. Every refusal names file, line
and key, and says what to write instead.
Cost: one small file; no checkpoint is opened, only looked for. Left out: slices, gradients, filters, tokenizers, other
methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefmerge.errors import CheckpointNotFound, MethodError, PreferenceError, RecipeError
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.recipe import CONVERTERS, Recipe, TaskEntry
from prefmerge.methods import METHODS
from prefmerge.preference import Preference, as_text

# A recipe file. Keys that mean what they mean in mergekit have its names.

_TOP = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "seed", "exclude", "as_task_vector")
_MODEL = ("model", "name", "parameters")
_MODEL_PARAMETERS = ("weight", "density")
_PARAMETERS = {  # key -> the setting it sets
    "prefer": "preference",
    "scale": "scale",
    "lambda": "scale",
    "selection": "selection",
    "importance": "importance",
    "strength": "strength",
    "carry": "carry",
    "toward_last": "toward_last",
    "start": "start",
    "boost": "boost",
    "drop": "drop",
    "scope": "scope",
    "passes": "passes",
    "weight": "weights",
    "density": "density",
    "normalize": "normalize",
    "int8_mask": "",
    "rescale": "",
}
_LEVELS = {
    "the top level": _TOP,
    "models[]": _MODEL,
    "parameters": tuple(_PARAMETERS),
    "models[].parameters": _MODEL_PARAMETERS,
}

_MERGEKIT_METHODS = ("linear", "task_arithmetic", "ties")
_MERGEKIT_KEYS = ("weight", "density", "normalize", "lambda", "int8_mask", "rescale")
_OTHER_METHODS = (
    *(
        "slerp",
        "nuslerp",
        "multislerp",
        "passthrough",
        "model_stock",
        "arcee_fusion",
        "karcher",
        "sce",
        "nearswap",
        "ram",
        "core_space",
    ),
    *("dare_ties", "dare_linear", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"),
)
_WHOLE_MODELS = "prefmerge merges whole models. List them under 'models'."
_BASES_OWN = "The output keeps the base's. Remove the key."
_UNSUPPORTED = {  # mergekit's keys that prefmerge does not have -> what to do
    "slices": _WHOLE_MODELS,
    "modules": _WHOLE_MODELS,
    "layer_range": _WHOLE_MODELS,
    "tokenizer": _BASES_OWN,
    "tokenizer_source": _BASES_OWN,
    "chat_template": _BASES_OWN,
    "filter": "A setting holds for every tensor. To leave tensors out of the merge, use 'exclude'.",
    **dict.fromkeys(
        ("adaptive_mass", "gamma", "epsilon", "t", "embed_slerp", "select_topk", "filter_wise", "max_iter", "tol"),
        "It belongs to a method that prefmerge does not have. Remove the key.",
    ),
}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. Raises RecipeError, PreferenceError, CheckpointNotFound naming file, line and key."""
    return _RecipeFile(Path(path)).read()


class _RecipeFile:
    """One reading of one file. Walks YAML nodes, not loaded values: they know their line and a number's text."""

    def __init__(self, path: Path) -> None:
        import yaml

        self.path = path
        self.notes: list[str] = []
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RecipeError(f"recipe {path} does not exist.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read as text: {error}.") from error
        try:
            self._loader = yaml.SafeLoader(text)
            self._root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise RecipeError(f"recipe {path}{line}: this is not YAML: {error.problem or error.context}.") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"recipe {path}: this is not YAML: {error}.") from error
        if self._root is None:
            raise RecipeError(f"recipe {path} is empty. Give at least merge_method, base_model and models.")

    def read(self) -> Recipe:
        top = self._mapping(self._root, "", _TOP)
        method = self._method(top.get("merge_method"))
        parameters = self._mapping(top["parameters"], "parameters", tuple(_PARAMETERS)) if "parameters" in top else {}
        settings: dict[str, Any] = {"method": method}
        for key in ("seed", "exclude", "as_task_vector"):
            if key in top:
                value = (
                    [self._text(item, key) for item in top[key].value]
                    if _kind(top[key]) == "list"
                    else self._scalar(top[key], key)
                )
                settings[key] = self._setting(top[key], key, key, value)
        # mergekit computes in `dtype` and stores in `out_dtype`; prefmerge computes in float32, so both say how to
        # store.
        for key in ("dtype", "out_dtype"):
            if key in top and self._scalar(top[key], key) is not None:
                settings["dtype"] = self._setting(top[key], key, "dtype", self._text(top[key], key))
        settings |= self._parameters(parameters, method)
        weight = settings.pop("weights", None)
        base, base_weight, entries = self._models(top, method, weight)
        recipe = Recipe(base=base, base_weight=base_weight, tasks=tuple(entries), **settings)
        self._check_used(recipe, top, parameters)
        return recipe.model_copy(update={"notes": tuple(self.notes)})

    def _method(self, node: Any) -> str:
        if node is None:
            raise RecipeError(f"recipe {self.path}: 'merge_method' is missing. Methods: {', '.join(METHODS)}.")
        name = self._text(node, "merge_method")
        if name.replace("-", "_") in _OTHER_METHODS:
            raise self._error(
                node, f"{name!r} is a method of mergekit that prefmerge does not have. Methods: {', '.join(METHODS)}."
            )
        return self._setting(node, "merge_method", "method", name)

    def _parameters(self, parameters: Mapping[str, Any], method: str) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if method == "ties":
            settings["density"] = Fraction(1)  # mergekit's default; the command line's is the paper's 1/5
        if "scale" in parameters and "lambda" in parameters:
            raise self._error(
                parameters["lambda"], "'scale' and 'lambda' are two names of one setting; give one of them."
            )
        for key, node in parameters.items():
            place, setting = f"parameters.{key}", _PARAMETERS[key]
            if key == "prefer":
                settings[setting] = self._prefer(node)
            elif key == "int8_mask":
                self._setting(node, place, "normalize", self._scalar(node, place))
                self.notes.append("int8_mask has no effect: signs are elected in float64 whatever it says.")
            elif key == "rescale":
                if self._setting(node, place, "normalize", self._scalar(node, place)):
                    raise self._error(
                        node,
                        "rescale: true is a setting of mergekit's random sparsifiers, which prefmerge does not "
                        "have. Remove the key.",
                    )
            elif key == "lambda" and method == "linear":
                self.notes.append(
                    "lambda has no effect on linear, as in mergekit; write 'scale' to scale the merged task vector."
                )
            else:
                settings[setting] = self._setting(
                    node, place, "weight" if key == "weight" else setting, self._scalar(node, place)
                )
        return settings

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

    def _models(
        self, top: Mapping[str, Any], method: str, weight: Fraction | None
    ) -> tuple[str, Fraction, list[TaskEntry]]:
        """The base, its own weight (`linear` only) and the tasks, in the file's order."""
        if "models" not in top:
            raise RecipeError(
                f"recipe {self.path}: 'models' is missing. List the task checkpoints under it, in the order in "
                f"which they were trained."
            )
        if _kind(top["models"]) != "list":
            raise self._error(top["models"], "models: expected a list with one '- model: PATH' per task.")
        rows = [self._model(node, f"models[{i}]", weight) for i, node in enumerate(top["models"].value)]
        stated = None
        if "base_model" in top and self._scalar(top["base_model"], "base_model") is not None:
            stated = self._locate(top["base_model"], "base_model")
        if stated is None and method != "linear":
            raise RecipeError(
                f"recipe {self.path}: 'base_model' is missing, and {method} needs it: task vectors are "
                f"differences from it."
            )
        base = stated or (rows[0].path if rows else "")
        listed = [row for row in rows if os.path.realpath(row.path) == os.path.realpath(base)]
        base_weight = Fraction(0)
        if method == "linear":
            base_weight = sum((row.weight for row in listed), Fraction(0))
            # mergekit adds the base to the models, with the weight that holds for all.
            if not listed and weight is not None:
                base_weight = weight
                self.notes.append(
                    f"the base takes part with weight {as_text(weight)}, the one given for all models, as in mergekit."
                )
        elif listed:
            self.notes.append(
                f"the base is also listed under models; {method} skips it there, since its task vector is zero."
            )
        return base, base_weight, [row for row in rows if row not in listed]

    def _model(self, node: Any, place: str, weight: Fraction | None) -> TaskEntry:
        row = self._mapping(node, place, _MODEL)
        if "model" not in row:
            raise self._error(node, f"{place}: 'model' is missing; it holds the path of a checkpoint.")
        own = self._mapping(row["parameters"], f"{place}.parameters", _MODEL_PARAMETERS) if "parameters" in row else {}
        values: dict[str, Any] = {"weight": Fraction(1) if weight is None else weight}
        for key, value in own.items():
            values[key] = self._setting(
                value, f"{place}.parameters.{key}", key, self._scalar(value, f"{place}.parameters.{key}")
            )
        name = self._text(row["name"], f"{place}.name") if "name" in row else None
        return TaskEntry(path=self._locate(row["model"], f"{place}.model"), name=name, **values)

    def _check_used(self, recipe: Recipe, top: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """What the method would ignore: an error, but a note where mergekit ignores it too."""
        stated = {key: setting for key, setting in _PARAMETERS.items() if key in parameters and setting}
        stated |= {key: key for key in ("seed",) if key in top}
        stated |= {key: "dtype" for key in ("dtype", "out_dtype") if key in top}
        if any(task.density is not None for task in recipe.tasks):
            stated["density"] = "density"
        if any("weight" in keys for keys in self._own_keys(top)):
            stated["weight"] = "weights"
        ignored = set(recipe.ignored(stated.values()))
        for key, setting in stated.items():
            if setting not in ignored:
                continue
            if recipe.method in _MERGEKIT_METHODS and (key in _MERGEKIT_KEYS or key.endswith("dtype")):
                self.notes.append(f"{key} has no effect on {recipe.method}.")
            else:
                node = parameters.get(key) or top.get(key) or top["models"]
                raise self._error(node, recipe.why_ignored(setting, repr(key)))

    def _own_keys(self, top: Mapping[str, Any]) -> list[set[str]]:
        rows = [self._mapping(node, "", _MODEL) for node in top["models"].value]
        return [set(self._mapping(row["parameters"], "", _MODEL_PARAMETERS)) for row in rows if "parameters" in row]

    def _locate(self, node: Any, place: str) -> str:
        """The path from here: relative to the recipe's folder or else, as in mergekit, to the working directory."""
        if _kind(node) != "scalar":
            raise self._error(node, f"{place}: expected the path of a checkpoint, found {_found(node)}.")
        text = self._text(node, place)
        if not text:
            raise self._error(node, f"{place}: expected the path of a checkpoint, found an empty text.")
        beside = self.path.parent / Path(text).expanduser()
        if beside.exists():
            return str(beside)
        if Path(text).exists():
            return text
        raise CheckpointNotFound(
            f"recipe {self.path}, line {_line(node)}: {place}: {text!r} is neither in the recipe's folder nor "
            f"in the working directory. "
            "Correct the path, or download the model first if this is its name on a hub."
        )

    # YAML nodes

    def _error(self, node: Any, message: str) -> RecipeError:
        return RecipeError(f"recipe {self.path}, line {_line(node)}: {message}")

    def _mapping(self, node: Any, place: str, known: tuple[str, ...] | None) -> dict[str, Any]:
        """Key -> value node. `known` None allows any key."""
        if _kind(node) == "nothing":
            return {}
        if _kind(node) != "mapping":
            raise self._error(node, f"{place or 'the recipe'}: expected 'key: value' lines, found {_found(node)}.")
        self._loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            key = key_node.value if _kind(key_node) == "scalar" else _kind(key_node)
            where = f" in {place}" if place else ""
            if known is not None and key not in known:
                raise self._error(key_node, self._unknown(key, where, known))
            if key in found:
                raise self._error(key_node, f"{key!r} appears twice{where}.")
            found[key] = value
        return found

    def _unknown(self, key: str, where: str, known: tuple[str, ...]) -> str:
        if key in _UNSUPPORTED:
            return f"{key!r}{where} is a key of mergekit that prefmerge does not support. {_UNSUPPORTED[key]}"
        level = next((level for level, keys in _LEVELS.items() if key in keys), None)
        if level is not None:
            return f"unknown key {key!r}{where}. It belongs in {level}."
        return f"unknown key {key!r}{where}.{did_you_mean(key, known)} Known keys: {', '.join(known)}."

    def _scalar(self, node: Any, place: str) -> Any:
        """A bool or None as such, everything else as its text."""
        kind = _kind(node)
        if kind == "list":
            raise self._error(
                node,
                f"{place} is a list (a gradient over layers in mergekit), which prefmerge does not support. "
                f"Give one value.",
            )
        if kind == "mapping":
            raise self._error(
                node,
                f"{place} has conditions (filter and value in mergekit), which prefmerge does not support. Give "
                f"one value.",
            )
        if kind == "nothing":
            return None
        return self._loader.construct_object(node) if node.tag.endswith((":bool", ":int")) else node.value

    def _text(self, node: Any, place: str) -> str:
        if _kind(node) not in ("scalar", "nothing"):
            raise self._error(node, f"{place}: expected one value, found {_found(node)}.")
        return str(node.value)

    def _setting(self, node: Any, place: str, setting: str, value: Any) -> Any:
        try:
            return CONVERTERS[setting](value)
        except MethodError as error:
            raise self._error(node, str(error)) from error
        except ValueError as error:
            raise self._error(node, f"{place}: {error}.") from error


def _line(node: Any) -> int:
    return node.start_mark.line + 1


def _kind(node: Any) -> str:
    """mapping, list, nothing (an empty value) or scalar."""
    if node.id == "scalar":
        return "nothing" if node.tag.endswith(":null") else "scalar"
    return "mapping" if node.id == "mapping" else "list"


def _found(node: Any) -> str:
    return {"scalar": "one value", "nothing": "nothing"}.get(_kind(node), f"a {_kind(node)}")
