"""Files of several recipes, of which a later one may take the model that another makes.

    name: half                      half     OUT-parts/half
    merge_method: slerp ...
    ---
    merge_method: ties              the one without a name     OUT
    models: [{model: half}, ...]

Where every document has a name, each goes to OUT/NAME. The order in the file does not matter: a document is merged when
the models that it takes are there. As mergekit's multi-merge does it. Everything is read before anything is merged.
Cost: that of the merges, and the disk for all models. Not here: one document (`recipe_file`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import is_there
from prefmerge.errors import PrefmergeError, RecipeError, UsageError
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import joined
from prefmerge.merging.api import reporting, run
from prefmerge.merging.many import Reporting, sharding_of
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recipe_file import RecipeDocument, documents
from prefmerge.merging.recipe_nodes import Fault, Nodes, as_error
from prefmerge.methods import METHODS
from prefmerge.outputs.write import kind_of, require_free
from prefmerge.report import place

FINAL = "the document without a name"
_NAME = re.compile(r"[^/\\\s.][^/\\]*")


@dataclass(frozen=True)
class Document:
    """One recipe of a file. `needs`: the documents whose models it takes; `takes`: where these are."""

    name: str | None
    out: Path
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    recipe: Callable[[], Recipe]  # reads it, again where the models that it takes have been made since

    @property
    def is_ready(self) -> bool:
        """Whether the models of other documents that it takes are there."""
        return all(map(is_there, self.takes))

    @property
    def called(self) -> str:
        """What messages call it."""
        return _called(self.name)


def _called(name: str | None) -> str:
    return FINAL if name is None else repr(name)


def merge_recipes(
    path: str | Path,
    out: str | Path,
    *,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    force: bool = False,
    sha256: bool = False,
    max_shard_size: str | int | None = None,
    resume: bool = False,
    ray: str | None = None,
    report: place.ReportWhere = None,
    progress: Progress | None = None,
) -> dict[str | None, Receipt]:
    """Merge every recipe of a YAML file, those whose models others take before these.

        receipts = prefmerge.merge_recipes("recipes.yaml", "out")
        receipts[None]      # of the document without a name, which is at out; the others are in out-parts/NAME

    Where every document has a name, `out` is a folder with a model for each, out/NAME. Returns a receipt for each name;
    `prefmerge.verify` takes any of the outputs. With `resume`, outputs that are there and were made so are kept.
    `report=True` writes a report for each output; a name is for a file of one recipe. The other arguments are those of
    `merge`. Raises what `merge` raises, and RecipeError for a file whose recipes need one another in a circle.
    """
    several = read_documents(path, out)
    require_all_free(several, force=force or resume, max_shard_size=max_shard_size)
    reports = reports_of(path, several, report, force=force)
    return {
        one.name: run(
            one.recipe(),
            one.out,
            threads=threads,
            max_memory=max_memory,
            force=force,
            sha256=sha256,
            max_shard_size=max_shard_size,
            resume=resume,
            ray=ray,
            report=own,
            progress=progress,
        )
        for one, own in zip(several, reports, strict=True)
    }


def is_several(path: Path) -> bool:
    """Whether a recipe file has several documents. Raises RecipeError."""
    return len(documents(path)[1]) > 1


def read_documents(path: str | Path, out: str | Path) -> list[Document]:
    """The recipes of a file, in the order in which they can be merged. Raises RecipeError, CheckpointNotFound, and
    UsageError for an `out` that is no folder where several models go into it.
    """
    path, out = Path(path), Path(out)
    loader, roots = documents(path)
    read = [RecipeDocument(Nodes(path, loader), root) for root in roots]
    wrong = _wrong_names(read)
    places = _places([one.name for one in read], out)
    outputs = {name: str(place) for name, place in places.items() if name is not None}
    several: list[Document] = []
    for root in roots:
        one = RecipeDocument(Nodes(path, loader), root, outputs)
        try:
            recipe = one.read()
            if not recipe.tasks and METHODS[recipe.method].fewest:
                wrong.append(
                    Fault(one.line, f"{_called(one.name)}: no model but the base is listed, so nothing is merged.")
                )
        except PrefmergeError:
            if not one.nodes.kept:
                raise
            wrong += one.nodes.kept
        needs = tuple(dict.fromkeys(one.uses))
        takes = tuple(outputs[name] for name in needs)
        several.append(Document(one.name, places[one.name], needs, takes, _reader(path, loader, root, outputs)))
    if wrong:
        raise as_error(path, wrong)
    return _in_order(path, several)


def require_all_free(several: Sequence[Document], *, force: bool, max_shard_size: str | int | None = None) -> None:
    """Raise, before anything is merged, OutputExists where one of the outputs is there and may not be replaced, and
    UsageError where one of them cannot be cut into files of `max_shard_size`.
    """
    for one in several:
        kind = kind_of(one.out)
        sharding_of(max_shard_size, one.out, kind)
        require_free(one.out, kind, force=force)


def reports_of(
    path: str | Path, several: Sequence[Document], report: place.ReportWhere, *, force: bool
) -> list[Reporting | None]:
    """The report of each output. Raises UsageError, OutputExists where one cannot go there."""
    if len(several) > 1 and not place.is_default(report):
        raise UsageError(f"--report {report} is one file, and {path} has several recipes. Leave the name out.")
    return [reporting(report, one.out, force=force) for one in several]


def _reader(path: Path, loader: Any, root: Any, outputs: Mapping[str, str]) -> Callable[[], Recipe]:
    return lambda: RecipeDocument(Nodes(path, loader), root, outputs).read()


def _places(names: Sequence[str | None], out: Path) -> dict[str | None, Path]:
    """Where each goes."""
    if None in names or len(names) == 1:
        parts = out.with_name(f"{out.stem if kind_of(out) == 'file' else out.name}-parts")
        return {name: out if name is None or len(names) == 1 else parts / name for name in names}
    if kind_of(out) == "file":
        raise UsageError(f"-o {out}: {len(names)} models go there, so it must be a folder, which has one for each.")
    return {name: out / str(name) for name in names}


def _wrong_names(several: Sequence[RecipeDocument]) -> list[Fault]:
    """Names that no folder can have, and those that are there twice."""
    wrong: list[Fault] = []
    lines: dict[str | None, int] = {}
    for one in several:
        name, line = one.name, one.line
        if name is not None and not _NAME.fullmatch(name):
            wrong.append(Fault(line, f"name: {name!r} cannot be the name of a folder. Give a plain word."))
        elif name in lines and name is None:
            said = f"a second document without a name, after that of line {lines[name]}. Give all others a 'name'."
            wrong.append(Fault(line, said))
        elif name in lines:
            wrong.append(Fault(line, f"name: {name!r} is the name of the document of line {lines[name]} too."))
        lines.setdefault(name, line)
    return wrong


def _in_order(path: Path, several: Sequence[Document]) -> list[Document]:
    """Each behind those that it needs, else as in the file. Raises RecipeError for a circle."""
    ordered: list[Document] = []
    left = list(several)
    while left:
        made = {one.name for one in ordered}
        one = next((one for one in left if made.issuperset(one.needs)), None)
        if one is None:
            circle = "; ".join(f"{one.called} needs {joined(map(repr, one.needs))}" for one in left)
            raise RecipeError(f"recipe {path}: documents need one another in a circle: {circle}. Take one of them out.")
        left.remove(one)
        ordered.append(one)
    return ordered
