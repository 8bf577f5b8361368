"""A merged folder is what transformers loads: config, tokenizer and preprocessor come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefmerge import merge, verify

torch = pytest.importorskip("torch", reason="makes and loads models")
transformers = pytest.importorskip("transformers", reason="makes and loads models")


def tiny_clip() -> Any:
    text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8}, projection_dim=8
    )
    return transformers.CLIPModel(config)


def tiny_bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.BertForMaskedLM(config)  # its decoder is tied to the embeddings


@pytest.mark.parametrize("make", [tiny_clip, tiny_bert], ids=["clip", "bert"])
@pytest.mark.parametrize("shards", [None, "20KB"])
def test_a_merged_folder_loads(make: Any, shards: str | None, tmp_path: Path):
    torch.manual_seed(0)
    model = make()
    sizes = {} if shards is None else {"max_shard_size": shards}
    for name in ("base", "cars", "birds"):
        model.save_pretrained(tmp_path / name, **sizes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
    (tmp_path / "base" / "preprocessor_config.json").write_text('{"size": 16}')
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "optimizer.pt").write_bytes(b"no part of the model")
    merge(tmp_path / "base", [tmp_path / "cars", tmp_path / "birds"], tmp_path / "out", preference="cars=0.8,birds=0.2")
    verify(tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "preprocessor_config.json", "tokenizer.json", "receipt.json", "README.md"} <= names
    assert "optimizer.pt" not in names
    loaded, info = type(model).from_pretrained(tmp_path / "out", local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    base = type(model).from_pretrained(tmp_path / "base", local_files_only=True).state_dict()
    cars = type(model).from_pretrained(tmp_path / "cars", local_files_only=True).state_dict()
    birds = type(model).from_pretrained(tmp_path / "birds", local_files_only=True).state_dict()
    for name, found in loaded.state_dict().items():
        if not found.is_floating_point():
            continue
        choices = torch.stack([base[name] + 0.5 * (task[name] - base[name]) for task in (cars, birds)])
        assert (choices == found).any(dim=0).all(), name
    assert transformers.AutoModel.from_pretrained(tmp_path / "out", local_files_only=True) is not None


def test_the_config_tells_the_number_format_asked_for(tmp_path: Path):
    torch.manual_seed(0)
    for name in ("base", "cars"):
        tiny_clip().save_pretrained(tmp_path / name)
    merge(tmp_path / "base", [tmp_path / "cars"], tmp_path / "out", dtype="bfloat16")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out", local_files_only=True, dtype="auto")
    assert loaded.dtype == torch.bfloat16
