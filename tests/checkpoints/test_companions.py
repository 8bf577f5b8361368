from __future__ import annotations

from pathlib import Path

import numpy as np

from prefmerge.checkpoints import companion_files, from_state_dict, open_checkpoint
from tests.checkpoints.files import write_arrays

BELONG = [
    "LICENSE",
    "LICENSE.txt",
    "NOTICE.md",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "modeling_custom.py",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
]
STAY = [
    ".gitattributes",
    "README.md",
    "adapter_config.json",
    "events.out.tfevents.1",
    "flax_model.msgpack",
    "manifest.json",
    "model.onnx",
    "model.safetensors.index.json",
    "optimizer.pt",
    "pytorch_model.bin",
    "receipt.json",
    "rng_state.pth",
    "run_manifest.json",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
    "training_config.json",
    "vocab.bin",
]


def test_what_belongs_beside_the_weights(tmp_path: Path) -> None:
    for name in [*BELONG, *STAY]:
        (tmp_path / name).write_text("x")
    (tmp_path / "tokenizer").mkdir()
    write_arrays(tmp_path / "model.safetensors", {"a": np.zeros(3)})
    assert list(companion_files(open_checkpoint(tmp_path))) == sorted(BELONG)


def test_a_base_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = write_arrays(tmp_path / "base.safetensors", {"a": np.zeros(3)})
    assert companion_files(open_checkpoint(path)) == {}
    assert companion_files(from_state_dict({"a": np.zeros(3)}, name="x")) == {}


def test_an_index_stands_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_arrays(tmp_path / "x.safetensors", {"a": np.zeros(3)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "x.safetensors"}}')
    assert companion_files(open_checkpoint(index)) == {"config.json": tmp_path / "config.json"}


def test_the_parts_of_a_sentence_transformer(tmp_path: Path) -> None:
    write_arrays(tmp_path / "model.safetensors", {"a": np.zeros(3)})
    for folder in ("1_Pooling", "onnx"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    assert companion_files(open_checkpoint(tmp_path)) == {}  # any model may have a sub-folder
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text("{}")
    names = ["1_Pooling/config.json", "config_sentence_transformers.json", "modules.json"]
    assert list(companion_files(open_checkpoint(tmp_path))) == names
