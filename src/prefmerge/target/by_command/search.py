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
from prefmerge.target.by_command.command import Command, CommandScore, Failure
from prefmerge.target.by_command.number import MeasuredNumber
from prefmerge.target.by_command.outcome import CommandOutcome, Contender, Rung
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
PART = 3  # one of so many goes on to the next budget


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
        assert asked.score is not None
        self.started = time.perf_counter()
        self.asked, self.folder, self.progress = asked, folder, progress
        self.command = Command(asked.score, "--score", asked.score_key, asked.timeout)
        self.confirm = None
        if asked.confirm is not None:
            self.confirm = Command(asked.confirm, "--confirm", asked.score_key, asked.timeout)
        self.budgets = _budgets(asked.budgets, self.command, self.confirm)
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
        self.notes: list[str] = []

    def _check(self) -> None:
        """Raise what merging would raise for settings of the space, before anything is tried."""
        paths = [task.path for task in self.sources.tasks]
        with Candidates(self.sources.base.path, paths, self.sources.names, threads=1) as merges:
            for settings in self.space.examples():
                merges.check(**settings)

    def result(self) -> CommandOutcome:
        """Make the trials, raise the budget, confirm, decide."""
        done, stopped = self._trials()
        rungs = self._rungs(done)
        best = rungs[-1].rows[0].trial
        compared = self._compared(best, rungs[-1])
        chosen = self._chosen(compared)
        return CommandOutcome(
            command=self.command.text,
            confirm=None if self.confirm is None else self.confirm.text,
            lower=self.asked.lower_is_better,
            searched=self.space.to_json(),
            trials=tuple(done),
            stopped=stopped,
            rungs=rungs,
            best=best,
            chosen=chosen,
            compared=compared,
            recipe=self._recipe(chosen),
            fingerprints=tuple(self.sources.fingerprints),
            ending="/" if self.sources.kind == "folder" else ".safetensors",
            notes=tuple(self.notes),
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
            scores = self.scoring.each(waiting, self.command, self.budgets[0], lambda: report(1))
            for start, score in zip(waiting, scores, strict=True):
                early = len(done) < len(self.starts)
                yield ScoredTrial(len(done), start.what, start.settings, start.task, self._worth(score), early)

        def drawn(number: int, params: Params) -> Start:
            return Start(f"trial {number + 1}", self.space.settings(params), params)

        def report(more: int = 0) -> None:
            good = [one.score for one in done if math.isfinite(one.score)]
            best = f", best {self._plain(max(good)):.5g}" if good else ""
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
        inputs = self.starts[: len(self.sources.inputs)]
        scores = list(self.scoring.each(inputs, self.command, self.budgets[0]))
        failures = [one for one in scores if isinstance(one, Failure)]
        if len(failures) == len(scores):
            Store(self.folder.folder / SCORES, ".json").clear()
            (self.folder.folder / SCORES).rmdir()
            journal.unlink(missing_ok=True)  # nothing is achieved, and another command may be tried in this folder
            raise RunError(f"--score: none of the inputs has a score. Of {inputs[0].what}: {failures[0].why}")

    def _rungs(self, done: Sequence[ScoredTrial]) -> tuple[Rung, ...]:
        """The scores at each budget."""
        first = {one.key: one for one in reversed(done)}.values()  # of equal ones the earliest
        trials = sorted(first, key=lambda one: one.number)
        rungs = [self._rung(trials, self.command, self.budgets[0])]
        for budget in self.budgets[1:]:
            scored = [row.trial for row in rungs[-1].rows if row.measured is not None]
            kept = scored[: math.ceil(len(scored) / PART)]
            if all(one.task is None for one in kept):
                kept += [one for one in scored if one.task is not None][:1]
            rungs.append(self._rung(kept, self.command, budget))
        return tuple(rungs)

    def _rung(self, trials: Sequence[ScoredTrial], command: Command, budget: str) -> Rung:
        """Trials scored at a budget, the best first. Raises RunError where none has a score."""
        scored, count = list[Contender](), 0

        def seen() -> None:
            nonlocal count
            count += 1
            self.progress(count, len(trials), f"candidates at budget {budget}" if budget else "candidates")

        for trial, score in zip(trials, self._scores(trials, command, budget, seen), strict=True):
            scored.append(Contender(trial, score))
        scored.sort(key=lambda row: (-self._worth(row.score), row.trial.task is None, row.trial.number))
        if scored[0].measured is None:
            why = next(row.score.why for row in scored if isinstance(row.score, Failure))
            at = f" at budget {budget}" if budget else ""
            raise RunError(f"--score: no candidate has a score{at}. Of {scored[0].trial.what}: {why}")
        return Rung(budget, tuple(scored))

    def _scores(
        self, trials: Sequence[ScoredTrial], command: Command, budget: str, seen: Any
    ) -> Iterator[CommandScore]:
        """What failed as a trial is not tried again."""
        starts = [_start(one) for one in trials]
        known = [self.scoring.kept(start, command, budget) for start in starts]
        failed = [isinstance(one, Failure) and budget == self.budgets[0] for one in known]
        rest = [start for start, gone in zip(starts, failed, strict=True) if not gone]
        scores = self.scoring.each(rest, command, budget, seen)
        for one, gone in zip(known, failed, strict=True):
            yield one if gone and one is not None else next(scores)

    def _compared(self, best: ScoredTrial, last: Rung) -> tuple[Contender, ...]:
        """The search's best, then the inputs, the best first: by the confirming command, else at the last budget."""
        if self.confirm is None:
            rows = [row for row in last.rows if row.trial.task is not None or row.trial.number == best.number]
            return tuple(sorted(rows, key=lambda row: row.trial.number != best.number))
        trials = [_trial(number, start) for number, start in enumerate(self.starts[: len(self.sources.inputs)])]
        own = [] if best.task is not None else [best]
        total = len(trials) + len(own)
        self.progress(0, total, "confirming")
        scores = self.scoring.each([_start(one) for one in (*own, *trials)], self.confirm)
        rows = [Contender(one, score) for one, score in zip((*own, *trials), scores, strict=True)]
        for row in rows:
            if isinstance(row.score, Failure):
                self.notes.append(f"--confirm gives no score for {row.trial.what}: {row.score.why}")
        if all(row.measured is None for row in rows):
            raise RunError(f"--confirm: no model has a score. {self.notes[-1]}")
        inputs = sorted(rows[len(own) :], key=lambda row: (-self._worth(row.score), row.trial.number))
        return (*rows[: len(own)], *inputs)

    def _chosen(self, compared: Sequence[Contender]) -> ScoredTrial:
        """The search's best where it is ahead of every input, else the best input."""
        return max(compared, key=lambda row: (self._worth(row.score), row.trial.task is not None)).trial

    def _recipe(self, chosen: ScoredTrial) -> str | None:
        """The text of OUT/recipe.yaml, over paths from there."""
        recipe = self.sources.recipe(_start(chosen))
        with make_plan(recipe) as planned:
            settings, names = planned.recipe.settings(planned.names), planned.names
        assert recipe.base is not None
        base, *paths = (_from(self.folder.folder, path) for path in (recipe.base, *(one.path for one in recipe.tasks)))
        return recipe_file_text(settings, base, paths, names)

    def write_model(self, outcome: CommandOutcome, out: Path) -> None:
        """Write the chosen model, if it is not there already."""
        recipe = self.sources.recipe(_start(outcome.chosen))
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
            "command": self.command.text,
            "key": self.command.key,
            "better": "lower" if asked.lower_is_better else "higher",
            "budget": self.budgets[0],
            "tasks": list(self.sources.names),
            "checkpoints": self.sources.fingerprints,
            "outputs": self.sources.kind,
            "space": self.space.to_json(),
            "batch": asked.batch,
            "seed": asked.seed,
        }

    def _worth(self, score: CommandScore) -> float:
        """A score of which more is better."""
        if not isinstance(score, MeasuredNumber):
            return -math.inf
        return self._plain(score.value)

    def _plain(self, value: float) -> float:
        """A score as the command prints it, from one of which more is better, and the other way round."""
        return -value if self.asked.lower_is_better else value


