"""Makes the golden files: four tiny checkpoints and what mergekit makes of them, one output per recipe in this folder.

Run once, where mergekit 0.1.5 and torch 2.13.0 are installed (they are not needed by the tests):

    python make_golden.py

Inputs: `base`, `cars`, `birds`, `digits`: a Llama of 3.6 k float32 parameters (one layer, width 16). The steps from
the base are heavy-tailed; the first three elements of `model.norm.weight` hold what random numbers would not: deltas
that cancel to exactly zero, and deltas that are zero. `deep_base`, `deep_cars`, `deep_birds`: narrower, with three
layers, for what differs from layer to layer. Recipes: `*.yml`, written here and given to mergekit unchanged, with this
folder as the working directory. Outputs: `outputs/RECIPE.safetensors`. mergekit is run as a program; none of its code
is used.
"""

from __future__ import annotations

import json
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

# Every recipe asks mergekit one thing; the name says which.
RECIPES = {
    "layers_slerp_slices": """\
slices:
  - sources:
      - model: ./deep_base
        layer_range: [0, 3]
      - model: ./deep_cars
        layer_range: [0, 3]
merge_method: slerp
base_model: ./deep_base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
""",
    "layers_ties_lists": """\
merge_method: ties
base_model: ./deep_base
models:
  - model: ./deep_cars
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: ./deep_birds
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
parameters:
  normalize: true
  int8_mask: true
dtype: float32
""",
    "layers_ties_filter": """\
merge_method: ties
base_model: ./deep_base
models:
  - model: ./deep_cars
    parameters:
      density: 0.6
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
  - model: ./deep_birds
    parameters:
      weight:
        filter: self_attn
        value: [0.2, 0.8]
parameters:
  density: [0.9, 0.4]
  weight: 0.25
dtype: float32
""",
    "layers_task_arithmetic_slices": """\
merge_method: task_arithmetic
base_model: ./deep_base
slices:
  - sources:
      - model: ./deep_base
        layer_range: [0, 3]
      - model: ./deep_cars
        layer_range: [0, 3]
        parameters:
          weight: [0.5, 1.5]
      - model: ./deep_birds
        layer_range: [0, 3]
    parameters:
      weight: 0.75
parameters:
  normalize: false
  lambda: [1, 0.25]
dtype: float32
""",
    "linear_weights": """\
merge_method: linear
models:
  - model: ./cars
    parameters:
      weight: 0.5
  - model: ./birds
    parameters:
      weight: 0.3
  - model: ./digits
    parameters:
      weight: 0.7
dtype: float32
""",
    "linear_sum": """\
merge_method: linear
models:
  - model: ./cars
    parameters: {weight: 0.25}
  - model: ./birds
    parameters: {weight: 0.6}
  - model: ./digits
    parameters: {weight: -0.1}
parameters:
  normalize: false
dtype: float32
""",
    "linear_base_listed": """\
merge_method: linear
base_model: ./base
models:
  - model: ./base
    parameters:
      weight: 0.4
  - model: ./cars
    parameters:
      weight: 0.2
  - model: ./digits
    parameters:
      weight: 0.9
dtype: float32
""",
    "linear_base_added": """\
merge_method: linear
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
    parameters:
      weight: 2.0
parameters:
  weight: 0.5
dtype: float32
""",
    "task_arithmetic": """\
merge_method: task_arithmetic
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./birds
    parameters:
      weight: 0.3
  - model: ./digits
    parameters:
      weight: -0.2
parameters:
  lambda: 0.8
dtype: float32
""",
    "task_arithmetic_base_listed": """\
merge_method: task_arithmetic
base_model: ./base
models:
  - model: ./base
  - model: ./cars
    parameters:
      weight: 1.0
  - model: ./birds
    parameters:
      weight: 0.35
dtype: float32
""",
    "task_arithmetic_normalize": """\
merge_method: task_arithmetic
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./birds
    parameters:
      weight: 0.3
  - model: ./digits
    parameters:
      weight: 0.8
parameters:
  normalize: true
  lambda: 1.5
dtype: float32
""",
    "ties_sparse": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      density: 0.3
      weight: 1.0
  - model: ./birds
    parameters:
      density: 0.3
      weight: 0.5
  - model: ./digits
    parameters:
      density: 0.3
      weight: 0.25
dtype: float32
""",
    "ties_mixed_sum": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      density: 0.3
      weight: 0.7
  - model: ./birds
    parameters:
      density: 0.7
      weight: 0.4
  - model: ./digits
    parameters:
      weight: 0.9
parameters:
  normalize: false
  lambda: 1.25
dtype: float32
""",
    "ties_mixed_normalize": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      density: 0.7
      weight: 0.7
  - model: ./birds
    parameters:
      density: 0.3
      weight: 0.4
  - model: ./digits
    parameters:
      weight: 0.9
parameters:
  normalize: true
  density: 0.45
dtype: float32
""",
    "ties_dense": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
  - model: ./digits
parameters:
  weight: 1.0
dtype: float32
""",
    "ties_negative_weight": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.8
  - model: ./birds
    parameters:
      weight: -0.5
  - model: ./digits
    parameters:
      weight: 0.6
parameters:
  normalize: false
  density: 0.7
dtype: float32
""",
    "ties_one_element": """\
merge_method: ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 1.0
  - model: ./digits
    parameters:
      weight: 0.5
parameters:
  density: 0.01
dtype: float32
""",
    "slerp": """\
merge_method: slerp
base_model: ./base
models:
  - model: ./base
  - model: ./cars
parameters:
  t: 0.3
dtype: float32
""",
    "slerp_base_second": """\
merge_method: slerp
base_model: ./digits
models:
  - model: ./birds
  - model: ./digits
parameters:
  t: 0.75
dtype: float32
""",
    "model_stock": """\
merge_method: model_stock
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
  - model: ./digits
dtype: float32
""",
    "model_stock_filter_wise": """\
merge_method: model_stock
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
  - model: ./digits
parameters:
  filter_wise: true
dtype: float32
""",
    "breadcrumbs": """\
merge_method: breadcrumbs
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
      density: 0.7
      gamma: 0.1
  - model: ./birds
    parameters:
      weight: 0.4
      density: 0.9
  - model: ./digits
    parameters:
      weight: -0.2
      gamma: 0.3
parameters:
  density: 0.5
  lambda: 0.8
dtype: float32
""",
    "breadcrumbs_rescale": """\
merge_method: breadcrumbs
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
parameters:
  weight: 0.7
  density: 0.6
  gamma: 0.2
  normalize: true
  rescale: true
dtype: float32
""",
    "breadcrumbs_ties": """\
merge_method: breadcrumbs_ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./birds
    parameters:
      weight: 0.5
  - model: ./digits
    parameters:
      weight: 0.4
parameters:
  density: 0.8
  gamma: 0.05
dtype: float32
""",
    "breadcrumbs_ties_normalize": """\
merge_method: breadcrumbs_ties
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
      density: 0.4
  - model: ./digits
    parameters:
      weight: 0.5
      gamma: 0.5
parameters:
  density: 0.7
  normalize: true
  int8_mask: true
dtype: float32
""",
    "nuslerp": """\
merge_method: nuslerp
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.3
  - model: ./digits
    parameters:
      weight: 0.9
dtype: float32
""",
    "nuslerp_last_axis": """\
merge_method: nuslerp
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./digits
    parameters:
      weight: 0.2
parameters:
  nuslerp_flatten: false
dtype: float32
""",
    "nuslerp_row_wise": """\
merge_method: nuslerp
base_model: ./base
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./digits
    parameters:
      weight: 0.9
parameters:
  nuslerp_flatten: false
  nuslerp_row_wise: true
dtype: float32
""",
    "nuslerp_models": """\
merge_method: nuslerp
models:
  - model: ./cars
    parameters:
      weight: 0.6
  - model: ./birds
    parameters:
      weight: 0.2
dtype: float32
""",
    "nuslerp_models_row_wise": """\
merge_method: nuslerp
models:
  - model: ./cars
  - model: ./digits
parameters:
  weight: 0.5
  nuslerp_flatten: false
  nuslerp_row_wise: true
dtype: float32
""",
    "karcher": """\
merge_method: karcher
models:
  - model: ./cars
  - model: ./birds
  - model: ./digits
parameters:
  max_iter: 10
  tol: 1e-5
dtype: float32
""",
    "karcher_base_added": """\
merge_method: karcher
base_model: ./base
models:
  - model: ./cars
  - model: ./digits
dtype: float32
""",
    "karcher_one_step": """\
merge_method: karcher
models:
  - model: ./base
  - model: ./digits
  - model: ./birds
parameters:
  max_iter: 1
dtype: float32
""",
    "sce": """\
merge_method: sce
base_model: ./base
models:
  - model: ./cars
  - model: ./birds
  - model: ./digits
dtype: float32
""",
    "sce_select_topk": """\
merge_method: sce
base_model: ./base
models:
  - model: ./base
  - model: ./cars
  - model: ./birds
  - model: ./digits
parameters:
  select_topk: 0.35
  int8_mask: true
dtype: float32
""",
    "arcee_fusion": """\
merge_method: arcee_fusion
base_model: ./base
models:
  - model: ./base
  - model: ./digits
dtype: float32
""",
    "passthrough": """\
merge_method: passthrough
models:
  - model: ./cars
dtype: float32
""",
    "passthrough_scale": """\
merge_method: passthrough
models:
  - model: ./birds
    parameters:
      scale: 0.75
dtype: float32
""",
}


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
    """The three checkpoints with several layers."""
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
    for name in ("deep_base", "deep_cars", "deep_birds"):
        (folder / name).mkdir(exist_ok=True)
        save(model, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(CONFIG | DEEP, indent=2) + "\n")
        model = {
            key: value + (0.05 * rng.standard_t(3, value.shape)).astype(np.float32) for key, value in model.items()
        }


def main() -> None:
    make_inputs(HERE)
    make_deep(HERE)
    (HERE / "outputs").mkdir(exist_ok=True)
    for name, text in RECIPES.items():
        (HERE / f"{name}.yml").write_text(text)
        with tempfile.TemporaryDirectory() as scratch:
            program = shutil.which("mergekit-yaml") or str(Path(sys.executable).with_name("mergekit-yaml"))
            subprocess.run([program, f"{name}.yml", scratch, "--no-copy-tokenizer"], cwd=HERE, check=True)
            save(load_file(Path(scratch, "model.safetensors")), HERE / "outputs" / f"{name}.safetensors")
    versions = {package: version(package) for package in ("mergekit", "torch", "transformers", "numpy", "safetensors")}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
