"""Which layouts of models does each tool merge into a model that loads and is right?

Tiny models with random numbers, saved by transformers: a base and three tasks of each of LAYOUTS, merged by the
recipes of `benchmarks.in_float64` in float32. An output is right when transformers loads it, misses nothing, and every
number is within TOLERANCE of the float64 result. Where transformers joins stored tensors (the experts of Mixtral), ties
may trim them before or after. Wrong: no error, and not right. Refused: an error. Needs torch and transformers; two
minutes. Not here: how mergekit is found.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks import in_float64, mergekit_recipes
from benchmarks.mergekit_program import Mergekit

TOLERANCE = 2e-6  # some units of float32 at the models' largest numbers, which are near 1
NOISE = 0.02  # standard deviation of what the tasks change
TASKS = 3
LENGTH = 110  # characters kept of a reason

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 40, "max_position_embeddings": 32}
GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 0}
IMAGE: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 4}
SEQUENCES: dict[str, Any] = {
    "d_model": 16,
    "vocab_size": 40,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
    "pad_token_id": 0,
}
T5: dict[str, Any] = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
# name -> (transformers' class, its config's class, what the config is given)
LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "Mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "Qwen2, tied": ("Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
    "Gemma": ("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 8}),
    "Phi-3": ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 2}),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    "Mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4},
    ),
    "BERT": ("BertModel", "BertConfig", TEXT),
    "BERT, classifier": ("BertForSequenceClassification", "BertConfig", TEXT),
    "BERT, masked words": ("BertForMaskedLM", "BertConfig", TEXT),
    "RoBERTa, classifier": ("RobertaForSequenceClassification", "RobertaConfig", {**TEXT, "pad_token_id": 0}),
    "DistilBERT, classifier": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 40},
    ),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5),
    "T5 1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "BART": ("BartForConditionalGeneration", "BartConfig", SEQUENCES),
    "Whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**SEQUENCES, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
    ),
    "Wav2Vec2": (
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {**SMALL, "vocab_size": 12, "conv_dim": (8, 8), "conv_kernel": (3, 3), "conv_stride": (2, 2)}
        | {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
    ),
    "ViT, classifier": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "DINOv2": ("Dinov2Model", "Dinov2Config", IMAGE),
    "ResNet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "CLIP": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": {**TEXT, "eos_token_id": 39}, "vision_config": IMAGE, "projection_dim": 8},
    ),
    "LLaVA": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {**GROUPED, "model_type": "llama"},
            "vision_config": {**IMAGE, "model_type": "clip_vision_model"},
            "image_token_index": 39,
        },
    ),
    "Mistral, classifier": ("MistralForSequenceClassification", "MistralConfig", GROUPED),
}


def make(layout: str, folder: Path) -> list[Path]:
    """The base and its tasks, each a folder as `save_pretrained` writes it."""
    import torch
    import transformers

    kind, config_kind, values = LAYOUTS[layout]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config_kind)(**values))
    folders = [folder / name for name in ("base", *(f"task{t}" for t in range(1, TASKS + 1)))]
    for number, out in enumerate(folders):
        with torch.no_grad():
            for values_ in _numbers(model):
                values_ += torch.randn_like(values_) * NOISE  # the base too: norms are then not all 1
        model.save_pretrained(out)
        assert (out / "model.safetensors").exists(), f"{layout}: model {number} is in shards"
    return folders


def _numbers(model: Any) -> Iterator[Any]:
    """Parameters and stored statistics that are floating-point, each once."""
    stored = set(model.state_dict())
    yield from model.parameters()
    yield from (values for name, values in model.named_buffers() if name in stored and values.is_floating_point())


def define(method: str, folders: Sequence[Path], out: Path) -> None:
    """The float64 result, in the base's layout."""
    shutil.copytree(folders[0], out)
    base, *tasks = (load_file(folder / "model.safetensors") for folder in folders)
    exact = {
        name: in_float64.merged(method, values, [task[name] for task in tasks]).astype(values.dtype)
        if np.issubdtype(values.dtype, np.floating)
        else values
        for name, values in base.items()
    }
    save_file(exact, out / "model.safetensors", metadata={"format": "pt"})


