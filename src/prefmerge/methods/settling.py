"""The loops of the optimal selection over elements, compiled: importances, whose an element plainly is, rows to solve.

    I_j = |tau_own(j) - tau_before(j)| / rms_j       of competing task j; nothing is before where `before_P` is -1

Shapes: tau_QB the vectors that importances come from, one a row, of a block of B elements; tau_RQ the same of R single
elements, one element a row; P competing tasks, of which `own_P` and `before_P` name rows among the Q. Where `merged` is
not empty it gets the value of each element's owner. Loops go vector by vector over a short stretch: rows of a block lie
far apart, and a walk across them misses the cache. Not here: which prices and bounds (`optimal`).
"""

from __future__ import annotations

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.keyed import GOLDEN, keyed
from prefmerge.vectors.kernel_cache import kernel

STRETCH = 512  # elements whose best tasks are found together
UNIT = 2.0**-53  # turns the upper 53 bits of a keyed number into a fraction
ROUNDING = 2.0**-19  # of the float32 numbers in a comparison: four times what all their roundings come to
MOST = 1e38  # beyond it float32 may overflow, and nothing is compared in it
EVERY = np.uint64(2**64 - 1)  # the largest keyed number


@kernel(inline="always")
def _step(own, before, rms):
    """An importance, in float32."""
    return abs(own - before) / rms if rms > np.float32(0) else np.float32(0)


@kernel(inline="always")
def _noise(h, task):
    """A fraction of the tie-breaking number of an element for a task: one keyed number, spread by odd multipliers."""
    return np.float64((h * (np.uint64(2 * task + 1) * GOLDEN)) >> np.uint64(11)) * UNIT


@kernel
def add_squares(tau_QB, own_P, before_P, total_P):
    """total_P += (tau_own - tau_before)^2 of every element, in float64 and in index order."""
    P, B = own_P.size, tau_QB.shape[1]
    squares, nothing = np.empty((P, STRETCH)), np.zeros(STRETCH, np.float32)
    for first in range(0, B, STRETCH):
        last = min(first + STRETCH, B)
        for j in range(P):
            own, square = tau_QB[own_P[j], first:last], squares[j]
            before = tau_QB[before_P[j], first:last] if before_P[j] >= 0 else nothing
            for i in range(own.size):
                x = np.float64(own[i] - before[i])
                square[i] = x * x
        # Each sum waits for its last term, so four go side by side.
        for j in range(0, P - P % 4, 4):
            a, b, c, d = total_P[j], total_P[j + 1], total_P[j + 2], total_P[j + 3]
            for i in range(last - first):
                a += squares[j, i]
                b += squares[j + 1, i]
                c += squares[j + 2, i]
                d += squares[j + 3, i]
            total_P[j], total_P[j + 1], total_P[j + 2], total_P[j + 3] = a, b, c, d
        for j in range(P - P % 4, P):
            a = total_P[j]
            for i in range(last - first):
                a += squares[j, i]
            total_P[j] = a


@kernel
def take_rows(tau_QB, origin, positions, tau_RQ, column):
    """The columns of tau_RQ from `column` on = the elements at `positions`, of which tau_QB begins with `origin`."""
    for first in range(0, positions.size, 64):
        last = min(first + 64, positions.size)
        for q in range(tau_QB.shape[0]):
            row = tau_QB[q]
            for r in range(first, last):
                tau_RQ[r, column + q] = row[positions[r] - origin]


@kernel
def largest(tau_RQ, own_P, before_P, rms_P, out_R):
    """out_R = the largest importance of each row."""
    for r in range(out_R.size):
        best = np.float32(0)
        for j in range(own_P.size):
            before = tau_RQ[r, before_P[j]] if before_P[j] >= 0 else np.float32(0)
            best = max(best, _step(tau_RQ[r, own_P[j]], before, rms_P[j]))
        out_R[r] = best


@kernel
def importances(tau_RQ, own_P, before_P, rms_P, tasks_P, key, positions, noise, out_RP):
    """out_RP = I + noise * u(element, task), u uniform in [0, 1)."""
    for r in range(positions.size):
        h = keyed(key, positions[r])
        for j in range(own_P.size):
            before = tau_RQ[r, before_P[j]] if before_P[j] >= 0 else np.float32(0)
            x = np.float64(_step(tau_RQ[r, own_P[j]], before, rms_P[j]))
            out_RP[r, j] = x + noise * _noise(h, tasks_P[j])


