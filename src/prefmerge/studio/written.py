"""The model that the button writes; and the command and the recipe that make the same bytes.

    OUT_DIR/NAME/   what `prefmerge merge ... -o OUT_DIR/NAME` writes: weights, receipt, the base's other files

NAME is a plain name of something that is not there; nothing is ever replaced. Cost: a merge. Not here: merging.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.errors import OutputExists, UsageError
from prefmerge.ground.progress import Progress
from prefmerge.merging import api
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.plan import Plan
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recipe_text import text_of
from prefmerge.methods.parameters import PREFERENCE, YES_OR_NO
from prefmerge.outputs.write import kind_of
from prefmerge.studio.asked import Refused, Wanted
from prefmerge.studio.opened import Opened

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_PLAIN = re.compile(r"[\w.-]+")  # a task's name that a preference can be typed with


@dataclass(frozen=True)
class ByHand:
    """`command`: one line for a shell, typed where the studio was started. `recipe`: a file's text, or None."""

    command: str
    recipe: str | None


def is_plain(name: Any) -> bool:
    """Whether it can be the name of an output."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def checked_name(name: Any, out_dir: Path) -> Path:
    """Where a model of this name goes. Raises Refused unless it is a plain name of nothing that is there."""
    if not is_plain(name):
        raise Refused(
            f"{str(name)[:80]!r} is no plain name: write up to 80 letters, digits, dots, hyphens and underscores, and "
            "do not begin with a dot or a hyphen.",
            "name",
        )
    out = out_dir / name
    try:
        kind = kind_of(out)
    except UsageError:
        kind = "file"
    if kind == "file":
        raise Refused(f"{name!r} is the name of a file. The model becomes a folder: leave {out.suffix!r} out.", "name")
    if os.path.lexists(out):
        raise Refused(f"{name!r} is there already, and nothing is replaced. Choose another name.", "name")
    return out


def write(opened: Opened, recipe: Recipe, out: Path, progress: Progress) -> Receipt:
    """Write the model. Raises what `merge` raises, Refused where something has come to be there."""
    try:
        return api.run(recipe, out, threads=opened.threads, progress=progress)
    except OutputExists as error:
        raise Refused(
            f"{out.name!r} is there already, and nothing is replaced. Choose another name.", "name"
        ) from error


def by_hand(opened: Opened, asked: Wanted, planned: Plan, out: Path) -> ByHand:
    """What makes the same bytes. Where a parameter has no flag, the command takes the recipe from a file."""
    settings = planned.recipe.settings(planned.names)
    base, paths = planned.recipe.base, [task.path for task in planned.recipe.tasks]
    assert base is not None
    text = text_of(Recipe.from_settings(settings, base=base, tasks=paths, names=planned.names))
    declared = every()
    if any(not declared[name].flag for name in asked.values):
        words = ["prefmerge", "merge", f"{out.name}.yaml", "-o", str(out)]
        return ByHand(shlex.join(words), text)
    words = ["prefmerge", "merge", *([] if opened.run is None else ["--run"]), str(opened.path), "-o", str(out)]
    words += [METHOD.spelled, asked.method.replace("_", "-")]
    if asked.preference is not None:
        words += [PREFERENCE.spelled, _typed(asked, planned.names)]
    for name, value in asked.values.items():
        one = declared[name]
        if one.kind is YES_OR_NO:
            words += [one.spelled] if value else []
        else:
            words += [one.spelled, one.text(value)]
    return ByHand(shlex.join(words), text)


def _typed(asked: Wanted, names: tuple[str, ...]) -> str:
    """The preference as one types it: by name, where the names allow it."""
    assert asked.preference is not None
    shares = asked.preference.describe().split(",")
    plain = all(_PLAIN.fullmatch(name) for name in names)
    return ",".join(f"{name}={share}" if plain else share for name, share in zip(names, shares, strict=True))
