"""Doing one cell: merge, encode the samples that it is about, count right answers.

A process keeps one run open (data, encoder, head, checkpoints) and does that run's cells one after another; the encoder
holds whatever the last cell put into it. Right answers are kept sample by sample, so that every later table can be
counted from them. Cost per model: one merge in memory and one forward pass per sample. Leaves out: which cells there
are, in what order, in how many processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import DataError
from prefmerge.ground import jsons
from prefmerge.ground.draws import rank
from prefmerge.ground.store import digest
from prefmerge.lab.cells import Cell, store_of
from prefmerge.lab.environments import Environment, Pool
from prefmerge.lab.environments import load as load_environments
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.parameters import METHOD
from prefmerge.methods import method_named
from prefmerge.methods.parameters import SEED
from prefmerge.models.encoders.weights import put_arrays
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import cache_folder, embed
from prefmerge.preference import Preference
from prefmerge.target import similarity
from prefmerge.training.opened import OpenedRun, best_device, open_run
from prefmerge.training.samples import check_samples

MANIFEST = "environments.json"


def pools_of(scenario: Scenario) -> tuple[Pool, ...]:
    """The test samples of every task, as `lab.environments` takes them. Where two data sets number their samples alike,
    an id is preceded by its task.
    """
    every = [one for task in scenario.tasks for one in task.test.ids]
    alike = len(set(every)) < len(every)
    return tuple(
        Pool(
            task.name,
            tuple(f"{task.name}/{one}" for one in task.test.ids) if alike else task.test.ids,
            tuple(scenario.classes[label].name for label in task.test.labels.tolist()),
            task.test.fingerprint,
        )
        for task in scenario.tasks
    )


def to_text(right: np.ndarray) -> str:
    """(N,) bool as hexadecimal digits, eight samples a byte."""
    return np.packbits(right).tobytes().hex()


def from_text(text: str, count: int) -> np.ndarray:
    """The inverse of `to_text`: (count,) bool."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


def ids_digest(ids: Sequence[str]) -> str:
    """What tells these samples, in this order, from others."""
    return digest(list(ids))


@dataclass(frozen=True)
class Sampled:
    """Some test samples in a fixed order. `ids` are those of the pools; a result carries their digest."""

    ids: tuple[str, ...]
    examples: Examples
    groups: tuple[tuple[int, int, tuple[int, ...]], ...]  # start, stop, the head's rows that compete


