"""The loops over elements, compiled: everything that touches a block of deltas and nothing that knows of files.

Arrays are one block long unless said otherwise (P elements). Each kernel releases the interpreter lock, so blocks run
side by side, and is cached on disk after its first compilation. Loops are written so that they become vector
instructions: every value is loaded before any is stored, and what is stored does not depend on a branch. Not here:
float contraction (an element is `base + scale * tau`, each operation rounded to float32).
"""

from __future__ import annotations

import numpy as np

from prefmerge.methods.elementary import divergence, exponential
from prefmerge.methods.keyed import keyed
from prefmerge.vectors.kernel_cache import kernel

FREE = np.uint8(255)  # the owner of an element that no task owns yet
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
        new, old, other = tau[i], best[i], owner[i]
        larger = abs(new) >= abs(old)
        best[i] = new if larger else old
        owner[i] = task if larger else other


@kernel
def mark_records(importance, running, mask, bit):
    """Set `bit` where |importance| >= the running maximum, and raise that maximum: the records of design section 4."""
    for i in range(importance.size):
        x, largest, bits = abs(importance[i]), running[i], mask[i]
        record = x >= largest
        mask[i] = bits | (bit if record else bit ^ bit)
        running[i] = x if record else largest


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
def _list_candidates(mask, owner, bit, flags, listed):
    """Write the positions of a stretch that carry `bit` and are free into `listed`. No branch depends on the data.
    Returns how many.
    """
    for i in range(mask.size):
        flags[i] = np.uint8((mask[i] & bit) != 0) & np.uint8(owner[i] == FREE)
    count = 0
    for i in range(mask.size):
        listed[count] = i
        count += flags[i]
    return count


@kernel
def count_candidates(mask, bit, owner):
    """How many free elements carry `bit`."""
    total = 0
    for i in range(mask.size):
        total += np.int64((mask[i] & bit) != 0) & np.int64(owner[i] == FREE)
    return total


@kernel
def take_all(mask, bit, owner, task):
    """Give every free element that carries `bit` to `task`."""
    for i in range(mask.size):
        bits, other = mask[i], owner[i]
        owner[i] = task if (bits & bit) != 0 and other == FREE else other


@kernel
def take_below(mask, bit, edges, keys, starts, low, last, owner, task, numbers, places):
    """Give the candidates whose keyed number is below `low` to `task`; list those from `low` to `last`, whose order
    decides, by number and place in the stretch. Segment s of the stretch is [edges[s], edges[s + 1]): the elements of
    one tensor, with its key, from its index `starts[s]` on. Returns how many it gave and how many it would list, of
    which `numbers` has as many as it can hold.
    """
    taken = 0
    noted = 0
    flags, listed = np.empty(STRETCH, np.uint8), np.empty(STRETCH, np.int64)
    for s in range(keys.size):
        for first in range(edges[s], edges[s + 1], STRETCH):
            end = min(first + STRETCH, edges[s + 1])
            owners = owner[first:end]
            index = starts[s] + first - edges[s]
            for j in range(_list_candidates(mask[first:end], owners, bit, flags, listed)):
                i = listed[j]
                h = keyed(keys[s], index + i)
                # Written so that nothing jumps: which way it goes is a coin toss that no processor can predict.
                below = h < low
                owners[i] = task if below else FREE
                taken += below
                if h - low <= last - low:  # unsigned: what is below `low` is far above it
                    if noted < numbers.size:
                        numbers[noted] = h
                        places[noted] = first + i
                    noted += 1
    return taken, noted


@kernel
def give_back(mask, bit, owner, task):
    """Free the elements that `take_below` gave to `task`: those of its own that carry `bit`."""
    for i in range(mask.size):
        bits, other = mask[i], owner[i]
        owner[i] = FREE if (bits & bit) != 0 and other == task else other


@kernel
def keep_free(mask, owner):
    """Clear the masks of owned elements. Returns how many are free."""
    free = 0
    for i in range(mask.size):
        bits, is_free = mask[i], owner[i] == FREE
        mask[i] = bits if is_free else bits ^ bits
        free += 1 if is_free else 0
    return free


