"""A base and two tasks to attack, and what every command owes an attacker: one message, or what was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.shown import LONGEST

TASKS = ("t1", "t2")
RECIPE = """merge_method: tunable_magmax
base_model: base.safetensors
models: [{model: t1.safetensors}, {model: t2.safetensors}]
"""  # of what `make` makes


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line did."""

    code: int
    stdout: str
    stderr: str


def make(folder: Path) -> list[str]:
    """base.safetensors, t1 and t2; their paths."""
    paths = [folder / f"{name}.safetensors" for name in ("base", *TASKS)]
    for seed, path in enumerate(paths):
        rng = np.random.default_rng(seed)
        save_file({name: rng.standard_normal((6, 5)).astype(np.float32) for name in ("a.w", "b.w")}, path)
    return list(map(str, paths))


def call(*words: str | Path) -> Outcome:
    """The command line, in this process. An exception that it lets through is raised."""
    done = CliRunner().invoke(app, list(map(str, words)), prog_name="prefmerge")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Outcome(done.exit_code, done.stdout, done.stderr)


def refused(*words: str | Path, saying: str = "", code: int | None = None) -> str:
    """The one message of a call that is refused."""
    done = call(*words)
    assert done.code in ((1, 2) if code is None else (code,)), done
    assert done.stdout == "", done
    message = done.stderr
    if "Usage:" in message:  # typer's own words
        message = message[message.index("Error: ") :]
        assert done.code == 2, done
    else:
        assert message.startswith("error: "), done
    assert message.count("rror: ") == 1, done
    assert is_safe(message), done
    assert len(message) <= LONGEST + len("error: \n"), len(message)
    assert saying in message, message
    return message


def is_safe(text: str) -> bool:
    """Whether a terminal shows the text as it is."""
    return all(one.isprintable() for one in text.split("\n"))


def script(
    *words: str | Path, before: Sequence[str] = (), env: dict[str, str] | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own; `before` is what runs it."""
    return subprocess.run(  # pyright: ignore[reportCallIssue]
        [*before, sys.executable, "-m", "prefmerge", *map(str, words)],
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        **({"capture_output": True} | more),  # pyright: ignore[reportArgumentType]
    )
