"""What `prefmerge adapt` makes of an environment's shown samples, and what a user could do instead.

    adapt    shown labels, inputs or pairs -> the model and the head that `adapt` chooses, with the prior and without it
    bias     the last checkpoint, with the log prior and a bias for each class, fitted as `adapt` fits it
    tuned    the last checkpoint, trained STEPS steps more: on the shown pairs, or on the run's held-out samples, as
             the target weighs them and with its log prior

The samples that judge an environment are used for nothing but judging. Shapes: as in `target`. Cost: adapt: a dozen
merges and some 2,500 forward passes; tuned: STEPS steps and a forward pass for each sample. Not here: merges whose
preference comes from a similarity (`work`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples
from prefmerge.lab.entries import Given
from prefmerge.models.encoders.weights import put_arrays
from prefmerge.target.adapt import adapt, adapted_head
from prefmerge.target.choice import Judge
from prefmerge.target.evidence import EmbedBase, Evidence, weigh
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import stand_ins
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate
from prefmerge.target.prior import Prior, joint_of, log_prior_of, make_prior
from prefmerge.target.result import Adapted
from prefmerge.target.source import Source, open_source

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.head_file import FrozenHead
    from prefmerge.models.heads import Head

STEPS, BATCH = 60, 16  # of training on; the learning rate is the run's, nothing was tuned


@dataclass(frozen=True, eq=False)
class ShownSamples:
    """What an environment shows: labelled examples, and how often each of the head's classes occurs (C,)."""

    examples: Examples
    counts: np.ndarray

    @classmethod
    def of(cls, examples: Examples, classes: int) -> ShownSamples:
        return cls(examples, np.bincount(examples.labels, minlength=classes))

    def read(self, given: Given) -> Any:
        """A stand-in for `read_evidence`, with these samples in place of files."""
        pairs = self.examples if given == "pairs" else None
        inputs = self.examples if given == "inputs" else None
        counts = self.counts if given == "labels" else None

        def read(asked: Parameters, source: Source, embed_base: EmbedBase) -> Evidence:
            return weigh(asked, source, embed_base, counts=counts, inputs=inputs, pairs=pairs)

        return read


class TargetRun:
    """One run, opened as `adapt` opens it."""

    def __init__(self, run: Path, threads: int | None) -> None:
        self.run, self.threads = run, threads

    @cached_property
    def source(self) -> Source:
        return open_source(self._asked("labels"))

    @cached_property
    def merges(self) -> Merges:
        """Shared by all targets: what two of them ask for is made once while memory lasts."""
        return Merges(self.source.base, self.source.checkpoints, self.source.tasks.names, self.threads)

    def _asked(self, given: Given, **how: Any) -> Parameters:
        """Parameters as a user gives them; the name of the file is never read."""
        return Parameters.of(run=self.run, **{given: Path("shown samples")}, threads=self.threads, **how)

    def prior(self, shown: ShownSamples) -> Prior:
        """The prior of the target that follows from the shown labels; of equal shares where all tasks have the same
        classes.
        """
        tasks = self.source.tasks
        if not tasks.alike:
            return self._evidence(shown)[1]
        even = np.full(len(tasks.names), 1 / len(tasks.names))
        joint = joint_of(tasks, even, shown.counts)
        return Prior(joint, log_prior_of(tasks, joint, even))

    def adapted(self, shown: ShownSamples, given: Given, prior: bool) -> list[Adapted]:
        """What `adapt` makes of the samples: without the prior, where `prior` is asked for, and with it."""
        return [
            adapt(self._asked(given, no_prior=no_prior), merges=self.merges, source=self.source, read=shown.read(given))
            for no_prior in ((True, False) if prior else (False,))
        ]

    def load(self, encoder: Encoder, made: Adapted) -> None:
        """Put the model that was chosen last into an encoder."""
        task = made.chosen.task
        encoder.load(self.source.base if task is None or task < 0 else self.source.checkpoints[task])
        if task is None:
            ((_, model),) = self.merges.each([made.chosen.settings])
            put_arrays(encoder, model)

    def fitted(self, shown: ShownSamples) -> FrozenHead:
        """The head for the last checkpoint, with prior, fitted bias and temperature: no encoder is chosen."""
        evidence, prior, asked = self._evidence(shown)
        held, proxy = stand_ins(self.source, evidence, prior, evidence.shares.present, asked)
        head = self.source.head
        assert head is not None
        judge = Judge(proxy, prior, head.rows.astype(np.float64), head.scale)
        forwards = Forwards(self.source, asked, lambda *_: None)
        last = Candidate("last", task=len(self.source.checkpoints) - 1)
        ((units,),) = forwards.units([last], [held], "fitting a bias")
        return adapted_head(head, prior, judge.fitted(units.astype(np.float64), proxy.everything))

    def held_out(self, shown: ShownSamples) -> tuple[Examples, np.ndarray, Prior]:
        """The run's held-out samples of the tasks that are present, their weights (N,) at the target, and its prior."""
        evidence, prior, asked = self._evidence(shown)
        held, proxy = stand_ins(self.source, evidence, prior, evidence.shares.present, asked)
        return held, proxy.weights(prior.joint, proxy.everything), prior

    def _evidence(self, shown: ShownSamples) -> tuple[Evidence, Prior, Parameters]:
        asked = self._asked("labels")
        evidence = shown.read("labels")(asked, self.source, _no_inputs)
        return evidence, make_prior(self.source.tasks, evidence.shares), asked


def _no_inputs(examples: Examples, what: str) -> np.ndarray:
    raise AssertionError("labels need no embeddings")


def train_on(encoder: Encoder, head: Head, samples: Examples, weights: np.ndarray, *, rate: float, seed: int) -> None:
    """Train what the encoder holds for STEPS steps on samples drawn by their weights (N,), the head's bias on its
    logits. The encoder holds the result.
    """
    import torch
    from torch.nn.functional import cross_entropy

    generator = np.random.default_rng(seed)
    parameters = [one for one in encoder.tower.parameters() if one.requires_grad]
    device = parameters[0].device
    optimiser = torch.optim.AdamW(parameters, lr=rate)
    encoder.tower.train()
    torch.manual_seed(seed)
    for _ in range(STEPS):
        at = generator.choice(len(samples), BATCH, p=weights / weights.sum())
        inputs = encoder.prepare(samples.read(at.tolist()))
        logits = head.logits(encoder.tower(**{name: tensor.to(device) for name, tensor in inputs.items()}))
        loss = cross_entropy(logits, torch.from_numpy(samples.labels[at]).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    encoder.tower.eval()
