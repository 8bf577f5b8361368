"""Many merges by mergekit in one process, for `benchmarks.mergekit_program`; run by the interpreter that has mergekit.

    python mergekit_in_a_row.py JOBS.json ANSWERS.json

JOBS: a list of [recipe, output]. ANSWERS: for each None, or the type and first line of the error that ended it.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    merge = importlib.import_module("mergekit.scripts.run_yaml").main  # absent where this file is checked
    answers: list[str | None] = []
    for recipe, out in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            merge([recipe, out, "--no-copy-tokenizer", "--quiet"], standalone_mode=False)
            answers.append(None)
        except Exception as error:  # whatever it is, it is counted
            answers.append(f"{type(error).__name__}: {error}".splitlines()[0])
    Path(sys.argv[2]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
