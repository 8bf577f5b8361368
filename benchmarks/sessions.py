"""What the commands of README.md and docs/tutorial.md print, and the picture docs/demo.png.

    python -m benchmarks.sessions                    # runs the demo, a minute or two, and writes all three
    python -m benchmarks.sessions --run demo-out     # takes a demo that is there

A session is an indented block whose commands begin with `$ `. Each command runs in a folder that holds the demo as
`demo-out/`, and what it prints replaces what stands below it. docs/demo.png is the picture that `prefmerge demo` draws
(`prefmerge.lab.demo.report.draw`), as it is. Not here: commands without output (tests/cli/test_documents_run.py).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from benchmarks import common
from prefmerge.cli import app

DOCUMENTS = (common.ROOT / "README.md", common.ROOT / "docs" / "tutorial.md")
PICTURE = common.ROOT / "docs" / "demo.png"
RUN = "demo-out"
COLUMNS = "100"
INDENT, PROMPT = "    ", "    $ "
# What another machine, or another training, may print otherwise.
CHANGES = (r"[\d.]+ s\b", r"(?<=at most )\S+(?= of it)", r"xxh3-128:\w+")


@dataclass(frozen=True)
class Session:
    """A command, and the lines that it printed."""

    command: str
    printed: tuple[str, ...]


def sessions(text: str) -> Iterator[Session]:
    """All sessions of a document, in order."""
    for block in _blocks(text):
        yield _session(block)


def written(text: str, answer: Callable[[str], str]) -> str:
    """A document in which every command is followed by what it prints now."""
    for block in _blocks(text):
        command = _session(block).command
        lines = [PROMPT + command, *(INDENT + line for line in answer(command).splitlines())]
        text = text.replace("\n".join(block), "\n".join(line.rstrip() for line in lines), 1)
    return text


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of each session: from its command to the last indented line that follows."""
    block: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if block and (line.startswith(PROMPT) or (line and not line.startswith(INDENT))):
            while not block[-1]:
                block.pop()
            yield block
            block = []
        if line.startswith(PROMPT) or block:
            block.append(line)


def _session(block: Sequence[str]) -> Session:
    return Session(block[0].removeprefix(PROMPT), tuple(line.removeprefix(INDENT) for line in block[1:]))


def printed(command: str) -> str:
    """What a command prints, run in this process and this folder. Raises RuntimeError where it fails."""
    program, *words = shlex.split(command)
    assert program == "prefmerge", command
    paths = [sorted(glob.glob(word)) or [word] if "*" in word else [word] for word in words]
    done = CliRunner(env={"COLUMNS": COLUMNS}).invoke(app, [one for each in paths for one in each])
    if done.exit_code:
        raise RuntimeError(f"{command}: exit code {done.exit_code}: {done.stderr}{done.exception!r}")
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def steady(text: str) -> str:
    """What a command prints, without what depends on the machine or the training."""
    for pattern in CHANGES:
        text = re.sub(pattern, "*", text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="the folder of a finished demo; default: run one")
    asked = parser.parse_args(arguments)
    run = asked.run and asked.run.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if run is None:
            printed(f"prefmerge demo -o {RUN}")
        for document in DOCUMENTS:
            place = Path(folder, document.stem)
            place.mkdir()
            shutil.copytree(run or Path(folder, RUN), place / RUN)
            with contextlib.chdir(place):
                document.write_text(written(document.read_text(encoding="utf-8"), printed), encoding="utf-8")
        shutil.copyfile((run or Path(folder, RUN)) / "demo.png", PICTURE)


if __name__ == "__main__":
    main()
