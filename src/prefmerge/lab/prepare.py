"""From a recipe to everything that is known before a cell is done: runs, samples, environments, cells.

    planned(recipe, out)  ->  Ready        reads, writes nothing, trains nothing: runs that are not there are as planned
    prepare(recipe, out)  ->  Ready        the same with all runs there: what is not trained is

What cannot be drawn, searched or compared is refused before anything is written or trained. All runs must have the same
tasks, the same test samples and one model, or their methods could not be compared. The environments are drawn once and
frozen in OUT/environments.json, which every method reads. Cost: the data of every run, opened once; the training, where
it is needed. Not here: how a run is trained (`trainings`), a mix is drawn (`environments`), a cell is done (`work`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefmerge.data.scenarios import Scenario, joined
from prefmerge.errors import ConfigError, DataError, MissingExtra, OutputError, RunError
from prefmerge.ground.progress import phase
from prefmerge.ground.refused import remedy
from prefmerge.ground.words import listed
from prefmerge.lab import environments as drawing
from prefmerge.lab import manifest as frozen
from prefmerge.lab.environments import Environment, Mix, Pool
from prefmerge.lab.plan import Environments, Prepared, Work, plan_work, run_identity
from prefmerge.lab.recipe import DIVERSE, HELD_OUT, Experiment, training_config
from prefmerge.lab.samples import Samples, digest_of, pools_of
from prefmerge.lab.trainings import RunToTrain, TrainAll, Watch, asked_runs, train, trained, write_text
from prefmerge.runs import Run, RunTask, Training, require_finished

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """Everything that is known before a cell is done. `waiting`: the runs that are not trained, with their data."""

    recipe: Experiment
    out: Path
    runs: Mapping[str, tuple[Prepared, ...]]  # by training
    environments: Environments
    samples: Samples
    work: Work
    waiting: tuple[tuple[RunToTrain, Scenario], ...] = ()


def prepare(
    recipe: Experiment,
    out: Path,
    *,
    jobs: int,
    say: Say,
    watch: Watch = lambda name, now: None,
    force: bool = False,
    train_all: TrainAll | None = None,
) -> Ready:
    """Train what is not trained, `jobs` runs at a time; open the data of every run, freeze the environments, plan the
    cells. `force`: environments that were frozen may be replaced. `train_all`: as `train` takes it. Raises ConfigError,
    RunError, DataError, OutputError, MissingExtra, and what training raises.
    """
    ready = planned(recipe, out, say, force=force)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        way = remedy(error, "Choose another output.")
        raise OutputError(f"{out}: cannot be made a folder: {error.strerror or error}. {way}") from error
    write_text(out / "recipe.yaml", recipe.to_yaml())
    _keep(ready)
    if ready.waiting:
        train(recipe, out, jobs, say, watch, train_all)
        ready = planned(recipe, out, lambda text: None)
        assert not ready.waiting
    return ready


def planned(recipe: Experiment, out: Path, say: Say, *, force: bool = False) -> Ready:
    """All that is known before anything is trained or written. Raises as `prepare` does."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, so it cannot be made a folder. Choose another output.")
    _require_extras(recipe)
    common, waiting = _Common(), list[tuple[RunToTrain, Scenario]]()
    with phase("opening the data"):
        if recipe.runs is not None:
            runs = {training: _opened(training, several, common) for training, several in recipe.runs.items()}
        else:
            several: dict[str, list[Prepared]] = {}
            every = [(one, trained(recipe, one)) for one in asked_runs(recipe, out)]
            scenarios = {} if all(there for _, there in every) else _scenarios(recipe, common)
            for one, there in every:
                if there:
                    (prepared,) = _opened(one.training, [str(one.folder)], common)
                else:
                    waiting.append((one, scenarios[one.seed]))
                    waits = f"{one.folder.name}, not trained yet"
                    prepared = Prepared(_as_planned(one, scenarios[one.seed]), one.seed, waits)
                several.setdefault(one.training, []).append(prepared)
            runs = {training: tuple(ones) for training, ones in several.items()}
    if recipe.needs_held_out:
        apart = {one.seed for one in runs.get(HELD_OUT, ())}
        for one in runs["sequential"]:
            if one.run.finished and one.seed not in apart:
                require_held_out(one.run)
    environments = freeze(recipe, common.pools, out / frozen.MANIFEST, say, force=force)
    require_possible(recipe, environments, runs["sequential"][0].run)
    samples = Samples.of(common.pools, [one for several in environments.values() for one in several])
    work = plan_work(recipe, runs, environments, common.digest)
    return Ready(recipe, out, runs, environments, samples, work, tuple(waiting))


