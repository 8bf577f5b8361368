"""A search over the checkpoints of a run, on the target's samples with labels: what stands around `tune`.

Cost: a merge in memory and M forward passes a trial; M inputs in memory. Not here: the choice (`result`), similarity of
inputs.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.checkpoints import content_fingerprint, fingerprint_of, from_state_dict, open_checkpoint
from prefmerge.errors import DataError
from prefmerge.target import similarity
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.target.given import read_pairs
from prefmerge.target.search.folder import SearchFolder
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.scoring import among_of, scorer
from prefmerge.target.search.space import Space
from prefmerge.target.search.tuning import LEAST, Tried, tune

if TYPE_CHECKING:
    from prefmerge.models.heads import Head


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
) -> SearchResult:
    """Search over the tasks of a run on `pairs` (a CSV with inputs and labels, or a folder of images per class) and
    leave the result at `out` (see `SearchFolder`; None: nowhere).

        best = prefmerge.search("my-run", "seen.csv", "found")
        best.preference, best.settings, best.verdict

    It starts with the label preference (eq. 7). The same call resumes a search that was interrupted; `force` starts it
    again from nothing. Raises RunError, DataError, UsageError, OutputError, MissingExtra, and what encoding and merging
    raise.
    """
    from prefmerge.merging.candidates import Candidates
    from prefmerge.training.opened import best_device, open_run

    space = space or Space()
    folder = None if out is None else SearchFolder.of(out)
    with contextlib.nullcontext() if folder is None else folder.held(force):
        opened = open_run(run, samples="none")  # whoever searches brings them
        checkpoints = Checkpoints.of_run(run)
        classes = [one.name for one in opened.scenario.classes]
        samples, notes = read_pairs(Path(pairs), classes, opened.scenario.inputs)
        if len(samples) < LEAST:
            raise DataError(f"{pairs}: {len(samples)} samples are too few to search with. Give at least {LEAST}.")
        counts = [task.label_counts for task in opened.run.tasks]
        seen = {classes[label]: n for label, n in samples.label_counts().items()}
        names = checkpoints.names
        assert checkpoints.base is not None
        about = {
            "checkpoints": [_content(path) for path in (checkpoints.base, *checkpoints.paths)],
            "head": fingerprint_of(from_state_dict(_tensors(opened.head), name="head")).hexdigest(),
            "inputs": samples.fingerprint(range(len(samples))),
            "encoder": opened.encoder.preprocessing,
        }
        with Candidates(checkpoints.base, checkpoints.paths, names, threads=threads) as candidates:
            for settings in space.others():
                candidates.check(**settings)
            score = scorer(
                opened.encoder, opened.head, samples, among_of(opened.scenario), device=best_device(opened.config)
            )
            result = tune(
                candidates,
                score,
                samples.labels,
                ids=samples.ids,
                space=space,
                first=similarity.label(counts, seen, names).preference() if all(counts) else None,
                held_out=held_out,
                patience=patience,
                trials=trials,
                batch=batch,
                seed=seed,
                study=None if folder is None else folder.journal,
                about=about,
                progress=progress,
            )
        result = replace(result, about={**result.about, "run": str(run), "pairs": str(pairs)}, notes=notes)
        if folder is not None:
            folder.write(result, ["--run", str(run)])
    return result


def _tensors(head: Head) -> dict[str, Any]:
    """What of a head decides its answers."""
    own = {"rows": head.rows}
    return own if head.bias is None else {**own, "bias": head.bias}


def _content(path: Path) -> str:
    checkpoint = open_checkpoint(path)
    try:
        return content_fingerprint(checkpoint)
    finally:
        checkpoint.close()
