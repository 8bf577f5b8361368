"""A process of its own that changes a file while prefmerge reads it, and tells what came of it. A signal ends it early.

    python -m tests.merging.changing FOLDER VICTIM COMMAND CHANGE ...      at the third block that is read of VICTIM
    python -m tests.merging.changing FOLDER VICTIM merge CHANGE --rounds N --seed S      at any moment, N times

FOLDER holds base, t1 and t2 (see `make`). Prints one JSON object a change: `error` and `kind`, or `result`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from prefmerge import PrefmergeError, merge, verify
from prefmerge.checkpoints.input_file import InputFile

SIZES = {"a.weight": (300, 500), "b.weight": (400, 500), "c.weight": (70,)}
OPTIONS: dict[str, Any] = {"method": "magmax", "threads": 2, "max_memory": "1GB"}


def make(folder: Path, base: str = "base.safetensors") -> list[Path]:
    """A base, which is a folder of two shards where its name has no suffix, and two tasks."""
    rng = np.random.default_rng(0)
    states = [{name: rng.standard_normal(size).astype(np.float32) for name, size in SIZES.items()} for _ in range(3)]
    paths = [folder / base, folder / "t1.safetensors", folder / "t2.safetensors"]
    for path, state in zip(paths, states, strict=True):
        if path.suffix == ".pt":
            import torch

            torch.save({name: torch.from_numpy(value) for name, value in state.items()}, path)
        elif path.suffix:
            save_file(state, path)
        else:
            path.mkdir()
            homes = {name: f"model-0000{1 + (name == 'b.weight')}-of-00002.safetensors" for name in SIZES}
            for home in set(homes.values()):
                save_file({name: value for name, value in state.items() if homes[name] == home}, path / home)
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    return paths


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def _other(path: Path) -> bytes:
    """Other values in the last third of the file, in which there is no header."""
    content = bytearray(path.read_bytes())
    floats = np.frombuffer(content, np.uint8)[-(len(content) // 12) * 4 :].view(np.float32)
    floats[:] = -floats
    return bytes(content)


def rewrite(path: Path) -> None:
    content = _other(path)
    with path.open("r+b") as file:
        file.write(content)


def rewrite_and_set_back(path: Path) -> None:
    first = path.stat()
    rewrite(path)
    os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns))


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(_other(path))
    os.replace(new, path)


def delete(path: Path) -> None:
    path.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    change.__name__: change for change in (cut, empty, rewrite, rewrite_and_set_back, replace, delete)
}


def measured(paths: list[Path]) -> str:
    from prefmerge.analysis import measure

    return json.dumps(measure(paths[0], paths[1:], threads=2).to_json(), sort_keys=True)


def candidate(paths: list[Path]) -> str:
    from prefmerge.merging.candidates import Candidates

    with Candidates(paths[0], paths[1:], threads=2) as candidates:
        return str({name: value.tobytes() for name, value in candidates.model(method="magmax").items()})


def merged(paths: list[Path], **options: Any) -> str:
    out = paths[0].parent / "out.safetensors"
    try:
        merge(paths[0], paths[1:], out, **{**OPTIONS, **options})
        return str(load_file(out)["b.weight"].tobytes()) + str(load_file(out)["a.weight"].tobytes())
    finally:
        left = [path.name for path in out.parent.iterdir() if "out" in path.name]
        assert len(left) in (0, 2), left  # with its receipt, or not at all
        for name in left:
            (out.parent / name).unlink()


def optimal(paths: list[Path]) -> str:
    return merged(paths, **{"method": "tunable-magmax", "preference": "t1=0.7,t2=0.3", "selection": "optimal"})


def verified(paths: list[Path]) -> str:
    return str(verify(paths[0]).passed)


def verified_inputs(paths: list[Path]) -> str:
    return str(verify(paths[0].parent / "merged.safetensors", inputs=True).passed)


COMMANDS: dict[str, Callable[[list[Path]], str]] = {
    "merge": merged,
    "optimal": optimal,
    "measure": measured,
    "candidate": candidate,
    "verify": verified,
    "verify-inputs": verified_inputs,
}


def at_block(victim: Path, change: Callable[[Path], None], number: int) -> Callable[[], None]:
    """Change `victim` before its block of that number is read. Returns what undoes the hook."""
    original, lock, count = InputFile.read_into, threading.Lock(), 0

    def read_into(self: InputFile, buffer: memoryview, offset: int) -> None:
        nonlocal count
        if self.path == victim and len(buffer) > 10_000:
            with lock:
                count += 1
                if count == number:
                    change(victim)
        original(self, buffer, offset)

    InputFile.read_into = read_into

    def undo() -> None:
        InputFile.read_into = original
        assert count >= number, f"{victim} was read {count} times"

    return undo


def outcome(command: Callable[[list[Path]], str], paths: list[Path]) -> dict[str, Any]:
    try:
        return {"result": command(paths)}
    except PrefmergeError as error:
        return {"error": str(error), "kind": type(error).__name__, "exit": error.exit_code}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("victim")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("changes", nargs="+", choices=CHANGES)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kept, command = given.folder, COMMANDS[given.command]
    rng = random.Random(given.seed)
    place = kept.with_name(kept.name + "-work")
    base = next(path.name for path in kept.iterdir() if path.stem == "base")

    def fresh() -> list[Path]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place)
        return [place / base, place / "t1.safetensors", place / "t2.safetensors"]

    command(fresh())  # compiled, and imported
    before = time.perf_counter()
    old = outcome(command, fresh())
    took = time.perf_counter() - before
    for name in given.changes:
        paths = fresh()
        CHANGES[name](place / given.victim)
        new = outcome(command, paths)
        for _ in range(given.rounds or 1):
            paths = fresh()
            if given.rounds:
                thread = threading.Timer(rng.uniform(0, took), CHANGES[name], [place / given.victim])
                thread.start()
                found = outcome(command, paths)
                thread.join()
            else:
                undo = at_block(place / given.victim, CHANGES[name], 2)
                found = outcome(command, paths)
                undo()
            if "result" in found:
                found["result"] = "old" if found == old else "new" if found == new else "mixed"
            print(json.dumps({"change": name, **found}), flush=True)


if __name__ == "__main__":
    main()