class _Common:
    """What all runs of an experiment must share: test samples and model."""

    def __init__(self) -> None:
        self.pools: tuple[Pool, ...] = ()
        self.digest = self.source = ""
        self.model: tuple[Any, str] | None = None

    def add(self, pools: tuple[Pool, ...], source: str) -> None:
        own = digest_of(pools)
        if not self.digest:
            self.pools, self.digest, self.source = pools, own, source
        elif own != self.digest:
            raise RunError(
                f"{source}: its tasks or test samples are not those of {self.source}; methods can only be compared on "
                "the same. Use runs that differ in their seed and training alone."
            )

    def add_model(self, model: Any, source: str) -> None:
        if self.model is None:
            self.model = model, source
        elif model != self.model[0]:
            raise RunError(
                f"{source}: its model is {model.id!r}, that of {self.model[1]} is {self.model[0].id!r}, or is read in "
                "another way. Methods can only be compared on one model."
            )


def _opened(training: str, folders: Sequence[str], common: _Common) -> tuple[Prepared, ...]:
    """The runs of one training, checked. Raises RunError for one that does not belong to the others."""
    from prefmerge.training.config_file import CONFIG
    from prefmerge.training.opened import open_data

    prepared = []
    for folder in folders:
        run, config, scenario = open_data(folder)
        if run.training != ("sequential" if training == HELD_OUT else training):
            raise RunError(f"{folder}: its training is {run.training}, but the recipe lists it under {training}.")
        require_finished(run)
        if training == HELD_OUT:
            require_held_out(run)
        common.add(pools_of(scenario), str(folder))
        common.add_model(config.model, str(folder))
        prepared.append(Prepared(run, config.seed, run_identity(run, (run.folder / CONFIG).read_bytes())))
    seeds = [one.seed for one in prepared]
    if len(set(seeds)) != len(seeds):
        raise RunError(f"the {training} runs have the seeds {seeds}; each must have its own.")
    return tuple(prepared)


def _scenarios(recipe: Experiment, common: _Common) -> dict[int, Scenario]:
    """The tasks that each seed's runs train on. Raises ConfigError where two seeds have different test samples."""
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario

    seeds = list(dict.fromkeys(seed for several in recipe.wanted().values() for seed in several))
    scenarios = {}
    for seed in seeds:
        config = training_config(recipe, "sequential", seed)
        scenarios[seed] = build_scenario(config, [load_corpus(one, config.seed) for one in config.data])
        pools = pools_of(scenarios[seed])
        if common.digest and digest_of(pools) != common.digest:
            raise ConfigError(
                f"finetune: the test samples or tasks of seed {seed} are not those of seed {seeds[0]}: they are drawn "
                "with the seed. Give `test` (samples of its own) and a `class_order` that no seed decides."
            )
        common.add(pools, f"seed {seeds[0]} of the recipe")
    return scenarios


def _as_planned(asked: RunToTrain, scenario: Scenario) -> Run:
    """The manifest that a run will have, without what only training knows."""
    tasks = (joined(scenario) if asked.training == "joint" else scenario).tasks
    names = [one.name for one in scenario.classes]
    return Run(
        folder=asked.folder,
        training=cast("Training", "sequential" if asked.training == HELD_OUT else asked.training),
        base="base",
        head="head.safetensors",
        tasks=tuple(
            RunTask(task.name, f"tasks/{task.name}", tuple(names[c] for c in task.classes), done=False)
            for task in tasks
        ),
    )


def require_held_out(run: Run) -> None:
    """Raise RunError where a run kept no held-out samples."""
    from prefmerge.training.kept import read_kept

    kept = read_kept(run)
    if kept is None or not all(len(one) for one in kept.held_out):
        raise RunError(
            f"{run.folder}: it holds no samples out, which the entries named Adapt, Last + fitted bias and Fine-tuned "
            f"need. Give a run of the same seed that was trained with `held_out`, under `runs: {{{HELD_OUT}: [...]}}`."
        )


def _require_extras(recipe: Experiment) -> None:
    """Raise MissingExtra before anything is trained."""
    entries = [entry for several in recipe.entries().values() for entry in several]
    for module, what, wanted in (
        ("ot", "optimal transport", any(entry.similarity == "ot" for entry in entries)),
        ("optuna", "search", any(entry.kind == "search" for entry in entries)),
        ("scipy", "adapt", recipe.needs_held_out or recipe.prior),
    ):
        if wanted and importlib.util.find_spec(module) is None:
            raise MissingExtra(what, "places")


# Environments


def freeze(recipe: Experiment, pools: Sequence[Pool], manifest: Path, say: Say, *, force: bool = False) -> Environments:
    """The environments of each study, those of the manifest where it has them. Writes nothing. Raises DataError where
    the recipe asks for others than the manifest has under the same name, unless `force`.
    """
    given: tuple[Environment, ...] = ()
    asked = recipe.environments
    if asked.frozen is not None:
        given = tuple(one for one in frozen.load(asked.frozen, pools) if not DIVERSE.fullmatch(one.name))
    environments: Environments = {
        "places": given or (_drawn(recipe, pools, say) if "places" in recipe.studies else ()),
        "diversity": _diverse(recipe, pools) if "diversity" in recipe.studies else (),
    }
    if force or not manifest.is_file():
        return environments
    kept = {one.key: one for one in frozen.load(manifest, pools)}
    named = {one.name: one.tasks for one in asked.mixes} if asked.mixes != "papers" else {}

    def other(one: Environment) -> bool:
        """Whether the manifest has another of this name."""
        if one.key not in kept:
            return False
        there = kept[one.key]
        return _asked(there, named) != _asked(one, named) or (one in given and there.digest != one.digest)

    others = [(kept[one.key], one) for several in environments.values() for one in several if other(one)]
    if others:
        raise DataError(
            f"{manifest}: was frozen with other environments than the recipe asks for: {_differing(*others[0])}"
            f"{f' ({len(others)} differ)' if len(others) > 1 else ''}. All that was measured there is of these. Choose "
            "another output (-o), or --force to freeze new ones."
        )
    # What was frozen stays, whatever this version would draw.
    return {study: tuple(kept.get(one.key, one) for one in several) for study, several in environments.items()}


