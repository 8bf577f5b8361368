"""The loops over elements, compiled: everything that touches a block of deltas and nothing that knows of files.

Arrays are one block long unless said otherwise (P elements). Each kernel releases the interpreter lock, so blocks run
side by side, and is cached on disk after its first compilation. Not here: float contraction (an element is `base +
scale * tau`, each operation rounded to float32).
"""

from __future__ import annotations

import numpy as np

from prefmerge.methods.keyed import keyed
from prefmerge.vectors.kernel_cache import kernel

FREE = np.uint8(255)  # the owner of an element that no task owns yet
BUCKETS = 4096  # of the hash's top 12 bits: a counting array that stays in the first-level cache
_TOP = np.uint64(52)  # 64 - 12
STRETCH = (
    1024  # elements whose candidates are listed before they are looked at: the list stays in the first-level cache
)


@kernel
def add_scaled(values, factor, total):
    """total += factor * values, in float64."""
    for i in range(values.size):
        total[i] += factor * np.float64(values[i])


@kernel
def fold_max(tau, best, owner, task):
    """best = tau and owner = task where |tau| >= |best|: MAGMAX (paper eq. 1), ties to the later task."""
    for i in range(tau.size):
        if abs(tau[i]) >= abs(best[i]):
            best[i] = tau[i]
            owner[i] = task


@kernel
def mark_records(importance, running, mask, bit):
    """Set `bit` where |importance| >= the running maximum, and raise that maximum: the records of design section 4."""
    for i in range(importance.size):
        x = abs(importance[i])
        record = x >= running[i]
        mask[i] |= bit if record else bit ^ bit
        running[i] = x if record else running[i]


@kernel
def step_importance(tau, before, rms, out):
    """out = |tau - before| / rms, 0 where rms is 0."""
    for i in range(out.size):
        out[i] = abs(tau[i] - before[i]) / rms if rms > np.float32(0) else np.float32(0)


@kernel
def step_squares(tau, before):
    """The sum of (tau - before)^2, in float64 and in index order."""
    total = 0.0
    for i in range(tau.size):
        x = np.float64(tau[i] - before[i])
        total += x * x
    return total


@kernel(inline="always")
def _list_candidates(mask, bit, first, listed):
    """Write the positions from `first` on that carry `bit` into `listed`, as far as it reaches. No branch depends on
    the data. Returns how many.
    """
    count = 0
    for i in range(first, min(first + listed.size, mask.size)):
        listed[count] = i
        count += 1 if mask[i] & bit else 0
    return count


@kernel
def count_candidates(mask, bit, edges, keys, starts, histogram):
    """Count the elements that carry `bit`, by the top bits of their keyed number. Segment s of the stretch is
    [edges[s], edges[s + 1]): the elements of one tensor, with its key, from its index `starts[s]` on.
    """
    total = 0
    listed = np.empty(STRETCH, np.int64)
    for s in range(keys.size):
        segment = mask[edges[s] : edges[s + 1]]
        for first in range(0, segment.size, STRETCH):
            count = _list_candidates(segment, bit, first, listed)
            for j in range(count):
                histogram[keyed(keys[s], starts[s] + listed[j]) >> _TOP] += 1
            total += count
    return total


@kernel
def take_all(mask, bit, owner, task):
    """Give every element that carries `bit` to `task`."""
    for i in range(mask.size):
        if mask[i] & bit:
            owner[i] = task
            mask[i] = 0


@kernel
def take_below(mask, bit, edges, keys, starts, bucket, owner, task, edge_hash, edge_index):
    """Give the candidates below `bucket` to `task`; list those inside it, whose order decides, by their place in the
    stretch. Segments as in `count_candidates`. Returns how many it listed.
    """
    noted = 0
    limit = np.uint64(bucket)
    listed = np.empty(STRETCH, np.int64)
    for s in range(keys.size):
        segment = mask[edges[s] : edges[s + 1]]
        for first in range(0, segment.size, STRETCH):
            for j in range(_list_candidates(segment, bit, first, listed)):
                i = edges[s] + listed[j]
                h = keyed(keys[s], starts[s] + listed[j])
                # Written so that nothing jumps: which way it goes is a coin toss that no processor can predict.
                taken = (h >> _TOP) < limit
                owner[i] = task if taken else owner[i]
                mask[i] = bit ^ bit if taken else mask[i]
                if (h >> _TOP) == limit:
                    edge_hash[noted] = h
                    edge_index[noted] = i
                    noted += 1
    return noted


