"""scikit-learn's handwritten digits as five tasks of two digits, and the places where a merged model may run.

A place (i, j) sees task i with share 0.8 and task j with share 0.2; it owns a few images, some with labels (meta data),
and test images, and the two never meet. Label similarity (paper section 3.3): sim_t = sum over classes y of p_place(y)
p_task_t(y), whence the preference s_t = sim_t / sum sim. Source of the images: UCI's optical recognition of handwritten
digits (1,797 of them, 8 x 8 counts 0..16), as scikit-learn ships them. The split is by a hash of the image's number:
frozen for ever, whatever the versions. Shapes: an image is (1, 8, 8) float32 in [0, 1]. Cost: milliseconds. Not here:
augmentation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import xxhash

from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import ClassInfo, Scenario, Task
from prefmerge.errors import MissingExtra

CLASSES = tuple("0123456789")
TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))  # classes of each task, in the order of training
NAMES = tuple(f"task-{t + 1}-digits-{''.join(map(str, classes))}" for t, classes in enumerate(TASKS))
PLACES = tuple((i, j) for i in range(len(TASKS)) for j in range(len(TASKS)) if i != j)
SHOWN = (
    0,
    4,
)  # random.Random(42).sample(range(5), 2), 42 being the paper's first seed: drawn before anything was trained
PARTS = {"meta": 10, "test": 50, "validation": 20}  # images per digit; "train" is the rest
MAIN_SHARE = Fraction(4, 5)  # the paper's environment e2 (section 4.3)
META_LABELS = 20  # labels that the target gives


@dataclass(frozen=True)
class Place:
    """Where the model will run: two tasks (indices); by number, the images it labels for us, those it shows us without
    labels, and those it sees later.
    """

    tasks: tuple[int, int]
    meta: tuple[int, ...]
    photos: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def title(self) -> str:
        main, side = ("".join(map(str, TASKS[t])) for t in self.tasks)
        shares = f"{float(MAIN_SHARE):.0%}", f"{float(1 - MAIN_SHARE):.0%}"
        return f"{shares[0]} digits {main[0]} and {main[1]}, {shares[1]} digits {side[0]} and {side[1]}"


@dataclass(frozen=True)
class Digits:
    """All images (1797, 8, 8) in [0, 1], their labels (1797,), and the numbers of the images in each part."""

    pixels: np.ndarray
    labels: np.ndarray
    parts: Mapping[str, tuple[int, ...]]

    def ids(self, part: str, task: int | None = None) -> tuple[int, ...]:
        """Numbers of the images in a part, of one task or of all."""
        return tuple(i for i in self.parts[part] if task is None or int(self.labels[i]) in TASKS[task])

    def examples(self, ids: Sequence[int]) -> Examples:
        """The images of these numbers, in that order."""
        chosen = np.asarray(ids, dtype=np.int64)
        images = _Images(self.pixels[chosen][:, None])
        return Examples(tuple(f"digit-{i}" for i in ids), self.labels[chosen], images, images.fingerprint)

    def label_counts(self, ids: Sequence[int]) -> dict[int, int]:
        """How often each digit occurs, in order of the digit."""
        return dict(sorted(Counter(int(self.labels[i]) for i in ids).items()))

    def place(self, tasks: tuple[int, int], part: str = "test") -> Place:
        """The place that sees `tasks` 0.8 / 0.2: META_LABELS labels; the meta images, and those of `part`, that the
        shares allow.
        """
        labels = int(META_LABELS * (1 - MAIN_SHARE))
        labelled, beside = (self.ids("meta", t) for t in tasks)
        meta = labelled[: META_LABELS - labels] + beside[:labels]
        return Place(tasks, meta, self._mixed(tasks, "meta"), self._mixed(tasks, part))

    def _mixed(self, tasks: tuple[int, int], part: str) -> tuple[int, ...]:
        """As many images of a part as it has in the place's proportion."""
        ratio = int(MAIN_SHARE / (1 - MAIN_SHARE))
        main, side = (self.ids(part, t) for t in tasks)
        sided = min(len(main) // ratio, len(side))
        return main[: sided * ratio] + side[:sided]


@dataclass(frozen=True)
class _Images:
    """Reads images (N, 1, 8, 8) by position."""

    pixels: np.ndarray

    def __call__(self, at: Sequence[int]) -> list[np.ndarray]:
        return [self.pixels[i] for i in at]

    def fingerprint(self, at: Sequence[int]) -> str:
        return xxhash.xxh3_64_hexdigest(self.pixels[list(at)].tobytes())


def load_digits() -> Digits:
    """The digits that scikit-learn ships, split: no download. Raises MissingExtra where scikit-learn is absent."""
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as error:
        raise MissingExtra("prefmerge demo", "demo") from error
    bunch: Any = bundled()  # a dictionary of arrays, typed as a tuple
    labels = np.asarray(bunch["target"], dtype=np.int64)
    pixels = np.asarray(bunch["images"], dtype=np.float32) / 16
    parts: dict[str, list[int]] = {part: [] for part in (*PARTS, "train")}
    for digit in range(10):
        shuffled = sorted(np.flatnonzero(labels == digit).tolist(), key=_hash)
        for part, count in PARTS.items():
            parts[part] += shuffled[:count]
            shuffled = shuffled[count:]
        parts["train"] += shuffled
    return Digits(pixels, labels, {part: tuple(sorted(ids, key=_hash)) for part, ids in parts.items()})


def scenario_of(digits: Digits) -> Scenario:
    """The five tasks, over the head's ten rows."""
    tasks = (
        Task(
            name=name,
            classes=classes,
            among=tuple(range(len(CLASSES))),
            train=digits.examples(digits.ids("train", t)),
            test=digits.examples(digits.ids("test", t)),
            held_out=digits.examples(digits.ids("validation", t)),  # which no training sees anyway
        )
        for t, (name, classes) in enumerate(zip(NAMES, TASKS, strict=True))
    )
    return Scenario("class-incremental", "image", tuple(ClassInfo(name, ()) for name in CLASSES), tuple(tasks))


def _hash(number: int) -> bytes:
    return hashlib.sha256(f"prefmerge digits {number}".encode()).digest()
