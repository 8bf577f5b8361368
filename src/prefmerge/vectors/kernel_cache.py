"""How kernels are compiled, and where their machine code is kept between runs.

    @kernel                      compiled at the first call with arguments of some types, without the interpreter lock
    def double(x, out): ...

A call takes the code of its arguments' types from this process, else from a file (`ready`, without numba), else from
numba, which is loaded then and not before. One file holds one kernel for one signature and processor. It lies in
NUMBA_CACHE_DIR, else beside the source, else in the user's cache, else in a private folder for temporary files, else
nowhere: the first of these that can be written. A file opens with a seal, the hash of its content, of the sources and
of numba's version; what does not fit its seal is never unpickled, the kernel is compiled again and the file replaced.
So nothing that can happen to these files, and no full disk, stops a merge or changes a byte of it. A seal keeps out
accidents; attacks are kept out by the owner: a file is read only if it and its folder belong to this user, to root or
to the owner of the sources.
Cost: a few milliseconds a process, a hash of the code that is loaded.
Not here: numba's own cache on disk, which fails where no folder can be written or a file is damaged. The kernels still
come from numba; of its private parts three are used, and where a newer version lacks them nothing is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import logging
import os
import pickle
import stat
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefmerge.vectors import process, ready

_log = logging.getLogger("prefmerge")
_told: set[str] = set()  # of the two kinds of trouble, those that this process has spoken of
_SEAL = hashlib.sha256().digest_size
_LENGTH = 8  # bytes that say how long the part of a file is that `ready` takes; numba's follows
_before: list[Callable[[], None]] = []  # what is to be done before the first compilation
_linking, _making = threading.RLock(), threading.RLock()


def _leave_blas_out() -> None:
    """Have numba do without scipy's linear algebra, which no kernel uses and which it loads where it is there. That
    takes a fifth of a second, and where memory is limited OpenBLAS asks for more without end. Nothing in the process
    can then compile a product of matrices.
    """
    if "scipy.linalg" not in sys.modules:
        sys.modules["scipy.linalg"] = None  # pyright: ignore[reportArgumentType]  # to import it is an ImportError
        try:
            importlib.import_module("numba.np.arraymath")
        finally:
            del sys.modules["scipy.linalg"]


@functools.cache
def _njit() -> Callable[..., Any]:
    """numba's decorator, when something has to be compiled."""
    if process.own:
        _leave_blas_out()
    from numba import njit

    for each in _before:
        each()
    return njit


