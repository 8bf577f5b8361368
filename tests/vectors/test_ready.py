"""Machine code from an earlier run, called without numba, is what numba itself would call."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target
from safetensors.numpy import save_file

from prefmerge.methods import elementary, kernels
from prefmerge.vectors import kernel_cache, ready
from prefmerge.vectors import kernels as of_formats
from tests.vectors.conftest import SOURCE
from tests.vectors.test_kernel_cache import compiled, compiles, fresh, only_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is linked on Linux alone")


def test_the_installed_numba_was_tried() -> None:
    """With another version these tests are what tries it; then it belongs into TRIED."""
    assert numba.__version__ in ready.TRIED
    assert ready._version_on_disk() == numba.__version__


def test_the_second_process_asks_nothing_of_numba(source: Path) -> None:
    assert compiles(source)
    module = fresh(source)
    assert module.add(2, 3) == 5
    assert module.add._dispatcher is None


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


UNALIGNED = np.frombuffer(b"\0" * 17, np.uint8)[1:].view(np.float64)
GRID = np.zeros((4, 6), np.float32)
ARGUMENTS = [
    *(of(1) for of in (int, float, bool, np.bool_, np.uint8, np.uint16, np.uint32, np.uint64)),
    *(of(1) for of in (np.int8, np.int16, np.int32, np.int64, np.float32, np.float64)),
    *(np.zeros(3, of) for of in "?bBhHiIlLqQfd"),
    *(GRID, GRID.T, GRID[:, ::2], GRID[1], GRID[:, 1], GRID[:1], GRID[:, :1], GRID[:0], GRID[::-1]),
    *(frozen(GRID), frozen(GRID).T, frozen(GRID)[::2]),
    *(np.zeros((2, 2, 2)), 2**63 - 1, -(2**63), None),
]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda one: f"{type(one).__name__}")
def test_types_are_written_as_numba_writes_them(argument: Any) -> None:
    assert ready.signature((argument,)) == repr((numba.typeof(argument),))
    assert ready.signature((1, argument)) == repr((numba.int64, numba.typeof(argument)))


@pytest.mark.parametrize(
    "argument",
    [
        UNALIGNED,
        (1, 2),
        2**63,
        -(2**63) - 1,
        "a",
        np.zeros(()),
        np.zeros(2, ">f4"),
        np.zeros(2, "f4,f4"),
        np.float16(1),
        [1],
    ],
    ids=repr,
)
def test_of_other_types_numba_decides(argument: Any) -> None:
    assert ready.signature((1, argument)) is None


def test_the_processor_is_named_as_numba_names_it() -> None:
    assert ready.processor() == cpu_target.target_context.codegen().magic_tuple()  # pyright: ignore


def values(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal(count).astype(np.float32)


def stored(of: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**14, 40).astype(of)


OWNERS = np.arange(40, dtype=np.uint8) % 3
CALLS: dict[str, tuple[Any, Callable[[], tuple[Any, ...]]]] = {
    **{
        f"subtract {a} {b}": (
            of_formats.subtract,
            lambda a=a, b=b: (stored(a), stored(b), np.empty(40, np.float32)),
        )
        for a in ("f4", "f8", "u2", "i2")
        for b in ("f4", "u2")
    },
    "read-only": (of_formats.subtract, lambda: (frozen(values(40)), frozen(values(40)), np.empty(40, np.float32))),
    "a truth": (of_formats.finish, lambda: (values(40), values(40), np.float32(0.3), np.empty(40, np.float32))),
    "memory of its own": (kernels.count, lambda: (OWNERS, np.empty(3, np.int64))),
    "another kernel within": (kernels.divergences, lambda: (values(40), values(40), 8, np.empty(5))),
    "a number": (kernels.squares, lambda: (values(40),)),
    "a tuple": (kernels.locate, lambda: (np.arange(9), 12)),
    "the logarithm": (elementary.logarithm, lambda: (2.5,)),
    "the exponential": (elementary.exponential, lambda: (-1.25,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_linked_code_does_what_numbas_own_does(name: str) -> None:
    kernel, arguments = CALLS[name]
    ours, theirs = arguments(), arguments()
    compiled = kernel.dispatcher.compile(tuple(map(numba.typeof, ours)))  # and so the file is there
    linked = kernel._linked(ready.signature(ours))
    assert linked is not None
    assert linked is not compiled
    result = linked(*ours)
    expected = compiled(*theirs)
    assert (type(result), repr(result)) == (type(expected), repr(expected))
    for one, other in zip(ours, theirs, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_kernel_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(kernels.squares)) is kernels.squares
    assert copy.deepcopy(kernels.squares) is kernels.squares


def test_an_error_in_linked_code_is_raised(source: Path) -> None:
    source.write_text(SOURCE.replace("x + y", "x // y"))
    assert fresh(source).add(7, 2) == 3
    module = fresh(source)
    assert module.add(7, 2) == 3
    with pytest.raises(ZeroDivisionError):
        module.add(7, 0)
    assert module.add._dispatcher is None


def test_threads_may_call_first(source: Path) -> None:
    assert compiles(source)
    module = fresh(source)
    results: list[int] = []
    ready_to_go = threading.Barrier(8)

    def call() -> None:
        ready_to_go.wait()
        results.append(module.add(2, 3))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert results == [5] * 8
    assert module.add._dispatcher is None


def test_each_exact_type_has_its_own_code(source: Path) -> None:
    """numba would take the code for float64, if that came first, for a float32 too."""
    for order in ((0.5, np.float32(0.1)), (np.float32(0.1), 0.5)):
        module = fresh(source)
        assert [module.add(x, x) for x in order] == [x + x for x in order]
    assert len(list(source.parent.rglob("*.nbc"))) == 2


UNUSABLE: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "another numba": lambda patch: patch.setattr(ready, "TRIED", ("0.1.0",)),
    "another system": lambda patch: patch.setattr(sys, "platform", "darwin"),
    "another processor": lambda patch: patch.setattr(ready.platform, "machine", lambda: "aarch64"),
    "another Python": lambda patch: patch.setattr(ready.sys.implementation, "name", "pypy"),
    "no module in C": lambda patch: patch.setattr(ready, "_EXTENSIONS", ("_dynfunc", "_helperlib", "gone")),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_where_it_was_not_tried_numba_loads_its_code_itself(
    source: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert compiles(source)
    ready._linker.cache_clear()
    UNUSABLE[name](monkeypatch)
    try:
        assert not ready.usable()
        module = fresh(source)
        assert module.add(2, 3) == 5
        assert module.add._dispatcher is not None
        assert not compiled(module.add)
    finally:
        monkeypatch.undo()
        ready._linker.cache_clear()
    assert ready.usable()


def test_code_that_was_made_where_it_was_not_usable_is_linked_by_nobody(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ready, "usable", lambda: False)
        assert compiles(source)
    module = fresh(source)
    assert (module.add(2, 3), compiled(module.add)) == (5, False)
    assert module.add._dispatcher is not None


def test_code_that_was_made_under_other_settings_is_not_taken(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by who has none, for whom it may be slower and not linked, nor by who asks for bounds to be checked."""
    monkeypatch.chdir(source.parent)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setenv("NUMBA_BOUNDSCHECK", "1")
            assert [compiles(source), compiles(source)] == [_ == 0, False]
            assert not ready.usable()
        (source.parent / ".numba_config.yaml").write_text("boundscheck: 1")
        assert [compiles(source), compiles(source)] == [_ == 0, False]
        (source.parent / ".numba_config.yaml").unlink()
        assert [compiles(source), compiles(source)] == [_ == 0, False]
        monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # which changes no code
    module = fresh(source)
    assert (module.add(2, 3), module.add._dispatcher) == (5, None)


