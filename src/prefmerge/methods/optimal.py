"""The selection that retains the most importance under the same budgets (ours): semi-discrete optimal transport with a
certificate.

    maximise sum_p I_owner(p)[p]   subject to   |{p: owner(p) = t}| = n_t
    at the optimum   owner(p) = argmax_t I_t[p] - price_t

The owner of most elements is plain long before the prices are exact. A keyed sample gives prices and, from its eighths,
how far each price difference may still move; an element whose best task wins by more than that is settled. The
contested are sampled again, finer, until they fit in memory; `transport.solve` then assigns them exactly under the
budgets that are left. If the last prices respect every bound that an element was settled by, the whole assignment is
optimal: all owners are best at one set of prices. Otherwise the bounds are widened and the search begins again. Equal
importances are ordered by a keyed number below `noise` (2^-28 of the mean best importance), so the answer is
deterministic, and `gap` counts what that may cost. Shapes: W_RP rows by competing tasks, float64. Cost: a scope of at
most `ROWS / P` elements is read once; a larger one about twice, with at most `ROWS` float64 in memory and a byte an
element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.importance import Importance, MagnitudeImportance, gatherer, reader
from prefmerge.methods.keyed import GOLDEN, key, keyed
from prefmerge.methods.parameters import SEED, STRENGTH
from prefmerge.methods.protocol import Deltas, Report, Settings
from prefmerge.methods.transport import apportion, solve
from prefmerge.vectors.kernel_cache import kernel
from prefmerge.vectors.workspace import BLOCK, Workspace, spans

ROWS = 1 << 22  # importances held at once, rows x tasks: 32 MiB of float64
SAMPLE = 1 << 20  # importances in one sample, rows x tasks
EIGHTHS = 8  # independent parts of a sample, whose prices show its error
RARE = 32  # rows: with fewer in an eighth of the sample, a task's price is too uncertain to settle anything for it
NOISE = 2.0**-28  # of the mean best importance: far above the rounding of prices, far below what a gap of 1e-6 allows
LEAST = 1e-45  # stands for a mean importance of zero: the smallest float32
ATTEMPTS = 4
WIDEN = 1.5  # how much wider than the sample's eighths the bounds are at first; threefold at each failure
AIM = 5e-7  # relative gap; half of what is promised
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


class _Problem:
    """One scope: its tensors, budgets and importances, and the owners found so far (FREE where contested)."""

    def __init__(
        self,
        tensors: Sequence[Deltas],
        asked: Sequence[int],
        competing: Sequence[int],
        importance: Importance,
        settings: Settings,
        work: Workspace,
    ) -> None:
        self.tensors, self.importance, self.settings, self.work = tensors, importance, settings, work
        self.competing, self.tasks_P = list(competing), np.array(competing, np.int64)
        self.block = work.shared(len(competing))
        self.budget_P = np.array([asked[t] for t in competing], np.int64)
        self.elements = int(self.budget_P.sum())
        self.owners = work.allocate(self.elements, np.uint8)
        self.parts: list[_Part] = []
        origin = 0
        for i, deltas in enumerate(tensors):
            self.parts += [
                _Part(i, start, self.owners[origin + start : origin + stop])
                for start, stop in spans(deltas.size, work.part)
            ]
            origin += deltas.size
        self.noise = NOISE
        self.ties = [key(settings[SEED], deltas.name, "ties") for deltas in tensors]

    def read(self, part: _Part, low: int, high: int) -> np.ndarray:
        """Importances of one block of a part for every competing task, shape (P, high - low)."""
        importance_PB = self.work.buffer("optimal", (len(self.tasks_P), high - low))
        stretch = reader(self.tensors[part.tensor], part.start + low, part.start + high)
        for _ in self.importance.each(stretch, part.tensor, self.competing, list(importance_PB), self.work):
            pass
        return importance_PB

    def sample(self, low: float, high: float, purpose: int) -> list[np.ndarray]:
        """For each part, the positions of its free elements whose draw, uniform in [0, 1), lies in [low, high)."""
        first, last = int(low * 2.0**64), min(int(high * 2.0**64), 2**64) - 1

        def pick(part: _Part) -> np.ndarray:
            # One more than there are: the next candidate is written before it counts.
            indices = self.work.buffer("sampled", part.owner.size + 1, np.int64)
            k = key(self.settings[SEED], self.tensors[part.tensor].name, "sample", purpose)
            return indices[: _sampled(part.owner, k, part.start, np.uint64(first), np.uint64(last), indices)].copy()

        return self.work.map(pick, self.parts)

    def gather(self, picked: Sequence[np.ndarray], noise: float | None) -> tuple[np.ndarray, float]:
        """W of the picked elements, shape (R, P), with their tie-breaking noise, and the noise (measured on these rows
        when not given).
        """
        origins = np.concatenate([[0], np.cumsum([len(p) for p in picked])])
        W_RP = np.empty((int(origins[-1]), len(self.tasks_P)))

        def fill(i: int) -> None:
            part, positions = self.parts[i], picked[i]
            if len(positions) == 0:
                return
            deltas, block = self.tensors[part.tensor], W_RP[origins[i] : origins[i + 1]]
            if len(positions) == part.owner.size:
                for low, high in spans(len(positions), self.block):
                    np.abs(self.read(part, low, high).T, out=block[low:high])
                return
            values, gathered = self.work.buffer("gathered", len(positions)), gatherer(deltas, part.start + positions)
            rows = [values] * len(self.competing)
            for j, row in enumerate(self.importance.each(gathered, part.tensor, self.competing, rows, self.work)):
                block[:, j] = np.abs(row)

        self.work.map(fill, range(len(self.parts)))
        if noise is None:
            # Where a sample is all zeros (an embedding of which few rows moved) ties must have an order all the same.
            noise = max(float(W_RP.max(axis=1).mean()) if len(W_RP) else 0.0, LEAST) * self.noise
        for i, positions in enumerate(picked):
            if len(positions):
                part, block = self.parts[i], W_RP[origins[i] : origins[i + 1]]
                keys = np.full(len(positions), self.ties[part.tensor])
                for j, task in enumerate(self.tasks_P):
                    _add_noise(block[:, j].copy(), keys, part.start + positions, noise, int(task), block[:, j])
        return W_RP, noise

    def give(self, picked: Sequence[np.ndarray], owner_R: np.ndarray) -> None:
        """Write down the owners of what `gather` gathered."""
        origin = 0
        for part, positions in zip(self.parts, picked, strict=True):
            part.owner[positions] = self.tasks_P[owner_R[origin : origin + len(positions)]]
            origin += len(positions)


def select_optimal(
    tensors: Sequence[Deltas],
    asked: Sequence[int],
    competing: Sequence[int],
    importance: Importance,
    settings: Settings,
    work: Workspace,
) -> tuple[np.ndarray, Report]:
    """The owner of every element of `tensors`, one after the other, uint8, and the relative duality gap. `asked` sums
    to the number of elements.
    """
    problem = _Problem(tensors, asked, competing, importance, settings, work)
    owners, report = problem.owners, Report(tuple(asked))
    if settings[STRENGTH] == 0 and isinstance(importance, MagnitudeImportance):
        # The budgets are MAGMAX's own counts. Its assignment is then the only optimal one: task T's budget is every
        # element where T is among the largest, so T must take them all; then T - 1 of what is left, and so on.
        work.map(lambda part: _magmax(problem, part), problem.parts)
        report.gap = 0.0
        return owners, report
    if len(competing) == 1:
        owners[:] = competing[0]
        report.gap = 0.0
        return owners, report
    solution, widen = None, WIDEN
    for attempt in range(ATTEMPTS):
        solution = _search(problem, widen, attempt)
        if solution is None:
            widen *= 3.0
        elif solution[0] > AIM:
            # What is retained is far below the best importances: so must the noise be.
            problem.noise *= AIM / (4 * solution[0])
        else:
            break
    if solution is None:
        solution = _piecewise(problem)
    gap, price_P = solution
    report.gap = float(f"{gap:.2g}")  # a bound; its further digits depend on the order of a sum
    prices = dict(zip(competing, price_P.tolist(), strict=True))
    report.prices = tuple(prices.get(t) for t in range(settings.tasks))
    return owners, report


def _magmax(problem: _Problem, part: _Part) -> None:
    deltas, work = problem.tensors[part.tensor], problem.work
    for low, high in spans(part.owner.size, work.block):
        tau, best, owner = work.buffer("tau", high - low), work.buffer("best", high - low), part.owner[low:high]
        best[:] = 0
        owner[:] = 0
        for task in range(problem.settings.tasks):
            deltas.read(task, part.start + low, part.start + high, tau)
            kernels.fold_max(tau, best, owner, np.uint8(task))


def _search(problem: _Problem, widen: float, attempt: int) -> tuple[float, np.ndarray] | None:
    """One attempt: settle, cut down, solve. Returns the relative gap and the prices; None when a bound did not hold."""
    P = len(problem.tasks_P)
    problem.owners[:] = kernels.FREE
    left_P = problem.budget_P.copy()
    bounds_PP = np.full((P, P), np.inf)  # the tightest bound that any element was settled by
    settled_importance = 0.0
    noise: float | None = None
    price_P: np.ndarray | None = None
    number = 1000 * attempt  # every attempt draws samples of its own
    while int(left_P.sum()) * P > ROWS:
        number += 1
        contested = int(left_P.sum())
        with problem.work.heavy:
            W_RP, noise = problem.gather(problem.sample(0.0, SAMPLE / P / contested, number), noise)
            price_P, bound_PP = _prices(W_RP, left_P, widen, price_P)
            del W_RP
        settled_P, importance = _settle_all(problem, price_P, bound_PP, noise)
        settled_importance += importance
        left_P -= settled_P
        bounds_PP[settled_P > 0] = np.minimum(bounds_PP, bound_PP)[settled_P > 0]
        if (left_P < 0).any() or int(settled_P.sum()) * 10 < contested:
            return None  # settled too much for someone, or the bounds settle too little to end soon
    with problem.work.heavy:
        picked = problem.sample(0.0, 1.0, 0)
        W_RP, noise = problem.gather(picked, noise)
        owner_R, price_P = solve(W_RP, left_P, _levels(len(W_RP), problem.settings[SEED]), price_P)
        held = W_RP[np.arange(len(W_RP)), owner_R]
        lost = float(((W_RP - price_P).max(axis=1) - (held - price_P[owner_R])).sum()) if len(W_RP) else 0.0
        del W_RP
    differences_PP = price_P[:, None] - price_P[None, :]
    np.fill_diagonal(differences_PP, -np.inf)
    rounding = 4 * np.finfo(np.float64).eps * float(np.abs(price_P).max())
    problem.give(picked, owner_R)
    if not (differences_PP <= bounds_PP + rounding).all():
        # Some settled element may be worth more to another task. Mostly it is a handful by a hair: measure.
        measured = max(0.0, _measured(problem, price_P))
        return (measured, price_P) if measured <= AIM else None
    retained = settled_importance + float(held.sum())
    return ((lost + problem.elements * (noise + rounding)) / retained if retained > 0 else 0.0), price_P


def _piecewise(problem: _Problem) -> tuple[float, np.ndarray]:
    """Where no attempt held: random pieces that fit in memory, each assigned optimally under its part of the budgets.

    The budgets are exact and memory is bounded all the same; the gap is then measured, by reading everything again.
    """
    problem.owners[:] = kernels.FREE
    left_P = problem.budget_P.copy()
    pieces = -(-2 * problem.elements * len(problem.tasks_P) // ROWS)
    noise: float | None = None
    price_P = np.zeros(len(problem.tasks_P))
    for i in range(pieces):
        # Free elements are those of later pieces, so the draw of this one is over what is left.
        with problem.work.heavy:
            picked = problem.sample(0.0, 1.0 if i == pieces - 1 else (i + 1) / pieces, 0)
            W_RP, noise = problem.gather(picked, noise)
            rows = len(W_RP)
            share_P = apportion(left_P, rows)
            owner_R, price_P = solve(W_RP, share_P, _levels(rows, problem.settings[SEED]), price_P)
            del W_RP
        problem.give(picked, owner_R)
        left_P -= share_P
    return max(0.0, _measured(problem, price_P)), price_P


def _measured(problem: _Problem, price_P: np.ndarray) -> float:
    """The relative gap of the owners found, by reading everything again."""
    price_T = np.full(problem.settings.tasks, np.nan)
    price_T[problem.tasks_P] = price_P
    return relative_gap(problem.tensors, problem.owners, price_T, problem.importance, problem.settings, problem.work)


def _levels(rows: int, seed: int) -> list[np.ndarray]:
    """Growing random sets of rows to find first prices on."""
    sizes = [size for size in (1 << 10, 1 << 13, 1 << 16, 1 << 19) if 2 * size < rows]
    if not sizes:
        return []
    order = np.random.default_rng(seed).permutation(rows)
    return [np.sort(order[:size]) for size in sizes]


def _prices(
    W_RP: np.ndarray, left_P: np.ndarray, widen: float, price_P: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Prices from a sample and, for each pair (a, b), how large price_a - price_b may be: from the spread of the
    sample's eighths, widened.

    A rare task's price is the edge of a tail of which the sample holds a handful. Nothing is settled for it, and it is
    compared with the others at the price it would have with many more rows than its due, which is lower.
    """
    R = len(W_RP)
    due_P = left_P / left_P.sum()
    rare_P = due_P * R < RARE * EIGHTHS
    centre_P, bound_PP = _range(W_RP, lambda rows: due_P * rows, widen, price_P)
    if rare_P.any():

        def ample(rows: int) -> np.ndarray:
            # Counts in a sample scatter by their square root; that many of them more are never seen by chance.
            return np.where(rare_P, due_P * rows + 3 * widen * (np.sqrt(due_P * rows) + 1), due_P * rows)

        _, low_PP = _range(W_RP, ample, widen, centre_P)
        bound_PP[:, rare_P] = low_PP[:, rare_P]
        bound_PP = np.maximum(bound_PP, low_PP)  # more for the rare is less for the others
        bound_PP[rare_P] = np.inf
    np.fill_diagonal(bound_PP, -np.inf)  # nothing need win against itself
    return centre_P, bound_PP


