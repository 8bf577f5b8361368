"""One writer at a time: the lock on a folder. What `claim` does is tested in tests/outputs/test_two_writers.py."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefmerge.ground import locks

HOLDER = """
import sys, time
from pathlib import Path
from prefmerge.ground import locks
with locks.held(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_holder_and_nothing_is_left_in_it(tmp_path: Path):
    with locks.held(tmp_path):
        with pytest.raises(locks.Busy) as refused, locks.held(tmp_path):
            pass
        assert refused.value.filename == str(tmp_path)
        with pytest.raises(KeyError), locks.held(tmp_path, KeyError("mine")):
            pass
    with locks.held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_fails_inside_lets_go_and_comes_out_as_it_is(tmp_path: Path):
    with pytest.raises(locks.Busy) as inner, locks.held(tmp_path, KeyError("mine")):
        raise locks.Busy(tmp_path / "other", "")
    assert inner.value.filename == str(tmp_path / "other")
    with locks.held(tmp_path):
        pass


def test_a_process_that_dies_lets_go(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(locks.Busy), locks.held(tmp_path):
            pass
        process.kill()
    with locks.held(tmp_path):
        pass


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path):
    with pytest.raises(FileNotFoundError), locks.held(tmp_path / "none"):
        pass


def test_without_locks_everything_is_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.held(tmp_path), locks.held(tmp_path), locks.claim(tmp_path / "out"), locks.claim(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())
