"""Whether a number of draws and a level make sense together, asked in one place. Cost: none."""

from __future__ import annotations

import math

import numpy as np

from prefmerge.errors import PrefmergeError, UsageError


def check_draws(draws: int, level: float, error: type[PrefmergeError] = UsageError) -> None:
    """Raise `error` for a level outside (0, 1), or for too few draws to have a quantile at its ends."""
    if isinstance(level, bool) or not 0 < level < 1:
        raise error(f"level: expected a number between 0 and 1, such as 0.9, found {level!r}.")
    least = math.ceil(round(2 / (1 - level), 6))
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < least:
        raise error(f"draws: expected a whole number of at least {least} at level {level}, found {draws!r}.")