@kernel
def winner(importance_P, best, price_P, bound_PP, tasks_P, key, index, noise, worth_P):
    """The task that wins an element against every other by more than the bound, or -1. `best`: the one that probably
    does. `bound_PP` is -inf on the diagonal. `worth_P` is overwritten.
    """
    P = importance_P.size
    # Tie-breaking numbers lie below `noise`: mostly the importances decide, one way or the other.
    top = np.float64(importance_P[best])
    value = top - price_P[best]
    doubt = noise * (1 + 2.0**-20) + 2.0**-48 * (top + abs(value))
    ahead, behind, rivals = 0, 0, 0
    for t in range(P):
        x = np.float64(importance_P[t])
        over = top - x - bound_PP[best, t]
        ahead += over > doubt
        behind += over < -doubt
        rivals += value - (x - price_P[t]) <= doubt
    if rivals == 1:  # none but the best itself can win
        if ahead == P:
            return best
        if behind:
            return -1
    h = keyed(key, index)
    for t in range(P):
        worth_P[t] = np.float64(importance_P[t]) + noise * _noise(h, tasks_P[t])
    best = 0
    for t in range(1, P):
        if worth_P[t] - price_P[t] > worth_P[best] - price_P[best]:
            best = t
    close = False
    for t in range(P):
        close |= not worth_P[best] - worth_P[t] > bound_PP[best, t]
    return -1 if close else best


@kernel
def _leads(price_P, bound_PP, rms_P, lead_P, reciprocal_P):
    """By how much a best task must lead in importance less price to win against every other by more than the bound: the
    bounds of prices, shifted by their difference. Returns the largest price; infinity where float32 cannot compare.
    """
    P = price_P.size
    scale = 0.0
    for w in range(P):
        lead_P[w] = -np.inf
        for t in range(P):
            lead_P[w] = max(lead_P[w], bound_PP[w, t] - (price_P[w] - price_P[t]))
        scale = max(scale, abs(price_P[w]))
        reciprocal_P[w] = np.float32(1) / rms_P[w] if rms_P[w] > np.float32(0) else np.float32(0)
        if np.float64(reciprocal_P[w]) > MOST or scale > MOST:
            scale = np.inf
    return scale


@kernel
def _race(tau_QB, first, count, own_P, before_P, price_P, reciprocal_P, nothing, state):
    """Of every element of a stretch, in float32 and in one array, so that the compiler sees that they do not overlap:
    importance less price of the best task, that of the next best, the best task, its vector's value, and its step.
    """
    state[:] = 0
    for i in range(count):
        state[i] = -np.inf
        state[STRETCH + i] = -np.inf
    for t in range(price_P.size):
        price, reciprocal, own = np.float32(price_P[t]), reciprocal_P[t], tau_QB[own_P[t], first : first + count]
        before = tau_QB[before_P[t], first : first + count] if before_P[t] >= 0 else nothing
        for i in range(count):
            x = own[i]
            step = x - before[i]
            value = abs(step) * reciprocal - price
            leading, following, best = state[i], state[STRETCH + i], state[2 * STRETCH + i]
            kept, of = state[3 * STRETCH + i], state[4 * STRETCH + i]
            better = value > leading
            beaten = leading if better else value
            state[i] = value if better else leading
            state[STRETCH + i] = beaten if beaten > following else following
            state[2 * STRETCH + i] = np.float32(t) if better else best
            state[3 * STRETCH + i] = x if better else kept
            state[4 * STRETCH + i] = step if better else of


@kernel
def settle(
    tau_QB, own_P, before_P, rms_P, price_P, bound_PP, tasks_P, key, start, noise, owner, merged, settled_P, contested
):
    """Give each free element of a block, which begins with element `start` of its tensor, to its best task if that wins
    against every other by more than the bound, and count it in `settled_P`. Lists the others, by their element, in
    `contested`. Returns the importance settled, and how many are listed.

    What float32 says of an element is believed where the best leads by more than all rounding may come to: mostly.
    """
    P = own_P.size
    lead_P, reciprocal_P, worth_P = np.empty(P), np.empty(P, np.float32), np.empty(P)
    scale = _leads(price_P, bound_PP, rms_P, lead_P, reciprocal_P)
    state, nothing = np.empty(5 * STRETCH, np.float32), np.zeros(STRETCH, np.float32)
    close, table_SP = np.empty(STRETCH, np.int64), np.empty((STRETCH, P), np.float32)
    total = 0.0
    listed = 0
    for first in range(0, owner.size, STRETCH):
        count = min(STRETCH, owner.size - first)
        owners = owner[first : first + count]
        _race(tau_QB, first, count, own_P, before_P, price_P, reciprocal_P, nothing, state)
        number = 0
        for i in range(count):
            w = np.int64(state[2 * STRETCH + i])
            top = np.float64(_step(state[4 * STRETCH + i], np.float32(0), rms_P[w]))
            value, following = np.float64(state[i]), np.float64(state[STRETCH + i])
            doubt = noise + ROUNDING * (top + scale + abs(value) + abs(following))
            is_free = owners[i] == kernels.FREE
            given = is_free & (value - following > lead_P[w] + doubt)
            owners[i] = tasks_P[w] if given else owners[i]
            settled_P[w] += given
            total += top if given else 0.0
            if merged.size:
                merged[first + i] = state[3 * STRETCH + i] if given else merged[first + i]
            close[number] = i
            number += is_free & (not given)
        for t in range(P):
            own, before = tau_QB[own_P[t], first : first + count], nothing
            if before_P[t] >= 0:
                before = tau_QB[before_P[t], first : first + count]
            for n in range(number):
                table_SP[n, t] = _step(own[close[n]], before[close[n]], rms_P[t])
        for n in range(number):
            i = first + close[n]
            best = np.int64(state[2 * STRETCH + close[n]])
            w = winner(table_SP[n], best, price_P, bound_PP, tasks_P, key, start + i, noise, worth_P)
            if w >= 0:
                owner[i] = tasks_P[w]
                settled_P[w] += 1
                total += np.float64(table_SP[n, w])
                if merged.size:
                    merged[i] = tau_QB[own_P[w], i]
            else:
                contested[listed] = start + i
                listed += 1
    return total, listed


