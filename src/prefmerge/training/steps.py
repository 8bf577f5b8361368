"""One task's fine-tuning: the papers' recipe over any encoder and frozen head.

    loss = mean over the batch of CE(scale * <e / |e|, h_c>, y), c in the task's classes, + what a regulariser adds
    lr(step) = learning_rate * min((step + 1) / warm, (1 + cos(pi (step - warm) / (steps - warm))) / 2)

Each task has an AdamW of its own, gradients are clipped by their common norm (section 4.1 of Tunable MAGMAX; the
authors' code). Shapes: a batch of N samples, embeddings (N, E), the head's rows (C, E). Every random choice (order,
crops, dropout) is a function of (seed, epoch, sample) alone, so that an epoch can be started again in another process.
Devices, mixed precision and several processes are accelerate's. Cost: that of the model; this loop adds less than a
percent. Not here: the order of the samples (`batches`), what happens between tasks (`finetuning`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import TrainingConfig
from prefmerge.data.examples import Examples
from prefmerge.errors import ConfigError, PrefmergeError, RunError
from prefmerge.models.encoders.protocol import Encoder
from prefmerge.training.batches import Batches, crop_seed, loader_of, pieces
from prefmerge.training.state import load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from prefmerge.models.heads import Head
    from prefmerge.training.regularisers import Regulariser

WARMUP_STEPS = 500  # of each task, however short: both papers
WARMUP_FRACTION = 0.1  # of the steps of each task, for data that are not the papers': there 500 may outlast a task
EPOCHS = 10  # CIFAR-100, ImageNet-R and domain-incremental runs of both papers
REPORT_EVERY = 10  # steps between two reports of loss and accuracy: reading them waits for an accelerator


@dataclass(frozen=True)
class StepReport:
    """Where a task's training is. Loss and accuracy are means since the last report (cross-entropy alone)."""

    epoch: int  # from 0
    step: int  # of the task, from 1
    steps: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds_left: float


