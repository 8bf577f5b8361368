"""Full disks and other limits, for the commands other than merge; kills while a small file is written.

In the suite the mechanism; `pytest tests/field --attacks 10` for every command with ten sizes of each disk and limit.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefmerge.errors import DiskFull, OutputError
from prefmerge.ground import atomic, jsons
from tests.field.at_any_limit import KINDS
from tests.field.attacked import call
from tests.field.test_attacks_at_any_moment import prepared

KEEP = ("search", "finetune", "bench", "demo", "inspect")  # what these wrote stays, file by whole file


# What a kill leaves of a small file

KILLED = """
import os, signal, sys
from pathlib import Path
from prefmerge.ground import atomic
{patch} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
{call}
"""


def kill(patch: str, line: str, folder: Path) -> None:
    code = KILLED.format(patch=patch, call=line)
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, check=False).returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("patch", ["atomic.lock", "atomic.sync", "os.replace"])
def test_attack_m3_the_next_writer_of_a_file_removes_what_a_kill_left(tmp_path: Path, patch: str) -> None:
    kill(patch, "atomic.write_whole(Path('x.json'), b'1')", tmp_path)
    jsons.write(tmp_path / "x.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_attack_m3_the_next_scratch_folder_removes_what_a_kill_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill("atomic.anything", "with atomic.scratch_folder('some') as made: atomic.anything()", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with atomic.scratch_folder("some") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_attack_m3_a_writer_at_work_keeps_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, left = atomic.sync, [b"2"]

    def write_another(fd: int) -> None:
        sync(fd)
        if left:
            atomic.write_whole(tmp_path / "x", left.pop())

    monkeypatch.setattr(atomic, "sync", write_another)
    atomic.write_whole(tmp_path / "x", b"1")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"1")]


def test_attack_m3_a_header_is_shown_to_the_library_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefmerge.checkpoints import safetensors_file
    from tests.field.attacked import make

    path = make(tmp_path)[0]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    seen = []
    opens = safetensors_file._opens
    monkeypatch.setattr(
        safetensors_file, "_opens", lambda *given: seen.append((given[1], list(scratch.iterdir()))) or opens(*given)
    )
    assert call("inspect", path).code == 0
    assert [(str(place).startswith("/dev/fd/"), there) for place, there in seen] == [(True, [])]


LOGS = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from prefmerge.errors import DiskFull
from prefmerge.training.job import Job
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
here = SimpleNamespace(out=Path(sys.argv[1]), accelerator=SimpleNamespace(is_main_process=True))
try:
    Job.log(here, "note", text="a")
    Job.log(here, "note", text="b" * 1000)
except DiskFull as error:
    print(error)
"""


# What the system refuses names the file and says what to do


def refusing(code: int) -> OSError:
    return OSError(code, os.strerror(code))  # as the system says it of a descriptor: without a name


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_: int) -> None:
        raise refusing(errno.ENOSPC)

    monkeypatch.setattr(atomic, "sync", sync)
    monkeypatch.setattr(atomic, "sync_path", sync)


@pytest.mark.usefixtures("full")
def test_attack_s3_a_full_disk_has_the_name_of_the_file(tmp_path: Path) -> None:
    for write in (lambda path: atomic.write_whole(path, b"new"), _fill):
        path = tmp_path / write.__name__.strip("<>")
        with pytest.raises(OSError, match="No space left on device") as refused:
            write(path)
        assert refused.value.filename == str(path)
        assert list(tmp_path.iterdir()) == []


def _fill(path: Path) -> None:
    with atomic.whole_folder(path) as folder:
        (folder / "x").write_text("new")


@pytest.mark.usefixtures("full")
def test_attack_s3_an_old_picture_stays_whole(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    from prefmerge import plotting

    path = tmp_path / "old.png"
    path.write_bytes(b"old")
    with pytest.raises(OutputError) as refused:
        plotting.save(plotting.new_figure(1, 1), path)
    said = "the picture cannot be written: No space left on device. Make room on that disk."
    assert str(refused.value) == f"{path}: {said}"
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("old.png", b"old")]


