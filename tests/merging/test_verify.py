"""verify: an untouched output passes, and every kind of change is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound, VerificationFailed
from prefmerge.merging.verify import verify

SHAPES = {"a.0.weight": (5, 7), "a.1.weight": (40,), "head.bias": (3,), "scale": ()}


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """A base and three tasks; `ids` is an integer buffer, `scale` 0-d."""
    paths = []
    for seed, name in enumerate(("base", "cars", "birds", "digits")):
        rng = np.random.default_rng(seed)
        tensors: dict[str, np.ndarray] = {
            key: np.asarray(rng.standard_normal(shape), np.float32) for key, shape in SHAPES.items()
        }
        tensors["ids"] = np.arange(4)
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(tensors, paths[-1])
    return paths


def merged(inputs: list[Path], out: str = "merged.safetensors", **options: Any) -> Path:
    path = inputs[0].parent / out
    prefmerge.merge(inputs[0], inputs[1:], path, **options)
    return path


def edit_receipt(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = out.with_name(out.name + ".receipt.json")
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "options",
    [
        {"preference": "0.7,0.2,0.1"},
        {"preference": "0.7,0.2,0.1", "sequential": True},
        {"preference": "0.7,0.2,0.1", "as_published": True},
        {"preference": "0.7,0.2,0.1", "selection": "paper"},
        {"preference": "digits=1", "selection": "paper", "scope": "model", "seed": 3, "passes": 3},
        {"preference": "alpha:0.5", "selection": "optimal"},
        {"preference": "alpha:2", "strength": "0.5", "carry": "1/3", "selection": "printed"},
        {"method": "magmax", "as_task_vector": True, "exclude": ["ids", "head.*"]},
        {"method": "ties", "weights": [1, 0.5, 2], "density": [0.5, 0.2, 1], "dtype": "bfloat16"},
        {"method": "linear", "normalize": False, "exclude": ["head.*"]},
        {"method": "average"},
        {"method": "random_mix", "seed": 9},
        {"method": "last"},
    ],
    ids=str,
)
@pytest.mark.parametrize("out", ["merged.safetensors", "folder"])
def test_what_was_merged_passes_all_checks(inputs: list[Path], out: str | Path, options: dict[str, Any]) -> None:
    out = merged(inputs, str(out), **options)
    before = sorted(path.name for path in out.parent.iterdir())
    report = verify(out, inputs=True, rerun=True)
    assert report.skipped == ()
    assert {"content fingerprint", "the receipt's counts add up", "merging again gives the same tensors"} < set(
        report.passed
    )
    assert sum(line.startswith(("base: ", "task ")) for line in report.passed) == len(inputs)
    assert report.to_json()["ok"] is True
    assert sorted(path.name for path in out.parent.iterdir()) == before  # the second merge leaves nothing


def test_a_changed_element(inputs: list[Path]) -> None:
    out = merged(inputs)
    tensors = load_file(out)
    tensors["a.1.weight"][7] += 1
    save_file(tensors, out)
    with pytest.raises(
        VerificationFailed,
        match=r"the elements are not those that were merged, in tensors: 'a\.1\.weight'\. Fingerprint xxh3-128:",
    ):
        verify(out)


def test_an_input_changed_since_shows_when_merging_again(inputs: list[Path]) -> None:
    out = merged(inputs)
    for path in inputs[1:]:
        tensors = load_file(path)
        tensors["a.1.weight"] = tensors["a.1.weight"] + 1
        save_file(tensors, path)
    verify(out)
    with pytest.raises(
        VerificationFailed, match=r"merging again from the receipt gives other elements in tensors: 'a\.1\.weight'\. "
    ):
        verify(out, rerun=True)


def test_other_tensors(inputs: list[Path]) -> None:
    out = merged(inputs)
    good = load_file(out)
    for change, message in (
        (
            {name: value for name, value in good.items() if name not in ("ids", "scale")},
            "tensors that the receipt lists are missing: 'ids', 'scale'. ",
        ),
        ({**good, "new": good["ids"]}, "tensors are here that the receipt does not list: 'new'. "),
        ({**good, "ids": good["ids"][None]}, "tensors have another shape than the receipt says: 'ids'. "),
        (
            {**good, "scale": good["scale"].astype(np.float16)},
            "tensors have another number format than the receipt says: 'scale'. ",
        ),
    ):
        save_file(change, out)
        with pytest.raises(VerificationFailed) as caught:
            verify(out)
        assert (
            str(caught.value)
            == f"{out}: {message}It is not the output that this receipt is about, or it was changed. Merge "
            f"again, or fetch both again."
        )


def test_only_the_first_five_are_named(inputs: list[Path]) -> None:
    out = merged(inputs)
    save_file({**load_file(out), **{f"new{i}": np.zeros(1) for i in range(7)}}, out)
    with pytest.raises(VerificationFailed, match=r"'new0', 'new1', 'new2', 'new3', 'new4' and 2 more\."):
        verify(out)


def _more_owned(data: dict[str, Any]) -> None:
    data["tensors"]["a.1.weight"]["owned"][0] += 1


def _other_owner(data: dict[str, Any]) -> None:
    data["tensors"]["a.1.weight"]["owned"][0] += 1
    data["tensors"]["a.1.weight"]["owned"][1] -= 1


def _other_pass(data: dict[str, Any]) -> None:
    data["tensors"]["a.1.weight"]["passes"][0][2] -= 1


def _other_random(data: dict[str, Any]) -> None:
    data["tensors"]["a.1.weight"]["random"][2] += 1


@pytest.mark.parametrize("change", [_more_owned, _other_owner, _other_pass, _other_random])
def test_counts_that_do_not_add_up(inputs: list[Path], change: Callable[[dict[str, Any]], None]) -> None:
    out = merged(inputs, selection="paper")
    edit_receipt(out, change)
    with pytest.raises(
        VerificationFailed,
        match=r"owned elements do not add up to asked ones, passes or shapes in tensors: 'a\.1\.weight'\. ",
    ):
        verify(out)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_totals_that_do_not_add_up(inputs: list[Path], scope: str) -> None:
    out = merged(inputs, scope=scope)

    def swap(data: dict[str, Any]) -> None:
        for key in ("asked", "owned"):
            data["totals"][key][0] += 1
            data["totals"][key][1] -= 1

    edit_receipt(out, swap)
    with pytest.raises(VerificationFailed, match=r"the totals do not add up: 'totals'\."):
        verify(out)


def test_a_damaged_receipt(inputs: list[Path]) -> None:
    out = merged(inputs)
    edit_receipt(out, lambda data: data.pop("totals"))
    with pytest.raises(
        CheckpointCorrupt, match=r"the receipt is damaged: totals: Field required\. Merge again to have one\."
    ):
        verify(out)


def test_a_changed_input(inputs: list[Path]) -> None:
    out = merged(inputs)
    tensors = load_file(inputs[2])
    tensors["head.bias"] += 1
    save_file(tensors, inputs[2])
    assert verify(out).skipped == ()  # without it nobody looks
    with pytest.raises(
        VerificationFailed,
        match=r"task 'birds' \(.*birds\.safetensors\) is not what was merged: fingerprint .* the output itself "
        r"may still be",
    ):
        verify(out, inputs=True)


def test_inputs_that_are_gone(inputs: list[Path]) -> None:
    out = merged(inputs)
    inputs[3].unlink()
    assert verify(out, inputs=True).skipped == (f"task 'digits': {inputs[3]} is no longer there",)
    with pytest.raises(
        CheckpointNotFound,
        match=r"inputs are no longer where they were: '.*digits\.safetensors'\. Bring them back, or leave out "
        r"--rerun\.",
    ):
        verify(out, rerun=True)


def test_nothing_to_verify(inputs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="has no receipt to compare it with"):
        verify(inputs[0])
    with pytest.raises(CheckpointNotFound, match="does not exist"):
        verify(tmp_path / "gone")
