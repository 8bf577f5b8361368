"""Many merges of the same checkpoints, one for each combination of the values that are varied, over one reading.

    sweep(recipe, out, {"scale": ["0.5", "1"], "method": ["ties", "linear"]})     out/scale-0.5_method-ties ...

A combination in which the method has no use for a value is the one without it, and is made once; so are two that say
the same in other words (1 and 1.0). With `resume` an output that is there is kept where it was made with the same
parameters from the same inputs (`made`), and of the others what an interrupted sweep had finished.
Cost: a reading for every `TOGETHER` merges, and the writing. Not here: scores (`target.by_command`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.folder import Folder
from prefmerge.errors import OutputExists, UsageError
from prefmerge.ground import jsons
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import did_you_mean
from prefmerge.merging import sweep_page
from prefmerge.merging.kept import NOTHING, KeptMagnitude
from prefmerge.merging.made import all_made
from prefmerge.merging.many import Order, Reporting, formats_of_plan, write_all
from prefmerge.merging.page import ReportedMerge
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.plan import make_plan
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
from prefmerge.outputs.receipts import find_receipt
from prefmerge.report import place

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
    """One output of a sweep."""

    combination: Combination  # its name in the folder, what was varied, its recipe
    out: Path  # the file or folder
    receipt: Receipt  # of the output
    kept: bool  # whether an earlier sweep had made it
    # what it keeps of the changes, in all and by layer; None where no report was asked for
    measured: tuple[KeptMagnitude, Mapping[str, KeptMagnitude]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Its row of sweep.json."""
        data: dict[str, Any] = {
            "name": self.combination.name,
            "varied": dict(self.combination.varied),
            "fingerprint": self.receipt.fingerprint,
            "owned": None if self.receipt.owned is None else list(self.receipt.owned),
            "recipe": dict(self.receipt.recipe),
        }
        if self.measured is not None:
            total, layers = self.measured
            data["kept"] = {"total": total.to_json(), "layers": {name: one.to_json() for name, one in layers.items()}}
        return data


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
    report: place.ReportWhere = None,
    progress: Progress | None = None,
) -> list[SweptModel]:
    """Write a model for each combination of values into the folder `out`, and `sweep.json` with a row for each, behind
    those of earlier sweeps whose models are there still.

        models = prefmerge.sweep(prefmerge.read_recipe("recipe.yaml"), "swept", {"scale": ["0.5", "1"]})
        [(one.out, one.receipt.owned) for one in models]

    `recipe`: what all have in common, from a file, from `plan(...).recipe`, or made by hand. `vary`: for each
    parameter its values, as text. `resume`: outputs that are there and were made so are kept, and of the others what an
    interrupted sweep had finished. `report`: one to look at too, True for report.html in the folder, or the name of an
    HTML file. The other arguments are those of `merge`.

    Raises UsageError for a parameter that there is not, OutputExists, and what `merge` raises.
    """
    out = Path(out)
    wanted, asked = combinations(recipe, vary), place.asked_of(report, out, folder=True, force=force)
    if asked is not None and asked.file is None and out.is_dir():
        place.require_free(out / place.REPORT, force=force)
    with make_plan(wanted[0].recipe) as first:
        ending = "" if isinstance(first.home, Folder) else ".safetensors"
        outs = {one.name: out / f"{one.name}{ending}" for one in wanted}
        kept = all_made([Order(one.recipe, outs[one.name]) for one in wanted], first) if resume else []
        formats = formats_of_plan(first)
    receipts = {one.name: receipt for one, receipt in zip(wanted, kept, strict=False) if receipt is not None}
    there = [path for path in outs.values() if os.path.lexists(path)]
    taken = [path for path in there if path not in {outs[name] for name in receipts}]
    if taken and not force:
        how = "was made otherwise" if resume else "already exists; --resume keeps what is the same"
        raise OutputExists(f"{taken[0]}: {how}. Choose another output, or overwrite it with --force.")
    already, missing = set(receipts), [one for one in wanted if one.name not in receipts]
    measured = _measured(out, receipts) if asked is not None else {}
    merged: dict[str, ReportedMerge] = {}
    for i in range(0, len(missing), TOGETHER):
        some = missing[i : i + TOGETHER]
        notes = {one.name: None if asked is None else Reporting(partial(_note, merged, one.name)) for one in some}
        orders = [Order(one.recipe, outs[one.name], report=notes[one.name]) for one in some]
        made = write_all(
            orders, threads=threads, max_memory=max_memory, force=force, resume=resume, ray=ray, progress=progress
        )
        receipts |= {one.name: receipt for one, receipt in zip(some, made, strict=True)}
    measured |= {name: (one.total or NOTHING, one.layers()) for name, one in merged.items()}
    swept = [
        SweptModel(one, outs[one.name], receipts[one.name], one.name in already, measured.get(one.name))
        for one in wanted
    ]
    rows = [one.to_json() for one in swept]
    earlier = _earlier(out, {one.combination.name for one in swept})
    jsons.write(out / TABLE, {"format": FORMAT, "models": [*earlier, *rows]})
    if asked is not None:
        file = asked.of(out, folder=True)
        place.write(file, sweep_page.page([_told(one, formats) for one in swept], vary))
    return swept


