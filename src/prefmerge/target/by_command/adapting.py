"""`adapt` for models that prefmerge cannot run: its candidates for the target's shares, scored by the user's command.

    shares      labels (with the tasks' label counts), a mix that is stated, those of an earlier result; else all alike
    trials      the base, every checkpoint, and `adapt`'s merges for these shares (`pool`)
    choice      as `search --score`: budgets, the confirming command (`judge`); the best candidate only where it is
                ahead of every input and of the merge that `adapt` makes where it can judge nothing
    output      what `adapt` writes, without a head

Scores are kept in OUT.scores, by digest, so a call that is killed resumes, and one with other shares asks only for what
is new. Cost: one reading of the checkpoints and one more for the output, the disk for the candidates, the commands. Not
here: writing and scoring candidates (`scoring`), numbers that nobody names beforehand (`search`).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from prefmerge.errors import OutputExists, RunError, UsageError
from prefmerge.ground import disk, locks
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import counted
from prefmerge.merging.api import recipe_of
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.limits import parse_bytes
from prefmerge.merging.places import without_places
from prefmerge.merging.recipe import Recipe
from prefmerge.report import place
from prefmerge.runs import IN_SEQUENCE
from prefmerge.target.by_command.choice import CommandChoice
from prefmerge.target.by_command.judge import CommandJudge, ScoringCommands, start_of, trial_of
from prefmerge.target.by_command.scoring import SCORES, SCRATCH, CommandScoring
from prefmerge.target.by_command.sources import Sources, settings_of
from prefmerge.target.checkpoints import Checkpoints, label_counts
from prefmerge.target.evidence import Evidence, read_evidence
from prefmerge.target.output import check_output, write
from prefmerge.target.parameters import Parameters
from prefmerge.target.parameters.again import read_earlier
from prefmerge.target.pool import Candidate, candidates, checkpoints
from prefmerge.target.prior import make_prior
from prefmerge.target.result import Adapted
from prefmerge.target.scored import ScoreTable
from prefmerge.target.search.space import Start
from prefmerge.target.search.trial import ScoredTrial
from prefmerge.target.shares import Tasks
from prefmerge.target.source import Source

MOST_ROWS = 8  # of candidates, in a table
_OURS = re.compile(r"\.?[0-9a-f]{32}(\..*)?")  # scores, candidates, and what a kill leaves of them


@dataclass(frozen=True)
class ScoredCandidates:
    """The choice, for `Adapted`. `recipe`: that of the chosen model, as it was scored."""

    choice: CommandChoice
    recipe: Recipe

    @property
    def verdict(self) -> str:
        return self.choice.verdict

    @property
    def expected(self) -> str:
        return self.choice.expected

    @property
    def doubt(self) -> str:
        return self.choice.doubt

    @property
    def tables(self) -> Sequence[ScoreTable]:
        return self.choice.tables_of(f"the best of {counted(len(self.choice.rungs[0].rows), 'candidate')}", MOST_ROWS)

    def to_json(self) -> dict[str, Any]:
        """The commands and what they printed without paths, for the file may be published."""
        return _told({**self.choice.to_json(), "expected": self.expected})


def adapt_by_command(asked: Parameters, progress: Progress | None = None) -> Adapted:
    """Carry out what the parameters ask for, and write the folder `asked.out`.

    Raises UsageError, DataError, RunError (no input has a score; another call is at work), OutputExists, and what
    merging raises; then nothing has appeared at `asked.out`, and the scores that were had are kept beside it.
    """
    started, progress = time.perf_counter(), progress or (lambda *_: None)
    assert asked.out is not None
    check_output(asked.out, asked.force)
    place.asked_of(asked.report, asked.out, folder=True, force=asked.force)
    parse_bytes(asked.max_memory, "--max-memory")
    commands = ScoringCommands(asked)
    progress(0, 0, "reading the checkpoints")
    sources = Sources.of(asked)
    source = _source(asked, sources)
    evidence = _evidence(asked, source)
    ladder = candidates(sources.names, evidence.shares.shares, source.ordered, asked.candidate)
    pool = [*checkpoints(sources.names, source.ordered), *(one for one in ladder if not one.single)]
    trials = [trial_of(number, _start(one, sources, asked.dtype)) for number, one in enumerate(pool)]
    default = next(one for one in trials if one.task is None)
    inputs = trials[: len(sources.inputs)]
    _check(sources, trials)
    with _scratch(asked.out, keep=not asked.no_cache) as folder:
        scoring = CommandScoring(
            sources,
            folder,
            jobs=asked.jobs,
            batch=asked.batch,
            threads=asked.threads,
            max_memory=asked.max_memory,
        )
        try:
            judge = CommandJudge(commands, scoring, progress, again=True)
            progress(0, len(trials), "candidates")
            judge.require_input([start_of(one) for one in inputs])
            choice = judge.choice(trials, [*inputs, default], default.number)
        finally:
            scoring.close()
        chosen = pool[choice.chosen.number]
        recipe = sources.recipe(start_of(choice.chosen))
        notes = [*evidence.notes, *_notes(choice), *judge.notes]
        if chosen.single and asked.dtype is not None:
            recipe = recipe.with_overrides(dtype=asked.dtype)
            notes.append(f"{chosen.name} was scored as it is, and is written in {asked.dtype}.")
        cost = {
            "candidates": len(trials),
            "commands": scoring.commands,
            "merges": scoring.written,
            "seconds": round(time.perf_counter() - started, 1),
        }
        made = Adapted(
            source,
            evidence,
            make_prior(source.tasks, evidence.shares),
            tuple(pool),
            None,
            chosen,
            None,
            None,
            tuple(notes),
            cost,
            asked,
            scored=ScoredCandidates(choice, recipe),
        )
        progress(0, 0, "writing the model")
        return replace(made, receipt=write(made, asked.out))


def _source(asked: Parameters, sources: Sources) -> Source:
    """The tasks, as far as the shares need them. Raises UsageError, DataError, RunError."""
    run = None if asked.run is None else Checkpoints.of_run(asked.run).run
    if asked.labels is None and not _earlier_labels(asked):
        tasks = Tasks.of_names(sources.names)
    else:
        _, counts, _ = label_counts(Checkpoints(sources.names, run), asked.task_labels)
        tasks = Tasks.of_counts(sources.names, counts)
    in_order = run is None or run.training in IN_SEQUENCE

    def nothing() -> NoReturn:
        raise UsageError("no model is run with --score.")

    return Source(
        tasks,
        Path(sources.base.path),
        tuple(Path(one.path) for one in sources.tasks),
        None,
        in_order and not asked.unordered,
        "text",
        None,
        False,
        (),
        {"training": "unknown" if run is None else run.training},
        nothing,
    )


def _earlier_labels(asked: Parameters) -> bool:
    """Whether there are labels of an earlier result."""
    return asked.from_ is not None and not asked.forget and bool(read_earlier(asked.from_).labels)


def _evidence(asked: Parameters, source: Source) -> Evidence:
    """The shares of the target; equal ones where nothing is said of it."""
    if asked.prefer is None and asked.labels is None and not _earlier_labels(asked):
        asked = replace(asked, prefer="uniform")

    def nothing(*_: object) -> NoReturn:
        raise UsageError("no model is run with --score.")

    return read_evidence(asked, source, nothing)


def _start(one: Candidate, sources: Sources, dtype: str | None) -> Start:
    """A candidate as what is tried: its settings in JSON, the output's number format among them."""
    if one.task is not None:
        return Start(one.name, {}, None, one.task)
    paths, settings = [task.path for task in sources.tasks], dict(one.settings)
    if dtype is not None:
        settings["dtype"] = dtype
    recipe = recipe_of(sources.base.path, paths, names=sources.names, **settings)
    return Start(one.name, settings_of(recipe), None)


