"""One task's fine-tuning: the papers' recipe over any encoder and frozen head.

    loss = mean over the batch of CE(scale * <e / |e|, h_c>, y), c in the task's classes, + what a regulariser adds
    lr(step) = learning_rate * min((step + 1) / warm, (1 + cos(pi (step - warm) / (steps - warm))) / 2)

AdamW is made anew for each task, gradients are clipped by their common norm (section 4.1 of Tunable MAGMAX; the
authors' code). Shapes: a batch of N samples, embeddings (N, E), the head's rows (C, E). Every random choice (order,
crops, dropout) is a function of (seed, epoch, sample) alone, so that an epoch can be begun from its start in another
process. Devices, mixed precision and several processes are accelerate's. Cost: that of the model; this loop adds less
than a percent. Not here: what happens between tasks (`finetuning`).
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import TrainingConfig
from prefmerge.data.examples import Examples
from prefmerge.errors import ConfigError, PrefmergeError, RunError
from prefmerge.ground import atomic
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.training.run_folder import writing

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from prefmerge.models.heads import Head
    from prefmerge.training.regularisers import Regulariser

WARMUP_STEPS = 500  # of each task, however short: both papers
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


def order_of(samples: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch (from 0) sees the samples: the epoch's draw from one generator of the task."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(samples, generator=generator)
    return torch.randperm(samples, generator=generator).tolist()


class _Batches:
    """Batches of (position, crop's seed) of one epoch, this process's part of each; set `epoch` before iterating."""

    def __init__(self, samples: int, batch: int, seed: int, process: int, processes: int) -> None:
        self.samples, self.batch, self.seed = samples, batch, seed
        self.process, self.processes = process, processes
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = order_of(self.samples, self.seed, self.epoch)
        for start in range(0, self.samples, self.batch):
            whole = order[start : start + self.batch]
            mine = whole[self.process :: self.processes]
            # A process that the last batch leaves without a sample computes one that counts for nothing.
            yield [(at, crop_seed(self.seed, self.epoch, at)) for at in mine or whole[:1]]


def crop_seed(seed: int, epoch: int, position: int) -> int:
    """A sample's own seed in an epoch: 63 bits of a hash of the three numbers."""
    import xxhash

    return xxhash.xxh3_64_intdigest(b"prefmerge crop %d %d %d" % (seed, epoch, position)) >> 1


class _Reader:
    """A dataset for DataLoader: (position, crop's seed) -> the input, its label and its crop's seed."""

    def __init__(self, examples: Examples, targets: Sequence[int]) -> None:
        self.examples, self.targets = examples, targets

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> tuple[list[Any], list[int], list[int]] | PrefmergeError:
        positions = [at for at, _ in keys]
        try:
            inputs = self.examples.read(positions)
        except PrefmergeError as error:  # raised in a worker, it would come wrapped in the worker's traceback
            return error
        return inputs, [self.targets[at] for at in positions], [seed for _, seed in keys]


class _Collate:
    """Inputs, labels and seeds of a batch -> the tower's batch and the targets (N,). A class: workers pickle it."""

    def __init__(self, encoder: Encoder, augmentation: Augmentation | None) -> None:
        self.encoder, self.augmentation = encoder, augmentation

    def __call__(
        self, read: tuple[list[Any], list[int], list[int]] | PrefmergeError
    ) -> tuple[dict[str, Tensor], Tensor] | PrefmergeError:
        import torch

        if isinstance(read, PrefmergeError):
            return read
        inputs, targets, seeds = read
        return self.encoder.prepare(inputs, self.augmentation, seeds), torch.tensor(targets)


def targets_of(examples: Examples, classes: Sequence[int]) -> list[int]:
    """Labels as places in `classes`. Raises ValueError where a label is not among them."""
    place = {label: at for at, label in enumerate(classes)}
    strange = sorted(set(examples.labels.tolist()) - set(place))
    if strange:
        raise ValueError(f"labels {strange} are not among the task's classes {sorted(place)}")
    return [place[label] for label in examples.labels.tolist()]


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

    `state` is a folder for what an interrupted training needs: it is written at the end of epochs, and training goes on
    from it when it is there. The caller removes it when the result is safe. Several processes must call this together.
    """
    import torch

    with torch_threads(config.threads), torch.random.fork_rng():
        _fine_tune(
            encoder,
            head,
            examples,
            classes,
            config,
            epochs,
            seed,
            accelerator or make_accelerator(config),
            regulariser,
            state,
            on_step,
        )


def _fine_tune(
    encoder: Encoder,
    head: Head,
    examples: Examples,
    classes: Sequence[int],
    config: TrainingConfig,
    epochs: int,
    seed: int,
    accelerator: Accelerator,
    regulariser: Regulariser | None,
    state: Path | None,
    on_step: Callable[[StepReport], None] | None,
) -> None:
    import torch
    from torch.nn import functional

    process, processes = accelerator.process_index, accelerator.num_processes
    batches = _Batches(len(examples), config.batch, seed, process, processes)
    loader = _loader(encoder, examples, classes, config, batches)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in encoder.tower.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=config.fused,
    )
    bare = encoder.tower
    tower, optimizer = accelerator.prepare(bare, optimizer)
    head = head.to(accelerator.device)
    parameters = {name: p for name, p in accelerator.unwrap_model(tower).named_parameters() if p.requires_grad}
    steps = len(batches) * epochs
    warm = warm_steps(config, steps)
    first = _resumed(accelerator, state) if state is not None else 0
    step, meter = first * len(batches), _Meter(steps, first * len(batches), accelerator.device)
    tower.train()
    try:
        for epoch in range(first, epochs):
            batches.epoch = epoch
            torch.manual_seed(crop_seed(seed, epoch, -1 - process))  # dropout
            for number, read in enumerate(loader):
                if isinstance(read, PrefmergeError):
                    raise read
                inputs, targets = read
                whole = min(config.batch, len(examples) - number * config.batch)
                counted = len(range(process, whole, processes))  # 0 where this process only keeps the others company
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, steps, warm, config.learning_rate)
                pieces = list(_pieces(inputs, targets, config.micro_batch))
                for at, (piece, truth) in enumerate(pieces):
                    last = at == len(pieces) - 1
                    piece = {name: tensor.to(accelerator.device) for name, tensor in piece.items()}
                    truth = truth.to(accelerator.device)
                    with contextlib.nullcontext() if last else accelerator.no_sync(tower):
                        embeddings = tower(**piece)
                        logits = head.logits(embeddings, classes, config.logit_scale)
                        losses = functional.cross_entropy(logits, truth, reduction="none")
                        meter.add(losses, logits, truth, counted > 0)
                        if regulariser is not None:
                            with accelerator.autocast():
                                extra = regulariser.per_sample(piece, embeddings)
                            losses = losses if extra is None else losses + extra
                        # Averaging over processes divides by their number: each sample must weigh 1 / whole.
                        loss = losses.sum() * ((processes if counted else 0) / whole)
                        if last and regulariser is not None:
                            penalty = regulariser.per_step(parameters)
                            loss = loss if penalty is None else loss + penalty
                        accelerator.backward(loss)
                if config.clip_norm is not None:
                    accelerator.clip_grad_norm_(tower.parameters(), config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                if step % REPORT_EVERY == 0 or number == len(batches) - 1:
                    told = meter.read(epoch, step, float(optimizer.param_groups[0]["lr"]))
                    _require_finite(math.isfinite(told.loss), step, steps)
                    if on_step is not None:
                        on_step(told)
            if state is not None and config.save_every and (epoch + 1) % config.save_every == 0 and epoch + 1 < epochs:
                _save(accelerator, state, epoch + 1)
        _require_finite(all(bool(p.isfinite().all()) for p in parameters.values()), step, steps)
    finally:
        encoder.tower = accelerator.unwrap_model(tower, keep_fp32_wrapper=False)
        accelerator.free_memory(tower, optimizer)
        encoder.tower.zero_grad(set_to_none=True)


def _require_finite(finite: bool, step: int, steps: int) -> None:
    if not finite:
        raise RunError(
            f"training diverged: the loss or the weights are not finite at step {step} of {steps} of the task. Lower "
            "training.learning_rate, or keep training.clip_norm."
        )


def _loader(
    encoder: Encoder, examples: Examples, classes: Sequence[int], config: TrainingConfig, batches: _Batches
) -> Any:
    import os

    import torch
    from torch.utils.data import DataLoader

    workers = config.workers
    if workers is None:
        workers = 0 if encoder.kind == "text" else min(4, max(0, (os.cpu_count() or 1) - 1))
    crops = Augmentation(scale=config.crop_scale) if config.augmentation and encoder.kind == "image" else None
    return DataLoader(
        _Reader(examples, targets_of(examples, classes)),  # pyright: ignore[reportArgumentType]  (has __getitems__ only)
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]  (any iterable of lists will do)
        collate_fn=_Collate(encoder, crops),  # pyright: ignore[reportArgumentType]  (takes what the reader gives)
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and config.device != "cpu",
        generator=torch.Generator().manual_seed(0),  # or the loader would draw from the generator that dropout uses
    )


def _pieces(
    inputs: Mapping[str, Tensor], targets: Tensor, size: int | None
) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    """The batch in pieces of at most `size` samples."""
    size = size or len(targets)
    for start in range(0, len(targets), size):
        yield {name: tensor[start : start + size] for name, tensor in inputs.items()}, targets[start : start + size]


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


def _save(accelerator: Accelerator, state: Path, epochs: int) -> None:
    """Keep what training needs to go on after `epochs` epochs, in place of what was kept before."""
    new = state.with_name(f".{state.name}.new")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with writing(state.parent):
        accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with writing(state.parent), atomic.whole_folder(state) as folder:
            (new / "epochs").write_text(f"{epochs}\n", encoding="utf-8")
            for file in new.iterdir():
                shutil.move(file, folder / file.name)
        new.rmdir()
    accelerator.wait_for_everyone()


def _resumed(accelerator: Accelerator, state: Path) -> int:
    """Load what `_save` kept, if anything, and return the number of epochs that are done."""
    atomic.recover(state)
    if not (state / "epochs").is_file():
        return 0
    try:
        accelerator.load_state(str(state))
    except Exception as error:  # pickles and archives that are damaged raise whatever their readers do
        raise RunError(
            f"{state}: what the task was to go on from cannot be read ({type(error).__name__}). Remove this folder: "
            "the task then begins from its start."
        ) from error
    return int((state / "epochs").read_text(encoding="utf-8"))
