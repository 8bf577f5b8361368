"""Merging real files: formats, layouts, ties, task vectors, determinism on disk."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge import Receipt, merge, merge_state_dicts, open_checkpoint
from prefmerge.checkpoints import content_fingerprint
from prefmerge.checkpoints.dtypes import from_float32, to_float32
from prefmerge.merging.api import recipe_of, run
from prefmerge.outputs.write import Output
from tests.methods.problems import state_dicts


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[Path]]:
    base, tasks = state_dicts(4, 2)
    save_file(base, tmp_path / "base.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in ("cars", "birds", "digits", "signs")]
    for path, task in zip(paths, tasks, strict=True):
        save_file(task, path)
    return tmp_path / "base.safetensors", paths


def test_files_and_state_dicts_give_the_same_values(files: tuple[Path, list[Path]], tmp_path: Path):
    base, tasks = files
    receipt = merge(base, tasks, tmp_path / "out.safetensors", preference="cars=0.8,birds=0.2")
    expected, other = merge_state_dicts(
        load_file(base),
        [load_file(t) for t in tasks],
        names=["cars", "birds", "digits", "signs"],
        preference="0.8,0.2,0,0",
    )
    merged = load_file(tmp_path / "out.safetensors")
    assert merged.keys() == expected.keys()
    assert all(merged[k].tobytes() == expected[k].tobytes() for k in merged)
    assert receipt.owned == other.owned
    assert receipt.fingerprint == other.fingerprint
    written = replace(receipt.output, path="out.safetensors")  # which tells nobody where that is
    assert Receipt.load(tmp_path / "out.safetensors.receipt.json") == replace(receipt, output=written)
    assert "the preference does not mention digits, signs: share 0." in receipt.to_json()["notes"]


def test_equal_recipes_give_equal_files_whatever_the_threads_blocks_memory_names_and_places(
    files: tuple[Path, list[Path]], tmp_path: Path
):
    base, tasks = files
    contents = set()
    for i, (threads, block, memory) in enumerate(
        [(1, 65536, "1GB"), (3, 7, "1MiB"), (2, 1, "256MiB"), (2, 4096, "1kB")]
    ):
        out = tmp_path / f"elsewhere-{i}" / f"{i}.safetensors"
        names = [f"{name}{i}" for name in "abcd"]
        recipe = recipe_of(base, tasks, names=names, selection="paper", scope="model", preference="alpha:0.5")
        receipt = run(recipe, out, threads=threads, block=block, max_memory=memory)
        contents.add(out.read_bytes())
        if memory == "1kB":
            assert receipt.to_json()["run"]["scratch_bytes"] > 0
    assert len(contents) == 1


def test_an_output_is_hashed_while_it_is_written(
    files: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is read back only where blocks are shorter than what is hashed at a time."""
    base, tasks = files
    recipe = recipe_of(base, tasks, selection="paper", preference="alpha:2")
    expected = run(recipe, tmp_path / "short.safetensors", block=7).fingerprint
    monkeypatch.delattr(Output, "raw")
    receipt = run(recipe, tmp_path / "out.safetensors")
    assert receipt.fingerprint == expected == content_fingerprint(open_checkpoint(tmp_path / "out.safetensors"))
    with pytest.raises(AttributeError, match="raw"):
        run(recipe, tmp_path / "again.safetensors", block=7)


def test_shards_of_the_inputs_change_nothing(files: tuple[Path, list[Path]], tmp_path: Path):
    base, tasks = files
    tensors = load_file(base)
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[:2], names[2:5], names[5:]), start=1):
        file = f"model-{i:05}-of-00003.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    merge(base, tasks, tmp_path / "a.safetensors", selection="paper", scope="model")
    merge(folder, tasks, tmp_path / "b.safetensors", selection="paper", scope="model")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["magmax", "max_abs"])
