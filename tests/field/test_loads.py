"""Merged folders load in the libraries that people use, and answer as the same weights put together by hand do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefmerge import merge
from tests.models.tiny import tiny_bert

torch = pytest.importorskip("torch", reason="makes and loads models")
transformers = pytest.importorskip("transformers", reason="makes and loads models")

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CAUSAL = LAYERS | WORDS | {"num_key_value_heads": 1, "max_position_embeddings": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
PICTURE = {"image_size": 16, "patch_size": 8}
CLIP = {"text_config": LAYERS | {"vocab_size": 40}, "vision_config": LAYERS | PICTURE, "projection_dim": 8}

# The class's name before Config, the class, its settings, and whether its head may be tied.
MODELS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "llama": ("Llama", "LlamaForCausalLM", CAUSAL, True),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", CAUSAL, True),
    "mistral": ("Mistral", "MistralForCausalLM", CAUSAL, True),
    "mixtral": ("Mixtral", "MixtralForCausalLM", CAUSAL | {"num_local_experts": 2}, True),
    "gemma": ("Gemma", "GemmaForCausalLM", CAUSAL | {"head_dim": 8}, True),
    "bert": ("Bert", "BertForMaskedLM", LAYERS | WORDS, True),
    "deberta": ("DebertaV2", "DebertaV2ForSequenceClassification", LAYERS | WORDS, False),
    "clip": ("CLIP", "CLIPModel", CLIP, False),
    "vit": ("ViT", "ViTForImageClassification", LAYERS | PICTURE, False),
    "t5": ("T5", "T5ForConditionalGeneration", WORDS | T5, True),
    "whisper": ("Whisper", "WhisperForConditionalGeneration", WORDS | WHISPER, True),
}


def asked(kind: str) -> dict[str, Any]:
    """The input of a model."""
    generator = torch.Generator().manual_seed(7)
    words = {"input_ids": torch.randint(3, 40, (2, 5), generator=generator)}
    picture = {"pixel_values": torch.rand((2, 3, 16, 16), generator=generator)}
    sound = {"input_features": torch.rand((2, 8, 20), generator=generator)}
    return {"vit": picture, "clip": words | picture, "whisper": sound}.get(kind, words)


def answer(model: Any, kind: str) -> list[Any]:
    """Tokens of a model that writes, else what it computes."""
    with torch.no_grad():
        if model.can_generate() and kind != "bert":
            written = model.eval().generate(
                **asked(kind), max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            return [written.sequences, *written.logits]
        output = model.eval()(**asked(kind))
    return [output.logits_per_image] if kind == "clip" else [output.logits]


def fine_tuned(model: Any, folder: Path, **sizes: Any) -> None:
    """The model and two that were trained further, each saved."""
    torch.manual_seed(1)
    for name in ("base", "cars", "birds"):
        model.save_pretrained(folder / name, **sizes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


def by_hand(load: Callable[[Path], Any], folder: Path) -> Any:
    """base + tau / 2 with the larger tau, in the model's own tensors."""
    model, cars, birds = (load(folder / name) for name in ("base", "cars", "birds"))
    with torch.no_grad():
        for own, one, other in zip(model.parameters(), cars.parameters(), birds.parameters(), strict=True):
            one, other = one - own, other - own
            own += 0.5 * torch.where(one.abs() >= other.abs(), one, other)
    return model


def assert_same(model: Any, expected: Any) -> None:
    found, wanted = (dict(one.named_parameters()) for one in (model, expected))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied and in shards"])
def test_a_merge_loads_and_answers_as_the_weights_put_together_by_hand(kind: str, tied: bool, tmp_path: Path) -> None:
    family, name, settings, heads = MODELS[kind]
    torch.manual_seed(0)
    more = {"tie_word_embeddings": tied} if heads else {}
    made = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**settings, **more))
    fine_tuned(made, tmp_path, **({} if tied else {"max_shard_size": "8KB"}))
    assert (tmp_path / "base" / "model.safetensors.index.json").exists() != tied
    out = tmp_path / "out"
    merge(tmp_path / "base", [tmp_path / "cars", tmp_path / "birds"], out, method="magmax", scale=0.5, threads=1)

    def load(folder: Path) -> Any:
        model, info = type(made).from_pretrained(folder, local_files_only=True, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        return model

    model, expected = load(out), by_hand(load, tmp_path)
    assert_same(model, expected)
    if heads and kind != "t5":  # transformers 5 ties T5 whatever its configuration says
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    for found, wanted in zip(answer(model, kind), answer(expected, kind), strict=True):
        assert torch.equal(found, wanted)
    assert not torch.equal(answer(model, kind)[-1], answer(load(tmp_path / "base"), kind)[-1])


def test_a_merge_of_a_pipeline_loads_in_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="makes and loads pipelines")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    for name in ("base", "cars", "birds"):
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10)).save_pretrained(tmp_path / name)
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    out = tmp_path / "out"
    merge(tmp_path / "base", [tmp_path / "cars", tmp_path / "birds"], out, method="magmax", scale=0.5, threads=1)
    made = [diffusers.DDPMPipeline.from_pretrained(tmp_path / name) for name in ("out", "base", "cars")]
    expected = by_hand(lambda folder: type(unet).from_pretrained(folder / "unet"), tmp_path)
    assert_same(made[0].unet, expected)
    made.append(diffusers.DDPMPipeline(expected, made[0].scheduler))
    for pipeline in made:
        pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="np").images
        for pipeline in made
    ]
    assert pictures[0].tobytes() == pictures[3].tobytes()
    assert pictures[0].tobytes() not in (pictures[1].tobytes(), pictures[2].tobytes())


def test_a_merge_of_an_encoder_loads_in_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="makes and loads encoders")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    torch.manual_seed(0)
    encoder = modules.Transformer(str(tiny_bert(tmp_path / "tiny")))
    pooling = modules.Pooling(encoder.get_embedding_dimension(), "mean")
    model = library.SentenceTransformer(modules=[encoder, pooling, modules.Normalize()], device="cpu")
    for name in ("base", "cars", "birds"):
        model.save_pretrained(str(tmp_path / name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    out = tmp_path / "out"
    merge(tmp_path / "base", [tmp_path / "cars", tmp_path / "birds"], out, method="magmax", scale=0.5, threads=1)

    def load(folder: Path) -> Any:
        return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    expected = by_hand(load, tmp_path)
    assert_same(load(out), expected)
    texts = ["a kingfisher", "owl"]
    assert load(out).encode(texts).tobytes() == expected.encode(texts).tobytes()
    assert load(out).encode(texts).tobytes() != load(tmp_path / "base").encode(texts).tobytes()
