"""An experiment from its recipe to its results: prepare, do the cells, collect.

OUT/
  recipe.yaml          the recipe with every default spelled out
  runs/                the runs that the recipe trains
  environments.json    the target environments, frozen: every method sees these samples
  cells/*.json         finished pieces of work, each with what decides it
  results.json         all right answers, from which the report is made
  analysis/            measurements of the task vectors and their figures
  report.html, report.md, tables/, figures/
  report.json          what the report was made of, so that it is drawn again only where that changed

After a kill at any moment the same call resumes: a finished cell is a file, whole. Not here: how results are shown
(`report`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.errors import PrefmergeError
from prefmerge.ground import jsons
from prefmerge.ground.progress import Progress
from prefmerge.ground.store import digest, digest_of_file
from prefmerge.lab import on_ray
from prefmerge.lab.cells import Cell
from prefmerge.lab.collect import collect, write
from prefmerge.lab.jobs import Executor, Processes, Serial, gpus
from prefmerge.lab.prepare import prepare
from prefmerge.lab.recipe import Experiment
from prefmerge.lab.results import Results
from prefmerge.lab.trainings import Watch
from prefmerge.report import place

if TYPE_CHECKING:
    from prefmerge.analysis import Measured

MADE_OF = "report.json"


def run(
    recipe: Experiment,
    out: str | Path,
    *,
    jobs: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
    watch: Watch = lambda name, now: None,
    say: Callable[[str], None] = lambda text: None,
    force: bool = False,
) -> Results:
    """Do what is not done yet of an experiment and return all that is known. `jobs`: trainings and cells at once
    (default: one per core, or one per accelerator). `ray`: the address of a cluster of Ray to do them on, or `local`,
    with `out` on a disk that all its machines share; then `jobs` is of all machines together. `progress` is called for
    each cell and `watch` for each training; `say` gets a sentence about whatever else happens. `force`: environments
    that were frozen there may be replaced.

    A cell that cannot be done is named among the results' `missing`; the others are done. Raises ConfigError, RunError,
    DataError, and what training raises.
    """
    from prefmerge.training.run_folder import locked

    out = Path(out)
    with contextlib.ExitStack() as stack:
        crew = None if ray is None else stack.enter_context(on_ray.hired_on(ray, recipe, jobs))
        if crew is not None:
            say(f"On Ray: {crew}.")
        jobs = crew.workers if crew is not None else jobs or default_jobs()
        train_all = None if crew is None else partial(on_ray.train_all, crew)
        ready = prepare(recipe, out, jobs=jobs, say=say, watch=watch, force=force, train_all=train_all)
        stack.enter_context(locked(out))
        failed = do_cells(ready.work.cells(), out, jobs=jobs, crew=crew, progress=progress)
        results = collect(ready, failed)
        write(out / "results.json", results.to_json())
    return results


def default_jobs() -> int:
    """One cell per accelerator, or one per core where there is none."""
    import torch

    from prefmerge.merging.limits import available_cores

    return len(gpus()) or (1 if torch.backends.mps.is_available() else available_cores())


def do_cells(
    cells: Sequence[Cell[Any]],
    out: Path,
    *,
    jobs: int,
    crew: on_ray.Crew | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Do the cells that are not done, on the cluster that is connected to where there is a crew. Returns why
    those that failed did, by key.
    """
    from prefmerge.lab.work import RunWorker
    from prefmerge.merging.limits import available_cores

    todo = [cell for cell in cells if cell.load(out) is None]
    done = len(cells) - len(todo)
    if progress is not None:
        progress(done, len(cells), "")
    failed: dict[str, str] = {}

    def ended(cell: Cell[Any], error: PrefmergeError | None) -> None:
        nonlocal done
        done += 1
        if error is not None:
            failed[cell.key] = str(error)
        if progress is not None:
            progress(done, len(cells), cell.called if error is None else f"{cell.called}: {error}")

    hire = partial(RunWorker, out)
    alone = jobs == 1 or len(todo) < 2
    executor: Executor = Serial(hire) if alone else Processes(hire, jobs, max(1, available_cores() // jobs))
    if crew is not None:
        executor = on_ray.OnRay(hire, crew)
    executor.do(todo, ended)
    return failed


def report(results: Results, out: Path, to: place.ReportWhere = None) -> list[Path]:
    """Write the report below `out`, with the measurements of task vectors that a `run` left there, and return its
    files, report.html first. A report that is whole, and of these results and this code, is left as it is. `to`: an
    HTML file that gets the same page.
    """
    written = _report(results, out)
    asked = place.asked(to)
    if asked is not None and asked.file is not None:
        place.write(asked.file, written[0].read_text(encoding="utf-8"))
    return written


def _report(results: Results, out: Path) -> list[Path]:
    from prefmerge.lab import report as reporting
    from prefmerge.lab import vector_tables

    made_of, kept = _made_of(results, out), _read_kept(out / MADE_OF)
    if kept is not None and kept.get("made_of") == made_of:
        files = {out / name: was for name, was in kept["files"].items()}
        if files and all(file.is_file() and digest_of_file(file) == was for file, was in files.items()):
            return list(files)
    sets, pictures = _analysis_figures(out)
    written = reporting.write(results, out, pictures, vector_tables.behind(sets))
    files = {file.relative_to(out).as_posix(): digest_of_file(file) for file in written}
    write(out / MADE_OF, {"made_of": made_of, "files": files})
    return written


def _made_of(results: Results, out: Path) -> str:
    """What decides the bytes of the report."""
    import matplotlib

    from prefmerge import analysis, lab, plotting
    from prefmerge import report as reports

    folders = [Path(module.__file__).parent for module in (lab, analysis, reports) if module.__file__]
    code = sorted(file for folder in folders for kind in ("*.py", "*.css") for file in folder.rglob(kind))
    measured = [file for file in _measured(out) if file.is_file()]
    parts = [digest_of_file(file) for file in (*code, Path(plotting.__file__), *measured)]
    return digest([results.to_json(), matplotlib.__version__, parts], sort=True)


def _read_kept(file: Path) -> dict[str, Any] | None:
    try:
        kept = jsons.read(file)
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and isinstance(kept.get("files"), dict) else None


def _measured(out: Path) -> list[Path]:
    return [out / "analysis" / f"{training}.json" for training in ("sequential", "independent")]


def _analysis_figures(out: Path) -> tuple[list[Measured], list[Path]]:
    """The measurements of task vectors, and the pictures of them."""
    from prefmerge import analysis

    sets = [analysis.Measured.from_json(jsons.read(file)) for file in _measured(out) if file.is_file()]
    return sets, analysis.figures.draw_all(sets, out / "analysis") if sets else []
