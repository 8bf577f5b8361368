"""What is damaged, and who reads it.

Every target makes its files once in a folder of its own, and puts a damaged copy in the place of one of them.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import prefmerge
from prefmerge.checkpoints.safetensors_file import SafetensorsFile
from prefmerge.merging import grouped
from prefmerge.merging.verify import verify
from prefmerge.preference import Preference
from prefmerge.runs import read_run, require_finished
from tests.field.attacked import make
from tests.fuzz import mutate
from tests.golden.make_vocabularies import MERGES, WORDS, save_model, tokenizer_json
from tests.outputs.pieces import model_file

Mutator = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Target:
    """`victim`: the file that is damaged. `right`: what may be in it. `read`: what is called."""

    victim: Path
    right: tuple[bytes, ...]
    damage: Mutator
    read: Callable[[], Any]


def _plan(base: Any, tasks: list[Any]) -> None:
    with prefmerge.plan(base, tasks) as planned:
        planned.to_json()


def header(folder: Path) -> Target:
    base, task, other = make(folder)
    content = Path(task).read_bytes()
    length = int.from_bytes(content[:8], "little")

    def damage(rng: random.Random, content: bytes) -> bytes:
        if rng.random() < 0.2:
            return mutate.of_bytes(rng, content)
        text = mutate.of_json(rng, content[8 : 8 + length])
        said = len(text) if rng.random() < 0.9 else rng.choice((0, len(text) + 1, 1 << 40, (1 << 64) - 1))
        return said.to_bytes(8, "little") + text + content[8 + length :]

    return Target(Path(task), (content,), damage, lambda: _plan(base, [task, other]))


def index(folder: Path) -> Target:
    base, task, _ = map(Path, make(folder))
    model = folder / "model"
    model.mkdir()
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    opened = SafetensorsFile.open(task)
    from safetensors.numpy import save_file

    for name, file in zip(opened.tensors, names, strict=True):
        save_file({name: opened.raw(name).reshape(opened.tensors[name].shape).view("float32")}, model / file)
    placed = {"metadata": {"total_size": 240}, "weight_map": dict(zip(opened.tensors, names, strict=True))}
    (model / "config.json").write_text('{"tie_word_embeddings": true}')
    content = json.dumps(placed).encode()
    victim = model / "model.safetensors.index.json"
    return Target(victim, (content,), mutate.of_json, lambda: _plan(base, [model]))


RECIPES = (
    """merge_method: tunable_magmax
base_model: base.safetensors
models:
  - model: t1.safetensors
    name: one
  - model: t2.safetensors
parameters:
  prefer: {one: 0.8, t2: 0.2}
  scale: 0.5
  selection: paper
  passes: 2
seed: 3
exclude: [b.*]
""",
    """merge_method: linear
base_model: base.safetensors
models:
  - model: t1.safetensors
    parameters: {weight: 0.5}
  - {model: t2.safetensors, parameters: {weight: 1/3}}
parameters: &a {normalize: true, int8_mask: false}
dtype: bfloat16
""",
    """merge_method: ties
