"""Tunable MAGMAX: every element takes its value from one task, and the tasks' counts are the user's (paper section 3.2,
Algorithm 1).

    tau_merged[p] = tau_{owner(p)}[p],   |{p: owner(p) = t}| = n_t exactly
    with toward_last u (ours, default 0):  (1 - u) tau_{owner(p)}[p] + u tau_T[p]

`paper` assigns by records (`records`), `optimal` maximises the retained importance (`optimal`); both fill one byte of
owner per element. Only tasks with a positive budget compete, except in `printed`, which is Algorithm 1 to the letter.
`released` is the law of the authors' code, for comparison with their numbers; docs/algorithm.md has the differences.
Tensors that no competing task changed are the base's and consume no budget. Cost: per element one byte of owner and,
for `paper`, a mask of one bit per competing task; one reading of the competing tasks per pass and one for the merge,
which `optimal` needs only where memory is short; strength below 1 reads once more, and with `paper` importance `step`.
Not here: where the preference comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from prefmerge.errors import MethodError, PreferenceError
from prefmerge.methods.parameters import (
    CARRY,
    PREFERENCE,
    SCALE,
    SCOPE,
    SEED,
    SEQUENTIAL,
    STRENGTH,
    UNIT,
    Choices,
    Group,
    Instead,
    Parameter,
    Unless,
    choice,
    whole,
)
from prefmerge.methods.protocol import Deltas, NeedsOrder, Report, Rule, Settings
from prefmerge.methods.sections import Ask, InSections, ScopeSection, inside
from prefmerge.preference import blended, budgets

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

SELECTION = Parameter(
    "selection",
    choice("paper", "optimal", "printed", "released"),
    "optimal",
    "how elements get an owner: by Algorithm 1 (paper), the best way for the budgets (optimal), Algorithm 1 to the "
    "letter (printed), or as the authors' code does it (released)",
    varies=True,
    search=Choices(("optimal", "paper")),
    group=Group.RULE,
)
IMPORTANCE = Parameter(
    "importance",
    choice("magnitude", "step"),
    "magnitude",
    "what ranks an element for a task: its change since the base (magnitude) or since the task before (step)",
    instead=Instead("step", ((SEQUENTIAL, (True,)), (SELECTION, ("optimal", "paper")))),
    varies=True,
    search=Choices(("magnitude", "step")),
    group=Group.RULE,
)
TOWARD_LAST = Parameter(
    "toward_last",
    UNIT,
    Fraction(0),
    "how far to go from the owner's value (0) to that of the last checkpoint (1)",
    by_layer=True,
    group=Group.RULE,
)
PASSES = Parameter(
    "passes",
    whole(1, 256, "K"),
    2,
    "how many passes of Algorithm 1 come before the rest is shared out at random",
    unless=Unless(SELECTION, "optimal", "which has no passes"),
    group=Group.BUDGET,
)


@dataclass
class _OwnerRule(Rule):
    """Each element from its owner."""

    owners: list[np.ndarray | None] = field(
        default_factory=list
    )  # one byte per element; None where no task changed the tensor
    values: list[np.ndarray | None] = field(default_factory=list)  # those of the owners; None where they are to be read

    def unchanged(self, tensor: int) -> bool:
        return self.owners[tensor] is None

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray:
        import numpy as np

        from prefmerge.methods import kernels

        owners = self.owners[tensor]
        assert owners is not None
        owner, tau, tasks = owners[start:stop], work.buffer("tau", stop - start), self.settings.tasks
        counts, values = kernels.counts(owner, tasks), self.values[tensor]
        if values is not None:
            out[:] = values[start:stop]
        for task in range(tasks if values is None else 0):
            if counts[task]:
                self.tensors[tensor].read(task, start, stop, tau)
                kernels.take_owned(tau, owner, np.uint8(task), out)
        toward = float(self.settings[TOWARD_LAST])
        if toward:
            self.tensors[tensor].read(tasks - 1, start, stop, tau)
            out[:] = (1 - toward) * out.astype(np.float64) + toward * tau.astype(np.float64)
        return counts

    def owner_of(self, tensor: int, start: int, stop: int, work: Workspace) -> np.ndarray | None:
        owners = self.owners[tensor]
        return None if owners is None else owners[start:stop]


class _OwnedSection(ScopeSection):
    """Some tensors of a scope; then the masks or importances that their owners follow from; then the owners."""

    def __init__(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> None:
        self._tensors, self._settings, self._work = tensors, settings, work
        self._live: list[int] = []  # the tensors that a task changed
        self._owners: np.ndarray | None = None  # of their elements, one after the other
        self._merged: np.ndarray | None = None  # their values, where the selection kept them

    def changed_elements(self) -> int:
        """How many elements the tensors have that a task changed."""
        looked_at, work = _looked_at(self._settings), self._work
        changed = work.map(lambda deltas: _is_changed(deltas, looked_at, work), self._tensors)
        self._live = [i for i, one in enumerate(changed) if one]
        return sum(deltas.size for deltas in self._kept)

    def magmax_counts(self) -> tuple[int, ...]:
        """Of these elements, how many each task owns under MAGMAX."""
        return magmax_counts(self._kept, self._settings.tasks, self._work)

    def begin(self, competing: Sequence[int]) -> None:
        """The selection begins, among these tasks."""
        from prefmerge.methods.contested import Contested
        from prefmerge.methods.importance import StepImportance, importance_of
        from prefmerge.methods.records import Records

        kept, settings, work = self._kept, self._settings, self._work
        if settings[SELECTION] == "optimal" and settings[IMPORTANCE] == "step" and len(competing) > 1:
            importance = StepImportance()  # who gathers the first sample measures
        else:
            importance = importance_of(settings[IMPORTANCE], kept, competing, settings.tasks, work)
        if settings[SELECTION] == "optimal":
            self.inner = Contested(kept, competing, importance, settings, work)
        else:
            self.inner = Records(kept, len(competing), importance, settings, work)

    def end(self) -> None:
        """Every element has its owner."""
        self._owners, self._merged, self.inner = self.inner.owners, self.inner.merged, None

    def rule(self, report: Report) -> Rule:
        owners: list[np.ndarray | None] = [None] * len(self._tensors)
        values = owners.copy()
        start = 0
        for i in self._live:
            assert self._owners is not None
            stop = start + self._tensors[i].size
            owners[i] = self._owners[start:stop]
            values[i] = None if self._merged is None else self._merged[start:stop]
            start = stop
        return _OwnerRule(self._tensors, self._settings, report, owners=owners, values=values)

    @property
    def _kept(self) -> list[Deltas]:
        return [self._tensors[i] for i in self._live]


class TunableMagmax(InSections):
    """See the module."""

    name = "tunable_magmax"
    summary = "element budgets per task from a preference (the default)"
    parameters = (
        PREFERENCE,
        SCALE.but(0.5, Instead(1.0, ((IMPORTANCE, ("step",)),))),
        SEED,
        SELECTION,
        IMPORTANCE,
        STRENGTH,
        CARRY,
        TOWARD_LAST,
        SCOPE,
        PASSES,
    )
    searched = 1
    starts = (("MAGMAX", {STRENGTH.name: "0", CARRY.name: "0", IMPORTANCE.name: "magnitude"}),)
    published: Mapping[str, Any] = {SELECTION.name: "released", IMPORTANCE.name: "magnitude", SCALE.name: 0.5}

    def by_tensor(self, settings: Settings) -> bool:
        return settings[SCOPE] == "tensor"

    def prepared_from(self, settings: Settings) -> Hashable:
        """Owners depend on neither the scale nor `toward_last`; what counts as changed depends on whether the last task
        is looked at.
        """
        own: list[Parameter[Any]] = [SEED, SELECTION, IMPORTANCE, STRENGTH, SCOPE, PASSES]
        values = [settings[one] for one in own]
        return (settings.tasks, settings.shares, settings.counts, *values, *_looked_at(settings))

    def check(self, settings: Settings) -> Sequence[NeedsOrder]:
        from prefmerge.methods.records import MOST_COMPETING

        positive = sum(n > 0 for n in _speaks_for(settings))
        if settings[SELECTION] == "printed" or settings[STRENGTH] < 1:
            positive = settings.tasks
        elif settings[SELECTION] == "released":  # and the remainder, which is less than one element for each of them
            positive = min(settings.tasks, 2 * positive - 1)
        if settings[SELECTION] != "optimal" and positive > MOST_COMPETING:
            raise MethodError(
                f"{positive} tasks compete, but selection {settings[SELECTION]!r} holds at most {MOST_COMPETING} in "
                "its masks. Give fewer tasks a share, use "
                "--selection optimal, or merge in groups with --as-task-vector and carry on."
            )
        return [one for one in self.of_order(settings.__getitem__) if one.strict]

    def of_order(self, value: Callable[[Parameter[Any]], Any]) -> Sequence[NeedsOrder]:
        needs: list[NeedsOrder] = []
        if value(IMPORTANCE) == "step":
            needs.append(NeedsOrder("importance 'step'", "Use --importance magnitude.", vectors="importance step"))
        needs += [
            NeedsOrder(one.name, "Leave it out.", strict=strict)
            for one, strict in ((TOWARD_LAST, True), (CARRY, False))
            if value(one)
        ]
        return needs

    def budgets(self, settings: Settings, elements: int) -> tuple[int, ...]:
        """In the authors' code the remainder goes to the first tasks, whatever their share."""
        return _of_shares(settings.asked, elements, settings)

    def most_budgets(self, settings: Settings, elements: int) -> tuple[int, ...]:
        """With `released` any task but the last may get one element of a remainder."""
        if settings[SELECTION] != "released":
            return self.budgets(settings, elements)
        last = settings.tasks - 1
        return tuple(int(share * elements) + (t < last) for t, share in enumerate(settings.asked))

    def scratch(self, settings: Settings) -> int:
        """One byte of owner; where records are kept, their masks too."""
        return 1 if settings[SELECTION] == "optimal" else 1 + -(-min(64, max(8, settings.tasks)) // 8)

    def needed(self, tasks: int) -> dict[str, str]:
        from prefmerge.methods.records import MOST_COMPETING

        return {SELECTION.name: "optimal"} if tasks > MOST_COMPETING else {}

    def section(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ScopeSection:
        return _OwnedSection(tensors, settings, work)

    def conduct(self, settings: Settings, ask: Ask, work: Workspace) -> Report:
        from prefmerge.methods import kernels

        if settings.tasks >= kernels.FREE:
            raise MethodError(
                f"tunable_magmax merges at most {kernels.FREE - 1} tasks at once, found {settings.tasks}."
            )
        elements = sum(ask(_OwnedSection.changed_elements))
        if not elements:
            return _nothing(settings)
        asked = _budgets(elements, settings, ask)
        printed = settings[SELECTION] == "printed"
        competing = _wanted(settings) if printed else [task for task, n in enumerate(asked) if n]
        ask(_OwnedSection.begin, competing)
        if settings[SELECTION] == "optimal":
            from prefmerge.methods.optimal import select_optimal

            by_magnitude = settings[IMPORTANCE] == "magnitude"
            report = select_optimal(asked, competing, by_magnitude, settings, inside(ask), work)
        else:
            from prefmerge.methods.records import select_by_records

            report = select_by_records(asked, competing, settings[PASSES], settings[SELECTION], inside(ask))
        ask(_OwnedSection.end)
        return report


def _nothing(settings: Settings) -> Report:
    return Report(asked=(0,) * settings.tasks, passes=[], random=(0,) * settings.tasks)


def _speaks_for(settings: Settings) -> Sequence[Fraction | int]:
    """What the user asked for each task, before it meets a number of elements."""
    if settings.counts is not None:
        return settings.counts
    return settings.of_all


def _all_take_part(settings: Settings) -> bool:
    """MAGMAX's own shares, `printed` and `released` look at every task, whatever was asked for it."""
    return settings[SELECTION] in ("printed", "released") or settings[STRENGTH] < 1


def _wanted(settings: Settings) -> list[int]:
    """The tasks that take part in the selection."""
    everyone = _all_take_part(settings)
    return [t for t, n in enumerate(_speaks_for(settings)) if everyone or n > 0]


def _looked_at(settings: Settings) -> list[int]:
    """The tasks by whose changes a tensor counts as changed."""
    wanted = _wanted(settings)
    return sorted({*wanted, settings.tasks - 1}) if settings[TOWARD_LAST] else wanted


def _is_changed(deltas: Deltas, tasks: Sequence[int], work: Workspace) -> bool:
    """Whether any of `tasks` differs from the base anywhere. Stops at the first difference, which is mostly in the
    first block.
    """
    from prefmerge.vectors.workspace import spans

    for start, stop in spans(deltas.size, work.block):
        tau = work.buffer("tau", stop - start)
        if any(deltas.read(task, start, stop, tau) for task in tasks):
            return True
    return False


def _budgets(elements: int, settings: Settings, ask: Ask) -> tuple[int, ...]:
    """Elements per task over so many (paper eq. 5, 6; strength is ours)."""
    if settings.counts is not None and settings[STRENGTH] == 1:
        if sum(settings.counts) != elements:
            raise PreferenceError(
                f"the counts sum to {sum(settings.counts)}, but the tasks changed {elements} elements (tensors that "
                "no task changed consume no budget). "
                f"Give counts that sum to {elements}, or shares."
            )
        return settings.counts
    shares = settings.asked
    if settings[STRENGTH] < 1:
        own = zip(*ask(_OwnedSection.magmax_counts), strict=True)
        shares = blended(shares, settings[STRENGTH], tuple(map(sum, own)))
    return _of_shares(shares, elements, settings)


def _of_shares(shares: Sequence[Fraction], elements: int, settings: Settings) -> tuple[int, ...]:
    return budgets(shares, elements, also_zero=settings[SELECTION] == "released")


def magmax_counts(tensors: Sequence[Deltas], tasks: int, work: Workspace) -> tuple[int, ...]:
    """How many elements each task owns under MAGMAX (paper eq. 1, ties to the later task). One reading of every
    task.
    """
    import numpy as np

    from prefmerge.methods import kernels
    from prefmerge.vectors.workspace import spans

    def count(block: tuple[int, int, int]) -> np.ndarray:
        i, start, stop = block
        tau, best, owner = (
            work.buffer(name, stop - start, dtype)
            for name, dtype in (("tau", np.float32), ("best", np.float32), ("owner", np.uint8))
        )
        best[:] = 0
        for task in range(tasks):
            tensors[i].read(task, start, stop, tau)
            kernels.fold_max(tau, best, owner, np.uint8(task))
        return np.bincount(owner, minlength=tasks)

    blocks = [(i, start, stop) for i, deltas in enumerate(tensors) for start, stop in spans(deltas.size, work.block)]
    total = np.zeros(tasks, np.int64)
    for counts in work.map(count, blocks):
        total += counts
    return tuple(int(n) for n in total)
