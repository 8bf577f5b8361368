"""The loops over elements of the measuring, compiled. Nothing here knows of files.

Arrays are one block: T tasks, P elements, W = ceil(P / 64) words of 64 elements, one bit each. Counts are exact
integers; sums are float64, and their order is left to the compiler within a block, so that it may use wide registers.
Each releases the interpreter lock and is cached on disk. Not here: order among blocks, which is the caller's.
"""

from __future__ import annotations

import numpy as np

from prefmerge.vectors.kernel_cache import kernel

TILE = 2048  # elements of all tasks that are multiplied with one another at a time: they stay in the cache
OCTAVES = (-64, 16)  # of |tau| with bins of their own: 5e-20 to 65536; what lies beyond counts as the nearest
PER_OCTAVE = 16  # bins from one power of two to the next
BINS = (OCTAVES[1] - OCTAVES[0]) * PER_OCTAVE
_FIRST = (OCTAVES[0] + 127) * PER_OCTAVE
_REST = np.uint32(19)  # a float32 pattern without its last 19 bits is 16 (exponent + 127) + sixteenths
TIED = -1  # the owner of an element of which several tasks hold the largest magnitude, where that matters
_ODD, _PAIRS, _NIBBLES, _BYTES = (
    np.uint64(x) for x in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)
_1, _2, _4, _56 = (np.uint64(x) for x in (1, 2, 4, 56))


@kernel(inline="always")
def _ones(word):
    """The number of bits that are set in 64."""
    word = word - ((word >> _1) & _ODD)
    word = (word & _PAIRS) + ((word >> _2) & _PAIRS)
    word = (word + (word >> _4)) & _NIBBLES
    return np.int64((word * _BYTES) >> _56)


@kernel
def pack_signs(tau, threshold, positive, negative):
    """Set the bits of the elements whose magnitude has at least the float32 pattern `threshold`, by sign."""
    bits = tau.view(np.uint32)
    for word in range(positive.size):
        plus = np.uint64(0)
        minus = np.uint64(0)
        first = word * 64
        for j in range(min(64, tau.size - first)):
            b = bits[first + j]
            kept = np.uint64((b & np.uint32(0x7FFFFFFF)) >= threshold)
            sign = np.uint64(b >> np.uint32(31))
            plus |= (kept & (sign ^ _1)) << np.uint64(j)
            minus |= (kept & sign) << np.uint64(j)
        positive[word] = plus
        negative[word] = minus


@kernel
def count_signs(positive_TW, negative_TW, prefixes_4T, pairs_2TT):
    """Add to prefixes_4T: elements that task t keeps; that any of the first t + 1 tasks keeps; that several of them
    keep; on which their signs conflict. To pairs_2TT: elements that both keep; on which their signs differ.
    """
    tasks, words = positive_TW.shape
    for word in range(words):
        plus = np.uint64(0)
        minus = np.uint64(0)
        several = np.uint64(0)
        for t in range(tasks):
            kept = positive_TW[t, word] | negative_TW[t, word]
            several |= (plus | minus) & kept
            plus |= positive_TW[t, word]
            minus |= negative_TW[t, word]
            prefixes_4T[0, t] += _ones(kept)
            prefixes_4T[1, t] += _ones(plus | minus)
            prefixes_4T[2, t] += _ones(several)
            prefixes_4T[3, t] += _ones(plus & minus)
    for s in range(tasks):
        for t in range(s + 1):
            both = 0
            differ = 0
            for word in range(words):
                p, q = positive_TW[s, word], negative_TW[s, word]
                r, u = positive_TW[t, word], negative_TW[t, word]
                both += _ones((p | q) & (r | u))
                differ += _ones((p & u) | (q & r))
            pairs_2TT[0, s, t] += both
            pairs_2TT[1, s, t] += differ


@kernel(fastmath={"reassoc", "nsz"})
def fold_magnitudes(tau_TP, best, owner, alone, sums_3T):
    """MAGMAX task by task: `best` its magnitudes, `owner` its tasks, ties to the later one; `alone` its tasks where no
    other has that magnitude, else TIED. Add to sums_3T, per task: sum of tau_t, of |tau_t|, of the merged magnitude
    after it.
    """
    best[:] = 0
    owner[:] = 0
    alone[:] = TIED
    for t in range(tau_TP.shape[0]):
        signed = 0.0
        own = 0.0
        merged = 0.0
        for i in range(best.size):
            x = tau_TP[t, i]
            a = abs(x)
            b = best[i]
            alone[i] = t if a > b else (TIED if a == b else alone[i])
            owner[i] = t if a >= b else owner[i]
            b = a if a >= b else b
            best[i] = b
            signed += np.float64(x)
            own += np.float64(a)
            merged += np.float64(b)
        sums_3T[0, t] += signed
        sums_3T[1, t] += own
        sums_3T[2, t] += merged


@kernel
def count_owners(owner, alone, counts_2T):
    """Add to counts_2T: elements that each task owns; those of which it alone holds the largest magnitude."""
    for i in range(owner.size):
        counts_2T[0, owner[i]] += 1
        if alone[i] != TIED:
            counts_2T[1, alone[i]] += 1


@kernel(inline="always")
def _bin(pattern):
    return min(max(np.int64(pattern >> _REST) - _FIRST, 0), BINS - 1)


@kernel
def count_values(tau, values_2B):
    """Count the values that are not zero by sign and magnitude."""
    bits = tau.view(np.uint32)
    for i in range(bits.size):
        b = bits[i] & np.uint32(0x7FFFFFFF)
        if b != np.uint32(0):
            values_2B[bits[i] >> np.uint32(31), _bin(b)] += 1


@kernel
def count_contributed(tau_TP, alone, contributed_T2B):
    """Count, for the task that alone holds the largest magnitude of an element, that value by sign and magnitude."""
    bits_TP = tau_TP.view(np.uint32)
    for i in range(alone.size):
        if alone[i] != TIED:
            b = bits_TP[alone[i], i]
            contributed_T2B[alone[i], b >> np.uint32(31), _bin(b & np.uint32(0x7FFFFFFF))] += 1


@kernel(fastmath={"reassoc", "nsz"})
def add_products(tau_TP, gram_TT):
    """Add the scalar products of all pairs of tasks to the lower half of gram_TT."""
    tasks, size = tau_TP.shape
    for first in range(0, size, TILE):
        for s in range(tasks):
            a = tau_TP[s, first : first + TILE]
            for t in range(s + 1):
                b = tau_TP[t, first : first + TILE]
                total = 0.0
                for i in range(a.size):
                    total += np.float64(a[i]) * np.float64(b[i])
                gram_TT[s, t] += total
