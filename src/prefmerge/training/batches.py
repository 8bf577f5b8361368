"""What the steps of a task see: its samples in a seeded order, in batches, read and prepared ahead.

    order of epoch e = draw e from one generator of the task,   crop's seed = xxh3_64(task's seed, epoch, position)

So an epoch can be started again in another process, and the same samples come in any number of processes: each
takes every p-th sample of a batch. Shapes: a batch of N samples. Cost: reading and preparing, in `workers` processes.
Not here: what is done with a batch (`steps`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from prefmerge.config import TrainingConfig
from prefmerge.data.examples import Examples
from prefmerge.errors import PrefmergeError
from prefmerge.models.encoders.protocol import Augmentation, Encoder

if TYPE_CHECKING:
    from torch import Tensor


def order_of(samples: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch (from 0) sees the samples: the epoch's draw from one generator of the task."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(samples, generator=generator)
    return torch.randperm(samples, generator=generator).tolist()


def crop_seed(seed: int, epoch: int, position: int) -> int:
    """A sample's own seed in an epoch: 63 bits of a hash of the three numbers."""
    return xxhash.xxh3_64_intdigest(b"prefmerge crop %d %d %d" % (seed, epoch, position)) >> 1


def targets_of(examples: Examples, classes: Sequence[int]) -> list[int]:
    """Labels as positions in `classes`. Raises ValueError where a label is not among them."""
    position = {label: at for at, label in enumerate(classes)}
    strange = sorted(set(examples.labels.tolist()) - set(position))
    if strange:
        raise ValueError(f"labels {strange} are not among the task's classes {sorted(position)}")
    return [position[label] for label in examples.labels.tolist()]


class Batches:
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


def loader_of(
    encoder: Encoder, examples: Examples, classes: Sequence[int], config: TrainingConfig, batches: Batches
) -> Any:
    """A DataLoader of the task's batches, or of a PrefmergeError where an input cannot be read."""
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


def pieces(
    inputs: Mapping[str, Tensor], targets: Tensor, size: int | None
) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    """The batch in pieces of at most `size` samples."""
    size = size or len(targets)
    for start in range(0, len(targets), size):
        yield {name: tensor[start : start + size] for name, tensor in inputs.items()}, targets[start : start + size]
