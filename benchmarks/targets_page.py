"""docs/targets.md: one page out of results/targets.json, targets_17.json and fashion.json, and of
results/wordnet_trainings.json for other trainings.

All sentences are made from the numbers, whatever they are; tables and figures are those of the report that `prefmerge
bench` writes, which has more of them. `wordnet_trainings.json` was measured once, by a benchmark that
examples/bench/wordnet-trainings.yaml and wordnet-17-trainings.yaml replace; a run of these writes a report of its own.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.targets_results import expanded
from prefmerge.ground.words import counted, joined
from prefmerge.lab import figures, findings, table_parts, tables, target_tables
from prefmerge.lab.entries import ALONE, PRIOR
from prefmerge.lab.results import Results
from prefmerge.lab.statistics import Comparison, StudyScores, compare, total_variation
from prefmerge.lab.table import Table, marked
from prefmerge.lab.tables import OURS, RIVAL
from prefmerge.lab.target_tables import LAST

NAMES = ("targets", "targets_17", "fashion")  # of results
TRAININGS = ("sequential", "lwf", "ewc")


def write_page(file: Path) -> None:
    """The page of the results that are there, and its figures in a folder beside it."""
    files = [common.RESULTS / f"{name}.json" for name in NAMES]
    read = [json.loads(one.read_text(encoding="utf-8")) for one in files if one.exists()]
    trainings = json.loads((common.RESULTS / "wordnet_trainings.json").read_text(encoding="utf-8"))
    for data in read:
        picture = figures.differences(expanded(data))
        assert picture is not None
        path = file.parent / figure_of(data)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture.drawn())
    file.write_text(page(read, trainings), encoding="utf-8")


def figure_of(data: Mapping[str, Any]) -> str:
    """The figure of a result, as seen from the page: targets/wordnets-classes-in-5-tasks.png."""
    words = re.sub(r"[^a-z0-9]+", "-", _heading(data).lower().replace("'", ""))
    return f"targets/{words}.png"


def _heading(data: Mapping[str, Any]) -> str:
    """Data set and number of tasks: what the title says before the model."""
    return data["title"].partition(",")[0]


def page(read: Sequence[Mapping[str, Any]], trainings: Mapping[str, Any]) -> str:
    """The whole page."""
    sections = "\n".join(_section(data) for data in read)
    text = f"""# Merging for a target: texts and images

<!-- Made by `python -m benchmarks.targets --render-only --docs docs/targets.md` from `benchmarks/results/targets.json`,
`targets_17.json`, `fashion.json` and `wordnet_trainings.json`. Edit the script. -->

Is a model that was merged for a target better there than one that was merged for everything? This is the experiment of
Tunable MAGMAX's section 4, on encoders that were fine-tuned on tasks one after another: a real text encoder on
WordNet's definitions, and a small image encoder on Fashion-MNIST. Beside the papers' methods it has what
[`prefmerge adapt`](adapt.md) makes of a target, and what a user could do without merging. What each entry is, is in
[experiments.md](experiments.md).

{sections}
## WordNet's classes with other trainings

{_trainings(trainings)}

## How to run it

    python -m benchmarks.targets --docs docs/targets.md     # days on two cores; resumes
    python -m benchmarks.targets --collect --docs docs/targets.md    # the page of what is finished so far
    prefmerge bench examples/bench/wordnet.yaml -o wordnet    # 5 tasks, with the model from the hub
    prefmerge bench examples/bench/wordnet-17.yaml -o wordnet-17
    python -m benchmarks.fashion    # Fashion-MNIST: the encoder, the data, the training and the targets; hours

The first command also makes the data, from Debian's `wordnet-base`; the last needs `dataset-fashion-mnist`. Each writes
all tables, figures and how it was made into a report: `benchmarks/scratch/targets/wordnet/report.html`,
`wordnet-17/report.html` and `benchmarks/scratch/fashion/bench/report.html`. This page has the main ones. `--recipe
examples/bench/wordnet-trainings.yaml` or `wordnet-17-trainings.yaml` runs the other trainings. Forgetting is in
`prefmerge evaluate --run`, and who owns which part of a merge in `prefmerge inspect`.
"""
    return re.sub(r"\n{3,}", "\n\n", text)


def _section(data: Mapping[str, Any]) -> str:
    """Everything about one number of tasks."""
    results = expanded(data)
    scores = StudyScores(results)
    first, last = data["measured"]
    ours = findings.adapted(scores)
    what = _heading(data)
    return f"""## {what}

{_setup(results, scores)}

{_not_measured(data)}

{_text(target_tables.overview(results))}
![Each entry minus {RIVAL}: mean and 95 % interval over the targets]({figure_of(data)})

Measured {first}{f" to {last}" * (last != first)}. {common.origin(data)}

### {what}: environment by environment

{"".join(_text(target_tables.by_environment(results, name), notes=0) for name in ours)}
A target is one variant of an environment. Bold: the interval does not hold zero.

### {what}: what adapt promised, and what it chose

{_text(target_tables.estimates(results))}
{_text(target_tables.choices(results))}
### {what}: what the numbers say

{_bullets([*_best(results, scores), *findings.about_adapt(results)])}

### {what}: where it loses

