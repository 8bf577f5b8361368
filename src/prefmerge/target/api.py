"""`prefmerge.adapt`, `check`, `prefer` and `search`: models and settings for a target, and whether they still fit it.

    made = prefmerge.adapt(run="my-run", labels="seen.csv", out="for-my-target")
    made.estimates.chosen.accuracy     value, low and high, as fractions of 1
    prefmerge.check("for-my-target", labels="later.csv").clear
    prefmerge.prefer(run="my-run", labels="seen.csv").preference
    prefmerge.search(run="my-run", labels="seen.csv", out="found").settings

Their parameters are those of the command line, by the same names (`target.parameters`). Cost and errors: those of
`target.adapt`, `target.check`, `target.prefer` and `target.search`. Not here: printing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, Unpack, get_type_hints

from prefmerge.ground.progress import Counted, Progress
from prefmerge.target import check as checking
from prefmerge.target import prefer as preferring
from prefmerge.target.adapt import adapt as work
from prefmerge.target.adapt import require_extras
from prefmerge.target.arguments import AdaptArguments, CheckArguments, PreferArguments, SearchArguments, Where
from prefmerge.target.by_command import CommandOutcome, adapt_by_command, search_by_command
from prefmerge.target.checked import Checked
from prefmerge.target.parameters import Parameters, PreferParameters, SearchParameters
from prefmerge.target.parameters.declared import Declaring
from prefmerge.target.preferred import Preferred
from prefmerge.target.result import Adapted
from prefmerge.target.search import SearchOutcome, SearchResult, Trial, search_by_accuracy, search_by_score

F = TypeVar("F", bound=Callable[..., Any])


def _with_declared(declaring: type[Declaring], arguments: type, *, defaults: bool = True) -> Callable[[F], F]:
    """The declared parameters that are among `arguments` in a function's signature, in the place of its `**parameters`;
    None in place of their `defaults` where those are another's.
    """

    def signed(function: F) -> F:
        own = inspect.signature(function, eval_str=True)
        hints = get_type_hints(arguments)
        declared = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default if defaults else None,
                annotation=hints[one.name],
            )
            for one in fields(declaring)
            if one.name in hints
        ]
        stated = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        first = [one for one in stated if one.kind is one.POSITIONAL_ONLY]
        function.__dict__["__signature__"] = own.replace(parameters=[*first, *declared, *stated[len(first) :]])
        return function

    return signed


@_with_declared(Parameters, AdaptArguments)
def adapt(*, progress: Progress | None = None, **parameters: Unpack[AdaptArguments]) -> Adapted:
    """Make the best model for a target, and say how good it will be there.

        made = prefmerge.adapt(run="my-run", labels="seen.csv", out="for-my-target")
        made.estimates.chosen.accuracy   # value, low and high

    `parameters`: those of `prefmerge adapt`, with _ for -; paths as text or `Path`. Give `run`, or `checkpoints`, the
    base first; and what you have of the target: `labels`, `inputs`, `pairs` or `prefer`. `from_` is an earlier output
    to start again from, with more of the target; `compare` are models of yours to judge too. `out` is the folder to
    write; without it nothing is written. With `score`, a shell command judges models that prefmerge cannot run; it
    needs `out`, and the result has `scored` in place of estimates. `progress` is called with how much is done, how much
    there is, and what is being done. Accuracies are fractions of 1.

    Raises UsageError for parameters that make no sense together, and what `prefmerge adapt` reports: DataError,
    RunError, EncoderError, OutputExists, MissingExtra.
    """
    return adapted(Parameters.of(**parameters), progress)


def adapted(asked: Parameters, progress: Progress | None = None) -> Adapted:
    """`adapt` with parameters that are made."""
    if asked.score is not None:
        return adapt_by_command(asked, progress)
    require_extras()
    return work(asked, progress)


@_with_declared(Parameters, CheckArguments, defaults=False)
def check(out: Where, /, *, progress: Progress | None = None, **later: Unpack[CheckArguments]) -> Checked:
    """Say whether the mix of a target has moved since a model was adapted to it. Nothing is written.

        checked = prefmerge.check("for-my-target", labels="later.csv")
        checked.clear, checked.verdict, checked.moved.grew

    `out`: the folder that `adapt` wrote. `later`: later samples of the target, `labels`, `inputs` or `pairs`, without
    those that were shown before; and `run`, or `checkpoints` with what `adapt` took beside them, where they are no
    longer where they were. Where nothing is given, `level` and the others are those of `out`.

    Raises UsageError for parameters that make no sense together, DataError, RunError, EncoderError, MissingExtra.
    """
    require_extras()
    return checking.check(out, progress=progress, **later)


@_with_declared(PreferParameters, PreferArguments)
def prefer(*, progress: Counted | None = None, **parameters: Unpack[PreferArguments]) -> Preferred:
    """Find the preference for a target, and how sure it is.

        chosen = prefmerge.prefer(run="my-run", labels="seen.csv")
        chosen.shares, chosen.sure()
        prefmerge.merge("base", ["cars", "birds", "digits"], "out", preference=chosen.preference)

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


@_with_declared(SearchParameters, SearchArguments)
def search(
    *, progress: Progress | None = None, **parameters: Unpack[SearchArguments]
) -> SearchOutcome | SearchResult | CommandOutcome:
    """Search for the settings that do best at a target, and compare them with what `adapt` chooses.

        best = prefmerge.search(run="my-run", labels="seen.csv", out="found")
        best.settings, best.verdict
        best = prefmerge.search(checkpoints=["base", "cars", "birds"], score="python score.py {model}", out="found")

    `parameters`: those of `prefmerge search`, with _ for -; paths as text or `Path`. Give `run`, and what you have of
    the target: `labels`, `inputs`, `pairs` or `prefer`. `out` is the folder of the trials, from which the same call
    resumes; without it nothing is written. `paper=True` ranks by accuracy on `pairs` alone, and gives a `SearchResult`.
    With `score`, a shell command ranks models that prefmerge cannot run; it needs `out`, and gives a `CommandOutcome`.
    `progress` is called with how many trials are done, how many there are at most, and what is being done.

    Raises UsageError for parameters that make no sense together, DataError, RunError, OutputError, MissingExtra.
    """
    return searched(SearchParameters.of(**parameters), progress)


def searched(
    asked: SearchParameters, progress: Progress | None = None
) -> SearchOutcome | SearchResult | CommandOutcome:
    """`search` with parameters that are made."""
    if asked.score is not None:
        return search_by_command(asked, progress)
    if not asked.paper:
        return search_by_score(asked, progress)

    def tried(_: Trial, best: float, done: int, most: int) -> None:
        if progress is not None:
            progress(done, most, f"trials, best {100 * best:.1f} %")

    return search_by_accuracy(asked, tried)
