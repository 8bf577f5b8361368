"""docs/places.md: one page out of results/places.json, and of results/wordnet_trainings.json for other trainings.

All sentences are made from the numbers, whatever they are. Everything else is in the report that `prefmerge bench`
writes. `wordnet_trainings.json` was measured once, by a benchmark that examples/bench/wordnet-trainings.yaml and
wordnet-17.yaml replace; a run of these writes a report of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.places_results import expanded
from prefmerge.ground.words import joined
from prefmerge.lab import figures, table_parts, tables
from prefmerge.lab.results import Results
from prefmerge.lab.statistics import Comparison, StudyScores, by_alpha, compare, over_tasks, total_variation

RIVAL, OURS, LAST = "MAGMAX", "Tunable (Label)", "Baseline"
SHOWN = {  # beginnings of names, and what the method is shown of the target
    "Best checkpoint": "pairs",
    "Search": "pairs",
    "Tunable (Label)": "labels",
    "Tunable": "inputs",
}
FIGURE = "places/differences.png"
TRAININGS = ("sequential", "lwf", "ewc")


def write_page(file: Path) -> None:
    """The page, and its figure in the folder beside it."""
    data, trainings = (
        json.loads((common.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("places", "wordnet_trainings")
    )
    results = expanded(data)
    picture = figures.differences(results)
    assert picture is not None
    (file.parent / FIGURE).parent.mkdir(exist_ok=True)
    picture.save(file.parent / FIGURE)
    file.write_text(page(data, trainings), encoding="utf-8")


def page(data: Mapping[str, Any], trainings: Mapping[str, Any]) -> str:
    """The whole page."""
    results = expanded(data)
    scores = StudyScores(results)
    one = results.environments[0]
    shown, judged = (sum(len(getattr(part, which)) for part in one.parts) for which in ("meta", "test"))
    return f"""# {results.title}

<!-- Made by `python -m benchmarks.places --render-only --docs docs/places.md` from `benchmarks/results/places.json` and
`wordnet_trainings.json`. Edit the script. -->

Is a model that was merged for a target better there than one that was merged for everything? This is the experiment of
Tunable MAGMAX's section 4 on a real text encoder ({results.about["parameters"]:,} elements), fine-tuned on
{len(results.tasks)} tasks one after another, in {len(results.seeds)} trainings. {len(scores.places)} targets mix two or
three tasks: e1 to e5 of the paper, {len(scores.variants[scores.environments[0]])} of each. {shown} samples of a target
are shown, {judged} others judge. They are the same for every method.

## What each method scores

{_main_table(scores)}
Accuracy in percent, mean over the targets ± standard deviation over the trainings. Differences are those to {RIVAL} at
the same scale, in points with the 95 % interval over the targets; *ahead at* counts targets. A method is shown nothing
of the target where the column is empty. Search chooses its own scale. {LAST} is the last checkpoint.

{common.origin(data)}

![Each method minus {RIVAL}: mean and 95 % interval over the targets]({FIGURE})

## What it says

{_bullets(_says(scores))}

## Where it loses

{_bullets([*_loses(scores), *_other_studies(results)])}

## Other trainings, and 17 tasks

{_trainings(trainings)}

## How to run it

    python -m benchmarks.places --docs docs/places.md     # hours on two cores; resumes
    prefmerge bench examples/bench/wordnet.yaml -o wordnet    # the same, with the model from the hub

The first command also makes the data, from Debian's `wordnet-base`. It writes all tables, figures and how it was made
into `benchmarks/scratch/places/bench/report.html`; this page has the main ones. `--recipe
examples/bench/wordnet-trainings.yaml` or `wordnet-17.yaml` runs the other trainings. Forgetting is in `prefmerge
evaluate --run`, and who owns which part of a merge in `prefmerge inspect`.
"""


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {one}" for one in sentences)


def _shown(method: str) -> str:
    return next((what for start, what in SHOWN.items() if method.startswith(start)), "")


def _scales(scores: StudyScores) -> list[str]:
    return table_parts.scales_of(scores)


def _main_table(scores: StudyScores) -> str:
    scales, rows = _scales(scores), []
    for method in scores.methods:
        row = [method, _shown(method)]
        for scale in scales:
            difference = None if method == RIVAL else compare(scores, method, RIVAL, scale)
            row.append(table_parts.with_std(scores.average(method, scale)))
            if difference is None:
                row += ["", ""]
            else:
                row += [table_parts.with_interval(difference.overall), str(difference.overall.won)]
        rows.append(row)
    header = ["method", "shown", *(text for s in scales for text in (f"scale {s}", f"minus {RIVAL}", "ahead at"))]
    return common.table(header, rows)


def _against(one: Comparison) -> str:
    word = ("level with", "ahead of", "behind")[one.overall.verdict]
    return f"{one.first} is {word} {one.second}: {table_parts.with_interval(one.overall)}"


def _compared(scores: StudyScores, first: str, second: str, scale: str) -> Comparison:
    comparison = compare(scores, first, second, scale)
    assert comparison is not None
    return comparison


def _best(scores: StudyScores, scale: str) -> str:
    return max(scores.methods, key=lambda name: mean.value if (mean := scores.average(name, scale)) else 0.0)


def _says(scores: StudyScores) -> list[str]:
    """Who is best, and the preference against MAGMAX, at each scale and at each method's own best."""
    said = []
    for scale in _scales(scores):
        best = _best(scores, scale)
        label = _compared(scores, OURS, RIVAL, scale)
        ahead = f"{label.overall.won} of {label.overall.places} targets"
        top = table_parts.with_std(scores.average(best, scale))
        said.append(f"At scale {scale} the best method is {best} ({top}). {_against(label)}, higher at {ahead}.")
    own = {name: scores.best_scale(name) or "" for name in scores.methods}
    best = max(own, key=lambda name: mean.value if (mean := scores.average(name, own[name])) else 0.0)
    of_best, of_ours = (compare(scores, name, RIVAL, own[name], own[RIVAL]) for name in (best, OURS))
    assert of_best is not None
    assert of_ours is not None
    said.append(
        f"Each at its best scale, which is chosen on these samples and so flatters every method: {_against(of_ours)}; "
        f"{_against(of_best)}."
    )
    return said