@kernel
def keep_free(mask, owner):
    """Clear the masks of owned elements. Returns how many are free."""
    free = 0
    for i in range(mask.size):
        if owner[i] == FREE:
            free += 1
        else:
            mask[i] = 0
    return free


@kernel
def open_free(mask, owner, bit):
    """Make every free element a candidate of `bit`, and no other."""
    free = 0
    for i in range(mask.size):
        if owner[i] == FREE:
            mask[i] = bit
            free += 1
        else:
            mask[i] = 0
    return free


@kernel
def take_owned(tau, owner, task, out):
    """out = tau where `task` owns the element (paper eq. 4)."""
    for i in range(tau.size):
        if owner[i] == task:
            out[i] = tau[i]


@kernel
def random_owners(key, start, tasks, owner):
    """A uniformly random owner for every element, from the top 32 bits of its keyed number."""
    count = np.uint64(tasks)
    for i in range(owner.size):
        owner[i] = np.uint8(((keyed(key, start + i) >> np.uint64(32)) * count) >> np.uint64(32))


@kernel
def drop_at_random(key, start, below, factor, tau):
    """Keep, times `factor`, the elements whose keyed number, cut to 53 bits, lies below `below`; zero the others. `tau`
    begins with element `start` of its tensor.
    """
    for i in range(tau.size):
        kept = (keyed(key, start + i) >> np.uint64(11)) < below
        tau[i] = np.float32(tau[i] * factor) if kept else np.float32(0)


@kernel
def magnitude_histogram(tau, histogram):
    """Count |tau| by the top 15 bits below the sign of its float32 pattern, whose order is the order of magnitudes."""
    bits = tau.view(np.uint32)
    for i in range(bits.size):
        histogram[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@kernel
def magnitude_histogram_low(tau, bucket, histogram):
    """Count the low 16 bits of those in `bucket` of `magnitude_histogram`."""
    bits = tau.view(np.uint32)
    for i in range(bits.size):
        b = bits[i] & np.uint32(0x7FFFFFFF)
        if b >> np.uint32(16) == bucket:
            histogram[b & np.uint32(0xFFFF)] += 1


@kernel
def count_equal(tau, threshold):
    """How many |tau| have exactly the bit pattern `threshold`."""
    bits = tau.view(np.uint32)
    total = 0
    for i in range(bits.size):
        if bits[i] & np.uint32(0x7FFFFFFF) == threshold:
            total += 1
    return total


@kernel
def trim(tau, threshold, ties):
    """Zero what lies below the bit pattern `threshold` in magnitude, and of its equals all but the first `ties`.
    Returns the ties left.
    """
    bits = tau.view(np.uint32)
    if ties >= bits.size:  # all equals stay: no order among them, so no branch
        for i in range(bits.size):
            bits[i] = bits[i] if bits[i] & np.uint32(0x7FFFFFFF) >= threshold else np.uint32(0)
        return ties
    for i in range(bits.size):
        b = bits[i] & np.uint32(0x7FFFFFFF)
        if b < threshold:
            tau[i] = 0
        elif b == threshold:
            if ties > 0:
                ties -= 1
            else:
                tau[i] = 0
    return ties


@kernel
def disjoint_merge(tau_TP, weights_T, normalize, out):
    """TIES: elect the sign of the weighted mass, then the (weighted) mean, or sum, of the values that agree with it.

    Sums in float64.
    """
    mass = np.empty(STRETCH)
    total = np.empty(STRETCH)
    weight = np.empty(STRETCH)
    for first in range(0, out.size, STRETCH):
        count = min(STRETCH, out.size - first)
        mass[:count] = 0.0
        total[:count] = 0.0
        weight[:count] = 0.0
        # Task by task over a short stretch: rows of a block lie far apart, and a walk across them misses the cache.
        for t in range(tau_TP.shape[0]):
            w = weights_T[t]
            for i in range(count):
                mass[i] += w * tau_TP[t, first + i]
        for t in range(tau_TP.shape[0]):
            w = weights_T[t]
            for i in range(count):
                x = w * tau_TP[t, first + i]
                # A mass of exactly zero elects plus, as the sign convention of the compared implementation does.
                agrees = (x > 0.0) if mass[i] >= 0.0 else (x < 0.0)
                total[i] += x if agrees else 0.0
                weight[i] += w if agrees else 0.0
        for i in range(count):
            mean = normalize and weight[i] != 0.0
            out[first + i] = np.float32(total[i] / weight[i] if mean else total[i])
