"""Whether the process is a program of ours, or somebody's whose libraries must stay as they are. Cost: none."""

from __future__ import annotations

own = False  # the command line sets it before anything heavy is loaded
