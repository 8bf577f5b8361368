"""The command line: parse, call, show. Nothing is decided here.

One module per group of commands, named below in the order of the help. `app` turns functions into commands, `options`
has the flags that they share, `show` what they print.

Exit codes: 0 done; 1 the job cannot be done (one message on stderr, no traceback); 2 wrong usage; 130 interrupted.
Results go to stdout, everything else to stderr; `--json` prints one object. Only typer is imported before a command
runs: `--help` must answer at once.
"""

from __future__ import annotations

import importlib

from prefmerge.cli.app import app, main

for _module in ("merging", "adapt", "prefer", "search", "inspect", "training", "bench", "demo"):
    importlib.import_module(f"prefmerge.cli.{_module}")  # registers its commands

__all__ = ["app", "main"]
