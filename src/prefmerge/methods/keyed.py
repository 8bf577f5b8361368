"""Random numbers without state: a 64-bit value for every (seed, tensor, element, pass, stage).

    h(key, p) = mix(key + p * golden),   key = BLAKE2b(seed, tensor name, purpose, pass, stage)

`mix` is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, variant 13 of Stafford). The same element gets the
same number for any block size, order and thread count. Cost: two multiplications an element. Not for cryptography.
"""

from __future__ import annotations

import hashlib

import numpy as np

from prefmerge.vectors.kernel_cache import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio; SplitMix64's increment
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S1, _S2, _S3 = np.uint64(30), np.uint64(27), np.uint64(31)


def key(seed: int, tensor: str, purpose: str, *numbers: int) -> np.uint64:
    """The 64-bit key of one draw over one tensor."""
    text = "\x1f".join([str(seed), tensor, purpose, *map(str, numbers)])
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@kernel(inline="always")
def keyed(key, index):  # type: ignore[no-untyped-def]  # compiled: numba infers uint64
    """The number of element `index` under `key`, uniform over 0 .. 2^64 - 1."""
    z = key + np.uint64(index) * GOLDEN
    z = (z ^ (z >> _S1)) * _M1
    z = (z ^ (z >> _S2)) * _M2
    return z ^ (z >> _S3)
