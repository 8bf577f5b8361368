"""Merge sequentially fine-tuned checkpoints into one model for the target where it will run (Tunable MAGMAX).

    from prefmerge import merge
    receipt = merge("base", ["cars", "birds"], "out", preference="cars=0.8,birds=0.2")

merge, merge_state_dicts, plan, verify    from checkpoints to a model with a receipt
merge_recipes, sweep                      the same from a file of recipes, and for many values over one reading
push                                      a merged folder to the Hugging Face hub
adapt, check, prefer, search              from what is known of the target to a model or a preference for it
finetune, evaluate                        the checkpoints, and how good a model is
inspect                                   who owns what, and what is in the task vectors
open_checkpoint, read_recipe, read_config what is in a file

Importing this is cheap: NumPy, Numba and the rest come with the first name that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefmerge.version import __version__

if TYPE_CHECKING:
    from prefmerge.analysis.inspecting import inspect
    from prefmerge.checkpoints import Checkpoint, open_checkpoint
    from prefmerge.errors import PrefmergeError
    from prefmerge.merging.api import merge, merge_state_dicts, plan
    from prefmerge.merging.plan import Plan
    from prefmerge.merging.push import push
    from prefmerge.merging.receipt import Receipt
    from prefmerge.merging.recipe import Recipe
    from prefmerge.merging.recipe_documents import merge_recipes
    from prefmerge.merging.recipe_file import read_recipe
    from prefmerge.merging.sweep import sweep
    from prefmerge.merging.verify import verify
    from prefmerge.preference import Preference
    from prefmerge.target.api import adapt, check, prefer, search
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from prefmerge.training.opened import evaluate_checkpoint as evaluate

_HOMES = {
    "Checkpoint": "prefmerge.checkpoints",
    "Plan": "prefmerge.merging.plan",
    "Preference": "prefmerge.preference",
    "PrefmergeError": "prefmerge.errors",
    "Receipt": "prefmerge.merging.receipt",
    "Recipe": "prefmerge.merging.recipe",
    "adapt": "prefmerge.target.api",
    "check": "prefmerge.target.api",
    "evaluate": "prefmerge.training.opened",
    "finetune": "prefmerge.training.finetuning",
    "inspect": "prefmerge.analysis.inspecting",
    "merge": "prefmerge.merging.api",
    "merge_recipes": "prefmerge.merging.recipe_documents",
    "merge_state_dicts": "prefmerge.merging.api",
    "open_checkpoint": "prefmerge.checkpoints",
    "plan": "prefmerge.merging.api",
    "prefer": "prefmerge.target.api",
    "push": "prefmerge.merging.push",
    "read_config": "prefmerge.training.config_file",
    "read_recipe": "prefmerge.merging.recipe_file",
    "search": "prefmerge.target.api",
    "sweep": "prefmerge.merging.sweep",
    "verify": "prefmerge.merging.verify",
}
_THERE = {"evaluate": "evaluate_checkpoint"}  # what it is called in its own module

__all__ = [
    "Checkpoint",
    "Plan",
    "Preference",
    "PrefmergeError",
    "Receipt",
    "Recipe",
    "__version__",
    "adapt",
    "check",
    "evaluate",
    "finetune",
    "inspect",
    "merge",
    "merge_recipes",
    "merge_state_dicts",
    "open_checkpoint",
    "plan",
    "prefer",
    "push",
    "read_config",
    "read_recipe",
    "search",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prefmerge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), _THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
