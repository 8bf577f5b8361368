from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.checkpoints import (
    CHUNK,
    Fingerprint,
    content_fingerprint,
    file_entries,
    from_state_dict,
    header_fingerprint,
    open_checkpoint,
    sha256_files,
)
from tests.checkpoints.files import a_model, info_of, save, write_arrays

MODEL = a_model()
INFOS = [info_of(name, array) for name, array in MODEL.items()]
EXPECTED = content_fingerprint(from_state_dict(MODEL, name="x"))


def test_the_definition_does_not_drift() -> None:
    """Receipts are compared across versions: this value may never change."""
    tensors = {"a": np.arange(2 * CHUNK + 5, dtype=np.float32), "b": np.array(True), "c": np.zeros((0, 2), np.int64)}
    assert content_fingerprint(from_state_dict(tensors, name="x")) == "xxh3-128:4c10583c9677b6ca05bc3a74bf6a8c13"


def add(fingerprint: Fingerprint, name: str, start: int, stop: int) -> None:
    """As who reads a tensor in blocks does."""
    fingerprint.add(name, MODEL[name].reshape(-1)[start : fingerprint.reach(name, start, stop) or stop], start)


@pytest.mark.parametrize("block", [1000, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 10**6])
def test_any_block_size_and_order(block: int) -> None:
    blocks = [
        (name, start, min(start + block, array.size))
        for name, array in MODEL.items()
        for start in range(0, array.size, block)
    ]
    random.Random(block).shuffle(blocks)
    fingerprint = Fingerprint(reversed(INFOS))
    for i, (name, start, stop) in enumerate(blocks):
        assert fingerprint.covered() == all(
            begin % CHUNK and begin // CHUNK == (end - 1) // CHUNK for _, begin, end in blocks[i:]
        )
        add(fingerprint, name, start, stop)
    assert fingerprint.hexdigest() == EXPECTED


def test_from_many_threads() -> None:
    fingerprint = Fingerprint(INFOS)
    blocks = [(name, start) for name, array in MODEL.items() for start in range(0, array.size, 999)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda b: add(fingerprint, b[0], b[1], min(b[1] + 999, MODEL[b[0]].size)), blocks))
    assert fingerprint.hexdigest() == EXPECTED


def test_shards_and_files_do_not_matter(tmp_path: Path) -> None:
    one = save(tmp_path / "one.safetensors", MODEL, metadata={"a": "b"})
    many = save(tmp_path / "many", MODEL, kind="folder", max_shard_bytes=1000)
    odd = write_arrays(tmp_path / "odd.safetensors", {"x": np.zeros(1, bool), **MODEL})
    assert content_fingerprint(open_checkpoint(one)) == content_fingerprint(open_checkpoint(many)) == EXPECTED
    unaligned = open_checkpoint(odd)
    fingerprint = Fingerprint(INFOS)
    for info in INFOS:
        fingerprint.add_missing(info.name, unaligned)
    assert fingerprint.hexdigest() == EXPECTED


@given(
    name=st.sampled_from([name for name, array in MODEL.items() if array.size]), where=st.floats(0, 1, exclude_max=True)
)
def test_every_element_counts(name: str, where: float) -> None:
    changed = MODEL[name].copy()
    raw = changed.reshape(-1).view(np.uint8)
    raw[int(where * raw.size)] ^= 1
    assert content_fingerprint(from_state_dict({**MODEL, name: changed}, name="x")) != EXPECTED


@pytest.mark.parametrize("field", ["name", "dtype", "shape", "order"])
def test_what_describes_a_tensor_counts(field: str) -> None:
    model = dict(MODEL)
    if field == "name":
        model["mask2"] = model.pop("mask")
    elif field == "dtype":
        model["mask"] = model["mask"].view(np.uint8)
    elif field == "shape":
        model["position_ids"] = model["position_ids"][0]
    else:
        model["embed.weight"] = np.ascontiguousarray(model["embed.weight"][::-1])
    assert content_fingerprint(from_state_dict(model, name="x")) != EXPECTED


def test_aliases_need_not_be_added() -> None:
    w = np.arange(CHUNK + 1, dtype=np.float32)
    tied = from_state_dict({"a": w, "b": w}, name="x")
    assert tied.aliases
    apart = from_state_dict({"a": w, "b": w.copy()}, name="x")
    assert content_fingerprint(tied) == content_fingerprint(apart)


def test_a_missing_chunk_is_an_error() -> None:
    fingerprint = Fingerprint([info_of("w", np.zeros(CHUNK + 1))])
    fingerprint.add("w", np.zeros(CHUNK), 0)
    assert not fingerprint.covered()
    with pytest.raises(ValueError, match="lacks chunks of tensor 'w'"):
        fingerprint.hexdigest()


def test_nothing_is_covered_at_once() -> None:
    assert Fingerprint([info_of("e", np.zeros((0, 3)))]).covered()


def test_header_fingerprint_sees_headers_and_sizes_only(tmp_path: Path) -> None:
    zeros = {name: np.zeros_like(array) for name, array in MODEL.items()}
    one, two = (open_checkpoint(save(tmp_path / f"{i}.safetensors", m)) for i, m in enumerate([MODEL, zeros]))
    assert header_fingerprint(one) == header_fingerprint(two)
    longer = open_checkpoint(save(tmp_path / "3.safetensors", MODEL, metadata={"note": "longer header"}))
    renamed = open_checkpoint(
        save(tmp_path / "4.safetensors", {**{k: v for k, v in MODEL.items() if k != "mask"}, "mark": MODEL["mask"]})
    )
    assert len({header_fingerprint(c) for c in (one, longer, renamed)}) == 3
    assert header_fingerprint(one) != content_fingerprint(one)


def test_files_and_their_sha256(tmp_path: Path) -> None:
    single = save(tmp_path / "one.safetensors", MODEL)
    digest = hashlib.sha256(single.read_bytes()).hexdigest()
    assert sha256_files(open_checkpoint(single)) == {"one.safetensors": digest}
    assert file_entries(open_checkpoint(single)) == [{"name": "one.safetensors", "bytes": single.stat().st_size}]
    folder = tmp_path / "f"
    for sub in ("a", "b"):
        (folder / sub).mkdir(parents=True)
        write_arrays(folder / sub / "x.safetensors", {sub: np.zeros(3)})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {s: f"{s}/x.safetensors" for s in "ab"}})
    )
    for given_path in (folder, folder / "model.safetensors.index.json"):
        assert set(sha256_files(open_checkpoint(given_path))) == {"a/x.safetensors", "b/x.safetensors"}
    assert sha256_files(from_state_dict(MODEL, name="x")) == {}
