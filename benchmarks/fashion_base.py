"""Can an image encoder that has seen only printed characters learn Fashion-MNIST's classes task by task? Makes it.

A small ConvNeXt (412,128 weights) learns to name 45 characters in the 22 text fonts that matplotlib ships: distorted
afresh in every batch as for the demo's base, filled with a smooth grey pattern, 28 x 28. It never sees a garment. The
folder is one that transformers reads (`model: {kind: vision}`). Same seed, same torch: same bytes. About 15 minutes on
one core.

    python -m benchmarks.fashion_base --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Linear, functional
from transformers import ConvNextConfig, ConvNextModel

from benchmarks.demo_base import CHARACTERS, descend, glyphs, written

STEPS, BATCH, PEAK = 3000, 64, 1e-3
SIDE = 28  # pixels
NORMAL = 0.5  # mean and standard deviation of every channel, as the folder's processor says


def pictures(images: Tensor, generator: torch.Generator) -> Tensor:
    """Glyphs (N, 1, CANVAS, CANVAS) as the encoder's input (N, 3, SIDE, SIDE): distorted, filled, normalised."""
    shapes = functional.interpolate(written(images, generator), size=SIDE, mode="bilinear", antialias=True)
    coarse = torch.rand((len(images), 1, 5, 5), generator=generator)
    filling = functional.interpolate(coarse, size=SIDE, mode="bicubic", align_corners=True).clamp(0, 1)
    grey = shapes * (0.35 + 0.65 * filling)
    return ((grey - NORMAL) / NORMAL).expand(-1, 3, -1, -1)


def train(steps: int, batch: int, seed: int) -> tuple[ConvNextModel, float]:
    """The encoder, and its accuracy over the last tenth of the (ever fresh) batches."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = ConvNextConfig(
        num_channels=3, patch_size=2, num_stages=3, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], image_size=SIDE
    )
    model = ConvNextModel(sizes)
    head = Linear(128, len(CHARACTERS))
    images, labels = glyphs()

    def scores_of(pick: Tensor) -> Tensor:
        return head(model(pixel_values=pictures(images[pick], generator)).pooler_output)

    leaves = [*model.parameters(), *head.parameters()]
    accuracy = descend(leaves, scores_of, labels, steps=steps, batch=batch, peak=PEAK, generator=generator)
    return model.eval(), accuracy


def save(model: ConvNextModel, folder: Path, accuracy: float) -> None:
    """The model, what prepares its images, and what it knows of characters."""
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [NORMAL] * 3,
        "image_std": [NORMAL] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1), encoding="utf-8")
    about = {"printed_accuracy": round(accuracy, 4), "characters": len(CHARACTERS)}
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the order of additions, hence the bytes, depends on it
    model, accuracy = train(asked.steps, asked.batch, asked.seed)
    save(model, asked.out, accuracy)


if __name__ == "__main__":
    main()
