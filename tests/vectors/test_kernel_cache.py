"""Compiled kernels give the same results whatever becomes of their files, and no unwritable folder stops them.

A small package of one kernel is imported anew for each "process". A folder that cannot be written lies below a regular
file, which holds for root too.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.analysis import kernels as measuring
from prefmerge.methods import kernels, keyed, settling, transport
from prefmerge.vectors import kernel_cache, ready
from tests.vectors.conftest import SOURCE

NOBODY = 65534
_numbers = itertools.count()


def fresh(source: Path) -> ModuleType:
    """The module as a new process would import it."""
    kernel_cache._stamp.cache_clear()
    kernel_cache._place.cache_clear()
    spec = importlib.util.spec_from_file_location(f"sums_{next(_numbers)}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiles(source: Path) -> bool:
    """Whether a new process must compile the kernel; its result is right in any case."""
    module = fresh(source)
    assert module.add(2, 3) == 5
    return compiled(module.add)


def compiled(add: kernel_cache.Kernel) -> bool:
    """Whether numba compiled something for it: not where no numba was asked for, or where its code was on disk."""
    made = add._dispatcher
    return made is not None and not made.stats.cache_hits


def only_file(source: Path) -> Path:
    (file,) = (source.parent / "__pycache__").glob("sums.add-*.nbc")
    return file


def test_the_second_process_loads_what_the_first_compiled(source: Path, caplog: pytest.LogCaptureFixture):
    assert [compiles(source) for _ in range(3)] == [True, False, False]
    assert not caplog.records


def test_each_signature_has_its_own_file(source: Path):
    module = fresh(source)
    assert (module.add(2, 3), module.add(0.5, 0.25)) == (5, 0.75)
    again = fresh(source)
    assert (again.add(0.5, 0.25), again.add(2, 3)) == (0.75, 5)
    assert not compiled(again.add)


def numba_file(content: bytes) -> bytes:
    """What numba's own cache begins with."""
    return pickle.dumps("0.1") + content


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "shorter than a seal": lambda content: content[:20],
    "the seal alone": lambda content: content[:32],
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte too long": lambda content: content + b"\0",
    "zeros, as after a crash": lambda content: bytes(len(content)),
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "one bit of the machine code": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "one bit of the seal": lambda content: bytes([content[0] ^ 128]) + content[1:],
    "a file of numba's own cache": numba_file,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_attack_s5_a_damaged_file_is_compiled_again_and_mended(
    source: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
):
    assert compiles(source)
    file = only_file(source)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert damage(whole) != whole
    assert [compiles(source), compiles(source)] == [True, False]
    assert not caplog.records  # mended: nothing to say


def test_attack_s5_a_file_that_does_not_fit_its_seal_is_not_unpickled(source: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    assert compiles(source)
    file = only_file(source)
    file.write_bytes(file.read_bytes()[:32] + pickle.dumps(Trap()))
    assert compiles(source)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "sprung").exists()  # the trap works


def test_code_of_another_signature_is_not_taken(source: Path):
    module = fresh(source)
    module.add(2, 3)
    whole = only_file(source)
    module.add(0.5, 0.25)
    (other,) = set((source.parent / "__pycache__").glob("*.nbc")) - {whole}
    shutil.copyfile(other, whole)
    assert compiles(source)


def test_code_of_another_numba_is_not_taken(source: Path, monkeypatch: pytest.MonkeyPatch):
    assert compiles(source)
    with monkeypatch.context() as patch:
        patch.setattr(numba, "__version__", "0.1")
        assert [compiles(source), compiles(source)] == [True, False]
    assert compiles(source)


def test_code_of_other_sources_is_not_taken(source: Path):
    """The kernel's own file, and one beside it whose constant became part of the code."""
    (source.parent / "constants.py").write_text("ONE = 1")
    assert [compiles(source), compiles(source)] == [True, False]
    source.write_text(SOURCE.replace("x + y", "y + x"))
    assert [compiles(source), compiles(source)] == [True, False]
    (source.parent / "constants.py").write_text("ONE = 2")
    assert [compiles(source), compiles(source)] == [True, False]


