"""A process of its own that runs a command again and again, and ends it at random moments with random signals.

    python -m tests.field.at_any_moment FOLDER COMMAND MOMENTS SEED

FOLDER holds base, t1 and t2, and for commands on a run also `run`, `seen.csv` and `finetune.yaml`, `bench.yaml`. Each
run is a fork, so that nothing is imported twice. Prints a JSON object for each moment, and one for the run to the end
that follows: what became of the process, what it said, what hidden files were left, and a digest of what is there.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.cli import main as run

COMMANDS = {  # what is typed, and what it writes
    "merge": (
        "merge base.safetensors t1.safetensors t2.safetensors -o deep/out.safetensors --method average --threads 2",
        "deep",
    ),
    "replace": ("merge base t1 t2 -o old --force --method average --threads 2", "old"),
    "prefer": ("prefer --run run --labels seen.csv -o deep/preference.json", "deep"),
    "adapt": ("adapt --run run --labels seen.csv -o adapted", "adapted"),
    "search": ("search --run run --labels seen.csv -o searched --trials 12", "searched"),
    "finetune": ("finetune finetune.yaml -o trained", "trained"),
    "bench": ("bench bench.yaml -o bench --jobs 1", "bench"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
OF_WEIGHTS = ("merge", "replace")
HEAVY = ("torch", "transformers", "optuna", "sklearn.linear_model", "accelerate", "matplotlib.figure")


def begin(words: list[str]) -> int:
    """The number of a process that runs the command line."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["prefmerge", *words]
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hidden() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if ".prefmerge" in path.name or path.name.endswith(".tmp"))


def digest(output: str) -> dict[str, str]:
    """Of the weights and the preference; other files hold times. Empty where nothing is there."""
    files = sorted(path for path in Path(output).rglob("*") if path.suffix == ".safetensors")
    files += sorted(Path(output).rglob("preference.json"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if "/." not in str(path)}


def main() -> None:
    folder, command, moments, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.chdir(folder)
    line, output = COMMANDS[command]
    words = line.split()
    for one in SIGNALS[:3]:
        signal.signal(one, signal.SIG_DFL)
    if command in OF_WEIGHTS:  # imports and compiled code are there before the forks
        CliRunner().invoke(app, [*words, "--threads", "1", "-o", "warm"])
        shutil.rmtree("warm")
    else:
        for module in HEAVY:
            importlib.import_module(module)
    rng = random.Random(seed)
    kept = Path("kept")
    if Path(output).exists():
        shutil.copytree(output, kept)

    def put_back() -> None:
        shutil.rmtree(output, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, output)

    old = digest(output)
    waited(begin(words))  # the first keeps what it computes
    put_back()
    began = time.monotonic()
    assert waited(begin(words)) == 0, Path("said").read_text()
    took = time.monotonic() - began
    new = digest(output)
    put_back()

    def tell(**what: Any) -> None:
        print(
            json.dumps(
                {
                    **what,
                    "said": Path("said").read_text()[-3000:],
                }
            ),
            flush=True,
        )

    for _ in range(moments):
        number = rng.choice(SIGNALS)
        wait = rng.uniform(0, took)
        before = set(hidden())
        pid = begin(words)
        time.sleep(wait)
        os.kill(pid, number)
        code = waited(pid)
        there = digest(output)
        what = "new" if there == new else "old" if there == old else ""
        tell(signal=number, code=code, wait=round(wait, 3), there=what, hidden=sorted(set(hidden()) - before))
        if code == 0 or there == new:
            put_back()
    code = waited(begin(words))
    tell(signal=0, code=code, wait=0, there="new" if digest(output) == new else "", hidden=hidden())


if __name__ == "__main__":
    main()
