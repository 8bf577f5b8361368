"""The main job on real data, start to end: train five tasks in sequence, ask for a place, merge, say what it did.

Every merge goes through the public `prefmerge.merge`, once at the method's own default scale and once at COMMON_SCALE.
Writes into one folder: the run's checkpoints, preference.json, merged/*.safetensors with receipts, demo.json, demo.png.
Cost: under a minute on two slow cores. Leaves out: other ways to a preference than labels.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.demo.digits import NAMES, PLACES, SHOWN, TASKS, Digits, Place, label_similarities, load_digits
from prefmerge.demo.evaluate import Right, accuracies, right_answers, share
from prefmerge.demo.model import load_base, require_torch
from prefmerge.demo.report import draw, merge_command, show
from prefmerge.demo.train import Regime, fine_tune_in_sequence, write_run
from prefmerge.errors import MissingExtra, OutputExists
from prefmerge.preference import Preference

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

DEMO_FORMAT = "prefmerge-demo/1"
COMMON_SCALE = 1.25  # MAGMAX's best on validation images of the other places: docs/demo.md
MERGES = {"average": "Average", "magmax": "MAGMAX", "tunable_magmax": "Tunable MAGMAX"}


def label_preference(digits: Digits, place: Place) -> Preference:
    """Shares proportional to the overlap of the place's few labels with each task's training labels."""
    tasks = [digits.label_counts(digits.ids("train", t)) for t in range(len(TASKS))]
    return Preference.from_similarities(label_similarities(digits.label_counts(place.meta), tasks), NAMES)


def run(
    out: str | Path,
    seed: int = 0,
    *,
    tasks: tuple[int, int] = SHOWN,
    regime: Regime | None = None,
    survey: bool = True,
    console: Console | None = None,
    quiet: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run the demo into the folder `out` and return what demo.json holds.

    `tasks` are the place's two tasks (indices from 0; 0.8 of the first). `survey` also merges for all 20 places, to put
    the shown one in proportion. Raises OutputExists when `out` holds files and `force` is not set, MissingExtra when
    the extra `demo` is absent.
    """
    require_torch()
    try:
        import matplotlib
        import sklearn
    except ImportError as error:  # asked for before the training, not after it
        raise MissingExtra("prefmerge demo", "demo") from error
    import torch
    from rich.console import Console

    import prefmerge

    out, regime = Path(out), regime or Regime()
    console = console or Console(quiet=quiet)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise OutputExists(
            f"{out}: something is there already, and the demo would write over it. Give an empty folder, or --force."
        )
    started = time.perf_counter()
    digits, (base, head) = load_digits(), load_base()
    place = digits.place(tasks)
    console.print(
        f"Fine-tuning a vision transformer on {len(TASKS)} tasks of two digits, one after another (seed {seed}) ..."
    )
    with _bars(console) as progress:
        states = fine_tune_in_sequence(base, head, digits, regime, seed, progress)
    base_file, files = write_run(out, base, head, states, digits, {"seed": seed, "regime": asdict(regime)})
    trained = time.perf_counter()

    preference = label_preference(digits, place)
    preference.save(out / "preference.json")
    shares = dict(zip(NAMES, preference.shares(NAMES), strict=True))
    told = ", ".join(f"{n} of digit {y}" for y, n in digits.label_counts(place.meta).items())
    console.print(f"The place: {place.title}. It gives us {len(place.meta)} labels: {told}.")
    console.print(
        "Preference by labels: "
        + ", ".join(f"{name} {float(s):.3f}" for name, s in shares.items() if s)
        + ", the others 0."
    )

    rows: list[dict[str, Any]] = []
    rights: dict[tuple[str, float], Right] = {}
    owned: dict[str, list[int]] = {}
    for model, method, file in (("Base", "base", base_file), ("Last model", "last", files[-1])):
        row = accuracies(_right(file, head, digits), digits, place)
        rows.append({"model": model, "method": method, "scale": None, "file": file.name, **asdict(row)})
    for wanted in (None, COMMON_SCALE):
        for method, model in MERGES.items():
            if (method, wanted) in rights:
                continue  # its default is the common scale
            file = out / "merged" / f"{method}{'' if wanted is None else f'-scale-{wanted:g}'}.safetensors"
            file.parent.mkdir(exist_ok=True)
            chosen = preference if method == "tunable_magmax" else None
            receipt = prefmerge.merge(
                base_file, files, file, method=method, preference=chosen, scale=wanted, force=force
            ).data
            scale = float(receipt["recipe"]["scale"])
            right = rights[method, scale] = _right(file, head, digits)
            row = accuracies(right, digits, place)
            rows.append(
                {"model": model, "method": method, "scale": scale, "file": f"merged/{file.name}", **asdict(row)}
            )
            if receipt["totals"]["owned"]:
                owned[model] = receipt["totals"]["owned"]

    result: dict[str, Any] = {
        "format": DEMO_FORMAT,
        "seed": seed,
        "regime": asdict(regime),
        "place": {
            "title": place.title,
            "tasks": [NAMES[t] for t in tasks],
            "labels_given": {str(y): n for y, n in digits.label_counts(place.meta).items()},
            "test_images": len(place.test),
        },
        "all_digits_images": len(digits.parts["test"]),
        "preference": {name: str(s) for name, s in shares.items()},
        "rows": rows,
        "owned": owned,
        "survey": _survey(base, states, head, digits, rights) if survey else None,
        "command": merge_command(base_file, files, out / "preference.json", out / "merged" / "by-hand.safetensors"),
        "seconds": {"training": round(trained - started, 1), "all": round(time.perf_counter() - started, 1)},
        "versions": {
            "prefmerge": prefmerge.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "matplotlib": matplotlib.__version__,
        },
    }
    draw(result, out / "demo.png")
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(console, result, out)
    return result


def _right(file: Path, head: Tensor, digits: Digits) -> Right:
    """What the model in a file names correctly: the demo reports on the files it wrote, not on tensors in memory."""
    from safetensors.torch import load_file

    return right_answers(load_file(file), head, digits)


def _survey(
    base: Mapping[str, Tensor],
    states: Sequence[Mapping[str, Tensor]],
    head: Tensor,
    digits: Digits,
    rights: Mapping[tuple[str, float], Right],
) -> list[dict[str, Any]]:
    """Tunable MAGMAX against MAGMAX and the last model at all 20 places, at every scale shown."""
    import prefmerge

    found, last = [], right_answers(states[-1], head, digits)
    for method, scale in rights:
        if method != "magmax" or ("tunable_magmax", scale) not in rights:
            continue
        for tasks in PLACES:
            place = digits.place(tasks)
            chosen = label_preference(digits, place)
            merged, _ = prefmerge.merge_state_dicts(
                base, states, names=NAMES, method="tunable_magmax", preference=chosen, scale=scale
            )
            found.append(
                {
                    "place": [NAMES[t] for t in tasks],
                    "scale": scale,
                    "last": share(last, place.test),
                    "magmax": share(rights["magmax", scale], place.test),
                    "tunable_magmax": share(right_answers(merged, head, digits), place.test),
                }
            )
    return found


def _bars(console: Console) -> Any:
    """A context that yields a training callback: one bar per task on a terminal, None elsewhere."""
    if not console.is_terminal or console.quiet:
        return nullcontext(None)
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bars() -> Any:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            opened: dict[int, Any] = {}

            def report(task: int, step: int, steps: int) -> None:
                if task not in opened:
                    opened[task] = progress.add_task(NAMES[task], total=steps)
                progress.update(opened[task], completed=step)

            yield report

    return bars()
