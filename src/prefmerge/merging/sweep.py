"""Many merges of the same checkpoints, one for each combination of the values that are varied, over one reading.

    sweep(recipe, out, {"scale": ["0.5", "1"], "method": ["ties", "linear"]})     out/scale-0.5_method-ties ...

A combination in which the method has no use for a value is the one without it, and is made once. With `resume` an
output that is there is kept where its receipt says that it was made with the same parameters from the same inputs, and
of the others what an interrupted sweep had finished.
Cost: a reading for every `TOGETHER` merges, and the writing. Not here: scores (`target.by_command`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.folder import Folder
from prefmerge.errors import OutputExists, UsageError
from prefmerge.ground import jsons
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.made import all_made
from prefmerge.merging.many import Order, write_all
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.plan import make_plan
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS

FORMAT = "prefmerge-sweep/1"
TABLE = "sweep.json"
TOGETHER = 10  # outputs over one reading
MOST = 1000  # outputs of a sweep


@dataclass(frozen=True)
class Combination:
    """One merge of a sweep: its name in the folder, what was varied, its recipe."""

    name: str
    varied: Mapping[str, str]
    recipe: Recipe


@dataclass(frozen=True)
class SweptModel:
    """One output. `kept`: an earlier sweep has made it."""

    combination: Combination
    out: Path
    receipt: Receipt
    kept: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.combination.name,
            "varied": dict(self.combination.varied),
            "fingerprint": self.receipt.fingerprint,
            "owned": None if self.receipt.owned is None else list(self.receipt.owned),
            "recipe": dict(self.receipt.recipe),
        }


def sweep(
    recipe: Recipe,
    out: str | Path,
    vary: Mapping[str, Sequence[str]],
    *,
    resume: bool = False,
    ray: str | None = None,
    force: bool = False,
    threads: int | None = None,
    max_memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> list[SweptModel]:
    """Write a model for each combination of values into the folder `out`, and `sweep.json` with a row for each.

        models = prefmerge.sweep(prefmerge.read_recipe("recipe.yaml"), "swept", {"scale": ["0.5", "1"]})
        [(one.out, one.receipt.owned) for one in models]

    `recipe`: what all have in common, from a file, from `plan(...).recipe`, or made by hand. `vary`: for each
    parameter its values, as text. `resume`: outputs that are there and were made so are kept, and of the others what an
    interrupted sweep had finished. The other arguments are those of `merge`.

    Raises UsageError for a parameter that there is not, OutputExists, and what `merge` raises.
    """
    out = Path(out)
    wanted = combinations(recipe, vary)
    with make_plan(wanted[0].recipe) as first:
        ending = "" if isinstance(first.home, Folder) else ".safetensors"
        outs = {one.name: out / f"{one.name}{ending}" for one in wanted}
        kept = all_made([(one.recipe, outs[one.name]) for one in wanted], first) if resume else []
    receipts = {one.name: receipt for one, receipt in zip(wanted, kept, strict=False) if receipt is not None}
    there = [path for path in outs.values() if os.path.lexists(path)]
    taken = [path for path in there if path not in {outs[name] for name in receipts}]
    if taken and not force:
        how = "was made otherwise" if resume else "already exists; --resume keeps what is the same"
        raise OutputExists(f"{taken[0]}: {how}. Choose another output, or overwrite it with --force.")
    already, missing = set(receipts), [one for one in wanted if one.name not in receipts]
    for i in range(0, len(missing), TOGETHER):
        some = missing[i : i + TOGETHER]
        orders = [Order(one.recipe, outs[one.name]) for one in some]
        made = write_all(
            orders, threads=threads, max_memory=max_memory, force=force, resume=resume, ray=ray, progress=progress
        )
        receipts |= {one.name: receipt for one, receipt in zip(some, made, strict=True)}
    swept = [SweptModel(one, outs[one.name], receipts[one.name], one.name in already) for one in wanted]
    jsons.write(out / TABLE, {"format": FORMAT, "models": [one.to_json() for one in swept]})
    return swept


def combinations(recipe: Recipe, vary: Mapping[str, Sequence[str]]) -> list[Combination]:
    """Every combination, the last parameter varying fastest. Raises UsageError, MethodError."""
    known = {METHOD.name: METHOD, **{name: one for name, one in every().items() if one.flag}}
    for name, values in vary.items():
        if name not in known:
            raise UsageError(f"--vary: {name!r} is not a parameter of a recipe.{did_you_mean(name, known)}")
        if not values:
            raise UsageError(f"--vary {name}: give values, such as {name}=ONE|ANOTHER.")
    if not vary:
        raise UsageError("nothing to vary: give --vary NAME=ONE|ANOTHER, such as --vary 'scale=0.5|1'.")
    made: dict[tuple[tuple[str, str], ...], Combination] = {}
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        method = METHODS[METHOD.read(varied.get(METHOD.name, recipe.method))]
        used: dict[str, Any] = {
            name: value for name, value in varied.items() if name == METHOD.name or _has(method.name, name)
        }
        if tuple(used.items()) not in made:
            made[tuple(used.items())] = Combination(_name(used), used, recipe.with_overrides(**used))
    if len(made) > MOST:
        raise UsageError(f"--vary asks for {len(made)} models; a sweep makes {MOST} at most.")
    names = [one.name for one in made.values()]
    alike = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if alike is not None:
        raise UsageError(f"--vary: two combinations would be called {alike}. Write their values so that they differ.")
    return list(made.values())


def _has(method: str, name: str) -> bool:
    return name in METHODS[method].options or name not in {one for own in METHODS.values() for one in own.options}


def _name(varied: Mapping[str, str]) -> str:
    words = "_".join(f"{name}-{value}" for name, value in varied.items())
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", words).strip("-.")