def before_compiling(function: Callable[[], None]) -> Callable[[], None]:
    """Call `function`, which tells numba more, once before the next kernel is compiled."""
    _before.append(function)
    if _njit.cache_info().currsize:  # something was compiled already
        function()
    return function


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function with numba, release the interpreter lock, and keep its code on disk where that can be."""
    return functools.partial(kernel, **options) if function is None else Kernel(function, options)


class Kernel:
    """A compiled function. It has one code for each exact type of its arguments, whichever came first.

    What else is asked of it, numba's dispatcher answers, for which numba is loaded.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.cache = KernelCache(function)
        self._options = options
        self._entries: dict[Any, Callable[..., Any]] = {}  # by kinds of arguments
        self._dispatcher: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        entry = None if named else self._entries.get(tuple(map(ready.kind, arguments)))
        return self._first(arguments, named) if entry is None else entry(*arguments)

    def _first(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A call with arguments of new types, or of such as no code is kept for."""
        text = None if named else ready.signature(arguments)
        if text is None:
            return self.dispatcher(*arguments, **named)
        entry = self._linked(text)
        if entry is None:
            compiled = self.dispatcher
            if not hasattr(compiled, "typeof_pyval"):  # NUMBA_DISABLE_JIT gives the function back
                return compiled(*arguments)
            entry = compiled.compile(tuple(map(compiled.typeof_pyval, arguments)))
        self._entries[tuple(map(ready.kind, arguments))] = entry
        return entry(*arguments)

    def _linked(self, text: str) -> Callable[..., Any] | None:
        """The code from a file, without numba."""
        with _linking, contextlib.suppress(Exception):  # missing, unreadable, damaged: numba makes it anew
            record = self.cache.record(text) if ready.usable() else None
            if record is not None:
                return ready.link(record, self.py_func.__module__, self.py_func.__name__)
        return None

    @property
    def dispatcher(self) -> Any:
        """What numba makes of the function."""
        with _making:
            if self._dispatcher is None:
                made: Any = _njit()(nogil=True, **self._options)(self.py_func)
                if made is not self.py_func:
                    with contextlib.suppress(Exception):
                        made._cache = self.cache
                self._dispatcher = made
            return self._dispatcher

    @property
    def _numba_type_(self) -> Any:
        """For kernels that call this one, numba takes it for its own."""
        return self.dispatcher._numba_type_

    def __reduce__(self) -> str:
        return self.py_func.__qualname__  # by its name in its module, as functions are pickled

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"a kernel has no {name!r}")
        return getattr(self.dispatcher, name)


def kept(compiled: Any) -> bool | None:
    """Whether code of a kernel lies on disk from an earlier run; None where there is no place for it."""
    if not isinstance(compiled, Kernel) or compiled.cache.cache_path is None:
        return None
    return any(compiled.cache.files())


class KernelCache:
    """What numba's dispatcher asks of a cache, for one function. No method raises what a disk or a file can cause."""

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        self._source = Path(code.co_filename).resolve()
        python = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"  # another layout of its objects
        self._name = f"{self._source.stem}.{function.__qualname__}-{code.co_firstlineno}.{python}"
        # Taken now: the source may be another one by the time that the first call compiles what was imported.
        self._stamp = _stamp(self._source.parent)
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The folder of the files, if there is one. The first look in a process may create it."""
        folder = _place(self._source.parent) if self._stamp else None
        return None if folder is None else str(folder)

    def files(self) -> Iterator[Path]:
        return Path(self.cache_path).glob(f"{self._name}.*.nbc") if self.cache_path else iter(())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for a signature; None if it must be compiled."""
        try:
            target_context.refresh()  # before anything is looked up in it
            key = self._key(sig, target_context.codegen())
            file = self._file(key)
            if file is None:
                return None
            body = self._body(file, key)
            if body is None:
                return None
            from numba.core.compiler import CompileResult

            ours = int.from_bytes(body[:_LENGTH])
            return CompileResult._rebuild(target_context, *pickle.loads(body[_LENGTH + ours :]))
        except Exception:  # missing, unreadable, or of another numba: `save_overload` says so if it cannot mend it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature."""
        try:
            key = self._key(sig, data.codegen)
            file = self._file(key)
            if file is None or data.lifted or data.library.has_dynamic_globals:
                return
            from numba.core.serialize import dumps

            record = _record(data)
            body = len(record).to_bytes(_LENGTH) + record + dumps(data._reduce())
            _replace(file, self._seal(key, body) + body)
        except Exception as error:
            _tell(
                "unkept",
                f"compiled kernels cannot be kept in {self.cache_path} ({error}); "
                "the result is the same, and the next run compiles them again, a few seconds.",
            )

    def record(self, text: str) -> ready.Record | None:
        """What `ready` needs to link the code for a signature. Raises what a disk or a file can cause."""
        key = f"({text}, {ready.processor()!r})"
        file = self._file(key)
        body = None if file is None else self._body(file, key)
        ours = 0 if body is None else int.from_bytes(body[:_LENGTH])
        return None if body is None or ours == 0 else pickle.loads(body[_LENGTH : _LENGTH + ours])

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for file in self.files():
            with contextlib.suppress(OSError):
                file.unlink()

    def _key(self, sig: Any, codegen: Any) -> str:
        # The types of the arguments, the processor with its instruction sets, and what settings of numba were given.
        return repr((sig, codegen.magic_tuple(), *ready.settings()))

    def _file(self, key: str) -> Path | None:
        if not self._enabled or self.cache_path is None:
            return None
        return Path(self.cache_path, f"{self._name}.{_short(key)}.nbc")

    def _body(self, file: Path, key: str) -> bytes | None:
        """The content of a file behind its seal; None where it does not fit it."""
        content = _read(file, _trusted(self._source.parent))
        body = content[_SEAL:]
        return body if content[:_SEAL] == self._seal(key, body) else None

    def _seal(self, key: str, body: bytes) -> bytes:
        parts = (self._stamp.encode(), self._name.encode(), key.encode())
        hashed = hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts))
        hashed.update(body)
        return hashed.digest()


def _record(result: Any) -> bytes:
    """What `ready` needs of a compilation; empty where it cannot take it."""
    with contextlib.suppress(Exception):  # a numba that is built otherwise; its own part of the file remains
        record = ready.record_of(result) if ready.usable() else None
        return b"" if record is None else pickle.dumps(record)
    return b""


@functools.cache
def _stamp(folder: Path) -> str:
    """A hash of numba's version and of the sources that a kernel of `folder` may be made of: those beside it and those
    here, whose kernels and constants become part of others. Empty if they cannot be read, as in an archive.
    """
    hashed = hashlib.sha256(ready.numba_version().encode())
    try:
        for each in sorted({folder, Path(__file__).resolve().parent}):
            for file in sorted(each.glob("*.py")):
                hashed.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return ""
    return hashed.hexdigest() if folder.is_dir() else ""


