"""What came of a search: its trials, the one that was chosen, and how much the samples say for it.

    trials are ranked on the search part; among the top few and the first ones, the held-out part chooses
    p = (F - 1) 2 P(Binomial(b + c, 1/2) >= max(b, c)),   b, c: held-out samples that only the chosen, only the first
    gets right; F finalists; at most 1

The accuracy on the search part flatters what was chosen by it, and that on the held-out part flatters the chosen one
too, less: it is the best of the F finalists there. p is McNemar's exact test, two-sided, times the number of rivals
that the first trial had (Bonferroni). Intervals are Wilson's, 95 %, of an accuracy that was not chosen. Shapes: M
samples. Cost: none.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.ground.brief import brief
from prefmerge.ground.stats import mcnemar, wilson
from prefmerge.merging.parameters import METHOD, parameter
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.preference import Preference
from prefmerge.target.search.space import ParameterValues, Space
from prefmerge.target.search.trial import Trial

FORMAT = "prefmerge-search/1"
FINALISTS = 5  # the best on the search part, which meet the first trials on the held-out part
SUPPORT = 0.05  # p below which the held-out samples speak for a difference


@dataclass(frozen=True)
class Accuracy:
    """Right answers among n samples."""

    right: int
    n: int

    @property
    def share(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.n)

    def to_json(self) -> dict[str, Any]:
        return {"right": self.right, "n": self.n, "accuracy": self.share, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % ({self.right} of {self.n}; 95 %: {100 * low:.1f} to {100 * high:.1f} %)"


@dataclass(frozen=True)
class SearchResult:
    """The result of the paper's search over T tasks, on M samples."""

    __repr__ = brief

    names: tuple[str, ...]  # the tasks', T of them
    trials: tuple[Trial, ...]  # every model that was tried, in that order
    searching: np.ndarray  # which samples ranked, shape (M,) bool; the others were held out
    space: Space  # what was searched, and what was fixed
    stopped: str  # why it ended, in words
    about: Mapping[str, Any] = field(default_factory=dict)  # what the search was made of, as JSON
    notes: tuple[str, ...] = ()  # a sentence each

    @property
    def first(self) -> Trial:
        """What the chosen one is compared with: the first preference at its first scale."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The chosen trial. Of equal ones on the held-out part: one of the first, then the best on the search part,
        then the earliest.
        """
        held = not self.searching.all()  # where nothing is held out, all samples rank and choose
        return min(
            self.finalists,
            key=lambda one: (-self._right(one, held), not one.start, -self._right(one), one.number),
        )

    @property
    def finalists(self) -> list[Trial]:
        """All that the search started with, and the best others that are no worse than any of those on the search part.
        Of trials with equal settings the earliest.
        """
        starts = [one for one in self.trials if one.start]
        least = max((self._right(one) for one in starts), default=0)
        distinct = [
            one
            for i, one in enumerate(self.trials)
            if not one.start
            and self._right(one) >= least
            and all(one.settings != before.settings for before in self.trials[:i])
        ]
        return [*starts, *sorted(distinct, key=lambda one: (-self._right(one), one.number))[:FINALISTS]]

    @property
    def settings(self) -> ParameterValues:
        """What to merge with."""
        return self.best.settings

    @property
    def preference(self) -> Preference | None:
        """The chosen preference; None where the chosen method takes none."""
        return self.settings.get(PREFERENCE.name)

    def search_accuracy(self, trial: Trial) -> Accuracy:
        """On the samples that ranked the trials."""
        return Accuracy(self._right(trial), int(self.searching.sum()))

    def held_out_accuracy(self, trial: Trial) -> Accuracy | None:
        """On the others; None where none were held out."""
        n = int((~self.searching).sum())
        return Accuracy(self._right(trial, held=True), n) if n else None

    def _right(self, trial: Trial, held: bool = False) -> int:
        return int(trial.right[~self.searching if held else self.searching].sum())

    @property
    def p(self) -> float:
        """At most how often chance alone parts any finalist and the first trial so far on the held-out samples."""
        chosen, first = self.best.right[~self.searching], self.first.right[~self.searching]
        rivals = max(1, len(self.finalists) - 1)
        return min(1.0, rivals * mcnemar(int((chosen & ~first).sum()), int((first & ~chosen).sum())))

    @property
    def verdict(self) -> str:
        """What the held-out samples say, in words."""
        held, n = self.held_out_accuracy(self.best), int((~self.searching).sum())
        if held is None:
            return "No samples were held out, so nothing says how much of this is luck."
        if self.best.number == self.first.number:
            return f"Nothing that was tried does better than the {self.first.what} on the {n} held-out samples."
        first = self._right(self.first, held=True)
        counts = f"{held.right} of {n} held-out samples are right; with the {self.first.what} {first} are"
        if self.p < SUPPORT:
            return f"{counts}: a difference (p = {self.p:.2g})."
        return (
            f"{counts}. That does not support a difference (p = {self.p:.2g}): the {self.first.what} may do as well. "
            "More labelled samples would show it."
        )

    def command(self, inputs: Sequence[str], preference: str, out: str = "merged/") -> str:
        """The `prefmerge merge` that makes the chosen model. inputs: `--run RUN`, or base and tasks. preference: the
        file that holds it.
        """
        words = ["prefmerge", "merge", *inputs, "-o", out]
        for name, value in self.settings.items():
            one = parameter(name)
            if one is not None and not (one is METHOD and value == METHOD.default):
                words += [one.spelled, f"@{preference}" if one is PREFERENCE else str(value)]
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        """Everything: the chosen one first, then all trials with both accuracies."""

        def shown(trial: Trial) -> dict[str, Any]:
            held = self.held_out_accuracy(trial)
            return {
                **trial.to_json(),
                "search": self.search_accuracy(trial).to_json(),
                "held_out": None if held is None else held.to_json(),
            }

        return {
            "format": FORMAT,
            "tasks": list(self.names),
            "best": shown(self.best),
            "first": shown(self.first),
            "p": self.p if not self.searching.all() else None,
            "verdict": self.verdict,
            "stopped": self.stopped,
            "space": self.space.to_json(),
            "samples": {"search": int(self.searching.sum()), "held_out": int((~self.searching).sum())},
            "finalists": [one.number for one in self.finalists],
            **self.about,
            **({"notes": list(self.notes)} if self.notes else {}),
            "trials": [shown(trial) for trial in self.trials],
        }

    def preference_json(self) -> dict[str, Any] | None:
        """The chosen preference as `Preference.load` reads it, with the settings that belong to it."""
        if self.preference is None:
            return None
        held = self.held_out_accuracy(self.best)
        return {
            **self.preference.to_json(),
            "about": {
                "format": FORMAT,
                "tasks": list(self.names),
                "shares": [float(share) for share in self.preference.shares(self.names)],
                "settings": {name: value for name, value in self.settings.items() if name != PREFERENCE.name},
                "search": self.search_accuracy(self.best).to_json(),
                "held_out": None if held is None else held.to_json(),
                "verdict": self.verdict,
            },
        }

    def draw(self, path: str | Path) -> None:
        """The accuracies over the trials, as a picture. Raises MissingExtra, OutputError."""
        from prefmerge import plotting

        figure = plotting.new_figure(7.5, 4)
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        numbers = [one.number + 1 for one in self.trials]
        search = [100 * self.search_accuracy(one).share for one in self.trials]
        style = plotting.style_of("Search")
        axes.step(
            numbers, np.maximum.accumulate(search), where="post", color=style.colour, label="best so far, search part"
        )
        axes.plot(numbers, search, ".", color=style.colour, label="search part")
        held = [(one.number + 1, part.share) for one in self.trials if (part := self.held_out_accuracy(one))]
        if held:
            axes.plot(
                [number for number, _ in held],
                [100 * share for _, share in held],
                "o",
                markersize=4,
                markerfacecolor="none",
                color=plotting.GREY,
                label="held-out part",
            )
        starts = [(number, value) for one, number, value in zip(self.trials, numbers, search, strict=True) if one.start]
        label = plotting.style_of("Tunable (Label)")
        axes.plot(*zip(*starts, strict=True), "s", color=label.colour, label="started with (search part)")
        best = self.best
        chosen = self.held_out_accuracy(best) or self.search_accuracy(best)
        low, high = chosen.interval
        axes.errorbar(
            [best.number + 1],
            [100 * chosen.share],
            yerr=[[100 * (chosen.share - low)], [100 * (high - chosen.share)]],
            fmt="*",
            markersize=11,
            capsize=3,
            color=plotting.VERMILION,
            label=f"chosen ({'held-out part' if held else 'search part'}), 95 %",
        )
        axes.set_xlabel("trial")
        axes.set_ylabel("accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.03)
        plotting.open_sides([axes])
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        plotting.save(figure, path)
