"""A merge that was interrupted and resumed: the same bytes, only what was missing, and nothing of another merge's."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import Receipt, merge
from prefmerge.errors import CheckpointChanged, DiskFull, OutputBusy, OutputError, OutputExists
from prefmerge.ground import atomic, locks
from prefmerge.merging import many, pieces
from prefmerge.merging.api import recipe_of, run
from prefmerge.merging.recipe_documents import merge_recipes
from prefmerge.merging.sweep import sweep
from prefmerge.methods import METHODS
from prefmerge.outputs import shards
from tests.field.attacked import call
from tests.merging.damaging import DAMAGES
from tests.merging.test_candidates import files

OWN: dict[str, dict[str, Any]] = {
    "nuslerp": {"weights": ["0.3", "0.7"]},
    "tunable_magmax": {"preference": "alpha:2"},
}


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece for every tensor, so that what is kept does not depend on the time."""
    monkeypatch.setattr(pieces, "EVERY", 0.0)


@contextlib.contextmanager
def after(tensors: int, then: Callable[[], object] | None = None) -> Iterator[None]:
    """A block in which merges stop once so many tensors are kept. `then`: in place of that."""
    count, add = 0, pieces.Pieces.add

    def counted(*given: Any) -> None:
        nonlocal count
        add(*given)
        count += 1
        if count == tensors and then is not None:
            then()
        elif count == tensors:
            raise Stop

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pieces.Pieces, "add", counted)
        yield


def interrupt(base: Path, tasks: list[Path], out: Path, tensors: int = 2, **given: Any) -> None:
    with pytest.raises(Stop), after(tensors):
        merge(base, tasks, out, resume=True, threads=1, **given)
    assert not out.exists()
    assert len(left(out)) == 1


def left(out: Path) -> list[Path]:
    return atomic.work_folders(out)


def of(receipt: Receipt) -> dict[str, Any]:
    """What must not differ: all but the run and the name of the output."""
    return replace(receipt, run=None, output=replace(receipt.output, path=None, files=())).to_json()  # pyright: ignore


def change(path: Path, tensor: str) -> None:
    state = load_file(path)
    state[tensor] = state[tensor] + np.float32(1)
    save_file(state, path)


