"""The results of `prefmerge bench` in a form that fits into a repository, and back.

Right answers, what was chosen and what was promised are lists over the environments, one for each (study, method,
scale, seed). Shares and promises are rounded to DIGITS. Dropped: the ids of samples and the preference of each score,
which no table needs.
`expanded(compact(results))` gives the same tables and figures as `results`; the ids of its samples are empty.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks import common
from prefmerge.lab.collect import collect
from prefmerge.lab.environments import Environment, Portion
from prefmerge.lab.prepare import prepare
from prefmerge.lab.recipe import read_experiment
from prefmerge.lab.results import Results, Score, Shown, TaskScores
from prefmerge.lab.trainings import untrained

VARIANTS = 5  # of an environment, in the paper
DIGITS = 6  # of a share, and of a promised accuracy


def collected(recipe: Path, out: Path) -> Results:
    """What the finished pieces of work in `out` say, of those in the recipe. Trains nothing and merges nothing."""
    experiment = read_experiment(recipe)
    waiting = untrained(experiment, out)
    if waiting:
        sys.exit(f"{out}: not trained yet: {', '.join(waiting)}. Run this without --collect.")
    return collect(prepare(experiment, out, jobs=1, say=lambda text: print(text, file=sys.stderr)), {})


def summary(
    results: Results, out: Path, docstring: str | None, names: Mapping[str | Path, str], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The result for the repository: of the output `out`, for the benchmark with this docstring.

    `names` replace the paths of this machine, in order. `measured` is the first and the last day of the work.
    `not_measured`: what the recipe `asked` has and the one that was run has not.
    """
    days = sorted(
        datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).date().isoformat()
        for file in (out / "cells").glob("*.json")
    )
    head = {"question": common.question(docstring), **common.provenance(), "measured": [days[0], days[-1]]}
    head["not_measured"] = _not_measured(results, asked)
    text = json.dumps({**head, **compact(results)})
    for path, name in names.items():
        text = text.replace(str(path), name)
    left = re.findall(r'"/[^"]*"', text)
    if left:
        raise RuntimeError(f"paths of this machine would stay in the result: {', '.join(left[:3])}")
    return json.loads(text)


def _not_measured(results: Results, asked: Mapping[str, Any]) -> list[str]:
    seeds = [f"seed {seed}" for seed in asked["trainings"]["sequential"] if seed not in results.seeds]
    entries = [name for name in asked["methods"] if name not in results.about["recipe"]["methods"]]
    variants = len({one.variant for one in results.environments})
    few = [f"{VARIANTS - variants} of the {VARIANTS} variants of each environment"] if variants < VARIANTS else []
    return [*seeds, *entries, *few]


