"""Tiny models with a classifier of their own, trained for a second so that they know something.

A BERT that names words of two letters, a ViT that names colours; two tasks, one after the other.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prefmerge.config import ModelConfig
from prefmerge.models.encoders import load_encoder
from prefmerge.target.parameters import Parameters
from tests.models.tiny import tiny_image_classifier, tiny_text_classifier

WORDS = {"text": ("ab", "cd", "ef", "gh"), "image": ("red", "lime", "blue", "grey")}
COLOURS = {"red": (200, 60, 60), "lime": (60, 200, 60), "blue": (60, 60, 200), "grey": (130, 130, 130)}
TASKS = {"first": (0, 1), "second": (2, 3)}
EACH = 16  # samples of a class


@dataclass(frozen=True)
class World:
    """A base, two tasks trained from it one after the other, samples of each, and labels of the target."""

    kind: str
    root: Path

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in ("base", *TASKS))

    def asked(self, **given: Any) -> Parameters:
        return Parameters.of(
            **{
                "checkpoints": self.checkpoints,
                "task_samples": [self.root / "samples"],
                "labels": self.root / "seen.csv",
                "no_cache": True,
                "threads": 1,
                **given,
            }
        )

    def change(self, name: str, **entries: Any) -> None:
        """Other entries in a checkpoint's config.json."""
        file = self.root / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def sample(kind: str, name: str, rng: random.Random) -> Any:
    if kind == "text":
        return "".join(rng.choices(name, k=8))
    noise = np.random.default_rng(rng.randrange(2**32)).integers(-60, 60, (16, 16, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def train(folder: Path, kind: str, classes: Sequence[int], seed: int, out: Path) -> None:
    """Twenty steps from `folder` on some classes."""
    encoder = load_encoder(ModelConfig(id=str(folder), kind="classifier"))
    rng, tower = random.Random(seed), encoder.tower
    optimizer = torch.optim.AdamW(tower.parameters(), lr=0.003)
    for _ in range(20):
        labels = [classes[i % len(classes)] for i in range(16)]
        batch = encoder.prepare([sample(kind, WORDS[kind][c], rng) for c in labels])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(tower(**batch), torch.tensor(labels)).backward()
        optimizer.step()
    encoder.save(out)


def make(kind: str, root: Path) -> World:
    maker = tiny_text_classifier if kind == "text" else tiny_image_classifier
    (root / "samples").mkdir(parents=True)
    maker(root / "start", WORDS[kind])
    train(root / "start", kind, range(4), 0, root / "base")
    rng, before = random.Random(1), root / "base"
    for seed, (name, classes) in enumerate(TASKS.items(), 1):
        train(before, kind, classes, seed, root / name)
        before = root / name
        if kind == "text":
            with open(root / "samples" / f"{name}.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("text", "label"))
                writer.writerows((sample(kind, WORDS[kind][c], rng), WORDS[kind][c]) for c in list(classes) * EACH)
        else:
            for c in classes:
                (root / "samples" / name / WORDS[kind][c]).mkdir(parents=True)
                for i in range(EACH):
                    sample(kind, WORDS[kind][c], rng).save(root / "samples" / name / WORDS[kind][c] / f"{i}.png")
    seen = (*[WORDS[kind][0]] * 9, *[WORDS[kind][1]] * 3, WORDS[kind][2])
    (root / "seen.csv").write_text("\n".join(("label", *seen)) + "\n")
    return World(kind, root)