@kernel
def settle_rows(
    tau_RQ, own_P, before_P, rms_P, price_P, bound_PP, tasks_P, key, positions, noise, owner, merged, settled_P, left
):
    """`settle` for single free elements of a tensor, whose owners and merged vector are given whole. Lists the rows
    that stay contested in `left`. Returns the importance settled, and how many are listed.
    """
    P = own_P.size
    importance_P, worth_P = np.empty(P, np.float32), np.empty(P)
    total = 0.0
    listed = 0
    for r in range(positions.size):
        for t in range(P):
            before = tau_RQ[r, before_P[t]] if before_P[t] >= 0 else np.float32(0)
            importance_P[t] = _step(tau_RQ[r, own_P[t]], before, rms_P[t])
        i, best = positions[r], 0
        for t in range(1, P):
            best = t if importance_P[t] - price_P[t] > importance_P[best] - price_P[best] else best
        w = winner(importance_P, best, price_P, bound_PP, tasks_P, key, i, noise, worth_P)
        if w >= 0:
            owner[i] = tasks_P[w]
            settled_P[w] += 1
            total += np.float64(importance_P[w])
            if merged.size:
                merged[i] = tau_RQ[r, own_P[w]]
        else:
            left[listed] = r
            listed += 1
    return total, listed


@kernel
def sampled(owner, key, start, low, high, positions):
    """List the free elements whose keyed number lies in [low, high]. `owner`: from element `start` on. Returns how
    many.
    """
    count = 0
    if low == np.uint64(0) and high == EVERY:
        for i in range(owner.size):
            positions[count] = start + i
            count += owner[i] == kernels.FREE
        return count
    numbers = np.empty(STRETCH, np.uint64)
    for first in range(0, owner.size, STRETCH):
        last = min(first + STRETCH, owner.size)
        for i in range(first, last):
            numbers[i - first] = keyed(key, start + i)
        for i in range(first, last):
            h = numbers[i - first]
            positions[count] = start + i
            count += (low <= h) & (h <= high) & (owner[i] == kernels.FREE)
    return count


@kernel
def sampled_rows(positions, key, low, high, rows):
    """List which of these elements have a keyed number in [low, high]. Returns how many."""
    count = 0
    for r in range(positions.size):
        h = keyed(key, positions[r])
        rows[count] = r
        count += (low <= h) & (h <= high)
    return count


@kernel
def dual_terms(tau_QB, own_P, before_P, rms_P, price_P, tasks_P, owner):
    """(sum of max_t I_t - price_t, sum of the owner's I) over a block."""
    nothing, best, owned = np.zeros(STRETCH, np.float32), np.empty(STRETCH), np.empty(STRETCH, np.float32)
    dual = 0.0
    primal = 0.0
    for first in range(0, owner.size, STRETCH):
        count = min(STRETCH, owner.size - first)
        owners = owner[first : first + count]
        best[:] = -np.inf
        owned[:] = 0
        for t in range(price_P.size):
            own, before = tau_QB[own_P[t], first : first + count], nothing
            if before_P[t] >= 0:
                before = tau_QB[before_P[t], first : first + count]
            for i in range(count):
                x = _step(own[i], before[i], rms_P[t])
                best[i] = max(best[i], np.float64(x) - price_P[t])
                owned[i] = x if owners[i] == tasks_P[t] else owned[i]
        for i in range(count):
            dual += best[i]
            primal += np.float64(owned[i])
    return dual, primal


@kernel
def what_was_lost(W_RP, price_P, owner_R, lost_R, held_R):
    """held = the owner's W, lost = max_t (W_t - price_t) - (held - the owner's price), row by row."""
    for r in range(owner_R.size):
        best = -np.inf
        for t in range(price_P.size):
            best = max(best, W_RP[r, t] - price_P[t])
        held_R[r] = W_RP[r, owner_R[r]]
        lost_R[r] = best - (held_R[r] - price_P[owner_R[r]])
