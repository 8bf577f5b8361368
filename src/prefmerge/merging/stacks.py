"""A model that is stacked of slices of others: so many layers of one, and on them so many of the next.

    cars[0:8]|birds[4:12]     layers 0 to 7 of cars are its layers 0 to 7, layers 4 to 11 of birds its layers 8 to 15

Nothing is copied: a tensor of the stack is read where its slice has it. What lies outside of the layers is the first
slice's where it comes before them (embeddings), the last slice's where it comes after them (the last norm, the head),
as in mergekit. The files beside the weights are those of the first model that is named; a slice of no layers
(`cars[0:0]`) names one for that. Cost: a header for each model. Not here: what is written for a stack
(`checkpoints.paths`), its configuration (`configs`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import final

import numpy as np

from prefmerge.checkpoints import Checkpoint, TensorInfo, is_task_vector
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.paths import PathOfLayers
from prefmerge.errors import CheckpointMismatch
from prefmerge.ground.brief import brief
from prefmerge.ground.words import listed, quoted
from prefmerge.merging.layers import layer_of, stacks

SHOWN = 3  # names that a message lists
# What comes after the layers, by the last part of its name but weight and bias. `embed_out` is a head.
_AFTER = re.compile(
    r"(.*_)?(norm|ln|ln_f|norm_f|layer_?norm|head|embed_out|output|(proj|project)_out|classifier|score|dense|decoder)",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True, eq=False)
class Stack:
    """A `Checkpoint` of slices. `home`: the model whose files an output takes. `layers`: how deep in its slice each
    tensor lies, and in which. `sources`: for each layer the model that it is of, and its number there.
    """

    __repr__ = brief

    name: str
    path: Path
    home: Checkpoint
    models: tuple[Checkpoint, ...]
    tensors: Mapping[str, TensorInfo]
    layers: Mapping[str, tuple[Fraction, int]]
    sources: tuple[tuple[Checkpoint, int], ...]
    _stored: Mapping[str, tuple[Checkpoint, str]]

    @property
    def aliases(self) -> Mapping[str, str]:
        """Outside of the layers, where both names are one model's; a layer that is there twice is two."""
        pairs: dict[str, str] = {}
        first: dict[tuple[int, str], str] = {}
        for name, (model, own) in self._stored.items():
            if layer_of(name) is None:
                shared = first.setdefault((id(model), model.aliases.get(own, own)), name)
                if shared != name:
                    pairs[name] = shared
        return pairs

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.home.metadata

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for model in self.models for note in model.notes))

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for model in self.models for path in model.files)

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        return tuple(file for model in self.models for file in model.inputs)

    def file_of(self, tensor: str) -> str:
        model, own = self._stored[tensor]
        return model.file_of(own)

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        model, own = self._stored[tensor]
        return model.read(own, start, stop, buffer)

    def raw(self, tensor: str) -> np.ndarray:
        model, own = self._stored[tensor]
        return model.raw(own)

    def close(self) -> None:
        for model in self.models:
            model.close()


def home_of(checkpoint: Checkpoint) -> Checkpoint:
    """The one whose folder an output takes its other files from."""
    return checkpoint.home if isinstance(checkpoint, Stack) else checkpoint


def open_stack(
    path: Path, parts: Sequence[PathOfLayers], name: str, opened_at: Callable[[str], Checkpoint]
) -> Checkpoint:
    """The stack of `parts`, which `path` names. Raises CheckpointMismatch where they do not make one model."""
    opened: dict[str, Checkpoint] = {}
    try:
        for part in parts:
            if part.first > part.last:
                raise CheckpointMismatch(
                    f"{path}: the slice [{part.first}:{part.last}] ends before it begins. Give the first layer, and "
                    "the one behind the last."
                )
            if part.path not in opened:
                opened[part.path] = opened_at(part.path)
        slices = [(opened[part.path], part) for part in parts if part.first < part.last]
        return _stacked(path, name, opened, slices)
    except BaseException:
        for checkpoint in opened.values():
            checkpoint.close()
        raise


