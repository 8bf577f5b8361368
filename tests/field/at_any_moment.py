"""A process of its own that runs a command again and again, and ends it at random moments with random signals.

    python -m tests.field.at_any_moment FOLDER COMMAND MOMENTS SEED

FOLDER holds base, t1 and t2, and for commands on a run also `run`, `seen.csv` and `finetune.yaml`, `bench.yaml`. Each
run is a fork of a process that has imported what the command imports. Every second moment is a time; the others are the
step before a file is opened for writing, renamed or removed: there a kill leaves the most. Prints a JSON object for
each moment, and one for the run to the end that follows: what became of the process and of its children, what it said,
what hidden or temporary files were left, and whether the results are the old ones or the new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.cli import main as run
from prefmerge.merging import pieces

COMMANDS = {  # what is typed, and what it writes
    "merge": (
        "merge base.safetensors t1.safetensors t2.safetensors -o deep/out.safetensors --method average --threads 2",
        "deep",
    ),
    "resume": (
        "merge base.safetensors t1.safetensors t2.safetensors -o deep/out.safetensors --resume --threads 2",
        "deep",
    ),
    "resume-folder": ("merge base t1 t2 -o old --force --resume --scope model --threads 2", "old"),
    "sweep": ("sweep base t1 t2 -o deep --vary scale=0.5|1 --resume --threads 2", "deep"),
    "replace": ("merge base t1 t2 -o old --force --method average --threads 2", "old"),
    "prefer": ("prefer --run run --labels seen.csv -o deep/preference.json", "deep"),
    "adapt": ("adapt --run run --labels seen.csv -o adapted", "adapted"),
    "adapt-again": ("adapt --run run --labels seen.csv -o adapted --force", "adapted"),
    "search": ("search --run run --labels seen.csv -o searched --trials 12", "searched"),
    "finetune": ("finetune finetune.yaml -o trained", "trained"),
    "bench": ("bench bench.yaml -o bench --jobs 1", "bench"),
    "bench-jobs": ("bench bench.yaml -o bench --jobs 2", "bench"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
OF_WEIGHTS = ("merge", "replace", "resume", "resume-folder", "sweep")
RESULTS = ("*.safetensors", "*.png", "preference.json", "search.json", "adapt.json", "results.json", "run.json")
TIMES = ("seconds", "created", "started", "ended", "took")  # keys of what differs from run to run
CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate"}  # audit events
SCRATCH = ("cache", "tmp")  # folders of PREFMERGE_CACHE and TMPDIR, here
PATIENCE = 20.0  # seconds until children must have ended


def begin(words: list[str], at: tuple[int, int] | None = None, settle: Callable[[], object] | None = None) -> int:
    """The number of a process that runs the command line, after `settle`. `at`: the signal that it sends itself, and
    before which change of a file.
    """
    pid = os.fork()
    if pid:
        return pid
    code, changes = 70, watched(at)
    try:
        os.setsid()
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if settle is not None:
            settle()
        sys.argv = ["prefmerge", *words]
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if at is None and settle is None:
            Path("needs").write_text(json.dumps({"modules": list(sys.modules), "changes": changes()}))
        os._exit(code)


def watched(at: tuple[int, int] | None) -> Callable[[], int]:
    """Count the changes of files in this folder, from now on, and send the signal before the one that is asked for."""
    home, count = os.getcwd(), 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = given
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = given[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(home):
            count += 1
            if at is not None and count == at[1]:
                os.kill(os.getpid(), at[0])

    sys.addaudithook(hook)
    return lambda: count


def waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def outlived(pid: int) -> bool:
    """Whether a child of a process that has ended is there after some time."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True


def hidden() -> list[str]:
    """Temporary files, wherever they are; in TMPDIR every file is one."""
    left = {str(path) for path in Path().rglob("*") if ".prefmerge" in path.name or path.name.endswith(".tmp")}
    left |= {str(path) for path in Path("tmp").rglob("*") if not path.name.startswith("torchinductor")}  # torch's own
    return sorted(left)


def digest(output: str) -> dict[str, str]:
    """Of the results, without the times in them. Empty where nothing is there."""
    files = sorted(path for name in RESULTS for path in Path(output).rglob(name))
    return {str(path): hashlib.sha256(content(path)).hexdigest() for path in files if "/." not in str(path)}


def content(path: Path) -> bytes:
    if path.suffix != ".json":
        return path.read_bytes()

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(one) for key, one in value.items() if key not in TIMES}
        return [timeless(one) for one in value] if isinstance(value, list) else value

    return json.dumps(timeless(json.loads(path.read_text()))).encode()


def import_all(modules: list[str]) -> None:
    for module in modules:
        with contextlib.suppress(Exception):  # some are not there under their own name
            importlib.import_module(module)


def main() -> None:
    folder, command, moments, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.chdir(folder)
    line, output = COMMANDS[command]
    words = line.split()
    for one in SIGNALS[:3]:
        signal.signal(one, signal.SIG_DFL)
    pieces.EVERY = 0.0  # each tensor is kept as soon as it is finished
    if command in OF_WEIGHTS:  # compiled code is there before the forks
        CliRunner().invoke(app, [*words, "--threads", "1", "-o", "warm"])
        shutil.rmtree("warm")
    rng = random.Random(seed)
    kept = Path("kept")
    if command == "adapt-again":
        assert waited(begin(words)) == 0, Path("said").read_text()
    if Path(output).exists():
        shutil.copytree(output, kept)

    def put_back() -> None:
        for one in (output, "cache"):
            shutil.rmtree(one, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, output)

    old = digest(output)
    assert waited(begin(words)) == 0, Path("said").read_text()
    import_all(json.loads(Path("needs").read_text())["modules"])
    put_back()
    began = time.monotonic()
    assert waited(begin(words)) == 0, Path("said").read_text()
    took = time.monotonic() - began
    changes = json.loads(Path("needs").read_text())["changes"]
    new = digest(output)
    put_back()

    def tell(**what: Any) -> None:
        print(json.dumps({**what, "said": Path("said").read_text()[-3000:]}), flush=True)

    for moment in range(moments):
        number = rng.choice(SIGNALS)
        wait, change = rng.uniform(0, took), rng.randint(1, changes)
        before = set(hidden())
        by_time = moment % 2 == 0
        pid = begin(words, (number, 0 if by_time else change))
        if by_time:
            time.sleep(wait)
            os.kill(pid, number)
        sent = time.monotonic()
        code = waited(pid)
        ended = time.monotonic() - sent
        there = digest(output)
        what = "new" if there == new else "old" if there == old else ""
        tell(
            signal=number,
            code=code,
            moment=f"{wait:.3f} of {took:.3f} s" if by_time else f"change {change} of {changes}",
            ended=round(ended, 2) if by_time else None,
            there=what,
            hidden=hidden() if code == 0 else sorted(set(hidden()) - before),
            outlived=outlived(pid),
        )
        if code == 0 or there == new:
            put_back()
    code = waited(begin(words))
    tell(signal=0, code=code, there="new" if digest(output) == new else "", hidden=hidden(), outlived=False)


if __name__ == "__main__":
    main()
