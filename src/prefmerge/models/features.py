"""Embeddings of a data set under a model, encoded once and then read from a cache.

    embed(encoder, examples)[i] = tower(prepare(input_i)),   (N, E) float32, not normalised

The cache is keyed by content: the weights' fingerprint, what encoder and preprocessing are, the fingerprint and the ids
of the inputs, and what rounding depends on (size of the batches, kind of device, PyTorch's version and threads). So a
hit is, bit for bit, what encoding again would give. Cost: one forward pass per sample, one batch prepared ahead; a hit
costs one reading of the weights, for their hash. On disk 4 N E bytes a key, which nothing removes but `clear_cache`. A
file that is damaged counts as absent. Not here: augmentation, several processes or accelerators.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prefmerge.checkpoints.fingerprint import content_fingerprint
from prefmerge.checkpoints.memory import from_state_dict
from prefmerge.data.examples import Examples
from prefmerge.errors import EncoderError
from prefmerge.ground import caches
from prefmerge.ground.progress import Counted
from prefmerge.ground.store import Store, digest
from prefmerge.models.encoders.protocol import Batch, Encoder
from prefmerge.models.prepared import READERS, in_parts

if TYPE_CHECKING:
    import torch

FORMAT = "prefmerge-features/1"
SUFFIX = ".features"


def embed(
    encoder: Encoder,
    examples: Examples,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
) -> np.ndarray:
    """The embeddings (N, E), float32, of all examples under the evaluation transform, in eval mode, without gradients.

    `device`: the tower is moved there and stays; None: where it is. `cache`: a folder (`cache_folder()` is the user's);
    None: none. Only encoders that say in a string `preprocessing` what weights do not show (size and normalisation of
    images, pooling, length of texts) are cached: of another, old features could pass for new ones. The modes of the
    tower's modules are as before afterwards. Raises EncoderError where the tower gives another shape than (n, E), or
    NaN or infinity; what `examples.read` raises.
    """
    import torch

    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    if device is not None:
        encoder.tower.to(device)
    place = _device_of(encoder) if device is None else torch.device(device)
    if len(examples) == 0:
        return np.zeros((0, encoder.width), np.float32)
    if cache is None or not encoder.preprocessing:
        return _encoded(encoder, examples, batch, place, progress)
    store, key = _store(cache), _key(encoder, examples, batch, place)
    features = _read(store, key, (len(examples), encoder.width))
    if features is None:
        features = _encoded(encoder, examples, batch, place, progress)
        _write(store, key, features)
    elif progress is not None:
        progress(len(examples), len(examples))
    return features


def cache_folder() -> Path:
    """Where features are kept."""
    return caches.cache_folder("features")


def cache_size(folder: Path) -> int:
    """The bytes that the features in a cache folder take."""
    return _store(folder).size()


def clear_cache(folder: Path) -> int:
    """Remove the features in a cache folder, and nothing else that is there. Returns the bytes freed."""
    return _store(folder).clear()


def _store(folder: Path) -> Store:
    """N E numbers a piece, little-endian float32."""
    return Store(folder, SUFFIX, sealed=True)


def _device_of(encoder: Encoder) -> torch.device:
    import torch

    return next((parameter.device for parameter in encoder.tower.parameters()), torch.device("cpu"))


def _encoded(
    encoder: Encoder, examples: Examples, batch: int, device: torch.device, progress: Counted | None
) -> np.ndarray:
    """The embeddings in the order of the examples. Texts are read in the order of their length, longest first: a batch
    is padded to its longest, and what does not fit into memory fails at once."""
    if encoder.kind == "image":
        return _in_order(encoder, examples, batch, device, progress)
    lengths = np.array([len(str(text)) for text in examples.read(range(len(examples)))])
    order = np.argsort(-lengths, kind="stable")
    result = np.empty((len(examples), encoder.width), np.float32)
    result[order] = _in_order(encoder, examples.take(order), batch, device, progress)
    return result


def _in_order(
    encoder: Encoder, examples: Examples, batch: int, device: torch.device, progress: Counted | None
) -> np.ndarray:
    import torch

    tower, count = encoder.tower, len(examples)
    result = np.empty((count, encoder.width), np.float32)
    modes = [(module, module.training) for module in tower.modules()]
    tower.eval()
    try:
        # Not inference_mode: what a tower keeps for later (tables of positions) would then be of no use in training.
        with torch.no_grad():
            start = 0
            for inputs, size in _batches(encoder, examples, batch):
                embeddings = tower(**{name: tensor.to(device) for name, tensor in inputs.items()})
                if tuple(embeddings.shape) != (size, encoder.width):
                    raise EncoderError(
                        f"{encoder.name}: the tower gives shape {tuple(embeddings.shape)} for {size} inputs; "
                        f"expected {(size, encoder.width)}, one embedding each."
                    )
                result[start : start + size] = embeddings.float().cpu().numpy()
                bad = ~np.isfinite(result[start : start + size]).all(axis=1)
                if bad.any():
                    raise EncoderError(
                        f"{encoder.name}: the embedding of sample {examples.ids[start + int(bad.argmax())]!r} holds "
                        "NaN or infinity. Did the training diverge? Look at the loss in the run's log.jsonl."
                    )
                start += size
                if progress is not None:
                    progress(start, count)
    finally:
        for module, training in modes:
            module.training = training
    return result


def _batches(encoder: Encoder, examples: Examples, batch: int) -> Iterator[tuple[Batch, int]]:
    """Prepared batches and their sizes, in order; the next is prepared while the tower works on one. Images of a batch
    are read and prepared in several threads.
    """
    import torch

    starts = range(0, len(examples), batch)

    def part(at: range) -> Batch:
        return encoder.prepare(examples.read(at))

    def prepared(start: int) -> tuple[Batch, int]:
        whole = range(start, min(start + batch, len(examples)))
        if encoder.kind == "text":  # padded to the longest of the batch
            return part(whole), len(whole)
        parts = list(readers.map(part, in_parts(whole.start, whole.stop)))
        return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}, len(whole)

    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(prepared, starts[0])
        for start in starts[1:]:
            done = waiting.result()
            waiting = ahead.submit(prepared, start)
            yield done
        yield waiting.result()


def _key(encoder: Encoder, examples: Examples, batch: int, device: torch.device) -> str:
    import torch

    kind = type(encoder)
    described = {
        "format": FORMAT,
        "weights": content_fingerprint(from_state_dict(encoder.state(), name=encoder.name)),
        "encoder": [f"{kind.__module__}.{kind.__qualname__}", encoder.kind, encoder.width, repr(encoder.tower)],
        "preprocessing": encoder.preprocessing,
        "inputs": examples.fingerprint(range(len(examples))),
        "ids": digest(examples.ids),
        "rounding": [batch, device.type, torch.__version__, torch.get_num_threads() if device.type == "cpu" else 0],
    }
    return digest(described)


def _read(store: Store, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    """What the cache holds; None where it is absent or damaged."""
    values = store.read(key)
    if values is None or len(values) != 4 * shape[0] * shape[1]:
        return None
    return np.frombuffer(values, "<f4").astype(np.float32).reshape(shape)


def _write(store: Store, key: str, features: np.ndarray) -> None:
    """Keep features for the next time; where that cannot be, warn."""
    try:
        store.write(key, features.astype("<f4").tobytes())
    except OSError as error:
        why = error.strerror or error
        warnings.warn(
            f"{store.file(key)}: the features cannot be kept ({why}); they are encoded again next time.", stacklevel=3
        )
