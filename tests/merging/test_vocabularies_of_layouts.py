"""Models of several architectures with more tokens than their base: what comes out loads, whole and of that size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import prefmerge

torch = pytest.importorskip("torch", reason="makes models")
transformers = pytest.importorskip("transformers", reason="makes models")

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SEQUENCES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
BEFORE, AFTER = 32, 40
OF_WORDS: dict[str, Any] = {"vocab_size": BEFORE}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # by the name of the library's classes
    "Llama": ("ForCausalLM", SIZES),
    "Gemma": ("ForCausalLM", {**SIZES, "num_key_value_heads": 1, "head_dim": 8}),  # tied
    "GPT2": ("LMHeadModel", {"n_embd": 16, "n_layer": 1, "n_head": 2}),
    "GPTNeoX": ("ForCausalLM", SIZES),
    "Mamba": ("ForCausalLM", {"hidden_size": 16, "num_hidden_layers": 1}),
    "T5": ("ForConditionalGeneration", {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2}),
    "Bart": ("ForConditionalGeneration", SEQUENCES),
    "Bert": ("ForMaskedLM", SIZES),
    "Roberta": ("ForMaskedLM", SIZES),
    "DistilBert": ("ForMaskedLM", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}),
    "XLNet": ("LMHeadModel", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_output_loads(name: str, tmp_path: Path) -> None:
    kind, sizes = MODELS[name]
    model_class = getattr(transformers, name + kind)
    for seed, (folder, rows) in enumerate({"base": BEFORE, "cars": AFTER}.items()):
        torch.manual_seed(seed)
        model = model_class(getattr(transformers, f"{name}Config")(**OF_WORDS, **sizes))
        model.resize_token_embeddings(rows)
        model.save_pretrained(tmp_path / folder)
    for giver, rows in {"base": BEFORE, "cars": AFTER}.items():
        out = tmp_path / f"of {giver}"
        prefmerge.merge(tmp_path / "base", [tmp_path / "cars"], out, rows_from=giver, method="last")
        made, said = model_class.from_pretrained(out, output_loading_info=True)
        assert not any(said.values()), said
        assert made.get_input_embeddings().weight.shape[0] == rows
        given = model_class.from_pretrained(tmp_path / "cars").get_input_embeddings().weight
        torch.testing.assert_close(made.get_input_embeddings().weight, given[:rows], rtol=0, atol=1e-6)
