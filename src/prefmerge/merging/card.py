"""The model card of a merged folder: what a hub shows, how the weights were made, and how to make them again.

Plain words and tables; every name is escaped for Markdown or YAML. It names no path. What the base's own card says that
is true of the merge too (licence, language) is kept. Cost: three small files of the base. Not here: the receipt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefmerge.ground import jsons
from prefmerge.ground.words import counted
from prefmerge.ground.yaml_file import front_matter
from prefmerge.merging.configs import hub_id
from prefmerge.merging.parameters import AS_TASK_VECTOR, METHOD
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe_text import recipe_text, yaml_text
from prefmerge.shown import marked

CARD = "README.md"
_KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")  # of the base's card
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LIBRARIES = {  # a file that only one library has -> the library
    "modules.json": "sentence-transformers",
    "model_index.json": "diffusers",
    "open_clip_config.json": "open_clip",
}


@dataclass(frozen=True)
class BaseModel:
    """What is known of the base beside its weights: its id on a hub, its library, what its card says."""

    hub: str | None = None
    library: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


def base_model(path: Path | None, files: Iterable[str]) -> BaseModel:
    """What a base's folder says. `files`: the names of those beside its weights."""
    if path is None or not path.is_dir():
        return BaseModel()
    config: Any = jsons.peek(path / "config.json")
    config = config if isinstance(config, dict) else {}
    card = front_matter(path / CARD)
    beside = set(files)
    library = next((library for file, library in _LIBRARIES.items() if file in beside), None)
    if library is None:
        keys = {"_class_name": "diffusers", "model_type": "transformers", "architecture": "timm"}
        library = next((library for key, library in keys.items() if key in config), None)
    known = [hub_id(str(path)), config.get("_name_or_path"), card.get("base_model")]
    known = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in known]
    ids = [one for one in known if isinstance(one, str) and _HUB_ID.fullmatch(one) and not Path(one).exists()]
    own = card.get("library_name")
    kept = {key: card[key] for key in _KEPT if _is_text(card.get(key))}
    return BaseModel(ids[0] if ids else None, own if isinstance(own, str) else library, kept)


def model_card(receipt: Receipt, base: BaseModel | None = None, more: str = "") -> str:
    """The card, in Markdown. `more`: paragraphs on what the model is for."""
    base = base or BaseModel()
    vector = receipt.recipe[AS_TASK_VECTOR.name]
    head: dict[str, Any] = {}
    models = hub_models(receipt, base)
    if models:  # a hub refuses a card that names a model which it does not have
        head = {"base_model": models[0] if len(models) == 1 else models, "base_model_relation": "merge"}
    if base.library and not vector:
        head["library_name"] = base.library
    head |= {**base.card, "tags": ["merge", "prefmerge"]}
    return "\n".join(["---", yaml_text(head) + "---", "", *_body(receipt, base, more, vector)])


def hub_models(receipt: Receipt, base: BaseModel) -> list[str]:
    """The ids of what was merged, the base first: of all inputs that came from the hub."""
    paths = [receipt.inputs.base.path, *(task.path for task in receipt.inputs.tasks)]
    known = [base.hub, *(hub_id(part) for path in paths for part in (path or "").split("+"))]
    return list(dict.fromkeys(one for one in known if one is not None))


def _body(receipt: Receipt, base: BaseModel, more: str, vector: bool) -> Iterator[str]:
    yield "# A task vector (not a model by itself)" if vector else "# A merged model"
    yield ""
    called, count = base.hub or receipt.inputs.base.name, counted(len(receipt.tasks), "task checkpoint")
    method = marked(receipt.recipe[METHOD.name])
    yield f"prefmerge made it with the method {method}: {count} over {marked(called)}."
    yield f"Preference: {marked(receipt.preference)}." if receipt.preference else "The method has no preference."
    yield ""
    if more:
        yield f"{more.rstrip()}\n"
    yield "## Tasks\n"
    yield "| | task | share asked | elements owned |"
    yield "| ---: | --- | ---: | ---: |"
    owned = receipt.owned
    all_owned = sum(owned or ())
    for i, name in enumerate(receipt.tasks):
        share = receipt.shares[i] if receipt.shares else "-"
        part = f"{owned[i]:,} ({owned[i] / all_owned:.1%})" if owned and all_owned else "-"
        yield f"| {i + 1} | {marked(name)} | {share} | {part} |"
    yield ""
    for name, values in (receipt.added or {}).items():
        yield f"To the merged values of {marked(name)}, {len(values)} numbers were added; the receipt has them.\n"
    recipe = recipe_text(receipt)
    if recipe is not None:
        yield "## Recipe\n"
        without = ", but for the numbers that were added" if receipt.added else ""
        command = "`prefmerge merge recipe.yaml -o merged/`"
        yield f"With these checkpoints beside it, {command} makes the same weights{without}:\n"
        yield f"```yaml\n{recipe}```\n"
    yield "## Receipt\n"
    yield f"Fingerprint of the weights: `{marked(receipt.fingerprint)}`\n"
    yield "`receipt.json` holds every parameter, the fingerprints of the inputs and the budgets of each tensor."
    yield "`prefmerge verify` compares this folder with it.\n"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
