"""What tests of `prefmerge adapt` and `search` write and ask."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any


def write_words(path: Path, counts: dict[str, int], seed: int) -> None:
    rng = random.Random(seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label, count in counts.items():
            writer.writerows(("".join(rng.choices(label, k=8)), label) for _ in range(count))


def tasks_of(place: Path) -> dict[str, list[str]]:
    run = json.loads((place / "my-run" / "run.json").read_text())
    return {task["name"]: task["classes"] for task in run["tasks"]}


def name_of(label: str, tasks: dict[str, list[str]]) -> str:
    return next(name for name, classes in tasks.items() if label in classes)


def without_cost(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("cost", "command")}
