"""The main job on real data, start to end: train five tasks in sequence, adapt to a target, say what it brought.

`adapt` makes one model from the target's few labels, and one from a few images without labels. Beside them stand the
base, the last checkpoint and the merges of the papers, by the public `prefmerge.merge` at their default scales. All are
judged on test images of the target that nothing before has seen. Writes into one folder: a run as `prefmerge finetune`
leaves it, seen.csv and photos/ as a user would have them, preference.json, merged/, from-labels/, from-images/,
demo.png and, last, demo.json: a folder without it holds a demo that was interrupted, which the next call resumes. Cost:
about a minute on two slow cores. Not here: other targets, seeds and scales (docs/demo.md), other ways to a preference.
"""

from __future__ import annotations

import io
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

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head
    from prefmerge.runs import Run
    from prefmerge.target.result import Adapted

DEMO_FORMAT = "prefmerge-demo/3"
RESULT = "demo.json"
MERGES = {"average": "average", "magmax": "MAGMAX", "tunable_magmax": "Tunable MAGMAX (paper)"}
PAPER: dict[str, Any] = {"selection": "paper", "importance": "magnitude", "scale": 0.5}  # of the last of them
PRIOR_HEAD = "head-with-prior.safetensors"


def label_preference(digits: Digits, place: Place) -> Preference:
    """Shares proportional to the overlap of the target's few labels with each task's training labels."""
    tasks = [digits.label_counts(digits.ids("train", t)) for t in range(len(TASKS))]
    seen = digits.label_counts(place.meta)
    return similarity.label([_named(task) for task in tasks], _named(seen), NAMES).preference()


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(digit): n for digit, n in counts.items() if n}


@dataclass(frozen=True)
class Seen:
    """What the user has of the target, as files."""

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
        Image.fromarray(grey).save(image := io.BytesIO(), "PNG")
        atomic.write_whole(seen.photos / f"digit-{i}.png", image.getvalue())
    return seen


def require_demo() -> None:
    """Raise MissingExtra, with the install command, where the extra `demo` is absent: before the training."""
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
    """Run the demo into the folder `out`, or resume one that was interrupted; return what demo.json holds.

    `tasks` are the target's two tasks (indices from 0; 0.8 of the first). `watch` shows the progress of the training.
    With `force` a demo that is there is made again. Raises OutputExists when `out` holds a finished demo and `force` is
    not set, or something that is no run at all; RunError when it holds another run; MissingExtra when the extra `demo`
    is absent.
    """
    require_demo()
    from rich.console import Console

    out, console = Path(out), console or Console(quiet=quiet)
    _require_unfinished(out, force)
    started = time.perf_counter()
    digits, (encoder, head) = load_digits(), load_base()
    place = digits.place(tasks)
    console.print(
        f"Fine-tuning a vision transformer on {len(TASKS)} tasks of two digits, one after another (seed {seed}) ..."
    )
    with watch() as progress:
        made = fine_tune_in_sequence(encoder, head, digits, out, seed, regime, force=force, progress=progress)
    trained = time.perf_counter()
    preference = label_preference(digits, place)
    preference.save(out / "preference.json")
    console.print(
        f"The target: {place.title}. It gives us {len(place.meta)} labels, or {len(place.photos)} images without "
        "labels."
    )
    seen = write_place(out, digits, place)
    from_labels = _adapted(out / "from-labels", f"adapt from {len(place.meta)} labels", console, labels=seen.labels)
    from_images = _adapted(out / "from-images", f"adapt from {len(place.photos)} images", console, inputs=seen.photos)
    judge = _Judge(out, digits, place, encoder, head, _head_with_prior(out, head, from_labels.made))
    result = {
        "format": DEMO_FORMAT,
        "seed": seed,
        "regime": regime.model_dump(mode="json", exclude={"lwf", "ewc"}),
        "place": _described(place, digits),
        "all_digits_images": len(digits.parts["test"]),
        "preference": {name: str(s) for name, s in zip(NAMES, preference.shares(NAMES), strict=True)},
        "rows": [
            judge.row("base", "base", made.base_path),
            judge.row("last checkpoint", "last", made.last_path),
            *(judge.merged(made, method, model, preference) for method, model in MERGES.items()),
            judge.adapted(from_labels),
            judge.adapted(from_images),
        ],
        "commands": [
            adapt_command(out, "--labels", seen.labels, out / "by-hand-from-labels"),
            adapt_command(out, "--inputs", seen.photos, out / "by-hand-from-images"),
        ],
        "seconds": {"training": round(trained - started, 1), "all": round(time.perf_counter() - started, 1)},
        "versions": _versions(),
    }
    draw(result, out / "demo.png")
    jsons.write(out / RESULT, result)
    show(console, result, out)
    return result


