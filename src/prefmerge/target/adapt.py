"""The best model for a target out of a run, and what to expect of it there.

    parameters -> source (tasks, samples, head) -> evidence (shares of the target) -> prior
               -> pool (candidates) -> embeddings of samples that stand for the target -> choice -> estimates
               -> a folder: weights with their receipt, head (or the classifier's bias), adapt.json, report.html

Source: ours. Never worse than what is there, by its own measure: the best single checkpoint is among the candidates,
and is kept unless a merge is better by more than half a standard error. Cost: the merges of one reading, a forward pass
a candidate and sample (about 2,500 for five tasks of which two are present), seconds of fits. An interrupted call
resumes from the cache of embeddings. Not here: fine-tuning, which does more where there are pairs enough
(docs/adapt.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from prefmerge.errors import UsageError, require
from prefmerge.ground.progress import Progress
from prefmerge.models.head_file import FrozenHead
from prefmerge.report import place
from prefmerge.target.choice import Choice
from prefmerge.target.compared import NOT_COMPARED
from prefmerge.target.evidence import EmbedBase, Evidence, read_evidence
from prefmerge.target.fit import Fit, plain
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import judged
from prefmerge.target.merges import Merges
from prefmerge.target.output import check_output, write
from prefmerge.target.own import addition, require_bias
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import candidates
from prefmerge.target.prior import Prior, make_prior
from prefmerge.target.result import Adapted
from prefmerge.target.source import Source, open_source


def adapt(
    asked: Parameters,
    progress: Progress | None = None,
    merges: Merges | None = None,
    *,
    source: Source | None = None,
    read: Callable[[Parameters, Source, EmbedBase], Evidence] = read_evidence,
) -> Adapted:
    """Carry out what the parameters ask for; write the folder `asked.out`, where one is named. `merges`: those of an
    earlier call over the same checkpoints, which are not made again. `source`: where it is open already. `read`: what
    gives the evidence, where it is no file.

    Raises UsageError, DataError, RunError, EncoderError, OutputExists, MissingExtra and what merging raises; then
    nothing has appeared at `asked.out`.
    """
    started = time.perf_counter()
    progress = progress or (lambda *_: None)
    if asked.out is not None:
        check_output(asked.out, asked.force)
    elif asked.report is not None:
        raise UsageError("--report has no use without -o OUT: nothing is written.")
    place.asked(asked.report, force=asked.force)
    progress(0, 0, "opening the tasks")
    source = source or open_source(asked)
    bias = None if source.classifier is None or asked.no_prior else _bias(source)
    forwards = Forwards(source, asked, progress, merges)
    evidence = read(asked, source, forwards.embeddings_of_base)
    if source.tasks.embeddings is None and evidence.source is not source:
        source = forwards.source = evidence.source
    prior = make_prior(source.tasks, evidence.shares)
    notes = [*evidence.notes, *source.notes]
    shares = evidence.shares.shares
    pool = candidates(source.tasks.names, shares, source.ordered, asked.candidate)
    choice, estimates, chosen = None, None, next(one for one in pool if not one.single)
    head = source.head
    if source.samples is not None and head is not None:
        choice, estimates, pool = judged(forwards, evidence, prior, pool, notes)
        chosen = pool[choice.index]
    elif asked.compare:
        notes.append(NOT_COMPARED)
    added = None
    if source.classifier is not None:
        head = None  # the model answers by itself
        added = None if bias is None else addition(bias, prior, _fit(choice, len(source.tasks.classes)))
    elif head is not None and not asked.no_prior:
        head = adapted_head(head, prior, _fit(choice, len(head.rows)))
    cost = {**forwards.cost, "seconds": round(time.perf_counter() - started, 1)}
    made = Adapted(
        source, evidence, prior, tuple(pool), choice, chosen, estimates, head, tuple(notes), cost, asked, added=added
    )
    if asked.out is None:
        return made
    progress(0, 0, "writing the model")
    return replace(made, receipt=write(made, asked.out))


def require_extras() -> None:
    """Raise MissingExtra where the libraries of every call are absent."""
    require("adapt", "places", "scipy", "threadpoolctl")


def _bias(source: Source) -> str:
    """The tensor that takes the prior, of checkpoints with a classifier of their own. Raises UsageError."""
    from prefmerge.models.encoders.classifier import ClassifierEncoder

    encoder, _ = source.encoder()
    assert isinstance(encoder, ClassifierEncoder)
    return require_bias(encoder.bias, source.base)


def _fit(choice: Choice | None, classes: int) -> Fit:
    return plain(classes) if choice is None else choice.fit


def adapted_head(head: FrozenHead, prior: Prior, fit: Fit) -> FrozenHead:
    """The head for the target: log prior and fitted bias as its bias, temperature in its scale, rows where refitted."""
    rows = head.rows if fit.rows is None else (head.rows + fit.rows).astype(np.float32)
    bias = (prior.logits + fit.bias).astype(np.float32)
    return replace(head, rows=rows, scale=head.scale * fit.beta, bias=bias)
