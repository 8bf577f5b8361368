"""Which label-free similarity finds out what a target is made of, and whose embedding should it use?

The environments and runs of `benchmarks.targets`. The paper embeds task t and the target by theta_t, another encoder
for each task, and compares the T distances. Here each distance is also computed with one encoder for all tasks (theta_0
or theta_T), and optimal transport also without the entropic blur (exact) and debiased. What counts: the total variation
between the shares that follow and those of the environment (0: right, 1: nothing right), and how much of the preference
goes to tasks that are there at all. Equal shares are the yardstick. Writes `results/similarity_encoders.json` and, with
--docs, the table made from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.targets import WORK
from prefmerge.data.examples import Examples
from prefmerge.lab.work import Bench, training_sample
from prefmerge.models.features import cache_folder, embed
from prefmerge.target import similarity

RESULT = common.RESULTS / "similarity_encoders.json"
SAMPLES, BATCH = 500, 32  # training samples of a task; inputs encoded at a time
ENCODERS = ("theta_t", "theta_T", "theta_0")
GAMMAS = {"ot": 100.0, "cosine": 50.0, "mmd": 100.0}  # the authors'
DISTANCES: dict[str, tuple[similarity.SimilarityKind, dict[str, Any]]] = {
    "OT, Sinkhorn (the paper's)": ("ot", {}),
    "OT, exact": ("ot", {"solver": "exact"}),
    "OT, debiased": ("ot", {"solver": "debiased"}),
    "cosine": ("cosine", {}),
    "MMD": ("mmd", {}),
}


def features(bench: Bench, shown: Examples, samples: int) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """By encoder: the tasks' embedded samples, and the target's as each of these encoders sees them."""
    run, scenario, encoder = bench.opened.run, bench.opened.scenario, bench.opened.encoder
    train = [training_sample(task.train, samples, bench.opened.config.seed) for task in scenario.tasks]

    def seen(which: Sequence[int], path: Path) -> list[np.ndarray]:
        encoder.load(path)
        parts = [*(train[t] for t in which), shown]
        return [embed(encoder, part, batch=BATCH, device=bench.device, cache=cache_folder()) for part in parts]

    last, count = len(run.tasks) - 1, len(run.tasks)
    own = [seen([t], run.task_path(t)) for t in range(count)]
    by_last, by_base = seen(range(count), run.task_path(last)), seen(range(count), run.base_path)
    return {
        "theta_t": ([tasks for tasks, _ in own], [target for _, target in own]),
        "theta_T": (by_last[:-1], [by_last[-1]] * count),
        "theta_0": (by_base[:-1], [by_base[-1]] * count),
    }


def judged(shares: Sequence[float], truth: Sequence[float]) -> tuple[float, float]:
    """Total variation, and the share that goes to tasks of the environment."""
    return (
        0.5 * sum(abs(s - t) for s, t in zip(shares, truth, strict=True)),
        sum(s for s, t in zip(shares, truth, strict=True) if t > 0),
    )


def measure(bench: Bench, keys: Sequence[str], samples: int) -> dict[str, list[tuple[float, float]]]:
    """(total variation, share of present tasks) of every environment, by distance and encoder."""
    shown, rows = bench.union(keys)
    names = bench.candidates.names
    truths = [bench.samples.environments[key].truth(names) for key in keys]
    by_distance: dict[str, list[tuple[float, float]]] = {
        "equal shares": [judged([1 / len(names)] * len(names), truth) for truth in truths],
        "labels": [judged(bench.label_similarity(k).shares().tolist(), t) for k, t in zip(keys, truths, strict=True)],
    }
    for encoder, (tasks, target_by_task) in features(bench, shown.examples, samples).items():
        for title, (kind, settings) in DISTANCES.items():
            compare: Callable[..., similarity.Similarity] = similarity.KINDS[kind]
            several = []
            for key, truth in zip(keys, truths, strict=True):
                one = compare(
                    tasks, [all_of[rows[key]] for all_of in target_by_task], names, gamma=GAMMAS[kind], **settings
                )
                several.append(judged(one.shares().tolist(), truth))
            by_distance[f"{title} | {encoder}"] = several
            print(f"{title}, {encoder}: {fmean(tv for tv, _ in several):.2f}", flush=True)
    return by_distance


def run(work: Path, runs: Sequence[Path], samples: int = SAMPLES) -> dict[str, Any]:
    """The question answered for the runs of an experiment in `work`."""
    began = common.provenance()
    every: dict[str, list[tuple[float, float]]] = {}
    seeds, places = [], 0
    for folder in runs:
        bench = Bench(str(folder), work)
        try:
            chosen = [key for key in bench.samples.environments if key.startswith("e")]
            places = len(chosen)
            for key, several in measure(bench, chosen, samples).items():
                every.setdefault(key, []).extend(several)
            seeds.append(bench.opened.config.seed)
        finally:
            bench.close()
    rows = {
        key: {
            "total_variation": round(fmean(tv for tv, _ in several), 4),
            "present": round(fmean(part for _, part in several), 4),
        }
        for key, several in every.items()
    }
    return {"question": common.question(__doc__), **began, "places": places, "seeds": seeds, "rows": rows}


def report(data: Mapping[str, Any]) -> str:
    """The document that the results make."""
    rows: Mapping[str, Mapping[str, float]] = data["rows"]
    shown = [
        [
            key,
            *(f"{rows[key]['total_variation']:.2f}" if i == 0 else "" for i in range(3)),
            f"{rows[key]['present']:.2f}",
            "",
            "",
        ]
        for key in ("equal shares", "labels")
    ]
    for title in DISTANCES:
        cells = [rows[f"{title} | {encoder}"] for encoder in ENCODERS]
        shown.append(
            [
                title,
                *(f"{cell['total_variation']:.2f}" for cell in cells),
                *(f"{cell['present']:.2f}" for cell in cells),
            ]
        )
    header = ["similarity", *(f"TV, {e}" for e in ENCODERS), *(f"there, {e}" for e in ENCODERS)]
    equal = rows["equal shares"]["total_variation"]
    worse = [t for t in DISTANCES if rows[f"{t} | theta_t"]["total_variation"] >= equal]
    better = [
        t
        for t in DISTANCES
        if min(rows[f"{t} | {e}"]["total_variation"] for e in ENCODERS[1:]) < rows[f"{t} | theta_t"]["total_variation"]
    ]
    return (
        "# What a label-free similarity knows of a target\n\n"
        "Made by `python -m benchmarks.similarity_encoders --docs docs/similarities.md` from "
        "`benchmarks/results/similarity_encoders.json`; do not edit.\n\n"
        f"{data['question']} Means over {data['places']} environments (e1 to e5, five variants) and the trainings with "
        f"seeds {', '.join(map(str, data['seeds']))}. TV: total variation between the shares and those of the "
        "environment, 0 is right. There: how much of the preference goes to tasks that the environment has. theta_t: "
        "task t and the target embedded by checkpoint t, as in the paper; theta_T: all by the last checkpoint; "
        f"theta_0: all by the base.\n\n{common.table(header, shown)}\n"
        f"With the paper's embedding, no nearer to the truth than equal shares are: {', '.join(worse) or 'none'}. "
        f"Nearer with one encoder for all tasks than with each task's own: {', '.join(better) or 'none'}.\n\n"
        f"{common.origin(data)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK / "wordnet", help="the output of an experiment with its runs")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="training samples of each task")
    parser.add_argument("--docs", type=Path, help="also write the table into this file")
    parser.add_argument("--render-only", action="store_true", help="write the table of the result; measure nothing")
    asked = parser.parse_args(arguments)
    if not asked.render_only:
        runs = sorted(path for path in (asked.work / "runs").glob("sequential-seed-*") if path.is_dir())
        common.write_result(RESULT, run(asked.work, runs, asked.samples))
    if asked.docs:
        asked.docs.write_text(report(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
