"""The paper's search over the checkpoints of a run, by accuracy on the target's pairs: what stands around `tune`.

Source: Tunable MAGMAX, section 3.3 (last remark). Cost: a merge in memory and M forward passes a trial; M inputs in
memory. Not here: the choice (`result`), similarity of inputs, the search that ranks as `adapt` does (`by_score`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefmerge.checkpoints import fingerprint_of, from_state_dict
from prefmerge.errors import DataError
from prefmerge.target import similarity
from prefmerge.target.checkpoints import Checkpoints, contents_of
from prefmerge.target.given import read_pairs
from prefmerge.target.parameters import SearchParameters
from prefmerge.target.search.folder import SearchFolder
from prefmerge.target.search.result import SearchResult
from prefmerge.target.search.scoring import among_of, scorer
from prefmerge.target.search.space import Space
from prefmerge.target.search.tuning import LEAST, Tried, tune

if TYPE_CHECKING:
    from prefmerge.models.heads import Head


def search_by_accuracy(asked: SearchParameters, progress: Tried | None = None) -> SearchResult:
    """Search over the tasks of a run by accuracy on the pairs, and leave the result in `asked.out`, where one is named.

    It starts with the label preference (eq. 7). The same call resumes a search that was interrupted; `force` starts it
    again from nothing. Raises RunError, DataError, UsageError, OutputError, MissingExtra, and what encoding and merging
    raise.
    """
    from prefmerge.merging.candidates import Candidates
    from prefmerge.training.opened import best_device, open_run

    run, pairs = asked.run, asked.pairs
    assert run is not None
    assert pairs is not None
    space = Space.parse(asked.space)
    folder = None if asked.out is None else SearchFolder.of(asked.out)
    with contextlib.nullcontext() if folder is None else folder.held(asked.force):
        opened = open_run(run, samples="none")  # whoever searches brings them
        checkpoints = Checkpoints.of_run(run)
        classes = [one.name for one in opened.scenario.classes]
        samples, notes = read_pairs(pairs, classes, opened.scenario.inputs)
        if len(samples) < LEAST:
            raise DataError(f"{pairs}: {len(samples)} samples are too few to search with. Give at least {LEAST}.")
        counts = [task.label_counts for task in opened.run.tasks]
        seen = {classes[label]: n for label, n in samples.label_counts().items()}
        names = checkpoints.names
        assert checkpoints.base is not None
        about = {
            "checkpoints": contents_of(checkpoints.base, checkpoints.paths),
            "head": fingerprint_of(from_state_dict(_tensors(opened.head), name="head")).hexdigest(),
            "inputs": samples.fingerprint(range(len(samples))),
            "encoder": opened.encoder.preprocessing,
        }
        with Candidates(checkpoints.base, checkpoints.paths, names, threads=asked.threads) as candidates:
            for settings in space.refusable(len(names)):
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
                held_out=asked.held_out,
                patience=asked.patience,
                trials=asked.trials,
                batch=asked.batch,
                seed=asked.seed,
                study=None if folder is None else folder.journal,
                about=about,
                progress=progress,
            )
        result = replace(result, about={**result.about, "run": str(run), "pairs": str(pairs)}, notes=notes)
        if folder is not None:
            command = result.command(["--run", str(run)], str(folder.preference))
            folder.write({**result.to_json(), "command": command}, result.preference_json(), result.draw)
    return result


def _tensors(head: Head) -> dict[str, Any]:
    """What of a head decides its answers."""
    own = {"rows": head.rows}
    return own if head.bias is None else {**own, "bias": head.bias}