def _earlier(out: Path, made: Collection[str]) -> list[Mapping[str, Any]]:
    """The rows that earlier sweeps left of models that are still there, but for those that are made again."""
    table = jsons.peek(out / TABLE)
    rows = table.get("models") if isinstance(table, dict) and table.get("format") == FORMAT else None

    def is_there(row: Any) -> bool:
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or _plain(name) != name or name in made:
            return False
        return any(find_receipt(out / f"{name}{ending}") is not None for ending in ("", ".safetensors"))

    return [row for row in rows if is_there(row)] if isinstance(rows, list) else []


def _note(merged: dict[str, ReportedMerge], name: str, made: ReportedMerge) -> None:
    merged[name] = made


def _measured(
    out: Path, receipts: Mapping[str, Receipt]
) -> dict[str, tuple[KeptMagnitude, Mapping[str, KeptMagnitude]]]:
    """What an earlier sweep has measured of the models that are kept."""
    try:
        rows = {row["name"]: row for row in jsons.read(out / TABLE)["models"]}
        return {
            name: (
                KeptMagnitude.from_json(rows[name]["kept"]["total"]),
                {layer: KeptMagnitude.from_json(one) for layer, one in rows[name]["kept"]["layers"].items()},
            )
            for name, receipt in receipts.items()
            if name in rows and "kept" in rows[name] and rows[name]["fingerprint"] == receipt.fingerprint
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # it only saves measuring


def _told(one: SweptModel, formats: tuple[str, ...]) -> sweep_page.ReportedModel:
    """A model as the report has it."""
    total, by_layer = one.measured or (None, None)
    folder = one.out if one.receipt.output.kind == "folder" else one.out.absolute().parent
    merged = ReportedMerge(one.receipt.published(folder), formats=formats)
    return sweep_page.ReportedModel(one.combination.name, one.combination.varied, merged, total, by_layer)


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
    made: dict[str, Combination] = {}
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        method = METHODS[METHOD.read(varied.get(METHOD.name, recipe.method))]
        used: dict[str, Any] = {
            name: value for name, value in varied.items() if name == METHOD.name or _has(method.name, name)
        }
        one = recipe.with_overrides(**used)
        made.setdefault(_decides(one), Combination(_name(used), used, one))
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
    return _plain("_".join(f"{name}-{value}" for name, value in varied.items()))


def _plain(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", words).strip("-.")


def _decides(recipe: Recipe) -> str:
    """What two recipes over the same checkpoints have in common that make the same model: 1 and 1.0 are one scale."""
    return repr((recipe.method, recipe.given, [task.own for task in recipe.tasks]))
