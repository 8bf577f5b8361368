"""`prefmerge merge` and `plan` of a file with several recipes: each in its turn, as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.cli.screen import console
from prefmerge.errors import UsageError
from prefmerge.ground.words import joined
from prefmerge.report.place import ReportWhere

if TYPE_CHECKING:
    from prefmerge.merging.recipe import Recipe
    from prefmerge.merging.recipe_documents import Document

OUT = Path("merged")  # where the models of a plan would go


def holds_several(inputs: list[Path]) -> bool:
    """Whether the inputs are one file of several recipes. Raises RecipeError."""
    if len(inputs) != 1 or inputs[0].suffix.lower() not in (".yaml", ".yml"):
        return False
    from prefmerge.merging.recipe_documents import is_several

    return is_several(inputs[0])


@dataclass(frozen=True)
class Several:
    """The recipes of a file. `out`: where their models go. `changed`: a recipe with the flags that were given. `json`:
    what is said is one JSON object.
    """

    file: Path
    out: Path | None
    changed: Callable[[Recipe], Recipe]
    json: bool

    def merge(self, how: dict[str, Any], report: ReportWhere) -> None:
        """Merge them all. `how`: what `run` takes beside a recipe and its output. `report`: whether each has one."""
        from prefmerge.cli import progress, show
        from prefmerge.merging import api
        from prefmerge.merging.recipe_documents import read_documents, reports_of, require_all_free

        if how["tokenizer_from"] is not None:
            raise UsageError(f"--tokenizer-from names a task of one recipe, and {self.file} has several.")
        several = read_documents(self.file, self.out or OUT)
        require_all_free(several, force=how["force"] or how["resume"], max_shard_size=how["max_shard_size"])
        reports = reports_of(self.file, several, report, force=how["force"])
        show.say_compiling()
        told: list[dict[str, Any]] = []
        for one, own in zip(several, reports, strict=True):
            how["report"] = own
            recipe = self.changed(one.recipe())
            with progress.merging() as shown:
                kept: list[Path] = []
                receipt = api.run(recipe, one.out, progress=shown, on_kept=partial(kept.append, one.out), **how)
            if self.json:
                folder = one.out if receipt.output.kind == "folder" else one.out.absolute().parent
                told.append({"name": one.name, "receipt": receipt.published(folder).to_json()})
            else:
                _say_which(one)
                if kept:
                    show.say_kept(one.out)
                    continue
                show.merged(receipt, recipe, one.out)
                show.say_report(report, one.out, folder=receipt.output.kind == "folder")
        if self.json:
            show.as_json({"format": "prefmerge-receipts/1", "recipes": told})

    def plan(self) -> None:
        """Say what merging them would do; of a recipe whose models are yet to be made, what it takes."""
        from prefmerge.cli import progress, show
        from prefmerge.merging import api
        from prefmerge.merging.recipe_documents import read_documents

        told: list[dict[str, Any]] = []
        for one in read_documents(self.file, self.out or OUT):
            recipe, plan = self.changed(one.recipe()), None
            if one.is_ready:
                with progress.merging():
                    opened = api.planned(recipe, one.out)
                with opened as planned:
                    plan = planned.to_json()
                    if not self.json:
                        _say_which(one)
                        show.planned(planned, recipe)
            elif not self.json:
                _say_which(one)
                models = joined(Path(path).name for path in (recipe.base or "", *(task.path for task in recipe.tasks)))
                console().print(f"{recipe.method} of {models}. It can be planned when {joined(one.needs)} is there.")
            told.append({"name": one.name, "out": str(one.out), "needs": list(one.needs), "plan": plan})
        if self.json:
            show.as_json({"format": "prefmerge-plans/1", "recipes": told})


def _say_which(one: Document) -> None:
    console().print()
    console().print(f"{one.out}, of {one.called}:", soft_wrap=True)