def test_a_file_that_can_be_neither_read_nor_replaced_is_gone_round(source: Path, caplog: pytest.LogCaptureFixture):
    assert compiles(source)
    file = only_file(source)
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    assert [compiles(source), compiles(source)] == [True, True]
    (record,) = caplog.records  # two processes, but one here that speaks
    assert str(file.parent) in record.getMessage()
    assert [path.name for path in file.parent.glob("*.tmp.*")] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_disk_that_takes_no_file_is_said_once_and_gone_round(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, where: str
):
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as opened:
            opened.write(content[:100])
        raise OSError(number, os.strerror(number))

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(Path, "write_bytes", half)
        else:
            patch.setattr(os, "replace", refused)
        module = fresh(source)
        assert (module.add(2, 3), module.add(0.5, 0.25)) == (5, 0.75)
    assert [record.getMessage() for record in caplog.records] == [
        f"note: compiled kernels cannot be kept in {source.parent / '__pycache__'} "
        f"([Errno {number}] {os.strerror(number)}); the result is the same, and the next run compiles them again, "
        "a few seconds."
    ]
    assert list((source.parent / "__pycache__").iterdir()) == []
    assert [compiles(source), compiles(source)] == [True, False]


@pytest.mark.parametrize("chosen", ["", "a file", "below a file", "name too long"])
def test_attack_b1_with_no_folder_to_write_a_private_temporary_one_is_used(
    source: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, chosen: str
):
    folder = {"": "", "a file": source, "below a file": source / "x" / "y", "name too long": "x" * 300}[chosen]
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    assert [compiles(source), compiles(source)] == [True, False]
    private = nowhere / f"prefmerge-{os.geteuid()}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith(
        f"note: compiled kernels are kept in {private}; these folders cannot be written or are another user's: {folder}"
    )
    assert str(source.parent / "__pycache__") in told
    assert str(source / "below") in told
    assert told.endswith("To choose a folder, set NUMBA_CACHE_DIR.")


def test_a_chosen_folder_comes_first_and_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "missing" / "deep"))
    assert [compiles(source), compiles(source)] == [True, False]
    assert list((tmp_path / "missing" / "deep").glob("package_*/sums.add-*.nbc"))
    assert not (source.parent / "__pycache__").exists()
    assert not caplog.records


