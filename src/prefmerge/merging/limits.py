"""How many threads a merge has, and how much memory: what was asked for, checked.

    parse_bytes("256MiB")      268435456
    allowance(limit, ...)      what of it large arrays may take

Cost: none. No value of a merge depends on these.
"""

from __future__ import annotations

import os

from prefmerge.errors import PreferenceError, UsageError
from prefmerge.preference import exact

UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
BLOCKS_PER_THREAD = 16  # buffers of one block that a thread holds at most, conversions included


def parse_bytes(text: str | int, what: str = "memory") -> int:
    """`256MiB`, `1.5 GB` or a number of bytes. Raises UsageError that says `what` is no size."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise UsageError(f"{what} {text!r} is not a size; write for instance 256MiB or 2GB.")
    text = str(text)
    plain = text.strip().upper()
    number = plain.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = plain[len(number) :].strip()
    try:
        value = int(exact(number) * UNITS[unit])
    except (KeyError, PreferenceError) as error:
        raise UsageError(f"{what} {text!r} is not a size; write for instance 256MiB or 2GB.") from error
    if value <= 0:
        raise UsageError(f"{what} {text!r} must be positive.")
    return value


def checked_threads(threads: int | None) -> int:
    """As asked for, else one per core. Raises UsageError below 1."""
    if threads is None:
        return available_cores()
    if threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1.")
    return threads


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowance(limit: int, threads: int, block: int) -> int:
    """Bytes of large arrays that may be anonymous: the limit less what the interpreter and its compiled code hold now,
    and less the threads' blocks.
    """
    held = 0
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
    except (OSError, StopIteration, ValueError):
        held = 128 * 2**20  # what they hold on Linux
    return max(0, limit - held - threads * BLOCKS_PER_THREAD * block * 4)
