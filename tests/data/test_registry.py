"""Every registered data set loads from a local folder in its hub layout, with its classes mapped by name."""

from __future__ import annotations

import re
import string
from pathlib import Path

import numpy as np
import pytest
import xxhash

from prefmerge.config import DataConfig, make_config
from prefmerge.data import CLASS_ORDERS, REGISTRY, load_corpus, registered
from prefmerge.data.labels import folded
from prefmerge.data.scenarios import build_scenario
from prefmerge.errors import DataError
from prefmerge.ground.draws import held_out
from tests.data.datasets import LAYOUTS, PER_CLASS, class_in, hub_copy, hub_names, image_folder, png

# What the papers and the pages of the data sets say; written here again, by hand.
CLASSES = {
    "cifar100": 100,
    "imagenet_r": 200,
    "cub200": 200,
    "cars": 196,
    "domainnet": 345,
    "mnist": 10,
    "svhn": 10,
    "eurosat": 10,
    "resisc45": 45,
    "sun397": 397,
    "dtd": 47,
    "gtsrb": 43,
}
EPOCHS = {
    ("cifar100", "class-incremental"): 10,
    ("imagenet_r", "class-incremental"): 10,
    ("imagenet_r", "domain-incremental"): 10,
    ("domainnet", "domain-incremental"): 10,
    ("cub200", "class-incremental"): 30,
    ("cars", "class-incremental"): 30,
    ("cars", "datasets"): 35,
    ("mnist", "datasets"): 5,
    ("eurosat", "datasets"): 12,
    ("svhn", "datasets"): 4,
    ("resisc45", "datasets"): 15,
    ("sun397", "datasets"): 14,
    ("dtd", "datasets"): 75,
    ("gtsrb", "datasets"): 11,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library-cache")


def copy(name: str, tmp_path: Path, **options) -> Path:
    return hub_copy(name, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}", **options)


def test_every_promised_data_set_is_registered():
    assert {name: len(entry.classes) for name, entry in REGISTRY.items()} == CLASSES
    assert {(n, kind): e for n, entry in REGISTRY.items() for kind, e in entry.epochs.items()} == EPOCHS
    assert LAYOUTS.keys() == REGISTRY.keys()


@pytest.mark.parametrize("name", REGISTRY)
def test_entries_are_sound(name: str):
    entry = REGISTRY[name]
    assert len(set(map(folded, entry.classes))) == len(entry.classes)
    for template in entry.templates:
        assert template.count("{}") == 1
        assert {field for _, field, _, _ in string.Formatter().parse(template) if field is not None} == {""}
    assert set(entry.aliases.values()) <= set(entry.classes)
    assert not {folded(alias) for alias in entry.aliases} & {folded(c) for c in entry.classes}
    assert entry.class_order == "natural" or entry.class_order in CLASS_ORDERS
    assert entry.verified, "nothing says where this comes from"
    for source in entry.verified:
        assert source["page"].startswith("https://")
        assert source["what"]
    for spelling in (entry.name, entry.title, entry.title.upper(), entry.hub, *entry.also):
        assert registered(spelling) is entry
    for place in (f"./{name}", f"/data/{name}", f"{name}.csv", f"{name}-mine"):
        assert registered(place) is None


@pytest.mark.parametrize("name", CLASS_ORDERS)
def test_class_orders_are_permutations(name: str):
    order = CLASS_ORDERS[name]
    assert sorted(order.positions) == list(range(len(REGISTRY[order.source].classes)))


def test_orders_begin_as_published():
    """The first entries of the authors' lists."""
    assert {name: order.positions[:4] for name, order in CLASS_ORDERS.items()} == {
        "A": (70, 89, 11, 13),
        "B": (95, 20, 64, 82),
        "C": (80, 97, 98, 57),
        "imagenet_r": (186, 157, 67, 59),
    }
    first = [REGISTRY["imagenet_r"].classes[p] for p in CLASS_ORDERS["imagenet_r"].positions[:3]]
    assert first == ["tree frog", "school bus", "flute"]  # by name; by WordNet id they would be others
    assert REGISTRY["domainnet"].domain_order == ("clipart", "sketch", "real", "infograph", "quickdraw", "painting")
    assert len(set(REGISTRY["imagenet_r"].domain_order)) == 15
    assert REGISTRY["imagenet_r"].domain_order[:3] == ("tattoo", "sketch", "graphic")


@pytest.mark.parametrize("name", REGISTRY)
def test_loads_from_a_local_copy_in_its_hub_layout(name: str, tmp_path: Path):
    entry, folder = REGISTRY[name], copy(name, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    corpus = load_corpus(DataConfig(name=name, path=str(folder)), 0)
    assert corpus.name == name
    assert (corpus.kind, corpus.classes, corpus.templates) == ("image", entry.classes, entry.templates)
    if (
        name == "imagenet_r"
    ):  # two samples of each of three classes, of which round(6 / 5) is held out, at least one each
        assert (len(corpus.train), len(corpus.test)) == (3, 3)
    else:
        assert len(corpus.train) == 3 * PER_CLASS["train"]
        assert len(corpus.test) == 3 * PER_CLASS["test"]
        assert corpus.train.ids[:2] == ("train/00000", "train/00001")
        assert corpus.test.ids[0] == "test/00000"
    for split in (corpus.train, corpus.test):
        assert split.labels.dtype == np.int64
        images = split.read(range(len(split)))
        assert {image.mode for image in images} == {"RGB"}
        assert [class_in(image) for image in images] == split.labels.tolist()
        assert (split.domains is not None) == (name in ("imagenet_r", "domainnet"))
    assert len(set(corpus.train.ids + corpus.test.ids)) == len(corpus.train) + len(corpus.test)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before, "the user's folder was written to"


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"imagenet_r"}))
def test_labels_follow_names_not_positions(name: str, tmp_path: Path):
    last = len(REGISTRY[name].classes) - 1
    folder = copy(name, tmp_path, labels=(0, 1, last), shuffle=7)
    corpus = load_corpus(DataConfig(name=name, path=str(folder)), 0)
    assert [class_in(image) for image in corpus.test.read(range(len(corpus.test)))] == corpus.test.labels.tolist()
    assert sorted(set(corpus.test.labels.tolist())) == [0, 1, last]


