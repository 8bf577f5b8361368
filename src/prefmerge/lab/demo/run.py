"""The main job on real data, start to end: train five tasks in sequence, see a place, adapt to it, say what it brought.

`adapt` makes a model from the place's few labels, and one from a few images without labels; base, last checkpoint and
the merges of the papers, through the public `prefmerge.merge` at their default scales, stand beside them. All are
judged on test images of the place that nothing before has seen. Writes into one folder: a run as `prefmerge finetune`
leaves it, seen.csv and photos/ as a user would have them, preference.json, merged/, from-labels/, from-images/,
demo.png and, last, demo.json: a folder without it is a demo that was interrupted, and is gone on with. Cost: about a
minute on two slow cores. Leaves out: other places, seeds and scales (docs/demo.md), other ways to a preference.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.config import TrainingConfig
from prefmerge.errors import OutputExists, require
from prefmerge.ground import atomic, disk, jsons
from prefmerge.lab.demo.digits import NAMES, SHOWN, TASKS, Digits, Place, load_digits
from prefmerge.lab.demo.evaluate import accuracies, right_by_head
from prefmerge.lab.demo.model import load_base
from prefmerge.lab.demo.report import adapt_command, draw, show
from prefmerge.lab.demo.train import REGIME, fine_tune_in_sequence
from prefmerge.preference import Preference
from prefmerge.runs import FILE
from prefmerge.target import similarity
from prefmerge.target.parameters import Parameters
from prefmerge.training.job import TrainingProgress

if TYPE_CHECKING:
    from rich.console import Console

DEMO_FORMAT = "prefmerge-demo/3"
RESULT = "demo.json"
MERGES = {"average": "average", "magmax": "MAGMAX", "tunable_magmax": "Tunable MAGMAX (paper)"}
PRIOR_HEAD = "head-with-prior.safetensors"


def label_preference(digits: Digits, place: Place) -> Preference:
    """Shares proportional to the overlap of the place's few labels with each task's training labels."""
    tasks = [digits.label_counts(digits.ids("train", t)) for t in range(len(TASKS))]
    seen = digits.label_counts(place.meta)
    return similarity.label([_named(task) for task in tasks], _named(seen), NAMES).preference()


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(digit): n for digit, n in counts.items() if n}


@dataclass(frozen=True)
class Seen:
    """What is at hand of the place, as files."""

    labels: Path
    photos: Path


def write_place(out: Path, digits: Digits, place: Place) -> Seen:
    """Write seen.csv and photos/*.png, as a user of `prefmerge adapt` would have them."""
    from PIL import Image

    seen = Seen(out / "seen.csv", out / "photos")
    lines = ["label", *(str(digits.labels[i]) for i in place.meta)]
    atomic.write_whole(seen.labels, ("\n".join(lines) + "\n").encode())
    seen.photos.mkdir(exist_ok=True)
    for old in seen.photos.glob("digit-*.png"):
        old.unlink()  # of another place
    for i in place.photos:
        grey = np.rint(255 * digits.pixels[i]).astype(np.uint8)
        Image.fromarray(grey).save(seen.photos / f"digit-{i}.png")
    return seen


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
    console: Console | None = None,
    quiet: bool = False,
    force: bool = False,
    watch: Callable[[], AbstractContextManager[Callable[[TrainingProgress], None] | None]] = nullcontext,
) -> dict[str, Any]:
    """Run the demo into the folder `out` and return what demo.json holds; go on with one that was interrupted.

    `tasks` are the place's two tasks (indices from 0; 0.8 of the first). `watch` makes what is told of the training.
    With `force` a demo that is there is begun anew. Raises OutputExists when `out` holds a finished demo and `force` is
    not set, or something that is no run at all; RunError when it holds another run; MissingExtra when the extra `demo`
    is absent.
    """
    require_demo()
    import matplotlib
    import sklearn
    import torch
    from rich.console import Console

    import prefmerge
    from prefmerge.models.heads import Head
    from prefmerge.target.adapt import adapt

    out = Path(out)
    console = console or Console(quiet=quiet)
    if (out / FILE).is_file() and (out / RESULT).exists():
        if not force:
            raise OutputExists(
                f"{out}: a demo is there already. Give another folder, or --force to begin it anew there."
            )
        disk.remove(out / RESULT)  # what it says is no longer so
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
    console.print(
        f"The place: {place.title}. It gives us {len(place.meta)} labels, or {len(place.photos)} images without labels."
    )

    seen = write_place(out, digits, place)
    made_from = {}
    for what, given in (("labels", {"labels": seen.labels}), ("images", {"inputs": seen.photos})):
        n = len(place.meta if what == "labels" else place.photos)
        name = f"adapt from {n} {what}"
        console.print(f"{name.capitalize()} ...")
        asked = Parameters.of(run=out, out=out / f"from-{what}", force=True, no_cache=True, **given)
        made_from[what] = name, adapt(asked)

    # The log prior of the labels, without any fit: what every model can have.
    prior = made_from["labels"][1].prior
    with_prior = replace(head, bias=torch.from_numpy(prior.logits.astype(np.float32)))
    with_prior.save(out / PRIOR_HEAD)

    rows: list[dict[str, Any]] = []

    def add(model: str, method: str, file: Path, its_head: Path, scale: float | None = None, **more: Any) -> None:
        named = {"file": file.relative_to(out).as_posix(), "head": its_head.relative_to(out).as_posix()}
        # What the files hold, not the tensors in memory: the demo reports on what it wrote.
        rights = right_by_head(file, encoder, [head, Head.load(its_head)], digits)
        both = {
            key: asdict(accuracies(right, digits, place)) | {"right": "".join(str(int(right[i])) for i in place.test)}
            for key, right in zip(("without_prior", "with_prior"), rights, strict=True)
        }
        rows.append({"model": model, "method": method, "scale": scale, **named, **both, **more})

    add("base", "base", made.base_path, out / PRIOR_HEAD)
    add("last checkpoint", "last", files[-1], out / PRIOR_HEAD)
    (out / "merged").mkdir(exist_ok=True)
    for method, model in MERGES.items():
        file = out / "merged" / f"{method}.safetensors"
        chosen = preference if method == "tunable_magmax" else None
        receipt = prefmerge.merge(made.base_path, files, file, method=method, preference=chosen, force=True)
        add(model, method, file, out / PRIOR_HEAD, float(receipt.recipe["scale"]))
    for what, (name, adapted) in made_from.items():
        folder = out / f"from-{what}"
        estimate = None if adapted.estimates is None else adapted.estimates.chosen.accuracy.to_json()
        level = None if adapted.estimates is None else adapted.estimates.level
        told = {"estimate": estimate, "level": level, "chosen": adapted.chosen.name}
        add(name, "adapt", folder, folder / "head.safetensors", **told)

    result: dict[str, Any] = {
        "format": DEMO_FORMAT,
        "seed": seed,
        "regime": regime.model_dump(mode="json", exclude={"lwf", "ewc"}),
        "place": {
            "title": place.title,
            "tasks": [NAMES[t] for t in tasks],
            "labels_given": {str(y): n for y, n in digits.label_counts(place.meta).items()},
            "images_given": len(place.photos),
            "test_images": len(place.test),
        },
        "all_digits_images": len(digits.parts["test"]),
        "preference": {name: str(s) for name, s in shares.items()},
        "rows": rows,
        "commands": [
            adapt_command(out, "--labels", seen.labels, out / "by-hand-from-labels"),
            adapt_command(out, "--inputs", seen.photos, out / "by-hand-from-images"),
        ],
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
    jsons.write(out / RESULT, result)
    show(console, result, out)
    return result
