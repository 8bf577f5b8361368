"""The command line: parse, call, show. Nothing is decided here.

One module per group of commands. `app` turns functions into commands, `commands` lists them in the order of the help,
`options` has the flags that they share, `show` what they print.

Exit codes: 0 done; 1 the job cannot be done (one message on stderr, no traceback); 2 wrong usage; 130 interrupted.
Results go to stdout, everything else to stderr; `--json` prints one object. `--help` must answer at once, so a module
is imported when its command is asked for, and only typer before a command runs.
"""

from prefmerge.cli.app import app
from prefmerge.cli.commands import main

__all__ = ["app", "main"]
