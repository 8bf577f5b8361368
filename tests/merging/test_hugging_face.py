"""A merged folder is what transformers loads: config, tokenizer and preprocessor come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefmerge import merge, open_checkpoint, verify
from prefmerge.outputs.write import create_output

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


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "owl": 1, "jay": 2}, unk_token="[UNK]"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    made.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}  # the second in a sub-folder
    return made


def test_a_tokenizer_and_its_sub_folder_come_along_and_what_does_not_is_noted(tmp_path: Path):
    torch.manual_seed(0)
    for name in ("base", "cars", "birds"):
        tiny_bert().save_pretrained(tmp_path / name)
    base = tmp_path / "base"
    tokenizer().save_pretrained(base)
    assert (base / "additional_chat_templates" / "tool_use.jinja").is_file()
    (base / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (base / "pytorch_model.bin").write_bytes(b"the same weights again")
    (base / "key.json").symlink_to("../secret.json")
    (tmp_path / "secret.json").write_text("{}")
    receipt = merge(base, [tmp_path / "cars", tmp_path / "birds"], tmp_path / "out")
    assert (tmp_path / "out" / "spm.model").read_bytes() == (base / "spm.model").read_bytes()
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert loaded.chat_template == tokenizer().chat_template
    assert receipt.to_json()["notes"][-1] == (
        "not copied from the base's folder: key.json (links out of the folder, or to nothing); "
        "pytorch_model.bin (weights)."
    )
    assert not (tmp_path / "out" / "key.json").exists()


@pytest.mark.parametrize("own", ["diffusion_pytorch_model", "open_clip_model", "my-finetune", "model.fp16"])
def test_the_name_of_the_base_is_kept_from_merge_to_merge(own: str, tmp_path: Path):
    torch.manual_seed(0)
    for name in ("base", "cars", "birds"):
        tiny_bert().save_pretrained(tmp_path / name)
        (tmp_path / name / "model.safetensors").rename(tmp_path / name / f"{own}.safetensors")
    for base, out in (("base", "out"), ("out", "again")):
        merge(tmp_path / base, [tmp_path / "cars", tmp_path / "birds"], tmp_path / out)
        assert {p.name for p in (tmp_path / out).iterdir()} - {"generation_config.json"} == {
            "README.md",
            "config.json",
            "receipt.json",
            f"{own}.safetensors",
        }
        verify(tmp_path / out, rerun=True)
    if own == "model.fp16":
        transformers.AutoModel.from_pretrained(tmp_path / "again", variant="fp16", local_files_only=True)


def test_a_base_that_was_pickled_loads_when_merged(tmp_path: Path):
    torch.manual_seed(0)
    for name in ("base", "cars"):
        model = tiny_clip()
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / name / "pytorch_model.bin")
    receipt = merge(tmp_path / "base", [tmp_path / "cars"], tmp_path / "out")
    assert receipt.to_json()["output"]["files"][0]["name"] == "model.safetensors"
    assert not any("not copied" in note for note in receipt.to_json()["notes"])  # the base's own weights are no news
    transformers.AutoModel.from_pretrained(tmp_path / "out", local_files_only=True)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_index_of_a_variant_are_called_as_transformers_looks_for_them(variant: str | None, tmp_path: Path):
    torch.manual_seed(0)
    model = tiny_clip()
    model.save_pretrained(tmp_path / "base", variant=variant, max_shard_size="20KB")
    source = open_checkpoint(tmp_path / "base")
    name = "model.safetensors" if variant is None else f"model.{variant}.safetensors"
    with create_output(
        tmp_path / "out",
        list(source.tensors.values()),
        metadata={},
        kind="folder",
        force=False,
        max_shard_bytes=20_000,
        weights_name=name,
    ) as out:
        for tensor in source.tensors:
            out.write(tensor, 0, source.raw(tensor))
        out.add_file("config.json", tmp_path / "base" / "config.json")
        out.publish(b"{}")
    theirs, ours = ({p.name for p in (tmp_path / who).glob("*.index*.json")} for who in ("base", "out"))
    assert theirs == ours
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out", variant=variant, local_files_only=True)
    expected = model.state_dict()
    assert all(torch.equal(found, expected[key]) for key, found in loaded.state_dict().items())
