"""The short tables of README.md and docs/limits.md: what `adapt` is worth, what of it needs no merge, and what training
further would give.

    python -m benchmarks.targets_tables     # writes them between the marks of the two documents

Every number comes from results/targets.json, targets_17.json and fashion.json. The last checkpoint is as it is (scale
1), MAGMAX at the scale of its paper. Not here: the whole page (`benchmarks.targets_page`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks import common
from benchmarks.adapt_tables import between_marks
from benchmarks.targets_page import NAMES
from benchmarks.targets_results import expanded
from prefmerge.lab.at_target import STEPS
from prefmerge.lab.entries import ALONE, PRIOR
from prefmerge.lab.results import Results
from prefmerge.lab.statistics import Difference, StudyScores, compare
from prefmerge.lab.table_parts import percent, with_interval
from prefmerge.lab.tables import RIVAL
from prefmerge.lab.target_tables import ADAPTED, FITTED, LAST

MARK = "<!-- made by benchmarks/targets_tables.py -->"
README, LIMITS = common.ROOT / "README.md", common.ROOT / "docs" / "limits.md"
AS_IT_IS, PAPERS, OWN = "1.0", "0.5", ""  # scales: of the last checkpoint, of MAGMAX, adapt's choice
TRAINED = {"Fine-tuned (held-out)": "held-out samples", "Fine-tuned (pairs)": "labelled pairs"}  # entry -> on what


def results() -> list[Results]:
    """What was measured, expanded."""
    files = [common.RESULTS / f"{name}.json" for name in NAMES]
    return [expanded(json.loads(file.read_text(encoding="utf-8"))) for file in files]


def readme(measured: Sequence[Results]) -> str:
    """Target accuracy of the last checkpoint, MAGMAX and `adapt`."""
    rows = []
    for one in measured:
        scores = StudyScores(one)
        cells = [_mean(scores, *entry) for entry in ((LAST, AS_IT_IS), (RIVAL, PAPERS), (FITTED, OWN))]
        ahead = with_interval(_pair(scores, ADAPTED, LAST))
        rows.append([one.title, *cells, f"**{_mean(scores, ADAPTED, OWN)}**", ahead])
    header = [
        "accuracy at the target, %",
        "last checkpoint",
        "MAGMAX",
        "last checkpoint, fitted bias",
        "adapt",
        "ahead",
    ]
    return f"{common.table(header, rows)}\n{_said(measured)}\n"


def limits(measured: Sequence[Results]) -> str:
    """By how much `adapt` is ahead of what needs no merge, and at how many targets it is behind."""
    rows = []
    for one in measured:
        scores = StudyScores(one)
        alone = f"{ADAPTED}{ALONE}"
        rivals = ((ADAPTED, LAST), (ADAPTED, f"{LAST}{PRIOR}"), (ADAPTED, FITTED), (alone, LAST))
        rows.append([one.title, *(_ahead(scores, *pair) for pair in rivals)])
    header = [
        "adapt minus ..., points",
        "last checkpoint",
        "last checkpoint + prior",
        "last checkpoint, fitted bias",
        "weights alone: last checkpoint",
    ]
    return (
        f"{common.table(header, rows)}\n"
        "Means over the targets with 95 % intervals, and at how many targets adapt was ahead / level / behind. In "
        "the last column no answers are adjusted on either side (`--no-prior`): that is what choosing a merge brings.\n"
        f"{_training(measured)}"
    )


def _training(measured: Sequence[Results]) -> str:
    """What training the last checkpoint further gives, where it was measured."""
    rows = []
    for one in measured:
        scores = StudyScores(one)
        for entry, samples in TRAINED.items():
            if (trained := scores.average(entry, OWN)) is not None:
                adapted = fmean(
                    scores.per_seed(ADAPTED, OWN, name)[seed] for name in scores.environments for seed in trained.seeds
                )
                cells = [percent(trained.value), percent(adapted), _ahead(scores, ADAPTED, entry)]
                rows.append([one.title, samples, *cells, " and ".join(map(str, trained.seeds))])
    if not rows:
        return ""
    header = ["accuracy, %", "trained further on", "then", "adapt", "adapt minus that", "of the trainings with seeds"]
    return (
        f"\nTraining the last checkpoint {STEPS} steps further needs no merge either, but PyTorch and the time of a "
        "training for each target:\n\n"
        f"{common.table(header, rows)}\n"
        "Held-out samples are those of the tasks that adapt chooses with; they are drawn as the target mixes them, and "
        "the answers get its prior. Labelled pairs are those that the target shows; the answers are as they are. "
        "Adapt is given the labels alone.\n"
    )


def _mean(scores: StudyScores, entry: str, scale: str) -> str:
    mean = scores.average(entry, scale)
    assert mean is not None, f"{entry} was not measured at scale {scale or 'of its own'}"
    return percent(mean.value)


def _pair(scores: StudyScores, first: str, second: str) -> Difference:
    """`first`, which chooses its own scale, minus `second`, over all targets."""
    pair = compare(scores, first, second, OWN, OWN if second in (FITTED, *TRAINED) else AS_IT_IS)
    assert pair is not None, f"{first} and {second} have no target in common"
    return pair.overall


def _ahead(scores: StudyScores, first: str, second: str) -> str:
    """`+16.3 [14.6, 18.1], 25 / 0 / 0`"""
    whole = _pair(scores, first, second)
    return f"{with_interval(whole)}, {whole.won} / {whole.tied} / {whole.lost}"


def _said(measured: Sequence[Results]) -> str:
    """What the numbers are means of."""
    targets = {len(StudyScores(one).places) for one in measured}
    shown = {sum(len(part.meta) for part in one.environments[0].parts) for one in measured}
    judged = {sum(len(part.test) for part in one.environments[0].parts) for one in measured}
    several = [" or ".join(map(str, sorted(each))) for each in (targets, shown, judged)]
    return (
        f"Means over {several[0]} targets for each, which mix two or three of the tasks; {several[1]} labels of a "
        f"target are shown, {several[2]} other samples judge. MAGMAX has the scale of its paper, {PAPERS}. *Fitted "
        "bias*: the answers of the last checkpoint are adjusted as adapt does it, without a merge. *Ahead*: adapt "
        "minus the last checkpoint, with a 95 % interval over the targets. "
        "[All of it](docs/targets.md)."
    )


def write(readme_file: Path = README, limits_file: Path = LIMITS) -> None:
    """Put the tables between the marks of the two documents."""
    measured = results()
    for path, text in ((readme_file, readme(measured)), (limits_file, limits(measured))):
        path.write_text(between_marks(path.read_text(encoding="utf-8"), MARK, text), encoding="utf-8")


if __name__ == "__main__":
    write()
