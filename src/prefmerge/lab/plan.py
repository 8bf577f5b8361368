"""Which cells an experiment has, and what the result of each is for.

    plan_work(recipe, runs, environments, samples)  ->  Work, whose uses name a cell and the row that it fills

Source: Tunable MAGMAX, sections 4.2 to 4.4; the MAGMAX supplement, tables 1 and 2. One cell may fill several rows.
Cells of stage 1 need nothing but the run, those of stage 2 read what a cell of stage 1 gives. Cost: a run's small
files. Not here: what a cell holds (`cells`) and the work itself (`work`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

import xxhash

from prefmerge.lab.cells import Cell
from prefmerge.lab.entries import INDEPENDENT, PRIOR, RELEASED, Entry
from prefmerge.lab.environments import Environment
from prefmerge.lab.kinds import (
    AtTarget,
    CheckpointsSpec,
    Counts,
    FixedSpec,
    Likenesses,
    Mark,
    MeasureSpec,
    ModelSpec,
    OnAll,
    R,
    Searched,
    SearchSpec,
    SimilaritySpec,
    Spec,
    TargetSpec,
)
from prefmerge.lab.recipe import HELD_OUT, Experiment, StudyName
from prefmerge.runs import Run

if TYPE_CHECKING:
    from prefmerge.analysis import Measured
    from prefmerge.target.similarity import SimilarityKind

ALPHA_METHOD = "Tunable MAGMAX"

# MAGMAX's own coefficients, where the recipe's are others (supplement; TIES: 0.55).
MAGMAX_SCALES = {"MAGMAX": "0.5", "Max Abs": "0.5", "Rand Mix": "1.0", "Average": "1.0", "TIES": "0.55"}

Environments = Mapping[StudyName, Sequence[Environment]]  # of the studies that have some


def run_identity(run: Run, config: bytes) -> str:
    """A hash of what makes a run this one, at the cost of its small files: manifest, configuration, head, lists of
    samples with the hashes of their contents, log of the training (losses step by step), what the base has beside its
    weights (tokenizer, preprocessing), and the sizes of the checkpoints' files. The folder's path is no part of it.
    """
    parts = [json.dumps(run.to_json(), sort_keys=True).encode(), config]
    beside = [run.head_path, run.folder / "samples.json"]
    if run.base_path.is_dir():
        beside += sorted(file for file in run.base_path.rglob("*") if file.suffix in (".json", ".txt", ".model"))
    for file in beside:
        if file is not None and file.is_file():
            parts.append(f"{file.name}\0{xxhash.xxh3_128_hexdigest(file.read_bytes())}".encode())
    log = run.folder / "log.jsonl"
    if log.is_file():
        parts.append(b"\n".join(_without_times(log.read_bytes())))
    for index in range(len(run.tasks)):
        path = run.task_path(index)
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        parts.append(json.dumps([[file.name, file.stat().st_size] for file in files]).encode())
    return xxhash.xxh3_128_hexdigest(b"\0".join(parts))


def _without_times(log: bytes) -> Iterable[bytes]:
    """The lines of a log without what differs between two trainings of the same bytes."""
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line that a kill tore
        if isinstance(event, dict):
            yield json.dumps({k: v for k, v in event.items() if k in ("event", "task", "step", "loss")}).encode()


@dataclass(frozen=True)
class Prepared:
    """A run with what every cell of it depends on."""

    run: Run
    seed: int
    identity: str

    def cell(self, title: str, spec: Spec[R], after: Cell[Any] | None = None) -> Cell[R]:
        stage = 1 if after is None else 2
        return Cell(spec, stage, str(self.run.folder), self.identity, self.seed, title, after)


@dataclass(frozen=True)
class Use(Generic[R]):
    """What a cell's result is for: the row `name` of a study's tables, and `prior` with the log prior, for the seed of
    the cell. "": there is no such row.
    """

    cell: Cell[R]
    name: str
    training: str
    study: StudyName
    alpha: str | None = None
    environment: str = ""  # the key of the one that it is about
    prior: str = ""


@dataclass(frozen=True)
class Work:
    """All cells of an experiment, by what their results are for."""

    fixed: tuple[Use[OnAll], ...] = ()  # entries without a preference, on all test samples
    alphas: tuple[Use[OnAll], ...] = ()
    models: tuple[Use[OnAll], ...] = ()  # single models
    similarities: tuple[Use[Likenesses], ...] = ()
    targets: tuple[Use[AtTarget] | Use[Searched], ...] = ()
    checkpoints: tuple[Use[Counts], ...] = ()
    measures: tuple[Use[Measured], ...] = ()

    def cells(self) -> list[Cell[Any]]:
        """Every cell once, stage by stage and, inside a stage, run by run."""
        groups: tuple[Sequence[Use[Any]], ...] = (
            self.similarities,
            self.checkpoints,
            self.fixed,
            self.models,
            self.alphas,
            self.targets,
            self.measures,
        )
        cells = {use.cell.key: use.cell for group in groups for use in group}
        return sorted(cells.values(), key=lambda cell: (cell.stage, cell.run))


def plan_work(
    recipe: Experiment, runs: Mapping[str, Sequence[Prepared]], environments: Environments, samples: str
) -> Work:
    """The cells that the recipe asks for. `runs` by training; `samples` is the digest of all test samples."""
    kept = {one.seed: one for one in runs.get(HELD_OUT, ())}
    plans = [_Plan(recipe, one, kept.get(one.seed, one), environments, samples) for one in runs["sequential"]]
    supplement = recipe if "methods" in recipe.studies else None
    measured = [one for training in ("sequential", "independent") for one in runs.get(training, ())[:1]]
    return Work(
        fixed=tuple(use for plan in plans for use in plan.fixed()),
        alphas=tuple(use for plan in plans for use in plan.alphas()),
        models=() if supplement is None else tuple(_supplement(supplement, runs, samples)),
        similarities=tuple(Use(plan.similarity, "", "sequential", "places") for plan in plans if plan.similarity),
        targets=tuple(use for plan in plans for use in plan.targets()),
        checkpoints=tuple(
            Use(cell, "", "sequential", "places") for plan in plans for cell in plan.checkpoints.values()
        ),
        measures=tuple(_measure(one) for one in measured if "analysis" in recipe.studies),
    )


class _Plan:
    """The cells of one sequential run that are about environments and alphas."""

    def __init__(
        self, recipe: Experiment, one: Prepared, kept: Prepared, environments: Environments, samples: str
    ) -> None:
        self.recipe, self.one, self.kept, self.samples = recipe, one, kept, samples
        self.marks = {study: [Mark.of(place) for place in several] for study, several in environments.items()}
        self.entries: dict[StudyName, list[Entry]] = recipe.entries()
        every = [entry for several in self.entries.values() for entry in several]
        self.everywhere = {entry.name: entry for entry in every if entry.kind == "fixed"}
        marks = tuple(mark for several in self.marks.values() for mark in several)
        self.priors = marks if recipe.prior else ()
        self.similarity = self._similarity(every, marks)
        chooses = any(entry.kind == "checkpoint" for entry in every)
        self.checkpoints = {scale: self._checkpoints(scale, marks) for scale in recipe.scales if chooses}

    def fixed(self) -> list[Use[OnAll]]:
        entries = dict(self.everywhere)
        if "alpha" in self.recipe.studies:
            entries.setdefault("MAGMAX", Entry("MAGMAX", "fixed", {"method": "magmax"}))  # what the alphas stand beside
        return [
            use
            for entry in entries.values()
            for use in self._uses(entry.name, entry.settings, entry.name, priors=self.priors)
        ]

    def alphas(self) -> list[Use[OnAll]]:
        alphas = self.recipe.alpha.values if "alpha" in self.recipe.studies else ()
        return [
            use
            for alpha in alphas
            for use in self._uses(
                f"{ALPHA_METHOD}, alpha {alpha}", {**RELEASED, "preference": f"alpha:{alpha}"}, ALPHA_METHOD, alpha
            )
        ]

    def _uses(
        self,
        title: str,
        settings: Mapping[str, Any],
        name: str,
        alpha: str | None = None,
        priors: tuple[Mark, ...] = (),
    ) -> list[Use[OnAll]]:
        prior = f"{name}{PRIOR}" if priors else ""
        cells = _fixed(self.recipe, self.one, title, settings, self.samples, self.recipe.scales, priors)
        return [Use(cell, name, "sequential", "alpha", alpha, prior=prior) for cell in cells]

    def targets(self) -> list[Use[AtTarget] | Use[Searched]]:
        return [
            self._at(study, entry, mark, scale)
            for study, entries in self.entries.items()
            for mark in self.marks[study]  # one target after another: its entries merge the same
            for entry in entries
            if entry.kind != "fixed"
            for scale in (("",) if entry.kind == "search" or entry.held_out else self.recipe.scales)
        ]

    def _at(self, study: StudyName, entry: Entry, mark: Mark, scale: str) -> Use[AtTarget] | Use[Searched]:
        """At one scale; "": it chooses its own."""
        recipe, one = self.recipe, self.one
        title = f"seed {one.seed}, {mark.name} variant {mark.variant}, {entry.name}"
        if entry.kind == "search":
            search = SearchSpec(entry, mark, one.seed, recipe.batch, recipe.search.trials, recipe.search.patience)
            return Use(one.cell(title, search), entry.name, "sequential", study, environment=mark.key)
        name, prior = (title or "" for title in entry.titles)
        scales = (scale,) if scale else ()
        spec, after = TargetSpec(entry, mark, scales, one.seed, recipe.batch, prior=recipe.prior), None
        if entry.held_out:
            one = self.kept
        elif entry.kind == "checkpoint":
            after = self.checkpoints[scale]
        elif entry.similarity is not None and entry.similarity != "label":
            after, reads = self.similarity, recipe.similarity.of(entry.similarity)
            spec = replace(spec, similarity=reads, samples=recipe.similarity.samples)
        return Use(one.cell(title, spec, after), name, "sequential", study, environment=mark.key, prior=prior)

    def _checkpoints(self, scale: str, marks: tuple[Mark, ...]) -> Cell[Counts]:
        title = f"seed {self.one.seed}, every checkpoint on what places show"
        return self.one.cell(title, CheckpointsSpec((scale,), marks, self.recipe.batch))

    def _similarity(self, entries: Sequence[Entry], marks: tuple[Mark, ...]) -> Cell[Likenesses] | None:
        kinds: list[SimilarityKind] = sorted({entry.similarity for entry in entries if entry.similarity})
        if not kinds:
            return None
        asked = self.recipe.similarity
        spec = SimilaritySpec({kind: asked.of(kind) for kind in kinds}, asked.samples, marks, self.recipe.batch)
        return self.one.cell(f"seed {self.one.seed}, similarities of places and tasks", spec)


def _fixed(
    recipe: Experiment,
    one: Prepared,
    name: str,
    settings: Mapping[str, Any],
    samples: str,
    scales: tuple[str, ...],
    priors: tuple[Mark, ...] = (),
) -> list[Cell[OnAll]]:
    """A cell for each scale."""
    title = f"{one.run.training}, seed {one.seed}, {name}"
    return [one.cell(title, FixedSpec(settings, (scale,), samples, one.seed, recipe.batch, priors)) for scale in scales]


def _supplement(recipe: Experiment, runs: Mapping[str, Sequence[Prepared]], samples: str) -> list[Use[OnAll]]:
    """Tables 1 and 2 of the MAGMAX supplement: single models, and merges at the recipe's scales and at MAGMAX's."""
    uses: list[Use[OnAll]] = []

    def model(one: Prepared, name: str, which: Any) -> None:
        title = f"{one.run.training}, seed {one.seed}, {name}, not merged"
        uses.append(Use(one.cell(title, ModelSpec(which, samples, recipe.batch)), name, one.run.training, "methods"))

    def merged(one: Prepared, name: str, settings: Mapping[str, Any]) -> None:
        scales = tuple(dict.fromkeys([*recipe.scales, MAGMAX_SCALES[name]]))
        cells = _fixed(recipe, one, name, settings, samples, scales)
        uses.extend(Use(cell, name, one.run.training, "methods") for cell in cells)

    for one in runs["sequential"]:
        model(one, "Zero-shot", "base")
        model(one, "Baseline", "last")
        merged(one, "MAGMAX", {"method": "magmax"})
    for training, name in (("joint", "Joint"), ("lwf", "LwF"), ("ewc", "EWC")):
        for one in runs.get(training, ()):
            model(one, name, "last")
    for one in runs.get("independent", ()):
        for name, settings in INDEPENDENT.items():
            merged(one, name, settings)
    return uses


def _measure(one: Prepared) -> Use[Measured]:
    title = f"{one.run.training}, seed {one.seed}, task vectors"
    return Use(one.cell(title, MeasureSpec()), "", one.run.training, "analysis")