@kernel
def open_free(mask, owner, bit):
    """Make every free element a candidate of `bit`, and no other."""
    for i in range(mask.size):
        mask[i] = bit if owner[i] == FREE else bit ^ bit


@kernel
def take_owned(tau, owner, task, out):
    """out = tau where `task` owns the element (paper eq. 4)."""
    for i in range(tau.size):
        new, old = tau[i], out[i]
        out[i] = new if owner[i] == task else old


def counts(owner: np.ndarray, tasks: int) -> np.ndarray:
    """How many elements each task owns."""
    total = np.empty(tasks, np.int64)
    count(owner, total)
    return total


@kernel
def count(owner, total):
    """Write into `total` how many elements each task owns. A result that is an array would have numba loaded."""
    # Equal owners follow one another, and a count that was just written is slow to read: four lists take turns.
    parts = np.zeros((4, 256), np.int64)
    for i in range(0, owner.size - 3, 4):
        parts[0, owner[i]] += 1
        parts[1, owner[i + 1]] += 1
        parts[2, owner[i + 2]] += 1
        parts[3, owner[i + 3]] += 1
    for i in range(owner.size - owner.size % 4, owner.size):
        parts[0, owner[i]] += 1
    for t in range(total.size):
        total[t] = parts[0, t] + parts[1, t] + parts[2, t] + parts[3, t]


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
def drop_by_rank(key, start, first, magnitudes, width, least, most, rescale, tau):
    """Keep each element with the probability that its rank gives, from `least` to `most`, over that probability where
    `rescale`; zero the others. `magnitudes`: of rows of `width` elements, each sorted, the first of which begins with
    element `first` of the tensor; `tau` begins with element `start`. Equals share the mean of their ranks.
    """
    for i in range(tau.size):
        x = abs(tau[i])
        if x == np.float32(0):
            continue
        row = (start + i - first) // width * width
        low, high = row, row + width
        while low < high:  # the first that is not below x
            middle = (low + high) // 2
            if magnitudes[middle] < x:
                low = middle + 1
            else:
                high = middle
        above, high = low, row + width
        while above < high:  # the first above x
            middle = (above + high) // 2
            if magnitudes[middle] <= x:
                above = middle + 1
            else:
                high = middle
        part = 0.5 if width == 1 else (0.5 * (low + above - 1) - row) / (width - 1)
        part = least + (most - least) * part
        kept = np.float64(keyed(key, start + i) >> np.uint64(11)) < part * 9007199254740992.0  # 2^53
        factor = 1.0 / part if rescale else 1.0
        tau[i] = np.float32(tau[i] * factor) if kept else np.float32(0)


@kernel
def sum_above(tau, threshold):
    """The sum of the magnitudes whose bit pattern is above `threshold`, in float64 and in index order."""
    bits = tau.view(np.uint32)
    total = 0.0
    for i in range(tau.size):
        if bits[i] & np.uint32(0x7FFFFFFF) > threshold:
            total += abs(np.float64(tau[i]))
    return total


@kernel
def variances(tau_TP, out):
    """The variance of each element over the tasks, in float64, rounded once."""
    tasks = tau_TP.shape[0]
    for i in range(out.size):
        mean = 0.0
        for t in range(tasks):
            mean += tau_TP[t, i]
        mean /= tasks
        total = 0.0
        for t in range(tasks):
            apart = tau_TP[t, i] - mean
            total += apart * apart
        out[i] = np.float32(total / tasks)


@kernel
def squares(tau):
    """The sum of tau^2, in float64 and in index order."""
    total = 0.0
    for i in range(tau.size):
        total += np.float64(tau[i]) * np.float64(tau[i])
    return total