class Bench:
    """One run, opened for the cells that are about it. Close it to let go of the checkpoints."""

    def __init__(self, run: str, out: Path, threads: int | None = None) -> None:
        self.folder, self.out = run, out
        self.opened: OpenedRun = open_run(run, samples="test")
        found = self.opened.run
        paths = [found.task_path(index) for index in range(len(found.tasks))]
        self.candidates = Candidates(found.base_path, paths, [task.name for task in found.tasks], threads=threads)
        self.pools = {pool.name: pool for pool in pools_of(self.opened.scenario)}
        self.device = best_device(self.opened.config)
        manifest = out / MANIFEST
        # Every cell takes its samples from the one manifest; a run whose data are others is refused here.
        self.environments = {
            (place.name, place.variant): place
            for place in (load_environments(manifest, list(self.pools.values())) if manifest.is_file() else ())
        }

    def close(self) -> None:
        self.candidates.__exit__(None, None, None)

    # Samples

    def everything(self) -> Sampled:
        """All test samples, task by task."""
        return self.sampled([(task.name, range(len(task.test))) for task in self.opened.scenario.tasks])

    def shown(self, place: Environment) -> Sampled:
        """The meta samples of an environment."""
        return self.sampled(shown_positions(place, self.pools))

    def judged(self, place: Environment) -> Sampled:
        """The test samples of an environment."""
        return self.sampled([(part.task, [self.pools[part.task].at[one] for one in part.test]) for part in place.parts])

    def sampled(self, parts: Iterable[tuple[str, Sequence[int]]]) -> Sampled:
        tasks = {task.name: task for task in self.opened.scenario.tasks}
        ids, chosen, groups, start = list[str](), [], [], 0
        for name, positions in parts:
            if not len(positions):
                continue
            ids += [self.pools[name].ids[i] for i in positions]
            chosen.append(tasks[name].test.take(positions))
            groups.append((start, start + len(positions), tasks[name].among))
            start += len(positions)
        return Sampled(tuple(ids), concatenated(chosen), tuple(groups))

    # Models

    def load(self, cell: Cell) -> None:
        """Put the model that a cell of kind `model` names into the encoder."""
        run = self.opened.run
        self.opened.encoder.load(run.base_path if cell.spec["which"] == "base" else run.last_path)

    def answers(self, sampled: Sampled, batch: int) -> dict[str, Any]:
        """What the model that the encoder holds now names correctly: {right, n, samples}, sample by sample."""
        found = embed(self.opened.encoder, sampled.examples, batch=batch, device=self.device)
        right = self.named(found, sampled)
        return {"right": to_text(right), "n": len(right), "samples": ids_digest(sampled.ids)}

    def named(self, embeddings: np.ndarray, sampled: Sampled) -> np.ndarray:
        labels = sampled.examples.labels
        parts = [
            right_answers(embeddings[start:stop], self.opened.head, labels[start:stop], among)
            for start, stop, among in sampled.groups
        ]
        return np.concatenate(parts)

    def at_scales(
        self, settings: Mapping[str, Any], scales: Sequence[str], sampled: Sampled, batch: int
    ) -> dict[str, Any]:
        """One merge at several scales: {scale: what `answers` gives}."""
        vector = self.candidates.vector(**settings)
        found = {}
        for scale, weights in zip(scales, self.candidates.at_scales(vector, scales), strict=True):
            put_arrays(self.opened.encoder, weights)
            found[scale] = self.answers(sampled, batch)
        return found

    # Preferences

    def label_similarity(self, place: Environment) -> similarity.Similarity:
        """The label similarity (eq. 7) of an environment's shown samples and the tasks' training samples."""
        shown = Counter(self.pools[task].labels[i] for task, at in shown_positions(place, self.pools) for i in at)
        tasks = self.opened.run.tasks
        return similarity.label([task.label_counts for task in tasks], shown, [task.name for task in tasks])


def shown_positions(place: Environment, pools: Mapping[str, Pool]) -> list[tuple[str, list[int]]]:
    """(task, positions in its pool) of the meta samples."""
    return [(part.task, [pools[part.task].at[one] for one in part.meta]) for part in place.parts]


class Union:
    """The meta samples of several environments, each once: encoded together, looked up for each."""

    def __init__(self, places: Sequence[Environment], bench: Bench) -> None:
        self.pools = bench.pools
        every = {(task, i) for place in places for task, at in shown_positions(place, bench.pools) for i in at}
        tasks = [task.name for task in bench.opened.scenario.tasks]
        ordered = sorted(every, key=lambda sample: (tasks.index(sample[0]), sample[1]))
        self.row = {sample: i for i, sample in enumerate(ordered)}
        self.sampled = bench.sampled([(name, [i for task, i in ordered if task == name]) for name in tasks])

    def rows(self, place: Environment) -> list[int]:
        """Where the meta samples of an environment are among these, in its order."""
        return [self.row[task, i] for task, at in shown_positions(place, self.pools) for i in at]


class Worker:
    """Does cells one after another, keeps their results and the last one's run open."""

    def __init__(self, out: Path, threads: int | None) -> None:
        self.out, self.threads = out, threads
        self.bench: Bench | None = None
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

    def do(self, cell: Cell) -> None:
        if self.bench is None or self.bench.folder != cell.run:
            self.close()
            self.bench = Bench(cell.run, self.out, self.threads)
        cell.keep(self.out, do(self.bench, cell))

    def close(self) -> None:
        if self.bench is not None:
            self.bench.close()
            self.bench = None


