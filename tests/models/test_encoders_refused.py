"""Encoders and checkpoints that are refused, and what the message says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import prefmerge
from prefmerge.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointNotFound, EncoderError
from prefmerge.models.encoders.hugging_face import quiet
from tests.models.test_encoders import SHAPES, change, load


def test_models_that_cannot_be_had(tmp_path: Path, folders: dict[str, Path]):
    with pytest.raises(
        EncoderError, match=r"model 'nobody/nothing': no such folder, and not to be had.*HF_HUB_OFFLINE is set"
    ):
        load(Path("nobody/nothing"))
    with pytest.raises(EncoderError, match=r"no such folder. Give a folder with config.json and weights, or a hub id"):
        load(tmp_path / "absent")
    with pytest.raises(EncoderError, match=r"model.safetensors' is a file, expected a folder"):
        load(folders["bert"] / "model.safetensors")
    with pytest.raises(EncoderError, match=r"no config.json in"):
        load(tmp_path)
    change(tmp_path, "config.json", model_type="llama")
    with pytest.raises(
        EncoderError, match=r"model_type 'llama', expected 'clip', a sentence encoder \(albert, bert,.*set model.kind"
    ):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"config.json cannot be read as JSON"):
        load(tmp_path)


def test_folders_that_lack_something(copied: dict[str, Path]):
    (copied["vit"] / "preprocessor_config.json").unlink()
    with pytest.raises(
        EncoderError, match=r"no image processor can be loaded.*Put the model's preprocessor_config.json"
    ):
        load(copied["vit"])
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (copied["bert"] / file).unlink()
    with pytest.raises(
        EncoderError, match=r"no tokenizer in .*, expected one of tokenizer.json.*Put the model's tokenizer.json"
    ):
        load(copied["bert"])
    (copied["bert"] / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match=r"the tokenizer in .* cannot be loaded"):
        load(copied["bert"])
    (copied["dinov2"] / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"cannot be loaded by transformers' AutoModel"):
        load(copied["dinov2"])


def test_a_model_that_does_not_fit_its_preprocessing(copied: dict[str, Path]):
    change(copied["vit"], "preprocessor_config.json", size={"height": 32, "width": 32})
    with pytest.raises(EncoderError, match=r"ViTModel cannot embed an input as its own preprocessing makes it"):
        load(copied["vit"])


def test_a_pooling_that_the_model_has_not(tmp_path: Path, folders: dict[str, Path]):
    import transformers

    folder = Path(shutil.copytree(folders["vit"], tmp_path / "model"))
    with quiet():
        transformers.ResNetModel(transformers.ResNetConfig(**SHAPES["resnet"])).save_pretrained(folder)
    with pytest.raises(EncoderError, match=r"pooling 'cls' was asked of a ResNetModel, which has no class token"):
        load(folder, pooling="cls")
    assert load(folder, pooling="mean").width == load(folder).width == 16


def test_checkpoints_that_do_not_fit(folders: dict[str, Path], tmp_path: Path):
    encoder = load(folders["vit"])
    before = {name: tensor.clone() for name, tensor in encoder.state().items()}
    first = "embeddings.cls_token"

    def saved(**changes: torch.Tensor | None) -> Path:
        state = {**before, **changes}
        save_file({k: v for k, v in state.items() if v is not None}, tmp_path / "task.safetensors")
        return tmp_path / "task.safetensors"

    with pytest.raises(
        CheckpointMismatch, match=r"task.safetensors: lacks 1 of the model's 40 tensors: 'embeddings.cls_token'\."
    ):
        encoder.load(saved(**{first: None}))
    with pytest.raises(
        CheckpointMismatch, match=r"has 1 tensor that the model has not: 'head'.*Expected a checkpoint of the tower"
    ):
        encoder.load(saved(head=torch.zeros(1)))
    with pytest.raises(
        CheckpointMismatch, match=r"'embeddings.cls_token' has shape \(1, 1, 8\), the model's has \(1, 1, 16\)"
    ):
        encoder.load(saved(**{first: torch.zeros(1, 1, 8)}))
    with pytest.raises(
        CheckpointMismatch, match=r"lacks 26 of the model's 40 tensors: .* and 21 more; has 25 tensors .* and 20 more"
    ):
        encoder.load(folders["bert"])
    with pytest.raises(CheckpointNotFound):
        encoder.load(tmp_path / "absent")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointCorrupt):
        encoder.load(tmp_path / "broken.safetensors")
    save_file(before, tmp_path / "base.safetensors")
    save_file({k: v + 1 for k, v in before.items()}, tmp_path / "task.safetensors")
    prefmerge.merge(
        tmp_path / "base.safetensors",
        [tmp_path / "task.safetensors"],
        tmp_path / "vector.safetensors",
        method="magmax",
        as_task_vector=True,
        threads=1,
    )
    with pytest.raises(
        CheckpointMismatch, match=r"vector.safetensors: holds a task vector, expected a model. Merge it"
    ):
        encoder.load(tmp_path / "vector.safetensors")
    for name, tensor in encoder.state().items():
        assert torch.equal(tensor, before[name]), "a refused checkpoint leaves the tower as it was"
