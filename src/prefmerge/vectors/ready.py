"""Machine code that numba made in an earlier run, called without loading numba, which takes half a second.

    signature(arguments)               "(Array(float32, 1, 'C', False, aligned=True), int64)", as numba writes it
    record_of(result)                  what has to be kept of a compilation
    link(record, "a.module", "name")   the function that numba's own loader makes of it

numba's loader needs its compiler only to find its way; what runs is an object file that LLVM links, and three modules
in C that numba brings: their functions take arguments apart and make results. These are used here as numba uses them.
They are numba's private parts, so this is done only for versions with which it was tried (TRIED), on Linux on x86-64,
and where no variable or file changes how numba works; everywhere else `usable` is False and numba loads its code
itself. The result is the same either way: it is the same machine code. Each kernel has a linker of its own, so that no
symbol of one can be taken for another's. Cost: 2 ms a kernel, 30 ms once for LLVM, 2 us a call.
Not here: where the code is kept, and whether it may be trusted (`kernel_cache`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TRIED = ("0.68.1",)  # of numba: with another, tests/vectors/test_ready.py has to pass before it is added
_HARMLESS = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")  # variables that change no machine code
_CONFIG = ".numba_config.yaml"  # in the working directory
_EXTENSIONS = ("_dynfunc", "_helperlib", "core/runtime/_nrt_python")
_C, _FORTRAN, _ALIGNED, _WRITEABLE = 0x1, 0x2, 0x100, 0x400  # of an array's flags, as NumPy numbers them
_LAYOUT = _C | _FORTRAN | _ALIGNED | _WRITEABLE
_INT64 = range(-(2**63), 2**63)
_loading = threading.Lock()
_kept_alive: list[Any] = []  # what linked code refers to by address


@dataclass(frozen=True)
class Record:
    """What is kept of one compilation. It is pickled, and read where numba is not loaded.

    `code`: an object file; `entry`: the symbol in it that takes Python's arguments; `environments`: for each symbol
    that points to one, its module and constants, the entry's own first; `needed`: the symbols that it takes from
    outside, and `math`: those among them that numba's C library stands for.
    """

    code: bytes
    entry: str
    environments: tuple[tuple[str, str, tuple[Any, ...]], ...]
    needed: tuple[str, ...]
    math: tuple[str, ...]


def numba_version() -> str:
    """The version of numba, read from its files where it is not loaded; "" where it is not installed."""
    loaded = getattr(sys.modules.get("numba"), "__version__", None)
    if loaded is not None:
        return loaded
    return _version_on_disk()


@functools.cache
def _version_on_disk() -> str:
    folder = _folder()
    if folder is None:
        return ""
    try:
        found = re.search(r'"version": "([^"]+)"', (folder / "_version.py").read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is not None:
        return found[1]
    import numba

    return numba.__version__


def _folder() -> Path | None:
    spec = importlib.util.find_spec("numba")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def settings() -> tuple[str, ...]:
    """What may change what numba does: variables, and the file that it reads."""
    told = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    told = [one for one in told if not one.startswith(tuple(f"{name}=" for name in _HARMLESS))]
    if os.path.exists(_CONFIG):
        told.append(_CONFIG)
        with contextlib.suppress(OSError):
            told.append(Path(_CONFIG).read_bytes().hex())
    return tuple(told)


def usable() -> bool:
    """Whether code can be linked here at all."""
    with _loading:
        return not settings() and _linker() is not None


def kind(value: Any) -> Any:
    """What of an argument decides its type: arguments of one kind have one signature, where they have one at all."""
    of = type(value)
    if of is np.ndarray:
        return value.dtype, value.ndim, value.flags.num & _LAYOUT
    return of if of is not int or value in _INT64 else None


_SCALARS = {int: "int64", float: "float64", bool: "bool", np.bool_: "bool", type(None): "none"} | {
    of: np.dtype(of).name
    for of in (np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
}


def signature(arguments: Sequence[Any]) -> str | None:
    """The types of arguments as numba writes them; None where one is of a kind that kernels seldom take."""
    texts = [_type(kind(one)) for one in arguments]
    if None in texts:
        return None
    return f"({', '.join(texts)}{',' * (len(texts) == 1)})"  # pyright: ignore[reportCallIssue, reportArgumentType]


def _type(one: Any) -> str | None:
    if not isinstance(one, tuple):
        return _SCALARS.get(one)
    dtype, dimensions, flags = one
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative or dimensions == 0 or not flags & _ALIGNED:
        return None
    layout = "C" if flags & _C else "F" if flags & _FORTRAN else "A"
    return f"Array({dtype.name}, {dimensions}, {layout!r}, {not flags & _WRITEABLE}, aligned=True)"


def processor() -> tuple[str, str, str]:
    """What the machine code is made for, as numba says it: system, processor, instruction sets."""
    import llvmlite.binding as llvm

    return llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def record_of(result: Any) -> Record | None:
    """What to keep of a compilation, numba's CompileResult; None where it cannot be linked without numba."""
    from numba.core.intrinsics import INTR_MATH, INTR_TO_CMATH

    library, described, own, _, object_mode, lifted, _, again, others = result._reduce()
    if object_mode or lifted or again or library[1] != "object":
        return None
    environments = {one.env_name: one for one in (own, *others)}
    module = result.library._final_module
    declared = (str(one.name) for one in (*module.functions, *module.global_variables) if one.is_declaration)
    # LLVM calls a function of C for what its own ones (llvm.log10.v4f64) do not find in the processor.
    called = (INTR_TO_CMATH.get(re.sub(r"\.v\d+f", ".f", name), name) for name in declared)
    needed = tuple(dict.fromkeys(name for name in called if not name.startswith("llvm.")))
    return Record(
        library[2][0],
        described.llvm_cpython_wrapper_name,
        tuple((name, one.globals["__name__"], tuple(one.consts)) for name, one in environments.items()),
        needed,
        tuple(name for name in needed if name in INTR_MATH),
    )


