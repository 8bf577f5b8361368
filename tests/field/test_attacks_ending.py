"""How commands end: signals, closed and full streams, too little of what a process needs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge.checkpoints import open_checkpoint
from prefmerge.cli import progress
from prefmerge.ground import atomic, locks
from prefmerge.merging import many
from tests.field.attacked import call, make, script

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def there(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[list[str]]:
    """The inputs of a merge in a folder, which after the block holds these and nothing else."""
    paths = make(folder)
    before = there(folder)
    yield paths
    assert there(folder) == before


@pytest.fixture
def usual() -> Iterator[None]:
    """Signals as a shell leaves them, whatever started the tests."""
    before = {one: signal.getsignal(one) for one in SIGNALS}
    for one in SIGNALS:
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def sending(*numbers: signal.Signals) -> Callable[..., Any]:
    """In place of a function: the signals, one after the other, to this process."""

    def send(*_: Any, **__: Any) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
        time.sleep(0.1)

    return send


# M3: SIGTERM and SIGHUP end like Ctrl-C


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("where", ["record", "_metadata", "find_companions"])
def test_attack_m3_a_signal_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, where: str
) -> None:
    monkeypatch.setattr(many, where, sending(number))
    with nothing_left(tmp_path) as paths:
        done = call("merge", *paths, "-o", tmp_path / "deep" / "out")
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (done.code, done.stderr) == (128 + number, f"error: {how}; nothing is left half written.\n")


@pytest.mark.usefixtures("usual")
def test_attack_m3_signals_that_follow_at_once_do_not_stop_the_cleaning_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "record", sending(signal.SIGTERM))
    remove = atomic.remove
    monkeypatch.setattr(atomic, "remove", lambda path: (sending(signal.SIGHUP, signal.SIGINT)(), remove(path)))
    with nothing_left(tmp_path) as paths:
        assert call("merge", *paths, "-o", tmp_path / "out").code == 128 + signal.SIGTERM


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize("module", [atomic, locks])
def test_attack_m3_a_signal_before_anybody_looks_after_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    """Between the making of the work folder, or of the lock, and the code that would remove it."""
    made = module.WorkFolder if module is atomic else module.Claim
    monkeypatch.setattr(module, made.__name__, lambda *given: (sending(signal.SIGTERM)(), made(*given))[1])
    with nothing_left(tmp_path) as paths:
        assert call("merge", *paths, "-o", tmp_path / "out").code == 128 + signal.SIGTERM


@pytest.mark.usefixtures("usual")
def test_attack_m3_what_resumes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefmerge.cli import training

    monkeypatch.setattr(progress, "training", sending(signal.SIGHUP))
    (tmp_path / "c.yaml").write_text("encoder: {}\n")
    monkeypatch.setattr(training, "require", sending(signal.SIGHUP), raising=False)
    monkeypatch.setattr("prefmerge.training.config_file.read_config", sending(signal.SIGHUP))
    done = call("finetune", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert (done.code, done.stderr) == (129, "error: ended by SIGHUP; the same command resumes.\n")


@pytest.mark.usefixtures("usual")
def test_attack_m3_a_signal_that_the_parent_ignores_stays_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    paths = make(tmp_path)
    companions = many.find_companions
    monkeypatch.setattr(many, "find_companions", lambda base: (sending(signal.SIGHUP)(), companions(base))[1])
    assert call("merge", *paths, "-o", tmp_path / "out").code == 0


CHILDREN = """
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from prefmerge.cli.ending import ending
from prefmerge.lab.jobs import Processes
from tests.lab.test_jobs import Writer, cell
if __name__ == "__main__":
    with ending(SimpleNamespace(invoked_subcommand="bench", args=[])):
        Processes(partial(Writer, Path(sys.argv[1])), 2, 1).do([cell("sleeps"), cell("sleeps too", "b")], print)
"""


def test_attack_m3_children_end_too(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    (tmp_path / "go.py").write_text(CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().splitlines()) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert said.startswith("error: ended by SIGTERM; the same command resumes.")


# M1, M10: streams


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make(tmp_path_factory.mktemp("inputs"))


def merged(out: Path) -> bool:
    return out.is_file() and out.with_name(out.name + ".receipt.json").is_file()


def test_attack_m10_a_reader_that_has_seen_enough(tmp_path: Path, inputs: list[str]) -> None:
    out = tmp_path / "out.safetensors"
    reading, writing = os.pipe()
    os.close(reading)
    done = script("merge", *inputs, "-o", out, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert merged(out)


def test_attack_m1_a_full_stdout(tmp_path: Path, inputs: list[str]) -> None:
    out = tmp_path / "out.safetensors"
    with open("/dev/full", "w") as full:
        done = script("merge", *inputs, "-o", out, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the work is done, but stdout does not take its results (No space left")
    assert done.stderr.count("\n") == 1
    assert merged(out)


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_attack_m1_streams_that_are_closed_or_full(tmp_path: Path, inputs: list[str], closed: str) -> None:
    """A closed descriptor would be the next file's, and what a library prints would be in the weights."""
    out = tmp_path / "out.safetensors"
    right = call("merge", *inputs, "-o", tmp_path / "right.safetensors", "--threads", "1")
    assert right.code == 0
    command = f"exec {sys.executable} -m prefmerge merge {' '.join(inputs)} -o {out} {closed}"
    done = subprocess.run(["sh", "-c", command], check=False)
    assert done.returncode == (1 if "full" in closed else 0)
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()


