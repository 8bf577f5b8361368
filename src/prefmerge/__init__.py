"""Merge sequentially fine-tuned checkpoints into one model for the place where it will run (Tunable MAGMAX).

    from prefmerge import merge
    receipt = merge("base", ["cars", "birds"], "out", preference="cars=0.8,birds=0.2")

Importing this is cheap: NumPy, Numba and the rest come with the first name that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefmerge.version import __version__

if TYPE_CHECKING:
    from prefmerge.checkpoints import Checkpoint, open_checkpoint
    from prefmerge.errors import PrefmergeError
    from prefmerge.merging.api import merge, merge_state_dicts, plan
    from prefmerge.merging.plan import Plan
    from prefmerge.merging.receipt import Receipt
    from prefmerge.merging.recipe import Recipe
    from prefmerge.merging.recipe_file import read_recipe
    from prefmerge.merging.verify import verify
    from prefmerge.preference import Preference
    from prefmerge.target.api import adapt

_HOMES = {
    "Checkpoint": "prefmerge.checkpoints",
    "Plan": "prefmerge.merging.plan",
    "Preference": "prefmerge.preference",
    "PrefmergeError": "prefmerge.errors",
    "Receipt": "prefmerge.merging.receipt",
    "Recipe": "prefmerge.merging.recipe",
    "adapt": "prefmerge.target.api",
    "merge": "prefmerge.merging.api",
    "merge_state_dicts": "prefmerge.merging.api",
    "open_checkpoint": "prefmerge.checkpoints",
    "plan": "prefmerge.merging.api",
    "read_recipe": "prefmerge.merging.recipe_file",
    "verify": "prefmerge.merging.verify",
}

__all__ = [
    "Checkpoint",
    "Plan",
    "Preference",
    "PrefmergeError",
    "Receipt",
    "Recipe",
    "__version__",
    "adapt",
    "merge",
    "merge_state_dicts",
    "open_checkpoint",
    "plan",
    "read_recipe",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prefmerge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
