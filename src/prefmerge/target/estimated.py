"""The preference out of unlabelled inputs of the target, by the estimate of the shares that `adapt` makes.

    s by EM over p(x|t), classes recognised in the base's embeddings (`shares.inputs`)

Of a run that kept base embeddings nothing but the target's inputs is encoded, and its data are not needed. Cost: a
forward pass of the base for each input, and for up to EACH samples a class where there are no embeddings; seconds of
regressions. Not here: the paper's similarities, which compare embeddings of every checkpoint (`embedded`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from prefmerge.data.examples import Examples, InputKind
from prefmerge.errors import DataError, UsageError, require
from prefmerge.ground.progress import Counted
from prefmerge.preference import Preference, as_text
from prefmerge.target import given
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.target.draws import check_draws
from prefmerge.target.evidence import shares_of_inputs
from prefmerge.target.forwards import Forwards
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import DIGITS
from prefmerge.target.preferred import Preferred
from prefmerge.target.shares import Shares, Tasks
from prefmerge.target.shares.doubts import of_intervals
from prefmerge.target.source import Source, open_source

OTHERS = "--similarity ot, cosine or mmd"  # which work without labels of the tasks' samples
_WHAT = "encoding samples"  # needs torch, for the message where it is absent
DRAWS = 200  # of the bootstrap


def from_estimate(
    checkpoints: Checkpoints | None,
    inputs: Path,
    *,
    task_samples: Sequence[Path] = (),
    model: str | None = None,
    draws: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
    cache: Path | None = None,
    progress: Counted | None = None,
) -> Preferred:
    """The preference out of inputs, with the tasks' own samples of the run, or `task_samples` with labels. `draws`: 0:
    no interval. `cache`: the folder of embeddings; None: none.

    Raises UsageError and DataError where nothing says what the tasks' samples are, EncoderError, MissingExtra.
    """
    if inputs.suffix.lower() in given.EMBEDDED:
        raise UsageError(
            f"{inputs}: holds embeddings. By default shares are estimated from inputs that the base can encode, with "
            f"the class of each of the tasks' samples. Give {OTHERS}."
        )
    if checkpoints is None or checkpoints.base is None:
        raise UsageError("--inputs are encoded by the base: give --run RUN, or BASE TASK...")
    if draws:
        check_draws(draws, level)
    from prefmerge.training.finetuning import require_train

    require_train(_WHAT)
    require("estimating shares from inputs", "places", "sklearn", "threadpoolctl")
    of_run = checkpoints.run is not None and not task_samples and model is None
    how = {"inputs": inputs, "level": level, "seed": seed}
    if of_run:
        assert checkpoints.run is not None
        asked = Parameters(run=checkpoints.run.folder, **how)
        source = open_source(asked)
    else:
        asked = Parameters(checkpoints=(checkpoints.base, *checkpoints.paths), **how)
        source = _source(checkpoints, task_samples, model)

    def said(done: int, of: int, what: str) -> None:
        if progress is not None and of:
            progress(done, of)

    forwards = Forwards(source, asked, said)
    forwards.cache = cache
    shares, used, notes = shares_of_inputs(asked, source, forwards.embeddings_of_base, draws or DRAWS)
    return _preferred(checkpoints, shares, used, notes, inputs=inputs, draws=draws, level=level, seed=seed)


def _source(checkpoints: Checkpoints, task_samples: Sequence[Path], model: str | None) -> Source:
    """Checkpoints with labelled samples of their tasks; the labels say the classes."""
    assert checkpoints.base is not None
    if not task_samples and checkpoints.run is not None:
        raise UsageError(
            f"--model {model}: the run's own samples are compared with the run's own encoder. Leave --model out, or "
            "give --task-samples PATH with it."
        )
    if not task_samples:
        raise UsageError(
            "--inputs are compared with samples of the tasks: give --run RUN, or --task-samples PATH for each task, a "
            f"CSV with labels or a folder of images per class. {OTHERS} needs samples too, without labels."
        )
    encoder, device = checkpoints.encoder(_WHAT, model)
    sources = given.task_sources(task_samples, checkpoints.names)
    of_task = [_labels(path, encoder.kind) for path in sources]
    classes = tuple(dict.fromkeys(name for own in of_task for name in own))
    samples = tuple(given.read_labelled(path, classes, encoder.kind) for path in sources)
    counts = np.array([np.bincount(one.labels, minlength=len(classes)) for one in samples], np.int64)
    at = tuple(tuple(np.flatnonzero(row).tolist()) for row in counts)
    return Source(
        Tasks(checkpoints.names, classes, at, counts),
        checkpoints.base,
        checkpoints.paths,
        None,
        True,
        encoder.kind,
        samples,
        True,
        (tuple(range(len(classes))),) * len(samples),
        {},
        lambda: (encoder, device),
    )


def _labels(path: Path, kind: InputKind) -> tuple[str, ...]:
    try:
        return given.labels_of(path, kind)
    except DataError as error:
        raise DataError(
            f"{error} By default inputs are compared class by class, so the tasks' samples need labels; {OTHERS} needs "
            "none."
        ) from error


def _preferred(
    checkpoints: Checkpoints,
    shares: Shares,
    used: Examples,
    notes: Sequence[str],
    *,
    inputs: Path,
    draws: int,
    level: float,
    seed: int,
) -> Preferred:
    parts = {
        name: as_text(Fraction(round(float(share) * DIGITS), DIGITS))
        for name, share in zip(checkpoints.names, shares.shares, strict=True)
    }
    about = {
        "case": "estimate",
        "seed": seed,
        "draws": draws,
        "estimate": shares.to_json(),
        "inputs": {
            "place": {"path": str(inputs), "samples": len(used), "contents": used.fingerprint(range(len(used)))}
        },
    }
    # Where the shares are in doubt, that is their first note.
    wide, _ = of_intervals(shares.names, shares.low, shares.high, shares.samples, shares.source)
    doubts = shares.notes[:1] if wide is not None or not shares.tells else ()
    return Preferred(
        checkpoints,
        Preference.named(parts),
        shares.shares,
        shares.samples,
        level,
        low=shares.low if draws else None,
        high=shares.high if draws else None,
        doubts=doubts,
        notes=tuple(note for note in notes if note not in doubts),
        about=about,
    )
