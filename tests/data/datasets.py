"""Tiny data sets for the tests: CSVs, folders of images, corpora in memory, and copies in the layouts of the hub.

A sample's image is one colour, `colour(class, number)`, so that whoever reads it knows which class it was made for,
whatever a label says. The schemas of the copies are those of the data sets' pages, cited beside each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prefmerge.data import REGISTRY, Corpus, Examples

PER_CLASS = {"train": 4, "test": 2}


def colour(label: int, number: int = 0) -> tuple[int, int, int]:
    return label // 256, label % 256, number


def class_in(image: Image.Image) -> int:
    """The class that an image was made for."""
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0]) * 256 + int(pixel[1])


def grey(mode: str, values: list[float]) -> bytes:
    """One row of pixels, as a TIFF of 16 or 32 bits (I;16, I) or of floats (F); or a PNG of 16 bits (PNG)."""
    dtype = {"I;16": "<u2", "PNG": "<u2", "I": "<i4", "F": "<f4"}[mode]
    content = io.BytesIO()
    Image.fromarray(np.asarray([values], dtype)).save(content, "PNG" if mode == "PNG" else "TIFF")
    return content.getvalue()


def png(label: int, number: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 6), colour(label, number)).save(content, "PNG")
    return content.getvalue()


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(rows)
    return file


def text_csv(file: Path, classes: Sequence[str] = ("cat", "dog", "owl"), per_class: int = 10) -> Path:
    """`text,label`: per class, `{class} number {i}`."""
    rows = [(f"{name} number {i}", name) for i in range(per_class) for name in classes]
    return write_csv(file, ("text", "label"), rows)


def image_folder(folder: Path, classes: Sequence[str], per_class: int = 4) -> Path:
    """CLASS/0.png, …: class i in the colour of i."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            (folder / name / f"{number}.png").write_bytes(png(label, number))
    return folder


def text_examples(prefix: str, labels: Sequence[int], domains: Sequence[str] | None = None) -> Examples:
    """In memory: sample i reads `{prefix} {i} of {label}`."""
    texts = [f"{prefix} {i} of {label}" for i, label in enumerate(labels)]
    return Examples(
        ids=tuple(f"{prefix}/{i:05d}" for i in range(len(labels))),
        labels=np.asarray(labels, dtype=np.int64),
        read=lambda at: [texts[i] for i in at],
        fingerprint=lambda at: "|".join(texts[i] for i in at),
        domains=None if domains is None else tuple(domains),
    )


def text_corpus(
    name: str = "words",
    classes: Sequence[str] = ("a", "b", "c", "d", "e", "f"),
    train: int = 4,
    test: int = 2,
    domains: Sequence[str] | None = None,
) -> Corpus:
    """A corpus in memory with `train` and `test` samples of each class (and of each domain)."""

    def split(prefix: str, count: int) -> Examples:
        each = [(c, d) for _ in range(count) for d in domains or [""] for c in range(len(classes))]
        return text_examples(f"{name}-{prefix}", [c for c, _ in each], [d for _, d in each] if domains else None)

    return Corpus(name, "text", tuple(classes), ("{}",), split("train", train), split("test", test))


@dataclass(frozen=True)
class Layout:
    """How a data set lies on the hub."""

    page: str  # where its schema is published
    label: str  # the column
    input: str = "image"
    splits: Mapping[str, str] | None = None  # split -> file; None: data/train-…, data/test-…
    card: str | None = None  # README.md, where configurations are listed there
    domain: str | None = None


def _parquet(name: str) -> str:
    return f"{name}-00000-of-00001.parquet"


def _card(*configurations: tuple[str, str, list[str]]) -> str:
    """A README.md that says which files each configuration has: (its name, folder, splits)."""
    lines = ["---", "configs:"]
    for name, folder, splits in configurations:
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split in splits for line in (f"  - split: {split}", f"    path: {folder}/{split}-*")]
    return "\n".join([*lines, "---", ""])


