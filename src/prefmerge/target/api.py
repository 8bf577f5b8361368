"""`prefmerge.adapt`: the best model for a target, from Python.

    made = prefmerge.adapt(run="my-run", labels="seen.csv", out="for-my-target")
    made.estimates.chosen.accuracy     value, low and high, as fractions of 1

Its parameters are those of the command line, by the same names (`target.parameters`). Cost and errors: those of
`target.adapt`. Not here: printing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

from prefmerge.ground.progress import Progress
from prefmerge.target.adapt import adapt as work
from prefmerge.target.adapt import require_extras
from prefmerge.target.parameters import Parameters
from prefmerge.target.result import Adapted


def adapt(*, progress: Progress | None = None, **parameters: Any) -> Adapted:
    """Make the best model for a target, and say how good it will be there.

        made = prefmerge.adapt(run="my-run", labels="seen.csv", out="for-my-target")
        made.estimates.chosen.accuracy   # value, low and high

    `parameters`: those of `prefmerge adapt`, with _ for -; paths as text or `Path`. Give `run`, or `checkpoints`, the
    base first; and what you have of the target: `labels`, `inputs`, `pairs` or `prefer`. `out` is the folder to write;
    without it nothing is written. `progress` is called with how much is done, how much there is, and what is being
    done. Accuracies are fractions of 1.

    Raises UsageError for parameters that make no sense together, and what `prefmerge adapt` reports: DataError,
    RunError, EncoderError, OutputExists, MissingExtra.
    """
    require_extras()
    return work(Parameters.of(**parameters), progress)


def _signature(run: Callable[..., Adapted]) -> inspect.Signature:
    """One keyword for each declared parameter, for `help` and editors."""
    hints = get_type_hints(Parameters)
    own = [
        one
        for one in inspect.signature(run, eval_str=True).parameters.values()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    declared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(Parameters)
    ]
    return inspect.Signature([*declared, *own], return_annotation=Adapted)


adapt.__dict__["__signature__"] = _signature(adapt)
