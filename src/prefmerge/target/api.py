"""`prefmerge.adapt` and `prefmerge.prefer`: the model and the preference for a target, from Python.

    made = prefmerge.adapt(run="my-run", labels="seen.csv", out="for-my-target")
    made.estimates.chosen.accuracy     value, low and high, as fractions of 1
    prefmerge.prefer(run="my-run", labels="seen.csv").preference

Their parameters are those of the command line, by the same names (`target.parameters`). Cost and errors: those of
`target.adapt` and `target.prefer`. Not here: printing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, Unpack, get_type_hints

from prefmerge.ground.progress import Counted, Progress
from prefmerge.target import prefer as preferring
from prefmerge.target.adapt import adapt as work
from prefmerge.target.adapt import require_extras
from prefmerge.target.arguments import AdaptArguments, PreferArguments
from prefmerge.target.parameters import Parameters, PreferParameters
from prefmerge.target.parameters.declared import Declaring
from prefmerge.target.preferred import Preferred
from prefmerge.target.result import Adapted

F = TypeVar("F", bound=Callable[..., Any])


def _with_declared(declaring: type[Declaring], arguments: type) -> Callable[[F], F]:
    """The declared parameters in a function's signature, in the place of its `**parameters`."""

    def signed(function: F) -> F:
        own = inspect.signature(function, eval_str=True)
        hints = get_type_hints(arguments)
        declared = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
            for one in fields(declaring)
        ]
        stated = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        function.__dict__["__signature__"] = own.replace(parameters=[*declared, *stated])
        return function

    return signed


@_with_declared(Parameters, AdaptArguments)
def adapt(*, progress: Progress | None = None, **parameters: Unpack[AdaptArguments]) -> Adapted:
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


@_with_declared(PreferParameters, PreferArguments)
def prefer(*, progress: Counted | None = None, **parameters: Unpack[PreferArguments]) -> Preferred:
    """Find the preference for a target, and how sure it is.

        chosen = prefmerge.prefer(run="my-run", labels="seen.csv")
        chosen.shares, chosen.sure()
        prefmerge.merge("base", ["cars", "birds"], "out", preference=chosen.preference)

    `parameters`: those of `prefmerge prefer`, with _ for -; paths as text or `Path`. Give `run`, or `checkpoints`, the
    base first. Give what you have of the target: `labels`, `inputs`, or `pairs`, with which it searches (that needs
    `run`). With none of them every task gets the same share. `out` is the file to write; without it nothing is written.

    Raises UsageError for parameters that make no sense together, DataError, RunError, EncoderError, MissingExtra.
    """
    asked = PreferParameters.of(**parameters)
    cache = None
    if asked.inputs is not None:
        from prefmerge.models.features import cache_folder

        cache = cache_folder()
    return preferring.prefer(asked, cache, progress)