{_bullets([*_adapt_loses(results, ours), *_others_lose(scores), *_similarities(results, scores)])}
"""


def _setup(results: Results, scores: StudyScores) -> str:
    one, recipe = results.environments[0], results.about["recipe"]
    shown, judged = (sum(len(getattr(part, which)) for part in one.parts) for which in ("meta", "test"))
    held_out = recipe["finetune"].get("held_out") or recipe["held_out"]["samples"]
    seeds = f"seed{'s' * (len(results.seeds) > 1)} {joined(map(str, results.seeds))}"
    mixes = "; ".join(table_parts.heading(results, name) for name in scores.environments)
    variants = len(scores.variants[scores.environments[0]])
    encoder = f"{results.title.partition(', ')[2]} ({results.about['parameters']:,} elements)"
    said = (
        f"The encoder is {encoder}. {len(results.tasks)} tasks, {counted(len(results.seeds), 'training')} ({seeds}). "
        f"{len(scores.places)} targets mix two or three tasks: e1 to e5 of the paper, {variants} of each. "
        f"The shares of their tasks: {mixes}. {shown} samples of a target are shown, {judged} others judge; they are "
        f"the same for every entry. {held_out} samples of each task are kept from training; adapt and the fitted bias "
        "choose with them."
    )
    return textwrap.fill(said, 120)


def _not_measured(data: Mapping[str, Any]) -> str:
    missing = data["not_measured"]
    said = f"The recipe asks for more, for which there was no time: {joined(missing)}."
    return textwrap.fill(said, 120) if missing else ""


def _text(table: Table | None, notes: int | None = None) -> str:
    """A table for the page, with so many of its notes. "" where there is none."""
    return "" if table is None else replace(table, notes=table.notes[:notes]).markdown() + "\n"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {marked(one)}" for one in sentences)


def _against(one: Comparison) -> str:
    word = ("level with", "ahead of", "behind")[one.overall.verdict]
    return f"{one.first} is {word} {one.second}: {table_parts.with_interval(one.overall)}"


def _best(results: Results, scores: StudyScores) -> list[str]:
    """The best entry among those that get the target's prior, and among those that do not."""
    said = []
    adapted = {*findings.adapted(scores), target_tables.FITTED, "Fine-tuned (held-out)"}
    for where, of in (
        ("Without the prior", [name for name in scores.methods if not name.endswith(PRIOR) and name not in adapted]),
        ("With the prior", [name for name in scores.methods if name.endswith(PRIOR) or name in adapted]),
    ):
        means = {name: scores.average(name, scores.best_scale(name) or "") for name in of}
        whole = {name: one for name, one in means.items() if one is not None and len(one.seeds) == len(results.seeds)}
        if whole:
            best = max(whole, key=lambda name: whole[name].value)
            among = " of those with all scores" * (len(whole) < len(of))
            said.append(f"{where} the best entry{among} is {best} ({table_parts.with_std(whole[best])} %).")
    if len(said) > 1:
        said.append("Where an entry has two scales, the better one on these samples counts, which flatters it.")
    return said


def _adapt_loses(results: Results, ours: Sequence[str]) -> list[str]:
    """Targets and environments at which `adapt` is behind what is there without it."""
    said = []
    for name in ours:
        pairs = tables.comparisons(results, None, first=name, others=target_tables.references(StudyScores(results)))
        if not pairs:
            continue
        targets = [f"{one.overall.lost} against {tables.at_scale(one, 1)}" for one in pairs]
        lower = [
            f"{where} ({table_parts.points(part.mean)} against {tables.at_scale(one, 1)})"
            for one in pairs
            for where, part in one.environments.items()
            if part.mean < 0
        ]
        said.append(
            f"{name} is lower at so many of the {pairs[0].overall.places} targets: {'; '.join(targets)}. Environments "
            f"in which its mean is lower: {'; '.join(lower) or 'none'}."
        )
    return said


def _others_lose(scores: StudyScores) -> list[str]:
    """Entries without the prior that are behind MAGMAX, and the preference against the last checkpoint."""
    plain = [one for one in table_parts.in_order(scores.methods) if not one.endswith((PRIOR, ALONE))]
    scales, said = table_parts.scales_of(scores), []
    for scale in scales:
        at_scale = [name for name in plain if scale in scores.scales(name) and name != RIVAL]
        pairs = [one for name in at_scale if (one := compare(scores, name, RIVAL, scale)) is not None]
        behind = [f"{one.first} ({table_parts.points(one.overall.mean)})" for one in pairs if one.overall.verdict < 0]
        said.append(f"Behind {RIVAL} at scale {scale}, without the prior: {'; '.join(behind) or 'none'}.")
    for scale in scales:
        tunable = [name for name in plain if name.startswith(OURS)]
        pairs = [one for name in tunable if (one := compare(scores, name, LAST, scale)) is not None]
        said.append(f"Against the last checkpoint, both at scale {scale}: {'; '.join(map(_against, pairs))}.")
    return said


def _similarities(results: Results, scores: StudyScores) -> list[str]:
    """How near to the target's own shares those from inputs are."""
    apart: dict[str, list[float]] = {}
    equal = [1 / len(results.tasks)] * len(results.tasks)
    for one in results.similarities:
        if one.environment in scores.environments and one.kind != "label":
            apart.setdefault(tables.KINDS[one.kind], []).append(total_variation(one.shares, one.truth))
            apart.setdefault("equal shares", []).append(total_variation(equal, one.truth))
    if not apart:
        return []
    means = {name: f"{sum(values) / len(values):.2f}" for name, values in apart.items()}
    yardstick = means.pop("equal shares")
    nearer = [f"{name} {mean}" for name, mean in means.items() if mean < yardstick]
    worse = [f"{name} {mean}" for name, mean in means.items() if mean >= yardstick]
    return [
        f"Shares from inputs may be no better than equal ones. Total variation to the target's own shares is "
        f"{yardstick} for equal shares. Nearer: {', '.join(nearer) or 'none'}. No nearer: {', '.join(worse) or 'none'}."
    ]


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