def _start(trial: ScoredTrial) -> Start:
    return Start(trial.what, trial.settings, None, trial.task)


def _trial(number: int, start: Start) -> ScoredTrial:
    return ScoredTrial(number, start.what, start.settings, start.task, -math.inf, start=True)


def _budgets(text: str | None, command: Command, confirm: Command | None) -> list[str]:
    """The budgets, as they were written, from the smallest on. Raises UsageError."""
    if confirm is not None and confirm.text == command.text:
        raise UsageError("--confirm is the command of --score, which chose the model. Have it take other samples.")
    if confirm is not None and confirm.has("budget"):
        raise UsageError("--confirm gets no budget. Write the number in place of {budget}.")
    if text is None:
        if command.has("budget"):
            raise UsageError("--score has {budget}: give --budgets, such as 50,200,1000.")
        return [""]
    if not command.has("budget"):
        raise UsageError(f"--budgets {text}: put {{budget}} where --score takes it.")
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(one) and one > 0 for one in numbers) or sorted(set(numbers)) != numbers:
        raise UsageError(f"--budgets {text}: expected growing numbers above 0, such as 50,200,1000.")
    return words


def _from(folder: Path, path: str) -> str:
    """A path as a file in `folder` names it."""
    parts = [part for part in split_adapter(path) if part is not None]
    told = [str(part) if hub_id(part) is not None else os.path.relpath(part, folder) for part in parts]
    return "+".join(told)
