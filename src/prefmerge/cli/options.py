"""The flags that commands share, and the examples that their help texts end with.

Not here: the flags of a recipe's parameters, which are made from their declarations (`derived`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="BASE TASK... | RECIPE.yaml",
        help="The base and the tasks in the order of training, or a recipe. FILE.pt#KEY takes one dict of several, "
        "ORG/NAME[@REVISION] a model of the Hugging Face hub.",
        show_default=False,
    ),
]
RunFlag = Annotated[
    Path | None,
    typer.Option(
        "--run", metavar="RUN", help="Take base and tasks, in order and with their names, from a run of finetune."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="How many threads work. Default: one per core. The output does not depend on it."
    ),
]
MaxMemory = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Bound on working memory, such as 256MiB or 1GB. The output does not depend on it."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="Merge on a cluster of Ray whose machines see the same files (extra `ray`). Each task has --threads, 1 by "
        "default, and --max-memory. The output does not depend on it.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Private = Annotated[
    bool,
    typer.Option("--private", help="Make the repository private. By default it is what the hub makes it."),
]
MergeReportFlag = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="[FILE.html]",
        help="Also write a report to look at, one HTML file: report.html in an output folder, NAME.report.html beside "
        "an output file, or FILE.html. What each layer keeps is measured for it, which costs about a "
        "merge with MAGMAX.",
    ),
]
ReportFlag = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="[FILE.html]",
        help="Also write a report to look at, one HTML file: report.html in this folder, or FILE.html.",
    ),
]
BenchReportFlag = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="[FILE.html]",
        help="Write the report to this HTML file too. It is in OUT as report.html in any case.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def where(report: str | None) -> bool | str:
    """What `--report` says: False without it, True where it stands alone."""
    return False if report is None else report or True


EXAMPLES = {
    "merge": (
        "prefmerge merge base.safetensors cars.safetensors birds.safetensors -o merged.safetensors --prefer 0.8,0.2",
        "prefmerge merge base/ cars/ birds/ -o merged/ --prefer cars=0.8,birds=0.2 --selection optimal",
        "prefmerge merge recipe.yaml -o from-recipe.safetensors --scale 1.0",
        "prefmerge merge --run my-run -o for-my-target/ --prefer alpha:2",
    ),
    "sweep": ("prefmerge sweep base/ cars/ birds/ -o swept --vary 'prefer=uniform|alpha:2' --vary 'scale=0.5|1'",),
    "plan": (
        "prefmerge plan base.safetensors cars.safetensors birds.safetensors --prefer alpha:2",
        "prefmerge plan recipe.yaml --json",
    ),
    "verify": (
        "prefmerge verify merged.safetensors",
        "prefmerge verify merged/ --with-inputs --rerun",
    ),
    "push": (
        "prefmerge push merged/ my-org/my-model --dry-run",
        "prefmerge push merged/ my-org/my-model --private",
    ),
    "inspect": (
        "prefmerge inspect merged.safetensors --png ownership.png",
        "prefmerge inspect merged/receipt.json --by tensor",
        "prefmerge inspect merged/ --with-inputs",
        "prefmerge inspect base.safetensors",
        "prefmerge inspect base.safetensors cars.safetensors birds.safetensors --png analyses",
        "prefmerge inspect --run my-run --against my-run-independent",
    ),
    "finetune": ("prefmerge finetune cifar100.yaml -o my-run",),
    "evaluate": (
        "prefmerge evaluate for-my-target/ --run my-run",
        "prefmerge evaluate --run my-run --json",
        "prefmerge evaluate --run my-run --run my-run-seed-4",
    ),
    "adapt": (
        "prefmerge adapt --run my-run --labels seen.csv -o for-my-target/",
        "prefmerge adapt --run my-run --inputs photos/ -o for-my-photos/",
        "prefmerge adapt --run my-run --pairs seen.csv -o for-my-pairs/",
        "prefmerge adapt --run my-run --prefer task-01=0.8,task-02=0.2 -o for-my-mix/",
        "prefmerge adapt base/ cars/ birds/ --score 'python score.py {model}' --prefer cars=0.8,birds=0.2 -o scored/",
    ),
    "prefer": (
        "prefmerge prefer --run my-run --labels seen.csv -o preference.json",
        "prefmerge prefer --run my-run --inputs photos/ -o from-photos.json",
        "prefmerge prefer base/ cars/ birds/ --labels seen.csv --task-labels counts.json",
    ),
    "search": (
        "prefmerge search --run my-run --labels seen.csv -o found",
        "prefmerge search --run my-run --pairs photos/ -o found-2 --space preference,scale,selection=optimal",
        "prefmerge search --run my-run --pairs photos/ -o found-3 --paper",
        "prefmerge search base/ cars/ birds/ --score 'python score.py {model}' -o found-4 --space weights:4",
    ),
    "studio": (
        "prefmerge studio my-run -o my-models --no-browser",
        "prefmerge studio recipe-of-my-run.yaml --port 8000",
    ),
    "bench": ("prefmerge bench my-runs.yaml -o my-results",),
    "demo": ("prefmerge demo -o demo-out --seed 1",),
}


def examples(command: str) -> str:
    """The end of a command's help text. The \\b keeps its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command])
