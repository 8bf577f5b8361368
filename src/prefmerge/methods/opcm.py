"""OPCM: one task after the other, each without what the merged ones have of it already (Tang et al. 2025).

    M_1 = tau_1,   M_t = M_{t-1} + tau_t - (what `orthogonal` finds of tau_t in M_{t-1})   on matrices
                   M_t = M_{t-1} + tau_t                                                    on other tensors
    tau = M_T (mean_t |tau_t|) / |M_T|,   lengths over the whole model

The order of the tasks is that of the merge: the first is taken as it is. They need not be trained one after another.
`alpha` says how much of the merged singular values closes its directions to those that come. Of the pairs (i, j) of a
left and a right direction those with both among the first r are dropped, and those with i = j.

We follow the code that the authors released with the paper (fusion_bench, opcm_general), and are held to what it makes
(`tests/golden/opcm`). It scales M after each task to the mean length so far, and takes the scale back with the next
one; so scaling once, at the end, is the same. It projects what its models compute as `nn.Linear` and adds up the rest.
A checkpoint does not say what is `nn.Linear`: here every tensor of two axes is a matrix, unless its name is that of a
table of embeddings. Where we differ: the code shuffles the tasks, here their order is that given; directions in which M
has nothing take nothing away, where an SVD picks directions at random; with alpha 1 all that M spans is closed, where
the code closes no block.

Cost: two readings; for each matrix of N x K elements and each task from the second on, 6 N K^2 + 20 K^3 operations (on
one thread 1024 x 1024: 1.3 s, 2048 x 2048: 12 s) and five K x K matrices of float64, K the smaller side. Memory: 4
bytes for each element of the matrices, which spill to disk beyond the limit, and for each thread one task's matrix.
Sums and singular values are our own (`eigen`), not LAPACK's, so that the bytes are the same on every machine. Not here:
shuffling the tasks, merged models of the steps between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods.parameters import SCALE, UNIT, Group, Parameter, Range
from prefmerge.methods.protocol import Deltas, Report, Rule, Settings
from prefmerge.methods.sections import Ask, InSections, ScopeSection

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

SUMMED = 1 << 14  # elements whose squares are added up together

ALPHA = Parameter(
    "alpha",
    UNIT,
    Fraction(1, 2),  # the authors'
    "how much of the merged matrix, by singular values, is closed to the tasks that come",
    search=Range(0.0, 0.9, 2),
    quiet=True,
    group=Group.RULE,
)

_TABLE = re.compile(r"(?!embed_out$).*embed.*|wte|wpe|shared|relative_attention_bias", re.IGNORECASE)


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is projected: it has two axes, and its name is not that of a table of embeddings."""
    *modules, last = name.split(".")
    own = modules[-1] if last == "weight" and modules else last
    return len(shape) == 2 and min(shape) > 0 and not _TABLE.fullmatch(own)


@dataclass
class _OpcmRule(Rule):
    """`merged`: M_T of each matrix, float32, flat; None for what is added up block by block. `factor`: of all."""

    merged: Sequence[np.ndarray | None] = ()
    factor: float = 0.0

    def unchanged(self, tensor: int) -> bool:
        return not self.tensors[tensor].changed

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        total = _total(self.tensors[tensor], self.merged[tensor], self.settings.tasks, start, stop, work)
        total *= self.factor
        out[:] = total


def _total(deltas: Deltas, merged: np.ndarray | None, tasks: int, start: int, stop: int, work: Workspace) -> np.ndarray:
    """M_T[start:stop], float64."""
    import numpy as np

    total = work.buffer("opcm", stop - start, np.float64)
    if merged is not None:
        total[:] = merged[start:stop]
        return total
    total[:] = 0
    tau = work.buffer("opcm-tau", stop - start)
    for task in range(tasks):
        deltas.read(task, start, stop, tau)
        total += tau
    return total


@dataclass
class _OpcmSection(ScopeSection):
    """Some tensors of the model."""

    tensors: Sequence[Deltas]
    settings: Settings
    work: Workspace
    merged: list[np.ndarray | None] = field(default_factory=list)
    factor: float = 0.0

    def squares(self) -> list[list[float]]:
        """Of each tensor the squares of every task vector, and those of M_T, added up."""
        sums: list[list[float]] = [[]] * len(self.tensors)
        self.merged = [None] * len(self.tensors)

        def merge(tensor: int) -> None:
            deltas = self.tensors[tensor]
            merged = self._matrix(deltas) if is_matrix(deltas.name, deltas.shape) else None
            sums[tensor] = self._sums(deltas, merged)
            self.merged[tensor] = merged

        self.work.walk(range(len(self.tensors)), lambda tensor: self.tensors[tensor].size, merge)
        return sums

    def scale_by(self, factor: float) -> None:
        """All is decided."""
        self.factor = factor

    def rule(self, report: Report) -> Rule:
        return _OpcmRule(self.tensors, self.settings, report, merged=self.merged, factor=self.factor)

    def _matrix(self, deltas: Deltas) -> np.ndarray:
        """M_T, flat."""
        import numpy as np

        from prefmerge.methods.orthogonal import add_new
        from prefmerge.vectors.workspace import spans

        shape, blocks, alpha = deltas.shape, spans(deltas.size, self.work.block), float(self.settings[ALPHA])

        def read(task: int, out: np.ndarray) -> bool:
            return any(self.work.map(lambda span: deltas.read(task, *span, out[slice(*span)]), blocks))

        merged = self.work.allocate(deltas.size, np.float32)
        read(0, merged)
        tau = self.work.allocate(deltas.size if self.settings.tasks > 1 else 0, np.float32)
        for task in range(1, self.settings.tasks):
            if read(task, tau):
                add_new(merged.reshape(shape), tau.reshape(shape), alpha, self.work)
        return merged

    def _sums(self, deltas: Deltas, merged: np.ndarray | None) -> list[float]:
        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        tasks, work = self.settings.tasks, self.work

        def squares(span: tuple[int, int]) -> list[float]:
            tau, found = work.buffer("opcm-tau", span[1] - span[0]), []
            for task in range(tasks):
                deltas.read(task, *span, tau)
                found.append(kernels.squares(tau))
            return [*found, kernels.squares(_total(deltas, merged, tasks, *span, work))]

        parts = work.map(squares, spans(deltas.size, SUMMED))
        return [math.fsum(column) for column in zip(*parts, strict=True)] or [0.0] * (tasks + 1)


class Opcm(InSections):
    """See the module."""

    name = "opcm"
    summary = "one task after the other, each without what the merged ones have of it, at the tasks' mean length"
    parameters = (SCALE.but(1.0), ALPHA)

    def by_tensor(self, settings: Settings) -> bool:
        return False

    def scratch(self, settings: Settings) -> int:
        return 4

    def section(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ScopeSection:
        return _OpcmSection(tensors, settings, work)

    def conduct(self, settings: Settings, ask: Ask, work: Workspace) -> Report:
        totals = [0.0] * (settings.tasks + 1)
        for section in ask(_OpcmSection.squares):
            for sums in section:
                totals = [total + one for total, one in zip(totals, sums, strict=True)]
        *lengths, merged = map(math.sqrt, totals)
        ask(_OpcmSection.scale_by, math.fsum(lengths) / len(lengths) / merged if merged else 0.0)
        return Report()
