"""Several merges at once into one output, round after round. A program, for test_at_once.py.

    python racing.py PLACE ROUNDS KIND,FORCE,PROCESSES...

KIND is file or folder; with FORCE 1 an output is there before, and all of them may replace it. Each process is a fork
that calls the command line with another scale, so that no two outputs are equal. They set out together, at moments
that differ by up to the length of a merge. The races follow each other in one process, as its imports take longer than
they do; each has a folder of its name. Printed: per round a line of JSON, [process, exit code, what it said] each.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from prefmerge.cli import app

OUT = {"file": "out.safetensors", "folder": "out"}


def call(scale: float, out: Path, force: bool) -> tuple[int, str]:
    line = f"merge base.safetensors t1.safetensors --method average --threads 1 --scale {scale} -o {out}"
    found = CliRunner().invoke(app, [*line.split(), *(["--force"] if force else [])], prog_name="prefmerge")
    return found.exit_code, found.stderr if found.exit_code else ""


def race(place: Path, kind: str, force: bool, processes: int, rounds: int) -> None:
    place.mkdir()
    os.chdir(place)
    rng = np.random.default_rng(0)
    for name in ("base", "t1"):
        save_file({"w": rng.standard_normal((300, 400)).astype(np.float32)}, f"{name}.safetensors")
    assert call(0.9, Path("warm") / OUT[kind], False)[0] == 0  # imports and compiled code are there before the forks
    began = time.monotonic()
    assert call(0.9, Path("warmer") / OUT[kind], False)[0] == 0
    length = time.monotonic() - began
    chance = random.Random(0)
    for n in range(rounds):
        out = Path(str(n)) / OUT[kind]
        if force:
            assert call(0.9, out, False)[0] == 0
        delays = [chance.uniform(0, length) for _ in range(processes)]
        gate, opened = os.pipe()
        children: dict[int, int] = {}
        for i, delay in enumerate(delays, start=1):
            told, said = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(opened)
                os.read(gate, 1)  # until the parent closes the other end
                time.sleep(delay)
                os.write(said, json.dumps([os.getpid(), *call(i / 10, out, force)]).encode())
                os._exit(0)
            os.close(said)
            children[pid] = told
        os.close(opened)
        os.close(gate)
        heard = []
        for pid, told in children.items():
            os.waitpid(pid, 0)
            with open(told, "rb") as answer:
                heard.append(json.loads(answer.read()))
        print(json.dumps(heard), flush=True)


if __name__ == "__main__":
    for asked in sys.argv[3:]:
        kind, force, processes = asked.split(",")
        race(Path(sys.argv[1]) / asked, kind, force == "1", int(processes), int(sys.argv[2]))
