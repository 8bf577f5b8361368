"""Doing one cell: merge, encode the samples that it is about, count right answers.

A worker keeps one run open (data, encoder, head, checkpoints) and does that run's cells one after another; the encoder
holds whatever the last cell put into it. Right answers are kept sample by sample, so that every later table can be
counted from them. Cost per model: one merge in memory and one forward pass per sample. Not here: which cells there are
(`plan`), in what order and in how many processes (`jobs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.ground.draws import rank
from prefmerge.lab.at_target import ShownSamples, TargetRun, train_on
from prefmerge.lab.cells import Cell
from prefmerge.lab.entries import RELEASED
from prefmerge.lab.kinds import (
    AtTarget,
    CheckpointsSpec,
    Counts,
    FixedSpec,
    Grades,
    Likeness,
    Likenesses,
    MeasureSpec,
    ModelSpec,
    OnAll,
    Searched,
    SearchSpec,
    SimilaritySpec,
    TargetSpec,
)
from prefmerge.lab.manifest import MANIFEST
from prefmerge.lab.manifest import load as load_environments
from prefmerge.lab.samples import Samples, pools_of
from prefmerge.merging.candidates import Candidates, Model
from prefmerge.merging.parameters import METHOD
from prefmerge.methods import method_named
from prefmerge.methods.parameters import SEED
from prefmerge.models.encoders.weights import put_arrays
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import cache_folder, embed
from prefmerge.models.heads import Head
from prefmerge.target import similarity
from prefmerge.training.opened import OpenedRun, best_device, open_run
from prefmerge.training.samples import check_samples

if TYPE_CHECKING:
    from prefmerge.analysis import Measured


@dataclass(frozen=True)
class Sampled:
    """Some test samples in a fixed order."""

    examples: Examples
    groups: tuple[tuple[int, int, tuple[int, ...]], ...]  # start, stop, the head's rows that compete
    digest: str  # of their ids


class Bench:
    """One run, opened for the cells that are about it. Close it to let go of the checkpoints."""

    def __init__(self, run: str, out: Path, threads: int | None = None) -> None:
        self.folder, self.out, self.threads = run, out, threads
        self.opened: OpenedRun = open_run(run, samples="test")
        opened = self.opened.run
        paths = [opened.task_path(index) for index in range(len(opened.tasks))]
        self.candidates = Candidates(opened.base_path, paths, [task.name for task in opened.tasks], threads=threads)
        self._merged: tuple[dict[str, Any], Model] | None = None  # what was merged last, unscaled
        self.device = best_device(self.opened.config)
        pools, manifest = pools_of(self.opened.scenario), out / MANIFEST
        # Every cell takes its samples from the one manifest; a run whose data are others is refused here.
        self.samples = Samples.of(pools, load_environments(manifest, pools) if manifest.is_file() else ())

    def close(self) -> None:
        self.candidates.__exit__(None, None, None)

    # Samples: all test samples, or those that an environment shows or is judged by

    def everything(self) -> Sampled:
        return self.sampled(np.arange(len(self.samples.ids)))

    def shown(self, key: str) -> Sampled:
        return self.sampled(self.samples.shown(key))

    def judged(self, key: str) -> Sampled:
        return self.sampled(self.samples.judged(key))

    def sampled(self, rows: np.ndarray) -> Sampled:
        """The samples in these rows of `samples`."""
        tasks, examples, groups, start = self.opened.scenario.tasks, [], [], 0
        for task, positions in self.samples.groups(rows):
            examples.append(tasks[task].test.take(positions))
            groups.append((start, start + len(positions), tasks[task].among))
            start += len(positions)
        return Sampled(concatenated(examples), tuple(groups), self.samples.digest(rows))

    def union(self, keys: Sequence[str]) -> tuple[Sampled, dict[str, np.ndarray]]:
        """What several environments show, each sample once, and where in it the samples of each are."""
        rows = np.unique(np.concatenate([self.samples.shown(key) for key in keys]))
        return self.sampled(rows), {key: np.searchsorted(rows, self.samples.shown(key)) for key in keys}

    # Models

    def embedded(self, sampled: Sampled, batch: int) -> np.ndarray:
        """Embeddings (N, E) under the model that the encoder holds now."""
        return embed(self.opened.encoder, sampled.examples, batch=batch, device=self.device)

    def grades(self, embeddings: np.ndarray, sampled: Sampled, head: Head | None = None) -> Grades:
        """What is named correctly, by the run's head or another."""
        labels = sampled.examples.labels
        right = [
            right_answers(embeddings[start:stop], head or self.opened.head, labels[start:stop], among)
            for start, stop, among in sampled.groups
        ]
        return Grades(np.concatenate(right), sampled.digest)

    def answers(self, sampled: Sampled, batch: int, head: Head | None = None) -> Grades:
        """What the model that the encoder holds now names correctly."""
        return self.grades(self.embedded(sampled, batch), sampled, head)

    def embedded_at(
        self, settings: Mapping[str, Any], scales: Sequence[str], sampled: Sampled, batch: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(scale, embeddings) of one merge at several scales. The next cell is often of the same merge at another."""
        if self._merged is None or self._merged[0] != settings:
            self._merged = None  # at most one is held
            self._merged = (dict(settings), self.candidates.vector(**settings))
        for scale, weights in zip(scales, self.candidates.at_scales(self._merged[1], scales), strict=True):
            put_arrays(self.opened.encoder, weights)
            yield scale, self.embedded(sampled, batch)

    def at_scales(
        self, settings: Mapping[str, Any], scales: Sequence[str], sampled: Sampled, batch: int
    ) -> dict[str, Grades]:
        """The answers of one merge at several scales."""
        embedded = self.embedded_at(settings, scales, sampled, batch)
        return {scale: self.grades(embeddings, sampled) for scale, embeddings in embedded}

    def with_prior(
        self, settings: Mapping[str, Any], scales: Sequence[str], key: str, batch: int, prior: bool
    ) -> tuple[dict[str, Grades], dict[str, Grades]]:
        """The answers of one merge on the samples that judge an environment, without and, where asked for, with its log
        prior.
        """
        sampled, head = self.judged(key), self.prior_head(key) if prior else None
        plain, added = {}, {}
        for scale, embeddings in self.embedded_at(settings, scales, sampled, batch):
            plain[scale] = self.grades(embeddings, sampled)
            if head is not None:
                added[scale] = self.grades(embeddings, sampled, head)
        return plain, added

    def prior_head(self, key: str) -> Head:
        """The run's head with the log prior that follows from the labels which an environment shows."""
        return self.opened.head.with_bias(self.target.prior(self.shown_at(key)).logits)

    @cached_property
    def target(self) -> TargetRun:
        """The run as `adapt` opens it."""
        return TargetRun(Path(self.folder), self.threads)

    def shown_at(self, key: str) -> ShownSamples:
        return ShownSamples.of(self.shown(key).examples, len(self.opened.head.classes))

    # Preferences

    def label_similarity(self, key: str) -> similarity.Similarity:
        """The label similarity (eq. 7) of an environment's shown samples and the tasks' training samples."""
        tasks = self.opened.run.tasks
        shown = self.samples.environments[key].label_counts(self.samples.pools)
        return similarity.label([task.label_counts for task in tasks], shown, [task.name for task in tasks])


class RunWorker:
    """Does cells one after another, keeps their results and the last one's run open."""

    def __init__(self, out: Path, threads: int | None) -> None:
        self.out, self.threads = out, threads
        self.bench: Bench | None = None
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

    def do(self, cell: Cell[Any]) -> None:
        if self.bench is None or self.bench.folder != cell.run:
            self.close()
            self.bench = Bench(cell.run, self.out, self.threads)
        cell.keep(self.out, do(self.bench, cell))

    def close(self) -> None:
        if self.bench is not None:
            self.bench.close()
            self.bench = None


def do(bench: Bench, cell: Cell[Any]) -> Any:
    """The result of a cell, of its spec's kind."""
    match cell.spec:
        case FixedSpec():
            return _fixed(bench, cell.spec)
        case ModelSpec():
            return _model(bench, cell.spec)
        case SimilaritySpec():
            return _similarity(bench, cell.spec)
        case CheckpointsSpec():
            return _checkpoints(bench, cell.spec)
        case TargetSpec():
            return _target(bench, cell, cell.spec)
        case SearchSpec():
            return _search(bench, cell, cell.spec)
        case MeasureSpec():
            return _measure(bench)
    raise AssertionError(f"no work is known for {type(cell.spec).__name__}")


def _fixed(bench: Bench, spec: FixedSpec) -> OnAll:
    settings = dict(spec.settings)
    if method_named(settings.get(METHOD.name, METHOD.default)).honours(SEED):  # others draw nothing
        settings[SEED.name] = spec.seed
    everything = bench.everything()
    places = {
        mark.key: (rows := bench.samples.judged(mark.key), bench.sampled(rows), bench.prior_head(mark.key))
        for mark in spec.priors
    }
    scales: dict[str, Grades] = {}
    prior: dict[str, dict[str, Grades]] = {key: {} for key in places}
    for scale, embeddings in bench.embedded_at(settings, spec.scales, everything, spec.batch):
        scales[scale] = bench.grades(embeddings, everything)
        for key, (rows, sampled, head) in places.items():
            prior[key][scale] = bench.grades(embeddings[rows], sampled, head)
    return OnAll(scales, prior)


def _model(bench: Bench, spec: ModelSpec) -> OnAll:
    run = bench.opened.run
    bench.opened.encoder.load(run.base_path if spec.which == "base" else run.last_path)
    return OnAll({"1.0": bench.answers(bench.everything(), spec.batch)})


def _similarity(bench: Bench, spec: SimilaritySpec) -> Likenesses:
    """For every kind and environment. Encoder t embeds both sides (section 3.3)."""
    keys = [mark.key for mark in spec.environments]
    kinds: dict[str, dict[str, Likeness]] = {kind: {} for kind in spec.kinds}
    of_features: dict[similarity.SimilarityKind, Mapping[str, Any]] = {
        kind: settings for kind, settings in spec.kinds.items() if kind != "label"
    }
    if "label" in kinds:
        kinds["label"] = {key: Likeness.of(bench.label_similarity(key)) for key in keys}
    if not of_features:
        return Likenesses(kinds)
    run, scenario = bench.opened.run, bench.opened.scenario
    shown, rows = bench.union(keys)
    # The run records what its training samples held; with changed ones the similarity would be another task's.
    check_samples(scenario, run.folder, {(task.name, "train") for task in scenario.tasks})
    own, ours = [], []
    for index, task in enumerate(scenario.tasks):
        bench.opened.encoder.load(run.task_path(index))
        train = training_sample(task.train, spec.samples_per_task, bench.opened.config.seed)
        own.append(_cached(bench, train, spec.batch))
        ours.append(_cached(bench, shown.examples, spec.batch))
    names = [task.name for task in run.tasks]
    for key in keys:
        here = [features[rows[key]] for features in ours]
        for kind, settings in of_features.items():
            kinds[kind][key] = Likeness.of(similarity.KINDS[kind](own, here, names, **settings))
    return Likenesses(kinds)


def training_sample(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` samples, those of the smallest keyed hashes."""
    ranked = sorted(range(len(examples)), key=lambda i: rank("similarity", seed, examples.ids[i]))
    return examples.take(sorted(ranked[:count]))


def _cached(bench: Bench, examples: Examples, batch: int) -> np.ndarray:
    """Features through the cache on disk: a cell that was killed resumes after the last encoder."""
    return embed(bench.opened.encoder, examples, batch=batch, device=bench.device, cache=cache_folder())


def single(task: int, tasks: int) -> dict[str, Any]:
    """The merge that is one task vector."""
    return {**RELEASED, "preference": ",".join("1" if t == task else "0" for t in range(tasks))}


def _checkpoints(bench: Bench, spec: CheckpointsSpec) -> Counts:
    keys = [mark.key for mark in spec.environments]
    shown, rows = bench.union(keys)
    counts: dict[str, dict[str, tuple[int, ...]]] = {scale: dict.fromkeys(keys, ()) for scale in spec.scales}
    for task in range(len(bench.candidates.names)):
        settings = single(task, len(bench.candidates.names))
        for scale, answers in bench.at_scales(settings, spec.scales, shown, spec.batch).items():
            for key in keys:
                counts[scale][key] += (int(answers.right[rows[key]].sum()),)
    return Counts(counts)


def _target(bench: Bench, cell: Cell[Any], spec: TargetSpec) -> AtTarget:
    match spec.entry.kind:
        case "checkpoint":
            return _best_checkpoint(bench, cell, spec)
        case "adapt":
            return _adapted(bench, spec)
        case "bias":
            return _fitted_bias(bench, spec)
        case "tuned":
            return _trained_on(bench, spec)
    key = spec.environment.key
    if spec.entry.similarity == "label":
        labels = bench.label_similarity(key)
        preference, shares = labels.preference(), labels.shares().tolist()
    else:
        assert spec.entry.similarity is not None
        preference = cell.before(bench.out, Likenesses).kinds[spec.entry.similarity][key].preference()
        shares = preference.shares(bench.candidates.names)
    settings = {**spec.entry.settings, "preference": preference, "seed": spec.seed}
    scales, prior = bench.with_prior(settings, spec.scales, key, spec.batch, spec.prior)
    return AtTarget(scales, tuple(map(float, shares)), prior=prior)


def _best_checkpoint(bench: Bench, cell: Cell[Any], spec: TargetSpec) -> AtTarget:
    key = spec.environment.key
    counts = cell.before(bench.out, Counts).scales
    scales, prior, chosen = {}, {}, {}
    for scale in spec.scales:
        several = counts[scale][key]
        best = max(range(len(several)), key=lambda t: (several[t], t))  # of equals the later: trained on more
        settings = single(best, len(bench.candidates.names))
        for kept, answers in zip(
            (scales, prior), bench.with_prior(settings, [scale], key, spec.batch, spec.prior), strict=True
        ):
            kept |= answers
        chosen[scale] = bench.candidates.names[best]
    return AtTarget(scales, chosen=chosen, prior=prior)


def _adapted(bench: Bench, spec: TargetSpec) -> AtTarget:
    """What `prefmerge adapt` chooses, judged with its own head; without the prior, with the run's."""
    assert spec.entry.given is not None
    judged, encoder = bench.judged(spec.environment.key), bench.opened.encoder
    scales, prior, estimate, shares, chosen = {}, {}, None, None, {}
    for made in bench.target.adapted(bench.shown_at(spec.environment.key), spec.entry.given, spec.prior):
        bench.target.load(encoder, made)
        if made.parameters.no_prior:
            scales[""] = bench.answers(judged, spec.batch)
            continue
        assert made.head is not None
        prior[""] = bench.answers(judged, spec.batch, Head.of(made.head))
        chosen[""], shares = made.chosen.name, tuple(map(float, made.evidence.shares.shares))
        if made.estimates is not None:
            told = made.estimates.chosen.accuracy
            estimate = (told.value, told.low, told.high)
    return AtTarget(scales, shares, chosen, prior, estimate)


def _fitted_bias(bench: Bench, spec: TargetSpec) -> AtTarget:
    shown = bench.shown_at(spec.environment.key)
    head = Head.of(bench.target.fitted(shown))
    bench.opened.encoder.load(bench.opened.run.last_path)
    answers = bench.answers(bench.judged(spec.environment.key), spec.batch, head)
    return AtTarget({}, prior={"": answers})


def _trained_on(bench: Bench, spec: TargetSpec) -> AtTarget:
    """The last checkpoint, trained on: what a user could do in place of merging."""
    shown, head = bench.shown_at(spec.environment.key), bench.opened.head
    samples, weights = shown.examples, np.ones(len(shown.examples))
    on_pairs = spec.entry.given == "pairs"
    if not on_pairs:
        samples, weights, prior = bench.target.held_out(shown)
        head = head.with_bias(prior.logits)
    encoder = bench.opened.encoder
    encoder.load(bench.opened.run.last_path)
    if bench.device is not None:
        encoder.tower.to(bench.device)
    rate = bench.opened.config.training.learning_rate
    train_on(encoder, head.to(next(encoder.tower.parameters()).device), samples, weights, rate=rate, seed=spec.seed)
    answers = {"": bench.answers(bench.judged(spec.environment.key), spec.batch, head)}
    return AtTarget(answers if on_pairs else {}, prior={} if on_pairs else answers)


def _search(bench: Bench, cell: Cell[Any], spec: SearchSpec) -> Searched:
    """What the paper's search, `prefmerge search --paper`, chooses from the shown samples, judged on the others. Its
    trials are kept in a journal: a cell that was killed resumes after the last one.
    """
    from prefmerge.target.search import Space
    from prefmerge.target.search.scoring import among_of, scorer
    from prefmerge.target.search.trial import as_json
    from prefmerge.target.search.tuning import tune

    key, opened = spec.environment.key, bench.opened
    shown = bench.shown(key).examples
    journal = bench.out / "searches" / f"{cell.key}.journal"
    journal.parent.mkdir(exist_ok=True)
    best = tune(
        bench.candidates,
        scorer(opened.encoder, opened.head, shown, among_of(opened.scenario), batch=spec.batch, device=bench.device),
        shown.labels,
        ids=shown.ids,
        space=Space(otherwise=spec.entry.settings),
        first=bench.label_similarity(key).preference(),
        trials=spec.trials,
        patience=spec.patience,
        seed=spec.seed,
        study=journal,
        about=cell.decided,
    )
    put_arrays(opened.encoder, bench.candidates.model(**best.settings))
    answers = bench.answers(bench.judged(key), spec.batch)
    names = bench.candidates.names
    shares = None if best.preference is None else tuple(float(one) for one in best.preference.shares(names))
    journal.unlink(missing_ok=True)  # the cell's file has what matters of it
    return Searched(answers, shares, f"{best.best.what}: {_in_words(as_json(best.settings))}", len(best.trials))


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "preference")


def _measure(bench: Bench) -> Measured:
    from prefmerge import analysis

    run = bench.opened.run
    paths = [run.task_path(index) for index in range(len(run.tasks))]
    measured = analysis.measure(run.base_path, paths, [task.name for task in run.tasks])
    return replace(measured, label=run.training, training=run.training)
