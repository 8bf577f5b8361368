"""Methods that weigh the base and the task vectors by the lengths and angles between them.

    tau = b_r theta_0 + sum_t c_rt tau_t   on row r, with b and c made of the scalar products on that row

A row is the whole tensor (flat), or a row or column of a matrix. One reading gives the products, a second the sum,
which is float64 and rounded once. Cost: two readings, (T + 1)^2 products for each element, T + 1 numbers for each row.
Not here: what makes b and c of the products (each method's `weigh`).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prefmerge.methods.parameters import NO_LAMBDA
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

Axes = Literal["flat", "rows", "columns"]


@dataclass(frozen=True)
class Layout:
    """How the elements of a tensor make rows: element p belongs to p // width, or to p % width."""

    width: int
    columns: bool

    @classmethod
    def of(cls, shape: Sequence[int], size: int, rows: Axes) -> Layout:
        """Rows run along the last axis, columns along the first; what has fewer than two axes is one row."""
        if rows == "flat" or len(shape) < 2:
            return cls(max(1, size), columns=False)
        if rows == "rows":
            return cls(max(1, shape[-1]), columns=False)
        return cls(max(1, size // max(1, shape[0])), columns=True)


@dataclass
class _RowSum(Rule):
    """A sum with factors of each row: those of the base first, then of every task, shape (R, 1 + T)."""

    layouts: tuple[Layout, ...] = ()
    factors: list[np.ndarray] = field(default_factory=list)

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods.products import spread

        deltas, layout, factors_RV = self.tensors[tensor], self.layouts[tensor], self.factors[tensor]
        total, factor = (work.buffer(name, out.size, np.float64) for name in ("total", "factor"))
        tau = work.buffer("tau", out.size)
        total[:] = 0
        for vector in range(self.settings.tasks + 1):
            of_rows = np.ascontiguousarray(factors_RV[:, vector])
            if vector:
                deltas.read(vector - 1, start, stop, tau)
            elif of_rows.any():
                tau[:] = deltas.base(start, stop)
            else:
                continue
            spread(of_rows, start, layout.width, layout.columns, factor)
            factor *= tau
            total += factor
        out[:] = total


class ByAngles(Method):
    """A method that only needs the scalar products."""

    mergekit = True
    ignores: Mapping[str, str] = NO_LAMBDA

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def rows(self, settings: Settings) -> Axes:
        """What has factors of its own."""
        return "flat"

    @abc.abstractmethod
    def weigh(self, gram_RVV: np.ndarray, settings: Settings) -> np.ndarray:
        """The factors of the base and of every task vector, shape (R, 1 + T), from the products of these V = 1 + T
        vectors on each row.
        """

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        from prefmerge.methods import products

        layouts, factors = [], []
        for deltas in tensors:
            layout = Layout.of(deltas.shape, deltas.size, self.rows(settings))
            layouts.append(layout)
            over = products.over_columns if layout.columns else products.over_rows
            read = products.base_and_tasks(deltas, work)
            factors.append(
                over(
                    read,
                    settings.tasks + 1,
                    deltas.size,
                    layout.width,
                    work,
                    lambda gram_RVV: self.weigh(gram_RVV, settings),
                )
            )
        return _RowSum(tensors, settings, layouts=tuple(layouts), factors=factors)