def _require_unfinished(out: Path, force: bool) -> None:
    """Raise OutputExists where a finished demo is; with `force`, remove its result instead."""
    if (out / FILE).is_file() and (out / RESULT).exists():
        if not force:
            raise OutputExists(f"{out}: a demo is there already. Give another folder, or --force to replace it.")
        disk.remove(out / RESULT)  # what it says is no longer so


@dataclass(frozen=True)
class _Model:
    """What `adapt` made, in its folder, and what the table calls it."""

    name: str
    folder: Path
    made: Adapted


def _adapted(folder: Path, name: str, console: Console, **given: Path) -> _Model:
    from prefmerge.target.adapt import adapt

    console.print(f"{name.capitalize()} ...")
    asked = Parameters.of(run=folder.parent, out=folder, force=True, no_cache=True, **given)
    return _Model(name, folder, adapt(asked))


def _head_with_prior(out: Path, head: Head, adapted: Adapted) -> Path:
    """A head with the log prior of the labels, without any fit: what every model can have."""
    import torch

    file = out / PRIOR_HEAD
    replace(head, bias=torch.from_numpy(adapted.prior.logits.astype(np.float32))).save(file)
    return file


@dataclass(frozen=True)
class _Judge:
    """Makes the rows of the table: a model as it is and with the prior, on the test images."""

    out: Path
    digits: Digits
    place: Place
    encoder: Encoder
    head: Head
    prior_head: Path

    def row(
        self, model: str, method: str, file: Path, *, head: Path | None = None, scale: float | None = None, **more: Any
    ) -> dict[str, Any]:
        """Of what the files hold, not the tensors in memory: the demo reports on what it wrote."""
        from prefmerge.models.heads import Head

        with_prior = head or self.prior_head
        named = {"file": file.relative_to(self.out).as_posix(), "head": with_prior.relative_to(self.out).as_posix()}
        rights = right_by_head(file, self.encoder, [self.head, Head.load(with_prior)], self.digits)
        both = {
            key: asdict(accuracies(right, self.digits, self.place))
            | {"right": "".join(str(int(right[i])) for i in self.place.test)}
            for key, right in zip(("without_prior", "with_prior"), rights, strict=True)
        }
        return {"model": model, "method": method, "scale": scale, **named, **both, **more}

    def merged(self, run: Run, method: str, model: str, preference: Preference) -> dict[str, Any]:
        """A merge at the papers' scale."""
        import prefmerge

        file = self.out / "merged" / f"{method}.safetensors"
        file.parent.mkdir(exist_ok=True)
        files = [run.task_path(t) for t in range(len(TASKS))]
        own = {"preference": preference, **PAPER} if method == "tunable_magmax" else {}
        receipt = prefmerge.merge(run.base_path, files, file, method=method, force=True, **own).data
        return self.row(model, method, file, scale=float(receipt["recipe"]["scale"]))

    def adapted(self, model: _Model) -> dict[str, Any]:
        estimates = model.made.estimates
        return self.row(
            model.name,
            "adapt",
            model.folder,
            head=model.folder / "head.safetensors",
            estimate=None if estimates is None else estimates.chosen.accuracy.to_json(),
            level=None if estimates is None else estimates.level,
            chosen=model.made.chosen.name,
        )


def _described(place: Place, digits: Digits) -> dict[str, Any]:
    return {
        "title": place.title,
        "tasks": [NAMES[t] for t in place.tasks],
        "labels_given": {str(y): n for y, n in digits.label_counts(place.meta).items()},
        "images_given": len(place.photos),
        "test_images": len(place.test),
    }


def _versions() -> dict[str, str]:
    import matplotlib
    import sklearn
    import torch

    import prefmerge

    return {
        "prefmerge": prefmerge.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "matplotlib": matplotlib.__version__,
    }
