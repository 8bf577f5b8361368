"""Tasks stored in fewer bits than the base: what rounding explains is no change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge import merge, merge_state_dicts, open_checkpoint, plan
from prefmerge.checkpoints.dtypes import by_name, from_float32, to_float32
from prefmerge.merging.candidates import Candidates
from tests.field.made import State, put, values

torch = pytest.importorskip("torch", reason="writes bfloat16 files; safetensors' NumPy half cannot")
from safetensors.torch import save_file  # noqa: E402

KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def rounded(x: np.ndarray, name: str) -> np.ndarray:
    dtype = by_name(name)
    return to_float32(from_float32(x, dtype), dtype)


def half_frozen(folder: Path, name: str) -> tuple[Path, list[Path], State, list[State]]:
    """A float32 base and three tasks stored in 16 bits: "frozen" is the base's everywhere, of "b" the first half is."""
    rng = np.random.default_rng(3)
    base = {key: rng.standard_normal((8, 5)).astype(np.float32) for key in ("frozen", "b")}
    tasks = []
    for i in range(3):
        task = {key: x.copy() for key, x in base.items()}
        task["b"][4:] += rng.standard_normal((4, 5)).astype(np.float32)
        tasks.append({key: rounded(x, name) for key, x in task.items()})
        save_file(
            {key: torch.from_numpy(x).to(KINDS[name]) for key, x in tasks[-1].items()}, folder / f"t{i}.safetensors"
        )
    return put(folder / "base.safetensors", base), [folder / f"t{i}.safetensors" for i in range(3)], base, tasks


