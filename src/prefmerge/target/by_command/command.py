"""The user's command: what stands in it for a candidate, how it is run, and what comes of it.

    Command("python score.py {model} --limit {budget}").score({"model": folder, "budget": "200"})

`/bin/sh` runs it, so pipes and variables work. In place of {model} stands a quoted shell variable, PREFMERGE_MODEL,
which the shell does not read as code whatever the path holds; likewise for the other words. Of what it prints the last
`KEPT` bytes are kept, so a flood takes no memory. It ends with this process, and after `timeout` seconds. Cost: a
program that starts in milliseconds. Not here: which number it is (`number`), which candidates (`scoring`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prefmerge.errors import UsageError
from prefmerge.ground.words import duration, nearest
from prefmerge.target.by_command import guard
from prefmerge.target.by_command.number import MeasuredNumber, NoNumber, in_json, printed

WORDS = ("model", "budget", "out", "job", "repeat")
KEPT = 1 << 20  # bytes of each stream
TAIL = 600  # characters of the output in a message
_WORD = re.compile(r"(?<!\$)\{([a-z_]+)\}")


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no score."""

    why: str


CommandScore = MeasuredNumber | Failure


@dataclass(frozen=True)
class Command:
    """`key`: where the number is in JSON, names joined by /. Raises UsageError for words that make no sense."""

    text: str
    called: str  # its flag, for messages
    key: str | None = None
    timeout: float | None = None  # seconds

    def __post_init__(self) -> None:
        used = {match[1] for match in _WORD.finditer(self.text)}
        for word in sorted(used - set(WORDS)):
            if near := nearest(word, WORDS, cutoff=0.7):
                raise UsageError(f"{self.called}: {{{word}}} stands for nothing. Did you mean {{{near}}}?")
        if "model" not in used:
            raise UsageError(f"{self.called}: put {{model}} where the command takes the model's folder or file.")

    def has(self, word: str) -> bool:
        """Whether a word stands in it."""
        return any(match[1] == word for match in _WORD.finditer(self.text))

    def line(self) -> str:
        """What the shell gets: a variable, quoted for its place, for each word."""
        made, at, quote = "", 0, ""
        while at < len(self.text):
            match, letter = _WORD.match(self.text, at), self.text[at]
            if match is not None and match[1] in WORDS:
                variable = f"${{{_variable(match[1])}}}"
                made += {"": f'"{variable}"', '"': variable, "'": f"'\"{variable}\"'"}[quote]
                at = match.end()
                continue
            if letter == "\\" and quote != "'":
                made += self.text[at : at + 2]
                at += 2
                continue
            if letter in "'\"" and quote in ("", letter):
                quote = "" if quote else letter
            made += letter
            at += 1
        return made

    def score(self, words: Mapping[str, str], running: Running) -> CommandScore:
        """Run it. `words`: what stands for each; `out` is a folder whose JSON is looked at."""
        environment = {**os.environ, **{_variable(name): value for name, value in words.items()}}
        code, out, err = running.run(self.line(), environment, self.timeout)
        if code != 0:
            what = f"did not end within {_time(self.timeout or 0)}" if code is None else _ended(code)
            return Failure(f"the command {what}{_tail(err, out) or ', and printed nothing'}")
        try:
            if self.key is None:
                return printed(out)
            return in_json(out, self.key, Path(words["out"]).rglob("*.json"))
        except NoNumber as error:
            return Failure(f"{error}{_tail(out, err)}")


class Running:
    """The commands that run now, so that all can be ended."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def end(self) -> None:
        """End every command, and those that are asked for from now on."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                _close(process.stdin)

    def run(self, line: str, environment: Mapping[str, str], timeout: float | None) -> tuple[int | None, str, str]:
        """(exit code, the end of stdout, the end of stderr); the code is None where the time was up."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
        streams = [_Kept(stream) for stream in (process.stdout, process.stderr) if stream is not None]
        with self._lock:
            self._processes.add(process)
            if self._ended:
                _close(process.stdin)
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            self._finish(process)
        out, err = (stream.text() for stream in streams)
        return code, out, err

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        _close(process.stdin)
        try:
            process.wait(2 * guard.GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with self._lock:
            self._processes.discard(process)


class _Kept:
    """The end of what comes out of a pipe, read by a thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._parts, self._size = stream, deque[bytes](), 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._stream:
            while part := os.read(self._stream.fileno(), 1 << 16):
                self._parts.append(part)
                self._size += len(part)
                while self._size - len(self._parts[0]) >= KEPT:
                    self._size -= len(self._parts.popleft())

    def text(self) -> str:
        self._thread.join(guard.GRACE)  # longer only where a process has left its group with the pipe
        return b"".join(list(self._parts)).decode("utf-8", "replace")


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:g} s"


def _variable(word: str) -> str:
    return f"PREFMERGE_{word.upper()}"


def _ended(code: int) -> str:
    names = {int(one): one.name for one in signal.Signals}
    if code < 0 or code - 128 in names:
        return f"was ended by {names.get(abs(code) if code < 0 else code - 128, code)}"
    return "was not found (exit code 127)" if code == 127 else f"failed with exit code {code}"


def _tail(*streams: str) -> str:
    """The end of the first stream that has any text."""
    text = next((one.strip() for one in streams if one.strip()), "")
    return f". The end of its output:\n{text[-TAIL:]}" if text else ""
