"""From a recipe to results: train what is not trained, freeze the environments, do the cells, add them up.

OUT/
  recipe.yaml          the recipe with every default spelled out
  runs/                the runs that the recipe trains
  environments.json    the target environments, frozen: every method sees these samples
  cells/*.json         finished pieces of work, each with what decides it
  results.json         all right answers, from which the report is made
  analysis/            measurements of the task vectors and their figures
  report.html, report.md, tables/, figures/

Killed at any moment, the same call goes on: a finished cell is a file that is there whole. Cells run side by side in
processes of their own, each with its share of the cores and one run open. Leaves out: what a cell does (`work`) and how
results are shown (`report`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.errors import ConfigError, DataError, MissingExtra, OutputError, PrefmergeError, RunError
from prefmerge.ground import atomic, jsons
from prefmerge.ground.progress import Progress
from prefmerge.ground.store import digest
from prefmerge.lab import environments as targets
from prefmerge.lab.cells import ALPHA_METHOD, Cell, Prepared, Work, plan_work, run_identity
from prefmerge.lab.environments import Environment, Mix, Pool
from prefmerge.lab.jobs import Executor, Processes, Serial
from prefmerge.lab.recipe import DIVERSE, Experiment, training_config
from prefmerge.lab.results import Results, Score, Shown, TaskScores
from prefmerge.runs import read_run, require_finished


@dataclass(frozen=True)
class Ready:
    """Everything that is known before a cell is done."""

    recipe: Experiment
    out: Path
    runs: Mapping[str, tuple[Prepared, ...]]
    pools: tuple[Pool, ...]
    places: tuple[Environment, ...]
    diverse: tuple[Environment, ...]
    work: Work


def run(
    recipe: Experiment, out: str | Path, *, jobs: int | None = None, progress: Progress | None = None, say: Any = None
) -> Results:
    """Do what is not done yet of an experiment and return all that is known. `jobs`: cells at once (default: one per
    core, one where there is an accelerator). `say`: told in a sentence what happens besides cells.

    A cell that cannot be done is named among the results' `missing`; the others go on. Raises ConfigError, RunError,
    DataError, and what training raises.
    """
    from prefmerge.training.run_folder import locked

    out = Path(out)
    say = say or (lambda text: None)
    ready = prepare(recipe, out, jobs=jobs, say=say)
    with locked(out):
        failed = do_cells(ready.work.cells(), out, jobs=jobs or default_jobs(), progress=progress)
        results = collect(ready, failed)
        _write(out / "results.json", results.to_json())
    return results


def default_jobs() -> int:
    """One cell per core, or one at a time where an accelerator does the work."""
    import torch

    from prefmerge.merging.api import available_cores

    return 1 if torch.cuda.is_available() or torch.backends.mps.is_available() else available_cores()


def prepare(recipe: Experiment, out: Path, *, jobs: int | None = None, say: Callable[[str], None]) -> Ready:
    """Train what lacks, open the data of every run, freeze the environments, plan the cells."""
    from prefmerge.lab.work import MANIFEST, pools_of
    from prefmerge.training.config_file import CONFIG
    from prefmerge.training.opened import open_data

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a folder: {error}. Choose another output.") from error
    _write_text(out / "recipe.yaml", recipe.to_yaml())
    _require_extras(recipe)
    pools: tuple[Pool, ...] | None = None
    first = digest = ""
    encoder: Any = None
    if recipe.runs is None:  # what cannot be drawn or compared is refused before the training, not after it
        pools, first = planned_pools(recipe)
        digest = _digest(pools)
        _environments(recipe, pools, out / MANIFEST, say)
    folders = recipe.runs if recipe.runs is not None else train(recipe, out, jobs or default_jobs(), say)
    runs: dict[str, tuple[Prepared, ...]] = {}
    for training, several in folders.items():
        prepared = []
        for folder in several:
            run, config, scenario = open_data(folder)
            if run.training != training:
                raise RunError(f"{folder}: its training is {run.training}, but the recipe lists it under {training}.")
            require_finished(run)
            own = pools_of(scenario)
            if pools is None:
                pools, first, digest = own, str(folder), _digest(own)
            elif _digest(own) != digest:
                raise RunError(
                    f"{folder}: its tasks or test samples are not those of {first}; methods can only be compared on "
                    "the same. Use runs that differ in their seed and training alone."
                )
            encoder = encoder or (config.model, str(folder))
            if config.model != encoder[0]:
                raise RunError(
                    f"{folder}: its model is {config.model.id!r}, that of {encoder[1]} is {encoder[0].id!r}, or is "
                    "read in another way. Methods can only be compared on one model."
                )
            identity = run_identity(run, (run.folder / CONFIG).read_bytes())
            prepared.append(Prepared(run, config.seed, identity))
        seeds = [one.seed for one in prepared]
        if len(set(seeds)) != len(seeds):
            raise RunError(f"the {training} runs have the seeds {seeds}; each must have its own.")
        runs[training] = tuple(prepared)
    assert pools is not None
    places, diverse = _environments(recipe, pools, out / MANIFEST, say)
    return Ready(recipe, out, runs, pools, places, diverse, plan_work(recipe, runs, places, diverse, digest))


def planned_pools(recipe: Experiment) -> tuple[tuple[Pool, ...], str]:
    """The test samples that the runs which the recipe trains will have, and what they are of, in words. Raises
    ConfigError where two seeds have other ones.
    """
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario
    from prefmerge.lab.work import pools_of

    pools: tuple[Pool, ...] = ()
    seeds = list(dict.fromkeys(seed for several in recipe.wanted().values() for seed in several))
    for seed in seeds:
        config = training_config(recipe, "sequential", seed)
        own = pools_of(build_scenario(config, [load_corpus(one, config.seed) for one in config.data]))
        if not pools:
            pools = own
        elif _digest(own) != _digest(pools):
            raise ConfigError(
                f"finetune: the test samples or tasks of seed {seed} are not those of seed {seeds[0]}: they are drawn "
                "with the seed. Give `test` (samples of its own) and a `class_order` that no seed decides."
            )
    return pools, f"seed {seeds[0]} of the recipe"


def _require_extras(recipe: Experiment) -> None:
    """Raise MissingExtra before anything is trained."""
    methods = [*recipe.method_list(), *recipe.diverse_methods()] if _of_places(recipe) else []
    for module, what, wanted in (
        ("ot", "optimal transport", any(method.similarity == "ot" for method in methods)),
        ("optuna", "search", any(method.kind == "search" for method in methods)),
    ):
        if wanted and importlib.util.find_spec(module) is None:
            raise MissingExtra(what, "places")


def _of_places(recipe: Experiment) -> set[str]:
    """Those of the studies that need environments."""
    return {study for study in ("places", "diversity") if study in recipe.studies}


def _digest(pools: Sequence[Pool]) -> str:
    """What tells these test samples from others."""
    said = [[pool.name, pool.ids, pool.labels, pool.fingerprint(range(len(pool.ids)))] for pool in pools]
    return digest(said)


def _environments(
    recipe: Experiment, pools: Sequence[Pool], manifest: Path, say: Callable[[str], None]
) -> tuple[tuple[Environment, ...], tuple[Environment, ...]]:
    """The environments of the main study and of the diversity study, from the manifest that is there if it is of this
    recipe; a new one otherwise.
    """
    asked = recipe.environments
    wanted = _of_places(recipe)
    frozen: tuple[Environment, ...] = ()
    if asked.frozen is not None:
        frozen = tuple(one for one in targets.load(asked.frozen, pools) if not DIVERSE.fullmatch(one.name))
    places: tuple[Environment, ...] = frozen
    if "places" in wanted and not frozen:
        mixes = (
            targets.PAPERS
            if asked.mixes == "papers"
            else tuple(Mix.of(one.name, one.ratios, one.tasks) for one in asked.mixes)
        )
        if asked.mixes == "papers" and any(len(mix.ratios) > len(pools) for mix in mixes):
            say(f"There are {len(pools)} tasks, so the papers' environments of more tasks are left out.")
            mixes = tuple(mix for mix in mixes if len(mix.ratios) <= len(pools))
        size = recipe.size(len(pools))
        places = targets.environments(pools, mixes, size=size, seeds=asked.variants, meta=recipe.meta)
        if any(place.shortfall for place in places):
            most = min(len(pool.ids) for pool in pools) / max(ratio for mix in mixes for ratio in mix.ratios)
            say(
                f"Some environments of {size} samples ask more of a task than it has; their ratios are followed as far "
                f"as possible. At `environments: {{size: {int(most)}}}` all would hold."
            )
    diverse: tuple[Environment, ...] = ()
    if "diversity" in wanted:
        diverse = targets.environments(
            pools,
            targets.diversity(len(pools), recipe.diversity.counts),
            size=recipe.size(len(pools)),
            seeds=recipe.diversity.variants,
            meta=recipe.meta,
        )
    every = (*places, *diverse)
    if manifest.is_file():
        kept = {(one.name, one.variant): one for one in targets.load(manifest, pools)}
        named = {one.name: one.tasks for one in asked.mixes} if asked.mixes != "papers" else {}
        same = [_asked(one, named) for one in kept.values()] == [_asked(one, named) for one in every]
        if same and all(kept[one.name, one.variant].digest == one.digest for one in frozen):
            # What was frozen stays, whatever this version would draw.
            return tuple(kept[one.name, one.variant] for one in places), tuple(
                kept[one.name, one.variant] for one in diverse
            )
        say(f"The recipe asks for other environments than {manifest} holds; it is written anew.")
    if every:
        targets.save(manifest, every, pools)
    return places, diverse


def _asked(place: Environment, named: Mapping[str, tuple[str, ...] | None]) -> tuple[Any, ...]:
    """What a recipe says of an environment, as far as it can be seen in what was drawn."""
    tasks = tuple(part.task for part in place.parts) if named.get(place.name) else None
    return place.name, place.variant, place.seed, place.ratios, place.size, len(place.meta_ids), tasks


def train(recipe: Experiment, out: Path, jobs: int, say: Callable[[str], None]) -> dict[str, list[str]]:
    """The runs of a recipe with `finetune`, trained under OUT/runs where they are not finished. Returns the folders."""
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    jobs_to_do: list[tuple[Path, Path]] = []
    folders: dict[str, list[str]] = {}
    for training, seeds in recipe.wanted().items():
        for seed in seeds:
            name = f"{training}-seed-{seed}"
            file, target = folder / f"{name}.yaml", folder / name
            _write_text(file, training_config(recipe, training, seed).to_yaml())
            folders.setdefault(training, []).append(str(target))
            if not _trained(target, file):
                jobs_to_do.append((file, target))
    for number, (file, target) in enumerate(jobs_to_do) if jobs == 1 or len(jobs_to_do) == 1 else ():
        say(f"Training {target.name} ({number + 1} of {len(jobs_to_do)}).")
        _train_one(file, target, None)
    if jobs > 1 and len(jobs_to_do) > 1:
        say(f"Training {len(jobs_to_do)} runs, {jobs} at a time; each tells its progress in {folder}/NAME.log.")
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(_train_one, *job, folder / f"{job[1].name}.log") for job in jobs_to_do]
            for one in waiting:
                one.result()
    return folders


def untrained(recipe: Experiment, out: Path) -> list[str]:
    """The runs that the recipe trains and that are not there yet."""
    if recipe.runs is not None:
        return []
    found = []
    for training, seeds in recipe.wanted().items():
        for seed in seeds:
            target = out / "runs" / f"{training}-seed-{seed}"
            if not _trained(target, target.with_suffix(".yaml")):
                found.append(target.name)
    return found


def _trained(target: Path, file: Path) -> bool:
    """Whether the run in `target` is finished, by this very configuration."""
    try:
        finished = read_run(target).finished
        return finished and (target / "config.yaml").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    except (RunError, OSError):
        return False


def _train_one(file: Path, target: Path, log: Path | None) -> None:
    """One `prefmerge finetune`, in a process of its own; where one is interrupted, the same goes on."""
    command = [sys.executable, "-m", "prefmerge", "finetune", str(file), "-o", str(target)]
    with open(log, "ab") if log else contextlib.nullcontext() as told:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=told, check=False)
    if done.returncode:
        why = f" {log.read_text(errors='replace').strip().splitlines()[-1]}" if log and log.stat().st_size else ""
        raise RunError(f"training {target} ended with exit code {done.returncode}.{why}")


# The cells


def do_cells(cells: Sequence[Cell], out: Path, *, jobs: int, progress: Progress | None = None) -> dict[str, str]:
    """Do the cells that are not done. Returns what went wrong, by key."""
    from prefmerge.lab.work import Worker
    from prefmerge.merging.api import available_cores

    todo = [cell for cell in cells if cell.load(out) is None]
    done = len(cells) - len(todo)
    if progress is not None:
        progress(done, len(cells), "")
    failed: dict[str, str] = {}

    def told(cell: Cell, error: PrefmergeError | None) -> None:
        nonlocal done
        done += 1
        if error is not None:
            failed[cell.key] = str(error)
        if progress is not None:
            progress(done, len(cells), cell.title if error is None else f"{cell.title}: {error}")

    hire = partial(Worker, out)
    alone = jobs == 1 or len(todo) < 2
    executor: Executor = Serial(hire) if alone else Processes(hire, jobs, max(1, available_cores() // jobs))
    executor.do(todo, told)
    return failed


# The results


def collect(ready: Ready, failed: Mapping[str, str]) -> Results:
    """All that the finished cells tell. What is not there is said in `missing`."""
    from prefmerge.lab.work import from_text, ids_digest

    out, pools = ready.out, ready.pools
    by_name = {pool.name: pool for pool in pools}
    starts = dict(zip([pool.name for pool in pools], np.cumsum([0, *(len(pool.ids) for pool in pools)]), strict=False))
    sizes = tuple(len(pool.ids) for pool in pools)
    scores: list[Score] = []
    task_scores: list[TaskScores] = []
    shown: list[Shown] = []
    missing: list[str] = []

    every_id = [one for pool in pools for one in pool.ids]

    def answers(cell: Cell, kept: Mapping[str, Any]) -> np.ndarray:
        """Right or wrong for every test sample, of a cell that was judged on all of them."""
        if kept["samples"] != ids_digest(every_id):
            raise DataError(f"{cell.title}: {_OTHER}")
        return from_text(kept["right"], kept["n"])

    def result(cell: Cell) -> dict[str, Any] | None:
        found = cell.load(out)
        if found is None:
            why = failed.get(cell.key, "it was not computed")
            missing.append(f"{cell.title}: {why}")
        return found

    def by_task(right: np.ndarray) -> tuple[int, ...]:
        return tuple(int(part.sum()) for part in np.split(right, np.cumsum(sizes)[:-1]))

    studies = {"places": ready.places, "diversity": ready.diverse}
    varied = {method.name for method in ready.recipe.diverse_methods()}
    asked = {method.name for method in ready.recipe.method_list()}
    for one, method, cell in ready.work.fixed:
        found = result(cell)
        for scale, kept in (found or {"scales": {}})["scales"].items():
            right = answers(cell, kept)
            task_scores.append(
                TaskScores("alpha", method.name, one.run.training, scale, one.seed, by_task(right), sizes)
            )
            for study, environments in studies.items():
                if method.name not in (asked if study == "places" else varied):
                    continue
                for place in environments:
                    rows = _within(place, by_name, starts)
                    seen = ids_digest([every_id[row] for row in rows])
                    scores.append(_score(study, method.name, scale, one.seed, place, right[rows], seen))
    for one, alpha, cell in ready.work.alphas:
        found = result(cell)
        for scale, kept in (found or {"scales": {}})["scales"].items():
            right = by_task(answers(cell, kept))
            task_scores.append(
                TaskScores("alpha", ALPHA_METHOD, one.run.training, scale, one.seed, right, sizes, alpha)
            )
    for one, name, cell in ready.work.models:
        found = result(cell)
        for scale, kept in (found or {"scales": {}})["scales"].items():
            right = by_task(answers(cell, kept))
            task_scores.append(TaskScores("methods", name, one.run.training, scale, one.seed, right, sizes))
    for one, cell in ready.work.similarities:
        for kind, several in (result(cell) or {"kinds": {}})["kinds"].items():
            for place in (*ready.places, *ready.diverse):
                shares = tuple(several[f"{place.name}/{place.variant}"]["shares"])
                truth = place.truth([pool.name for pool in pools])
                shown.append(Shown(one.seed, place.name, place.variant, kind, shares, truth))
    for one, study, method, place, cell in ready.work.places:
        found = result(cell)
        if found is None:
            continue
        shares = tuple(found["shares"]) if found.get("shares") is not None else None
        for scale, kept in found["scales"].items():
            right = from_text(kept["right"], kept["n"])
            chosen = found["chosen"] if isinstance(found.get("chosen"), str) else (found.get("chosen") or {}).get(scale)
            scores.append(_score(study, method.name, scale, one.seed, place, right, kept["samples"], shares, chosen))
    for _, cell in ready.work.checkpoints:
        result(cell)
    for one, cell in ready.work.measures:
        found = result(cell)
        if found is not None:
            _write(out / "analysis" / f"{one.run.training}.json", found)
    return Results(
        title=ready.recipe.title or "experiment",
        tasks=tuple(pool.name for pool in pools),
        seeds=tuple(one.seed for one in ready.runs["sequential"]),
        scales=ready.recipe.scales,
        environments=(*ready.places, *ready.diverse),
        scores=tuple(scores),
        task_scores=tuple(task_scores),
        similarities=tuple(shown),
        paper={key: value for key, value in ready.recipe.paper.model_dump().items() if value is not None},
        missing=tuple(dict.fromkeys(missing)),
        about=_about(ready),
    )


def _within(place: Environment, pools: Mapping[str, Pool], starts: Mapping[str, Any]) -> np.ndarray:
    """Where an environment's test samples are among all test samples, in its order."""
    return np.concatenate([int(starts[part.task]) + place.test_positions(pools[part.task]) for part in place.parts])


