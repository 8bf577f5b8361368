"""Candidates ranked by the user's command: at growing budgets, then beside what there is, by the confirming command.

    budgets b_1 < b_2 < ...   ceil(n / 3) of n go on to the next, and the best input always
    compared                  the best candidate and its rivals once more, by the confirming command

What is compared, and the choice out of it, is the same for `search --score` and `adapt --score`. Source: successive
halving (Karnin et al. 2013; Jamieson and Talwalkar 2016). Cost: the commands. Not here: how a candidate is written and
scored (`scoring`), which candidates there are (`search`, `adapting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from prefmerge.errors import RunError, UsageError
from prefmerge.ground.progress import Progress
from prefmerge.target.by_command.choice import CommandChoice, Contender, Rung
from prefmerge.target.by_command.command import Command, CommandScore, Failure
from prefmerge.target.by_command.number import MeasuredNumber
from prefmerge.target.by_command.scoring import CommandScoring
from prefmerge.target.parameters import Parameters, SearchParameters
from prefmerge.target.search.space import Start
from prefmerge.target.search.trial import ScoredTrial

PART = 3  # one of so many goes on to the next budget


class ScoringCommands:
    """The command that scores, the one that confirms, and the budgets. Raises UsageError for what makes no sense."""

    def __init__(self, asked: Parameters | SearchParameters) -> None:
        assert asked.score is not None
        self.score = Command(asked.score, "--score", asked.score_key, asked.timeout)
        self.confirm = None
        if asked.confirm is not None:
            self.confirm = Command(asked.confirm, "--confirm", asked.score_key, asked.timeout)
        self.repeats = asked.confirm_repeats
        if self.repeats > 1 and self.confirm is None:
            raise UsageError(f"--confirm-repeats {self.repeats} has no use without --confirm COMMAND.")
        if self.score.has("repeat"):
            raise UsageError("--score is run once for each candidate. {repeat} is for --confirm.")
        self.budgets = _budgets(asked.budgets, self.score, self.confirm)
        self.lower = asked.lower_is_better

    def plain(self, value: float) -> float:
        """A score as the command prints it, from one of which more is better, and the other way round."""
        return -value if self.lower else value

    def worth(self, score: CommandScore) -> float:
        """A score of which more is better."""
        return self.plain(score.value) if isinstance(score, MeasuredNumber) else -math.inf


class CommandJudge:
    """Scores, and what follows from them. `again`: what failed in an earlier call is tried again. `notes`: what to say
    of confirming scores that are not there.
    """

    def __init__(
        self, commands: ScoringCommands, scoring: CommandScoring, progress: Progress, *, again: bool = False
    ) -> None:
        self.commands, self.scoring, self.progress, self.again = commands, scoring, progress, again
        self.notes: list[str] = []

    def require_input(self, inputs: Sequence[Start]) -> None:
        """Score the inputs at the smallest budget. Raises RunError where the command can score none of them; then
        nothing is kept of it.
        """
        command, budget = self.commands.score, self.commands.budgets[0]
        scores = list(self.scoring.each(inputs, command, budget))
        failures = [one for one in scores if isinstance(one, Failure)]
        if len(failures) == len(scores):
            self.scoring.forget(inputs, command, budget)
            raise RunError(f"--score: none of the inputs has a score. Of {inputs[0].what}: {failures[0].why}")

    def choice(
        self, trials: Sequence[ScoredTrial], rivals: Sequence[ScoredTrial], default: int | None = None
    ) -> CommandChoice:
        """What the scores of `trials` say. `rivals`: what the best of them must be ahead of. Raises RunError where none
        has a score.
        """
        rungs = self._rungs(trials)
        best = rungs[-1].rows[0].trial
        compared = self._compared(best, rivals, rungs[-1])
        # The best candidate only where it is ahead of every rival, and of these what is there already.
        chosen = max(
            compared,
            key=lambda row: (
                self.commands.worth(row.score),
                row.trial.task is not None,
                best.task is None and row.trial.number != best.number,
            ),
        ).trial
        confirm = self.commands.confirm
        return CommandChoice(
            command=self.commands.score.text,
            confirm=None if confirm is None else confirm.text,
            lower=self.commands.lower,
            rungs=rungs,
            best=best,
            chosen=chosen,
            compared=compared,
            default=default,
            repeats=self.commands.repeats,
        )

    def _rungs(self, trials: Sequence[ScoredTrial]) -> tuple[Rung, ...]:
        """The scores at each budget."""
        first, *later = self.commands.budgets
        rungs = [self._rung(trials, first)]
        for budget in later:
            scored = [row.trial for row in rungs[-1].rows if row.measured is not None]
            kept = scored[: math.ceil(len(scored) / PART)]
            if all(one.task is None for one in kept):
                kept += [one for one in scored if one.task is not None][:1]
            rungs.append(self._rung(kept, budget))
        return tuple(rungs)

    def _rung(self, trials: Sequence[ScoredTrial], budget: str) -> Rung:
        """Trials scored at a budget, the best first. Raises RunError where none has a score."""
        scored, count = list[Contender](), 0

        def seen() -> None:
            nonlocal count
            count += 1
            self.progress(count, len(trials), f"candidates at budget {budget}" if budget else "candidates")

        for trial, score in zip(trials, self._scores(trials, budget, seen), strict=True):
            scored.append(Contender(trial, score))
        scored.sort(key=lambda row: (-self.commands.worth(row.score), row.trial.task is None, row.trial.number))
        if scored[0].measured is None:
            why = next(row.score.why for row in scored if isinstance(row.score, Failure))
            at = f" at budget {budget}" if budget else ""
            raise RunError(f"--score: no candidate has a score{at}. Of {scored[0].trial.what}: {why}")
        return Rung(budget, tuple(scored))

    def _scores(self, trials: Sequence[ScoredTrial], budget: str, seen: Callable[[], None]) -> Iterator[CommandScore]:
        """What failed as a trial is not tried again in this call; in later ones only with `again`."""
        command, starts = self.commands.score, [start_of(one) for one in trials]
        if self.again:
            yield from self.scoring.each(starts, command, budget, seen)
            return
        known = [self.scoring.kept(start, command, budget) for start in starts]
        failed = [isinstance(one, Failure) and budget == self.commands.budgets[0] for one in known]
        rest = [start for start, gone in zip(starts, failed, strict=True) if not gone]
        scores = self.scoring.each(rest, command, budget, seen)
        for one, gone in zip(known, failed, strict=True):
            yield one if gone and one is not None else next(scores)

    def _compared(self, best: ScoredTrial, rivals: Sequence[ScoredTrial], last: Rung) -> tuple[Contender, ...]:
        """The best candidate, then its rivals, the best first: by the confirming command, else at the last budget."""
        numbers = {one.number for one in rivals}
        confirm = self.commands.confirm
        if confirm is None:
            rows = [row for row in last.rows if row.trial.number in {*numbers, best.number}]
            return tuple(sorted(rows, key=lambda row: row.trial.number != best.number))
        own = [] if best.number in numbers else [best]
        trials = [*own, *rivals]
        self.progress(0, len(trials), "confirming")
        count = 0

        def seen() -> None:
            nonlocal count
            count += 1
            self.progress(count, len(trials), "confirming")

        starts = [start_of(one) for one in trials]
        scores = self.scoring.each(starts, confirm, seen=seen, repeats=self.commands.repeats)
        rows = [Contender(one, score) for one, score in zip(trials, scores, strict=True)]
        for row in rows:
            if isinstance(row.score, Failure):
                self.notes.append(f"--confirm gives no score for {row.trial.what}: {row.score.why}")
        if all(row.measured is None for row in rows):
            raise RunError(f"--confirm: no model has a score. {self.notes[-1]}")
        others = sorted(
            rows[len(own) :],
            key=lambda row: (-self.commands.worth(row.score), row.trial.task is None, row.trial.number),
        )
        return (*rows[: len(own)], *others)


def start_of(trial: ScoredTrial) -> Start:
    """What is to be written for a trial."""
    return Start(trial.what, trial.settings, None, trial.task)


def trial_of(number: int, start: Start) -> ScoredTrial:
    """What is tried first, before it has a score."""
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
