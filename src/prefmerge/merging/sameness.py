"""Which tensors of open checkpoints hold the same values, and which checkpoints do.

A file says nothing of ties: it stores the head's copy of the embeddings, or one name of the two. So values are
compared: a few short slices of each tensor first, whole tensors only where all slices agree. Cost: some pages of each
tensor that has another's shape; one reading of real copies. What was seen is kept, so a second plan over the same
checkpoints reads nothing. Not here: shapes and names (plan), copies in another number format but for `unchanged`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import xxhash

from prefmerge.checkpoints import Checkpoint, from_float32, is_task_vector, to_float32
from prefmerge.checkpoints.dtypes import rounds

SLICES, SLICE = 4, 32  # of a sample: so many, of so many elements each
BLOCK = 1 << 20  # elements compared at a time
_Member = TypeVar("_Member")
T = TypeVar("T")


class Sameness:
    """Compares values of checkpoints that stay open, and remembers."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int, str], bytes] = {}
        self._unchanged: dict[tuple[int, str, int, str, bool], bool] = {}
        self._not_finite: dict[tuple[int, str], float | None] = {}
        self._made: dict[Hashable, Any] = {}
        self._kept: dict[int, Checkpoint] = {}  # a freed checkpoint's id could come back as another's

    def once(self, what: str, checkpoints: Sequence[Checkpoint], key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives; of an earlier call with the same checkpoints and key where there was one."""
        whole = (what, *map(self._key, checkpoints), key)
        if whole not in self._made:
            self._made[whole] = make()
        return self._made[whole]

    def sample(self, checkpoint: Checkpoint, tensor: str) -> Hashable:
        """Differs where a few slices do."""
        return self._hashed("sample", checkpoint, tensor, _slices)

    def content(self, checkpoint: Checkpoint, tensor: str) -> Hashable:
        """Differs where any element does. Reads the tensor."""
        return self._hashed("content", checkpoint, tensor, _blocks)

    def same(self, checkpoint: Checkpoint, a: str, b: str) -> bool:
        """Whether two tensors of one checkpoint have one shape, number format and content."""
        return (
            checkpoint.tensors[a].shape == checkpoint.tensors[b].shape
            and self.sample(checkpoint, a) == self.sample(checkpoint, b)
            and self.content(checkpoint, a) == self.content(checkpoint, b)
        )

    def copies(self, checkpoint: Checkpoint, wanted: Sequence[str], among: Sequence[str]) -> dict[str, str]:
        """For each tensor of `wanted` that has one, the first of `among` with the same shape, number format and
        content. Tensors whose elements are all equal are nobody's copy.
        """

        def look(name: str) -> Hashable:
            return checkpoint.tensors[name].shape, self.sample(checkpoint, name)

        shapes = {checkpoint.tensors[name].shape for name in wanted}
        alike: dict[Hashable, list[str]] = {}
        for name in among:
            if checkpoint.tensors[name].shape in shapes:
                alike.setdefault(look(name), []).append(name)
        firsts: dict[str, str] = {}
        for name in wanted:
            others = alike.get(look(name), ())
            of = next((other for other in others if self.same(checkpoint, name, other)), None) if others else None
            if of is not None and not self.constant(checkpoint, name):
                firsts[name] = of
        return firsts

    def unchanged(self, base: Checkpoint, tensor: str, task: Checkpoint, stored: str, *, sampled: bool = False) -> bool:
        """Whether a task holds the base's values, rounded to its own format, or zeros where it is a task vector.
        `sampled`: as far as a few slices show.
        """
        key = (self._key(base), tensor, self._key(task), stored, sampled)
        if key not in self._unchanged:
            self._unchanged[key] = (sampled or self.unchanged(base, tensor, task, stored, sampled=True)) and all(
                _equal(base, tensor, task, stored, start, stop)
                for start, stop in (_slices if sampled else _blocks)(base.tensors[tensor].size)
            )
        return self._unchanged[key]

    def not_finite(self, checkpoint: Checkpoint, tensor: str, most: int) -> float | None:
        """The first value that is no finite float32; in a tensor of more than `most` elements, as far as a few slices
        show.
        """
        key = (self._key(checkpoint), tensor)
        if key not in self._not_finite:
            size, dtype = checkpoint.tensors[tensor].size, checkpoint.tensors[tensor].dtype
            self._not_finite[key] = None
            for start, stop in _blocks(size) if size <= most else _slices(size):
                values = to_float32(checkpoint.read(tensor, start, stop), dtype)
                wrong = values[~np.isfinite(values)]
                if wrong.size:
                    self._not_finite[key] = float(wrong[0])
                    break
        return self._not_finite[key]

    def constant(self, checkpoint: Checkpoint, tensor: str) -> bool:
        """Whether all elements are equal. Fresh biases and norms are, and are equal to one another by no tie."""
        size = checkpoint.tensors[tensor].size
        if size <= 1:
            return True
        first = checkpoint.read(tensor, 0, 1).copy()
        return all(
            bool((checkpoint.read(tensor, start, stop) == first).all())
            for spans in (_slices, _blocks)
            for start, stop in spans(size)
        )

    def _hashed(
        self, what: str, checkpoint: Checkpoint, tensor: str, spans: Callable[[int], Iterable[tuple[int, int]]]
    ) -> Hashable:
        tensor = checkpoint.aliases.get(tensor, tensor)
        key = (what, self._key(checkpoint), tensor)
        if key not in self._seen:
            digest = xxhash.xxh3_128()
            for start, stop in spans(checkpoint.tensors[tensor].size):
                digest.update(checkpoint.read(tensor, start, stop).view(np.uint8).data)
            self._seen[key] = digest.digest()
        return checkpoint.tensors[tensor].dtype.code, self._seen[key]

    def _key(self, checkpoint: Checkpoint) -> int:
        self._kept.setdefault(id(checkpoint), checkpoint)
        return id(checkpoint)


def _slices(size: int) -> list[tuple[int, int]]:
    if size <= SLICES * SLICE:
        return [(0, size)]
    starts = [(size - SLICE) * i // (SLICES - 1) for i in range(SLICES)]
    return [(start, start + SLICE) for start in starts]


def _blocks(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _equal(base: Checkpoint, tensor: str, task: Checkpoint, stored: str, start: int, stop: int) -> bool:
    elements, dtype = task.read(stored, start, stop), task.tensors[stored].dtype
    if is_task_vector(task):
        return not to_float32(elements, dtype).any()
    expected = base.read(tensor, start, stop)
    if dtype == base.tensors[tensor].dtype:
        same_bits = np.array_equal(elements.view(np.uint8), expected.view(np.uint8))  # NaN does not equal itself
        if same_bits or np.array_equal(elements, expected):
            return True
    values = to_float32(expected, base.tensors[tensor].dtype)
    if rounds(dtype, base.tensors[tensor].dtype):
        values = to_float32(from_float32(values, dtype), dtype)
    return np.array_equal(to_float32(elements, dtype), values)


def refined(groups: Iterable[Sequence[_Member]], key: Callable[[_Member], Hashable]) -> list[list[_Member]]:
    """Each group cut into those of one key; who is alone is dropped, so that later, dearer keys are not asked for."""
    result: list[list[_Member]] = []
    for group in groups:
        parts: dict[Hashable, list[_Member]] = {}
        for member in group:
            parts.setdefault(key(member), []).append(member)
        result += [part for part in parts.values() if len(part) > 1]
    return result


def equal_everywhere(
    base: Checkpoint, tasks: Sequence[Checkpoint], stored: dict[str, tuple[str, ...]], sameness: Sameness
) -> list[list[str]]:
    """Groups of the base's tensors that are equal in the base and in every task, each in order of name. `stored`: the
    tensors to look at, with their names in the tasks.

    Tensors that no task changes stay alone, unless they share their elements in the base: they are copied, whatever
    their ties.
    """

    def place(name: str) -> Hashable:
        info = base.tensors[name]
        # A lone element is equal to many by chance.
        return info.dtype.code, info.shape, base.aliases.get(name, name) if info.size <= 1 else None

    def changed(name: str) -> Hashable:
        pairs = zip(tasks, stored[name], strict=True)
        if all(sameness.unchanged(base, name, task, own) for task, own in pairs):
            return base.aliases.get(name, name)
        return None

    def of_task(i: int, look: Callable[[Checkpoint, str], Hashable]) -> Callable[[str], Hashable]:
        return lambda name: look(tasks[i], stored[name][i])

    groups = refined([sorted(stored)], place)
    groups = refined(groups, lambda name: sameness.sample(base, name))
    for i in range(len(tasks)):
        groups = refined(groups, of_task(i, sameness.sample))
    groups = refined(groups, changed)
    groups = refined(groups, lambda name: sameness.content(base, name))
    for i in range(len(tasks)):
        groups = refined(groups, of_task(i, sameness.content))
    return groups


def equal_to_the_base(
    base: Checkpoint, tasks: Sequence[Checkpoint], stored: Mapping[str, Sequence[str]], sameness: Sameness
) -> list[int]:
    """The places of the tasks that change none of the tensors in `stored` (name -> its name in each task)."""
    names = [name for name in stored if base.tensors[name].size]
    return [
        i
        for i, task in enumerate(tasks)
        if names
        and all(sameness.unchanged(base, name, task, stored[name][i], sampled=True) for name in names)
        and all(sameness.unchanged(base, name, task, stored[name][i]) for name in names)
    ]


def equal_tasks(
    tasks: Sequence[Checkpoint], stored: Mapping[str, Sequence[str]], sameness: Sameness
) -> list[list[int]]:
    """Groups of the places of tasks that hold the same values in all tensors of `stored`."""
    groups = refined([range(len(tasks))], lambda i: is_task_vector(tasks[i]))
    for look in (sameness.sample, sameness.content):
        for own in stored.values():
            if not groups:
                return []
            groups = refined(groups, partial(_seen_in, look, tasks, own))
    return groups if stored else []


def _seen_in(
    look: Callable[[Checkpoint, str], Hashable], tasks: Sequence[Checkpoint], own: Sequence[str], i: int
) -> Hashable:
    return look(tasks[i], own[i])