def extended(data: Mapping[str, Any], more: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the entries that another output of the same recipe measured. Both must have the same targets, and
    the same answers of every entry that both have: else they are of other checkpoints, and ValueError says where.
    """
    if data["environments"] != more["environments"]:
        raise ValueError("the targets are others")
    rows = {_key(row): row for row in data["scores"]}
    for row in more["scores"]:
        if rows.setdefault(_key(row), row)["right"] != row["right"]:
            raise ValueError(f"{_key(row)} has other answers")
    if not {_key(row) for row in data["scores"]} & {_key(row) for row in more["scores"]}:
        raise ValueError("no entry is in both, so nothing shows that the checkpoints are the same")
    recipe = data["about"]["recipe"]
    entries = [name for name in asked["methods"] if name in (*recipe["methods"], *more["about"]["recipe"]["methods"])]
    about = {**data["about"], "recipe": {**recipe, "methods": entries}}
    whole = {**data, "scores": list(rows.values()), "about": about}
    missing = [name for name in asked["methods"] if name not in entries]
    seeds = {name: {row["seed"] for row in rows.values() if row["method"] == name} for name in entries}
    missing += [
        f"{name} with seed {seed}"
        for name, measured in seeds.items()
        for seed in data["seeds"]
        if measured and seed not in measured
    ]
    days = sorted({*data["measured"], *more["measured"]})
    return {**whole, "measured": [days[0], days[-1]], "not_measured": missing, "added": more["commit"]}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["study"], row["method"], row["scale"], row["seed"])


def compact(results: Results) -> dict[str, Any]:
    """A JSON object for `expanded`."""
    names = [(one.name, one.variant) for one in results.environments]
    scores: dict[tuple[str, str, str, int], dict[tuple[str, int], Score]] = {}
    for score in results.scores:
        key = (score.study, score.method, score.scale, score.seed)
        scores.setdefault(key, {})[score.environment, score.variant] = score
    shown: dict[tuple[int, str], dict[tuple[str, int], list[float]]] = {}
    for one in results.similarities:
        shown.setdefault((one.seed, one.kind), {})[one.environment, one.variant] = _rounded(one.shares)
    return {
        "title": results.title,
        "tasks": list(results.tasks),
        "seeds": list(results.seeds),
        "scales": list(results.scales),
        "environments": [_environment(one) for one in results.environments],
        "scores": [
            {"study": study, "method": method, "scale": scale, "seed": seed, **_listed([own.get(at) for at in names])}
            for (study, method, scale, seed), own in scores.items()
        ],
        "task_scores": [asdict(one) for one in results.task_scores],
        "similarities": [
            {"seed": seed, "kind": kind, "shares": [own.get(at) for at in names]} for (seed, kind), own in shown.items()
        ],
        "missing": list(results.missing),
        "about": dict(results.about),
    }


def _listed(several: Sequence[Score | None]) -> dict[str, list[Any]]:
    """What an entry did at each environment; None where there is no score. What it never says is not there."""
    listed: dict[str, list[Any]] = {
        "right": [None if one is None else one.right for one in several],
        "chosen": [None if one is None else one.chosen for one in several],
        "estimate": [None if one is None or one.estimate is None else _rounded(one.estimate) for one in several],
    }
    return {key: values for key, values in listed.items() if any(value is not None for value in values)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _environment(one: Environment) -> dict[str, Any]:
    parts = [
        [part.task, str(ratio), part.asked, len(part.meta), len(part.test)]
        for ratio, part in zip(one.ratios, one.parts, strict=True)
    ]
    return {"name": one.name, "variant": one.variant, "seed": one.seed, "size": one.size, "parts": parts}


def expanded(data: Mapping[str, Any]) -> Results:
    """The results, with samples that have no ids."""
    environments = [_of(one) for one in data["environments"]]
    scores = [score for row in data["scores"] for score in _scores(row, environments)]
    similarities = [
        Shown(row["seed"], one.name, one.variant, row["kind"], tuple(shares), one.truth(data["tasks"]))
        for row in data["similarities"]
        for one, shares in zip(environments, row["shares"], strict=True)
        if shares is not None
    ]
    return Results(
        data["title"],
        tuple(data["tasks"]),
        tuple(data["seeds"]),
        tuple(data["scales"]),
        tuple(environments),
        tuple(scores),
        tuple(_task_scores(row) for row in data["task_scores"]),
        tuple(similarities),
        missing=tuple(data["missing"]),
        about=data["about"],
    )


def _scores(row: Mapping[str, Any], environments: Sequence[Environment]) -> Iterator[Score]:
    key, nothing = (row["study"], row["method"], row["scale"], row["seed"]), [None] * len(environments)
    chosen, estimates = row.get("chosen", nothing), row.get("estimate", nothing)
    for one, right, name, estimate in zip(environments, row["right"], chosen, estimates, strict=True):
        if right is not None:
            promised = None if estimate is None else tuple(estimate)
            n = sum(len(part.test) for part in one.parts)
            yield Score(*key, one.name, one.variant, right, n, "", chosen=name, estimate=promised)


def _of(one: Mapping[str, Any]) -> Environment:
    ratios = tuple(Fraction(ratio) for _, ratio, *_ in one["parts"])
    parts = tuple(Portion(task, asked, _ids(shown), _ids(judged)) for task, _, asked, shown, judged in one["parts"])
    return Environment(one["name"], one["variant"], one["seed"], ratios, one["size"], parts, "")


def _ids(count: int) -> tuple[str, ...]:
    return ("",) * count


def _task_scores(row: Mapping[str, Any]) -> TaskScores:
    return TaskScores(**{**row, "right": tuple(row["right"]), "n": tuple(row["n"])})
