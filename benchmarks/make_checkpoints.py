"""Makes a base and T sequential checkpoints of a real model's names and shapes, with numbers that look like
fine-tuning.

    theta_0 ~ N(0, 0.02) (layer norms' weights around 1),   theta_t = theta_{t-1} + a_t x |x|,  x ~ N(0, 1),  a_t ~ 1e-4

The step x |x| has the heavy tail of real fine-tuning (kurtosis 12) for one random number. The walk is float32 whatever
is written, and each tensor has its own random stream: the first files are the same bytes for any T and any number of
threads. Models: `vit-b-16`, CLIP's ViT-B/16 visual tower (86,192,640 elements, names of the released weights);
`billion`, the same architecture at width 2,048 and 20 layers (1.01 B); `toy`, width 32. Language models: `qwen2-0.5b`,
Qwen2's shapes (494 M elements); `qwen2-1b`, eighteen layers of the 1.5 B one (1.08 B); `qwen2-0.2b` and `qwen2-0.1b`,
twelve and six of its layers and a vocabulary of 32,000; `qwen2-layer`, one; `qwen2-toy`. Shapes: as in the released
weights, row-major. Cost: about a second per 100 M elements and core; memory of one tensor per core. Not here: anything
trained.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}

# name -> (width, layers, projection, patches per side)
MODELS = {"vit-b-16": (768, 12, 512, 14), "billion": (2048, 20, 1024, 14), "toy": (32, 2, 16, 2)}

# name -> (width, layers, feed-forward width, heads, key-value heads, vocabulary); head and embeddings are one tensor
LANGUAGE_MODELS = {
    "qwen2-0.5b": (896, 24, 4864, 14, 2, 151_936),
    "qwen2-1b": (1536, 18, 8960, 12, 2, 151_936),
    "qwen2-0.2b": (896, 12, 4864, 14, 2, 32_000),
    "qwen2-0.1b": (896, 6, 4864, 14, 2, 32_000),
    "qwen2-layer": (896, 1, 4864, 14, 2, 1000),
    "qwen2-toy": (32, 2, 48, 4, 2, 64),
}

Shapes = dict[str, tuple[int, ...]]


def config_of(model: str, dtype: str) -> dict[str, object]:
    """config.json of one of LANGUAGE_MODELS."""
    width, layers, wide, heads, pairs, words = LANGUAGE_MODELS[model]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
        "vocab_size": words,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }


def _shapes_of_language_model(model: str) -> Shapes:
    width, layers, wide, heads, pairs, words = LANGUAGE_MODELS[model]
    keys = width // heads * pairs
    shapes: Shapes = {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    for i in range(layers):
        block = f"model.layers.{i}"
        shapes |= {f"{block}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        for name, rows in (("q", width), ("k", keys), ("v", keys)):
            shapes |= {
                f"{block}.self_attn.{name}_proj.weight": (rows, width),
                f"{block}.self_attn.{name}_proj.bias": (rows,),
            }
        shapes[f"{block}.self_attn.o_proj.weight"] = (width, width)
        shapes |= {f"{block}.mlp.{name}_proj.weight": (wide, width) for name in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, wide)
    return dict(sorted(shapes.items()))


def shapes_of(model: str) -> Shapes:
    """Tensor names and shapes of a CLIP visual tower, or of one of LANGUAGE_MODELS."""
    if model in LANGUAGE_MODELS:
        return _shapes_of_language_model(model)
    width, layers, projection, side = MODELS[model]
    shapes: Shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (side * side + 1, width),
        "visual.proj": (width, projection),
        "visual.conv1.weight": (width, 3, 16, 16),
    }
    norms = ["visual.ln_pre", "visual.ln_post"]
    for i in range(layers):
        block = f"visual.transformer.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        linears = {
            "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width),
            "mlp.c_fc.": (4 * width, width),
            "mlp.c_proj.": (width, 4 * width),
        }
        for name, shape in linears.items():
            shapes[f"{block}.{name}weight"] = shape
            shapes[f"{block}.{name}bias"] = shape[:1]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    return dict(sorted(shapes.items()))


def encoded(values: np.ndarray, dtype: str) -> bytes:
    """float32 values in the bytes of a safetensors dtype, rounded to nearest."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype("<u2").tobytes()
    return values.astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def header_of(shapes: Shapes, dtype: str) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file, and where in the file each tensor begins."""
    code, itemsize = DTYPES[dtype]
    entries, offsets, position = {}, {}, 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [position, position + nbytes]}
        offsets[name] = position
        position += nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}} | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + offset for name, offset in offsets.items()}


def make(
    folder: Path,
    *,
    model: str = "vit-b-16",
    tasks: int = 20,
    dtype: str = "float32",
    seed: int = 0,
    step: float = 1e-4,
    threads: int | None = None,
) -> tuple[Path, list[Path]]:
    """Write `base.safetensors` and `task01.safetensors`.. into `folder`. Returns their paths."""
    shapes = shapes_of(model)
    head, offsets = header_of(shapes, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "base.safetensors", *(folder / f"task{t:02d}.safetensors" for t in range(1, tasks + 1))]
    files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for path in paths]

    def write(numbered: tuple[int, str]) -> None:
        index, name = numbered
        rng = np.random.default_rng([seed, index])
        theta = 0.02 * rng.standard_normal(shapes[name], np.float32)
        part = name.split(".")[-2]
        if (part.startswith("ln_") or part.endswith("norm")) and name.endswith("weight"):
            theta += 1
        for task, file in enumerate(files):
            if task:
                change = rng.standard_normal(shapes[name], np.float32)
                change *= np.abs(change)
                theta += np.float32(step * (0.6 + 0.8 * rng.random())) * change
            data = memoryview(encoded(theta, dtype))
            done = 0
            while done < len(data):  # pwrite may write less than asked, 2 GiB at most
                done += os.pwrite(file, data[done:], offsets[name] + done)

    try:
        for file in files:
            os.pwrite(file, head, 0)
        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            list(pool.map(write, enumerate(shapes)))
    finally:
        for file in files:
            os.close(file)
    return paths[0], paths[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make a base and T sequential checkpoints.",
        epilog="python -m benchmarks.make_checkpoints /data/vit --tasks 20",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=[*MODELS, *LANGUAGE_MODELS], default="vit-b-16")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, tasks = make(options.folder, model=options.model, tasks=options.tasks, dtype=options.dtype, seed=options.seed)
    print(f"{base} and {len(tasks)} tasks, {base.stat().st_size / 1e6:.0f} MB each")


if __name__ == "__main__":
    main()
