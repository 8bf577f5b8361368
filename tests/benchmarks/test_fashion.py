"""Fashion-MNIST's files, the recipe on them, and the encoder that has seen only printed characters."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the encoder needs the extra train")

import torch
from PIL import Image

from benchmarks import fashion, fashion_base
from benchmarks.demo_base import CANVAS, CHARACTERS
from prefmerge.config import make_config
from prefmerge.lab.recipe import read_experiment
from prefmerge.models.encoders.vision import VisionEncoder


def write_files(folder: Path, count: int) -> None:
    """The four files in the format of Fashion-MNIST: image i is all i, of class i % 10."""
    folder.mkdir()
    for part in ("train", "t10k"):
        head = b"".join(number.to_bytes(4, "big") for number in (fashion.IMAGES, count, 28, 28))
        images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images))
        head = b"".join(number.to_bytes(4, "big") for number in (fashion.LABELS, count))
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels))


def test_images_are_the_first_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path / "files", 50)
    monkeypatch.setattr(fashion, "PARTS", {"train": ("train", 3), "test": ("t10k", 2)})
    fashion.write_data(tmp_path / "files", tmp_path / "data")
    for part, each in (("train", 3), ("test", 2)):
        for label, name in enumerate(fashion.CLASSES):
            files = sorted((tmp_path / "data" / part / name).iterdir())
            assert [int(file.stem) for file in files] == [label + 10 * n for n in range(each)]
            assert {int(np.asarray(Image.open(file)).max()) for file in files} == {int(file.stem) for file in files}


def test_other_files_are_refused(tmp_path: Path):
    write_files(tmp_path / "files", 10)
    labels = tmp_path / "files" / "train-labels-idx1-ubyte.gz"
    (tmp_path / "files" / "train-images-idx3-ubyte.gz").write_bytes(labels.read_bytes())
    with pytest.raises(SystemExit, match="train is no file of Fashion-MNIST"):
        fashion.read(tmp_path / "files", "train")
    with pytest.raises(SystemExit, match="Install Debian's dataset-fashion-mnist, or give --images"):
        fashion.main(["--images", str(tmp_path), "--work", str(tmp_path / "work")])


def test_the_recipe_has_the_tasks_and_the_training_of_the_demo():
    from prefmerge.lab.demo.train import REGIME

    recipe = fashion.recipe(Path("work"))
    config = make_config(recipe["finetune"])
    assert config.model.id == "work/encoder"
    assert config.data[0].classes == fashion.CLASSES
    assert config.data[0].train_per_class == fashion.PARTS["train"][1]
    assert config.data[0].test_per_class == fashion.PARTS["test"][1]
    for name in ("epochs", "batch", "learning_rate", "warmup_fraction", "logit_scale", "augmentation"):
        assert getattr(config.training, name) == getattr(REGIME, name), name
    assert read_experiment(fashion.RECIPE).methods


def test_the_encoder_is_a_folder_that_fine_tuning_takes(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    pictures = fashion_base.pictures(torch.rand((3, 1, CANVAS, CANVAS), generator=generator), generator)
    assert pictures.shape == (3, 3, fashion_base.SIDE, fashion_base.SIDE)
    assert -1 <= float(pictures.min()) < float(pictures.max()) <= 1
    files = []
    for name in ("one", "two"):
        model, accuracy = fashion_base.train(1, 4, seed=0)
        fashion_base.save(model, tmp_path / name, accuracy)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    recipe = fashion.recipe(tmp_path)["finetune"]
    config = make_config(recipe | {"model": {"id": str(tmp_path / "one"), "kind": "vision"}})
    encoder = VisionEncoder(config.model, tmp_path / "one")
    assert encoder.width == 128
    inputs = encoder.prepare([Image.new("L", (28, 28), 255).convert("RGB")])
    assert float(inputs["pixel_values"].min()) == 1  # white, as `pictures` has it
    assert len(CHARACTERS) == 45
