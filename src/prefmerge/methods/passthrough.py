"""Passthrough: one model as it is, times the scale.

    theta = scale theta_0

In a recipe file the one model is the base, and `scale` may stand with it, as in mergekit. With scale 1 its bytes are
kept; what a recipe says of the output (dtype, excluded tensors, sharding) holds as for every merge. Source: mergekit.
Cost: one reading. Not here: stacks of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prefmerge.methods.parameters import NO_LAMBDA, SCALE
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace


class _Scaled(Rule):
    def unchanged(self, tensor: int) -> bool:
        return self.settings.scale == 1

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        out[:] = self.tensors[tensor].model(None, start, stop)
        out *= self.settings.scale


class Passthrough(Method):
    """See the module."""

    name = "passthrough"
    summary = "one model as it is, times the scale"
    parameters = (SCALE.but(1.0),)
    mergekit = True
    ignores: Mapping[str, str] = NO_LAMBDA
    gives_model = True
    of_models = True
    fewest = 0
    most = 0

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        return _Scaled(tensors, settings, base_weight=settings.scale - 1)