def _score(
    study: str,
    method: str,
    scale: str,
    seed: int,
    place: Environment,
    right: np.ndarray,
    seen: str,
    shares: tuple[float, ...] | None = None,
    chosen: str | None = None,
) -> Score:
    """`seen` is the digest of the ids of the samples that the model was judged on, as whoever judged it says."""
    from prefmerge.lab.work import ids_digest

    if seen != ids_digest(place.test_ids) or len(right) != len(place.test_ids):
        raise DataError(f"{method} on {place.title}: {_OTHER}")
    return Score(
        study, method, scale, seed, place.name, place.variant, int(right.sum()), len(right), seen, shares, chosen
    )


_OTHER = (
    "it was judged on other samples than the environments in environments.json have. Remove the folder `cells` and run "
    "the same command again."
)


def _about(ready: Ready) -> dict[str, Any]:
    """How the numbers were made: recipe, versions, machine. Nothing that differs between two equal calls."""
    import torch
    import transformers

    from prefmerge.merging.api import available_cores
    from prefmerge.version import __version__

    d = sum(info.size for info in _base(ready).values())
    return {
        "recipe": ready.recipe.model_dump(mode="json"),
        "runs": {training: [one.identity for one in several] for training, several in ready.runs.items()},
        "parameters": d,
        "versions": {
            "prefmerge": __version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "hardware": {
            "machine": platform.machine(),
            "cores": available_cores(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _base(ready: Ready) -> dict[str, Any]:
    from prefmerge.checkpoints import open_checkpoint

    with contextlib.closing(open_checkpoint(ready.runs["sequential"][0].run.base_path)) as base:
        return {name: info for name, info in base.tensors.items() if info.dtype.family == "float"}


def analysis_figures(out: Path) -> list[Path]:
    """Draw the measurements of task vectors that a `run` left in OUT/analysis; the pictures."""
    from prefmerge import analysis

    files = [out / "analysis" / f"{training}.json" for training in ("sequential", "independent")]
    found = [analysis.Measured.from_json(jsons.read(file)) for file in files if file.is_file()]
    return analysis.figures.draw_all(found, out / "analysis") if found else []


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    jsons.write(path, data)


def _write_text(path: Path, text: str) -> None:
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic.write_whole(path, text.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}.") from error
