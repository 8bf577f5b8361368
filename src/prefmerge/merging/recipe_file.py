"""A recipe in a YAML file: mergekit's keys where the meaning is the same, and ours.

With mergekit's keys come mergekit's defaults (ties: density 1; the base listed among the models skipped, or, for
methods of whole models, one of them), so its recipes run unchanged. Every refusal names file, line and key, and says
what to write instead; where several things are wrong, one error lists them all.
Cost: one small file; no checkpoint is opened, only looked for, unless a range of its layers is given. Not here: files
of several documents (`recipe_documents`), what a key says of tokenizers (`vocabularies`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.paths import names_of, split_stack
from prefmerge.errors import RecipeError
from prefmerge.ground.words import counted, quoted
from prefmerge.ground.yaml_file import NotYaml, composed_documents
from prefmerge.merging.parameters import METHOD, every, per_task
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.recipe_keys import IDLE, OTHER_METHODS, SLICE, by_key, levels
from prefmerge.merging.recipe_models import ListedModel, Models
from prefmerge.merging.recipe_nodes import Fault, Nodes, kind, line
from prefmerge.merging.recipe_slices import Slice, is_whole, stacked
from prefmerge.merging.recipe_values import at_the_top, in_parameters, over
from prefmerge.merging.vocabularies import BASE, KEYS, TOKENIZER, of_recipe_file
from prefmerge.methods import METHODS
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import AS_PUBLISHED, BASE_WEIGHT, WEIGHTS
from prefmerge.methods.protocol import Method
from prefmerge.preference import as_text


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file.

        recipe = prefmerge.read_recipe("recipe.yaml")
        recipe.method, recipe.scale

    Raises RecipeError, PreferenceError, CheckpointNotFound naming file, line and key; RecipeError where several things
    are wrong, and for a file of several documents.
    """
    path = Path(path)
    loader, roots = documents(path)
    if len(roots) > 1:
        raise RecipeError(
            f"recipe {path} has {counted(len(roots), 'document')}, and this reads one. Make them all with "
            f"prefmerge.merge_recipes({str(path)!r}, OUT), or prefmerge merge {path} -o OUT."
        )
    return RecipeDocument(Nodes(path, loader), roots[0]).read()


def documents(path: Path) -> tuple[Any, list[Any]]:
    """What composed a file of recipes, and the root node of each that is in it. Raises RecipeError."""
    try:
        loader, roots = composed_documents(path)
    except FileNotFoundError as error:
        raise RecipeError(f"recipe {path} does not exist.") from error
    except NotYaml as error:
        where = f", line {error.line}" if error.line else ""
        raise RecipeError(f"recipe {path}{where}: this is not YAML: {error.problem}.") from error
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror or error}.") from error
    if not roots:
        raise RecipeError(f"recipe {path} is empty. Give at least merge_method, base_model and models.")
    return loader, roots


