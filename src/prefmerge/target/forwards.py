"""The forward passes of `adapt`: which model embeds which samples, each once where there is a cache.

Cost: a forward pass a model and sample; counted in `cost`. An interrupted call resumes from the cache. Not here: which
models (`pool`), which samples (`judging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples
from prefmerge.ground.progress import Progress
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate
from prefmerge.target.source import Source

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder


class Forwards:
    """The forward passes: which model, which samples; counted."""

    def __init__(self, source: Source, asked: Parameters, progress: Progress, merges: Merges | None = None) -> None:
        from prefmerge.models.features import cache_folder

        self.source, self.asked, self.progress = source, asked, progress
        self.merges = merges or Merges(source.base, source.checkpoints, source.tasks.names, asked.threads)
        self.cost: dict[str, float] = {"forwards": 0, "merges": 0, "candidates": 0}
        self.cache = None if asked.no_cache else cache_folder()

    def embed(self, encoder: Encoder, device: Any, examples: Examples, what: str) -> np.ndarray:
        """Embeddings (N, E) of what the encoder holds now."""
        from prefmerge.models.features import embed

        self.cost["forwards"] += len(examples)
        return embed(
            encoder,
            examples,
            batch=self.asked.batch,
            device=device,
            cache=self.cache,
            progress=lambda done, of: self.progress(done, of, what),
        )

    def embeddings_of_base(self, examples: Examples, what: str) -> np.ndarray:
        """Embeddings (N, E) under theta_0; of a classifier, what its last layer takes."""
        from prefmerge.models.encoders.classifier import ClassifierEncoder

        encoder, device = self.source.encoder()
        encoder.load(self.source.base)
        if isinstance(encoder, ClassifierEncoder):
            encoder = encoder.features()
        return self.embed(encoder, device, examples, what)

    def units(self, pool: Sequence[Candidate], examples: Sequence[Examples], what: str) -> list[list[np.ndarray]]:
        """[candidate][part]: unit embeddings (n, E), float32, of each part of samples under each candidate; the logits
        (n, C) where the checkpoints have a classifier of their own.
        """
        from prefmerge.models.encoders.weights import put_arrays

        encoder, device = self.source.encoder()
        of_classifier = self.source.classifier is not None
        embedded: list[list[np.ndarray]] = [[] for _ in pool]
        done = 0

        def seen(i: int) -> None:
            nonlocal done
            done += 1
            step = f"{what}: {pool[i].name} ({done} of {len(pool)})"
            nothing = np.zeros((0, encoder.width), np.float32)
            parts = [self.embed(encoder, device, part, step) if len(part) else nothing for part in examples]
            embedded[i] = parts if of_classifier else [_units(part) for part in parts]

        for i, one in enumerate(pool):
            if one.single:
                encoder.load(self._file(one))
                seen(i)
        merged = [i for i, one in enumerate(pool) if not one.single]
        before = self.merges.made
        for at, model in self.merges.each(
            [pool[i].settings for i in merged], lambda n, _: self.progress(0, 0, f"{what}: merging {n} candidates")
        ):
            encoder.load(self.source.base)  # for the tensors that no merge touches
            put_arrays(encoder, model, self.source.base)
            seen(merged[at])
        self.cost["merges"] += self.merges.made - before
        return embedded

    def _file(self, one: Candidate) -> Path:
        """Where a model that is there lies."""
        if one.task is None:
            assert one.path is not None
            return one.path
        return self.source.base if one.task < 0 else self.source.checkpoints[one.task]


def _units(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return (embeddings / np.maximum(norms, 1e-12)).astype(np.float32)
