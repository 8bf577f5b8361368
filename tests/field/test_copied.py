"""What is copied from the base because no task changes it or nothing can merge it, and the notes about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from prefmerge import PrefmergeError, merge, merge_state_dicts, open_checkpoint, verify
from prefmerge.errors import (
    CheckpointError,
    CheckpointMismatch,
    NonFiniteValue,
)
from prefmerge.merging.candidates import Candidates
from tests.checkpoints.files import entry, write_raw
from tests.field.made import State, put, state

# 10: equal everywhere, and not of a kind that can be merged

MASKS = {
    "a causal mask": np.triu(np.full((40, 40), -np.inf, np.float32), 1),
    "one place among many": np.where(np.arange(5000) == 3333, -np.inf, 0).astype(np.float32),
    "NaN": np.array([0, np.nan, 1], np.float32),
    "half precision": np.full((3, 3), -np.inf, np.float16),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_case_10a_masks_that_are_equal_everywhere_are_copied(
    tmp_path: Path, kind: str, scope: Literal["tensor", "model"]
) -> None:
    mask = MASKS[kind]
    base, *tasks = (put(tmp_path / f"{i}.safetensors", state(i, mask=mask)) for i in range(3))
    receipt = merge(base, tasks, tmp_path / "out.safetensors", scope=scope)
    assert load_file(tmp_path / "out.safetensors")["mask"].tobytes() == mask.tobytes()
    assert receipt.tensors["mask"].role == "copied"
    (text,) = receipt.notes
    assert text == (
        "equal in the base and in every task, and not of a kind that can be merged, so copied: 'mask' (holds "
        f"{'nan' if kind == 'NaN' else '-inf'})."
    )
    verify(tmp_path / "out.safetensors", rerun=True)
    plain = [state(i) for i in range(3)]
    merged, _ = merge_state_dicts(plain[0], plain[1:], scope=scope)
    out = load_file(tmp_path / "out.safetensors")
    assert all(out[name].tobytes() == merged[name].tobytes() for name in merged)


def test_case_10a_in_other_formats_candidates_and_task_vectors(tmp_path: Path) -> None:
    mask = MASKS["a causal mask"]
    base, *tasks = (put(tmp_path / f"{i}.safetensors", state(i, mask=mask)) for i in range(3))
    merge(base, tasks, tmp_path / "half.safetensors", dtype="float16")
    assert np.array_equal(load_file(tmp_path / "half.safetensors")["mask"], mask.astype(np.float16))
    merge(base, tasks, tmp_path / "vector.safetensors", as_task_vector=True)
    assert not load_file(tmp_path / "vector.safetensors")["mask"].any()
    merge(base, [tmp_path / "vector.safetensors"], tmp_path / "again.safetensors", method="increments")
    assert np.array_equal(load_file(tmp_path / "again.safetensors")["mask"], mask)
    with Candidates(base, tasks) as candidates:
        assert np.array_equal(candidates.model()["mask"], mask)


def test_case_10a_a_mask_that_a_task_changes_stays_an_error(tmp_path: Path) -> None:
    mask = MASKS["a causal mask"]
    changed = mask.copy()
    changed[20, 3] = 1  # between the slices that are compared first
    base, task = (
        put(tmp_path / "base.safetensors", state(0, mask=mask)),
        put(tmp_path / "task.safetensors", state(1, mask=changed)),
    )
    with pytest.raises(NonFiniteValue, match="tensor 'mask' holds -inf"):
        merge(base, [task], tmp_path / "out.safetensors")


def test_case_10a_a_finite_value_that_does_not_fit_is_no_infinity(tmp_path: Path) -> None:
    mask = np.array([-np.inf, 1e30], np.float32)
    base, task = (put(tmp_path / f"{i}.safetensors", state(i, mask=mask)) for i in range(2))
    with pytest.raises(PrefmergeError, match=r"tensor 'mask': the merged value 1e\+30 .* does not fit float16"):
        merge(base, [task], tmp_path / "out.safetensors", dtype="float16")


def odd(path: Path, seed: int, code: str, content: bytes) -> Path:
    header = {"a": entry("F32", [2], 0, 8), "odd": entry(code, [1], 8, 8 + len(content))}
    return write_raw(path, header, np.random.default_rng(seed).standard_normal(2).astype("<f4").tobytes() + content)


@pytest.mark.parametrize(
    ("code", "content"), [("F8_E4M3", b"\x3c"), ("F8_E5M2", b"\x7f"), ("C64", b"\0\0\x80\x3f\0\0\0\0")]
)
def test_case_10c_formats_that_cannot_be_merged_are_copied_where_all_are_equal(
    tmp_path: Path, code: str, content: bytes
) -> None:
    base, *tasks = (odd(tmp_path / f"{i}.safetensors", i, code, content) for i in range(3))
    receipt = merge(base, tasks, tmp_path / "out.safetensors")
    assert receipt.tensors["odd"].role == "copied"
    assert open_checkpoint(tmp_path / "out.safetensors").raw("odd").tobytes() == content
    assert "so copied: 'odd' (" in receipt.notes[0]
    odd(tasks[1], 2, code, bytes(len(content)))
    with pytest.raises(CheckpointError, match="which prefmerge does not merge"):
        merge(base, tasks, tmp_path / "other.safetensors")


@pytest.mark.parametrize("integers", ["base", "task"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_case_10d_integers_against_floats_of_equal_values(tmp_path: Path, integers: str, dtype: Any) -> None:
    """Also where the floats cannot hold them all: 4,095 is 4,096 in half precision."""
    ids = np.arange(4097, dtype=np.int64)[None]
    kinds = [ids, ids.astype(dtype)] if integers == "base" else [ids.astype(dtype), ids]
    base = put(tmp_path / "base.safetensors", state(0, position_ids=kinds[0]))
    task = put(tmp_path / "task.safetensors", state(1, position_ids=kinds[1]))
    receipt = merge(base, [task], tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")["position_ids"].tobytes() == kinds[0].tobytes()
    assert receipt.tensors["position_ids"].role == "copied"
    kinds[1][0, 7] += 1
    put(tmp_path / "task.safetensors", state(1, position_ids=kinds[1]))
    with pytest.raises(CheckpointMismatch, match="tensor 'position_ids' is"):
        merge(base, [task], tmp_path / "other.safetensors")


def test_case_10d_a_mask_of_bool_against_a_float(tmp_path: Path) -> None:
    mask = np.array([True, False, True])
    merged, receipt = merge_state_dicts(state(0, mask=mask), [state(1, mask=mask.astype(np.float32))])
    assert merged["mask"].tobytes() == mask.tobytes()
    assert receipt.tensors["mask"].role == "copied"


# 16: counters


def test_case_16_many_counters_are_one_note(tmp_path: Path) -> None:
    def counted(seed: int) -> State:
        return state(seed, **{f"bn{i}.num_batches_tracked": np.array(seed + 5) for i in range(53)})

    base, *tasks = (put(tmp_path / f"{i}.safetensors", counted(i)) for i in range(3))
    receipt = merge(base, tasks, tmp_path / "out.safetensors")
    assert receipt.notes == (
        "'bn0.num_batches_tracked', 'bn1.num_batches_tracked', 'bn10.num_batches_tracked', "
        "'bn11.num_batches_tracked', 'bn12.num_batches_tracked' and 48 more hold int64 and differ in 1, 2; such "
        "buffers are not merged: the base's are kept.",
    )


def test_case_16_buffers_of_another_kind_or_task_have_their_own(tmp_path: Path) -> None:
    base = state(0, n=np.array(1), m=np.array(1), flag=np.array([True]))
    first = state(1, n=np.array(2), m=np.array(2), flag=np.array([True]))
    second = state(2, n=np.array(3), m=np.array(1), flag=np.array([False]))
    _, receipt = merge_state_dicts(base, [first, second])
    assert [text.partition(";")[0] for text in receipt.notes] == [
        "'flag' holds bool and differs in task-2",
        "'m' holds int64 and differs in task-1",
        "'n' holds int64 and differs in task-1, task-2",
    ]


# 17: metadata


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("shape", ["file", "folder", "shards"])
def test_case_17_the_bases_metadata_is_kept(tmp_path: Path, shape: str) -> None:
    own = {"format": "np", "modelspec.title": "Cars", "license": "apache-2.0", "modelspec.hash_sha256": "0x1"}
    base = put(tmp_path / "base" / "model.safetensors", state(0), own)
    if shape == "shards":
        base = base.rename(base.with_name("model-00001-of-00001.safetensors"))
    task = put(tmp_path / "task.safetensors", state(1), {"license": "other", "mine": "x"})
    out = tmp_path / ("out.safetensors" if shape == "file" else "out")
    merge(base if shape == "file" else base.parent, [task], out)
    written = metadata(out if shape == "file" else out / "model.safetensors")
    assert written == {"format": "pt", "modelspec.title": "Cars", "license": "apache-2.0"}


def test_case_17_ours_stand_beside_it(tmp_path: Path) -> None:
    base = put(tmp_path / "base.safetensors", state(0), {"license": "mit"})
    merge(base, [put(tmp_path / "t.safetensors", state(1))], tmp_path / "v.safetensors", as_task_vector=True)
    written = metadata(tmp_path / "v.safetensors")
    assert written["license"] == "mit"
    assert written["prefmerge.kind"] == "task_vector"
