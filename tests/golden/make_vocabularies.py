"""Three tiny Llamas whose vocabularies differ, and what mergekit makes of them: golden/vocabularies.

    python make_vocabularies.py      where mergekit 0.1.5 is installed, which the tests do not need

`base` has 38 tokens in 48 rows (padded). `cars` has the same words in another order, without padding, and two added
tokens. `birds` has the base's order, one word more (of BPE, with its merge), one added token that cars has too and one
of its own, and 64 rows. Each recipe (`*.yml`) is given to mergekit as it stands; what is kept is its tensors and its
token ids, for mergekit numbers new tokens in the order of a set.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent / "vocabularies"
WIDTH, FEED_FORWARD = 8, 12
LETTERS = [chr(ord("a") + i) for i in range(26)]
MERGES = [("c", "a"), ("ca", "r"), ("b", "i"), ("bi", "r"), ("bir", "d"), ("d", "o"), ("do", "g"), ("Ġ", "car")]
WORDS = [*LETTERS, "Ġ", "Ċ", *("".join(pair) for pair in MERGES), "<unk>"]
NEW = ("Ġ", "bird")  # the word that only birds has
IM_START, IM_END, TOOL = "<|im_start|>", "<|im_end|>", "<|tool|>"
CHATML = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def tokenizer_json(words: Sequence[str], merges: Sequence[tuple[str, str]], added: Sequence[str]) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    of_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokens = [("</s>", len(words)), *((token, len(words) + 1 + i) for i, token in enumerate(added))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": at, "content": token, **plain} for token, at in tokens],
        "normalizer": None,
        "pre_tokenizer": of_bytes,
        "post_processor": None,
        "decoder": of_bytes,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def config(rows: int, eos: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": rows,
        "max_position_embeddings": 32,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": eos,
    }


def shapes(rows: int, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    layer = "model.layers.0"
    head = {} if tied else {"lm_head.weight": (rows, WIDTH)}
    return {
        "model.embed_tokens.weight": (rows, WIDTH),
        f"{layer}.input_layernorm.weight": (WIDTH,),
        **{f"{layer}.self_attn.{one}_proj.weight": (WIDTH, WIDTH) for one in "qkvo"},
        f"{layer}.post_attention_layernorm.weight": (WIDTH,),
        f"{layer}.mlp.gate_proj.weight": (FEED_FORWARD, WIDTH),
        f"{layer}.mlp.up_proj.weight": (FEED_FORWARD, WIDTH),
        f"{layer}.mlp.down_proj.weight": (WIDTH, FEED_FORWARD),
        "model.norm.weight": (WIDTH,),
        **head,
    }


def save_model(
    folder: Path,
    rng: np.random.Generator,
    tokenizer: dict[str, Any],
    rows: int,
    *,
    tied: bool = False,
    template: str | None = None,
) -> None:
    """A Llama folder of random float32 weights with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes(rows, tied=tied).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write = {"tokenizer.json": tokenizer, "config.json": config(rows, len(tokenizer["model"]["vocab"]), tied=tied)}
    write["tokenizer_config.json"] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "</s>",
        "model_max_length": 32,
        **({"chat_template": template} if template else {}),
    }
    for name, value in write.items():
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make_inputs(folder: Path, seed: int = 22) -> None:
    rng = np.random.default_rng(seed)
    shuffled = [WORDS[i] for i in rng.permutation(len(WORDS))]
    save_model(folder / "base", rng, tokenizer_json(WORDS, MERGES, []), 48)
    save_model(
        folder / "cars", rng, tokenizer_json(shuffled, MERGES, [IM_END, IM_START]), len(WORDS) + 3, template=CHATML
    )
    birds = tokenizer_json([*WORDS, "".join(NEW)], [*MERGES, NEW], [IM_END, TOOL])
    save_model(folder / "birds", rng, birds, 64, template=CHATML)


def main() -> None:
    make_inputs(HERE)
    (HERE / "outputs").mkdir(exist_ok=True)
    for recipe in sorted(HERE.glob("*.yml")):
        with tempfile.TemporaryDirectory() as scratch:
            program = shutil.which("mergekit-yaml") or str(Path(sys.executable).with_name("mergekit-yaml"))
            subprocess.run([program, recipe.name, scratch, "--no-write-model-card"], cwd=HERE, check=True)
            made = HERE / "outputs" / f"{recipe.stem}.safetensors"
            save_file(load_file(Path(scratch, "model.safetensors")), made)
            made.chmod(0o644)
            whole = json.loads(Path(scratch, "tokenizer.json").read_text())
            ids = whole["model"]["vocab"] | {one["content"]: one["id"] for one in whole["added_tokens"]}
            kept = {"vocab_size": json.loads(Path(scratch, "config.json").read_text())["vocab_size"], "ids": ids}
            (HERE / "outputs" / f"{recipe.stem}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