@functools.cache
def _place(source: Path) -> Path | None:
    """The first folder that can be written for the kernels of one folder of sources."""
    tried: list[str] = []
    for candidate in _candidates(source):
        if _can_be_written(candidate) and _belongs(candidate, source):
            return candidate
        tried.append(str(candidate))
    folder = _private_folder()
    if folder is not None:
        folder /= _subfolder(source)
        if not _can_be_written(folder):
            folder = None
    if folder is not None:
        where = f"compiled kernels are kept in {folder.parent}"
    else:
        where = "compiled kernels are kept nowhere, so that every run compiles them, a few seconds"
    _tell(
        "no place",
        f"{where}; these folders cannot be written or are another user's: {', '.join(tried)}. "
        "To choose a folder, set NUMBA_CACHE_DIR.",
    )
    return folder


def _candidates(source: Path) -> Iterator[Path]:
    chosen = _chosen()
    if chosen:
        yield Path(chosen, _subfolder(source))
    yield source / "__pycache__"
    with contextlib.suppress(Exception):
        of_user = Path(_users_cache())
        # Where no home is known this is "~/.cache", below whatever folder the process stands in.
        if of_user.is_absolute():
            yield of_user / _subfolder(source)


def _chosen() -> str:
    """The folder that NUMBA_CACHE_DIR, or a file with numba's settings, names."""
    if "numba" in sys.modules or ready.settings():
        import numba

        return getattr(numba.config, "CACHE_DIR", "")
    return os.environ.get("NUMBA_CACHE_DIR", "")


def _users_cache() -> str:
    """Where numba keeps code for this user. On Linux that is easily said without loading it."""
    if sys.platform == "linux":
        return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")
    from numba.misc.appdirs import AppDirs

    return AppDirs(appname="numba", appauthor=False).user_cache_dir


def _private_folder() -> Path | None:
    """A folder among the temporary files that belongs to this user alone; None if there is none to be trusted.

    Its name is known beforehand and what lies in it is run, so nobody else may have made it, write to it, or be able to
    put another in its place.
    """
    if not hasattr(os, "geteuid"):
        return None
    try:
        above = Path(tempfile.gettempdir()).resolve()
        around = above.stat()
        others_write = around.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if around.st_uid not in (0, os.geteuid()) or (others_write and not around.st_mode & stat.S_ISVTX):
            return None
        folder = above / f"prefmerge-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return folder if ours else None


def _trusted(source: Path) -> frozenset[int] | None:
    """The users whose code is run: this one, root, and who owns the sources. None where files have no such owners."""
    return frozenset((0, os.geteuid(), source.stat().st_uid)) if hasattr(os, "geteuid") else None


def _belongs(folder: Path, source: Path) -> bool:
    """Whether it is a folder, no link to one, of a trusted user."""
    try:
        owners = _trusted(source)
        status = folder.lstat()
    except OSError:
        return False
    return owners is None or (stat.S_ISDIR(status.st_mode) and status.st_uid in owners)


def _read(file: Path, owners: frozenset[int] | None) -> bytes:
    """The content of a file of these users in a folder of theirs.

    Both are opened before they are asked for their owner, so that it does not help to swap one in between. A link is
    not followed: it may lead to a file that its owner has downloaded. Nor is a pipe waited for.
    """
    if owners is None:
        return file.read_bytes()
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    folder = os.open(file.parent, flags | os.O_DIRECTORY)
    try:
        with open(os.open(file.name, flags, dir_fd=folder), "rb") as opened:
            for each in (folder, opened.fileno()):
                if os.fstat(each).st_uid not in owners:
                    raise PermissionError(f"{file} is another user's")
            return opened.read()
    finally:
        os.close(folder)


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError):
        return False
    return True


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; a reader sees the old one or the new one."""
    new = file.with_name(f"{file.name}.tmp.{uuid.uuid4().hex[:16]}")
    try:
        new.touch(mode=0o644, exist_ok=False)  # whatever the umask, nobody else writes what this user runs
        new.write_bytes(content)
        os.replace(new, file)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _subfolder(source: Path) -> str:
    return f"{source.name}_{_short(str(source))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _tell(kind: str, message: str) -> None:
    """Say it once a process: on stderr, unless the program that imports prefmerge has set up logging otherwise."""
    if kind not in _told:
        _told.add(kind)
        _log.warning("note: %s", message)