@pytest.mark.parametrize("name", ["svhn", "imagenet_r"])
def test_a_copy_without_its_card_loads_too(name: str, tmp_path: Path):
    corpus = load_corpus(DataConfig(name=name, path=str(copy(name, tmp_path, card=False))), 0)
    assert sorted(set(corpus.train.labels.tolist())) == [0, 1, 2]


def test_the_configuration_alone_loads_too(tmp_path: Path):
    folder = copy("svhn", tmp_path) / "cropped_digits"
    assert len(load_corpus(DataConfig(name="svhn", path=str(folder)), 0).train) == 12


def test_old_spellings_of_labels_are_understood(tmp_path: Path):
    original = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    folder = image_folder(tmp_path / "2750", [*original, "Residential", "River", "SeaLake"])
    corpus = load_corpus(DataConfig(name="EuroSAT", path=str(folder)), 0)
    assert corpus.classes == REGISTRY["eurosat"].classes
    assert [class_in(image) for image in corpus.train.read(range(30))] == corpus.train.labels[:30].tolist()


def test_folders_numbered_as_the_classes(tmp_path: Path):
    """GTSRB as its authors publish it: 00000 … 00042."""
    folder = image_folder(tmp_path / "train", [f"{i:05d}" for i in range(43)], per_class=5).parent
    corpus = load_corpus(DataConfig(name="gtsrb", path=str(folder)), 0)
    assert [class_in(image) for image in corpus.test.read(range(43))] == corpus.test.labels.tolist()


def test_numbers_whose_order_is_not_the_registrys_are_refused(tmp_path: Path):
    folder = image_folder(tmp_path / "r", [str(i) for i in range(200)], per_class=1)
    with pytest.raises(DataError, match=r"bare numbers.*Give `classes: \[name of 0, name of 1, …\]`"):
        load_corpus(DataConfig(name="imagenet_r", path=str(folder)), 0)


def test_unknown_and_missing_classes_are_named(tmp_path: Path):
    names = hub_names("dtd")
    folder = image_folder(tmp_path / "d", ["stripy" if name == "striped" else name for name in names])
    message = r"47 classes are expected.*declares 47: it lacks 'striped' and has 'stripy', which is none of them"
    with pytest.raises(DataError, match=message):
        load_corpus(DataConfig(name="dtd", path=str(folder)), 0)
    folder = image_folder(tmp_path / "few", names[2:])
    with pytest.raises(
        DataError, match=r"declares 45: it lacks 'banded', 'blotchy'\. Give `classes` with the data set's"
    ):
        load_corpus(DataConfig(name="dtd", path=str(folder)), 0)


# The frozen split of ImageNet-R.


def identities() -> tuple[list[str], np.ndarray]:
    """30,000 names such as ImageNet-R's: 200 classes, 51 images or more each, of sizes that leave ties."""
    sizes = [51 + (c * c) % 197 for c in range(200)]
    sizes[-1] += 30_000 - sum(sizes)
    wordnet = sorted(REGISTRY["imagenet_r"].aliases)
    names = [f"{wordnet[c]}/art_{i}.jpg" for c, size in enumerate(sizes) for i in range(size)]
    return names, np.repeat(np.arange(200), sizes)


def test_the_split_of_imagenet_r_is_frozen():
    names, labels = identities()
    rule = REGISTRY["imagenet_r"].held_out
    assert rule is not None
    assert (rule.scheme, rule.seed, rule.fraction.as_integer_ratio()) == ("prefmerge-held-out/1", 0, (1, 5))
    test = held_out(names, labels, rule.seed, rule.fraction)
    assert len(test) == 6000
    counts = np.bincount(labels[test], minlength=200)
    sizes = np.bincount(labels)
    assert np.all(np.abs(counts - sizes / 5) < 1)
    # Any change of the rule changes published numbers: a new scheme, never an edit of this one.
    digest = xxhash.xxh3_128_hexdigest("\n".join(sorted(names[i] for i in test)).encode())
    assert digest == "c04844059c22ce5d6d35b21b7aade954"


