"""The lines of the report that use a head in one's own code give the answers that `evaluate` gives."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.models.head_file import FrozenHead
from prefmerge.target.report import USE

torch = pytest.importorskip("torch", reason="the lines use torch")
CLASSES = tuple("abcdef")


def written_head(folder: Path, width: int) -> FrozenHead:
    """A head whose bias decides some answers and whose rows have other norms than 1."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(len(CLASSES), width)).astype(np.float32)
    bias = rng.normal(scale=0.5, size=len(CLASSES)).astype(np.float32)
    head = FrozenHead(rows, 7.5, CLASSES, "text", bias)
    folder.mkdir(exist_ok=True)
    (folder / "head.safetensors").write_bytes(head.to_bytes())
    return head


def answers_of(head: FrozenHead, embeddings: np.ndarray) -> list[int]:
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return head.logits(units.astype(np.float64)).argmax(axis=1).tolist()


def test_with_clip_and_as_a_last_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=12,
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones embed all images alike
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "OUT")
    head = written_head(tmp_path / "OUT", 12)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pixels": torch.randn(20, 3, 8, 8)}
    with torch.no_grad():
        exec(USE["With CLIP or another image encoder"], names)
        embeddings = model(pixel_values=names["pixels"]).image_embeds.numpy()
        expected = answers_of(head, embeddings)
        assert names["answers"].tolist() == expected
        assert len(set(expected)) > 1
        names["embeddings"] = torch.from_numpy(embeddings)
        exec(USE["As the last layer of a classifier"], names)
    assert names["answers"].tolist() == expected


def test_with_a_sentence_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sentence-transformers is not needed here: a stand-in gives what `encode` would."""
    head = written_head(tmp_path / "OUT", 5)
    embeddings = np.random.default_rng(1).normal(size=(20, 5))

    class SentenceTransformer:
        def __init__(self, folder: str) -> None:
            assert folder == "OUT"

        def encode(self, texts: list[str], *, convert_to_tensor: bool, normalize_embeddings: bool) -> Any:
            assert convert_to_tensor
            assert normalize_embeddings
            return torch.nn.functional.normalize(torch.from_numpy(embeddings[: len(texts)]).float(), dim=-1)

    module = types.ModuleType("sentence_transformers")
    module.__dict__["SentenceTransformer"] = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.chdir(tmp_path)
    first = "\n".join(USE["With CLIP or another image encoder"].splitlines()[:6]).replace(
        "from transformers import CLIPVisionModelWithProjection\n", ""
    )
    names: dict[str, Any] = {"texts": ["x"] * 20}
    exec(first, names)
    assert tuple(names["about"]["classes"]) == CLASSES
    exec(USE["With a sentence encoder"], names)
    assert names["answers"].tolist() == answers_of(head, embeddings)
