"""The search by a command: the inputs and what people try by hand, then what optuna draws, at the smallest budget; the
best third at the next budget, and so on; the best one and every input once more, by the confirming command.

    trial = settings -> candidate (`scoring`) -> command -> a number     up to `trials`, or `patience` without better
    budgets b_1 < b_2 < ...   ceil(n / 3) of n go on to the next, and the best input always

The sampler learns from the scores at the smallest budget, which all trials have. Trials are kept in a journal and each
score by itself, so a search that is killed resumes, and scores nothing twice. Source: successive halving (Karnin et al.
2013; Jamieson and Talwalkar 2016); optuna's TPE. Cost: a merge and a command for each trial. Not here: models that
prefmerge can run, for which it needs no command (`search.by_score`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import split_adapter
from prefmerge.checkpoints.paths import hub_id
from prefmerge.errors import CheckpointCorrupt, OutputExists, RunError, UsageError
from prefmerge.ground import atomic, jsons
from prefmerge.ground.progress import Progress
from prefmerge.ground.store import Store
from prefmerge.merging.api import run
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.limits import parse_bytes
from prefmerge.merging.plan import make_plan
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe_text import recipe_file_text
from prefmerge.outputs.receipts import RECEIPT, receipt_beside
from prefmerge.outputs.write import kind_of
from prefmerge.target.by_command.judge import CommandJudge, ScoringCommands, start_of, trial_of
from prefmerge.target.by_command.outcome import CommandOutcome
from prefmerge.target.by_command.scoring import SCORES, CommandScoring
from prefmerge.target.by_command.sources import Sources
from prefmerge.target.by_command.space import CommandSpace
from prefmerge.target.parameters import SearchParameters
from prefmerge.target.search.folder import RESULT, SearchFolder
from prefmerge.target.search.space import Params, Start
from prefmerge.target.search.study import Study
from prefmerge.target.search.trial import ScoredTrial, read_scored
from prefmerge.target.search.trying import Limits, carry_on

RECIPE = "recipe.yaml"  # in OUT


def search_by_command(asked: SearchParameters, progress: Progress | None = None) -> CommandOutcome:
    """Carry out what the parameters ask for, and leave the result in `asked.out`.

    Raises UsageError, RunError (no input has a score; another search's folder), RecipeError, OutputError, OutputExists,
    MissingExtra, and what merging raises.
    """
    assert asked.out is not None
    folder = SearchFolder.of(asked.out)
    _require_free(asked, folder)
    with folder.held(asked.force):
        if asked.force:
            Store(folder.folder / SCORES, ".json").clear()
            (folder.folder / RECIPE).unlink(missing_ok=True)
        job = _Search(asked, folder, progress or (lambda *_: None))
        try:
            outcome = job.result()
        finally:
            job.scoring.close()
        if outcome.recipe is not None:
            atomic.write_whole(folder.folder / RECIPE, outcome.recipe.encode())
        jsons.write(folder.folder / RESULT, outcome.to_json())
        if asked.model is not None:
            job.write_model(outcome, asked.model)
    return outcome


def _require_free(asked: SearchParameters, folder: SearchFolder) -> None:
    """Raise OutputExists, before hours of work, where the model has no place."""
    if asked.model is None:
        return
    kind_of(asked.model)
    if os.path.lexists(asked.model) and not asked.force and not (folder.folder / RESULT).exists():
        raise OutputExists(f"{asked.model}: already exists. Give another --model, or overwrite it with --force.")


class _Search:
    """One search: what is known before the first trial is made."""

    def __init__(self, asked: SearchParameters, folder: SearchFolder, progress: Progress) -> None:
        self.started = time.perf_counter()
        self.asked, self.folder, self.progress = asked, folder, progress
        self.commands = ScoringCommands(asked)
        parse_bytes(asked.max_memory, "--max-memory")
        progress(0, asked.trials, "reading the checkpoints")
        self.sources = Sources.of(asked)
        self.space = CommandSpace.parse(asked.space, self.sources)
        self.starts = self.space.starts(self.sources)
        inputs = len(self.sources.inputs)
        if asked.trials < inputs:
            raise UsageError(
                f"--trials {asked.trials}: the base and the tasks are tried first. Give at least {inputs}."
            )
        self._check()
        self.scoring = CommandScoring(
            self.sources,
            folder.folder,
            jobs=asked.jobs,
            batch=asked.batch,
            threads=asked.threads,
            max_memory=asked.max_memory,
        )
        self.judge = CommandJudge(self.commands, self.scoring, progress)

    def _check(self) -> None:
        """Raise what merging would raise for settings of the space, before anything is tried."""
        paths = [task.path for task in self.sources.tasks]
        with Candidates(self.sources.base.path, paths, self.sources.names, threads=1) as merges:
            for settings in self.space.examples():
                merges.check(**settings)

    def result(self) -> CommandOutcome:
        """Make the trials, raise the budget, confirm, decide."""
        done, stopped = self._trials()
        first = {one.key: one for one in reversed(done)}.values()  # of equal ones the earliest
        inputs = [trial_of(number, start) for number, start in enumerate(self.starts[: len(self.sources.inputs)])]
        choice = self.judge.choice(sorted(first, key=lambda one: one.number), inputs)
        return CommandOutcome(
            **vars(choice),
            searched=self.space.to_json(),
            trials=tuple(done),
            stopped=stopped,
            recipe=self._recipe(choice.chosen),
            fingerprints=tuple(self.sources.fingerprints),
            ending="/" if self.sources.kind == "folder" else ".safetensors",
            notes=tuple(self.judge.notes),
            cost={
                "commands": self.scoring.commands,
                "merges": self.scoring.written,
                "seconds": round(time.perf_counter() - self.started, 1),
            },
        )

    def _trials(self) -> tuple[list[ScoredTrial], str]:
        asked, journal = self.asked, self.folder.journal
        study = Study(journal, self._identity(), self.space.dimensions(), asked.seed)
        kept = study.kept[: asked.trials]
        done = [read_scored(number, one, str(journal)) for number, one in enumerate(kept)]
        if not done:
            self._require_input(journal)

        def tried(waiting: Sequence[Start]) -> Iterator[ScoredTrial]:
            scores = self.scoring.each(waiting, self.commands.score, self.commands.budgets[0], lambda: report(1))
            for start, score in zip(waiting, scores, strict=True):
                early, worth = len(done) < len(self.starts), self.commands.worth(score)
                yield ScoredTrial(len(done), start.what, start.settings, start.task, worth, early)

        def drawn(number: int, params: Params) -> Start:
            return Start(f"trial {number + 1}", self.space.settings(params), params)

        def report(more: int = 0) -> None:
            good = [one.score for one in done if math.isfinite(one.score)]
            best = f", best {self.commands.plain(max(good)):.5g}" if good else ""
            self.progress(min(len(done) + more, asked.trials), asked.trials, f"trials{best}")

        limits = Limits(asked.trials, asked.patience, asked.batch)
        report()
        stopped = carry_on(
            study,
            done,
            self.starts,
            limits,
            drawn=drawn,
            tried=tried,
            value=lambda one: one.score,
            seen=lambda _: report(),
        )
        return done, stopped

    def _require_input(self, journal: Path) -> None:
        """Score the inputs, before a trial is kept. Raises RunError where the command can score none of them."""
        try:
            self.judge.require_input(self.starts[: len(self.sources.inputs)])
        except RunError:  # nothing is achieved, and another command may be tried in this folder
            journal.unlink(missing_ok=True)
            raise

    def _recipe(self, chosen: ScoredTrial) -> str | None:
        """The text of OUT/recipe.yaml, over paths from there."""
        recipe = self.sources.recipe(start_of(chosen))
        with make_plan(recipe) as planned:
            settings, names = planned.recipe.settings(planned.names), planned.names
        assert recipe.base is not None
        base, *paths = (_from(self.folder.folder, path) for path in (recipe.base, *(one.path for one in recipe.tasks)))
        return recipe_file_text(settings, base, paths, names)

    def write_model(self, outcome: CommandOutcome, out: Path) -> None:
        """Write the chosen model, if it is not there already."""
        recipe = self.sources.recipe(start_of(outcome.chosen))
        if os.path.lexists(out) and not self.asked.force:
            with make_plan(recipe) as planned:
                settings = planned.recipe.settings(planned.names)
            try:
                there = Receipt.load(out / RECEIPT if out.is_dir() else receipt_beside(out)).recipe
            except CheckpointCorrupt:
                there = None
            if there == settings:
                return
            raise OutputExists(f"{out}: already exists, and is another model. Give another --model, or remove it.")
        run(recipe, out, threads=self.asked.threads, max_memory=self.asked.max_memory, force=self.asked.force)

    def _identity(self) -> dict[str, Any]:
        """What decides the scores of the trials."""
        asked = self.asked
        return {
            "ranked by": "command",
            "command": self.commands.score.text,
            "key": self.commands.score.key,
            "better": "lower" if asked.lower_is_better else "higher",
            "budget": self.commands.budgets[0],
            "tasks": list(self.sources.names),
            "checkpoints": self.sources.fingerprints,
            "outputs": self.sources.kind,
            "space": self.space.to_json(),
            "batch": asked.batch,
            "seed": asked.seed,
        }


def _from(folder: Path, path: str) -> str:
    """A path as a file in `folder` names it."""
    parts = [part for part in split_adapter(path) if part is not None]
    told = [str(part) if hub_id(part) is not None else os.path.relpath(part, folder) for part in parts]
    return "+".join(told)
