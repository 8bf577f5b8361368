"""Many merges in one process, with whichever prefmerge the PYTHONPATH has: for `benchmarks.same_bytes`.

    python merge_in_a_row.py JOBS.json RESULTS.json

JOBS: a list of {"arguments": of the command line, "cwd", "out": a name, "block": elements read at a time}; outputs are
made beside RESULTS. Only the command line is called, so that older versions work too. The one exception is the block
size, which no flag has: the default of every function of `prefmerge.merging` with an argument `block` is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Any


def defaults() -> list[dict[str, Any]]:
    """The keyword defaults of the functions that merge and can be given a block size."""
    package = importlib.import_module("prefmerge.merging")
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    functions = {one for module in modules for _, one in inspect.getmembers(module, inspect.isfunction)}
    return [values for one in functions if "block" in (values := one.__kwdefaults__ or {})]


def outcome(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The exit code of one command, the SHA-256 of its weights and its receipt; the output is removed."""
    from prefmerge.cli import main

    out = folder / job["out"]
    sys.argv = ["prefmerge", *job["arguments"], "-o", str(out)]
    said, code = io.StringIO(), 0
    with contextlib.chdir(job["cwd"]), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    if code:
        return {"code": code, "said": said.getvalue()}
    receipt = out / "receipt.json" if out.is_dir() else Path(f"{out}.receipt.json")
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (sorted(out.glob("*.safetensors")) if out.is_dir() else [out])
    }
    done = {"code": 0, "weights": digests, "receipt": json.loads(receipt.read_text(encoding="utf-8"))}
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
        receipt.unlink()
    return done


def main() -> None:
    jobs, results = (Path(name) for name in sys.argv[1:3])
    sized, done = defaults(), []
    assert sized, "no function of prefmerge.merging takes a block size"
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        for values in sized:
            values["block"] = job["block"]
        done.append(outcome(job, results.parent.resolve()))
    import prefmerge

    source = str(Path(os.path.realpath(prefmerge.__file__)).parent)
    results.write_text(json.dumps({"source": source, "outcomes": done}), encoding="utf-8")


if __name__ == "__main__":
    main()