def do(bench: Bench, cell: Cell) -> dict[str, Any]:
    """The result of a cell, as JSON."""
    return _DOES[cell.kind](bench, cell)


def _fixed(bench: Bench, cell: Cell) -> dict[str, Any]:
    spec = cell.spec
    settings = dict(spec["settings"])
    if method_named(settings.get(METHOD.name, METHOD.default)).honours(SEED):  # others draw nothing
        settings[SEED.name] = spec["seed"]
    return {"scales": bench.at_scales(settings, spec["scales"], bench.everything(), spec["batch"])}


def _model(bench: Bench, cell: Cell) -> dict[str, Any]:
    bench.load(cell)
    return {"scales": {"1.0": bench.answers(bench.everything(), cell.spec["batch"])}}


def _similarity(bench: Bench, cell: Cell) -> dict[str, Any]:
    """{kind: {"e1/0": similarity}} for every environment. Encoder t embeds both sides (section 3.3)."""
    spec, run, scenario = cell.spec, bench.opened.run, bench.opened.scenario
    places = [bench.environments[name, variant] for name, variant, *_ in spec["environments"]]
    names = [task.name for task in run.tasks]
    found: dict[str, dict[str, Any]] = {kind: {} for kind in spec["kinds"]}
    of_features = {kind: settings for kind, settings in spec["kinds"].items() if kind != "label"}
    if "label" in found:
        for place in places:
            found["label"][_key(place)] = bench.label_similarity(place).to_json()
    if not of_features:
        return {"kinds": found}
    union = Union(places, bench)
    shown = union.sampled.examples
    # The run knows what its training samples held; those that are not so would be another task's likeness.
    check_samples(scenario, run.folder, {(task.name, "train") for task in scenario.tasks})
    own, ours = [], []
    for index, task in enumerate(scenario.tasks):
        bench.opened.encoder.load(run.task_path(index))
        train = training_sample(task.train, spec["samples_per_task"], bench.opened.config.seed)
        own.append(_kept(bench, train, spec["batch"]))
        ours.append(_kept(bench, shown, spec["batch"]))
    for place in places:
        rows = union.rows(place)
        for kind, settings in of_features.items():
            one = similarity.KINDS[kind](own, [features[rows] for features in ours], names, **settings)
            found[kind][_key(place)] = one.to_json()
    return {"kinds": found}


def _key(place: Environment) -> str:
    return f"{place.name}/{place.variant}"


