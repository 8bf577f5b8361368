"""Arcee Fusion: take the task's value where it matters, and the base's elsewhere.

    importance = |tau| KL(softmax(theta_1) || softmax(theta_0)), the divergence over the row of the last axis
    tau' = tau where importance >= median + 1.5 (upper quartile - lower quartile), else 0

Quartiles are those of the tensor, exact: the elements at int(q (n - 1)) of the ascending order; mergekit draws a
million elements at random where there are more. The softmax has 1e-8 added, as mergekit's. The divergence is summed
from terms that are never negative, in float64; mergekit's is lost to rounding where rows hardly differ. Source:
mergekit. Cost: four readings, and one row at a time in memory. Not here: more than one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefmerge.methods.angles import Layout
from prefmerge.methods.parameters import NO_LAMBDA, SCALE
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class _Importance:
    """Of the elements of one tensor."""

    deltas: Deltas
    layout: Layout
    divergences: np.ndarray  # of the rows
    work: Workspace

    def read(self, _: int, start: int, stop: int, out: np.ndarray) -> None:
        self.deltas.read(0, start, stop, out)
        self.of(start, out)

    def of(self, start: int, tau: np.ndarray) -> None:
        """Replace a stretch of the task vector, from element `start` on."""
        import numpy as np

        from prefmerge.methods.products import spread

        factor = self.work.buffer("divergences", tau.size, np.float64)
        spread(self.divergences, start, self.layout.width, False, factor)
        factor *= np.abs(tau)
        tau[:] = factor


@dataclass
class _FusionRule(Rule):
    parts: list[tuple[_Importance, float]] = field(default_factory=list)  # the threshold beside it, for each tensor

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        importance, threshold = self.parts[tensor]
        values = work.buffer("importance of fusion", out.size)
        self.tensors[tensor].read(0, start, stop, out)
        values[:] = out
        importance.of(start, values)
        out[values < threshold] = 0


class ArceeFusion(Method):
    """See the module."""

    name = "arcee_fusion"
    summary = "the task's values where they matter most, the base's elsewhere"
    parameters = (SCALE.but(1.0),)
    mergekit = True
    ignores: Mapping[str, str] = NO_LAMBDA
    of_models = True
    most = 1

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        parts = []
        for deltas in tensors:
            layout = Layout.of(deltas.shape, deltas.size, "rows")
            importance = _Importance(deltas, layout, _divergences(deltas, layout.width, work), work)
            parts.append((importance, _threshold(importance, work)))
        return _FusionRule(tensors, settings, parts=parts)


def _divergences(deltas: Deltas, width: int, work: Workspace) -> np.ndarray:
    """The divergence of every row."""
    import numpy as np

    from prefmerge.methods import kernels
    from prefmerge.methods.largest import STRETCH
    from prefmerge.vectors.workspace import spans

    def of_rows(span: tuple[int, int]) -> np.ndarray:
        tau, result = work.buffer("fusion", span[1] - span[0]), np.empty((span[1] - span[0]) // width)
        deltas.read(0, *span, tau)
        kernels.divergences(deltas.base(*span), tau, width, result)
        return result

    rows = work.map(of_rows, spans(deltas.size, max(1, STRETCH // width) * width))
    return np.concatenate(rows) if rows else np.empty(0)


def _threshold(importance: _Importance, work: Workspace) -> float:
    """The importance from which on the task's value is taken."""
    from prefmerge.methods.largest import cuts

    size = importance.deltas.size
    if not size:
        return 0.0
    ranks = [size - int(quartile * (size - 1)) for quartile in QUARTILES]
    lower, median, upper = (cut.value for cut in cuts([size], importance.read, ranks, work))
    return median + 1.5 * (upper - lower)
