"""Makes the golden files: four tiny checkpoints and what mergekit makes of them, one output per recipe in this folder.

Run once, where mergekit 0.1.5 and torch 2.13.0 are installed (they are not needed by the tests):

    python make_golden.py              all of them
    python make_golden.py sce slerp    the outputs of these recipes

Inputs: `base`, `cars`, `birds`, `digits`: a Llama of 3.6 k float32 parameters (one layer, width 16). The steps from
the base are heavy-tailed; the first three elements of `model.norm.weight` hold what random numbers would not: deltas
that cancel to exactly zero, and deltas that are zero. `deep_base`, `deep_cars`, `deep_birds`, `deep_digits`: narrower,
with three layers, for what differs from layer to layer. Recipes: `*.yml`, each of which asks one thing and is given to
mergekit as it stands, with this folder as the working directory. Outputs: `outputs/RECIPE.safetensors`. `thirty`:
recipes like those that people publish; those that draw nothing and that mergekit merges are given to it in float32.
mergekit is run as a program; none of its code is used.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
WIDTH, FEED_FORWARD, VOCABULARY = 16, 32, 32
TASKS = ("cars", "birds", "digits")

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (VOCABULARY, WIDTH),
    "model.layers.0.input_layernorm.weight": (WIDTH,),
    "model.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.k_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.v_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.o_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.post_attention_layernorm.weight": (WIDTH,),
    "model.layers.0.mlp.gate_proj.weight": (FEED_FORWARD, WIDTH),
    "model.layers.0.mlp.up_proj.weight": (FEED_FORWARD, WIDTH),
    "model.layers.0.mlp.down_proj.weight": (WIDTH, FEED_FORWARD),
    "model.norm.weight": (WIDTH,),
    "lm_head.weight": (VOCABULARY, WIDTH),
}

DEEP = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "vocab_size": 16}


def save(tensors: dict[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes files that only their owner can read


def make_inputs(folder: Path, seed: int = 20) -> None:
    """The four checkpoint folders. float32 throughout; the same bytes for the same seed and NumPy."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in SHAPES.items()}
    models = {"base": base}
    previous = base
    for task in TASKS:
        previous = {k: v + (0.02 * rng.standard_t(3, v.shape)).astype(np.float32) for k, v in previous.items()}
        models[task] = previous
    for task, steps in zip(TASKS, ((0.25, 0.1875, 0.0), (-0.25, -0.1875, 0.0), (0.0, 0.125, 0.0)), strict=True):
        models[task]["model.norm.weight"][:3] = np.float32(0.5) + np.array(steps, np.float32)
    base["model.norm.weight"][:3] = 0.5
    for name, tensors in models.items():
        (folder / name).mkdir(exist_ok=True)
        save(tensors, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def make_deep(folder: Path, seed: int = 21) -> None:
    """The four checkpoints with several layers."""
    rng = np.random.default_rng(seed)
    width, wide, words = (DEEP[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    sizes = {WIDTH: width, FEED_FORWARD: wide}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in SHAPES.items():
        own = tuple(sizes[size] for size in shape)
        if "layers" in name:
            shapes |= {name.replace(".0.", f".{layer}."): own for layer in range(DEEP["num_hidden_layers"])}
        else:
            shapes[name] = (words, *own[1:]) if len(own) == 2 else own
    model = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("deep_base", "deep_cars", "deep_birds", "deep_digits"):
        (folder / name).mkdir(exist_ok=True)
        save(model, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(CONFIG | DEEP, indent=2) + "\n")
        model = {
            key: value + (0.05 * rng.standard_t(3, value.shape)).astype(np.float32) for key, value in model.items()
        }


def merge(recipe: Path, folder: Path, out: Path) -> None:
    """What mergekit makes of a recipe, with `folder` as the working directory."""
    with tempfile.TemporaryDirectory() as scratch:
        program = shutil.which("mergekit-yaml") or str(Path(sys.executable).with_name("mergekit-yaml"))
        subprocess.run([program, str(recipe), scratch, "--no-copy-tokenizer"], cwd=folder, check=True)
        out.parent.mkdir(exist_ok=True)
        save(load_file(Path(scratch, "model.safetensors")), out)


def in_float32(recipe: str) -> str:
    """The recipe with an output in float32, and without tokenizers, which the models here have none of."""
    recipe = re.sub(r"^tokenizer:\n(  .*\n)+", "", recipe, flags=re.MULTILINE)
    return re.sub(r"^dtype: .*", "dtype: float32", recipe, flags=re.MULTILINE)


def main() -> None:
    make_inputs(HERE)
    make_deep(HERE)
    asked = sys.argv[1:]
    for recipe in sorted(HERE.glob("*.yml")):
        if not asked or recipe.stem in asked:
            merge(recipe, HERE, HERE / "outputs" / f"{recipe.stem}.safetensors")
    thirty = HERE / "thirty"
    for number in (*range(1, 12), *range(20, 23), 28):
        (recipe,) = thirty.glob(f"{number:02}_*.yml")
        if not asked or recipe.stem in asked:
            with tempfile.TemporaryDirectory() as scratch:
                written = Path(scratch, recipe.name)
                written.write_text(in_float32(recipe.read_text()))
                merge(written, thirty, thirty / "outputs" / f"{recipe.stem}.safetensors")
    versions = {package: version(package) for package in ("mergekit", "torch", "transformers", "numpy", "safetensors")}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