@pytest.mark.parametrize("words", ["basic_ios::clear: iostream error", "unexpected pos 192 vs 81"])
def test_attack_s3_torch_has_its_own_words_for_a_full_disk(tmp_path: Path, words: str) -> None:
    from prefmerge.training.run_folder import writing

    with pytest.raises(DiskFull, match="Make room; the same command then resumes"), writing(tmp_path):
        raise RuntimeError(words)


def test_attack_s3_a_full_disk_cuts_no_line_of_the_log(tmp_path: Path) -> None:
    """In a file that may not grow: what fits of a line is written, and taken back."""
    done = subprocess.run([sys.executable, "-c", LOGS, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{tmp_path}: the disk is full, or files may not grow so large"), done
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory. Free some."),
        (RuntimeError("can't start new thread"), "there is not enough memory. Free some."),
        (RuntimeError("can't allocate read lock"), "there is not enough memory. Free some."),
        (refusing(errno.ENOMEM), "there is not enough memory. Free some."),
        (
            refusing(errno.EFBIG),
            "the system refuses it (File too large). Allow larger files with `ulimit -f`.",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "the system refuses it (I/O error: No space left on device (os error 28)). Make room on that disk.",
        ),
    ],
)
def test_attack_m1_what_no_command_expects_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr("prefmerge.training.config_file.read_config", refuse)
    done = call("finetune", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert (done.code, done.stderr) == (1, f"error: {said}\n")


def test_attack_m7_advice_on_memory_names_what_the_command_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.field.attacked import make

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    paths = make(tmp_path)
    monkeypatch.setattr("prefmerge.merging.many.find_companions", refuse)
    said = call("merge", *paths, "-o", tmp_path / "out").stderr
    assert said == "error: there is not enough memory. Free some, or give a smaller --max-memory or --threads.\n"


BEFORE = """
import typer.main
def refuse(*_): raise MemoryError
typer.main.get_group = refuse
from prefmerge.cli import main
main()
"""


def test_attack_m7_too_little_memory_for_a_command_to_begin() -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: there is not enough memory. Free some.\n")


FEW = """
import os, resource, sys
from pathlib import Path
from prefmerge.ground import atomic
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    with atomic.whole_folder(Path("out")) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_text("x")
        while True:
            os.open("/dev/null", os.O_RDONLY)
except OSError as error:
    print(error)
"""


def test_attack_s8_cleaning_up_without_a_free_descriptor(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FEW], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[Errno 24] Too many open files: '/dev/null'\n", "")
    assert list(tmp_path.iterdir()) == []


# Every command, with too little of everything in turn


@pytest.mark.parametrize(
    "command", ["prefer", "adapt", "adapt-again", "search", "finetune", "bench", "evaluate", "inspect", "demo"]
)
def test_attack_s3_too_little_of_anything(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    rounds = request.config.getoption("--attacks")
    if not rounds:
        pytest.skip("minutes for each command, and it mounts disks: run with --attacks N")
    kinds = [kind for kind in KINDS if os.geteuid() == 0 or kind not in ("disk", "scratch")]  # root mounts disks
    place = prepared(tmp_path, monkeypatch, run=True)
    line = [sys.executable, "-m", "tests.field.at_any_limit", str(place), command, str(rounds), "1", *kinds]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(ends) == rounds * len(kinds)
    for end in ends:
        assert end["code"] in (0, 1, 2), end
        assert "Traceback" not in end["said"], end
        assert end["hidden"] == end["again"]["hidden"] == [], end
        if end["code"] == 0 or end["kind"] == "streams":
            assert end["there"] == "new", end
        else:
            assert sum(line.startswith("error: ") for line in end["said"].splitlines()) == 1, end
            assert command in KEEP or (end["there"] in ("old", "new") and not end["changed"]), end
        assert end["again"]["new"], end
        assert end["again"]["code"] == 0 or end["kind"] == "streams", end
