"""A search over the checkpoints of a run, on samples with labels: what stands around `tune`.

    right_i(settings) = argmax over c in among(i) of <f(x_i), h_c>  is y_i,   f: the encoder with the merged weights

`among(i)`: the classes that the task of sample i's class is told apart from (papers, section 4.1). Output: OUT/ with
study.journal (the trials; the same command goes on from it), search.json, preference.json and search.png. Cost: a merge
in memory and M forward passes a trial; M inputs in memory. Left out: the choice (`found`), similarity of inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.checkpoints import content_fingerprint, fingerprint_of, from_state_dict, open_checkpoint
from prefmerge.errors import DataError, MissingExtra, OutputError, OutputExists, RunError
from prefmerge.ground import jsons, locks
from prefmerge.runs import require_finished
from prefmerge.target.search.found import Found
from prefmerge.target.search.space import Space
from prefmerge.target.search.study import FILE
from prefmerge.target.search.tuning import LEAST, Score, Tried, Weights, tune

if TYPE_CHECKING:
    from prefmerge.data.examples import Examples
    from prefmerge.data.scenarios import Scenario
    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

RESULT, PREFERENCE, PICTURE = "search.json", "preference.json", "search.png"
BATCH = 32  # inputs encoded at a time


@dataclass(frozen=True)
class Output:
    """Where a search leaves what."""

    folder: Path
    preference: Path

    @classmethod
    def of(cls, out: str | Path) -> Output:
        """`out`: a folder; or a .json, which is then the preference, with the rest in a folder beside it."""
        out = Path(out)
        if out.suffix == ".json":
            return cls(out.with_suffix(".search"), out)
        return cls(out, out / PREFERENCE)


def search(
    run: str | Path,
    pairs: str | Path,
    out: str | Path | None,
    *,
    space: Space | None = None,
    held_out: float = 0.3,
    patience: int = 10,
    trials: int = 50,
    batch: int = 4,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    progress: Tried | None = None,
) -> Found:
    """Search over the tasks of a run on `pairs` (a CSV with inputs and labels, or a folder of images per class) and
    leave the result at `out` (see `Output`; None: nowhere).

    It begins with the label preference (eq. 7). The same call goes on with a search that was interrupted; `force`
    begins it anew. Raises RunError, DataError, UsageError, OutputError, MissingExtra, and what encoding and merging
    raise.
    """
    from prefmerge.merging.candidates import Candidates
    from prefmerge.target import similarity
    from prefmerge.target.given import read_pairs
    from prefmerge.training.opened import best_device, open_run

    space = space or Space()
    place = None if out is None else Output.of(out)
    with contextlib.nullcontext() if place is None else _held(place, force):
        opened = open_run(run, samples="none")  # whoever searches brings them
        _check_run(opened.run)
        classes = [one.name for one in opened.scenario.classes]
        samples = read_pairs(Path(pairs), classes, opened.scenario.inputs)
        if len(samples) < LEAST:
            raise DataError(f"{pairs}: {len(samples)} samples are too few to search with. Give at least {LEAST}.")
        counts = [task.label_counts for task in opened.run.tasks]
        seen = {classes[label]: n for label, n in samples.label_counts().items()}
        names = [task.name for task in opened.run.tasks]
        paths = [opened.run.task_path(index) for index in range(len(names))]
        about = {
            "checkpoints": [_content(path) for path in (opened.run.base_path, *paths)],
            "head": fingerprint_of(from_state_dict(_tensors(opened.head), name="head")).hexdigest(),
            "inputs": samples.fingerprint(range(len(samples))),
            "encoder": opened.encoder.preprocessing,
        }
        with Candidates(opened.run.base_path, paths, names, threads=threads) as candidates:
            for settings in space.others():
                candidates.check(**settings)
            found = tune(
                candidates,
                scorer(
                    opened.encoder, opened.head, samples, among_of(opened.scenario), device=best_device(opened.config)
                ),
                samples.labels,
                ids=samples.ids,
                space=space,
                first=similarity.label(counts, seen, names).preference() if all(counts) else None,
                held_out=held_out,
                patience=patience,
                trials=trials,
                batch=batch,
                seed=seed,
                study=None if place is None else place.folder / FILE,
                about=about,
                progress=progress,
            )
        found = replace(found, about={**found.about, "run": str(run), "pairs": str(pairs)})
        if place is not None:
            _write(found, place, ["--run", str(run)])
    return found


def _tensors(head: Head) -> dict[str, Any]:
    """What of a head decides its answers."""
    own = {"rows": head.rows}
    return own if head.bias is None else {**own, "bias": head.bias}


def scorer(
    encoder: Encoder,
    head: Head,
    samples: Examples,
    among: Callable[[int], Sequence[int]],
    *,
    batch: int = BATCH,
    device: Any = None,
) -> Score:
    """What answers for a model's weights which samples the head then names correctly. among: label -> classes that it
    is told apart from. The inputs are read once; the encoder holds the weights asked for last.
    """
    from prefmerge.models.encoders.weights import put_arrays
    from prefmerge.models.evaluation import right_answers
    from prefmerge.models.features import embed

    inputs = samples.read(range(len(samples)))
    held = replace(samples, read=lambda at: [inputs[i] for i in at])
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, label in enumerate(samples.labels.tolist()):
        groups.setdefault(tuple(among(label)), []).append(i)

    def score(weights: Weights) -> np.ndarray:
        put_arrays(encoder, weights)
        embeddings = embed(encoder, held, batch=batch, device=device)
        right = np.empty(len(held), bool)
        for classes, at in groups.items():
            right[at] = right_answers(embeddings[at], head, samples.labels[at], classes)
        return right

    return score


def among_of(scenario: Scenario) -> Callable[[int], Sequence[int]]:
    """The classes that a label is told apart from when the task is not known: those of the first task that has it."""
    found: dict[int, Sequence[int]] = {}
    for task in scenario.tasks:
        for label in task.classes:
            found.setdefault(label, task.among)
    return lambda label: found[label]


def _content(path: Path) -> str:
    checkpoint = open_checkpoint(path)
    try:
        return content_fingerprint(checkpoint)
    finally:
        checkpoint.close()


def _check_run(run: Any) -> None:
    if run.training == "joint":
        raise RunError(f"{run.folder}: was trained on all tasks jointly; there is nothing to merge or to search.")
    require_finished(run)


@contextlib.contextmanager
def _held(place: Output, force: bool) -> Iterator[None]:
    """The folder, made and held against other processes; what another search left goes with `force`."""
    folder, other = place.folder, place.preference
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{folder}: is a file. Give a new folder.")
    ours = (folder / FILE).exists()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise OutputExists(f"{folder}: holds something that is not a search. Give a new or empty folder.")
    if other.exists() and not ours and not force:
        raise OutputExists(f"{other}: exists already. Give another -o OUT, or --force to replace it.")
    busy = RunError(f"{folder}: another process is at work on this search. Wait for it.")
    with contextlib.ExitStack() as lock:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locks.held(folder, busy))
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written: {error.strerror or error}. Give another -o OUT."
            ) from error
        try:
            if force:
                for name in (RESULT, PREFERENCE, PICTURE, FILE):
                    (folder / name).unlink(missing_ok=True)
            yield
        finally:
            lock.close()
            with contextlib.suppress(OSError):  # not empty: then it stays
                folder.rmdir()


def _write(found: Found, place: Output, inputs: list[str]) -> None:
    command = found.command(inputs, str(place.preference))
    preference = found.preference_json()
    try:
        jsons.write(place.folder / RESULT, {**found.to_json(), "command": command})
        if preference is not None:
            jsons.write(place.preference, preference)
        elif place.preference.exists():
            place.preference.unlink()
        with contextlib.suppress(MissingExtra):  # a picture is not worth an error after hours
            found.draw(place.folder / PICTURE)
    except OSError as error:
        raise OutputError(f"{place.folder}: cannot be written: {error.strerror or error}.") from error