def _range(
    W_RP: np.ndarray, rows_for: Callable[[int], np.ndarray], widen: float, price_P: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Prices of a sample whose R rows are shared out by `rows_for(R)`, and how large each price_a - price_b may be."""

    def budgets_of(rows: int) -> np.ndarray:
        return apportion(np.ceil(rows_for(rows) * 2.0**20).astype(np.int64), rows)

    R = len(W_RP)
    _, centre_P = solve(W_RP, budgets_of(R), _levels(R, R), price_P)
    centre_PP = centre_P[:, None] - centre_P[None, :]
    largest_PP = centre_PP
    for e in range(EIGHTHS):
        rows = np.ascontiguousarray(W_RP[e::EIGHTHS])
        _, part_P = solve(rows, budgets_of(len(rows)), [], centre_P)
        largest_PP = np.maximum(largest_PP, part_P[:, None] - part_P[None, :])
    return centre_P, centre_PP + widen * (largest_PP - centre_PP)


def _settle_all(problem: _Problem, price_P: np.ndarray, bound_PP: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    def settle(part: _Part) -> tuple[np.ndarray, float]:
        settled_P, total = np.zeros(len(problem.tasks_P), np.int64), 0.0
        for low, high in spans(part.owner.size, problem.block):
            owner = part.owner[low:high]
            if (owner == kernels.FREE).any():
                importance_PB = problem.read(part, low, high)
                k = problem.ties[part.tensor]
                total += _settle(
                    importance_PB, price_P, bound_PP, problem.tasks_P, k, part.start + low, noise, owner, settled_P
                )
        return settled_P, total

    results = problem.work.map(settle, problem.parts)
    return np.sum([s for s, _ in results], axis=0), float(sum(total for _, total in results))


def relative_gap(
    tensors: Sequence[Deltas],
    owners: np.ndarray,
    price_T: np.ndarray,
    importance: Importance,
    settings: Settings,
    work: Workspace,
) -> float:
    """The certificate from scratch: (dual - primal) / primal at any prices, shape (T,), reading everything once. For
    checks; selecting does not need it.
    """
    # Stretch by stretch, for NumPy counts in a copy of 8 bytes an element.
    asked = np.sum([np.bincount(owners[i:j], minlength=settings.tasks) for i, j in spans(owners.size, BLOCK)], axis=0)
    competing = [t for t in range(settings.tasks) if asked[t]]
    problem = _Problem(tensors, asked.tolist(), competing, importance, settings, work)
    problem.owners[:] = owners
    price_P = price_T[competing]
    dual, primal = float((problem.budget_P * price_P).sum()), 0.0
    for part in problem.parts:
        for low, high in spans(part.owner.size, problem.block):
            d, p = _dual_terms(problem.read(part, low, high), price_P, problem.tasks_P, part.owner[low:high])
            dual, primal = dual + d, primal + p
    return (dual - primal) / primal if primal > 0 else 0.0
