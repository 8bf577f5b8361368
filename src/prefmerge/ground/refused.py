"""What the system refuses, and what to do about it.

    remedy(error)          a sentence for the end of a message: "Make room on that disk."
    naming(error, path)    the same error, of the path that people know
    lacks_memory(error)    whether there is too little memory

Libraries raise errors of their own with the system's words in them, so errors without a number are known by their text.
Not here: the rest of the message, which is the caller's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_ROOM = "Make room on that disk."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Allow larger files with `ulimit -f`.",
    errno.EMFILE: "Allow more with `ulimit -n`.",
    errno.ENFILE: "Allow more with `ulimit -n`.",
}
_NO_MEMORY = ("failed to map", "allocate memory", "can't allocate", "start new thread", "out of memory")  # of libraries


def naming(error: OSError, path: Path) -> OSError:
    """The error, of that path: the system names no file where one cannot be written on, and a temporary one is not what
    people asked for.
    """
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def remedy(error: Exception, otherwise: str = "") -> str:
    """What to do about an error of the system, in a sentence; `otherwise` where the error does not say. Libraries raise
    errors of their own that have the system's words in them.
    """
    code = getattr(error, "errno", None)
    if code is None:
        code = next((one for one in _REMEDIES if os.strerror(one) in str(error)), 0)
    return _REMEDIES.get(code, otherwise)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error comes of too little memory; a thread needs some too."""
    if isinstance(error, ImportError | RuntimeError) or (isinstance(error, OSError) and error.errno is None):
        said = f"{error} {error.__context__}"  # llvmlite puts words of its own before the system's
        return any(sign in said for sign in _NO_MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
