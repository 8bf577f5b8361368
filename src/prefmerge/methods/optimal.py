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
most `ROWS / P` elements is read once; a larger one twice where memory allows, with at most `ROWS` float64 in memory and
a byte an element. Where a scope is in sections, they send the rows that are solved here: a sample for each cut, then
the last contested ones. Not here: reading elements and writing down their owners (`contested`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from prefmerge.methods import kernels, settling
from prefmerge.methods.contested import Contested
from prefmerge.methods.importance import Importance
from prefmerge.methods.parameters import SEED, STRENGTH
from prefmerge.methods.protocol import Deltas, Report, Settings
from prefmerge.methods.sections import Ask, alone
from prefmerge.methods.transport import apportion, solve
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


class _Problem:
    """One scope: its budgets, and its sections, each a `Contested`."""

    def __init__(
        self, asked: Sequence[int], competing: Sequence[int], settings: Settings, ask: Ask, work: Workspace
    ) -> None:
        self.settings, self.ask, self.work = settings, ask, work
        self.tasks_P = np.array(competing, np.int64)
        self.budget_P = np.array([asked[t] for t in competing], np.int64)
        self.elements = int(self.budget_P.sum())
        self.noise = NOISE
        self._rows: list[int] = []  # of what is picked, section by section

    def gather(self, low: float, high: float, purpose: int, noise: float | None) -> tuple[np.ndarray, float]:
        """W of the free elements whose draw, uniform in [0, 1), lies in [low, high): shape (R, P), with their
        tie-breaking noise, and the noise (measured on these rows when not given).
        """
        self._rows = self.ask(Contested.pick, low, high, purpose)
        if noise is None:
            best_R = _joined(self.ask(Contested.best))
            # Where a sample is all zeros (an embedding of which few rows moved) ties must have an order all the same.
            noise = max(float(best_R.mean()) if len(best_R) else 0.0, LEAST) * self.noise
        return _joined(self.ask(Contested.rows, noise)), noise

    def give(self, owner_R: np.ndarray) -> None:
        """Have the owners of what was gathered last written down."""
        several = len(self._rows) > 1
        self.ask(Contested.give, each=np.split(owner_R, np.cumsum(self._rows)[:-1]) if several else [owner_R])

    def settle(self, price_P: np.ndarray, bound_PP: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
        """Have what is plain given away. Returns how many elements each task got, and their importance."""
        answers = self.ask(Contested.settle, price_P, bound_PP, noise)
        settled_P = np.sum([settled for settled, _ in answers], axis=0)
        return settled_P, float(sum(itertools.chain.from_iterable(totals for _, totals in answers)))

    def measured(self, price_P: np.ndarray) -> float:
        """The relative gap of the owners found, by reading everything again."""
        dual, primal = float((self.budget_P * price_P).sum()), 0.0
        for d, p in itertools.chain.from_iterable(self.ask(Contested.terms, price_P)):
            dual, primal = dual + d, primal + p
        return (dual - primal) / primal if primal > 0 else 0.0


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    """What the sections tell, one below the other."""
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def select_optimal(
    asked: Sequence[int], competing: Sequence[int], by_magnitude: bool, settings: Settings, ask: Ask, work: Workspace
) -> Report:
    """Have the sections of a scope, each a `Contested`, find the owner of every element. Returns the budgets and the
    relative duality gap. `asked` sums to the number of elements. `by_magnitude`: the importance is the magnitude.
    """
    problem, report = _Problem(asked, competing, settings, ask, work), Report(tuple(asked))
    if settings[STRENGTH] == 0 and by_magnitude:
        # The budgets are MAGMAX's own counts. Its assignment is then the only optimal one: task T's budget is every
        # element where T is among the largest, so T must take them all; then T - 1 of what is left, and so on.
        ask(Contested.magmax)
        report.gap = 0.0
        return report
    if len(competing) == 1:
        ask(Contested.fill, competing[0])
        report.gap = 0.0
        return report
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
    return report


def _search(problem: _Problem, widen: float, attempt: int) -> tuple[float, np.ndarray] | None:
    """One attempt: settle, cut down, solve. Returns the relative gap and the prices; None when a bound did not hold."""
    P = len(problem.tasks_P)
    problem.ask(Contested.fill, int(kernels.FREE))
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
            W_RP, noise = problem.gather(0.0, SAMPLE / P / contested, number, noise)
            price_P, bound_PP = _prices(W_RP, left_P, widen, price_P)
            del W_RP
        settled_P, importance = problem.settle(price_P, bound_PP, noise)
        settled_importance += importance
        left_P -= settled_P
        bounds_PP[settled_P > 0] = np.minimum(bounds_PP, bound_PP)[settled_P > 0]
        if (left_P < 0).any() or int(settled_P.sum()) * 10 < contested:
            return None  # settled too much for someone, or the bounds settle too little to end soon
    with problem.work.heavy:
        W_RP, noise = problem.gather(0.0, 1.0, 0, noise)
        owner_R, price_P = solve(W_RP, left_P, _levels(len(W_RP), problem.settings[SEED]), price_P)
        lost_R, held_R = np.empty(len(W_RP)), np.empty(len(W_RP))
        settling.what_was_lost(W_RP, price_P, owner_R, lost_R, held_R)
        lost, held = float(lost_R.sum()), float(held_R.sum())
        del W_RP, lost_R, held_R
    differences_PP = price_P[:, None] - price_P[None, :]
    np.fill_diagonal(differences_PP, -np.inf)
    rounding = 4 * np.finfo(np.float64).eps * float(np.abs(price_P).max())
    problem.give(owner_R)
    if not (differences_PP <= bounds_PP + rounding).all():
        # Some settled element may be worth more to another task. Mostly it is a handful by a hair: measure.
        measured = max(0.0, problem.measured(price_P))
        return (measured, price_P) if measured <= AIM else None
    retained = settled_importance + held
    return ((lost + problem.elements * (noise + rounding)) / retained if retained > 0 else 0.0), price_P


def _piecewise(problem: _Problem) -> tuple[float, np.ndarray]:
    """Where no attempt held: random pieces that fit in memory, each assigned optimally under its part of the budgets.

    The budgets are exact and memory is bounded all the same; the gap is then measured, by reading everything again.
    """
    problem.ask(Contested.fill, int(kernels.FREE))
    left_P = problem.budget_P.copy()
    pieces = -(-2 * problem.elements * len(problem.tasks_P) // ROWS)
    noise: float | None = None
    price_P = np.zeros(len(problem.tasks_P))
    for i in range(pieces):
        # Free elements are those of later pieces, so the draw of this one is over what is left.
        with problem.work.heavy:
            W_RP, noise = problem.gather(0.0, 1.0 if i == pieces - 1 else (i + 1) / pieces, 0, noise)
            rows = len(W_RP)
            share_P = apportion(left_P, rows)
            owner_R, price_P = solve(W_RP, share_P, _levels(rows, problem.settings[SEED]), price_P)
            del W_RP
        problem.give(owner_R)
        left_P -= share_P
    return max(0.0, problem.measured(price_P)), price_P


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
    counts = [np.bincount(owners[i:j], minlength=settings.tasks) for i, j in spans(owners.size, BLOCK)]
    asked = np.sum(counts, axis=0).tolist()
    competing = [t for t in range(settings.tasks) if asked[t]]
    section = Contested(tensors, competing, importance, settings, work)
    section.owners[:] = owners
    return _Problem(asked, competing, settings, alone(section), work).measured(price_T[competing])
