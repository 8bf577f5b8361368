"""Has the mix of the target moved since a model was adapted to it? `adapt --check OUT` with later samples.

    later samples -> their shares -> compared with the shares in OUT/adapt.json (`moved`)
    accuracy of OUT's model now = sum over tasks t and classes c of q(t, c) recall(t, c)

q: the joint prior of the later samples (`prior`); recall: what adapt.json has of each class of the tasks that were
present, on samples that took no part in fitting, and of each task that was absent, as a whole. A forward pass of OUT's
model over held-out samples would flatter it: its head was fitted on them. Intervals: the shares' draws with Beta draws
of each recall, to which one sample is added that is right as often as all are, and one sample imagined at each end;
what no sample judges counts from none to all. Pairs are new, so OUT's model is run over them. Nothing is written. Cost:
that of the shares, and a forward pass a pair. Not here: adapting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from prefmerge.data.examples import Examples
from prefmerge.errors import DataError, UsageError
from prefmerge.ground.progress import Progress
from prefmerge.ground.stats import wilson_of
from prefmerge.ground.words import flag, joined
from prefmerge.target.arguments import CheckArguments
from prefmerge.target.checked import Checked
from prefmerge.target.compared import head_of
from prefmerge.target.estimates import Estimate
from prefmerge.target.evidence import read_evidence
from prefmerge.target.files import RECEIPT
from prefmerge.target.fit import Scores, margins
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import allowed_classes
from prefmerge.target.moved import TargetMix, moved
from prefmerge.target.parameters import Parameters
from prefmerge.target.parameters.again import Earlier, read_earlier, taken_from
from prefmerge.target.pool import Candidate
from prefmerge.target.prior import joint_of
from prefmerge.target.shares import PRESENT, Shares
from prefmerge.target.source import Source, open_source

LATER = ("labels", "inputs", "pairs")
TAKEN = tuple(CheckArguments.__annotations__)  # parameters of `adapt` that a check takes


def check(out: str | Path, /, *, progress: Progress | None = None, **given: Any) -> Checked:
    """Compare the target's later samples with the mix that `out` was adapted to.

        check("for-my-target", labels="later.csv").moved.clear

    `given`: `labels`, `inputs` or `pairs`, and what `adapt` takes beside them to find and read the tasks. Raises
    UsageError, and what `adapt` raises for samples and tasks.
    """
    progress = progress or (lambda *_: None)
    earlier = read_earlier(Path(out))
    asked = checking(earlier, given)
    source = open_source(asked)
    earlier.require_tasks(source.tasks.names)
    forwards = Forwards(source, asked, progress)
    evidence = read_evidence(asked, source, forwards.embeddings_of_base)
    source = forwards.source = evidence.source
    shares = evidence.shares
    before = _mix(earlier, source)
    now = TargetMix(shares.shares, shares.draws, shares.samples, _counted(source, shares.source))
    compared = moved(shares.names, before, now, level=asked.level, seed=asked.seed)
    notes = [*evidence.notes]
    was = earlier.data["target"].get("source")
    alike = () if source.tasks.shared else ("labels", "pairs")  # there pairs are counted by their labels
    if was not in (shares.source, "stated") and not (was in alike and shares.source in alike):
        notes.append(
            f"The earlier mix was estimated from {was}, this one from {shares.source}. Each has errors of its own, so "
            f"a part of the difference may be theirs. To be sure, compare {was} with {was}."
        )
    expected, there = (_expected(earlier, source, shares, name, asked) for name in ("chosen", "there"))
    on_pairs = None
    if evidence.pairs is not None:
        on_pairs = _on_pairs(earlier, forwards, evidence.pairs, notes)
    return Checked(earlier, asked, compared, shares, expected, there, on_pairs, tuple(notes))


def checking(earlier: Earlier, given: Mapping[str, Any]) -> Parameters:
    """The parameters that read the later samples. Raises UsageError."""
    given = {name: value for name, value in given.items() if value is not None}
    beyond = next((name for name in given if name not in TAKEN), None)
    if beyond is not None:
        raise UsageError(f"{flag(beyond)} has no use with --check, which compares and writes nothing. Leave it out.")
    if not any(given.get(name) for name in LATER):
        raise UsageError(
            f"--check {earlier.file.parent}: with what? Give later samples of the target: --labels FILE, --inputs PATH "
            "or --pairs PATH."
        )
    taken, missing = taken_from(earlier, given)
    if missing:
        raise UsageError(f"{earlier.file} holds no paths. Give again: {joined(missing)}.")
    return Parameters.of(**{**taken, **given})


def _mix(earlier: Earlier, source: Source) -> TargetMix:
    """The mix that the model was adapted to; without draws where it was stated. Raises DataError."""
    names, target = source.tasks.names, earlier.data["target"]
    try:
        shares = np.array([float(target["shares"][name]) for name in names])
        drawn = np.array([row.split() for row in earlier.data["drawn"]], float).reshape(-1, len(names))
        samples, counted = int(target["samples"]), _counted(source, target["source"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{earlier.file}: its shares cannot be read. Give the folder as `prefmerge adapt` wrote it."
        ) from error
    return TargetMix(shares, drawn, samples, counted)


def _counted(source: Source, origin: str) -> bool:
    """Whether shares are counts of labels; else looks of inputs are in them."""
    return origin == "labels" or (origin == "pairs" and not source.tasks.shared)


def _expected(earlier: Earlier, source: Source, shares: Shares, model: str, asked: Parameters) -> Estimate | None:
    """The accuracy of OUT's model ("chosen") or of the checkpoint beside it ("there") in the new mix; None where no
    accuracy was given.
    """
    tasks = source.tasks
    sizes_U, right_U, unit_TC = _recalls(earlier, source, model)
    if not len(sizes_U):
        return None
    known_TC, mean = unit_TC >= 0, float(right_U.sum() / sizes_U.sum())
    random = np.random.default_rng([asked.seed, 78])

    def accuracy(joint_TC: np.ndarray, recall_U: np.ndarray) -> float:
        return float(joint_TC[known_TC] @ recall_U[unit_TC[known_TC]])

    joint = joint_of(tasks, shares.shares, shares.label_counts)
    judged = float(joint[known_TC].sum())
    value = accuracy(joint, right_U / sizes_U) / judged if judged > 0 else mean
    # As in `estimates`: one more sample is imagined at each end, for all that is right may go wrong.
    mass_U = np.bincount(unit_TC[known_TC], joint[known_TC], len(sizes_U))
    ends, size = [], float(np.sum(mass_U**2 / sizes_U)) / max(judged, 1e-12) ** 2
    for mix, labels in zip(shares.draws, shares.label_draws, strict=True):
        drawn = joint_of(tasks, mix, labels)
        recall_U = random.beta(right_U + max(mean, 1e-3), sizes_U - right_U + max(1 - mean, 1e-3))
        low, unknown, imagined = accuracy(drawn, recall_U), float(drawn[~known_TC].sum()), size * random.exponential()
        ends.append((low / (1 + imagined), (low + unknown + imagined) / (1 + imagined)))
    tail = (1 - asked.level) / 2
    lows, highs = zip(*ends, strict=True)
    return Estimate(value, min(float(np.quantile(lows, tail)), value), max(float(np.quantile(highs, 1 - tail)), value))


def _recalls(earlier: Earlier, source: Source, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What adapt.json has of a model: samples (U,) and how many are right (U,) of each class and each absent task; and
    which of them speaks for a task's class (T, C), -1 for none.
    """
    tasks, estimates = source.tasks, earlier.data.get("estimates") or {"recall": {}, "other_tasks": {}}
    of_class, of_task = {"chosen": ("recall", "chosen"), "there": ("before", "last")}[model]
    units: list[tuple[int, float]] = []
    unit_TC = np.full((len(tasks.names), len(tasks.classes)), -1)
    present = np.array([earlier.data["target"]["shares"][name] for name in tasks.names])
    present = present >= min(PRESENT, present.max())
    for c, name in enumerate(tasks.classes):
        if name in estimates["recall"]:
            one = estimates["recall"][name]
            having = np.array([c in own for own in tasks.of_task])
            # What a class of present tasks shows says nothing of the same class in an absent task, another domain.
            unit_TC[having & (present if (having & present).any() else True), c] = len(units)
            units.append((one["samples"], one["samples"] * one[of_class]))
    for t, name in enumerate(tasks.names):
        if name in estimates["other_tasks"]:
            one = estimates["other_tasks"][name]
            own = [c for c in tasks.of_task[t] if unit_TC[t, c] < 0]
            unit_TC[t, own] = len(units)
            units.append((one["samples"], one["samples"] * one[of_task]))
    sizes_U, right_U = np.array(units, float).reshape(-1, 2).T
    return sizes_U, right_U, unit_TC


def _on_pairs(earlier: Earlier, forwards: Forwards, pairs: Examples, notes: list[str]) -> Estimate | None:
    """The accuracy of OUT's model on pairs, by itself or with the head beside it; None where its weights are gone."""
    source, folder = forwards.source, earlier.file.parent
    if not (folder / RECEIPT).is_file():
        notes.append(f"{folder} holds no model, so the pairs did not judge it.")
        return None
    if earlier.pairs:
        notes.append("The model was chosen with pairs. If these are the same, its accuracy on them is too high.")
    ((units,),) = forwards.units([Candidate("the model", path=folder)], [pairs], "looking at the pairs")
    logits = units.astype(np.float64)
    if source.classifier is None:
        logits = head_of(folder, source).logits(logits)
    allowed = allowed_classes(source, np.full(len(pairs), -1), pairs.labels)
    part = float((margins(Scores(logits, allowed).masked(logits), pairs.labels) > 0).mean())
    low, high = wilson_of(part, len(pairs), NormalDist().inv_cdf((1 + forwards.asked.level) / 2))
    return Estimate(part, min(low, part), max(high, part))
