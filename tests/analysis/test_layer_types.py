"""What tensors are, by the names that real models give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.analysis import LAYER_TYPES, layer_type
from prefmerge.analysis.layer_types import ATTENTION, EMBEDDING, LAYER_NORM, MLP, OTHER, PROJECTION

NAMES = {
    "CLIP, transformers": {
        "vision_model.embeddings.class_embedding": EMBEDDING,
        "vision_model.embeddings.patch_embedding.weight": EMBEDDING,
        "vision_model.embeddings.position_embedding.weight": EMBEDDING,
        "vision_model.pre_layrnorm.weight": LAYER_NORM,
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": ATTENTION,
        "vision_model.encoder.layers.0.self_attn.out_proj.weight": ATTENTION,
        "vision_model.encoder.layers.0.self_attn.out_proj.bias": None,
        "vision_model.encoder.layers.0.layer_norm1.weight": LAYER_NORM,
        "vision_model.encoder.layers.0.layer_norm1.bias": None,
        "vision_model.encoder.layers.0.mlp.fc1.weight": MLP,
        "vision_model.post_layernorm.weight": LAYER_NORM,
        "visual_projection.weight": PROJECTION,
        "logit_scale": OTHER,
    },
    "CLIP, open_clip": {
        "visual.class_embedding": EMBEDDING,
        "visual.positional_embedding": EMBEDDING,
        "visual.conv1.weight": EMBEDDING,
        "visual.proj": PROJECTION,
        "visual.ln_pre.weight": LAYER_NORM,
        "visual.transformer.resblocks.11.ln_1.weight": LAYER_NORM,
        "visual.transformer.resblocks.11.ls_1.gamma": OTHER,
        "visual.transformer.resblocks.11.attn.in_proj_weight": ATTENTION,
        "visual.transformer.resblocks.11.attn.in_proj_bias": None,
        "visual.transformer.resblocks.11.attn.out_proj.weight": ATTENTION,
        "visual.transformer.resblocks.11.mlp.c_fc.weight": MLP,
        "visual.transformer.resblocks.11.mlp.c_proj.weight": MLP,
        "token_embedding.weight": EMBEDDING,
        "ln_final.weight": LAYER_NORM,
        "text_projection": PROJECTION,
    },
    "ViT, transformers": {
        "vit.embeddings.cls_token": EMBEDDING,
        "vit.embeddings.patch_embeddings.projection.weight": EMBEDDING,
        "vit.embeddings.patch_embeddings.projection.bias": None,
        "vit.encoder.layer.2.attention.attention.query.weight": ATTENTION,
        "vit.encoder.layer.2.attention.output.dense.weight": ATTENTION,
        "vit.encoder.layer.2.intermediate.dense.weight": MLP,
        "vit.encoder.layer.2.output.dense.weight": MLP,
        "vit.encoder.layer.2.layernorm_before.weight": LAYER_NORM,
        "vit.layernorm.weight": LAYER_NORM,
        "classifier.weight": PROJECTION,
    },
    "ViT, timm": {
        "cls_token": EMBEDDING,
        "pos_embed": EMBEDDING,
        "patch_embed.proj.weight": EMBEDDING,
        "blocks.0.norm1.weight": LAYER_NORM,
        "blocks.0.attn.qkv.weight": ATTENTION,
        "blocks.0.attn.proj.weight": ATTENTION,
        "blocks.0.mlp.fc2.weight": MLP,
        "fc_norm.weight": LAYER_NORM,
        "head.weight": PROJECTION,
    },
    "BERT, MiniLM": {
        "bert.embeddings.word_embeddings.weight": EMBEDDING,
        "embeddings.token_type_embeddings.weight": EMBEDDING,
        "embeddings.LayerNorm.weight": LAYER_NORM,
        "embeddings.LayerNorm.gamma": LAYER_NORM,
        "embeddings.LayerNorm.beta": None,
        "encoder.layer.0.attention.self.key.weight": ATTENTION,
        "encoder.layer.0.attention.output.dense.weight": ATTENTION,
        "encoder.layer.0.attention.output.LayerNorm.weight": LAYER_NORM,
        "encoder.layer.0.intermediate.dense.weight": MLP,
        "encoder.layer.0.output.dense.weight": MLP,
        "encoder.layer.0.output.LayerNorm.weight": LAYER_NORM,
        "pooler.dense.weight": PROJECTION,
        "cls.predictions.bias": None,
        "transformer.layer.0.attention.q_lin.weight": ATTENTION,
        "transformer.layer.0.ffn.lin1.weight": MLP,
        "transformer.layer.0.sa_layer_norm.weight": LAYER_NORM,
    },
    "GPT, LLaMA, T5": {
        "transformer.wte.weight": EMBEDDING,
        "wpe.weight": EMBEDDING,
        "h.3.ln_1.weight": LAYER_NORM,
        "h.3.attn.c_attn.weight": ATTENTION,
        "h.3.attn.bias": None,
        "h.3.mlp.c_proj.weight": MLP,
        "ln_f.weight": LAYER_NORM,
        "model.embed_tokens.weight": EMBEDDING,
        "model.layers.0.self_attn.k_proj.weight": ATTENTION,
        "model.layers.0.self_attn.q_norm.weight": LAYER_NORM,
        "model.layers.0.mlp.gate_proj.weight": MLP,
        "model.layers.0.block_sparse_moe.experts.7.w2.weight": MLP,
        "model.layers.0.post_attention_layernorm.weight": LAYER_NORM,
        "model.norm.weight": LAYER_NORM,
        "lm_head.weight": PROJECTION,
        "model.decoder.layers.0.fc1.weight": MLP,
        "gpt_neox.layers.0.attention.query_key_value.weight": ATTENTION,
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": MLP,
        "shared.weight": EMBEDDING,
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": ATTENTION,
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": MLP,
    },
    "other": {
        "bn1.weight": LAYER_NORM,
        "fc.weight": PROJECTION,
        "w": OTHER,
        "backbone.mixer.A_log": OTHER,
        "output.weight": OTHER,
    },
}


@pytest.mark.parametrize(("name", "expected"), [pair for names in NAMES.values() for pair in names.items()])
def test_names_of_real_models(name: str, expected: str | None) -> None:
    assert layer_type(name, (8, 8)) == expected


def test_a_shape_tells_a_convolution() -> None:
    assert layer_type("layer1.0.downsample.0.weight", (64, 64, 1, 1)) == EMBEDDING
    assert layer_type("layer1.0.downsample.1.weight", (64,)) == OTHER


@given(st.text(), st.lists(st.integers(0, 5)))
def test_any_name_has_a_type(name: str, shape: list[int]) -> None:
    assert layer_type(name, shape) in (None, *LAYER_TYPES)
