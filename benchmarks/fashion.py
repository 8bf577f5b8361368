"""Is a model that adapt chose ever worse than the last checkpoint, on images that nothing was tuned on?

Fashion-MNIST in five tasks of two classes, on an encoder that has seen only printed characters
(`benchmarks.fashion_base`), with the demo's training. The recipe is `examples/bench/fashion-mnist.yaml`. The images are
those of Debian's dataset-fashion-mnist: the first 1,000 training and 500 test images of each class. Resumable; hours on
two cores. Writes `results/fashion.json`, of which `benchmarks.targets --render-only --docs docs/targets.md` makes a
section; --collect writes it from what is finished so far.

    python -m benchmarks.fashion
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import common
from benchmarks.targets_results import collected, summary
from prefmerge.lab.results import Results

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
WORK = Path(__file__).parent / "scratch" / "fashion"
RECIPE = common.ROOT / "examples" / "bench" / "fashion-mnist.yaml"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"train": ("train", 1000), "test": ("t10k", 500)}  # name of the files, images of a class
IMAGES, LABELS = 2051, 2049  # what the files of each kind begin with


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and labels (N,) of "train" or "t10k"."""
    images, labels = (
        gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes()) for name in ("images-idx3", "labels-idx1")
    )
    for data, magic in ((images, IMAGES), (labels, LABELS)):
        if int.from_bytes(data[:4], "big") != magic:
            sys.exit(f"{folder}: {part} is no file of Fashion-MNIST. Give --images the folder of its four files.")
    count, side = int.from_bytes(images[4:8], "big"), int.from_bytes(images[8:12], "big")
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(count, side, side),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def write_data(source: Path, folder: Path) -> None:
    """folder/train/CLASS/*.png and folder/test/CLASS/*.png, in the order of the files."""
    from PIL import Image

    for part, (name, most) in PARTS.items():
        kept: Counter[int] = Counter()
        images, labels = read(source, name)
        for label in range(len(CLASSES)):
            (folder / part / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        for i, label in enumerate(labels.tolist()):
            if kept[label] < most:
                kept[label] += 1
                Image.fromarray(images[i]).save(folder / part / CLASSES[label] / f"{i:05d}.png")


def recipe(work: Path) -> dict[str, Any]:
    """The example's, with encoder and data in `work`."""
    data = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    data["finetune"]["model"]["id"] = str(work / "encoder")
    data["finetune"]["data"]["name"] = str(work / "data")
    return data


def bench(work: Path, source: Path, jobs: int | None) -> Path:
    """The output folder of `prefmerge bench`, from the encoder and the data on."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "encoder" / "about.json").exists():
        subprocess.run([sys.executable, "-m", "benchmarks.fashion_base", "--out", str(work / "encoder")], check=True)
    if not (work / "data" / "complete").exists():
        write_data(source, work / "data")
        (work / "data" / "complete").touch()
    own, out = work / "fashion.yaml", work / "bench"
    own.write_text(yaml.safe_dump(recipe(work), sort_keys=False), encoding="utf-8")
    command = [*common.PREFMERGE, "bench", str(own), "-o", str(out), *(["--jobs", str(jobs)] if jobs else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is finished is not done again")
    parser.add_argument("--images", type=Path, default=FOLDER, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--jobs", type=int, help="cells side by side; default: one per core")
    parser.add_argument("--collect", action="store_true", help="write the results of what is finished; measure nothing")
    asked = parser.parse_args(arguments)
    work = asked.work.resolve()
    if not asked.collect and not (asked.images / "train-images-idx3-ubyte.gz").is_file():
        sys.exit(f"{asked.images}: no Fashion-MNIST there. Install Debian's dataset-fashion-mnist, or give --images.")
    if asked.collect:
        results = collected(work / "fashion.yaml", work / "bench")
    else:
        results = Results.load(bench(work, asked.images, asked.jobs) / "results.json")
    names, asked_for = {work / "encoder": "ENCODER", work: "WORK"}, yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    data = summary(results, work / "bench", __doc__, names, asked_for)
    common.write_result(common.RESULTS / "fashion.json", data)


if __name__ == "__main__":
    main()
