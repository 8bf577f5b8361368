"""The model card of a merged folder."""

from __future__ import annotations

from prefmerge.merging.receipt import Receipt
from prefmerge.shown import marked


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