def test_the_split_does_not_depend_on_the_order_of_the_samples():
    names, labels = identities()
    shuffled = np.random.default_rng(1).permutation(len(names))
    straight = {names[i] for i in held_out(names, labels, 0)}
    turned = [names[i] for i in shuffled]
    assert {turned[i] for i in held_out(turned, labels[shuffled], 0)} == straight
    renumbered = np.random.default_rng(2).permutation(200)[labels]
    assert {names[i] for i in held_out(names, renumbered, 0)} == straight, "nor on the numbers of the classes"


def test_imagenet_r_splits_alike_from_the_hub_and_from_the_archive(tmp_path: Path):
    """axiong/imagenet-r keeps WordNet ids in a column, the authors' archive in the names of folders."""
    hub = copy("imagenet_r", tmp_path, per_class={"test": 10})
    wordnet = {name: alias for alias, name in REGISTRY["imagenet_r"].aliases.items()}
    archive = tmp_path / "imagenet-r"
    styles = REGISTRY["imagenet_r"].domain_order
    for label, name in enumerate(REGISTRY["imagenet_r"].classes):
        (archive / wordnet[name]).mkdir(parents=True)
        for n in range(10 if label < 3 else 1):
            (archive / wordnet[name] / f"{styles[n % 2]}_{n}.png").write_bytes(png(label, n))
    chosen = []
    for place, seed in ((hub, 0), (hub, 5), (archive, 0)):
        test = load_corpus(DataConfig(name="imagenet_r", path=str(place)), seed).test
        pixels = [image.getpixel((0, 0)) for image in test.read(range(len(test)))]
        chosen.append(sorted(pixel for pixel in pixels if pixel[1] < 3))
    assert len(chosen[0]) == 6
    assert chosen[0] == chosen[1], "the frozen split must not depend on the seed of the run"
    assert len(chosen[2]) >= 6
    assert set(chosen[0]) <= set(chosen[2])


def test_imagenet_r_without_names_of_files_splits_by_contents(tmp_path: Path):
    chosen = []
    for backwards in (False, True):
        folder = copy("imagenet_r", tmp_path, per_class={"test": 10}, files=False, backwards=backwards)
        corpus = load_corpus(DataConfig(name="imagenet_r", path=str(folder)), 0)
        assert corpus.train.domains is None
        chosen.append(sorted(str(image.getpixel((0, 0))) for image in corpus.test.read(range(6))))
    assert len(chosen[0]) == 6
    assert chosen[0] == chosen[1], "the order of the rows must not matter"


def test_styles_of_imagenet_r_come_from_the_names_of_files(tmp_path: Path):
    folder = copy("imagenet_r", tmp_path, per_class={"test": 10})
    config = make_config(
        {"model": "m", "data": {"name": "imagenet_r", "path": str(folder)}, "scenario": "domain-incremental"}
    )
    scenario = build_scenario(config, [load_corpus(config.data[0], 0)])
    assert [task.name for task in scenario.tasks] == ["tattoo", "sketch"]
    assert {task.epochs for task in scenario.tasks} == {10}


def test_domains_of_domainnet_come_in_the_papers_order(tmp_path: Path):
    folder = copy("domainnet", tmp_path)
    config = make_config(
        {"model": "m", "data": {"name": "domainnet", "path": str(folder)}, "scenario": "domain-incremental"}
    )
    scenario = build_scenario(config, [load_corpus(config.data[0], 0)])
    assert [task.name for task in scenario.tasks] == ["clipart", "sketch"]
    assert all(task.classes == tuple(range(345)) for task in scenario.tasks)


def test_a_wrong_column_and_a_missing_split_list_what_there_is(tmp_path: Path):
    folder = copy("cifar100", tmp_path)
    with pytest.raises(DataError, match=r"no label column 'labels'; the columns are: img, fine_label, coarse_label"):
        load_corpus(DataConfig(name="cifar100", path=str(folder), label="labels"), 0)
    with pytest.raises(DataError, match=r"split 'train': there is no input column 'photo'; the columns are: img, fine"):
        load_corpus(DataConfig(name="cifar100", path=str(folder), input="photo"), 0)
    (folder / "cifar100" / "test-00000-of-00001.parquet").unlink()
    message = re.escape(str(folder)) + r": there is no split 'test'; the splits are: train\."
    with pytest.raises(DataError, match=message):
        load_corpus(DataConfig(name="cifar100", path=str(folder)), 0)


def test_the_hub_out_of_reach(tmp_path: Path):
    message = (
        r"data set 'uoft-cs/cifar100': no such folder here, and it cannot be had from the hub \(.*\)\. "
        r"Give `path:` with a local copy in the hub's layout, or go online\."
    )
    with pytest.raises(DataError, match=message):
        load_corpus(DataConfig(name="cifar-100"), 0)


def test_the_document_names_every_data_set():
    text = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in REGISTRY)
