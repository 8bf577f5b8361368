"""The pieces of work of an experiment: what each computes, what its result depends on, where it is kept.

A cell is one model (or one set of similarities) of one run. Its file is named after everything that decides its
result: the run's identity, the settings, the samples. So a finished cell is found again by the next call, and one whose
recipe, run or data changed is not. Cells of stage 1 need nothing but the run; those of stage 2 read results of stage 1.
Cost: none; nothing is opened but a run's small files. Leaves out: the work itself, which is `work`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from prefmerge.ground import jsons
from prefmerge.ground.store import Store, digest, digest_of_file
from prefmerge.lab.environments import Environment
from prefmerge.lab.methods import INDEPENDENT, Method
from prefmerge.lab.recipe import Experiment
from prefmerge.runs import Run

FORMAT = "prefmerge-cell/1"
ALPHA_METHOD = "Tunable MAGMAX"

CellKind = Literal["fixed", "model", "similarity", "checkpoints", "place", "search", "measure"]

# MAGMAX's own coefficients, where the recipe's are others (supplement; TIES: 0.55).
MAGMAX_SCALES = {"MAGMAX": "0.5", "Max Abs": "0.5", "Rand Mix": "1.0", "Average": "1.0", "TIES": "0.55"}


@dataclass(frozen=True)
class Cell:
    """`spec` decides the result and is JSON; `title` is for people."""

    kind: CellKind
    stage: int
    run: str  # folder
    seed: int
    title: str
    spec: Mapping[str, Any] = field(hash=False)
    after: str | None = None  # the key of a cell whose result this one reads

    @property
    def key(self) -> str:
        """The name of its file, without suffix: readable, and a hash of all that decides the result."""
        words = re.sub(r"[^a-z0-9.]+", "-", f"{self.kind}-{self.title}".lower()).strip("-")
        return f"{words[:80]}-{digest([FORMAT, self.kind, self.spec], short=True, sort=True)}"

    def load(self, out: Path) -> dict[str, Any] | None:
        """The kept result; None where there is none, or its file is damaged."""
        content = store_of(out).read(self.key)
        try:
            found = None if content is None else jsons.decoded(content, nan=True)
        except jsons.NotJson:
            return None
        return found["result"] if isinstance(found, dict) and found.get("format") == FORMAT else None

    def keep(self, out: Path, result: Mapping[str, Any]) -> None:
        """Write the result, whole or not at all."""
        data = {"format": FORMAT, "kind": self.kind, "title": self.title, "spec": self.spec, "result": result}
        store_of(out).write(self.key, jsons.encoded(data, indent=None, nan=True))


def store_of(out: Path) -> Store:
    """Where the cells of an experiment are kept, by their keys."""
    return Store(out / "cells", ".json")


def run_identity(run: Run, config: bytes) -> str:
    """What tells one run from another, at the cost of its small files: manifest, configuration, head, lists of samples
    with the hashes of their contents, log of the training (losses step by step), what the base has beside its weights
    (tokenizer, preprocessing), and the sizes of the checkpoints' files. Where the folder stands is no part of it.
    """
    parts = [json.dumps(run.to_json(), sort_keys=True).encode(), config]
    beside = [run.head_path, run.folder / "samples.json"]
    if run.base_path.is_dir():
        beside += sorted(file for file in run.base_path.rglob("*") if file.suffix in (".json", ".txt", ".model"))
    for file in beside:
        if file is not None and file.is_file():
            parts.append(f"{file.name}\0{digest_of_file(file)}".encode())
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

    def cell(self, kind: CellKind, stage: int, title: str, *, after: str | None = None, **spec: Any) -> Cell:
        return Cell(kind, stage, str(self.run.folder), self.seed, title, {"run": self.identity, **spec}, after)


@dataclass(frozen=True)
class Work:
    """All cells of an experiment, by what their results are for."""

    fixed: tuple[tuple[Prepared, Method, Cell], ...] = ()  # methods without a preference, on all test samples
    alphas: tuple[tuple[Prepared, str, Cell], ...] = ()
    models: tuple[tuple[Prepared, str, Cell], ...] = ()  # (run, the name that tables print, ...): single models
    similarities: tuple[tuple[Prepared, Cell], ...] = ()
    checkpoints: tuple[tuple[Prepared, Cell], ...] = ()
    places: tuple[tuple[Prepared, str, Method, Environment, Cell], ...] = ()  # str: the study
    measures: tuple[tuple[Prepared, Cell], ...] = ()

    def cells(self) -> list[Cell]:
        """Every cell once, stage by stage and, inside a stage, run by run."""
        groups: tuple[Sequence[tuple[Any, ...]], ...] = (
            self.similarities,
            self.checkpoints,
            self.fixed,
            self.models,
            self.alphas,
            self.places,
            self.measures,
        )
        found = {entry[-1].key: entry[-1] for group in groups for entry in group}
        return sorted(found.values(), key=lambda cell: (cell.stage, cell.run))


def plan_work(
    recipe: Experiment,
    runs: Mapping[str, Sequence[Prepared]],
    places: Sequence[Environment],
    diverse: Sequence[Environment],
    samples: str,
) -> Work:
    """The cells that the recipe asks for. `runs` by training; `samples` is the digest of all test samples."""
    sequential = runs["sequential"]
    methods = recipe.method_list() if "places" in recipe.studies else []
    varied = recipe.diverse_methods() if "diversity" in recipe.studies else []
    fixed, alphas, models, similar, single, every, measures = [], [], [], [], [], [], []
    for one in sequential:
        everywhere = {method.name: method for method in (*methods, *varied) if method.kind == "fixed"}
        for method in everywhere.values():
            fixed.append((one, method, _fixed(one, method.name, method.settings, recipe.scales, samples, recipe.batch)))
        similarity = _similarity(one, recipe, [*methods, *varied], [*places, *diverse])
        if similarity is not None:
            similar.append((one, similarity))
        by_study = (("places", methods, places), ("diversity", varied, diverse))
        chooses = any(method.kind == "checkpoint" for _, several, _ in by_study for method in several)
        checkpoints = None
        if chooses:
            marks = [[place.name, place.variant, place.digest, place.contents] for place in (*places, *diverse)]
            checkpoints = one.cell(
                "checkpoints",
                1,
                f"seed {one.seed}, every checkpoint on what places show",
                scales=list(recipe.scales),
                environments=marks,
                batch=recipe.batch,
            )
            single.append((one, checkpoints))
        for study, several, environments in by_study:
            for method in several:
                if method.kind == "fixed":
                    continue
                for place in environments:
                    before = similarity if method.similarity not in (None, "label") else None
                    cell = _place(one, recipe, method, place, checkpoints if method.kind == "checkpoint" else before)
                    every.append((one, study, method, place, cell))
        if "alpha" in recipe.studies:
            for alpha in recipe.alpha.values:
                settings = {"preference": f"alpha:{alpha}"}
                name = f"{ALPHA_METHOD}, alpha {alpha}"
                alphas.append((one, alpha, _fixed(one, name, settings, recipe.scales, samples, recipe.batch)))
            if "MAGMAX" not in everywhere:
                method = Method("MAGMAX", "fixed", {"method": "magmax"})
                cell = _fixed(one, method.name, method.settings, recipe.scales, samples, recipe.batch)
                fixed.append((one, method, cell))
    if "methods" in recipe.studies:
        models += _supplement(recipe, runs, samples)
    if "analysis" in recipe.studies:
        for training in ("sequential", "independent"):
            for one in runs.get(training, ())[:1]:
                title = f"{training}, seed {one.seed}, task vectors"
                measures.append((one, one.cell("measure", 1, title)))
    return Work(
        tuple(fixed), tuple(alphas), tuple(models), tuple(similar), tuple(single), tuple(every), tuple(measures)
    )


def _fixed(
    one: Prepared, name: str, settings: Mapping[str, Any], scales: Sequence[str], samples: str, batch: int
) -> Cell:
    title = f"{one.run.training}, seed {one.seed}, {name}"
    return one.cell(
        "fixed", 1, title, settings=dict(settings), scales=list(scales), samples=samples, seed=one.seed, batch=batch
    )


def _supplement(
    recipe: Experiment, runs: Mapping[str, Sequence[Prepared]], samples: str
) -> list[tuple[Prepared, str, Cell]]:
    """Tables 1 and 2 of the MAGMAX supplement: single models, and merges at the recipe's scales and at MAGMAX's."""
    found: list[tuple[Prepared, str, Cell]] = []

    def model(one: Prepared, name: str, which: str) -> None:
        title = f"{one.run.training}, seed {one.seed}, {name}, not merged"
        found.append((one, name, one.cell("model", 1, title, which=which, samples=samples, batch=recipe.batch)))

    def merged(one: Prepared, name: str, settings: Mapping[str, Any]) -> None:
        scales = list(dict.fromkeys([*recipe.scales, MAGMAX_SCALES[name]]))
        found.append((one, name, _fixed(one, name, settings, scales, samples, recipe.batch)))

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
    return found


def _similarity(
    one: Prepared, recipe: Experiment, methods: Sequence[Method], environments: Sequence[Environment]
) -> Cell | None:
    kinds = sorted({method.similarity for method in methods if method.similarity})
    if not kinds:
        return None
    return one.cell(
        "similarity",
        1,
        f"seed {one.seed}, similarities of places and tasks",
        kinds={kind: recipe.similarity.of(kind) for kind in kinds},
        samples_per_task=recipe.similarity.samples,
        environments=[[place.name, place.variant, place.digest, place.contents] for place in environments],
        batch=recipe.batch,
    )


def _place(one: Prepared, recipe: Experiment, method: Method, place: Environment, before: Cell | None) -> Cell:
    spec: dict[str, Any] = {
        "method": method.to_json(),
        "environment": [place.name, place.variant, place.digest, place.contents],
        "scales": list(recipe.scales),
        "seed": one.seed,
        "batch": recipe.batch,
    }
    if before is not None and method.similarity is not None:
        # Not the key of the cell that has it: a place that joins there changes nothing here.
        spec |= {"similarity": recipe.similarity.of(method.similarity), "samples": recipe.similarity.samples}
    if method.kind == "search":
        spec |= {"search": recipe.search.model_dump()}
        del spec["scales"]
    title = f"seed {one.seed}, {place.name} variant {place.variant}, {method.name}"
    kind: CellKind = "search" if method.kind == "search" else "place"
    return one.cell(kind, 1 if before is None else 2, title, after=before.key if before else None, **spec)