def test_magmax_carried_on_through_task_vector_files_equals_all_at_once(
    files: tuple[Path, list[Path]], tmp_path: Path, method: str
):
    base, tasks = files
    merge(base, tasks, tmp_path / "at-once.safetensors", method=method)
    so_far = tmp_path / "vector-1.safetensors"
    merge(base, tasks[:1], so_far, method=method, as_task_vector=True)
    for i, task in enumerate(tasks[1:], start=2):
        merge(base, [so_far, task], tmp_path / f"vector-{i}.safetensors", method=method, as_task_vector=True)
        so_far = tmp_path / f"vector-{i}.safetensors"
    merge(base, [so_far], tmp_path / "carried-on.safetensors", method=method)
    assert (tmp_path / "carried-on.safetensors").read_bytes() == (tmp_path / "at-once.safetensors").read_bytes()
    vector = open_checkpoint(so_far)
    assert all(info.dtype.name == "float32" for info in vector.tensors.values())
    assert set(vector.tensors) == {n for n, v in load_file(base).items() if v.dtype == np.float32}


def test_a_task_vector_over_another_base_is_refused(files: tuple[Path, list[Path]], tmp_path: Path):
    base, tasks = files
    merge(base, tasks[:2], tmp_path / "vector.safetensors", method="magmax", as_task_vector=True)
    with pytest.raises(prefmerge.PrefmergeError, match=r"task 'vector' .* is a task vector over another base"):
        merge(tasks[3], [tmp_path / "vector.safetensors"], tmp_path / "out.safetensors", method="magmax")
    with pytest.raises(prefmerge.PrefmergeError, match="is a task vector, not a model"):
        merge(tmp_path / "vector.safetensors", tasks[:1], tmp_path / "out.safetensors", method="magmax")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_other_number_formats_are_merged_in_float32_and_rounded_once(name: str, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="writes bfloat16 files; safetensors' NumPy half cannot")
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, name)
    base = {"w": torch.randn(40, 30, generator=generator).to(dtype)}
    tasks = [{"w": (base["w"] + 0.1 * torch.randn(40, 30, generator=generator)).to(dtype)} for _ in range(3)]
    for stem, state in zip(("base", "a", "b", "c"), (base, *tasks), strict=True):
        save(state, tmp_path / f"{stem}.safetensors")
    paths = [tmp_path / f"{stem}.safetensors" for stem in "abc"]
    merge(tmp_path / "base.safetensors", paths, tmp_path / "out.safetensors", method="magmax", scale=1)
    deltas = torch.stack([t["w"].float() - base["w"].float() for t in tasks])
    # argmax names the first of equals, MAGMAX the last: look from the end.
    owner = 2 - deltas.flip(0).abs().argmax(0)
    tau = deltas.gather(0, owner[None])[0]
    expected = (base["w"].float() + tau).to(dtype)
    assert torch.equal(load(tmp_path / "out.safetensors")["w"], expected)
    merge(
        tmp_path / "base.safetensors", paths, tmp_path / "wide.safetensors", method="magmax", scale=1, dtype="float32"
    )
    assert torch.equal(load(tmp_path / "wide.safetensors")["w"], base["w"].float() + tau)


def test_torch_state_dicts_keep_their_kind_and_ties():
    torch = pytest.importorskip("torch", reason="torch tensors")
    embedding = torch.randn(9, 4, dtype=torch.bfloat16)
    base = {"embed.weight": embedding, "head.weight": embedding, "steps": torch.tensor(3)}
    tasks = []
    for scale in (0.5, 2.0):
        moved = embedding * scale
        tasks.append({"embed.weight": moved, "head.weight": moved, "steps": torch.tensor(4)})
    merged, receipt = merge_state_dicts(base, tasks)
    assert merged["embed.weight"].dtype == torch.bfloat16
    assert torch.equal(merged["embed.weight"], merged["head.weight"])
    assert merged["embed.weight"].data_ptr() == merged["head.weight"].data_ptr()
    assert merged["steps"].item() == 3
    assert receipt.to_json()["elements"]["tied"] == 36
    assert receipt.owned == (18, 18)
    assert any("'steps' holds int64 and differs in task-1, task-2" in note for note in receipt.to_json()["notes"])


