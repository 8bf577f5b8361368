"""The keys of a recipe file: where each belongs, and what to say of those that are not known.

Ours are declared with the parameters; the others are mergekit's. Cost: none. Not here: what they say (`recipe_file`).
"""

from __future__ import annotations

from typing import Any

from prefmerge.ground.words import did_you_mean
from prefmerge.merging.parameters import every, per_task
from prefmerge.methods.parameters import RESCALE, YES_OR_NO, Parameter

MODEL = ("model", "name", "parameters")
SLICE = ("sources", "base_model", "parameters")
SOURCE = ("model", "name", "layer_range", "parameters")
# mergekit's keys that may be there and say nothing here
IDLE = {key: Parameter(key, YES_OR_NO, False) for key in ("int8_mask", RESCALE.name)}
OTHER_METHODS = ("multislerp", "nearswap", "ram", "ramplus_tl", "core_space")
ABOUT = {  # what stands under the keys that set no parameter
    "name": "What it is called: at the top level the recipe, for others of the file to take its model; else the task.",
    "base_model": "The base, from which the tasks were trained: a path, a hub id, or the name of another recipe.",
    "models": "The tasks in the order of training, one `- model: PATH` each.",
    "slices": "In place of `models`: ranges of layers, one after another, each with its sources.",
    "parameters": "What decides the merge: for all models, or for the one beside which it stands.",
    "model": "Where the task's checkpoint is: a path, a hub id, or the name of another recipe.",
    "sources": "The models of this slice, the tasks in the order of training.",
    "layer_range": "Which layers of the model: `[FIRST, END]`, END not among them.",
    "int8_mask": "Taken, without effect.",
}
_MEANT = {  # what people write -> the key
    **dict.fromkeys(("base", "theta_0", "base_checkpoint"), "base_model"),
    **dict.fromkeys(("tasks", "checkpoints", "task", "model_list"), "models"),
}
_BESIDE = (
    "out",
    "output",
    "max_memory",
    "threads",
    "force",
    "max_shard_size",
    "report",
    "push",
)  # flags of the command
_TOP = ("name", "merge_method", "base_model", "models", "slices", "parameters")  # and the parameters of this level
REFUSED = {  # mergekit's keys that prefmerge does not have -> what to do
    "modules": "List whole models under 'models', or layers of them under 'slices'.",
    "residual_weight": "Remove the key.",
    "filter": "A parameter holds for every tensor. To leave tensors out of the merge, use 'exclude'.",
    **dict.fromkeys(
        ("adaptive_mass", "embed_slerp"),
        "It belongs to a method that prefmerge does not have. Remove the key.",
    ),
}


def by_key(top: bool) -> dict[str, Parameter[Any]]:
    """Key -> the parameter that it sets. Keys that mean what they mean in mergekit have its names."""
    return {key: one for one in every().values() if one.top == top for key in one.keys}


def levels() -> dict[str, tuple[str, ...]]:
    """Where a recipe file has keys, and which."""
    return {
        "the top level": (*_TOP, *by_key(top=True)),
        "models[]": MODEL,
        "parameters": (*by_key(top=False), *IDLE),
        "models[].parameters": tuple(one.keys[0] for one in per_task()),
        "slices[]": SLICE,
        "slices[].sources[]": SOURCE,
    }


def unknown(key: str, where: str, known: tuple[str, ...]) -> str:
    """What to say of a key that is not `known` there."""
    if key in REFUSED:
        return f"{key!r}{where} is a key of mergekit that prefmerge does not support. {REFUSED[key]}"
    level = next((level for level, keys in levels().items() if key in keys), None)
    if level is not None:
        return f"unknown key {key!r}{where}. It belongs in {level}."
    if key.lower().replace("-", "_") in _BESIDE:
        flag = "out" if key.lower() == "output" else key.lower().replace("_", "-")
        return f"unknown key {key!r}{where}. It is no part of a recipe: give --{flag} on the command line."
    plain = key.lower().replace("-", "_")
    named = {one.name: one.keys[0] for one in every().values() if one.keys}
    for spelled in (plain, plain.removesuffix("s")):
        meant = _MEANT.get(spelled) or named.get(spelled, spelled)
        level = next((level for level, keys in levels().items() if meant in keys and meant != key), None)
        if level is not None:
            at = "" if meant in known else f" in {level}"
            return f"unknown key {key!r}{where}. Did you mean {meant!r}{at}?"
    return f"unknown key {key!r}{where}.{did_you_mean(key, known)} Known keys: {', '.join(known)}."
