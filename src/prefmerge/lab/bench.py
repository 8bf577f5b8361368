"""An experiment from its recipe to its results: prepare, do the cells, collect.

OUT/
  recipe.yaml          the recipe with every default spelled out
  runs/                the runs that the recipe trains
  environments.json    the target environments, frozen: every method sees these samples
  cells/*.json         finished pieces of work, each with what decides it
  results.json         all right answers, from which the report is made
  analysis/            measurements of the task vectors and their figures
  report.html, report.md, tables/, figures/

After a kill at any moment the same call resumes: a finished cell is a file, whole. Not here: how results are shown
(`report`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefmerge.errors import PrefmergeError
from prefmerge.ground import jsons
from prefmerge.ground.progress import Progress
from prefmerge.lab.cells import Cell
from prefmerge.lab.collect import collect, write
from prefmerge.lab.jobs import Executor, Processes, Serial
from prefmerge.lab.prepare import prepare
from prefmerge.lab.recipe import Experiment
from prefmerge.lab.results import Results


def run(
    recipe: Experiment,
    out: str | Path,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Results:
    """Do what is not done yet of an experiment and return all that is known. `jobs`: cells at once (default: one per
    core, one where there is an accelerator). `say` gets a sentence about what happens beside the cells.

    A cell that cannot be done is named among the results' `missing`; the others are done. Raises ConfigError, RunError,
    DataError, and what training raises.
    """
    from prefmerge.training.run_folder import locked

    out, jobs = Path(out), jobs or default_jobs()
    ready = prepare(recipe, out, jobs=jobs, say=say)
    with locked(out):
        failed = do_cells(ready.work.cells(), out, jobs=jobs, progress=progress)
        results = collect(ready, failed)
        write(out / "results.json", results.to_json())
    return results


def default_jobs() -> int:
    """One cell per core, or one at a time where an accelerator does the work."""
    import torch

    from prefmerge.merging.api import available_cores

    return 1 if torch.cuda.is_available() or torch.backends.mps.is_available() else available_cores()


def do_cells(cells: Sequence[Cell[Any]], out: Path, *, jobs: int, progress: Progress | None = None) -> dict[str, str]:
    """Do the cells that are not done. Returns why those that failed did, by key."""
    from prefmerge.lab.work import RunWorker
    from prefmerge.merging.api import available_cores

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
            progress(done, len(cells), cell.title if error is None else f"{cell.title}: {error}")

    hire = partial(RunWorker, out)
    alone = jobs == 1 or len(todo) < 2
    executor: Executor = Serial(hire) if alone else Processes(hire, jobs, max(1, available_cores() // jobs))
    executor.do(todo, ended)
    return failed


def analysis_figures(out: Path) -> list[Path]:
    """Draw the measurements of task vectors that a `run` left in OUT/analysis; the pictures."""
    from prefmerge import analysis

    files = [out / "analysis" / f"{training}.json" for training in ("sequential", "independent")]
    measured = [analysis.Measured.from_json(jsons.read(file)) for file in files if file.is_file()]
    return analysis.figures.draw_all(measured, out / "analysis") if measured else []