class RecipeDocument:
    """One reading of one document. `outputs`: where the models will be that other documents make, by their names."""

    def __init__(self, nodes: Nodes, root: Any, outputs: Mapping[str, str] | None = None) -> None:
        self.nodes = nodes
        self.notes: list[str] = []
        self._levels = levels()
        self._parameters: dict[str, Any] = {}  # key -> node of what is said for all
        self._sliced = False  # whether they stand under `slices`
        self._models = Models(nodes, outputs or {})
        self._root, self.line = root, line(root)
        self._top: dict[str, Any] = {}
        with nodes.collected():
            self._top = nodes.mapping(root, "", self._levels["the top level"])

    @property
    def name(self) -> str | None:
        """What the document is called."""
        node = self._top.get("name")
        return None if node is None or kind(node) != "scalar" else str(node.value)

    @property
    def uses(self) -> list[str]:
        """The documents whose models it takes; known when it has been read."""
        return self._models.used

    def read(self) -> Recipe:
        """The recipe. Raises what `read_recipe` raises."""
        nodes, top, name = self.nodes, self._top, None
        if not top:
            nodes.finish()
        with nodes.collected():
            name = self._method(top.get(METHOD.keys[0]))
        method = METHODS["ties" if name is None else name]  # without one, the rest is read for its own faults
        self._models.own |= {one.keys[0]: one for one in per_task()}
        if name is None:
            self._models.own |= by_key(top=False)
        elif method.most == 0:  # of one model alone, which may have what holds for all
            self._models.own |= {one.keys[0]: one for one in method.parameters}
        with nodes.collected():
            self._parameters = self._mapping(top, "parameters", "parameters", "parameters")
        given = {one.name: one.mergekit_default for one in method.parameters if one.mergekit_default is not None}
        given |= at_the_top(nodes, top)
        given = over(given, in_parameters(nodes, self._parameters, method, self.notes))
        base, rows = self._base(top, name), list[ListedModel]()
        with nodes.collected():
            rows, of_slices = self._rows(top, method, base)
            given = over(given, of_slices)
        if name is None:
            self._of_vocabularies(Recipe(), top)
            nodes.finish()
        recipe = Recipe(base=base or "", method=method.name, given=given)
        if not nodes.refused:
            with nodes.collected():
                recipe = self._recipe(method, base, rows, given)
        more = self._of_vocabularies(recipe, top)
        recipe = Recipe(base=recipe.base, tasks=recipe.tasks, method=recipe.method, given={**recipe.given, **more})
        self._check_used(recipe, top)
        nodes.finish()
        return recipe.model_copy(update={"notes": tuple(self.notes), "written": self._models.written})

    def _mapping(self, above: Mapping[str, Any], key: str, place: str, level: str) -> dict[str, Any]:
        """What stands under a key, where it is there."""
        return self.nodes.mapping(above[key], place, self._levels[level]) if key in above else {}

    def _base(self, top: Mapping[str, Any], method: str | None) -> str | None:
        """The base, where it is said."""
        if "base_model" in top and kind(top["base_model"]) != "nothing":
            with self.nodes.collected():
                return self._models.locate(top["base_model"], "base_model")
        elif method is not None and not METHODS[method].of_models:
            said = f"'base_model' is missing, and {method} needs it: task vectors are differences from it."
            self.nodes.lacking(self._root, "base_model", Fault(None, said))
        return None

    def _rows(
        self, top: Mapping[str, Any], method: Method, base: str | None
    ) -> tuple[list[ListedModel], dict[str, Any]]:
        """The models as they are listed, or the stacks that slices are, and what the slices say for all."""
        nodes = self.nodes
        if "models" in top and "slices" in top:
            raise nodes.error(top["slices"], "'models' and 'slices' both list the models; give one of them.")
        if "models" in top:
            return self._listed_rows(top["models"], "models"), {}
        if "slices" not in top:
            said = "'models' is missing. List the task checkpoints under it, in the order in which they were trained."
            nodes.lacking(self._root, "models", Fault(None, said))
            return [], {}
        self._sliced = True
        if kind(top["slices"]) != "list" or not top["slices"].value:
            raise nodes.error(
                top["slices"],
                "slices: expected a list of slices, each with 'sources'. Whole models can be listed under 'models'.",
            )
        slices: list[Slice] = []
        for i, node in enumerate(top["slices"].value):
            with nodes.collected():
                slices.append(self._slice(node, f"slices[{i}]", method))
        if nodes.refused:  # what is stacked must be right
            return [], {}
        if is_whole(slices):
            return list(slices[0].rows), dict(slices[0].given)
        return stacked(nodes, method, slices, base)

    def _slice(self, node: Any, place: str, method: Method) -> Slice:
        slice = self.nodes.mapping(node, place, SLICE)
        given: dict[str, Any] = {}
        with self.nodes.collected():
            parameters = self._mapping(slice, "parameters", f"{place}.parameters", "parameters")
            given = in_parameters(self.nodes, parameters, method, self.notes)
            self._parameters = {**self._parameters, **parameters}
        base = self._models.locate(slice["base_model"], f"{place}.base_model") if "base_model" in slice else None
        if "sources" not in slice:
            said = f"{place}: 'sources' is missing; it lists the models."
            self.nodes.lacking(node, "sources", self.nodes.error(node, said))
        rows = self._listed_rows(slice["sources"], f"{place}.sources") if "sources" in slice else []
        return Slice(node, place, tuple(rows), base, given)

    def _listed_rows(self, node: Any, key: str) -> list[ListedModel]:
        """The models in a list. Empty where one of them is wrong, which is kept."""
        if kind(node) != "list":
            raise self.nodes.error(node, f"{key}: expected a list with one '- model: PATH' per task.")
        if self._sliced and not node.value:
            raise self.nodes.error(node, f"{key}: expected a list with one '- model: PATH' per source, found none.")
        rows: list[ListedModel] = []
        for i, one in enumerate(node.value):
            with self.nodes.collected():
                row = self._models.row(one, f"{key}[{i}]")
                rows += [row] if row is not None else []
        return rows if len(rows) == len(node.value) else []

    def _recipe(self, method: Method, base: str | None, rows: Sequence[ListedModel], given: dict[str, Any]) -> Recipe:
        """The recipe of models that are listed, the base (where it is not said, the first) among them or not."""
        first = base or (rows[0].path if rows else "")
        if self._sliced and rows and split_stack(rows[0].path) is not None:
            first = rows[0].path
        listed = [row for row in rows if os.path.realpath(row.path) == os.path.realpath(first)]
        alone = {name: value for row in rows for name, value in row.own.items() if not every()[name].per_task}
        given = over(given, alone)
        if method.honours(BASE_WEIGHT):
            given[BASE_WEIGHT.name] = self._base_weight(method, listed, given.get(WEIGHTS.name))
        elif listed and not method.of_models:
            self.notes.append(
                f"the base is also listed under models; {method.name} skips it there, since its task vector is zero."
            )
        tasks = [
            TaskEntry(path=row.path, name=row.name, own={k: v for k, v in row.own.items() if k not in alone})
            for row in rows
            if row not in listed
        ]
        return Recipe(base=first, tasks=tuple(tasks), method=method.name, given=given)

    def _base_weight(self, method: Method, listed: Sequence[ListedModel], weight: Any) -> Any:
        """The base's weight in a sum of models. `listed`: where it is among them. `weight`: the one given for all."""
        own = [row.own.get(WEIGHTS.name) for row in listed]
        if not method.honours(WEIGHTS):
            own, weight = [None for _ in listed], None
        common = WEIGHTS.default if weight is None else weight
        if len(own) == 1:
            (value,) = own
            return common if value is None else value.or_else(common) if isinstance(value, ByLayer) else value
        if not own and self._sliced:
            return Fraction(0)  # as in mergekit: what a slice does not list takes no part in it
        if any(isinstance(value, ByLayer) for value in [weight, *own]):
            raise Fault(
                None,
                f"the base takes part in {method.name}, and its weight differs from layer to layer. "
                "List the base among the models, once, with a weight of its own.",
            )
        if own:
            return sum((common if value is None else value for value in own), Fraction(0))
        added = method.unlisted(weight)  # mergekit adds the base to the models
        if added:
            all_alike = f"with weight {as_text(added)}, the one given for all models"
            how = "as one of the models" if weight is None else all_alike
            self.notes.append(f"the base takes part {how}, as in mergekit.")
        return added

    def _check_used(self, recipe: Recipe, top: Mapping[str, Any]) -> None:
        """What the method would ignore: wrong, but a note where mergekit ignores it too."""
        nodes, parameters = self.nodes, self._parameters
        stated = {key: one for key, one in by_key(top=False).items() if key in parameters and key not in IDLE}
        stated |= {key: one for key, one in by_key(top=True).items() if key in top}
        stated |= {key: self._models.own[key] for key in self._models.stated}
        where = {**self._models.stated, **top, **parameters}
        ignored = set(recipe.ignored(one.name for one in stated.values()))
        for key, one in stated.items():
            if one.name not in ignored:
                continue
            if METHODS[recipe.method].mergekit and key in one.mergekit:
                self.notes.append(f"{key} has no effect on {recipe.method}.")
            else:
                nodes.add(nodes.error(where[key], recipe.why_ignored(one.name, repr(key))))
        for name in recipe.given_twice():
            key = next(key for key, one in stated.items() if one.name == name)
            said = recipe.why_twice(name, repr(AS_PUBLISHED.name), repr(key))
            nodes.add(nodes.error(where[key], said))

    def _method(self, node: Any) -> str | None:
        if node is None:
            said = f"'merge_method' is missing. Methods: {', '.join(METHODS)}."
            self.nodes.lacking(self._root, "merge_method", Fault(None, said))
            return None
        name = self.nodes.text(node, "merge_method")
        if name.replace("-", "_") in OTHER_METHODS and name.replace("-", "_") not in METHODS:
            raise self.nodes.error(
                node, f"{name!r} is a method of mergekit that prefmerge does not have. Methods: {', '.join(METHODS)}."
            )
        return self.nodes.value(node, METHOD.keys[0], METHOD, name)

    def _of_vocabularies(self, recipe: Recipe, top: Mapping[str, Any]) -> dict[str, Any]:
        """What the keys say of tokenizers, with the models by their names."""
        called = names_of([task.path for task in recipe.tasks], [task.name for task in recipe.tasks])
        known = {os.path.realpath(task.path): name for task, name in zip(recipe.tasks, called, strict=True)}
        known[os.path.realpath(recipe.base or "")] = BASE

        def named(text: str) -> str | None:
            if text in known.values() or self.nodes.refused:  # which models there are is then not known
                return text
            return known.get(os.path.realpath(self._models.place(text) or text))

        given: dict[str, Any] = {}
        for key in (key for key in KEYS if key in top):
            with self.nodes.collected():
                try:
                    given |= of_recipe_file(key, self.nodes.plain(top[key], key), named, based="base_model" in top)
                except ValueError as error:
                    raise self.nodes.error(top[key], f"{key}: {error}.") from error
        if all(one in top for one in TOKENIZER.keys):
            twice = f"{quoted(TOKENIZER.keys, 2)} say the same; give one of them."
            self.nodes.add(self.nodes.error(top[TOKENIZER.keys[1]], twice))
        return given