def test_what_a_module_tells_numba_is_heard_however_late_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of another module may have been compiled first."""
    monkeypatch.setattr(kernel_cache, "_before", [])
    kernel_cache._njit()
    heard: list[int] = []
    kernel_cache.before_compiling(lambda: heard.append(1))
    kernel_cache._njit()
    assert heard == [1]


def test_a_symbol_that_is_not_here_is_no_end_of_the_process(source: Path) -> None:
    assert compiles(source)
    module = fresh(source)
    record = module.add.cache.record(ready.signature((2, 3)))
    add = ready.link(record, "sums", "add")
    assert add is not None
    assert add(2, 3) == 5
    gone = ("gone", "sums", ())
    for lacking in (
        {"needed": (*record.needed, "__svml_exp8")},
        {"entry": "gone"},
        {"environments": (*record.environments, gone)},
    ):
        assert ready.link(dataclasses.replace(record, **lacking), "sums", "add") is None


def test_mathematics_comes_from_where_numba_has_it(source: Path) -> None:
    """Also what is written as LLVM's own, which may become a call of the C library."""
    source.write_text("import math\n" + SOURCE.replace("x + y", "math.log10(x) + y"))
    assert fresh(source).add(100.0, 3.0) == 5
    module = fresh(source)
    record = module.add.cache.record(ready.signature((100.0, 3.0)))
    assert "log10" in record.math
    assert (module.add(100.0, 3.0), module.add._dispatcher) == (5, None)


def test_damage_is_not_linked(source: Path) -> None:
    assert compiles(source)
    file = only_file(source)
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    assert fresh(source).add.cache.record(ready.signature((2, 3))) is None


PROCESS = """
import sys
import numpy as np
from prefmerge.vectors import kernels
a = np.arange(4, dtype=np.float32)
print(kernels.subtract(a, a, a.copy()), "numba" in sys.modules)
import numba
print(numba.njit(lambda x: x.sum())(a), kernels.survey(np.arange(4, dtype=np.float64)))
print(kernels.subtract(a, a, np.empty(8, np.float32)[::2]))
print(hasattr(numba, "_helperlib"), hasattr(numba, "_dynfunc"))
"""


def test_numba_may_be_loaded_after_it() -> None:
    """And works: it compiles a function that allocates, other kernels, and this one for other types."""
    a = np.arange(4, dtype=np.float32)
    of_formats.subtract(a, a, a.copy())  # so that its file is there
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True)
    lines = ["(True, False) False", "6.0 (True, True)", "(True, False)", "True True"]
    assert done.stdout.splitlines() == lines, done.stderr


MERGES = """
import sys
from pathlib import Path
from prefmerge import merge
from prefmerge.methods import METHODS
folder = Path(sys.argv[1])
for name, method in METHODS.items():
    tasks = [folder / "cars.safetensors", folder / "birds.safetensors"][: method.most]
    if method.most != 0 and method.fewest <= len(tasks):
        merge(folder / "base.safetensors", tasks, folder / f"{name}.safetensors", method=name, force=True)
        print(name, "numba" in sys.modules)
"""


def test_no_method_needs_numba_the_second_time(tmp_path: Path) -> None:
    """As one would whose kernel gives an array, for which numba's code asks for all of numba."""
    for seed, name in enumerate(("base", "cars", "birds")):
        weights = np.random.default_rng(seed).standard_normal((6, 8)).astype(np.float32)
        save_file({"w": weights}, tmp_path / f"{name}.safetensors")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", MERGES, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()  # pyright: ignore[reportPossiblyUnboundVariable]
    assert len(lines) > 15
    assert [line for line in lines if not line.endswith(" False")] == []