def learning_rate_at(step: int, steps: int, warm: int, peak: float) -> float:
    """The learning rate of a step (from 0) of `steps`: linear over `warm` steps, then half a cosine to zero."""
    if step < warm:
        return peak * ((step + 1) / warm)
    return peak * (0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def warm_steps(config: TrainingConfig, steps: int) -> int:
    """How many steps the warm-up of a task of `steps` takes; it may be longer than the task."""
    if config.warmup_fraction is not None:
        return max(1, round(config.warmup_fraction * steps))
    return WARMUP_STEPS if config.warmup_steps is None else config.warmup_steps


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run PyTorch on `count` CPU threads, then as before: how sums are split among threads changes their last bits."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """accelerate's view of this machine: device, precision, processes (`accelerate launch` decides these)."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    # accelerate keeps one state per process and refuses a second precision; a run is a state of its own.
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a pooler that the pooling does not use
    try:
        return Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu", kwargs_handlers=[unused])
    except ValueError as error:
        raise ConfigError(
            f"training.precision: {config.precision} does not work on this device: {error}. Use bf16 or no."
        ) from error


def fine_tune(
    encoder: Encoder,
    head: Head,
    examples: Examples,
    classes: Sequence[int],
    config: TrainingConfig,
    *,
    epochs: int,
    seed: int,
    accelerator: Accelerator | None = None,
    regulariser: Regulariser | None = None,
    state: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Train the encoder's tower, in place, on one task: `classes` are the head's rows that the loss is over.

    `state` is a folder for what an interrupted training needs: it is written at the end of epochs, and training resumes
    from it when it is there. The caller removes it when the result is safe. Several processes must call this together.
    """
    import torch

    with torch_threads(config.threads), torch.random.fork_rng():
        loop = _Loop(encoder, head, examples, classes, config, seed, accelerator or make_accelerator(config))
        try:
            loop.run(epochs, regulariser, state, on_step)
        finally:
            loop.close()


class _Loop:
    """The tower of one task under accelerate, with its optimiser and its batches."""

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        examples: Examples,
        classes: Sequence[int],
        config: TrainingConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        import torch

        self.encoder, self.classes, self.config, self.seed = encoder, classes, config, seed
        self.accelerator, self.samples = accelerator, len(examples)
        self.process, self.processes = accelerator.process_index, accelerator.num_processes
        self.batches = Batches(self.samples, config.batch, seed, self.process, self.processes)
        self.loader = loader_of(encoder, examples, classes, config, self.batches)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in encoder.tower.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=config.fused,
        )
        self.tower, self.optimizer = accelerator.prepare(encoder.tower, optimizer)
        self.head = head.to(accelerator.device)
        trained = accelerator.unwrap_model(self.tower).named_parameters()
        self.parameters = {name: p for name, p in trained if p.requires_grad}

    def close(self) -> None:
        """Give the encoder its tower back."""
        self.encoder.tower = self.accelerator.unwrap_model(self.tower, keep_fp32_wrapper=False)
        self.accelerator.free_memory(self.tower, self.optimizer)
        self.encoder.tower.zero_grad(set_to_none=True)

    def run(
        self,
        epochs: int,
        regulariser: Regulariser | None,
        state: Path | None,
        on_step: Callable[[StepReport], None] | None,
    ) -> None:
        import torch

        per_epoch, every = len(self.batches), self.config.save_every
        first = 0 if state is None else load_state(self.accelerator, self.tower, self.optimizer, state)
        step, steps = first * per_epoch, epochs * per_epoch
        warm = warm_steps(self.config, steps)
        meter = _Meter(steps, step, self.accelerator.device)
        self.tower.train()
        for epoch in range(first, epochs):
            self.batches.epoch = epoch
            torch.manual_seed(crop_seed(self.seed, epoch, -1 - self.process))  # dropout
            for number, read in enumerate(self.loader):
                if isinstance(read, PrefmergeError):
                    raise read
                rate = learning_rate_at(step, steps, warm, self.config.learning_rate)
                whole = min(self.config.batch, self.samples - number * self.config.batch)
                inputs, targets = read
                self._step(inputs, targets, whole, rate, regulariser, meter)
                step += 1
                if step % REPORT_EVERY == 0 or number == per_epoch - 1:
                    report = meter.read(epoch, step, rate)
                    _require_finite(math.isfinite(report.loss), step, steps)
                    if on_step is not None:
                        on_step(report)
            if state is not None and every and (epoch + 1) % every == 0 and epoch + 1 < epochs:
                save_state(self.accelerator, self.tower, self.optimizer, state, epoch + 1)
        _require_finite(all(bool(p.isfinite().all()) for p in self.parameters.values()), step, steps)

    def _step(
        self,
        inputs: Mapping[str, Tensor],
        targets: Tensor,
        whole: int,
        rate: float,
        regulariser: Regulariser | None,
        meter: _Meter,
    ) -> None:
        """One step of the optimiser, on this process's part of a batch of `whole` samples."""
        from torch.nn import functional

        accelerator, config = self.accelerator, self.config
        counted = len(range(self.process, whole, self.processes))  # 0: this process only keeps the others company
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        several = list(pieces(inputs, targets, config.micro_batch))
        for at, (piece, truth) in enumerate(several):
            last = at == len(several) - 1
            piece = {name: tensor.to(accelerator.device) for name, tensor in piece.items()}
            truth = truth.to(accelerator.device)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.tower):
                embeddings = self.tower(**piece)
                logits = self.head.logits(embeddings, self.classes, config.logit_scale)
                losses = functional.cross_entropy(logits, truth, reduction="none")
                meter.add(losses, logits, truth, counted > 0)
                if regulariser is not None:
                    with accelerator.autocast():
                        extra = regulariser.per_sample(piece, embeddings)
                    losses = losses if extra is None else losses + extra
                # Averaging over processes divides by their number: each sample must weigh 1 / whole.
                loss = losses.sum() * ((self.processes if counted else 0) / whole)
                if last and regulariser is not None:
                    penalty = regulariser.per_step(self.parameters)
                    loss = loss if penalty is None else loss + penalty
                accelerator.backward(loss)
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(self.tower.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _require_finite(finite: bool, step: int, steps: int) -> None:
    if not finite:
        raise RunError(
            f"training diverged: the loss or the weights are not finite at step {step} of {steps} of the task. Lower "
            "training.learning_rate, or keep training.clip_norm."
        )


class _Meter:
    """Loss and accuracy since the last report, kept on the device, and the time that is left."""

    def __init__(self, steps: int, first: int, device: Any) -> None:
        import torch

        self._steps, self._first, self._began = steps, first, time.perf_counter()
        self._sums = torch.zeros(3, device=device)  # losses, right answers, samples

    def add(self, losses: Tensor, logits: Tensor, targets: Tensor, counts: bool) -> None:
        import torch

        if counts:
            right = (logits.detach().argmax(dim=1) == targets).sum()
            self._sums += torch.stack([losses.detach().sum(), right, torch.tensor(len(targets), device=right.device)])

    def read(self, epoch: int, step: int, learning_rate: float) -> StepReport:
        loss, right, samples = self._sums.tolist()
        self._sums.zero_()
        pace = (time.perf_counter() - self._began) / max(1, step - self._first)
        n = max(1.0, samples)
        return StepReport(epoch, step, self._steps, loss / n, right / n, learning_rate, pace * (self._steps - step))
