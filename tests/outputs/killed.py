"""Publish an output and die after the n-th change to the disk, for every n. A program, for test_atomicity.py.

    python killed.py PLACE KIND PREVIOUS EXCHANGE

KIND is file or folder. PREVIOUS is old (version 1 is at the target), none, or a folder to start from. The new version
is 2, or 3 over a folder; it is forced unless nothing is there. EXCHANGE 0 takes the system calls away that swap two
names, or refuse a name that is taken. Case n happens in PLACE/n; the child that gets through without dying ends the
loop, and its number is printed. Each child is a fork, so that NumPy is imported once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.checkpoints import content_fingerprint, from_state_dict
from prefmerge.checkpoints.dtypes import by_name
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.ground import atomic
from prefmerge.outputs.write import OutputKind, create_output

INDEX = "model.safetensors.index.json"
TARGET = {"file": "merged.safetensors", "folder": "merged"}
CALLS = ["pwrite", "ftruncate", "fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir"]


def model(version: int) -> dict[str, np.ndarray]:
    """Every element is the version; version 2 has the same names and shapes, so nothing but the values tells them
    apart."""
    return {name: np.full(40, version, dtype=np.float32) for name in ("a", "b", "c")}


def receipt(version: int) -> Callable[[list[dict[str, Any]]], bytes]:
    fingerprint = content_fingerprint(from_state_dict(model(version), name="x"))
    return lambda files: json.dumps(
        {
            "format": "prefmerge-receipt/1",
            "version": version,
            "output": {"files": files, "fingerprint": fingerprint, "beside": ["config.json", "below/copy.txt", INDEX]},
        }
    ).encode()


def publish(place: Path, kind: OutputKind, version: int, *, force: bool = True) -> None:
    """Write and publish one version at PLACE/merged, in blocks, with a companion made of bytes and one copied."""
    infos = [TensorInfo(name, by_name("float32"), array.shape) for name, array in model(version).items()]
    target = place / TARGET[kind]
    with create_output(target, infos, metadata={}, kind=kind, force=force, max_shard_bytes=330) as out:
        for name, array in model(version).items():
            out.write(name, 20, array[20:])
            out.write(name, 0, array[:20])
        if kind == "folder":
            out.add_file("config.json", str(version).encode())
            out.add_file("below/copy.txt", place / f"source-{version}.txt")
        out.publish(receipt(version))


def prepare(place: Path, kind: OutputKind, previous: str) -> None:
    if previous not in ("old", "none"):
        shutil.copytree(previous, place)
        return
    place.mkdir(parents=True)
    for version in (1, 2):
        (place / f"source-{version}.txt").write_text(str(version))
    if previous == "old":
        publish(place, kind, 1, force=False)


def patch(after: Callable[[], None], exchange: bool) -> None:
    """Have `after` called after each call that changes the disk."""

    def wrap(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            after()
            return result

        setattr(owner, name, counted)

    for name in CALLS:
        wrap(os, name)
    wrap(shutil, "copyfile")
    if exchange:
        wrap(atomic, "_rename_with")
    else:
        atomic._rename_with = lambda flag, source, target: False  # pyright: ignore[reportPrivateUsage]


def dies_after(n: int, place: Path, kind: OutputKind, version: int, *, force: bool, exchange: bool) -> bool:
    """Publish a version in a child that is killed after its n-th change. False when it had fewer."""
    child = os.fork()
    if child == 0:
        done = 0

        def after() -> None:
            nonlocal done
            done += 1
            if done == n:
                os.kill(os.getpid(), signal.SIGKILL)

        patch(after, exchange)
        publish(place, kind, version, force=force)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"case {n} ended with {status}")
    return status != 0


def main(place: Path, kind: OutputKind, previous: str, exchange: bool) -> None:
    n, version = 1, 2 if previous in ("old", "none") else 3
    while True:
        prepare(place / str(n), kind, previous)
        if not dies_after(n, place / str(n), kind, version, force=previous != "none", exchange=exchange):
            break
        n += 1
    print(n)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "file" if sys.argv[2] == "file" else "folder", sys.argv[3], sys.argv[4] == "1")
