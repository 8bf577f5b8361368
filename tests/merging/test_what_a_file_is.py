"""What a file really is: quantised weights, leftovers, one tensor stored twice, a task that is the base."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import PrefmergeError, Receipt, merge, merge_state_dicts, open_checkpoint, plan, verify
from prefmerge.checkpoints.quantised import signs_of_quantisation
from prefmerge.merging import sameness
from prefmerge.merging.candidates import Candidates
from tests.checkpoints.files import entry, write_raw

State = dict[str, np.ndarray]


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes(seed: int, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def save(path: Path, state: State, **config: object) -> Path:
    """A file, or a folder where there is a config."""
    if not config:
        save_file(state, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    path.mkdir()
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


# What each quantiser leaves, next to one float tensor that would have been merged.
QUANTISED: dict[str, tuple[State, str]] = {
    "bitsandbytes, 4 bits": (
        {
            "l.weight": codes(1, 64, 1),
            "l.weight.absmax": floats(2, 4),
            "l.weight.quant_map": floats(3, 16),
            "l.weight.quant_state.bitsandbytes__nf4": codes(4, 90),
        },
        "'l.weight.absmax', 'l.weight.quant_map', 'l.weight.quant_state.bitsandbytes__nf4'. Quantised",
    ),
    "bitsandbytes, 8 bits": (
        {"l.weight": codes(1, 8, 8, dtype=np.int8), "l.SCB": floats(2, 8), "l.weight_format": codes(3)},
        "'l.SCB', 'l.weight_format'",
    ),
    "GPTQ": (
        {
            "l.qweight": codes(1, 4, 8, dtype=np.int32),
            "l.qzeros": codes(2, 1, 1, dtype=np.int32),
            "l.scales": floats(3, 1, 8),
            "l.g_idx": codes(4, 32, dtype=np.int32),
        },
        "'l.g_idx', 'l.qweight', 'l.qzeros'",
    ),
    "compressed-tensors, packed": (
        {"l.weight_packed": codes(1, 8, 1, dtype=np.int32), "l.weight_scale": floats(2, 8, 1)},
        "'l.weight_packed'",
    ),
    "compressed-tensors, int8": (
        {"l.weight": codes(1, 8, 8, dtype=np.int8), "l.weight_scale": floats(2, 8, 1)},
        "'l.weight'",
    ),
    "MLX": (
        {"l.weight": codes(1, 8, 2, dtype=np.uint32), "l.scales": floats(2, 8, 1), "l.biases": floats(3, 8, 1)},
        "'l.weight'",
    ),
    "MXFP4": (
        {"e.down_proj_blocks": codes(1, 2, 8, 4, 16), "e.down_proj_scales": codes(2, 2, 8, 4)},
        "'e.down_proj_blocks'",
    ),
    "HQQ": ({"l.W_q": codes(1, 8, 8), "l.scale": floats(2, 8, 1), "l.zero": floats(3, 8, 1)}, "'l.W_q'"),
    "quanto": (
        {"l.weight._data": codes(1, 8, 8, dtype=np.int8), "l.weight._scale": floats(2, 8, 1)},
        "'l.weight._data'",
    ),
    "torchao": (
        {"l.weight:_data": codes(1, 8, 8, dtype=np.int8), "l.weight:_scale": floats(2, 8, 1)},
        "'l.weight:_data'",
    ),
    "attention's own weight": (
        {"a.in_proj_weight": codes(1, 8, 8, dtype=np.int8), "a.in_proj_weight_scale": floats(2, 8, 1)},
        "'a.in_proj_weight'",
    ),
    "AQLM": (
        {"l.codes": codes(1, 4, 4, 1, dtype=np.int16), "l.codebooks": floats(2, 1, 16, 1, 8), "l.scales": floats(3, 4)},
        "'l.codes'",
    ),
    "VPTQ": (
        {"l.indices": codes(1, 1, 4, 4, dtype=np.int32), "l.centroids.weight": floats(2, 1, 128)},
        "'l.indices'",
    ),
    "EXL3": (
        {"l.trellis": codes(1, 4, 4, 8, dtype=np.int16), "l.suh": floats(2, 4), "l.svh": floats(3, 4)},
        "'l.trellis'",
    ),
    "Marlin": ({"l.B": codes(1, 4, 8, dtype=np.int32), "l.s": floats(2, 1, 8)}, "'l.B'"),
    "torch": ({"l._packed_params": codes(1, 8, 8, dtype=np.int8), "l.scale": floats(2, 1)}, "'l._packed_params'"),
    "GGML's blocks": ({"l.weight": codes(1, 4096)}, "'l.weight'"),
    "codes without a scale": ({"l.weight": codes(1, 64, 64, dtype=np.int8)}, "'l.weight'"),
}


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("where", ["base", "task"])
def test_case_3a_3c_quantised_weights_are_refused_before_anything_is_written(tmp_path: Path, kind: str, where: str):
    tensors, named = QUANTISED[kind]
    good = save(tmp_path / "good", {"norm.weight": floats(0, 8)})
    bad = save(tmp_path / "bad", {"norm.weight": floats(1, 8), **tensors})
    base, task = (bad, good) if where == "base" else (good, bad)
    role = "base" if where == "base" else "task 'bad'"
    for call in (plan, lambda b, t: merge(b, t, tmp_path / "out.safetensors")):
        with pytest.raises(PrefmergeError) as told:
            call(base, [task])
        assert str(told.value).startswith(f"{role} ({bad}) is quantised: it has {named}")
        assert str(told.value).endswith("merge the float originals and quantise the result.")
    with Candidates(base, [task]) as candidates, pytest.raises(PrefmergeError, match="is quantised"):
        candidates.models([{}])
    assert not (tmp_path / "out.safetensors").exists()


def test_case_3a_a_float8_weight_with_its_scale_is_refused_and_one_that_is_left_out_is_not(tmp_path: Path):
    for name in ("base", "task"):
        header = {"a": entry("F32", [2], 0, 8), "l.weight": entry("F8_E4M3", [2, 2], 8, 12)}
        header["l.weight_scale_inv"] = entry("F32", [1, 1], 12, 16)
        write_raw(tmp_path / f"{name}.safetensors", header, floats(len(name), 4).tobytes())
    base, task = tmp_path / "base.safetensors", tmp_path / "task.safetensors"
    with pytest.raises(PrefmergeError, match=r"base \(.*base.safetensors\) is quantised: it has 'l.weight'. "):
        plan(base, [task])
    plan(base, [task], exclude=("l.*",)).close()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "'quantization_config' in config.json"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, "'text_config.quantization_config' in config.json"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "'quantization' in config.json"),
    ],
)
def test_case_3a_a_configuration_that_speaks_of_quantisation_is_a_sign(tmp_path: Path, config: dict, named: str):
    base = save(tmp_path / "base", {"w": floats(0, 8)}, **config)
    task = save(tmp_path / "task", {"w": floats(1, 8)})
    for given in (base, base / "model.safetensors"):
        with pytest.raises(PrefmergeError, match="is quantised") as told:
            plan(given, [task])
        assert f"({given}) is quantised: it has {named}. " in str(told.value)
    assert not signs_of_quantisation(open_checkpoint(task))


def test_case_3c_buffers_of_integers_are_no_sign_of_quantisation(tmp_path: Path):
    state = {
        "attn.logit_scale": floats(0, 3, 1, 1),
        "attn.relative_position_index": codes(1, 9, 9, dtype=np.int64),
        "attn.scale": floats(2, 1),
        "attn.mask": codes(3, 9, 9),
        "attn.bias": codes(4, 1, 1, 9, 9),
        "bn.num_batches_tracked": codes(5, dtype=np.int64),
        "bn.weight": floats(6, 3),
        "embeddings.position_ids": codes(7, 1, 9, dtype=np.int64),
        "embeddings.weight": codes(8, 9, 3, dtype=np.int64),
        "embeddings.scale": floats(13, 1),
        "mask.weight": codes(14, 9, 3),
        "weight_scale": floats(9, 3),
        "norm.scale": floats(10, 3),
        "res_blocks": codes(11, 3),
    }
    base = save(tmp_path / "base", state, model_type="swin", quantization_config=None)
    assert signs_of_quantisation(open_checkpoint(base)) == []
    plan(base, [save(tmp_path / "task", {**state, "bn.weight": floats(12, 3)})]).close()


def leftover(folder: Path, file: str, shards: list[str], placed: dict[str, str] | None = None) -> Path:
    """A folder with shards, their index (unless `placed` is empty), and a whole file of the same name beside them."""
    folder.mkdir()
    suffix = file.rpartition(".")[2]
    if suffix == "safetensors":
        save_file({"a": floats(9, 4), "b": floats(9, 4)}, folder / file)
    else:
        (folder / file).write_bytes(b"of the first training")
    for tensor, shard in zip("ab", shards, strict=True):
        save_file({tensor: floats(ord(tensor), 4)}, folder / shard)
    if placed is None:
        placed = dict(zip("ab", shards, strict=True))
    if placed:
        (folder / f"{file}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_case_5a_a_leftover_beside_an_index_of_other_files_is_for_the_user_to_choose(tmp_path: Path, file: str):
    shards = [f"part-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder = leftover(tmp_path / "saved", file, shards)
    with pytest.raises(PrefmergeError) as told:
        open_checkpoint(folder)
    index = f"{file}.index.json"
    assert str(told.value) == (
        f"{folder}: two checkpoints: {file}, and {index}, whose weights are in {shards[0]} and 1 more. "
        f"Give the one you mean, {folder / file} or {folder / index}, or move the other away."
    )
    base = save(tmp_path / "base", {"a": floats(1, 4), "b": floats(2, 4)})
    with pytest.raises(PrefmergeError, match="two checkpoints"):
        plan(base, [folder])
    assert open_checkpoint(folder / index).raw("a").tolist() == floats(ord("a"), 4).tolist()
    if file.endswith("safetensors"):
        assert open_checkpoint(folder / file).raw("a").tolist() == floats(9, 4).tolist()


def test_case_5a_a_leftover_beside_shards_that_lost_their_index_is_for_the_user_to_choose(tmp_path: Path):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder = leftover(tmp_path / "saved", "model.safetensors", shards, placed={})
    with pytest.raises(PrefmergeError, match=r"two checkpoints: model.safetensors, and model-00001-of-00002.safetens"):
        open_checkpoint(folder)
    (folder / shards[0]).rename(folder / "consolidated-00001-of-00002.safetensors")
    (folder / shards[1]).unlink()
    assert list(open_checkpoint(folder).tensors) == ["a", "b"]


def test_case_5a_an_index_that_counts_the_file_among_its_shards_is_no_second_checkpoint(tmp_path: Path):
    for file in ("model.safetensors", "diffusion_pytorch_model.safetensors"):
        save_file({"a": floats(0, 4), "b": floats(1, 4)}, tmp_path / file)
        placed = {"a": file, "b": file}
        (tmp_path / f"{file}.index.json").write_text(json.dumps({"weight_map": placed}))
        assert list(open_checkpoint(tmp_path).tensors) == ["a", "b"]
        # The file is one shard of several: alone it would be half of the model.
        save_file({"c": floats(2, 4)}, tmp_path / "rest.safetensors")
        (tmp_path / f"{file}.index.json").write_text(json.dumps({"weight_map": {**placed, "c": "rest.safetensors"}}))
        if file == "model.safetensors":
            assert list(open_checkpoint(tmp_path).tensors) == ["a", "b", "c"]
        for path in tmp_path.iterdir():
            path.unlink()


def test_case_5a_an_index_that_is_none_hides_no_checkpoint(tmp_path: Path):
    save_file({"a": floats(0, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("x")
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


def test_case_5a_an_index_of_shards_that_are_not_there_is_the_leftover(tmp_path: Path):
    folder = save(tmp_path / "model", {"w": floats(0, 4)}, model_type="x")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}})
    )
    assert list(open_checkpoint(folder).tensors) == ["w"]


def test_thousands_of_foreign_names_are_refused_in_a_moment():
    state = {f"layer.{i}.weight": floats(i, 2, 2) for i in range(1500)}
    task = {**state, **{f"other.{i}.weight": floats(i + 5000, 2, 2) for i in range(1500)}}
    began = time.perf_counter()
    with pytest.raises(PrefmergeError, match="has 1500 tensors that the base lacks"):
        merge_state_dicts(state, [task])
    assert time.perf_counter() - began < 5  # pair by pair it takes several times as long


def test_case_5a_files_of_two_libraries_beside_one_another_are_no_leftover(tmp_path: Path):
    folder = leftover(tmp_path / "hub", "pytorch_model.bin", ["x.safetensors", "y.safetensors"])
    save_file({"a": floats(0, 4)}, folder / "model.safetensors")
    assert list(open_checkpoint(folder).tensors) == ["a"]
    (folder / "pytorch_model.bin.index.json").unlink()
    assert list(open_checkpoint(folder).tensors) == ["a"]


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def llama(seed: int, *, names: tuple[str, ...] = (EMBED, HEAD), dtype: type = np.float32) -> State:
    """A model whose embeddings are stored under every one of `names`, each a copy of its own."""
    embed = floats(seed, 64, 8).astype(dtype)
    return {
        **{name: embed.copy() for name in names},
        "model.norm.weight": floats(seed + 100, 8),
        "model.up.weight": floats(seed + 200, 64, 8),
    }


def owned(receipt: Receipt) -> list[int]:
    assert receipt.owned is not None
    return list(receipt.owned)


def three(folder: Path) -> tuple[Path, list[Path]]:
    base, *tasks = [save(folder / name, llama(i, names=(EMBED,))) for i, name in enumerate(("base", "cars", "birds"))]
    return base, tasks


def a_copy(path: Path, how: str, folder: Path) -> Path:
    """The same values under another path."""
    state = load_file(path)
    if how == "copy":
        return Path(shutil.copy(path, folder / "same.safetensors"))
    if how == "shards":
        place = folder / "same"
        place.mkdir()
        for i, name in enumerate(state):
            save_file({name: state[name]}, place / f"{i}.safetensors")
        placed = {name: f"{i}.safetensors" for i, name in enumerate(state)}
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
        return place
    if how == "folder of a link":
        (folder / "same").mkdir()
        (folder / "same" / "model.safetensors").symlink_to(path)
        return folder / "same"
    return save(folder / "same", {name: value.astype(np.float64) for name, value in state.items()})


@pytest.mark.parametrize("how", ["copy", "shards", "folder of a link", "float64"])
def test_case_5c_a_task_that_is_the_base_gets_no_budget(tmp_path: Path, how: str):
    base, (cars, birds) = three(tmp_path)
    same = a_copy(base, how, tmp_path)
    note = "task 'same' does not differ from the base: it gets no share unless you ask for one by name."
    for given, shares in ((None, ["1/2", "0", "1/2"]), ("alpha:2", ["2/3", "0", "1/3"])):
        receipt = merge(base, [cars, same, birds], tmp_path / f"{given}.safetensors", preference=given)
        assert receipt.to_json()["notes"] == [note]
        assert [Fraction(share) for share in receipt.to_json()["shares"]] == [Fraction(share) for share in shares]
        assert owned(receipt)[1] == 0
        verify(tmp_path / f"{given}.safetensors", inputs=True, rerun=True)
    carried = merge(base, [cars, same], tmp_path / "carried.safetensors", preference="alpha:2", carry="0.5")
    assert owned(carried)[1] == 0
    for asked in ("same=0.5,cars=0.25,birds=0.25", "0.25,0.5,0.25"):
        asked_for = merge(base, [cars, same, birds], tmp_path / f"{asked}.safetensors", preference=asked)
        assert asked_for.to_json()["notes"] == [
            "task 'same' does not differ from the base: the elements of its share (0.5) stay the base's."
        ]
        assert owned(asked_for)[1] > 0
    average = merge(base, [cars, same, birds], tmp_path / "average.safetensors", method="average")
    assert average.to_json()["notes"] == ["task 'same' does not differ from the base."]


def test_case_5c_a_task_vector_of_zeros_is_the_base_too(tmp_path: Path):
    base, (cars, _) = three(tmp_path)
    same = Path(shutil.copy(base, tmp_path / "same.safetensors"))
    merge(base, [same], tmp_path / "nothing.safetensors", method="last", as_task_vector=True)
    receipt = merge(base, [cars, tmp_path / "nothing.safetensors"], tmp_path / "out.safetensors")
    assert owned(receipt)[1] == 0
    assert receipt.to_json()["notes"][0].startswith("task 'nothing' does not differ from the base: it gets no share")


def test_case_5c_a_task_that_changes_one_element_is_no_copy_of_the_base(tmp_path: Path):
    """The element lies between the slices that are compared first."""
    base, one = {"w": floats(0, 5000)}, {"w": floats(0, 5000)}
    one["w"][700] += 1
    _, receipt = merge_state_dicts(base, [one, {"w": floats(1, 5000)}])
    assert receipt.to_json()["notes"] == []
    assert [Fraction(share) for share in receipt.to_json()["shares"]] == [Fraction(1, 2)] * 2


def test_case_5c_tasks_that_are_all_the_base_are_named_and_change_nothing():
    base = {"w": floats(0, 40)}
    merged, receipt = merge_state_dicts(base, [{"w": base["w"].copy()} for _ in range(2)], names=["cars", "birds"])
    assert merged["w"].tobytes() == base["w"].tobytes()
    assert [note.partition(":")[0] for note in receipt.to_json()["notes"]] == [
        "task 'cars' does not differ from the base",
        "task 'birds' does not differ from the base",
    ]


def test_case_5c_two_equal_tasks_are_noted_and_keep_their_shares(tmp_path: Path):
    base, (cars, birds) = three(tmp_path)
    twice = Path(shutil.copy(cars, tmp_path / "twice.safetensors"))
    receipt = merge(base, [cars, birds, twice], tmp_path / "out.safetensors")
    assert receipt.to_json()["notes"] == ["task 'cars' does not differ from task 'twice'."]
    assert [Fraction(share) for share in receipt.to_json()["shares"]] == [Fraction(1, 3)] * 3


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_case_5c_a_link_to_one_file_is_the_file_given_twice(tmp_path: Path, link: Callable[[Path, Path], None]):
    base, (cars, birds) = three(tmp_path)
    link(cars, tmp_path / "linked.safetensors")
    with pytest.raises(PrefmergeError, match=r"task 3 is .*linked.safetensors, which is task 1 too. Every input must"):
        plan(base, [cars, birds, tmp_path / "linked.safetensors"])
    link(base, tmp_path / "again.safetensors")
    with pytest.raises(PrefmergeError, match=r"task 2 is .*again.safetensors, which is the base too. Every input must"):
        plan(base, [cars, tmp_path / "again.safetensors"])


def test_different_tasks_are_told_apart_by_a_few_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, tasks = three(tmp_path)

    def read(size: int) -> list[tuple[int, int]]:
        raise AssertionError(f"a tensor of {size} elements was read whole")

    monkeypatch.setattr(sameness, "_blocks", read)
    plan(base, tasks).close()
