"""The words that go with a merged folder: its model card, and a config with the right number format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefmerge.ground import jsons
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.shown import marked


def updated_config(path: Path, recipe: Recipe) -> bytes:
    """config.json, with `dtype`/`torch_dtype` set to the number format asked for. Byte for byte the base's when none
    was.
    """
    content = path.read_bytes()
    asked = "float32" if recipe.as_task_vector else recipe.dtype
    if asked is None:
        return content
    config = jsons.peek(path)
    if not isinstance(config, dict):
        return content
    _replace(config, asked)
    return jsons.encoded(config, indent=2, ascii=False, nan=True)


def _replace(config: dict[str, Any], dtype: str) -> None:
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = dtype
    for value in config.values():
        if isinstance(value, dict):  # the text and vision parts of a CLIP
            _replace(value, dtype)


def model_card(receipt: Receipt) -> str:
    """A model card that says how the weights were made. It names no path: a folder may be published as it is."""
    recipe, owned = receipt.recipe, receipt.owned
    sum_owned = sum(owned or ())
    rows = []
    for i, name in enumerate(receipt.tasks):
        share = receipt.shares[i] if receipt.shares else "-"
        part = f"{owned[i]:,} ({owned[i] / sum_owned:.1%})" if owned and sum_owned else "-"
        rows.append(f"| {i + 1} | {marked(name)} | {share} | {part} |")
    what = "a task vector (not a model by itself)" if recipe["as_task_vector"] else "a merged model"
    parameters = "\n".join(
        f"- {key}: {marked(str(value))}" for key, value in recipe.items() if value is not None and key != "preference"
    )
    added = "".join(
        f"\nTo the merged values of {marked(name)}, {len(values)} numbers were added; the receipt has them.\n"
        for name, values in (receipt.added or {}).items()
    )
    return f"""---
tags:
- merge
- prefmerge
---

# {what[0].upper()}{what[1:]}

Made by prefmerge with method `{recipe["method"]}` from the base {marked(receipt.inputs.base.name)}
and {len(receipt.tasks)} task checkpoints.
Preference: {marked(receipt.preference or "the method has none")}.

| | task | share asked | elements owned |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Settings:

{parameters}
{added}
`receipt.json` holds every setting, the fingerprints of the inputs and of these weights, and the budgets of each tensor.
`prefmerge verify` checks this folder against it.
"""
