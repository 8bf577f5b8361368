"""A tiny experiment: a random BERT fine-tuned on words in three tasks, two seeds; once independently, and once with
samples held out."""

from __future__ import annotations

import csv
import os
import random
import shutil
from pathlib import Path

import pytest

CONFIG = """\
model: tiny
data: {name: train.csv, test: test.csv}
scenario: {kind: class-incremental, tasks: 3}
training: {method: METHOD, epochs: 2, batch: 8, learning_rate: 0.003, warmup_steps: 2, threads: 1, device: cpu}
head: prototype
seed: SEED
held_out: HELD_OUT
"""
LABELS = ("ab", "cd", "ef", "gh", "ij", "kl")


def words(file: Path, per_class: int, seed: int) -> None:
    """A CSV of random words, each of two letters; the letters are its class."""
    rng = random.Random(seed)
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("text", "label"))
        seen: set[str] = set()
        for label in LABELS:
            made = 0
            while made < per_class:
                word = "".join(rng.choices(label + "abcdefghijkl"[:4], k=8))
                if word not in seen:
                    seen.add(word)
                    writer.writerow((word, label))
                    made += 1


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sequential-1`, `sequential-2`, `independent-1` and `held-out-1`; one for all workers."""
    pytest.importorskip("transformers", reason="experiments need the extra train")
    from filelock import FileLock

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder = place / "runs-of-experiments"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that could not finish it
            folder.mkdir()
            make_runs(folder)
            (folder / "made").touch()
    return folder


def make_runs(folder: Path) -> None:
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from tests.models.tiny import tiny_bert

    tiny_bert(folder / "tiny")
    words(folder / "train.csv", 20, 0)
    words(folder / "test.csv", 20, 1)
    for name, seed in (("sequential", 1), ("sequential", 2), ("independent", 1), ("held-out", 1)):
        file = folder / f"{name}-{seed}.yaml"
        method, held_out = ("sequential", "12") if name == "held-out" else (name, "0")
        text = CONFIG.replace("METHOD", method).replace("SEED", str(seed)).replace("HELD_OUT", held_out)
        file.write_text(text)
        finetune(read_config(file), folder / f"{name}-{seed}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
