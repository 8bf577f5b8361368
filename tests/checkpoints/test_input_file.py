"""Files that are read: their descriptors, their times, and what is told of one that changed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from prefmerge.checkpoints import input_file, open_checkpoint, same_elements
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.errors import CheckpointChanged, CheckpointNotFound
from tests.checkpoints.files import a_model, write_arrays


def opened(tmp_path: Path, content: bytes = b"0123456789") -> InputFile:
    (tmp_path / "x.bin").write_bytes(content)
    return InputFile(tmp_path / "x.bin")


def test_reads_any_stretch(tmp_path: Path):
    file = opened(tmp_path)
    assert (file.size, file.read(3, 4), file.read(8, 100), file.read(10, 1)) == (10, b"3456", b"89", b"")
    file.check()
    file.close()
    with pytest.raises(ValueError, match=r"x\.bin is closed"):
        file.read(0, 1)


def test_a_write_in_the_tick_in_which_it_was_opened_is_seen(tmp_path: Path):
    # The clock that stamps files stands still for milliseconds: many files, so that most are opened within one tick.
    for _ in range(20):
        file = opened(tmp_path)
        with (tmp_path / "x.bin").open("r+b") as other:
            other.write(b"abcdefghij")
        with pytest.raises(CheckpointChanged, match="was written to while it was read"):
            file.check()


@pytest.mark.parametrize("act", ["rename", "link", "delete", "replace"])
def test_other_names_are_no_change(tmp_path: Path, act: str):
    file, path = opened(tmp_path), tmp_path / "x.bin"
    if act == "link":
        os.link(path, tmp_path / "y.bin")
    elif act == "delete":
        path.unlink()
    else:
        (tmp_path / "y.bin").write_bytes(b"other")
        os.replace(tmp_path / "y.bin", path)
    file.check()
    assert file.read(0, 10) == b"0123456789"


def test_descriptors_are_few_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gc.collect()
    monkeypatch.setattr(input_file, "most_open", lambda: 5)
    files: list[InputFile] = []
    for i in range(40):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 1000)
        files.append(InputFile(tmp_path / f"{i}"))
    assert len(os.listdir("/proc/self/fd")) < 40 if Path("/proc/self/fd").exists() else True
    with ThreadPoolExecutor(8) as pool:
        order = [i * 7 % 40 for i in range(2000)]
        assert list(pool.map(lambda i: files[i].read(500, 2), order)) == [bytes([i]) * 2 for i in order]
    for file in files:
        file.check()
    (tmp_path / "new").write_bytes(b"n" * 1000)
    os.replace(tmp_path / "new", tmp_path / "0")
    (tmp_path / "1").unlink()
    for file in files[2:]:
        file.read(0, 1)
    with pytest.raises(CheckpointChanged, match=r"/0: was replaced by another file while it was read\. Start again"):
        files[0].read(0, 1)
    with pytest.raises(CheckpointChanged, match=r"/1: was removed while it was read\. Start again"):
        files[1].read(0, 1)


def test_a_file_that_nobody_closed_lets_go_of_its_descriptor(tmp_path: Path):
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    for _ in range(3):
        opened(tmp_path)
    gc.collect()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == before


def test_what_cannot_be_read_is_told(tmp_path: Path):
    with pytest.raises(CheckpointNotFound, match=r"/gone: no such file\.$"):
        InputFile(tmp_path / "gone")
    folder = InputFile(tmp_path)
    with pytest.raises(CheckpointNotFound, match="cannot be read"):
        folder.read(0, 8)


def test_attack_s8_more_shards_than_descriptors(tmp_path: Path):
    program = f"""
import json, resource
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from prefmerge import merge
for name in ("base", "t1", "t2"):
    folder = Path({str(tmp_path)!r}) / name
    folder.mkdir()
    homes = {{f"w{{i}}": f"model-{{i + 1:05}}-of-00060.safetensors" for i in range(60)}}
    for i, (key, home) in enumerate(homes.items()):
        save_file({{key: np.full(10, i + len(name), np.float32)}}, folder / home)
    (folder / "model.safetensors.index.json").write_text(json.dumps({{"weight_map": homes}}))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
merge({str(tmp_path / "base")!r}, [{str(tmp_path / "t1")!r}, {str(tmp_path / "t2")!r}], {str(tmp_path / "out")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(open_checkpoint(tmp_path / "out").tensors) == 60


def test_blocks_are_those_of_the_whole(tmp_path: Path):
    checkpoint = open_checkpoint(write_arrays(tmp_path / "x.safetensors", {"a": np.ones(1, np.uint8), **a_model()}))
    buffer = np.empty(1000, np.uint8)
    for name, array in a_model().items():
        flat = array.reshape(-1)
        for start, stop in ((0, flat.size), (flat.size // 3, flat.size // 2), (flat.size, flat.size)):
            block = checkpoint.read(name, start, stop, buffer)
            assert block.tobytes() == flat[start:stop].tobytes()
            assert np.shares_memory(block, buffer) == (0 < block.nbytes <= buffer.nbytes)


def test_same_elements(tmp_path: Path):
    model = a_model()
    other = {name: array.copy() for name, array in model.items()}
    other["embed.weight"][-1, -1] += 1
    other["layer.weight"][0, 0] = model["layer.weight"][0, 0] = np.nan
    one = open_checkpoint(write_arrays(tmp_path / "one.safetensors", model))
    two = open_checkpoint(write_arrays(tmp_path / "two.safetensors", other))
    found = [name for name in model if not same_elements(one, name, two, name)]
    assert found == ["embed.weight", "layer.weight"]  # NaN is not equal to itself, and of equal bits
    assert [name for name in model if not same_elements(one, name, two, name, bits=True)] == ["embed.weight"]
    assert not same_elements(one, "mask", two, "layer.bias")
