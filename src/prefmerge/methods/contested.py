"""The elements of a scope whose owners the optimal selection is still looking for, on the machine that can read them.

    plain: the best task wins against every other by more than the prices may still move and the noise may decide

A section of a scope: some of its tensors, and one byte of owner an element, FREE where contested. Given prices, it
gives away what is plain at them, and answers with the importances of the elements that are asked for. Equal importances
are ordered by a keyed number below `noise`. Shapes: W_RP rows by competing tasks, float64; tau_RQ the vectors that
these come from, float32. Cost: two readings, one for the first sample, which also measures the steps, and one to
settle. What stays contested is then kept, up to `MOST_KEPT` values and where the memory limit allows, so that no later
question reads it again; else each question but `give` is a reading. Where memory allows, the value that each element
takes is kept too, and the merge need not read. A byte of owner an element, and the rows asked for. Not here: which
prices, and what they are worth (`optimal`), the loops over elements (`settling`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prefmerge.methods import kernels, settling
from prefmerge.methods.importance import Importance, StepImportance
from prefmerge.methods.keyed import key
from prefmerge.methods.parameters import SEED
from prefmerge.methods.protocol import Deltas, Settings
from prefmerge.vectors.workspace import BLOCK, SHARED, Workspace, spans

FAR = 64  # elements from one that is picked to the next, on average, beyond which they are gathered
GROUP = SHARED // BLOCK  # vectors of a unit that a thread holds at once
MOST_KEPT = 1 << 23  # values of contested elements: 32 MiB of float32
NOTHING = np.empty(0, np.float32)  # in the place of a merged vector that is not kept


@dataclass(frozen=True)
class _Unit:
    """A stretch of a tensor, which one thread works on."""

    tensor: int
    start: int
    stop: int


@dataclass
class _Rows:
    """Some elements of a unit, ascending, and their vectors once these are read."""

    unit: _Unit
    positions: np.ndarray
    tau_RQ: np.ndarray | None = None


@dataclass(frozen=True)
class _Group:
    """Vectors [first, last) of those that are read, as many as a thread holds at once, and the competing tasks [low,
    high) whose importances come from them. The first vector is the last one of the group before, if there is one.
    """

    first: int
    last: int
    low: int
    high: int


class Contested:
    """Some tensors of a scope, and the owners found so far. What is asked of it: see `sections`."""

    def __init__(
        self,
        tensors: Sequence[Deltas],
        competing: Sequence[int],
        importance: Importance,
        settings: Settings,
        work: Workspace,
    ) -> None:
        self._tensors, self._settings, self._work = tensors, settings, work
        self._importance, self._competing = importance, list(competing)
        self._tasks_P = np.array(competing, np.int64)
        self._read_Q, self._own_P, self._before_P = importance.vectors(competing)
        self._block = work.shared(len(self._read_Q))
        self._groups = _groups(self._own_P, len(self._read_Q))
        self._edges = list(itertools.accumulate((deltas.size for deltas in tensors), initial=0))
        self.owners = work.allocate(self._edges[-1], np.uint8)
        self.merged: np.ndarray | None = None  # the value of each element's owner
        self._keeps = False  # whether there is room for it
        self._units = [_Unit(i, *span) for i, deltas in enumerate(tensors) for span in spans(deltas.size, BLOCK)]
        self._ties = [key(settings[SEED], deltas.name, "ties") for deltas in tensors]
        self._picked: list[_Rows] = []
        self._left: list[_Rows] | None = None  # all that is contested, where it is kept

    def fill(self, owner: int) -> None:
        """Give every element to one task, or to none (FREE)."""
        self.owners[:] = owner
        self._left, self._keeps = None, owner == kernels.FREE
        self.merged = self.merged if self._keeps else None

    def magmax(self) -> None:
        """Give every element to the task of the largest magnitude, the later one of equals."""

        def fold(unit: _Unit) -> None:
            deltas, work = self._tensors[unit.tensor], self._work
            for start, stop in _blocks(unit, work.block):
                tau, best = work.buffer("tau", stop - start), work.buffer("best", stop - start)
                owner = self._owners_of(unit.tensor)[start:stop]
                best[:] = 0
                owner[:] = 0
                for task in range(self._settings.tasks):
                    deltas.read(task, start, stop, tau)
                    kernels.fold_max(tau, best, owner, np.uint8(task))

        self._work.map(fold, self._units)

    def pick(self, low: float, high: float, purpose: int) -> int:
        """Pick the free elements whose draw, uniform in [0, 1), lies in [low, high). Returns how many."""
        first, last = np.uint64(int(low * 2.0**64)), np.uint64(min(int(high * 2.0**64), 2**64) - 1)
        keys = [key(self._settings[SEED], deltas.name, "sample", purpose) for deltas in self._tensors]

        def pick(unit: _Unit) -> _Rows:
            # One more than there are: the next candidate is written before it counts. No buffer: each thread would
            # keep one, of eight bytes an element.
            positions = np.empty(unit.stop - unit.start + 1, np.int64)
            owner = self._owners_of(unit.tensor)[unit.start : unit.stop]
            count = settling.sampled(owner, keys[unit.tensor], unit.start, first, last, positions)
            return _Rows(unit, positions[:count].copy())

        def choose(rows: _Rows) -> _Rows:
            places = np.empty(len(rows.positions) + 1, np.int64)
            count = settling.sampled_rows(rows.positions, keys[rows.unit.tensor], first, last, places)
            return _some(rows, places[:count]) if count < len(rows.positions) else replace(rows)

        if self._left is None:
            self._picked = self._work.map(pick, self._units)
        else:
            self._picked = self._work.map(choose, self._left)
        return sum(len(rows.positions) for rows in self._picked)

    def best(self) -> np.ndarray:
        """The largest importance of each element that is picked, shape (R,)."""
        self._gather()
        best_R = np.empty(sum(len(rows.positions) for rows in self._picked))

        def fill(rows: _Rows, low: int, high: int) -> None:
            settling.largest(rows.tau_RQ, *self._places(rows.unit), best_R[low:high])

        self._of_picked(fill)
        return best_R

    def rows(self, noise: float) -> np.ndarray:
        """The importances of what is picked, shape (R, P), with their tie-breaking noise."""
        self._gather()
        W_RP = np.empty((sum(len(rows.positions) for rows in self._picked), len(self._competing)))

        def fill(rows: _Rows, low: int, high: int) -> None:
            ties = (self._tasks_P, self._ties[rows.unit.tensor], rows.positions, noise)
            settling.importances(rows.tau_RQ, *self._places(rows.unit), *ties, W_RP[low:high])
            if not self._keeps:
                rows.tau_RQ = None

        self._of_picked(fill)
        return W_RP

    def give(self, owner_R: np.ndarray) -> None:
        """Write down the owners of what is picked, as places among the competing tasks."""

        def give(rows: _Rows, low: int, high: int) -> None:
            tensor = rows.unit.tensor
            self._owners_of(tensor)[rows.positions] = self._tasks_P[owner_R[low:high]]
            if self.merged is not None:
                assert rows.tau_RQ is not None
                own = self._own_P[owner_R[low:high]]
                self._merged_of(tensor)[rows.positions] = rows.tau_RQ[np.arange(high - low), own]

        self._of_picked(give)
        self._picked, self._left = [], None

    def settle(self, price_P: np.ndarray, bound_PP: np.ndarray, noise: float) -> tuple[np.ndarray, list[float]]:
        """Give away what is plain. Returns the number of elements for each competing task, and the importance that is
        settled, unit by unit.
        """
        how, keeping = (price_P, bound_PP, self._tasks_P), _Keeping(self._work)

        def settle(unit: _Unit) -> tuple[np.ndarray, float, list[_Rows]]:
            settled_P, total, left = np.zeros(len(self._competing), np.int64), 0.0, list[_Rows]()
            owners, merged = self._owners_of(unit.tensor), self._merged_of(unit.tensor)
            contested = np.empty(self._block, np.int64)
            for start, stop in _blocks(unit, self._block):
                owner = owners[start:stop]
                if (owner == kernels.FREE).any():
                    tau_QB = self._read(unit.tensor, start, stop)
                    at = (self._ties[unit.tensor], start, noise, owner, merged[start:stop], settled_P, contested)
                    settled, count = settling.settle(tau_QB, *self._places(unit), *how, *at)
                    total += settled
                    tau_RQ = keeping.array(count, len(tau_QB))
                    if tau_RQ is not None:
                        positions = contested[:count].copy()
                        settling.take_rows(tau_QB, start, positions, tau_RQ, 0)
                        left.append(_Rows(unit, positions, tau_RQ))
            return settled_P, total, left

        def settle_rows(rows: _Rows) -> tuple[np.ndarray, float, list[_Rows]]:
            settled_P, left = np.zeros(len(self._competing), np.int64), np.empty(len(rows.positions), np.int64)
            tensor = rows.unit.tensor
            owners = (self._owners_of(tensor), self._merged_of(tensor))
            at = (self._ties[tensor], rows.positions, noise, *owners, settled_P, left)
            total, count = settling.settle_rows(rows.tau_RQ, *self._places(rows.unit), *how, *at)
            return settled_P, total, [_some(rows, left[:count])]

        self._picked = []
        if self._left is None:
            results = self._work.map(settle, self._units)
        else:
            results = self._work.map(settle_rows, self._left)
        self._left = [rows for _, _, left in results for rows in left] if keeping.all else None
        settled_P = sum((own for own, _, _ in results), start=np.zeros(len(self._competing), np.int64))
        return settled_P, [total for _, total, _ in results]

    def terms(self, price_P: np.ndarray) -> list[tuple[float, float]]:
        """For each unit, the sum of max_t I_t - price_t over its elements, and the sum of their owners' I."""

        def add(unit: _Unit) -> tuple[float, float]:
            dual = primal = 0.0
            for start, stop in _blocks(unit, self._block):
                tau_QB, owner = self._read(unit.tensor, start, stop), self._owners_of(unit.tensor)[start:stop]
                d, p = settling.dual_terms(tau_QB, *self._places(unit), price_P, self._tasks_P, owner)
                dual, primal = dual + d, primal + p
            return dual, primal

        return self._work.map(add, self._units)

    def _owners_of(self, tensor: int) -> np.ndarray:
        return self.owners[self._edges[tensor] : self._edges[tensor + 1]]

    def _merged_of(self, tensor: int) -> np.ndarray:
        return NOTHING if self.merged is None else self.merged[self._edges[tensor] : self._edges[tensor + 1]]

    def _places(self, unit: _Unit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which vectors importances come from, and over what, as the kernels take them."""
        return self._own_P, self._before_P, self._importance.rms(unit.tensor, self._competing)

    def _of_picked(self, function: Callable[[_Rows, int, int], None]) -> None:
        """function(rows, low, high) for all that is picked, which has rows [low, high) of the whole."""
        edges = list(itertools.accumulate((len(rows.positions) for rows in self._picked), initial=0))
        pieces = [piece for piece in zip(self._picked, edges[:-1], edges[1:], strict=True) if piece[1] < piece[2]]
        self._work.map(lambda piece: function(*piece), pieces)

    def _read(self, tensor: int, start: int, stop: int) -> np.ndarray:
        """The vectors of a block that importances come from, shape (Q, stop - start)."""
        tau_QB = self._work.buffer("optimal", (len(self._read_Q), stop - start))
        for task, tau in zip(self._read_Q, tau_QB, strict=True):
            self._tensors[tensor].read(task, start, stop, tau)
        return tau_QB

    def _read_group(self, tensor: int, group: _Group, start: int, stop: int) -> np.ndarray:
        """The vectors of a group, after those of the group before it, shape (last - first, stop - start)."""
        tau_GB = self._work.buffer("optimal", (GROUP, stop - start))
        if group.first:
            tau_GB[0] = tau_GB[-1]  # the groups before are full
        for task, tau in zip(self._read_Q[group.first : group.last], tau_GB, strict=False):
            if task != self._read_Q[group.first] or not group.first:
                self._tensors[tensor].read(task, start, stop, tau)
        return tau_GB[: group.last - group.first]

    def _gather(self) -> None:
        """Read the vectors of what is picked; where the steps are not measured yet, of every element."""
        unmeasured = isinstance(self._importance, StepImportance) and not self._importance.is_measured
        if not unmeasured and all(rows.tau_RQ is not None for rows in self._picked):
            return
        if self._keeps and self.merged is None:
            self.merged = self._work.spare(self.owners.size, np.float32)
            self._keeps = self.merged is not None

        def gather(rows: _Rows) -> np.ndarray:
            unit, positions, total_P = rows.unit, rows.positions, np.zeros(len(self._competing))
            values = self._work.spare(len(positions) * len(self._read_Q), np.float32) if self._keeps else None
            if values is None:
                values, self._keeps, self.merged = np.empty(len(positions) * len(self._read_Q), np.float32), False, None
            tau_RQ = rows.tau_RQ = values.reshape(-1, len(self._read_Q))
            if not unmeasured and len(positions) * FAR < unit.stop - unit.start:
                self._gather_single(rows)
                return total_P
            for start, stop in _blocks(unit, self._work.block):
                low, high = np.searchsorted(positions, (start, stop)).tolist()
                for group in self._groups if unmeasured or low < high else ():
                    tau_GB, own = self._read_group(unit.tensor, group, start, stop), slice(group.low, group.high)
                    settling.take_rows(tau_GB, start, positions[low:high], tau_RQ[low:high], group.first)
                    if unmeasured:
                        places = (self._own_P[own] - group.first, np.maximum(self._before_P[own] - group.first, -1))
                        settling.add_squares(tau_GB, *places, total_P[own])
            return total_P

        totals = self._work.map(gather, self._picked)
        if unmeasured:
            tensors = [unit.tensor for unit in self._units]
            self._importance = StepImportance.of_sums(
                zip(tensors, totals, strict=True), self._tensors, self._competing, self._settings.tasks
            )

    def _gather_single(self, rows: _Rows) -> None:
        """Read the vectors of elements that lie far apart."""
        if len(rows.positions):
            assert rows.tau_RQ is not None
            values = self._work.buffer("gathered", len(rows.positions))
            for q, task in enumerate(self._read_Q):
                self._tensors[rows.unit.tensor].gather(task, rows.positions, values)
                rows.tau_RQ[:, q] = values


class _Keeping:
    """Memory for what stays contested: all of it, or nothing is kept."""

    def __init__(self, work: Workspace) -> None:
        self.all = True
        self._work, self._room, self._lock = work, MOST_KEPT, threading.Lock()

    def array(self, rows: int, columns: int) -> np.ndarray | None:
        with self._lock:
            self._room -= rows * columns
            self.all = self.all and self._room >= 0
        array = self._work.spare(rows * columns, np.float32) if self.all else None
        if array is None:
            self.all = False
            return None
        return array.reshape(rows, columns)


def _groups(own_P: np.ndarray, vectors: int) -> list[_Group]:
    groups: list[_Group] = []
    first, low, last = 0, 0, 0
    while last < vectors:
        first, last = max(0, last - 1), min(max(0, last - 1) + GROUP, vectors)
        high = int(np.searchsorted(own_P, last))
        groups.append(_Group(first, last, low, high))
        low = high
    return groups


def _some(rows: _Rows, places: np.ndarray) -> _Rows:
    assert rows.tau_RQ is not None
    return _Rows(rows.unit, rows.positions[places], rows.tau_RQ[places])


def _blocks(unit: _Unit, most: int) -> list[tuple[int, int]]:
    """A unit in blocks of equal length, at most so many elements."""
    size = unit.stop - unit.start
    length = -(-size // max(1, -(-size // most)))
    return [(unit.start + low, unit.start + high) for low, high in spans(size, length)]
