"""A process of its own that runs a command again and again, each time with too little of something.

    python -m tests.field.at_any_limit FOLDER COMMAND ROUNDS SEED [KIND...]

FOLDER is as for `at_any_moment`. The kinds: `disk` (under the output) and `scratch` (under PREFMERGE_CACHE and TMPDIR),
small disks that grow in ROUNDS steps to what the command needs; `refused` (the system refuses a change of a file); the
limits `size` (of a file), `descriptors`, `memory`; `streams` that are full, closed or ascii. Prints a JSON object for
each run: what became of it, what it said, what is there, and the same of the next run, which has enough of everything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.field.at_any_moment import COMMANDS, SIGNALS, begin, digest, hidden, import_all, waited

PAGE = 4096
ENOUGH = 1 << 28
DISK, SMALL = Path("disk"), Path("small")  # under the output, and under what the command keeps besides
MORE = {  # commands that write little, or nothing but what they keep for the next time
    "evaluate": ("evaluate --run run", "none"),
    "inspect": ("inspect --run run --png analyses", "analyses"),
    "demo": ("demo -o demo", "demo"),
}
KINDS = ("disk", "scratch", "refused", "size", "descriptors", "memory", "streams")
REFUSALS = (errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EIO, errno.EROFS)


def mount(on: Path, size: int, *more: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *more)), "tmpfs", on], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))


def used(folder: Path) -> int:
    return sum(-(-path.lstat().st_size // PAGE) * PAGE + PAGE for path in folder.rglob("*"))


def there(folder: Path) -> dict[str, int]:
    return {str(path): 0 if path.is_dir() else path.stat().st_size for path in folder.rglob("*")}


def refuse(count: int, code: int) -> Callable[[], None]:
    """Have the system refuse one change of a file in this folder."""
    home, left = os.getcwd(), count

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in {"os.rename", "os.mkdir", "os.link"}) or not isinstance(given[0], str | Path):
            return
        if os.path.abspath(given[0]).startswith(home):
            left -= 1
            if not left:
                raise OSError(code, os.strerror(code), str(given[0]))

    def settle() -> None:
        sys.addaudithook(hook)

    return settle


def limit(what: int, most: int) -> Callable[[], None]:
    def settle() -> None:
        resource.setrlimit(what, (most, most))

    return settle


def to_small() -> None:
    """Keep everything but the output on the other disk."""
    os.environ.update(dict.fromkeys(("PREFMERGE_CACHE", "TMPDIR"), str(SMALL.absolute())))
    tempfile.tempdir = None  # what it was before


def memory_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE


def full_stdout() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def full() -> None:
    full_stdout()
    os.dup2(1, 2)


def closed() -> None:
    for fd in range(3):
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = None, None, None  # pyright: ignore[reportAttributeAccessIssue]


def ascii_only() -> None:
    sys.stdout, sys.stderr = (open(fd, "w", encoding="ascii", errors="strict") for fd in (1, 2))  # noqa: SIM115


STREAMS = (
    ("a full stdout", full_stdout),
    ("full streams", full),
    ("closed streams", closed),
    ("ascii streams", ascii_only),
)


def limits(kind: str, rounds: int, rng: random.Random, changes: int) -> list[tuple[str, Callable[[], None]]]:
    """What each run has too little of, in words and as what brings it about."""
    made: list[tuple[str, Callable[[], None]]] = []
    for i in range(rounds):
        if kind == "refused":
            count, code = rng.randint(1, changes), rng.choice(REFUSALS)
            made.append((f"change {count} of {changes}: {errno.errorcode[code]}", refuse(count, code)))
        elif kind == "size":
            most = int(2 ** (12 + 6 * i / rounds))  # what is said takes less
            made.append((f"files of {most} bytes", limit(resource.RLIMIT_FSIZE, most)))
        elif kind == "descriptors":
            most = 6 + 30 * i // rounds
            made.append((f"{most} descriptors", limit(resource.RLIMIT_NOFILE, most)))
        elif kind == "streams":
            made.append(STREAMS[i % len(STREAMS)])
        else:
            more = int(2 ** (16 + 16 * i / rounds))
            made.append((f"{more} more bytes", limit(resource.RLIMIT_AS, memory_now() + more)))
    return made


def main() -> None:
    folder, command, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.chdir(folder)
    line, output = (COMMANDS | MORE)[command]
    name, *given = line.split()
    words = [name, *(f"disk/{word}" if word.split("/")[0] == output else word for word in given)]
    output = f"disk/{output}"
    for number in SIGNALS[:3]:
        signal.signal(number, signal.SIG_DFL)
    rng, kept = random.Random(seed), Path("kept")
    DISK.mkdir()
    SMALL.mkdir()
    if command == "replace":
        Path("old").rename(output)
    if command == "adapt-again":
        assert waited(begin(words)) == 0, Path("said").read_text()
    if Path(output).exists():
        shutil.copytree(output, kept)
    old = digest(output)

    def put_back() -> None:
        for one in [*DISK.iterdir(), *Path("cache").iterdir(), *Path("tmp").iterdir()]:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        if kept.exists():
            shutil.copytree(kept, output)

    put_back()
    assert waited(begin(words)) == 0, Path("said").read_text()
    needs = json.loads(Path("needs").read_text())
    import_all(needs["modules"])
    new, full = digest(output), {"disk": used(DISK), "scratch": used(Path("cache"))}

    def one(kind: str, what: str, settle: Callable[[], object]) -> None:
        before = there(DISK)
        code = waited(begin(words, settle=settle))
        now = digest(output)
        tried = {
            "kind": kind,
            "what": what,
            "code": code,
            "there": "new" if now == new else "old" if now == old else "",
            "said": Path("said").read_text(errors="replace")[-3000:],
            "hidden": hidden(),
            "changed": there(DISK) != before,
        }
        if kind in ("disk", "scratch"):
            mount(DISK if kind == "disk" else SMALL, ENOUGH, "remount")
        if code and kind != "streams":  # what cannot be shown is done
            code = waited(begin(words, settle=settle if kind == "scratch" else None))
        again = {
            "code": code,
            "new": digest(output) == new,
            "hidden": hidden(),
            "said": Path("said").read_text()[-2000:],
        }
        print(json.dumps({**tried, "again": again}), flush=True)

    for kind in sys.argv[5:] or KINDS:
        if kind in ("disk", "scratch"):
            for i in range(rounds):
                put_back()
                size = (used(DISK) if kind == "disk" else 0) + PAGE * (1 + i * full[kind] // PAGE // rounds)
                on = DISK if kind == "disk" else SMALL
                mount(on, size)
                try:
                    put_back()
                    if not i:
                        fill(on)
                    one(kind, f"{size} bytes", to_small if kind == "scratch" else lambda: None)
                finally:
                    subprocess.run(["umount", on], check=True)
            continue
        for what, settle in limits(kind, rounds, rng, needs["changes"]):
            put_back()
            one(kind, what, settle)


if __name__ == "__main__":
    main()
