"""From a recipe to everything that is known before a cell is done: runs, samples, environments, cells.

    prepare(recipe, out)  ->  Ready

What cannot be drawn or compared is refused before anything is trained. All runs must have the same tasks, the same test
samples and one model, or their methods could not be compared. The environments are drawn once and frozen in
OUT/environments.json, which every method reads. Cost: the data of every run, opened once; the training, where it is
needed. Not here: how a run is trained (`trainings`), a mix is drawn (`environments`), a cell is done (`work`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.errors import ConfigError, MissingExtra, OutputError, RunError
from prefmerge.lab import environments as drawing
from prefmerge.lab import manifest as frozen
from prefmerge.lab.environments import Environment, Mix, Pool
from prefmerge.lab.plan import Environments, Prepared, Work, plan_work, run_identity
from prefmerge.lab.recipe import DIVERSE, HELD_OUT, Experiment, training_config
from prefmerge.lab.samples import Samples, digest_of, pools_of
from prefmerge.lab.trainings import train, write_text
from prefmerge.runs import Run, require_finished

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """Everything that is known before a cell is done."""

    recipe: Experiment
    out: Path
    runs: Mapping[str, tuple[Prepared, ...]]  # by training
    environments: Environments
    samples: Samples
    work: Work


def prepare(recipe: Experiment, out: Path, *, jobs: int, say: Say) -> Ready:
    """Train what is not trained, `jobs` runs at a time; open the data of every run, freeze the environments, plan the
    cells. Raises ConfigError, RunError, DataError, OutputError, MissingExtra, and what training raises.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a folder: {error}. Choose another output.") from error
    write_text(out / "recipe.yaml", recipe.to_yaml())
    _require_extras(recipe)
    common = _Common()
    if recipe.runs is None:
        pools, source = planned_pools(recipe)
        common.add(pools, source)
        freeze(recipe, pools, out / frozen.MANIFEST, say)  # so that it is refused now, if it is
    folders = recipe.runs if recipe.runs is not None else train(recipe, out, jobs, say)
    runs = {training: _opened(training, several, common) for training, several in folders.items()}
    if recipe.needs_held_out:
        apart = {one.seed for one in runs.get(HELD_OUT, ())}
        for one in runs["sequential"]:
            if one.seed not in apart:
                require_held_out(one.run)
    environments = freeze(recipe, common.pools, out / frozen.MANIFEST, say)
    samples = Samples.of(common.pools, [one for several in environments.values() for one in several])
    return Ready(recipe, out, runs, environments, samples, plan_work(recipe, runs, environments, common.digest))


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


def require_held_out(run: Run) -> None:
    """Raise RunError where a run kept no held-out samples."""
    from prefmerge.training.kept import read_kept

    kept = read_kept(run)
    if kept is None or not all(len(one) for one in kept.held_out):
        raise RunError(
            f"{run.folder}: it holds no samples out, which the entries named Adapt, Last + fitted bias and Fine-tuned "
            f"need. Give a run of the same seed that was trained with `held_out`, under `runs: {{{HELD_OUT}: [...]}}`."
        )


def planned_pools(recipe: Experiment) -> tuple[tuple[Pool, ...], str]:
    """The test samples that the runs which the recipe trains will have, and what they are of, in words. Raises
    ConfigError where two seeds have different ones.
    """
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario

    pools: tuple[Pool, ...] = ()
    seeds = list(dict.fromkeys(seed for several in recipe.wanted().values() for seed in several))
    for seed in seeds:
        config = training_config(recipe, "sequential", seed)
        own = pools_of(build_scenario(config, [load_corpus(one, config.seed) for one in config.data]))
        if not pools:
            pools = own
        elif digest_of(own) != digest_of(pools):
            raise ConfigError(
                f"finetune: the test samples or tasks of seed {seed} are not those of seed {seeds[0]}: they are drawn "
                "with the seed. Give `test` (samples of its own) and a `class_order` that no seed decides."
            )
    return pools, f"seed {seeds[0]} of the recipe"


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


def freeze(recipe: Experiment, pools: Sequence[Pool], manifest: Path, say: Say) -> Environments:
    """The environments of each study: the manifest's where it is of this recipe, else new ones, written to it."""
    given: tuple[Environment, ...] = ()
    asked = recipe.environments
    if asked.frozen is not None:
        given = tuple(one for one in frozen.load(asked.frozen, pools) if not DIVERSE.fullmatch(one.name))
    environments: Environments = {
        "places": given or (_drawn(recipe, pools, say) if "places" in recipe.studies else ()),
        "diversity": _diverse(recipe, pools) if "diversity" in recipe.studies else (),
    }
    every = [one for several in environments.values() for one in several]
    if manifest.is_file():
        kept = {one.key: one for one in frozen.load(manifest, pools)}
        named = {one.name: one.tasks for one in asked.mixes} if asked.mixes != "papers" else {}
        same = [_asked(one, named) for one in kept.values()] == [_asked(one, named) for one in every]
        if same and all(kept[one.key].digest == one.digest for one in given):
            # What was frozen stays, whatever this version would draw.
            return {study: tuple(kept[one.key] for one in several) for study, several in environments.items()}
        say(f"The recipe asks for other environments than {manifest} holds. New ones replace them.")
    if every:
        frozen.save(manifest, every, pools)
    return environments


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