def test_ties_dropped_by_saving_are_found_again(tmp_path: Path):
    torch = pytest.importorskip("torch", reason="a .bin base")
    embedding = torch.randn(9, 4)
    torch.save({"embed.weight": embedding, "head.weight": embedding}, tmp_path / "base.bin")
    for name, scale in (("a", 0.5), ("b", 2.0)):
        save_file({"embed.weight": (embedding * scale).numpy()}, tmp_path / f"{name}.safetensors")
    merge(tmp_path / "base.bin", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "out.safetensors")
    merged = load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(merged["embed.weight"], merged["head.weight"])


def test_exclude_copies_from_the_base_and_ignores_a_tasks_own_head(files: tuple[Path, list[Path]], tmp_path: Path):
    base, tasks = files
    for i, path in enumerate(tasks):
        state = load_file(path)
        state["head.weight"] = np.ones((i + 2, 3), np.float32)
        state["deep.bias"] = state["deep.bias"][: i + 1]
        save_file(state, path)
    receipt = merge(base, tasks, tmp_path / "out.safetensors", exclude=["head.*", "deep.bias"])
    merged = load_file(tmp_path / "out.safetensors")
    assert "head.weight" not in merged
    assert merged["deep.bias"].tobytes() == load_file(base)["deep.bias"].tobytes()
    assert receipt.to_json()["tensors"]["deep.bias"]["role"] == "excluded"


def test_a_narrower_format_that_cannot_hold_a_value_is_an_error(tmp_path: Path):
    save_file({"w": np.zeros(4, np.float32)}, tmp_path / "base.safetensors")
    save_file({"w": np.array([0, 1, 1e5, 0], np.float32)}, tmp_path / "task.safetensors")
    with pytest.raises(
        prefmerge.PrefmergeError, match=r"tensor 'w': the merged value 100000 at element 2 does not fit float16"
    ):
        merge(
            tmp_path / "base.safetensors",
            [tmp_path / "task.safetensors"],
            tmp_path / "out.safetensors",
            method="last",
            dtype="float16",
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.safetensors", "task.safetensors"]


def test_fingerprints_say_what_was_read(files: tuple[Path, list[Path]], tmp_path: Path):
    base, tasks = files
    receipt = merge(base, tasks, tmp_path / "out.safetensors", preference="0.5,0,0.5,0")
    covers = [row["covers"] for row in receipt.to_json()["inputs"]["tasks"]]
    assert covers == ["content", "header", "content", "header"]
    assert receipt.to_json()["inputs"]["base"]["fingerprint"] == prefmerge.checkpoints.content_fingerprint(
        open_checkpoint(base)
    )
    strong = merge(base, tasks, tmp_path / "two.safetensors", sha256=True)
    assert all(len(digest) == 64 for digest in strong.to_json()["inputs"]["tasks"][0]["sha256"].values())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_rounding_to_narrow_formats_is_to_nearest_even(dtype: str):
    torch = pytest.importorskip("torch", reason="the reference for bfloat16")
    from prefmerge.checkpoints.dtypes import DTYPES

    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    kind = {"BF16": torch.bfloat16, "F16": torch.float16}[dtype]
    expected = torch.from_numpy(values).to(kind).float().numpy()
    np.testing.assert_array_equal(to_float32(from_float32(values, DTYPES[dtype]), DTYPES[dtype]), expected)


def test_what_is_copied_beside_the_weights_counts_in_the_disk_check(
    files: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, tasks = files
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(base, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(b" " * 5_000_000)
    weights = (folder / "model.safetensors").stat().st_size
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, weights + 4_000_000))
    with pytest.raises(prefmerge.PrefmergeError, match=r"out: needs 50\d{5} bytes, and .* has 40\d{5} bytes free"):
        merge(folder, tasks, tmp_path / "out", max_memory="100GB")  # no scratch, whatever this process holds
    merge(folder, tasks, tmp_path / "out.safetensors", max_memory="100GB")  # a file takes nothing along
    assert not (tmp_path / "out").exists()
