"""The main job on real data, start to end: train five tasks in sequence, ask for a place, merge, say what it did.

Every merge goes through the public `prefmerge.merge`, once at the method's own default scale and once at COMMON_SCALE.
Writes into one folder: a run as `prefmerge finetune` leaves it, preference.json, merged/*.safetensors with receipts,
demo.png and, last, demo.json: a folder without it is a demo that was interrupted, and is gone on with. Cost: under a
minute on two slow cores. Leaves out: other ways to a preference than labels.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge import similarity
from prefmerge.checkpoints import atomic
from prefmerge.continual.config import TrainingConfig
from prefmerge.continual.encoders.digits import DigitsEncoder
from prefmerge.continual.finetuning import Progress
from prefmerge.demo.digits import NAMES, PLACES, SHOWN, TASKS, Digits, Place, load_digits
from prefmerge.demo.evaluate import Right, accuracies, right_images, share
from prefmerge.demo.model import load_base
from prefmerge.demo.report import draw, merge_command, show
from prefmerge.demo.train import REGIME, fine_tune_in_sequence
from prefmerge.errors import OutputExists, require
from prefmerge.preference import Preference
from prefmerge.runs import FILE, Run

if TYPE_CHECKING:
    from rich.console import Console

    from prefmerge.continual.heads import Head

DEMO_FORMAT = "prefmerge-demo/2"
RESULT = "demo.json"
COMMON_SCALE = 1.25  # MAGMAX's best on validation images of the other places: docs/demo.md
MERGES = {"average": "Average", "magmax": "MAGMAX", "tunable_magmax": "Tunable MAGMAX"}


def label_preference(digits: Digits, place: Place) -> Preference:
    """Shares proportional to the overlap of the place's few labels with each task's training labels."""
    tasks = [digits.label_counts(digits.ids("train", t)) for t in range(len(TASKS))]
    seen = digits.label_counts(place.meta)
    return similarity.label([_named(task) for task in tasks], _named(seen), NAMES).preference()


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(digit): n for digit, n in counts.items() if n}


def require_demo() -> None:
    """Raise MissingExtra, with the install command, where the extra `demo` is absent."""
    # Asked for before the training, not after it.
    require("prefmerge demo", "demo", "accelerate", "matplotlib", "sklearn", "torch")


def run(
    out: str | Path,
    seed: int = 0,
    *,
    tasks: tuple[int, int] = SHOWN,
    regime: TrainingConfig = REGIME,
    survey: bool = True,
    console: Console | None = None,
    quiet: bool = False,
    force: bool = False,
    watch: Callable[[], AbstractContextManager[Callable[[Progress], None] | None]] = nullcontext,
) -> dict[str, Any]:
    """Run the demo into the folder `out` and return what demo.json holds; go on with one that was interrupted.

    `tasks` are the place's two tasks (indices from 0; 0.8 of the first). `survey` also merges for all 20 places, to put
    the shown one in proportion. `watch` makes what is told of the training. With `force` a demo that is there is begun
    anew. Raises OutputExists when `out` holds a finished demo and `force` is not set, or something that is no run at
    all; RunError when it holds another run; MissingExtra when the extra `demo` is absent.
    """
    require_demo()
    import matplotlib
    import sklearn
    import torch
    from rich.console import Console

    import prefmerge

    out = Path(out)
    console = console or Console(quiet=quiet)
    if (out / FILE).is_file() and (out / RESULT).exists():
        if not force:
            raise OutputExists(
                f"{out}: a demo is there already. Give another folder, or --force to begin it anew there."
            )
        atomic.remove(out / RESULT)  # what it says is no longer so
    started = time.perf_counter()
    digits, (encoder, head) = load_digits(), load_base()
    place = digits.place(tasks)
    console.print(
        f"Fine-tuning a vision transformer on {len(TASKS)} tasks of two digits, one after another (seed {seed}) ..."
    )
    with watch() as progress:
        made = fine_tune_in_sequence(encoder, head, digits, out, seed, regime, force=force, progress=progress)
    files = [made.task_path(t) for t in range(len(TASKS))]
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

    # What the files hold, not the tensors in memory: the demo reports on what it wrote.
    rows: list[dict[str, Any]] = []
    rights: dict[tuple[str, float], Right] = {}
    owned: dict[str, list[int]] = {}
    for model, method, file in (("Base", "base", made.base_path), ("Last model", "last", files[-1])):
        row = accuracies(right_images(file, encoder, head, digits), digits, place)
        named = file.relative_to(out).as_posix()
        rows.append({"model": model, "method": method, "scale": None, "file": named, **asdict(row)})
    for wanted in (None, COMMON_SCALE):
        for method, model in MERGES.items():
            if (method, wanted) in rights:
                continue  # its default is the common scale
            file = out / "merged" / f"{method}{'' if wanted is None else f'-scale-{wanted:g}'}.safetensors"
            file.parent.mkdir(exist_ok=True)
            chosen = preference if method == "tunable_magmax" else None
            receipt = prefmerge.merge(
                made.base_path, files, file, method=method, preference=chosen, scale=wanted, force=True
            ).data
            scale = float(receipt["recipe"]["scale"])
            right = rights[method, scale] = right_images(file, encoder, head, digits)
            row = accuracies(right, digits, place)
            rows.append(
                {"model": model, "method": method, "scale": scale, "file": f"merged/{file.name}", **asdict(row)}
            )
            if receipt["totals"]["owned"]:
                owned[model] = receipt["totals"]["owned"]

    result: dict[str, Any] = {
        "format": DEMO_FORMAT,
        "seed": seed,
        "regime": regime.model_dump(mode="json", exclude={"lwf", "ewc"}),
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
        "survey": _survey(made, encoder, head, digits, rights) if survey else None,
        "command": merge_command(out, out / "preference.json", out / "merged" / "by-hand.safetensors"),
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
    atomic.write_whole(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    show(console, result, out)
    return result


def _survey(
    made: Run, encoder: DigitsEncoder, head: Head, digits: Digits, rights: Mapping[tuple[str, float], Right]
) -> list[dict[str, Any]]:
    """Tunable MAGMAX against MAGMAX and the last model at all 20 places, at every scale shown."""
    import prefmerge

    base, states = encoder.read(made.base_path), [encoder.read(made.task_path(t)) for t in range(len(TASKS))]
    found, last = [], right_images(states[-1], encoder, head, digits)
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
                    "tunable_magmax": share(right_images(merged, encoder, head, digits), place.test),
                }
            )
    return found