base_model: base.safetensors
models: [{model: t1.safetensors, parameters: {density: 0.5, weight: 2}}, {model: t2.safetensors}]
parameters: {lambda: 1.0}
exclude: ['a.*']
""",
)


def recipe(folder: Path) -> Target:
    from prefmerge.merging.api import make_plan

    make(folder)
    victim = folder / "recipe.yaml"

    def read() -> None:
        with make_plan(prefmerge.read_recipe(victim)) as planned:
            planned.to_json()

    return Target(victim, tuple(text.encode() for text in RECIPES), mutate.of_lines, read)


def receipt(folder: Path) -> Target:
    from prefmerge.merging.card import model_card
    from prefmerge.merging.recipe import Recipe

    base, *tasks = make(folder)
    out = folder / "out.safetensors"
    prefmerge.merge(base, tasks, out, preference="0.7,0.3", selection="paper", threads=1)
    victim = folder / "out.safetensors.receipt.json"

    def read() -> None:
        loaded = prefmerge.Receipt.load(victim)
        model_card(loaded)
        if len(loaded.tasks) == len(tasks):
            Recipe.from_settings(loaded.recipe, base=base, tasks=tasks, names=loaded.tasks)
        prefmerge.inspect(victim)
        verify(out, inputs=True)

    plain = victim.read_bytes()
    in_groups = json.dumps(grouped.grouped(json.loads(plain))).encode()
    return Target(victim, (plain, in_groups), mutate.of_json, read)


def preference(folder: Path) -> Target:
    victim = folder / "preference.json"
    right = (
        Preference.named({"t1": "0.8", "t2": "1/5"}).to_json(),
        Preference.geometric(2).to_json(),
        {"counts": [3, 4]},
        [1, 2],
        {"t1": 0.5, "t2": 0.5},
        {**Preference.explicit([1, 2]).to_json(), "about": {"settings": {"method": "ties", "scale": "0.5"}}},
    )

    def read() -> None:
        loaded = Preference.load(victim)
        loaded.shares(["t1", "t2"])
        loaded.describe()

    return Target(victim, tuple(json.dumps(one).encode() for one in right), mutate.of_json, read)


def run(folder: Path) -> Target:
    make(folder)
    tasks = [
        {"name": name, "file": f"{name}.safetensors", "done": True, "classes": ["a", "b"], "label_counts": {"a": 3}}
        for name in ("t1", "t2")
    ]
    manifest = {"format": "prefmerge-run/1", "training": "sequential", "base": "base.safetensors", "head": None}
    victim = folder / "run.json"

    def read() -> None:
        made = read_run(folder)
        require_finished(made)
        made.to_json()
        _plan(made.base_path, [made.task_path(i) for i in range(len(made.tasks))])

    return Target(victim, (json.dumps({**manifest, "tasks": tasks}).encode(),), mutate.of_json, read)


def pieces(folder: Path) -> Target:
    """Of a task that has its words in another order than the base."""
    words = ["<unk>", "<s>", "</s>", *(f"▁{letter}" for letter in "abcdefgh")]
    places = [folder / "base", folder / "task"]
    for seed, place in enumerate(places):
        save_model(place, np.random.default_rng(seed), tokenizer_json(WORDS, MERGES, []), len(words))
        (place / "tokenizer.json").unlink()
        (place / "tokenizer.model").write_bytes(model_file(words))
    victim = places[1] / "tokenizer.model"

    def read() -> None:
        with prefmerge.plan(places[0], [places[1]], tokenizer="base") as planned:
            planned.to_json()

    return Target(victim, (model_file(words), model_file(words[::-1])), mutate.of_bytes, read)


def torch_file(folder: Path) -> Target:
    import torch

    base, _, other = make(folder)
    victim = folder / "t1.pt"
    state = {name: torch.full((6, 5), 0.5) for name in ("a.w", "b.w")}
    right = []
    nested = {"state_dict": state, "epoch": 3, "optimizer": {"x": [1]}}
    for content, zipped in ((state, True), (nested, True), (state, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        right.append(buffer.getvalue())

    def damage(rng: random.Random, content: bytes) -> bytes:
        if not content.startswith(b"PK") or rng.random() < 0.3:
            return mutate.of_bytes(rng, content)
        rebuilt = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(rebuilt, "w") as new:
            for entry in old.infolist():
                part = old.read(entry)
                if entry.filename.endswith("data.pkl") or rng.random() < 0.05:
                    part = mutate.of_bytes(rng, part)
                new.writestr(zipfile.ZipInfo(entry.filename), part)
        return rebuilt.getvalue()

    return Target(victim, tuple(right), damage, lambda: _plan(base, [victim, other]))


TARGETS: dict[str, Callable[[Path], Target]] = {
    one.__name__: one for one in (header, index, recipe, receipt, preference, run, pieces, torch_file)
}