def _loses(scores: StudyScores) -> list[str]:
    """Methods that are behind MAGMAX, and the preference against the last checkpoint, at each scale."""
    said = []
    for scale in _scales(scores):
        every = [_compared(scores, name, RIVAL, scale) for name in scores.methods if name != RIVAL]
        behind = [f"{one.first} ({table_parts.points(one.overall.mean)})" for one in every if one.overall.verdict < 0]
        said.append(f"Behind {RIVAL} at scale {scale}: {'; '.join(behind) or 'none'}.")
    for scale in _scales(scores):
        best = max((n for n in scores.methods if n.startswith(OURS)), key=lambda n: _mean(scores, n, scale))
        several = dict.fromkeys((OURS, best))
        against = "; ".join(_against(_compared(scores, name, LAST, scale)) for name in several)
        said.append(f"Against the last checkpoint, both at scale {scale}: {against}.")
    return said


def _mean(scores: StudyScores, method: str, scale: str) -> float:
    mean = scores.average(method, scale)
    return mean.value if mean is not None else 0.0


def _other_studies(results: Results) -> list[str]:
    """What similarities know, where a preference for the first task does not help it, and targets of all tasks."""
    courses = []
    for scale, by_value in by_alpha(results).items():
        at = {value: over_tasks(several, lambda one: one.accuracies[0]) for value, several in by_value.items() if value}
        course = {value: f"{100 * mean.value:.1f}" for value, mean in at.items() if mean is not None}
        courses.append(f"{', '.join(course.values())} % at scale {scale} and alpha {', '.join(course)}")
    diverse, everything = StudyScores(results, "diversity"), []
    for scale in _scales(diverse):
        difference = _compared(diverse, OURS, RIVAL, scale).environments[diverse.environments[-1]]
        everything.append(f"{table_parts.with_interval(difference)} at scale {scale}")
    return [
        _similarities(results),
        f"More weight for the first task does not always help it. Its accuracy: {'; '.join(courses)}.",
        f"A target of all {len(results.tasks)} tasks in equal parts leaves no preference. {OURS} minus {RIVAL} there: "
        f"{', '.join(everything)}.",
    ]


def _similarities(results: Results) -> str:
    apart: dict[str, list[float]] = {}
    equal = [1 / len(results.tasks)] * len(results.tasks)
    for one in results.similarities:
        if one.environment in StudyScores(results).environments and one.kind != "label":
            apart.setdefault(tables.KINDS[one.kind], []).append(total_variation(one.shares, one.truth))
            apart.setdefault("equal shares", []).append(total_variation(equal, one.truth))
    means = {name: f"{sum(values) / len(values):.2f}" for name, values in apart.items()}
    yardstick = means.pop("equal shares")
    nearer = [f"{name} {mean}" for name, mean in means.items() if mean < yardstick]
    worse = [f"{name} {mean}" for name, mean in means.items() if mean >= yardstick]
    return (
        f"Shares from inputs may be no better than equal ones. Total variation to the target's own shares is "
        f"{yardstick} for equal shares. Nearer: {', '.join(nearer) or 'none'}. No nearer: {', '.join(worse) or 'none'}."
    )


def _trainings(data: Mapping[str, Any]) -> str:
    """The section on the results that a replaced benchmark left."""
    columns = [(plan, scale) for plan in data["plans"] for scale in ("0.5", "1.0")]
    cells: dict[tuple[str, str], dict[tuple[int, str], float]] = {}
    for plan in data["plans"]:
        for row in plan["rows"]:
            alpha = f", alpha {row['alpha']}" if row["alpha"] else ""
            name = (f"{row['model']}{alpha}", row["training"])
            cells.setdefault(name, {})[plan["tasks"], row["scale"] or "1.0"] = row["accuracy"]
    rows = [
        [name, training, *(f"{100 * own[at]:.1f}" if at in own else "" for at in ((p["tasks"], s) for p, s in columns))]
        for (name, training), own in cells.items()
    ]
    header = ["model", "checkpoints", *(f"T = {plan['tasks']}, scale {scale}" for plan, scale in columns)]
    first = data["plans"][0]
    forgetting = ", ".join(f"{name} {100 * first['forgetting'][name]['forgetting']:.1f}" for name in TRAININGS)
    owned = joined(f"{_last_owned(plan['rows']):.0f} % with {plan['tasks']}" for plan in data["plans"])
    missing = joined(name for plan in data["plans"] for name in plan["missing"])
    return f"""Accuracy in percent over all {data["classes"]} classes, one seed, {data["test_texts"]:,} test texts. The
standard error of a number is about {data["standard_error_percent"]} points.

{common.table(header, rows)}
Forgetting with {first["tasks"]} tasks, in points: {forgetting}. Of MAGMAX's elements the last task owns {owned} tasks.
Not trained: {missing}. {data["made_by"]} {common.origin(data)}"""


def _last_owned(rows: Sequence[Mapping[str, Any]]) -> float:
    return next(row["owned_percent"][-1] for row in rows if row["model"] == "MAGMAX")