def load(layout: str, folder: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The model's tensors as transformers loads them, and what it says of keys."""
    import transformers

    model, said = getattr(transformers, LAYOUTS[layout][0]).from_pretrained(folder, output_loading_info=True)
    return model.state_dict(), {kind: sorted(map(str, keys)) for kind, keys in said.items() if keys}


def accepted(layout: str, method: str, folders: Sequence[Path], exact: Path) -> list[dict[str, Any]]:
    """The right results: of the tensors as they are stored, and as they are loaded."""
    import torch

    base, *tasks = (load(layout, folder)[0] for folder in folders)
    joined = {
        name: torch.from_numpy(in_float64.merged(method, values.numpy(), [task[name].numpy() for task in tasks]))
        for name, values in base.items()
        if values.is_floating_point()
    }
    return [load(layout, exact)[0], {**base, **joined}]


def judge(layout: str, out: Path, results: Sequence[Mapping[str, Any]], error: str | None) -> dict[str, str]:
    """The outcome of one merge against the right results, and why it is not right."""
    if error is not None:
        return {"outcome": "refused", "why": error}
    try:
        tensors, said = load(layout, out)
    except Exception as failure:  # whatever transformers raises: the output does not load
        return {"outcome": "wrong", "why": f"does not load: {failure}".splitlines()[0]}
    missing = said.get("missing_keys", [])
    if said:
        what = f"{len(missing)} of {len(tensors)} tensors are missing, such as {missing[0]}" if missing else str(said)
        return {"outcome": "wrong", "why": what}
    (distance, name), *_ = sorted(_furthest(tensors, result) for result in results)
    if not distance <= TOLERANCE:
        return {"outcome": "wrong", "why": f"{name} is {distance:.1e} from the float64 result"}
    return {"outcome": "right"}


def _furthest(tensors: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference of a number, and the tensor that has it."""
    return max(((tensors[name].double() - values.double()).abs().max().item(), name) for name, values in result.items())


def measure(folder: Path, mergekit: Mergekit | None, names: Sequence[str] = tuple(LAYOUTS)) -> list[dict[str, Any]]:
    """One row for every layout and method: the outcome of each tool."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    models = {name: make(name, folder / f"layout-{number}") for number, name in enumerate(names)}
    merges = []
    for name, folders in models.items():
        for method in in_float64.METHODS:
            own = folders[0].parent / method
            define(method, folders, own / "exact")
            mergekit_recipes.write(own / "recipe.yml", method, folders, {"dtype": "float32"})
            merges.append((name, method, own))
    errors = {"prefmerge": [mergekit_recipes.merge_here(own / "recipe.yml", own / "prefmerge") for _, _, own in merges]}
    if mergekit:
        paths = [own for *_, own in merges]
        errors["mergekit"] = mergekit.in_a_row(
            [own / "recipe.yml" for own in paths], [own / "mergekit" for own in paths], folder
        )
    rows = []
    with contextlib.redirect_stderr(io.StringIO()):  # reports of loading, which are judged here
        for number, (name, method, own) in enumerate(merges):
            results = accepted(name, method, models[name], own / "exact")
            outcomes = {tool: judge(name, own / tool, results, said[number]) for tool, said in errors.items()}
            for outcome in outcomes.values():
                if "why" in outcome:
                    outcome["why"] = outcome["why"].replace(f"{own.parent}/", "")[:LENGTH]
            rows.append({"layout": name, "method": method, **outcomes})
    return rows


def counts(rows: Sequence[Mapping[str, Any]], tool: str) -> dict[str, int]:
    """How many merges of a tool were right, wrong and refused."""
    return {outcome: sum(row[tool]["outcome"] == outcome for row in rows) for outcome in ("right", "wrong", "refused")}