def _keep(ready: Ready) -> None:
    """Write the manifest where it lacks an environment or has another: those that it has beside them stay in it."""
    file = ready.out / frozen.MANIFEST
    now = {one.key: one for several in ready.environments.values() for one in several}
    kept = {one.key: one for one in frozen.load(file, ready.samples.pools)} if file.is_file() else {}
    if now and any(key not in kept or kept[key].digest != one.digest for key, one in now.items()):
        frozen.save(file, [*{**kept, **now}.values()], ready.samples.pools)


def _differing(kept: Environment, asked: Environment) -> str:
    """What differs between two environments of one name."""
    where = f"{asked.name} variant {asked.variant}"
    for what, old, new in (
        ("samples", kept.size, asked.size),
        ("shown samples", len(kept.meta_ids), len(asked.meta_ids)),
        ("as its seed", kept.seed, asked.seed),
        ("as its ratios", _ratios(kept), _ratios(asked)),
    ):
        if old != new:
            return f"{where} has {old} {what} there, {new} in the recipe"
    return f"{where} has other tasks or samples there"


def _ratios(one: Environment) -> str:
    return ":".join(map(str, one.ratios))


def require_possible(recipe: Experiment, environments: Environments, run: Run) -> None:
    """Raise ConfigError for an entry that cannot work at one of its environments."""
    from prefmerge.target.search.tuning import LEAST

    classes = [frozenset(task.classes) for task in run.tasks]
    alike = len(classes) > 1 and len(set(classes)) == 1
    for study, entries in recipe.entries().items():
        few = [one for one in environments[study] if len(one.meta_ids) < LEAST]
        for entry in entries:
            if entry.kind == "search" and few:
                shown = [f"{one.name} variant {one.variant} ({len(one.meta_ids)})" for one in few]
                raise ConfigError(
                    f"{study}: {entry.name} needs at least {LEAST} shown samples of each environment, but fewer are "
                    f"shown by {listed(shown, 3)}. Raise `environments: {{size: ...}}` or the share that is shown, "
                    f"`meta`, or leave {entry.name} out."
                )
            if alike and entry.held_out and entry.given == "labels":
                raise ConfigError(
                    f"{study}: {entry.name} needs labels that tell the tasks apart, and all {len(classes)} tasks have "
                    f"the same classes. Leave {entry.name} out; entries that see inputs or pairs can be compared."
                )


def _drawn(recipe: Experiment, pools: Sequence[Pool], say: Say) -> tuple[Environment, ...]:
    """The environments of the main study."""
    asked = recipe.environments
    if asked.mixes == "papers":
        mixes = tuple(mix for mix in drawing.PAPERS if len(mix.ratios) <= len(pools))
        if len(mixes) < len(drawing.PAPERS):
            say(f"There are {len(pools)} tasks, so there are no environments of more tasks, as the papers have.")
    else:
        mixes = tuple(Mix.of(one.name, one.ratios, one.tasks) for one in asked.mixes)
    size = recipe.size(len(pools))
    places = drawing.environments(pools, mixes, size=size, seeds=asked.variants, meta=recipe.meta)
    if any(place.shortfall for place in places):
        most = min(len(pool.ids) for pool in pools) / max(ratio for mix in mixes for ratio in mix.ratios)
        say(
            f"Some environments of {size} samples ask more of a task than it has; their ratios are followed as far as "
            f"possible. At `environments: {{size: {int(most)}}}` all ratios hold."
        )
    return places


def _diverse(recipe: Experiment, pools: Sequence[Pool]) -> tuple[Environment, ...]:
    """The environments of the diversity study."""
    return drawing.environments(
        pools,
        drawing.diversity(len(pools), recipe.diversity.counts),
        size=recipe.size(len(pools)),
        seeds=recipe.diversity.variants,
        meta=recipe.meta,
    )


def _asked(place: Environment, named: Mapping[str, tuple[str, ...] | None]) -> tuple[Any, ...]:
    """What a recipe says of an environment, as far as it can be seen in what was drawn."""
    tasks = tuple(part.task for part in place.parts) if named.get(place.name) else None
    return place.name, place.variant, place.seed, place.ratios, place.size, len(place.meta_ids), tasks
