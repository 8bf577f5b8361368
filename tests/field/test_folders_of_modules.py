"""Folders of several modules: models of sentence-transformers and pipelines of diffusers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from prefmerge import merge, open_checkpoint, verify
from prefmerge.merging import many
from prefmerge.outputs.write import create_output
from tests.field.made import assert_is, files, message, note, put, state, write
from tests.field.test_folders import pipeline

# 9d: sentence-transformers, 9e: diffusers


def sentence(folder: Path, seed: int, *, module: str = "0_Transformer", dense: int | None = None) -> Path:
    prefix = f"{module}/" if module else ""
    put(folder / f"{prefix}model.safetensors", state(seed))
    write(folder / f"{prefix}config.json", {"dtype": "float32"})
    write(folder / f"{prefix}pytorch_model.bin", "stale weights in another format")
    write(folder / "1_Pooling" / "config.json")
    rows = [{"path": module, "type": "sentence_transformers.models.Transformer"}]
    rows += [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    if dense is not None:
        put(folder / "2_Dense" / "model.safetensors", state(dense))
        rows += [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    write(folder / "modules.json", rows)
    return folder


def test_case_9d_the_transformer_of_sentence_transformers(tmp_path: Path) -> None:
    base, task = (sentence(tmp_path / name, seed) for seed, name in enumerate(("base", "task")))
    assert_is(base, state(0))
    assert note(base) == "a model of sentence-transformers: the weights of its 0_Transformer are taken"
    merge(base, [task], tmp_path / "out", method="increments", dtype="float16")
    assert files(tmp_path / "out") == [
        "0_Transformer/config.json",
        "0_Transformer/model.safetensors",
        "1_Pooling/config.json",
        "README.md",
        "modules.json",
        "receipt.json",
    ]
    assert json.loads((tmp_path / "out" / "0_Transformer" / "config.json").read_text()) == {"dtype": "float16"}
    expected = {name: value.astype(np.float16) for name, value in state(1).items()}
    assert_is(tmp_path / "out", expected)
    assert verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    merge(base, [task / "0_Transformer"], tmp_path / "out", method="increments", force=True)
    assert_is(tmp_path / "out", state(1))


@pytest.mark.parametrize("module", ["0_Transformer", ""])
def test_case_9d_other_modules_stay_and_what_a_task_changed_in_them_is_noted(tmp_path: Path, module: str) -> None:
    base = sentence(tmp_path / "base", 0, module=module, dense=7)
    same = sentence(tmp_path / "same", 1, module=module, dense=7)
    other = sentence(tmp_path / "other", 2, module=module, dense=8)
    receipt = merge(base, [same, other], tmp_path / "out")
    assert_is(tmp_path / "out" / "2_Dense", state(7))
    said = [text for text in receipt.notes if "changed 2_Dense" in text]
    assert said == [
        f"task 'other' changed 2_Dense too, which stays the base's: to merge it, give {base}/2_Dense as the base and "
        "the same sub-folder of each task."
    ]


def test_case_9d_two_towers_are_listed(tmp_path: Path) -> None:
    rows = []
    for tower in ("query_0_Transformer", "document_0_Transformer"):
        put(tmp_path / tower / "model.safetensors", state(0))
        rows.append({"path": tower, "type": "sentence_transformers.models.Transformer"})
    write(tmp_path / "modules.json", rows)
    said = message(tmp_path)
    assert "several modules that may be meant: query_0_Transformer, document_0_Transformer" in said


@pytest.mark.parametrize("path", ["../secret", "/etc", ".git", "a/../../secret", "..\\secret", "\0"])
def test_case_9d_a_module_lies_in_its_folder(tmp_path: Path, path: str) -> None:
    put(tmp_path / "secret" / "model.safetensors", state(9))
    put(tmp_path / "base" / ".git" / "model.safetensors", state(9))
    write(tmp_path / "base" / "modules.json", [{"path": path, "type": "Transformer"}])
    assert "no checkpoint in this folder" in message(tmp_path / "base")
    write(tmp_path / "base" / "model_index.json", {path: ["diffusers", "UNet"]})
    assert "hold no weights" in message(tmp_path / "base")


@pytest.mark.parametrize("trained", ["unet", "transformer", "prior"])
def test_case_9e_the_trained_module_of_a_pipeline(tmp_path: Path, trained: str) -> None:
    base = pipeline(tmp_path / "base", {trained: 0, "vae": 7, "text_encoder": 8})
    task = pipeline(tmp_path / "task", {trained: 1, "vae": 7, "text_encoder": 9})
    put(base / trained / "diffusion_pytorch_model.non_ema.safetensors", state(5))
    write(base / "v1-5-pruned.ckpt", "the whole in one file")
    assert note(base) == (
        f"a pipeline of diffusers: the weights of its {trained} are taken; text_encoder, vae stay as they are"
    )
    receipt = merge(base, [task], tmp_path / "out", method="increments")
    assert any("task 'task' changed text_encoder too" in text for text in receipt.notes)
    assert files(tmp_path / "out") == sorted(
        [
            "README.md",
            "model_index.json",
            "receipt.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            f"{trained}/config.json",
            f"{trained}/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    )
    assert_is(tmp_path / "out", state(1))
    assert_is(tmp_path / "out" / "text_encoder", state(8))
    assert verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    merge(base / "text_encoder", [task / "text_encoder"], tmp_path / "text", method="increments")
    assert_is(tmp_path / "text", state(9))


def test_case_9e_shards_of_a_module_lie_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = (pipeline(tmp_path / name, {"unet": seed}) for seed, name in enumerate(("base", "task")))
    monkeypatch.setattr(many, "create_output", partial(create_output, max_shard_bytes=130))
    merge(base, [task], tmp_path / "out", method="increments")
    index = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    shards = {f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert set(json.loads(index.read_text())["weight_map"].values()) == shards
    assert_is(tmp_path / "out", state(1))
    assert_is(tmp_path / "out" / "unet", state(1))


def test_case_9e_several_trained_modules_are_listed(tmp_path: Path) -> None:
    both = pipeline(tmp_path / "both", {"unet": 0, "controlnet": 1, "vae": 2})
    said = message(both)
    assert "a pipeline of diffusers with several modules that may be meant: controlnet, unet" in said
    assert_is(both / "controlnet", state(1))
    neither = pipeline(tmp_path / "neither", {"vae": 0, "text_encoder": 1})
    assert "several modules that may be meant: text_encoder, vae" in message(neither)
    nothing = pipeline(tmp_path / "nothing", {})
    assert "whose modules hold no weights" in message(nothing)


def test_case_9e_a_pipeline_in_a_cache(tmp_path: Path) -> None:
    snapshot = pipeline(tmp_path / "models--org--sd" / "snapshots" / "abc", {"unet": 3, "vae": 4})
    assert_is(tmp_path / "models--org--sd", state(3))
    assert open_checkpoint(tmp_path / "models--org--sd").path == snapshot