def training_sample(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` samples, those of the smallest keyed hashes."""
    ranked = sorted(range(len(examples)), key=lambda i: rank("similarity", seed, examples.ids[i]))
    return examples.take(sorted(ranked[:count]))


def _kept(bench: Bench, examples: Examples, batch: int) -> np.ndarray:
    """Features through the cache on disk: a cell that was killed goes on after the last encoder."""
    return embed(bench.opened.encoder, examples, batch=batch, device=bench.device, cache=cache_folder())


def _checkpoints(bench: Bench, cell: Cell) -> dict[str, Any]:
    """For every environment, scale and checkpoint: right answers among the shown samples."""
    spec, names = cell.spec, bench.candidates.names
    places = [bench.environments[name, variant] for name, variant, *_ in spec["environments"]]
    union = Union(places, bench)
    found: dict[str, dict[str, list[int]]] = {scale: {_key(place): [] for place in places} for scale in spec["scales"]}
    for task in range(len(names)):
        alone = {"preference": ",".join("1" if t == task else "0" for t in range(len(names)))}
        for scale, one in bench.at_scales(alone, spec["scales"], union.sampled, spec["batch"]).items():
            right = from_text(one["right"], one["n"])
            for place in places:
                found[scale][_key(place)].append(int(right[union.rows(place)].sum()))
    return {"scales": found}


def _place(bench: Bench, cell: Cell) -> dict[str, Any]:
    spec = cell.spec
    method = spec["method"]
    place = bench.environments[spec["environment"][0], spec["environment"][1]]
    judged = bench.judged(place)
    if method["kind"] == "checkpoint":
        counts = _after(bench, cell)["scales"]
        scales, chosen = {}, {}
        for scale in spec["scales"]:
            several = counts[scale][_key(place)]
            # Of equally good ones the later: it was trained on more.
            best = max(range(len(several)), key=lambda t: (several[t], t))
            alone = {"preference": ",".join("1" if t == best else "0" for t in range(len(several)))}
            scales |= bench.at_scales(alone, [scale], judged, spec["batch"])
            chosen[scale] = bench.candidates.names[best]
        return {"scales": scales, "chosen": chosen}
    if method["similarity"] == "label":
        found = bench.label_similarity(place)
        preference, shares = found.preference(), found.shares().tolist()
    else:
        logs = _after(bench, cell)["kinds"][method["similarity"]][_key(place)]
        numbers = [-np.inf if one is None else float(one) for one in logs["log_similarities"]]
        preference = Preference.from_log_similarities(numbers, bench.candidates.names)
        shares = [float(one) for one in preference.shares(bench.candidates.names)]
    settings = {**method["settings"], "preference": preference, "seed": spec["seed"]}
    return {"scales": bench.at_scales(settings, spec["scales"], judged, spec["batch"]), "shares": shares}


def _after(bench: Bench, cell: Cell) -> dict[str, Any]:
    """The result of the cell that this one builds on."""
    assert cell.after is not None
    file = store_of(bench.out).file(cell.after)
    try:
        return jsons.read(file, nan=True)["result"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{file}: cannot be read ({error}), and {cell.title} needs it. Run the same command again."
        ) from error


def _search(bench: Bench, cell: Cell) -> dict[str, Any]:
    """What `prefmerge search` would choose from the samples that the place shows, judged on the others. Its trials are
    kept in a journal: a cell that was killed goes on after the last one.
    """
    from prefmerge.target.search.scoring import among_of, scorer
    from prefmerge.target.search.trial import as_json
    from prefmerge.target.search.tuning import tune

    spec = cell.spec
    place = bench.environments[spec["environment"][0], spec["environment"][1]]
    shown = bench.shown(place).examples
    journal = bench.out / "searches" / f"{cell.key}.journal"
    journal.parent.mkdir(exist_ok=True)
    opened = bench.opened
    found = tune(
        bench.candidates,
        scorer(opened.encoder, opened.head, shown, among_of(opened.scenario), batch=spec["batch"], device=bench.device),
        shown.labels,
        ids=shown.ids,
        first=bench.label_similarity(place).preference(),
        trials=spec["search"]["trials"],
        patience=spec["search"]["patience"],
        seed=spec["seed"],
        study=journal,
        about=dict(spec),
    )
    put_arrays(opened.encoder, bench.candidates.model(**found.settings))
    judged = bench.answers(bench.judged(place), spec["batch"])
    names = bench.candidates.names
    shares = None if found.preference is None else [float(one) for one in found.preference.shares(names)]
    journal.unlink(missing_ok=True)  # the cell's file has what matters of it
    return {
        "scales": {"": judged},
        "shares": shares,
        "chosen": {"": f"{found.best.what}: {_in_words(as_json(found.settings))}"},
        "trials": len(found.trials),
    }


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "preference")


def _measure(bench: Bench, cell: Cell) -> dict[str, Any]:
    from prefmerge import analysis

    run = bench.opened.run
    paths = [run.task_path(index) for index in range(len(run.tasks))]
    found = analysis.measure(run.base_path, paths, [task.name for task in run.tasks])
    return replace(found, label=run.training, training=run.training).to_json()


_DOES = {
    "fixed": _fixed,
    "model": _model,
    "similarity": _similarity,
    "checkpoints": _checkpoints,
    "place": _place,
    "search": _search,
    "measure": _measure,
}