def _check(sources: Sources, trials: Sequence[ScoredTrial]) -> None:
    """Raise what merging would raise, before anything is scored."""
    paths = [task.path for task in sources.tasks]
    with Candidates(sources.base.path, paths, sources.names, threads=1) as merges:
        for one in trials:
            if one.task is None:
                merges.check(**one.settings)


def _notes(choice: CommandChoice) -> list[str]:
    """What to say of candidates that have no score."""
    failed = [row for row in choice.rungs[0].rows if row.measured is None]
    if not failed:
        return []
    why = failed[0].to_json()["why"]
    return [f"{counted(len(failed), 'candidate')} without a score. Of {failed[0].trial.what}: {why}"]


@contextlib.contextmanager
def _scratch(out: Path, *, keep: bool) -> Iterator[Path]:
    """The folder of scores and candidates, for this process alone. Raises OutputExists, RunError. Not `keep`: what is
    in it goes, before and after.
    """
    folder = out.with_name(f"{out.name}.scores")
    there = folder.exists()
    if there and not folder.is_dir():
        raise OutputExists(f"{folder}: is a file, and the scores are kept there. Give another -o OUT.")
    if there and (other := next(_not_ours(folder), None)):
        raise OutputExists(f"{folder}: holds {other!r}, and the scores are kept there. Give another -o OUT.")
    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder, RunError(f"{folder}: another process is at work on these scores. Wait for it.")):
        if not keep:
            disk.remove(folder / SCORES)
        try:
            yield folder
        finally:
            if not keep:
                disk.remove(folder / SCORES)
            with contextlib.suppress(OSError):  # not empty: then it stays
                folder.rmdir()


def _not_ours(folder: Path) -> Iterator[str]:
    """What is in the folder of the scores that no call of ours has put there: all of ours goes at some time."""
    for one in sorted(folder.iterdir()):
        if one.name not in (SCORES, SCRATCH) or not one.is_dir():
            yield one.name
            continue
        yield from (f"{one.name}/{name}" for name in sorted(os.listdir(one)) if not _OURS.fullmatch(name))


def _told(value: Any) -> Any:
    """JSON without paths."""
    if isinstance(value, dict):
        return {name: _told(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_told(one) for one in value]
    return without_places(value) if isinstance(value, str) else value