def _stacked(
    path: Path, name: str, opened: Mapping[str, Checkpoint], slices: Sequence[tuple[Checkpoint, PathOfLayers]]
) -> Stack:
    if not slices:
        raise CheckpointMismatch(f"{path}: a stack without a layer. Give slices such as [0:8].")
    named = {one.path: one for _, one in slices}
    prefixes = {one: require_one_stack(opened[one], part.last) for one, part in named.items()}
    for model, part in slices:
        require_one_stack(model, part.last)
    first, prefix = slices[0][1].path, prefixes[slices[0][1].path]
    for other, own in prefixes.items():
        if own != prefix:
            raise CheckpointMismatch(
                f"{other}: its layers are called {own}.0 and so on, and those of {first} {prefix}.0. A stack needs "
                "models of one architecture."
            )
    _require_alike(slices)
    home = next(iter(opened.values()))
    stored = dict(_outside(slices))
    _require_one_vocabulary(path, (home, slices[0][0], slices[-1][0]), stored)
    layers = {name: (Fraction(0), len(slices) - 1 if _is_after(name) else 0) for name in stored}
    sources: list[tuple[Checkpoint, int]] = []
    for slice, (model, part) in enumerate(slices):
        inside = {own: layer for own in model.tensors if (layer := layer_of(own))}
        count = part.last - part.first
        for own, layer in inside.items():
            if part.first <= layer.number < part.last:
                at = layer.number - part.first
                new = layer.renumbered(len(sources) + at)
                stored[new] = (model, model.aliases.get(own, own))
                layers[new] = (Fraction(at, count - 1) if count > 1 else Fraction(1), slice)
        sources += [(model, number) for number in range(part.first, part.last)]
    tensors = {
        name: TensorInfo(name, model.tensors[own].dtype, model.tensors[own].shape)
        for name, (model, own) in sorted(stored.items())
    }
    models = tuple(opened.values())
    return Stack(name, path, home, models, tensors, layers, tuple(sources), {name: stored[name] for name in tensors})


def require_one_stack(model: Checkpoint, last: int = 0) -> str:
    """What the names of a model's layers begin with. Raises CheckpointMismatch where it has not one stack of at least
    `last` layers.
    """
    where, counts = model.path or model.name, stacks(model.tensors)
    if is_task_vector(model):
        raise CheckpointMismatch(f"{where}: a task vector, and slices are of models. Merge it into its base first.")
    if len(counts) != 1:
        have = f"{len(counts)} stacks of layers ({listed(counts, SHOWN)})" if counts else "no layers that have numbers"
        raise CheckpointMismatch(f"{where}: it has {have}. Slices can be taken of a model with one stack of layers.")
    ((prefix, count),) = counts.items()
    if last > count:
        raise CheckpointMismatch(f"{where}: it has {count} layers, and a slice ends at {last}. Give at most {count}.")
    return prefix


def _outside(
    slices: Sequence[tuple[Checkpoint, PathOfLayers]],
) -> Iterator[tuple[str, tuple[Checkpoint, str]]]:
    """The tensors that belong to no layer, each with the model that gives it."""
    (first, one), (last, other) = slices[0], slices[-1]
    before, after = ({name for name in model.tensors if layer_of(name) is None} for model in (first, last))
    if before != after:
        raise CheckpointMismatch(
            f"{one.path} and {other.path} differ in {quoted(sorted(before ^ after), SHOWN)}, outside of the layers. "
            "A stack needs models of one architecture."
        )
    for name in before:
        model = last if _is_after(name) else first
        yield name, (model, model.aliases.get(name, name))


def _require_one_vocabulary(path: Path, models: Sequence[Checkpoint], outside: Iterable[str]) -> None:
    """Raise CheckpointMismatch where what comes before the layers, what comes after them and the configuration are of
    models with different shapes there, such as different numbers of tokens.
    """
    for name in outside:
        shapes = {one.tensors[name].shape: one for one in models if name in one.tensors}
        if len(shapes) > 1:
            (first, one), (second, other) = list(shapes.items())[:2]
            raise CheckpointMismatch(
                f"{path}: {name!r} has shape {first} in {one.path or one.name} and {second} in "
                f"{other.path or other.name}, and a stack has one vocabulary. Bring them to one first, with prefmerge "
                "merge --tokenizer-source."
            )


def _is_after(name: str) -> bool:
    """Whether a tensor outside of the layers comes after them."""
    parts = [part for part in name.split(".") if part not in ("weight", "bias")]
    return not any("embed" in part and part != "embed_out" for part in parts) and bool(_AFTER.fullmatch(parts[-1]))


def _require_alike(slices: Sequence[tuple[Checkpoint, PathOfLayers]]) -> None:
    """Raise CheckpointMismatch where two models have no layer of one shape: they are of different sizes."""
    first, one = slices[0]
    shapes = _shapes(first)
    for model, part in slices[1:]:
        if model is first:
            continue
        for rest, own in _shapes(model).items():
            if rest in shapes and not own & shapes[rest]:
                raise CheckpointMismatch(
                    f"{part.path}: {rest!r} of its layers has shape {min(own)}, and in {one.path} {min(shapes[rest])}. "
                    "A stack needs models of one architecture and size."
                )


def _shapes(model: Checkpoint) -> dict[str, set[tuple[int, ...]]]:
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, info in model.tensors.items():
        if layer := layer_of(name):
            shapes.setdefault(layer.rest, set()).add(info.shape)
    return shapes