def link(record: Record, module: str, name: str) -> Callable[..., Any] | None:
    """The function of a record; None where it needs what is not here, as Intel's vector library."""
    linker = _linker()
    return None if linker is None else linker.link(record, module, name)


@functools.cache
def _linker() -> _Linker | None:
    version = numba_version()
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.implementation.name != "cpython":
        return None
    if version not in TRIED:
        return None
    try:
        return _Linker()
    except (ImportError, OSError, AttributeError, RuntimeError):
        return None


class _Linker:
    """LLVM, told of every symbol that numba would tell it of."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm

        self.llvm = llvm
        self.functions, helpers, runtime = (_extension(name) for name in _EXTENSIONS)
        self.math: Mapping[str, int] = helpers.c_helpers
        symbols = {f"numba_{name}": address for name, address in (helpers.c_helpers | self.functions.c_helpers).items()}
        symbols |= {name if name[0] == "_" else f"NRT_{name}": at for name, at in runtime.c_helpers.items()}
        symbols["_Py_NoneStruct"] = id(None)
        for error in vars(__import__("builtins")).values():
            if isinstance(error, type) and issubclass(error, BaseException):
                symbols[f"PyExc_{error.__name__}"] = id(error)
        for name, address in symbols.items():
            llvm.add_symbol(name, address)
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.triple, self.cpu, self.features = processor()

    def link(self, record: Record, module: str, name: str) -> Callable[..., Any] | None:
        for symbol in record.math:
            self.llvm.add_symbol(symbol, self.math[symbol])
        engine = self._engine()  # with which LLVM finds what this process has, as Python's own functions
        # LLVM ends the process where a symbol is lacking, so they are asked for first.
        if not all(map(self.llvm.address_of_symbol, record.needed)):
            return None
        engine.add_object_file(self.llvm.ObjectFileRef.from_data(record.code))
        engine.finalize_object()
        environments: list[Any] = []
        address = engine.get_function_address(record.entry)
        places = [engine.get_global_value_address(symbol) for symbol, _, _ in record.environments]
        if not address or not all(places):
            return None
        for place, (_, home, constants) in zip(places, record.environments, strict=True):
            one = self.functions.Environment({"__name__": home})
            one.consts.extend(constants)
            ctypes.c_void_p.from_address(place).value = id(one)
            environments.append(one)
        _kept_alive.append((engine, environments))
        return self.functions.make_function(ModuleType(module), name, "", address, environments[0], (engine,))

    def _engine(self) -> Any:
        options = {"reloc": "static", "codemodel": "jitdefault", "jit": True}
        target = self.llvm.Target.from_triple(self.triple)
        machine = target.create_target_machine(opt=3, cpu=self.cpu, features=self.features, **options)
        return self.llvm.create_mcjit_compiler(self.llvm.parse_assembly(f'target triple = "{self.triple}"'), machine)


def _extension(name: str) -> ModuleType:
    """A module in C of numba's, without numba. It is no part of `sys.modules`: numba, if it comes, loads its own, which
    has the same functions and types, and is then known to the package that it is of.
    """
    title = f"numba.{name.replace('/', '.')}"
    if title in sys.modules:
        return sys.modules[title]
    folder = _folder()
    for ending in importlib.machinery.EXTENSION_SUFFIXES:
        file = None if folder is None else folder / (name + ending)
        if file is not None and file.exists():
            spec = importlib.util.spec_from_file_location(title, file)
            assert spec is not None
            assert spec.loader is not None
            try:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            finally:
                sys.modules.pop(title, None)
            return module
    raise ImportError(f"numba has no {name}")
