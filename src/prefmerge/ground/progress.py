"""How a long job says how far it is: it calls what its caller gave it.

    progress(done, all)          `Counted`: samples or trials
    progress(done, all, what)    `Progress`: bytes or pieces of work, and what is being done or was done last

A job calls at its own pace, from one thread at a time. Not here: how it is shown, which is `cli.progress`'s.
"""

from __future__ import annotations

from collections.abc import Callable

Counted = Callable[[int, int], None]
Progress = Callable[[int, int, str], None]
