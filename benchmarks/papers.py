"""What do the papers' experiments take: samples to train on and to encode, arithmetic, disk?

Each recipe of examples/bench that stands beside published numbers is planned as `prefmerge bench --dry-run` plans it,
over stand-ins of the registered size with the registered classes and epochs, and counted. Nothing is measured here:
hours follow from an assumed rate of arithmetic, and days on a CPU from the one that benchmarks/training_speed.py
measured. A multiplication with its addition is two operations; training takes three times a forward pass. Writes
`results/papers.json` and the table of docs/papers.md; a minute. Not here: reading images, what a cache saves.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.adapt_tables import between_marks
from prefmerge.data.registry import registered
from prefmerge.lab import published
from prefmerge.lab.forecast import BACKWARD, Rates, forecast
from prefmerge.lab.prepare import planned
from prefmerge.lab.recipe import Experiment, read_experiment

MARK = "<!-- made by benchmarks/papers.py -->"
RESULT, PAGE = common.RESULTS / "papers.json", common.ROOT / "docs" / "papers.md"
SPEED = common.RESULTS / "training_speed.json"
RECIPES = common.ROOT / "examples" / "bench"
ASSUMED = 10e12  # operations a second in float32; half of what an A100 has on paper
GIB = 1e9
# Layers, width, tokens, side of a patch, width of the shared space: CLIP's image towers.
TOWERS = {"b": (12, 768, 197, 16, 512), "l": (24, 1024, 257, 14, 768)}
MINILM = (6, 384, 24)  # what benchmarks/training_speed.py trains


def per_token_layers(layers: int, width: int, tokens: int) -> float:
    """Multiplications of a transformer's layers for one sample: projections, attention, MLP of four times the width."""
    return layers * (12.0 * tokens * width**2 + 2.0 * tokens**2 * width)


def forward(tower: str) -> float:
    """Operations of one forward pass for one image of 224 x 224."""
    layers, width, tokens, patch, _ = TOWERS[tower]
    return 2 * (per_token_layers(layers, width, tokens) + (tokens - 1) * 3 * patch**2 * width)


def parameters(tower: str) -> int:
    """Numbers of an image tower with its projection."""
    layers, width, tokens, patch, shared = TOWERS[tower]
    block = 12 * width**2 + 13 * width  # four projections and the MLP, with biases; two norms
    return layers * block + width * (3 * patch**2 + 1 + tokens + 4 + shared)


def measured_rate(speed: Mapping[str, Any]) -> float:
    """Operations a second of one CPU thread, from the measurement of our training loop."""
    work = BACKWARD * 2 * per_token_layers(*MINILM) * speed["samples"] * speed["epochs"]
    return work / speed["ours_seconds"]["median"]


def stand_in(recipe: Experiment, folder: Path) -> Experiment:
    """The recipe over a table with as many rows of each class as the registered set has on average."""
    assert isinstance(recipe.finetune, dict)
    (data,) = recipe.finetune["data"]
    known = registered(data["name"])
    assert known is not None
    classes = known.classes or tuple(f"class {i}" for i in range(200))
    for part in ("train", "test"):
        with (folder / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((f"{part} {i}", classes[i % len(classes)]) for i in range(known.samples[part]))
    epochs = known.epochs["class-incremental"]
    own = {
        "name": str(folder / "train.csv"),
        "test": str(folder / "test.csv"),
        "classes": list(classes),
        "epochs": epochs,
    }
    scenario = {**recipe.finetune["scenario"], "class_order": "natural"}
    return recipe.model_copy(update={"finetune": {**recipe.finetune, "data": [own], "scenario": scenario}})


def tables_of(recipe: Experiment) -> list[str]:
    """Which published tables stand beside the results, in words."""
    paper, told = recipe.paper, []
    if paper.environments is not None:
        told.append(f"Tunable MAGMAX, table {published.number('environments', paper.environments)}")
    if paper.ablation is not None:
        told.append(f"table {published.number('ablation', paper.ablation)}")
    if paper.supplement is not None:
        table = published.number("supplement", paper.supplement)
        told.append(f"MAGMAX supplement, table {table}, {paper.column}")
    return told


def counted(file: Path, folder: Path) -> dict[str, Any]:
    """What a recipe takes, from its plan."""
    asked = read_experiment(file)
    tower = "l" if "vit-l-14" in file.stem else "b"
    ready = planned(stand_in(asked, folder), folder / "out", lambda text: None)
    ahead = forecast(ready, 1, Rates("assumed", 4 * parameters(tower), ASSUMED / forward(tower)))
    work = forward(tower) * (ahead.count.samples + BACKWARD * ahead.trained_samples)
    return {
        "recipe": file.stem,
        "tables": tables_of(asked),
        "tower": tower,
        "trainings": len(ahead.trainings),
        "trained_samples": ahead.trained_samples,
        "encoded_samples": ahead.count.samples,
        "merges": ahead.count.merges,
        "disk_bytes": ahead.disk,
        "operations": work,
        "assumed_seconds": ahead.seconds,
    }


def recipes() -> list[Path]:
    """Those that stand beside published numbers."""
    return [file for file in sorted(RECIPES.glob("*.yaml")) if tables_of(read_experiment(file))]


def document(data: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """The table of docs/papers.md."""
    rate = measured_rate(speed)
    rows = [
        [
            f"`{row['recipe']}`",
            ", ".join(row["tables"]),
            str(row["trainings"]),
            f"{row['trained_samples'] / 1e6:.1f}",
            f"{row['encoded_samples'] / 1e6:.1f}",
            f"{row['disk_bytes'] / GIB:,.0f}",
            f"{row['operations'] / 1e18:.2f}",
            f"{row['assumed_seconds'] / 3600:,.0f}",
            f"{row['operations'] / rate / 86400:,.0f}",
        ]
        for row in data["rows"]
    ]
    header = [
        "recipe", "what it makes", "trainings", "million samples trained", "million samples encoded", "disk, GB",
        "10^18 operations", "hours, assumed", "days of one CPU thread",
    ]  # fmt: skip
    head = [header, ["---", "---", *["---:"] * (len(header) - 2)], *rows]
    return "\n".join(
        [
            *(f"| {' | '.join(one)} |" for one in head),
            "",
            f"Hours: at an assumed {ASSUMED / 1e12:.0f} x 10^12 operations a second, which is no measurement. Days: at "
            f"the {rate / 1e9:.0f} x 10^9 that one thread ({speed['hardware']['cpu']}) reached on a text encoder "
            f"(`benchmarks/results/training_speed.json`, commit {speed['commit']}).",
        ]
    )


def write_page(data: Mapping[str, Any]) -> None:
    speed = json.loads(SPEED.read_text())
    PAGE.write_text(between_marks(PAGE.read_text(), MARK, document(data, speed)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render-only", action="store_true", help="write the page from the result that is there")
    if not parser.parse_args(arguments).render_only:
        rows = []
        for file in recipes():
            with tempfile.TemporaryDirectory() as folder:
                rows.append(counted(file, Path(folder)))
            print(rows[-1])
        commit = common.provenance()["commit"]
        common.write_result(RESULT, {"question": common.question(__doc__), "commit": commit, "rows": rows})
    write_page(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