def names_of(path: Path) -> list[str]:
    return sorted(load_file(path))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_to_the_same_bytes_and_receipt(method: str, tmp_path: Path, filled: list[str]) -> None:
    rule = METHODS[method]
    base, tasks = files(tmp_path, tasks=min(rule.most if rule.most is not None else 2, 2))
    given: dict[str, Any] = {"method": method, **OWN.get(method, {})}
    whole = merge(base, tasks, tmp_path / "whole.safetensors", **given)
    everything = sorted(filled)
    filled.clear()
    interrupt(base, tasks, tmp_path / "out.safetensors", **given)
    done = filled[:2]
    filled.clear()
    receipt = merge(base, tasks, tmp_path / "out.safetensors", resume=True, **given)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert receipt.run.kept == 2
    assert sorted([*filled, *done]) == everything  # each tensor was finished once
    assert of(receipt) == of(whole)
    assert left(tmp_path / "out.safetensors") == []


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ({"method": "ties", "scope": "model"}, "out.safetensors"),
        ({"scope": "model", "selection": "paper"}, "out.safetensors"),
        ({"preference": "1,0"}, "out.safetensors"),  # the second task is not read: the receipt has its header alone
        ({"as_task_vector": True}, "out.safetensors"),
        ({"dtype": "bfloat16"}, "out.safetensors"),
        ({"max_shard_size": 300}, "out"),
        ({"method": "average", "sha256": True}, "out"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_however_it_is_written(given: dict[str, Any], out: str, dtype: str, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, dtype, 2)
    whole = merge(base, tasks, tmp_path / "whole" / out, **given)
    interrupt(base, tasks, tmp_path / "one" / out, **given)
    receipt = merge(base, tasks, tmp_path / "one" / out, resume=True, **given)
    assert receipt.run.kept == 2
    assert of(receipt) == of(whole)
    there = [{str(p.relative_to(at)): p for p in at.rglob("*")} for at in (tmp_path / "whole", tmp_path / "one")]
    assert there[0].keys() == there[1].keys()
    for name, path in there[0].items():
        if not name.endswith(("receipt.json", "README.md")) and path.is_file():
            assert path.read_bytes() == there[1][name].read_bytes()


def test_a_model_as_one_scope_that_is_finished_needs_no_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: list[str]
) -> None:
    base, tasks = files(tmp_path, tasks=2)
    whole = merge(base, tasks, tmp_path / "whole.safetensors", scope="model")
    out = tmp_path / "out.safetensors"

    def refuse(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(many, "_published", refuse)
        with pytest.raises(Stop):
            merge(base, tasks, out, scope="model", resume=True)
    filled.clear()
    receipt = merge(base, tasks, out, scope="model", resume=True)
    assert filled == []
    assert of(receipt) == of(whole)
    interrupt(base, tasks, out.with_name("more.safetensors"), scope="model")
    change(tasks[0], names_of(base)[-1])  # budgets over the whole model: nothing of before holds
    receipt = merge(base, tasks, out.with_name("more.safetensors"), scope="model", resume=True)
    assert receipt.run.kept is None


def test_what_is_added_is_kept_with_it(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    state = load_file(base)
    name = max(state, key=lambda one: state[one].size)  # is merged first
    added = {name: np.full(state[name].size, 0.5, np.float32)}
    recipe, out = recipe_of(base, tasks), tmp_path / "out.safetensors"
    run(recipe, tmp_path / "whole.safetensors", added=added)
    with pytest.raises(Stop), after(2):
        run(recipe, out, added=added, resume=True, threads=1)
    assert run(recipe, out, added=added, resume=True).run.kept == 2
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    with pytest.raises(Stop), after(2):
        run(recipe, tmp_path / "out-2.safetensors", added=added, resume=True, threads=1)
    added[name][0] = 0.25
    assert run(recipe, tmp_path / "out-2.safetensors", added=added, resume=True).run.kept is None


# What is never taken, and what may differ

OTHERS: dict[str, tuple[dict[str, Any], int | None]] = {
    "threads": ({"threads": 3}, 2),
    "memory": ({"max_memory": "64MiB"}, 2),
    "scale": ({"scale": "0.25"}, None),
    "seed": ({"seed": 1}, None),
    "preference": ({"preference": "0.3,0.7"}, None),
    "number format": ({"dtype": "float16"}, None),
    "method": ({"method": "average"}, None),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_parameters_take_nothing(what: str, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    given, kept = OTHERS[what]
    interrupt(base, tasks, tmp_path / "out.safetensors")
    receipt = merge(base, tasks, tmp_path / "out.safetensors", resume=True, **given)
    merge(base, tasks, tmp_path / "whole.safetensors", **given)
    assert receipt.run.kept == kept
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert left(tmp_path / "out.safetensors") == []


def test_other_shards_and_another_version_take_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = files(tmp_path, tasks=2)
    interrupt(base, tasks, tmp_path / "out", max_shard_size=300)
    assert merge(base, tasks, tmp_path / "out", max_shard_size="1GB", resume=True).run.kept is None
    interrupt(base, tasks, tmp_path / "out.safetensors")
    monkeypatch.setattr(pieces, "_engine", lambda: "another")
    assert merge(base, tasks, tmp_path / "out.safetensors", resume=True).run.kept is None


@pytest.mark.parametrize("which", ["base", "task"])
def test_of_a_changed_input_the_tensors_that_are_the_same_are_taken(
    which: str, tmp_path: Path, filled: list[str]
) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    interrupt(base, tasks, out)
    done = filled[:2]
    changed = base if which == "base" else tasks[1]
    times = changed.stat()
    change(changed, done[0])
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    filled.clear()
    receipt = merge(base, tasks, out, resume=True)
    assert (receipt.run.kept, done[0] in filled, done[1] in filled) == (1, True, False)
    whole = merge(base, tasks, tmp_path / "whole.safetensors")
    assert of(receipt) == of(whole)
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_inputs_that_were_copied_elsewhere_are_the_same(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    interrupt(base, tasks, out)
    (tmp_path / "copy").mkdir()
    base, *tasks = [Path(shutil.copy(one, tmp_path / "copy")) for one in (base, *tasks)]
    assert merge(base, tasks, out, resume=True).run.kept == 2


def test_an_adapter_counts_as_a_whole(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=1)
    state = {"layer.weight": np.ones((8, 6), np.float32), "more.weight": np.ones((4, 6), np.float32)}
    save_file(state, base)
    save_file({name: values * 2 for name, values in state.items()}, tasks[0])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    factors = {"lora_A": np.ones((2, 6), np.float32), "lora_B": np.ones((8, 2), np.float32)}
    named = {f"base_model.model.layer.{name}.weight": values for name, values in factors.items()}
    save_file(named, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layer"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    out = tmp_path / "out.safetensors"
    given: dict[str, Any] = {"method": "average"}
    interrupt(base, [*tasks, adapter], out, tensors=1, **given)
    assert merge(base, [*tasks, adapter], out, resume=True, **given).run.kept == 1
    interrupt(base, [*tasks, adapter], tmp_path / "out-2.safetensors", tensors=1, **given)
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 12}))
    assert merge(base, [*tasks, adapter], tmp_path / "out-2.safetensors", resume=True, **given).run.kept is None


def test_an_input_that_changes_meanwhile_and_back_leaves_nothing_wrong(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out, before = tmp_path / "out.safetensors", tasks[0].read_bytes()

    def write() -> None:
        with tasks[0].open("r+b") as file:  # in place
            file.seek(-64, os.SEEK_END)
            file.write(np.ones(16, np.float32).tobytes())

    with pytest.raises(CheckpointChanged), after(1, write):
        merge(base, tasks, out, resume=True, threads=1)
    tasks[0].write_bytes(before)
    assert merge(base, tasks, out, resume=True).run.kept == 1  # of what came after the change nothing was noted
    merge(base, tasks, tmp_path / "whole.safetensors")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


# Damage


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    interrupt(base, tasks, out)
    damage(left(out)[0])
    assert merge(base, tasks, out, resume=True).run.kept is None
    merge(base, tasks, tmp_path / "whole.safetensors")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_of_damaged_weights_the_others_are_taken(tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    interrupt(base, tasks, out)
    done = filled[:2]
    (weights,) = (left(out)[0] / "output").iterdir()
    content = bytearray(weights.read_bytes())
    header = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + header])[done[0]]["data_offsets"]
    content[8 + header + (begin + end) // 2] ^= 64
    weights.write_bytes(content)
    filled.clear()
    assert merge(base, tasks, out, resume=True).run.kept == 1
    assert done[0] in filled
    merge(base, tasks, tmp_path / "whole.safetensors")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_files_that_do_not_belong_there_do_not_come_along(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    interrupt(base, tasks, tmp_path / "out")
    (left(tmp_path / "out")[0] / "output" / "more").mkdir()
    (left(tmp_path / "out")[0] / "output" / "more" / "x.py").touch()
    (left(tmp_path / "out")[0] / "output" / "receipt.json").write_text("{}")
    assert merge(base, tasks, tmp_path / "out", resume=True).run.kept == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "model.safetensors", "receipt.json"]


def test_what_another_user_left_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = files(tmp_path, tasks=2)
    interrupt(base, tasks, tmp_path / "out.safetensors")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OutputError, match="another user made it"):
        merge(base, tasks, tmp_path / "out.safetensors", resume=True)


# Full disks, two at once, and who cleans up


def test_on_a_full_disk_what_is_finished_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out, write, calls = tmp_path / "out.safetensors", shards.write_all, []

    def full(*given: Any) -> None:
        calls.append(given)
        if len(calls) > 3:  # the header, what is copied, one tensor
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_all", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            merge(base, tasks, out, resume=True, threads=1)
    assert merge(base, tasks, out, resume=True).run.kept == 1


def test_a_piece_that_cannot_be_written_is_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = files(tmp_path, tasks=2)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "sync", full)
        with pytest.raises(DiskFull, match=r"out\.safetensors: the disk is full"):
            merge(base, tasks, tmp_path / "out.safetensors", resume=True)
    merge(base, tasks, tmp_path / "out.safetensors", resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_two_at_once_are_one_and_a_refusal(resume: bool, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    interrupt(base, tasks, out)
    with locks.claim(out), pytest.raises(OutputBusy):
        merge(base, tasks, out, resume=resume)
    assert len(left(out)) == 1
    assert merge(base, tasks, out, resume=True).run.kept == 2


def test_without_resume_nothing_is_left_and_what_was_left_goes(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)

    def stop(done: int, everything: int, what: str) -> None:
        if done > everything / 2:
            raise Stop

    out = tmp_path / "out.safetensors"
    with pytest.raises(Stop):
        merge(base, tasks, out, progress=stop)
    assert left(out) == []
    interrupt(base, tasks, out)
    assert merge(base, tasks, out).run.kept is None
    assert left(out) == []
    with pytest.raises(OutputExists):
        merge(base, tasks, out, resume=True, scale="0.25")


# Several outputs


def test_a_sweep_resumes_within_its_models(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    recipe, vary = recipe_of(base, tasks), {"scale": ["0.5", "1"]}
    whole = sweep(recipe, tmp_path / "whole", vary)
    with pytest.raises(Stop), after(4):
        sweep(recipe, tmp_path / "swept", vary, resume=True, threads=1)
    swept = sweep(recipe, tmp_path / "swept", vary, resume=True)
    assert [(one.kept, one.receipt.run.kept) for one in swept] == [(False, 2)] * 2
    assert [one.out.read_bytes() for one in swept] == [one.out.read_bytes() for one in whole]
    assert not [path for path in (tmp_path / "swept").iterdir() if path.name.startswith(".")]


def test_what_a_kill_at_the_very_end_left_beside_a_model_goes(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    recipe, vary = recipe_of(base, tasks), {"scale": ["0.5"]}
    (model,) = sweep(recipe, tmp_path / "swept", vary)
    work = atomic.kept_folder(model.out, "0123456789abcdef") / "output"
    work.mkdir(parents=True)
    receipt = model.out.with_name(f"{model.out.name}.receipt.json")
    receipt.rename(work / receipt.name)  # killed between its two renames
    locks.lock_file(model.out).write_bytes(b"1 elsewhere")
    assert sweep(recipe, tmp_path / "swept", vary, resume=True)[0].kept
    assert sorted(os.listdir(tmp_path / "swept")) == [model.out.name, receipt.name, "sweep.json"]


def test_recipes_of_one_file_resume_after_the_last_that_is_finished(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    models = f"[{{model: {tasks[0].name}, parameters: {{weight: 1}}}}]"
    text = f"base_model: {base.name}\nmerge_method: linear\nmodels: {models}\ndtype: float32\n"
    (tmp_path / "recipes.yaml").write_text(f"name: one\n{text}---\nname: two\n{text.replace('weight: 1', 'weight: 2')}")
    out = tmp_path / "out"
    first = merge_recipes(tmp_path / "recipes.yaml", out)
    shutil.rmtree(out / "two")
    again = merge_recipes(tmp_path / "recipes.yaml", out, resume=True)
    assert again["one"].run == first["one"].run
    assert again["two"].run != first["two"].run
    changed = (tmp_path / "recipes.yaml").read_text().replace("weight: 2", "weight: 3")
    (tmp_path / "recipes.yaml").write_text(changed)
    with pytest.raises(OutputExists, match=r"out/two: already exists"):
        merge_recipes(tmp_path / "recipes.yaml", out, resume=True)


def test_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = files(tmp_path, tasks=2)
    line = ["merge", base, *tasks, "-o", tmp_path / "out.safetensors", "--resume", "--threads", "1"]
    add = pieces.Pieces.add

    def interrupted(*given: Any) -> None:
        add(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pieces.Pieces, "add", interrupted)
        assert call(*line).stderr == "error: interrupted; the same command resumes.\n"
    said = call(*line).stdout
    assert re.search(r"^1 tensor of \d+ had been finished before\.$", said, re.MULTILINE), said


@pytest.mark.parametrize("before", [True, False])
def test_a_report_has_what_was_measured_before(before: bool, tmp_path: Path, filled: list[str]) -> None:
    """Without a report before, nothing was measured, so all is merged again."""
    base, tasks = files(tmp_path)
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    merge(base, tasks, whole, method="magmax", report=True)
    every = len(filled)
    interrupt(base, tasks, out, method="magmax", report=before)
    filled.clear()
    receipt = merge(base, tasks, out, resume=True, method="magmax", report=True)
    assert len(filled) == (every - 2 if before else every)
    assert out.read_bytes() == whole.read_bytes()
    assert receipt.run.kept == (2 if before else None)
    reports = [path.with_name(f"{path.name}.report.html").read_bytes() for path in (whole, out)]
    assert reports[0] == reports[1]
