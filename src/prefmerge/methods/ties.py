"""TIES: trim each task vector to its largest values, elect a sign per element by mass, average what agrees (Yadav et
al. 2023).

    keep the int(density n) largest |tau_t| (n: elements of the tensor, or of the model)
    sign = sign of sum_t w_t tau_t
    tau = sum_{agreeing} w_t tau_t / sum_{agreeing} w_t

The threshold is the exact k-th largest magnitude; values equal to it are kept in order of tensor name and index until k
are kept. Cost: two readings, more where values lie otherwise than those of a first block, and T blocks per thread. Not
here: how the k-th largest is found (`largest`), other sparsifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import DENSITY, NORMALIZE, SCALE, SCOPE, WEIGHTS
from prefmerge.methods.protocol import Deltas, Report, Rule, Settings, reader
from prefmerge.methods.sections import Ask, InSections, ScopeSection, inside

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.methods.largest import Cut
    from prefmerge.vectors.workspace import Workspace


@dataclass
class _TiesRule(Rule):
    """One cut for each task; None where all of its values survive."""

    cuts: tuple[Cut | None, ...] = field(default=())

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        weights = np.array([float(weight) for weight in self.settings.per_task(WEIGHTS)], np.float64)
        readers = [reader(self.tensors, task) for task in range(self.settings.tasks)]
        left = [
            0 if cut is None else cut.left_at(tensor, start, read, work)
            for cut, read in zip(self.cuts, readers, strict=True)
        ]
        for low, high in spans(stop - start, work.shared(self.settings.tasks)):
            tau_TP = work.buffer("ties", (self.settings.tasks, high - low))
            for task, cut in enumerate(self.cuts):
                readers[task](tensor, start + low, start + high, tau_TP[task])
                if cut is not None:
                    left[task] = cut.trim_next(tau_TP[task], left[task])
            kernels.disjoint_merge(tau_TP, weights, weights, self.settings[NORMALIZE], out[low:high])


class _TiesSection(ScopeSection):
    """Some tensors of a scope, and the cut of each task so far."""

    def __init__(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> None:
        self._tensors, self._settings, self._work = tensors, settings, work
        self._cuts: list[Cut | None] = []

    def elements(self) -> int:
        return sum(deltas.size for deltas in self._tensors)

    def keep_all(self) -> None:
        """The next task keeps all its values."""
        self._cuts.append(None)

    def begin(self) -> None:
        """The next task's cut will be found."""
        from prefmerge.methods.largest import SomeMagnitudes

        sizes = [deltas.size for deltas in self._tensors]
        self.inner = SomeMagnitudes(sizes, reader(self._tensors, len(self._cuts)), self._work)

    def end(self) -> None:
        """It is found."""
        self._cuts += self.inner.cuts
        self.inner = None

    def rule(self, report: Report) -> Rule:
        return _TiesRule(self._tensors, self._settings, report, cuts=tuple(self._cuts))


class Ties(InSections):
    """See the module."""

    name = "ties"
    summary = "trim, elect a sign by mass, average what agrees"
    parameters = (SCALE.but(1.0), WEIGHTS, DENSITY, NORMALIZE, SCOPE)  # the paper keeps the top 20 %
    mergekit = True
    searched = 2

    def by_tensor(self, settings: Settings) -> bool:
        return settings[SCOPE] == "tensor"

    def section(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ScopeSection:
        return _TiesSection(tensors, settings, work)

    def conduct(self, settings: Settings, ask: Ask, work: Workspace) -> Report:
        """Each task keeps the int(density n) largest magnitudes of its own, at least one."""
        densities = [float(density) for density in settings.per_task(DENSITY)]
        for density in densities:
            if not 0 < density <= 1:
                raise MethodError(f"ties: density must lie above 0 and at most 1, found {density}.")
        elements = sum(ask(_TiesSection.elements))
        for density in densities:
            keep = max(1, int(density * elements))
            if keep >= elements:
                ask(_TiesSection.keep_all)
                continue
            from prefmerge.methods.largest import find_cuts

            ask(_TiesSection.begin)
            find_cuts([keep], elements, inside(ask))
            ask(_TiesSection.end)
        return Report()