@kernel
def divergences(base, tau, width, out):
    """The Kullback-Leibler divergence of softmax(base + tau) + 1e-8 from softmax(base) + 1e-8 of every row."""
    before, after = np.empty(width), np.empty(width)
    for r in range(out.size):
        first = r * width
        for i in range(width):
            before[i] = np.float64(base[first + i])
            after[i] = before[i] + np.float64(tau[first + i])
        _softmax(before)
        _softmax(after)
        total = 0.0
        for i in range(width):
            total += before[i] * divergence((after[i] - before[i]) / before[i])
        out[r] = total


@kernel
def _softmax(values):
    """Replace the values of a row by their softmax, and 1e-8 more."""
    largest = values[0]
    for i in range(1, values.size):
        largest = max(largest, values[i])
    total = 0.0
    for i in range(values.size):
        values[i] = exponential(values[i] - largest)
        total += values[i]
    for i in range(values.size):
        values[i] = values[i] / total + 1e-8


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
def list_magnitudes(tau, first, width, listed):
    """List the |tau| whose bit patterns lie in [first, first + width), which are few, in order. Returns how many."""
    bits, patterns = tau.view(np.uint32), listed.view(np.uint32)
    count = 0
    for i in range(bits.size):
        b = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        if np.uint32(b - first) < width:  # unsigned: what is below is far above
            patterns[count] = b
            count += 1
    return count


@kernel
def locate(histogram, keep):
    """The bucket that holds the keep-th largest value, and how many lie in the buckets above it."""
    above = 0
    for i in range(histogram.size):
        bucket = histogram.size - 1 - i
        if above + histogram[bucket] >= keep:
            return bucket, above
        above += histogram[bucket]
    return -1, above


@kernel
def count_equal(tau, threshold):
    """How many |tau| have exactly the bit pattern `threshold`."""
    bits = tau.view(np.uint32)
    total = 0
    for i in range(bits.size):
        total += np.int64(bits[i] & np.uint32(0x7FFFFFFF) == threshold)
    return total


@kernel
def trim(tau, threshold, ties):
    """Zero what lies below the bit pattern `threshold` in magnitude, and of its equals all but the first `ties`.
    Returns the ties left.
    """
    bits = tau.view(np.uint32)
    equals = count_equal(tau, threshold)
    if ties >= equals or ties == 0:  # all equals stay or none does: no order among them, so no branch
        least = threshold + np.uint32(0 if ties >= equals else 1)
        for i in range(bits.size):
            b = bits[i]
            bits[i] = b if b & np.uint32(0x7FFFFFFF) >= least else np.uint32(0)
        return ties - min(ties, equals)
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
def disjoint_merge(tau_TP, votes_T, weights_T, normalize, out):
    """TIES: elect the sign of the mass, in which each task has a vote, then the (weighted) mean, or sum, of the values
    that agree with it. Sums in float64. Votes are the weights, or have their signs.
    """
    mass = np.empty(STRETCH)
    total = np.empty(STRETCH)
    weight = np.empty(STRETCH)
    for first in range(0, out.size, STRETCH):
        last = min(first + STRETCH, out.size)
        count = last - first
        mass[:count] = 0.0
        total[:count] = 0.0
        weight[:count] = 0.0
        # Task by task over a short stretch: rows of a block lie far apart, and a walk across them misses the cache.
        for t in range(tau_TP.shape[0]):
            vote, tau = votes_T[t], tau_TP[t, first:last]
            for i in range(count):
                mass[i] += vote * tau[i]
        for t in range(tau_TP.shape[0]):
            w, tau = weights_T[t], tau_TP[t, first:last]
            for i in range(count):
                x = w * tau[i]
                # A mass of exactly zero elects plus, as the sign convention of the compared implementation does.
                agrees = ((mass[i] >= 0.0) & (x > 0.0)) | ((mass[i] < 0.0) & (x < 0.0))
                total[i] += x if agrees else 0.0
                weight[i] += w if agrees else 0.0
        finished = out[first:last]
        for i in range(count):
            divisor = weight[i] if normalize and weight[i] != 0.0 else 1.0
            finished[i] = np.float32(total[i] / divisor)
