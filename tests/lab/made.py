"""Results of an experiment that never was: numbers as they could be, drawn from a generator with a fixed seed.

p(right) = level of the method + gain * (share of the place that its preference meets) + noise of place and seed
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from prefmerge.lab.entries import KNOWN
from prefmerge.lab.environments import PAPERS, Environment, Mix, Pool, diversity, environments
from prefmerge.lab.results import Results, Score, Shown, TaskScores

LEVELS = {
    "Baseline": 0.52,
    "Rand Mix": 0.50,
    "Average": 0.51,
    "TIES": 0.52,
    "MAGMAX": 0.54,
    "Best checkpoint": 0.56,
    "Tunable (OT)": 0.55,
    "Tunable (Label)": 0.61,
    "Tunable (Cos)": 0.54,
    "Tunable (MMD)": 0.50,
    "Search": 0.63,
}
KINDS = {"label": "Tunable (Label)", "ot": "Tunable (OT)", "cosine": "Tunable (Cos)", "mmd": "Tunable (MMD)"}


def pools(tasks: int, samples: int = 60) -> list[Pool]:
    return [
        Pool(
            f"task-{t + 1:02d}",
            tuple(f"{t}/{i}" for i in range(samples)),
            tuple(f"class-{t}-{i % 5}" for i in range(samples)),
            lambda positions: "-".join(map(str, positions)),
        )
        for t in range(tasks)
    ]


def places(tasks: int, mixes: Sequence[Mix] = PAPERS, size: int = 60, variants: int = 5) -> tuple[Environment, ...]:
    return environments(pools(tasks), mixes, size=size, seeds=(42, 123, 456, 789, 1011)[:variants])


def made(
    tasks: int = 5,
    seeds: Sequence[int] = (3, 4),
    scales: Sequence[str] = ("0.5", "1"),
    methods: Sequence[str] = tuple(KNOWN),
    *,
    studies: Sequence[str] = ("places", "diversity", "alpha", "methods"),
    paper: dict[str, str] | None = None,
    size: int = 60,
    draw: int = 0,
) -> Results:
    rng = np.random.default_rng([draw, tasks, len(seeds)])
    names = tuple(pool.name for pool in pools(tasks))
    main = places(tasks, size=size) if "places" in studies else ()
    several = places(tasks, diversity(tasks), size, variants=3) if "diversity" in studies else ()
    scores: list[Score] = []
    for study, group in (("places", main), ("diversity", several)):
        for one in group:
            hard = rng.normal(0, 0.03)
            for seed in seeds:
                for method in methods:
                    for scale in ("",) if method == "Search" else scales:
                        p = LEVELS.get(method, LEVELS["Tunable (Label)"] + 0.02) + hard + rng.normal(0, 0.015)
                        p += 0.02 * (scale == "1") * (1 if "Tunable" in method else -1)
                        n = len(one.test_ids)
                        right = int(np.clip(round(p * n), 0, n))
                        chosen = {"Search": "scale=0.8, strength=0.5", "Best checkpoint": one.parts[0].task}.get(method)
                        scores.append(
                            Score(
                                study,
                                method,
                                scale,
                                seed,
                                one.name,
                                one.variant,
                                right,
                                n,
                                one.digest,
                                one.truth(names) if "Tunable" in method else None,
                                chosen,
                            )
                        )
    shown = [
        Shown(seed, one.name, one.variant, kind, _near(one.truth(names), blur, rng), one.truth(names))
        for one in main
        for seed in seeds
        for kind, blur in (("label", 0.02), ("ot", 0.3), ("cosine", 0.55), ("mmd", 0.9))
    ]
    return Results(
        title=f"Made results, T = {tasks}",
        tasks=names,
        seeds=tuple(seeds),
        scales=tuple(scales),
        environments=(*main, *several),
        scores=tuple(scores),
        task_scores=tuple(_task_scores(tasks, seeds, scales, studies, rng)),
        similarities=tuple(shown),
        paper=paper or {},
        missing=(),
        about=ABOUT,
    )


ABOUT: dict[str, Any] = {
    "commit": "0123abc",
    "versions": {"prefmerge": "0.1.0", "numpy": "2.0", "torch": "2.8"},
    "hardware": {"cpu": "a processor", "cores": 2, "memory": "16 GiB"},
    "recipe": {"seeds": [3, 4], "scales": ["0.5", "1"], "methods": ["MAGMAX", "Tunable (Label)"]},
}


def _near(truth: Sequence[float], blur: float, rng: np.random.Generator) -> tuple[float, ...]:
    noise = rng.dirichlet(np.full(len(truth), 0.7))
    return tuple((1 - blur) * np.asarray(truth) + blur * noise)


def _task_scores(
    tasks: int, seeds: Sequence[int], scales: Sequence[str], studies: Sequence[str], rng: np.random.Generator
) -> list[TaskScores]:
    n = (200,) * tasks
    line = np.linspace(-1, 1, tasks)

    def row(study: str, method: str, training: str, scale: str, seed: int, level: float, tilt: float, alpha=None):
        p = np.clip(level + tilt * line + rng.normal(0, 0.02, tasks), 0, 1)
        right = tuple(int(v) for v in np.round(p * 200))
        return TaskScores(study, method, training, scale, seed, right, n, alpha)

    result = []
    for seed in seeds:
        for scale in scales if "alpha" in studies else ():
            result.append(row("alpha", "MAGMAX", "sequential", scale, seed, 0.55, 0.02))
            for alpha in ("0.25", "0.5", "1", "2", "4"):
                tilt = -0.1 * np.log2(float(Fraction(alpha))) * (1.2 if scale == "1" else 0.6)
                result.append(row("alpha", "Tunable MAGMAX", "sequential", scale, seed, 0.52, tilt, alpha))
        if "methods" in studies:
            result.append(row("methods", "Zero-shot", "", "", seed, 0.33, 0))
            for method, training, level in (("Joint", "joint", 0.68), ("LwF", "lwf", 0.58), ("EWC", "ewc", 0.45)):
                result.append(row("methods", method, training, "", seed, level, 0.05))
            for scale in scales:
                for method, level in (("Rand Mix", 0.46), ("Max Abs", 0.47), ("Average", 0.46), ("TIES", 0.48)):
                    result.append(row("methods", method, "independent", scale, seed, level, 0))
                result.append(row("methods", "MAGMAX", "sequential", scale, seed, 0.55, 0.02))
            result.append(row("methods", "Baseline", "sequential", "1", seed, 0.57, 0.15))
    return result
