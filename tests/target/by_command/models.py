"""A base and two tasks in folders, and commands that score what lies in one: programs that start in milliseconds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

LAYERS = 4
GOAL = {"cars": (1.0, 0.75, 0.5, 0.25), "birds": (0.0, 0.25, 0.25, 0.75)}  # the best weights, layer by layer
SCORE = """\
import array, json, sys
from pathlib import Path

model = Path(sys.argv[1])
file = next(model.glob("*.safetensors")) if model.is_dir() else model
content = file.read_bytes()
start = 8 + int.from_bytes(content[:8], "little")
header = json.loads(content[8:start])
with open("calls.log", "a") as log:
    print(*sys.argv[1:], file=log)
total = 0.0
for i, goal in enumerate(json.loads(Path("goal.json").read_text())):
    first, last = header[f"layers.{i}.w"]["data_offsets"]
    values = array.array("f", content[start + first : start + last])
    total += sum((x - y) ** 2 for x, y in zip(values, goal))
print(f"loss over {len(values)} values")
print("error:", round(total, 9))
"""


def make(folder: Path) -> Path:
    """base/, cars/, birds/, score.py and goal.json in the folder."""
    rng = np.random.default_rng(3)
    base = {f"layers.{i}.w": rng.standard_normal(6).astype(np.float32) for i in range(LAYERS)}
    goal = {name: values.astype(np.float64) for name, values in base.items()}
    put(folder / "base", base)
    for task, weights in GOAL.items():
        own = {name: rng.standard_normal(6).astype(np.float32) for name in base}
        put(folder / task, {name: base[name] + own[name] for name in base})
        for i, weight in enumerate(weights):
            goal[f"layers.{i}.w"] += weight * own[f"layers.{i}.w"]
    (folder / "score.py").write_text(SCORE)
    (folder / "goal.json").write_text(json.dumps([goal[f"layers.{i}.w"].tolist() for i in range(LAYERS)]))
    return folder


def put(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "tiny"}')


def score_of(model: Path | str) -> float:
    """The command's score, computed once more."""
    file = Path(model)
    tensors = load_file(file / "model.safetensors" if file.is_dir() else file)
    goals = json.loads(Path("goal.json").read_text())
    return sum(float(((tensors[f"layers.{i}.w"] - np.array(goal)) ** 2).sum()) for i, goal in enumerate(goals))


def python(*words: str) -> str:
    """The beginning of a command that runs Python on these words."""
    return " ".join([shlex.quote(sys.executable), "-S", "-I", *words])


def calls(folder: Path) -> list[str]:
    """What the command was run with so far."""
    log = folder / "calls.log"
    return log.read_text().splitlines() if log.exists() else []
