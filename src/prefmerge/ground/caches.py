"""Where this user's caches are.

Cost: none. Not here: what is in them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(of: str) -> Path:
    """The folder for one kind of things: in $PREFMERGE_CACHE, or in prefmerge's folder among the user's caches."""
    chosen = os.environ.get("PREFMERGE_CACHE")
    if chosen:
        return Path(chosen).expanduser() / of
    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "prefmerge" / of
