"""The elements of a scope whose owners the optimal selection is still looking for, on the machine that can read them.

    plain: the best task wins against every other by more than the prices may still move and the noise may decide

A section of a scope: some of its tensors, and one byte of owner an element, FREE where contested. Given prices, it
gives away what is plain at them, and answers with the importances of the elements that are asked for. Equal importances
are ordered by a keyed number below `noise`. Shapes: W_RP rows by competing tasks, float64. Cost: a reading for each
question but `give`; a byte an element, and the rows asked for. Not here: which prices, and what they are worth
(`optimal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.importance import Importance, gatherer, reader
from prefmerge.methods.keyed import GOLDEN, key, keyed
from prefmerge.methods.parameters import SEED
from prefmerge.methods.protocol import Deltas, Settings
from prefmerge.vectors.kernel_cache import kernel
from prefmerge.vectors.workspace import Workspace, spans

STRETCH = 512  # elements whose best tasks are found together
ROUNDING = 2.0**-48  # of the numbers in a comparison: sixteen times what four roundings of them come to
UNIT = 2.0**-53  # turns the upper 53 bits of a keyed number into a fraction


@dataclass(frozen=True)
class _Part:
    tensor: int
    start: int
    owner: np.ndarray


@kernel
def _add_noise(importance, keys, indices, noise, task, out):
    """out = importance + noise * u(element, task), u uniform in [0, 1): one keyed number an element, spread over tasks
    by odd multipliers.
    """
    for i in range(out.size):
        h = keyed(keys[i], indices[i]) * (np.uint64(2 * task + 1) * GOLDEN)
        out[i] = np.float64(abs(importance[i])) + noise * (np.float64(h >> np.uint64(11)) * UNIT)


@kernel
def _contested_winner(importance_P, best, price_P, bound_PP, tasks_P, key, index, noise, worth):
    """The task that wins an element against every other by more than the bound, or -1. `best`: the one that wins
    without noise. `worth` (P,) is overwritten.
    """
    P = importance_P.size
    plain = True
    for t in range(P):
        margin = np.float64(abs(importance_P[best])) - np.float64(abs(importance_P[t]))
        plain &= margin > bound_PP[best, t] + noise
    if plain:
        return best
    # Only the close ones pay for their tie-breaking numbers.
    h = keyed(key, index)
    for t in range(P):
        u = np.float64((h * (np.uint64(2 * tasks_P[t] + 1) * GOLDEN)) >> np.uint64(11)) * UNIT
        worth[t] = np.float64(abs(importance_P[t])) + noise * u
    winner = 0
    for t in range(1, P):
        if worth[t] - price_P[t] > worth[winner] - price_P[winner]:
            winner = t
    close = False
    for t in range(P):
        close |= not worth[winner] - worth[t] > bound_PP[winner, t]
    return -1 if close else winner


@kernel
def _settle(importance_PB, price_P, bound_PP, tasks_P, key, start, noise, owner, settled_P):
    """Give each free element of a block to its best task if that wins against every other by more than the bound.

    `bound_PP` is -inf on the diagonal. Returns the importance settled.
    """
    P = importance_PB.shape[0]
    value = np.empty(STRETCH)  # importance less price of the best task so far
    second = np.empty(STRETCH)  # that of the next best
    top = np.empty(STRETCH)  # the best task's importance
    best = np.empty(STRETCH, np.int64)
    plain = np.empty(STRETCH, np.bool_)
    worth_P = np.empty(P)
    # An element whose best task leads by more than this passes every comparison of importances in `_contested_winner`:
    # its bounds are those of prices, shifted by their difference. What rounding may take from that is given away.
    lead_P = np.empty(P)
    scale = 0.0
    for w in range(P):
        lead_P[w] = -np.inf
        for t in range(P):
            lead_P[w] = max(lead_P[w], bound_PP[w, t] - (price_P[w] - price_P[t]))
        scale = max(scale, abs(price_P[w]))
    total = 0.0
    for first in range(0, owner.size, STRETCH):
        last = min(first + STRETCH, owner.size)
        count = last - first
        owners = owner[first:last]
        value[:count] = -np.inf
        second[:count] = -np.inf
        # Task by task over a short stretch: rows of a block lie far apart, and a walk across them misses the cache.
        for t in range(P):
            price, row = price_P[t], importance_PB[t, first:last]
            for i in range(count):
                x = np.float64(abs(row[i]))
                leading, following, most, leader = value[i], second[i], top[i], best[i]
                better = x - price > leading
                beaten = leading if better else x - price
                second[i] = beaten if beaten > following else following
                value[i] = x - price if better else leading
                top[i] = x if better else most
                best[i] = t if better else leader
        for i in range(count):
            doubt = noise + ROUNDING * (top[i] + scale + abs(value[i]))
            plain[i] = value[i] - second[i] > lead_P[best[i]] + doubt
        for i in range(count):
            is_free = owners[i] == kernels.FREE
            given = is_free & plain[i]
            owners[i] = tasks_P[best[i]] if given else owners[i]
            settled_P[best[i]] += given
            total += top[i] if given else 0.0
            if is_free & (not plain[i]):
                winner = _contested_winner(
                    importance_PB[:, first + i],
                    best[i],
                    price_P,
                    bound_PP,
                    tasks_P,
                    key,
                    start + first + i,
                    noise,
                    worth_P,
                )
                if winner >= 0:
                    owners[i] = tasks_P[winner]
                    settled_P[winner] += 1
                    total += np.float64(abs(importance_PB[winner, first + i]))
    return total


@kernel
def _sampled(owner, key, start, low, high, indices):
    """List the free elements whose keyed number lies in [low, high]. Returns how many."""
    count = 0
    for i in range(owner.size):
        if owner[i] == kernels.FREE:
            h = keyed(key, start + i)
            indices[count] = i
            count += 1 if low <= h <= high else 0
    return count


@kernel
def _dual_terms(importance_PB, price_P, tasks_P, owner):
    """(sum of max_t I_t - price_t, sum of the owner's I) over a block."""
    dual = 0.0
    primal = 0.0
    for i in range(owner.size):
        best = -np.inf
        for t in range(price_P.size):
            x = np.float64(abs(importance_PB[t, i]))
            best = max(best, x - price_P[t])
            if tasks_P[t] == owner[i]:
                primal += x
        dual += best
    return dual, primal


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
        self._tensors, self._importance, self._settings, self._work = tensors, importance, settings, work
        self._competing, self._tasks_P = list(competing), np.array(competing, np.int64)
        self._block = work.shared(len(competing))
        self.owners = work.allocate(sum(deltas.size for deltas in tensors), np.uint8)
        self._parts: list[_Part] = []
        origin = 0
        for i, deltas in enumerate(tensors):
            self._parts += [
                _Part(i, start, self.owners[origin + start : origin + stop])
                for start, stop in spans(deltas.size, work.part)
            ]
            origin += deltas.size
        self._ties = [key(settings[SEED], deltas.name, "ties") for deltas in tensors]
        self._picked: list[np.ndarray] = []  # positions in each part
        self._W_RP: np.ndarray | None = None  # of these, without noise

    def fill(self, owner: int) -> None:
        """Give every element to one task, or to none (FREE)."""
        self.owners[:] = owner

    def magmax(self) -> None:
        """Give every element to the task of the largest magnitude, the later one of equals."""

        def fold(part: _Part) -> None:
            deltas, work = self._tensors[part.tensor], self._work
            for low, high in spans(part.owner.size, work.block):
                tau, best, owner = (
                    work.buffer("tau", high - low),
                    work.buffer("best", high - low),
                    part.owner[low:high],
                )
                best[:] = 0
                owner[:] = 0
                for task in range(self._settings.tasks):
                    deltas.read(task, part.start + low, part.start + high, tau)
                    kernels.fold_max(tau, best, owner, np.uint8(task))

        self._work.map(fold, self._parts)

    def pick(self, low: float, high: float, purpose: int) -> int:
        """Pick the free elements whose draw, uniform in [0, 1), lies in [low, high). Returns how many."""
        first, last = int(low * 2.0**64), min(int(high * 2.0**64), 2**64) - 1

        def pick(part: _Part) -> np.ndarray:
            # One more than there are: the next candidate is written before it counts. No buffer: each thread would
            # keep one, of eight bytes an element of a part.
            indices = np.empty(part.owner.size + 1, np.int64)
            k = key(self._settings[SEED], self._tensors[part.tensor].name, "sample", purpose)
            return indices[: _sampled(part.owner, k, part.start, np.uint64(first), np.uint64(last), indices)].copy()

        self._picked, self._W_RP = self._work.map(pick, self._parts), None
        return sum(map(len, self._picked))

    def best(self) -> np.ndarray:
        """The largest importance of each element that is picked, shape (R,)."""
        self._W_RP = self._gathered()
        return self._W_RP.max(axis=1)

    def rows(self, noise: float) -> np.ndarray:
        """The importances of what is picked, shape (R, P), with their tie-breaking noise."""
        W_RP, self._W_RP = self._gathered() if self._W_RP is None else self._W_RP, None
        origin = 0
        for part, positions in zip(self._parts, self._picked, strict=True):
            if len(positions):
                block = W_RP[origin : origin + len(positions)]
                keys = np.full(len(positions), self._ties[part.tensor])
                for j, task in enumerate(self._tasks_P):
                    _add_noise(block[:, j].copy(), keys, part.start + positions, noise, int(task), block[:, j])
            origin += len(positions)
        return W_RP

    def give(self, owner_R: np.ndarray) -> None:
        """Write down the owners of what is picked, as places among the competing tasks."""
        origin = 0
        for part, positions in zip(self._parts, self._picked, strict=True):
            part.owner[positions] = self._tasks_P[owner_R[origin : origin + len(positions)]]
            origin += len(positions)

    def settle(self, price_P: np.ndarray, bound_PP: np.ndarray, noise: float) -> tuple[np.ndarray, list[float]]:
        """Give away what is plain. Returns the number of elements for each competing task, and the importance that is
        settled, part by part.
        """

        def settle(part: _Part) -> tuple[np.ndarray, float]:
            settled_P, total = np.zeros(len(self._tasks_P), np.int64), 0.0
            for low, high in spans(part.owner.size, self._block):
                owner = part.owner[low:high]
                if (owner == kernels.FREE).any():
                    importance_PB = self._read(part, low, high)
                    k = self._ties[part.tensor]
                    total += _settle(
                        importance_PB, price_P, bound_PP, self._tasks_P, k, part.start + low, noise, owner, settled_P
                    )
            return settled_P, total

        results = self._work.map(settle, self._parts)
        settled_P = sum((own for own, _ in results), start=np.zeros(len(self._tasks_P), np.int64))
        return settled_P, [total for _, total in results]

    def terms(self, price_P: np.ndarray) -> list[tuple[float, float]]:
        """For each part, the sum of max_t I_t - price_t over its elements, and the sum of their owners' I."""

        def add(part: _Part) -> tuple[float, float]:
            dual = primal = 0.0
            for low, high in spans(part.owner.size, self._block):
                d, p = _dual_terms(self._read(part, low, high), price_P, self._tasks_P, part.owner[low:high])
                dual, primal = dual + d, primal + p
            return dual, primal

        return self._work.map(add, self._parts)

    def _read(self, part: _Part, low: int, high: int) -> np.ndarray:
        """Importances of one block of a part for every competing task, shape (P, high - low)."""
        importance_PB = self._work.buffer("optimal", (len(self._tasks_P), high - low))
        stretch = reader(self._tensors[part.tensor], part.start + low, part.start + high)
        for _ in self._importance.each(stretch, part.tensor, self._competing, list(importance_PB), self._work):
            pass
        return importance_PB

    def _gathered(self) -> np.ndarray:
        """The importances of what is picked, shape (R, P)."""
        origins = np.concatenate([[0], np.cumsum(list(map(len, self._picked)), dtype=np.int64)])
        W_RP = np.empty((int(origins[-1]), len(self._tasks_P)))

        def fill(i: int) -> None:
            part, positions = self._parts[i], self._picked[i]
            if len(positions) == 0:
                return
            deltas, block = self._tensors[part.tensor], W_RP[origins[i] : origins[i + 1]]
            if len(positions) == part.owner.size:
                for low, high in spans(len(positions), self._block):
                    np.abs(self._read(part, low, high).T, out=block[low:high])
                return
            values, gathered = self._work.buffer("gathered", len(positions)), gatherer(deltas, part.start + positions)
            rows = [values] * len(self._competing)
            for j, row in enumerate(self._importance.each(gathered, part.tensor, self._competing, rows, self._work)):
                block[:, j] = np.abs(row)

        self._work.map(fill, range(len(self._parts)))
        return W_RP