METHODS: list[dict[str, Any]] = [
    {"method": "average"},
    {"method": "ties"},
    {"method": "magmax"},
    {"method": "tunable_magmax", "preference": "t0=0.5,t1=0.3,t2=0.2"},
    {"method": "tunable_magmax", "selection": "optimal", "importance": "step", "preference": "t0=0.5,t1=0.3,t2=0.2"},
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("settings", METHODS, ids=lambda one: "-".join(one.values()))
def test_case_14_what_was_frozen_keeps_the_bases_bits(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    base, tasks, before, _ = half_frozen(tmp_path, name)
    merge(base, tasks, tmp_path / "out.safetensors", scale=0.5, **settings)
    after = values(tmp_path / "out.safetensors")
    assert np.array_equal(after["frozen"], before["frozen"])
    assert np.array_equal(after["b"][:4], before["b"][:4])
    assert not np.array_equal(after["b"][4:], before["b"][4:])
    with Candidates(base, tasks, threads=1) as candidates:
        (made,) = candidates.models([{"scale": 0.5, **settings}])
    assert all(np.array_equal(made[key], after[key]) for key in after)


def test_case_14_what_was_trained_differs_as_it_is_stored(tmp_path: Path) -> None:
    base, tasks, before, stored = half_frozen(tmp_path, "bfloat16")
    merge(base, tasks[:1], tmp_path / "out.safetensors", method="magmax", scale=1.0)
    tau = stored[0]["b"][4:] - before["b"][4:]
    assert np.array_equal(values(tmp_path / "out.safetensors")["b"][4:], before["b"][4:] + tau)


def test_case_14_one_note_names_the_tasks_and_the_formats(tmp_path: Path) -> None:
    base, tasks, _, _ = half_frozen(tmp_path, "bfloat16")
    (note,) = [note for note in plan(base, tasks).notes if "bfloat16" in note]
    assert note == (
        "tasks 't0', 't1', 't2': stored as bfloat16, and the base as float32. Where rounding the base to bfloat16 "
        "gives the task's value, the task counts as unchanged."
    )
    assert not any("counts as unchanged" in note for note in plan(tasks[0], tasks[1:]).notes)
    assert not any("counts as unchanged" in note for note in plan(tasks[0], [base]).notes)  # more bits lose nothing


@pytest.mark.parametrize("name", KINDS)
def test_case_14_values_that_were_rounded_before_they_were_stored_are_told(tmp_path: Path, name: str) -> None:
    """A file of float32 does not say that its values once were bfloat16; saved as that it counts as unchanged."""
    rng = np.random.default_rng(4)
    base = {f"{i}.w": rng.standard_normal((20, 30)).astype(np.float32) for i in range(3)}
    paths = [put(tmp_path / "base.safetensors", base)]
    paths.append(put(tmp_path / "widened.safetensors", {key: rounded(x, name) for key, x in base.items()}))
    paths.append(put(tmp_path / "trained.safetensors", {key: x + np.float32(0.1) for key, x in base.items()}))
    (note,) = [note for note in plan(paths[0], paths[1:]).notes if name in note]
    assert note == (
        f"task 'widened': stored as float32, but every value that was looked at fits {name}, and the base's do not. "
        f"Rounding to {name} counts as a change, also where training changed nothing. Save a task that was {name} as "
        f"{name} again: that loses nothing, and then rounding does not count."
    )
    save_file({key: torch.from_numpy(x).to(KINDS[name]) for key, x in base.items()}, paths[1])  # what is advised
    notes = plan(paths[0], paths[1:]).notes
    assert any(note.startswith("task 'widened' does not differ from the base") for note in notes)


def test_case_14_what_the_base_holds_too_is_not_told(tmp_path: Path) -> None:
    """All of them in bfloat16 once, or a base of which all was: rounding differs nowhere."""
    rng = np.random.default_rng(4)
    base = {"w": rounded(rng.standard_normal((20, 30)).astype(np.float32), "bfloat16")}
    other = {"w": rounded(base["w"] + np.float32(0.1), "bfloat16")}
    few = {"w": np.zeros((20, 30), np.float32)}
    paths = [put(tmp_path / f"{i}.safetensors", state) for i, state in enumerate((base, other, few))]
    assert not any("looked at" in note for note in plan(paths[0], paths[1:]).notes)
    assert not any("looked at" in note for note in plan(paths[1], [paths[0], paths[2]]).notes)


def test_case_14_a_rounded_copy_of_the_base_is_no_task(tmp_path: Path) -> None:
    base, tasks, before, _ = half_frozen(tmp_path, "float16")
    save_file({key: torch.from_numpy(x).half() for key, x in before.items()}, tmp_path / "same.safetensors")
    planned = plan(base, [*tasks, tmp_path / "same.safetensors"])
    assert "task 'same' does not differ from the base: " in " ".join(planned.notes)


def test_case_14_formats_of_other_pairs(tmp_path: Path) -> None:
    """float64 over float32 and float16 over bfloat16 round too; a task vector holds what it holds."""
    rng = np.random.default_rng(5)
    base = {"w": rng.standard_normal((6, 5))}
    task = {"w": base["w"].astype(np.float32)}
    task["w"][3:] += np.float32(1)
    merged, _ = merge_state_dicts(base, [task], method="magmax", scale=1.0)
    assert np.array_equal(np.asarray(merged["w"])[:3], task["w"][:3])  # a merge computes in float32
    half = {"w": torch.from_numpy(base["w"]).bfloat16()}
    other = {"w": half["w"].half()}
    other["w"][3:] += 1
    merged, _ = merge_state_dicts(half, [other], method="magmax", scale=1.0)
    assert torch.equal(merged["w"][:3], half["w"][:3])
    tiny = put(tmp_path / "base.safetensors", {"w": np.ones((4, 5), np.float32)})
    task_file = put(tmp_path / "t.safetensors", {"w": np.full((4, 5), 1 + 2**-12, np.float32)})
    merge(tiny, [task_file], tmp_path / "tau.safetensors", method="magmax", as_task_vector=True)
    merge(tiny, [tmp_path / "tau.safetensors"], tmp_path / "out.safetensors", method="magmax", scale=1.0)
    assert np.array_equal(values(tmp_path / "out.safetensors")["w"], values(task_file)["w"])
    assert open_checkpoint(tmp_path / "tau.safetensors").tensors["w"].dtype.name == "float32"