def test_attack_m1_ascii_streams(tmp_path: Path, inputs: list[str]) -> None:
    (tmp_path / "r.yaml").write_text(
        f"merge_method: magmax\nbase_model: {inputs[0]}\nmodels:\n"
        f"  - {{model: {inputs[1]}, name: 'käfer'}}\n  - {{model: {inputs[2]}, name: '\udcff'}}\n".encode(
            "utf-8", "backslashreplace"
        ).decode()
    )
    out = tmp_path / "out.safetensors"
    env = {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = script("merge", tmp_path / "r.yaml", "-o", out, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "k\\xe4fer" in done.stdout
    assert done.stdout.isascii()


# M1: too little memory, files that may not grow, few descriptors


LACKS_MEMORY = ("LLVM ERROR: out of memory", "std::bad_alloc", "cannot allocate memory for thread-local data")


@pytest.mark.parametrize("limit", ["-v 370000", "-f 1", "-n 12"])
def test_attack_m1_limits(tmp_path: Path, inputs: list[str], limit: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "prefmerge", "merge", *inputs, "-o", str(out)]
    line = f"ulimit {limit}; exec {' '.join(command)}"
    done = subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True, timeout=120)
    # LLVM, which compiles the kernels, ends a process that lacks memory; so does the C library as it starts a thread.
    if done.returncode in (-signal.SIGABRT, 127):
        assert limit.startswith("-v")
        assert any(why in done.stderr for why in LACKS_MEMORY), done.stderr
        subprocess.run(command, check=True, capture_output=True)  # and the next merge cleans up
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        return
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: ") == done.returncode
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if done.returncode == 0 else [])


# S8: descriptors


def test_attack_s8_the_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from prefmerge.cli import ending

    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: taken.append(limits))
    for limits in ((256, 4096), (256, resource.RLIM_INFINITY), (4096, 4096), (resource.RLIM_INFINITY,) * 2):
        monkeypatch.setattr(resource, "getrlimit", lambda what, limits=limits: limits)
        ending.raise_limits()
    assert taken == [(4096, 4096), (ending.MOST_DESCRIPTORS, resource.RLIM_INFINITY)]


SHARDS = """
import resource, sys
from pathlib import Path
import numpy as np
from prefmerge.checkpoints.dtypes import by_name
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.outputs.write import create_output
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
infos = [TensorInfo(f"w{i}", by_name("float32"), (10,)) for i in range(100)]
with create_output(
    Path(sys.argv[1]), infos, metadata={}, kind="folder", force=False, max_shard_bytes=40
) as output:
    for info in infos:
        output.write(info.name, 0, np.full(10, len(info.name), np.float32))
        assert output.raw(info.name)[0] == len(info.name)
    output.publish(b"{}")
"""


def test_attack_s8_more_shards_to_write_than_descriptors(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHARDS, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    written = open_checkpoint(tmp_path / "out")
    assert len(written.files) == len(written.tensors) == 100
    assert [float(written.raw(f"w{i}")[0]) for i in (0, 50)] == [2.0, 3.0]


# Full disks, which need the right to mount one


@pytest.mark.parametrize("kind", ["file", "folder", "scratch"])
def test_attack_s3_disks_of_every_size(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    """What does not fit is one message and leaves nothing; what fits is whole. The first sizes take only a part."""
    rounds = request.config.getoption("--attacks")
    if not rounds:
        pytest.skip("a minute, and it mounts disks: run with --attacks N")
    disk, out = tmp_path / "disk", tmp_path / "disk" / ("out" if kind == "folder" else "out.safetensors")
    disk.mkdir()
    paths = []
    for seed, name in enumerate(("base", "t1", "t2")):
        rng = np.random.default_rng(seed)
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file({"w": rng.standard_normal((300, 400)).astype(np.float32)}, paths[-1])
    taken = []
    for i in range(rounds):
        size = 4096 * (1 + i * 400 // rounds)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        try:
            words = ("--max-memory", "1MB") if kind == "scratch" else ()
            done = call("merge", *paths, "-o", out, *words)
            there = sorted(path.name for path in disk.iterdir())
            if done.code == 0:
                taken.append(size)
                assert len(there) == (1 if kind == "folder" else 2)
                assert call("verify", out).code == 0
            else:
                assert (done.code, there) == (1, []), (size, done)
                assert done.stderr.count("error: ") == 1
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    assert 0 < len(taken) < rounds


@pytest.mark.usefixtures("usual")
def test_attack_m3_a_signal_where_nothing_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised while an object is removed is lost; the signal is not."""

    class Removed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def lose(*_: Any) -> None:
        Removed()
        time.sleep(1)

    paths = make(tmp_path)
    monkeypatch.setattr(many, "find_companions", lose)
    done = call("merge", *paths, "-o", tmp_path / "out")
    assert (done.code, done.stderr) == (143, "error: ended by SIGTERM; nothing is left half written.\n")


@pytest.mark.usefixtures("usual")
def test_attack_m3_what_fails_while_cleaning_up_is_not_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
        finally:
            os.close(10**6)  # no such descriptor

    monkeypatch.setattr(many, "record", interrupted)
    with nothing_left(tmp_path) as paths:
        assert call("merge", *paths, "-o", tmp_path / "out").code == 129


@pytest.mark.usefixtures("usual")
def test_attack_m3_a_signal_before_a_lock_has_a_name_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_stamp", sending(signal.SIGTERM))
    with nothing_left(tmp_path) as paths:
        assert call("merge", *paths, "-o", tmp_path / "out").code == 143
