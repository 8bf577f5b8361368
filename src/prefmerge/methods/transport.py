"""The exact assignment of rows to tasks under budgets: a transport problem with few sinks, solved by shortest paths
between tasks.

    maximise sum_r W[r, owner(r)]   subject to   |{r: owner(r) = t}| = n_t
    dual     min over prices   sum_r max_t (W[r, t] - price_t) + sum_t n_t price_t

Start from any prices and give every row to its best task at these prices; while a task holds too many rows, move one
along the cheapest path of tasks to one that holds too few, and move the prices with the distances (successive shortest
paths; Ahuja, Magnanti and Orlin 1993, chapter 9). Prices then prove optimality: every row's owner is its best task.
Good first prices come from the same problem on the first rows (`levels`), so few moves are left. Shapes: W_RP (R rows,
P tasks, float64). Cost: O(R P) to set up and, per move, O(P^2) plus, now and then, O(R) to list the next cheapest rows
between two tasks. Not here: rows by the million (`optimal` cuts them down first).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from prefmerge.ground.draws import largest_remainder
from prefmerge.vectors.kernel_cache import kernel

LISTED = 48  # cheapest rows remembered for each pair of tasks
SPARED = 1 << 16  # rows noted for later lists, of all pairs together
MANY = 1 << 15  # rows, so many that lists run out
STRETCH = 256  # rows looked at together, in the first-level cache


@kernel
def _give_to_best(W_RP, price_P, owner_R):
    """Give every row to its best task, the first of equals."""
    for r in range(owner_R.size):
        value, best = W_RP[r, 0] - price_P[0], 0
        for t in range(1, price_P.size):
            x = W_RP[r, t] - price_P[t]
            better = x > value
            value = x if better else value
            best = t if better else best
        owner_R[r] = best


@kernel(inline="always")
def _list(row, cost, count, costs, rows):
    """Add a move to a sorted list of `count`; the last one leaves where it is full. Returns how many there are."""
    i = count if count < LISTED else LISTED - 1
    while i > 0 and costs[i - 1] > cost:
        costs[i] = costs[i - 1]
        rows[i] = rows[i - 1]
        i -= 1
    costs[i] = cost
    rows[i] = row
    return min(count + 1, LISTED)


@kernel
def _fill_lists(W_RP, owner_R, rows, costs, counts, cutoff):
    """`_refill` of every pair of tasks, in one walk over the rows."""
    P = W_RP.shape[1]
    for r in range(owner_R.size):
        s = owner_R[r]
        worth = W_RP[r, s]
        for t in range(P):
            cost = worth - W_RP[r, t]
            if cost < cutoff[s, t] and t != s:
                count = _list(r, cost, counts[s, t], costs[s, t], rows[s, t])
                counts[s, t] = count
                if count == LISTED:
                    cutoff[s, t] = costs[s, t, LISTED - 1]


@kernel
def _refill(W_RP, owner_R, source, target, rows, costs, cutoff, spare, spared, limit):
    """List the cheapest moves source -> target, sorted; every move not listed costs at least `cutoff[source,
    target]`. Returns how many are listed.

    Who looks at all rows notes those below `limit[source, target]` in `spare`: mostly they are enough the next time.
    """
    listed, listed_rows = costs[source, target], rows[source, target]
    if spared[source, target] > LISTED:
        count, last = 0, np.inf
        for j in range(spared[source, target]):
            r = spare[source, target, j]
            cost = W_RP[r, source] - W_RP[r, target]
            if owner_R[r] == source and (cost < last or (cost == last and r < listed_rows[LISTED - 1])):
                count = _list_in_order(r, cost, count, listed, listed_rows)
                last = listed[LISTED - 1] if count == LISTED else np.inf
        if count == LISTED:
            cutoff[source, target] = last
            return count
    count = 0
    last = np.inf
    held = np.empty(STRETCH, np.int64)
    every, every_rows, number = np.empty(owner_R.size), np.empty(owner_R.size, np.int64), 0
    for first in range(0, owner_R.size, STRETCH):
        # The source's rows are listed first, without a jump: whose a row is no processor can predict.
        owners = owner_R[first : first + STRETCH]
        own = 0
        for i in range(owners.size):
            held[own] = first + i
            own += owners[i] == source
        for j in range(own):
            r = held[j]
            cost = W_RP[r, source] - W_RP[r, target]
            every[number] = cost
            every_rows[number] = r
            number += 1
            if cost < last:
                count = _list(r, cost, count, listed, listed_rows)
                if count == LISTED:
                    last = listed[LISTED - 1]
    cutoff[source, target] = last
    # As many again as there is room for, if they lie as close as those that are listed.
    room = spare.shape[2]
    spared[source, target] = 0
    if count == LISTED and room > 2 * LISTED:
        beyond = last + (last - listed[0]) * (room * 0.7 / LISTED - 1)
        noted = 0
        for j in range(number):
            if every[j] < beyond:
                if noted == room:
                    return count
                spare[source, target, noted] = every_rows[j]
                noted += 1
        spared[source, target], limit[source, target] = noted, beyond
    return count


@kernel(inline="always")
def _list_in_order(row, cost, count, costs, rows):
    """`_list` for rows in any order, some of them twice: equal costs are sorted by row."""
    i = count
    while i > 0 and (costs[i - 1] > cost or (costs[i - 1] == cost and rows[i - 1] >= row)):
        i -= 1
    if i < count and costs[i] == cost and rows[i] == row:
        return count
    for j in range(min(count, LISTED - 1), i, -1):
        costs[j] = costs[j - 1]
        rows[j] = rows[j - 1]
    costs[i] = cost
    rows[i] = row
    return min(count + 1, LISTED)


@kernel
def _note_all(W_RP, owner_R, costs, counts, spare, spared, limit):
    """After `_fill_lists`, what `_refill` notes, of every pair of tasks in one more walk over the rows."""
    P, room = W_RP.shape[1], spare.shape[2]
    for s in range(P):
        for t in range(P):
            first, last = costs[s, t, 0], costs[s, t, LISTED - 1]
            limit[s, t] = last + (last - first) * (room * 0.7 / LISTED - 1) if counts[s, t] == LISTED else -np.inf
    for r in range(owner_R.size):
        s = owner_R[r]
        worth = W_RP[r, s]
        for t in range(P):
            if worth - W_RP[r, t] < limit[s, t] and t != s:
                if spared[s, t] == room:
                    limit[s, t] = -np.inf
                else:
                    spare[s, t, spared[s, t]] = r
                    spared[s, t] += 1
    for s in range(P):
        for t in range(P):
            if limit[s, t] == -np.inf:
                spared[s, t] = 0


@kernel
def _insert(row, cost, source, target, rows, costs, counts, cutoff):
    """Add one move to a list if it belongs there."""
    if cost >= cutoff[source, target]:
        return
    count = counts[source, target]
    if count == LISTED:
        # The last one leaves; from here the list is complete only below it.
        count -= 1
        cutoff[source, target] = costs[source, target, count]
        if cost >= cutoff[source, target]:
            counts[source, target] = count
            return
    i = count
    while i > 0 and costs[source, target, i - 1] > cost:
        costs[source, target, i] = costs[source, target, i - 1]
        rows[source, target, i] = rows[source, target, i - 1]
        i -= 1
    costs[source, target, i] = cost
    rows[source, target, i] = row
    counts[source, target] = count + 1


@kernel
def _cheapest(W_RP, owner_R, source, target, rows, costs, counts, cutoff, spare, spared, limit):
    """The cost of the cheapest move source -> target; it then stands first in its list. Infinity when there is none."""
    while True:
        count = counts[source, target]
        stale = 0
        while stale < count and owner_R[rows[source, target, stale]] != source:
            stale += 1
        if stale:
            for i in range(stale, count):
                costs[source, target, i - stale] = costs[source, target, i]
                rows[source, target, i - stale] = rows[source, target, i]
            count -= stale
            counts[source, target] = count
        if count:
            return costs[source, target, 0]
        if cutoff[source, target] == np.inf:
            return np.inf
        counts[source, target] = _refill(W_RP, owner_R, source, target, rows, costs, cutoff, spare, spared, limit)
        if counts[source, target] == 0:
            return np.inf


@kernel
def assign(W_RP, budget_P, price_P, owner_R):
    """Fill `owner_R` with the optimal assignment and move `price_P` to prices that prove it. `budget_P` sums to R.
    Returns the number of moves.
    """
    R, P = W_RP.shape
    held = np.zeros(P, np.int64)
    _give_to_best(W_RP, price_P, owner_R)
    for r in range(R):
        held[owner_R[r]] += 1
    rows = np.empty((P, P, LISTED), np.int64)
    costs = np.empty((P, P, LISTED), np.float64)
    counts = np.zeros((P, P), np.int64)
    cutoff = np.full((P, P), np.inf)
    # What `_cheapest` last said of each pair, and whether nothing has happened since to its list's first row.
    cheapest, known = np.empty((P, P)), np.zeros((P, P), np.bool_)
    # Of each pair, rows below a limit that were noted when all were looked at, and those that came since; 0: not known.
    spare = np.empty((P, P, min(R, SPARED // (P * P))), np.int64)
    spared, limit = np.zeros((P, P), np.int64), np.empty((P, P))
    if (held > budget_P).any():
        _fill_lists(W_RP, owner_R, rows, costs, counts, cutoff)
        if spare.shape[2] > 8 * LISTED and R > MANY:
            _note_all(W_RP, owner_R, costs, counts, spare, spared, limit)
    distance = np.empty(P)
    before = np.empty(P, np.int64)
    done = np.empty(P, np.bool_)
    moves = 0
    while True:
        over = False
        for t in range(P):
            done[t] = False
            before[t] = -1
            distance[t] = 0.0 if held[t] > budget_P[t] else np.inf
            over |= held[t] > budget_P[t]
        if not over:
            return moves
        # Dijkstra on reduced costs, which the prices keep non-negative.
        goal = -1
        while True:
            s = -1
            for t in range(P):
                if not done[t] and distance[t] < np.inf and (s < 0 or distance[t] < distance[s]):
                    s = t
            if s < 0:
                break
            done[s] = True
            if held[s] < budget_P[s]:
                goal = s
                break
            for t in range(P):
                if not done[t]:
                    if not known[s, t]:
                        cheapest[s, t] = _cheapest(
                            W_RP, owner_R, s, t, rows, costs, counts, cutoff, spare, spared, limit
                        )
                        known[s, t] = True
                    cost = cheapest[s, t]
                    if cost < np.inf:
                        reach = distance[s] + max(0.0, cost - (price_P[s] - price_P[t]))
                        if reach < distance[t]:
                            distance[t] = reach
                            before[t] = s
        far = distance[goal]
        for t in range(P):
            price_P[t] -= min(distance[t], far)
        t = goal
        while before[t] >= 0:
            s = before[t]
            if not known[s, t]:
                _cheapest(W_RP, owner_R, s, t, rows, costs, counts, cutoff, spare, spared, limit)
            r = rows[s, t, 0]
            owner_R[r] = t
            for u in range(P):
                known[s, u] = known[s, u] and (counts[s, u] == 0 or rows[s, u, 0] != r)
                if u != t:
                    known[t, u] = False
                    cost = W_RP[r, t] - W_RP[r, u]
                    _insert(r, cost, t, u, rows, costs, counts, cutoff)
                    if spared[t, u] and cost < limit[t, u]:
                        if spared[t, u] == spare.shape[2]:
                            spared[t, u] = 0
                        else:
                            spare[t, u, spared[t, u]] = r
                            spared[t, u] += 1
            held[s] -= 1
            held[t] += 1
            t = s
        moves += 1


def apportion(budget_P: np.ndarray, rows: int) -> np.ndarray:
    """`rows` shared out in proportion to the budgets, by largest remainder, the earlier task first."""
    total = int(budget_P.sum())
    if total == 0:
        return np.zeros_like(budget_P)
    return np.array(largest_remainder([Fraction(int(n) * rows, total) for n in budget_P], rows), np.int64)


def solve(
    W_RP: np.ndarray, budget_P: np.ndarray, levels: Sequence[np.ndarray], price_P: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The optimal owner of every row, uint8 shape (R,), and its prices. `levels`: growing sets of row indices to find
    first prices on.
    """
    R, P = W_RP.shape
    price_P = np.zeros(P) if price_P is None else price_P.copy()
    for rows in levels:
        assign(np.ascontiguousarray(W_RP[rows]), apportion(budget_P, len(rows)), price_P, np.empty(len(rows), np.uint8))
    owner_R = np.empty(R, np.uint8)
    assign(W_RP, budget_P, price_P, owner_R)
    return owner_R, price_P