_DATA = {"train": f"data/{_parquet('train')}", "test": f"data/{_parquet('test')}"}
_HUB = "https://huggingface.co/datasets"
LAYOUTS = {
    "cifar100": Layout(  # img, fine_label, coarse_label; train 50,000, test 10,000
        f"{_HUB}/uoft-cs/cifar100",
        "fine_label",
        input="img",
        splits={"train": f"cifar100/{_parquet('train')}", "test": f"cifar100/{_parquet('test')}"},
    ),
    "imagenet_r": Layout(  # image, wnid, class_name; configuration test, split test 30,000
        f"{_HUB}/axiong/imagenet-r",
        "class_name",
        splits={"test": f"test/{_parquet('test')}"},
        card=_card(("test", "test", ["test"])),
    ),
    "cub200": Layout(f"{_HUB}/bentrevett/caltech-ucsd-birds-200-2011", "label"),  # image, label, bbox
    "cars": Layout(f"{_HUB}/tanganke/stanford_cars", "label"),
    "domainnet": Layout(f"{_HUB}/wltjr1007/DomainNet", "label", domain="domain"),  # image, label, domain
    "mnist": Layout(
        f"{_HUB}/ylecun/mnist",
        "label",
        splits={"train": f"mnist/{_parquet('train')}", "test": f"mnist/{_parquet('test')}"},
    ),
    "svhn": Layout(  # two configurations; cropped_digits has train, test and extra
        f"{_HUB}/ufldl-stanford/svhn",
        "label",
        splits={split: f"cropped_digits/{_parquet(split)}" for split in ("train", "test", "extra")},
        card=_card(
            ("full_numbers", "full_numbers", ["train"]),
            ("cropped_digits", "cropped_digits", ["train", "test", "extra"]),
        ),
    ),
    "eurosat": Layout(f"{_HUB}/tanganke/eurosat", "label"),
    "resisc45": Layout(  # further splits hold corrupted images
        f"{_HUB}/tanganke/resisc45/blob/main/README.md",
        "label",
        splits=_DATA | {"contrast": f"data/{_parquet('contrast')}"},
    ),
    "sun397": Layout(f"{_HUB}/tanganke/sun397", "label"),
    "dtd": Layout(f"{_HUB}/tanganke/dtd/viewer", "label"),
    "gtsrb": Layout(f"{_HUB}/tanganke/gtsrb", "label"),
}


def hub_names(name: str) -> list[str]:
    """The names of the labels as the page of the data set writes them, in the registry's order."""
    classes = list(REGISTRY[name].classes)
    if name == "cifar100":  # aquarium_fish, …, and crab without its b
        return [one.replace(" ", "_").replace("crab", "cra") for one in classes]
    if name == "cub200":  # 001.Black_footed_Albatross
        return [f"{i + 1:03d}.{one.replace(' ', '_')}" for i, one in enumerate(classes)]
    if name in ("imagenet_r", "domainnet"):
        return [one.replace(" ", "_") for one in classes]
    return classes


def hub_copy(
    name: str,
    folder: Path,
    *,
    labels: Sequence[int] = (0, 1, 2),
    shuffle: int | None = None,
    card: bool = True,
    per_class: Mapping[str, int] = PER_CLASS,
    files: bool = True,
    backwards: bool = False,
) -> Path:
    """A tiny copy of a registered data set: a few samples of `labels` (positions in the registry's classes), with or
    without the names of their files, in one order or the other.

    `shuffle` seeds another order of the declared names; the images keep the colours of the registry's positions.
    """
    layout, names = LAYOUTS[name], hub_names(name)
    order = list(range(len(names)))
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(len(names)).tolist()
    position = {label: at for at, label in enumerate(order)}  # registry's position -> hub's
    for split, file in (layout.splits or _DATA).items():
        each = [(label, n) for n in range(per_class.get(split, 2)) for label in labels]
        each = each[::-1] if backwards else each
        _write(name, folder / file, layout, [names[i] for i in order], each, position, files)
    if name == "svhn":  # the other configuration has columns of its own
        _write_other(folder / "full_numbers" / _parquet("train"))
    if card and layout.card:
        (folder / "README.md").write_text(layout.card)
    return folder


def _write(
    name: str,
    file: Path,
    layout: Layout,
    names: list[str],
    each: list[tuple[int, int]],
    position: Mapping[int, int],
    files: bool,
) -> None:
    import datasets

    styles = REGISTRY[name].domain_order
    features: dict[str, Any] = {layout.input: datasets.Image()}
    columns: dict[str, list[Any]] = {
        layout.input: [
            {"bytes": png(label, n), "path": f"{(styles or ['x', 'x'])[n % 2]}_{n}.png" if files else None}
            for label, n in each
        ]
    }
    if name == "imagenet_r":
        wordnet = {one: alias for alias, one in REGISTRY[name].aliases.items()}
        features |= {"wnid": datasets.Value("string"), "class_name": datasets.Value("string")}
        columns["wnid"] = [wordnet[REGISTRY[name].classes[label]] for label, _ in each]
        columns["class_name"] = [names[position[label]] for label, _ in each]
    else:
        features[layout.label] = datasets.ClassLabel(names=names)
        columns[layout.label] = [position[label] for label, _ in each]
    if name == "cifar100":
        features["coarse_label"] = datasets.ClassLabel(num_classes=20)
        columns["coarse_label"] = [0] * len(each)
    if layout.domain:
        features[layout.domain] = datasets.ClassLabel(names=sorted(styles))
        columns[layout.domain] = [sorted(styles).index(styles[n % 2]) for _, n in each]
    write_parquet(file, columns, features)


def _write_other(file: Path) -> None:
    import datasets

    write_parquet(file, {"image": [{"bytes": png(0), "path": None}]}, {"image": datasets.Image()})


def write_parquet(file: Path, columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any] | None = None) -> Path:
    """A parquet file as `datasets` writes it, features in its header."""
    import datasets

    datasets.disable_progress_bars()
    file.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(dict(columns), None if features is None else datasets.Features(features))
    data.to_parquet(str(file))
    return file