def test_the_users_cache_is_used_where_the_package_cannot_be_written(
    source: Path, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    assert [compiles(source), compiles(source)] == [True, False]
    assert list((tmp_path / "home").rglob("sums.add-*.nbc"))
    assert not caplog.records


def test_without_a_known_home_nothing_is_read_or_made_in_the_current_folder(
    source: Path, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")  # what numba makes of a home that it cannot find
    monkeypatch.chdir(tmp_path)
    assert [compiles(source), compiles(source)] == [True, False]
    assert not (tmp_path / "~").exists()


def test_attack_b1_with_no_temporary_folder_either_every_run_compiles(
    source: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert [compiles(source), compiles(source)] == [True, True]
    assert kernel_cache.kept(fresh(source).add) is None


@pytest.mark.parametrize("lost", ["_reduce", "_rebuild"])
def test_a_numba_without_what_is_used_of_it_keeps_nothing(source: Path, monkeypatch: pytest.MonkeyPatch, lost: str):
    from numba.core.compiler import CompileResult

    monkeypatch.setattr(ready, "usable", lambda: False)  # or `_rebuild` would not be missed
    monkeypatch.delattr(CompileResult, lost)
    assert [compiles(source), compiles(source)] == [True, True]


def test_a_numba_whose_kernels_take_no_cache_keeps_nothing(source: Path, monkeypatch: pytest.MonkeyPatch):
    class Closed:
        __slots__ = ()

        def __call__(self, x: int, y: int) -> int:
            return x + y

    monkeypatch.setattr(kernel_cache, "_njit", lambda: lambda **_: lambda function: Closed())
    module = fresh(source)
    assert module.add(2, 3) == 5
    assert kernel_cache.kept(module.add) is False


def test_whether_code_is_kept(source: Path):
    assert kernel_cache.kept(fresh(source).add) is False
    assert compiles(source)
    module = fresh(source)
    assert kernel_cache.kept(module.add) is True
    module.add.recompile()  # numba's word for: forget the files
    assert list((source.parent / "__pycache__").glob("*.nbc")) == []
    assert kernel_cache.kept(module.add) is False


@pytest.mark.parametrize("module", [kernels, keyed, settling, transport, measuring], ids=lambda m: m.__name__)
def test_every_kernel_is_kept_this_way(module: ModuleType):
    found = [value for value in vars(module).values() if isinstance(value, kernel_cache.Kernel)]
    assert found
    assert all(each.dispatcher._cache is each.cache for each in found)


def run(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=dict(os.environ) | env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "cars", "birds")):
        rng = np.random.default_rng(seed)
        save_file({"w": rng.standard_normal((30, 30)).astype(np.float32)}, folder / f"{name}.safetensors")
    return folder


INPUTS = ["base.safetensors", "cars.safetensors", "birds.safetensors"]
FEW_KERNELS = ["--selection", "paper", "--importance", "step", "--dtype", "bfloat16"]


def test_attack_s5_the_same_bytes_from_a_cold_a_warm_and_a_damaged_cache(models: Path, tmp_path: Path):
    """A merge of as many kernels as there are kinds of damage, of which none takes seconds to compile."""
    merge = [sys.executable, "-m", "prefmerge", "merge", *INPUTS, *FEW_KERNELS, "--force", "-o"]
    outputs = []
    for name in ("cold", "warm", "damaged"):
        chosen = tmp_path / "cache"
        if name == "damaged":
            files = list(chosen.rglob("*.nbc"))
            assert len(files) >= len(DAMAGE)
            for file, damage in zip(files, itertools.cycle(DAMAGE.values()), strict=False):
                file.write_bytes(damage(file.read_bytes()))
        output = tmp_path / f"{name}.safetensors"
        done = run([*merge, str(output)], models, NUMBA_CACHE_DIR=str(chosen))
        said = re.sub(r"^selecting, .* MB.*\n", "", done.stderr, flags=re.MULTILINE)  # a slow machine's sign of life
        assert (done.returncode, said) == (0, "")
        outputs.append(output.read_bytes())
    assert len(set(outputs)) == 1


def python_for_nobody() -> str:
    """A Python of this version that another user may run: this one may lie in a home that is closed to others."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to run as a user who owns nothing")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = str(Path(numba.__file__).parents[1])
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            done = run(as_nobody(python, "-c", "import numba, safetensors, typer"), Path("/"), PYTHONPATH=packages)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip(f"no {version} that user {NOBODY} may run can import the packages of this environment")


def as_nobody(*command: str) -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


def test_attack_b1_a_user_who_owns_nothing_merges_with_one_note(models: Path):
    python = python_for_nobody()
    # pytest's own temporary folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="prefmerge-test-") as name:
        folder = Path(name)
        # With compiled modules, as an installer leaves them, but without a kernel: nobody may add to what is there.
        ignored = shutil.ignore_patterns("*.nbc")
        shutil.copytree(Path(prefmerge.__file__).parent, folder / "installed" / "prefmerge", ignore=ignored)
        shutil.copytree(models, folder / "models")
        run(["chmod", "-R", "a+rX,go-w", str(folder)], folder)
        (folder / "out").mkdir()
        (folder / "tmp").mkdir()
        for open_folder in ("out", "tmp"):
            (folder / open_folder).chmod(0o1777)
        env = {
            "HOME": "/nonexistent",
            "XDG_CACHE_HOME": "",
            "NUMBA_CACHE_DIR": "",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": f"{folder / 'installed'}{os.pathsep}{Path(numba.__file__).parents[1]}",
        }

        def prefmerge_as_nobody(*arguments: str) -> str:
            done = run(as_nobody(python, "-m", "prefmerge", *arguments), folder / "models", **env)
            assert done.returncode == 0, done.stderr
            return done.stderr

        private = folder / "tmp" / f"prefmerge-{NOBODY}"
        note = f"note: compiled kernels are kept in {private}; these folders cannot be written or are another user's: "
        prefmerge_as_nobody("plan", *INPUTS)
        output = str(folder / "out" / "merged.safetensors")
        told = prefmerge_as_nobody("merge", *INPUTS, "-o", output, "--method", "magmax")  # of few kernels
        assert told.startswith(note)
        assert told.count("note:") == 1
        assert list(private.rglob("*.nbc"))
        for file in private.rglob("*.nbc"):
            file.chmod(0)  # and now even its own files cannot be read
        told = prefmerge_as_nobody("inspect", *INPUTS)
        assert told.count("note:") == 1
        prefmerge_as_nobody("verify", output)
        out = str(folder / "out" / "py")
        call = f"import prefmerge; prefmerge.merge({INPUTS[0]!r}, {INPUTS[1:]!r}, out={out!r}, method='magmax')"
        done = run(as_nobody(python, "-c", call), folder / "models", **env)
        assert done.returncode == 0, done.stderr

        ours = folder / "ours.safetensors"
        prefmerge.merge(models / INPUTS[0], [models / each for each in INPUTS[1:]], ours, method="magmax")
        assert ours.read_bytes() == Path(output).read_bytes()


def test_a_note_reaches_stderr_once_a_process(tmp_path: Path):
    """Python's last resort prints it; a program that wants it elsewhere configures logging."""
    call = "from prefmerge.vectors.kernel_cache import _tell; _tell('kind', 'first'); _tell('kind', 'second')"
    assert run([sys.executable, "-c", call], tmp_path).stderr == "note: first\n"
