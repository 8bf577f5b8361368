"""Which parameters of a merge are searched for a command's score, and the numbers that stand for them.

    weights              a number from 0 to 1 for each task
    weights:4            four for each task, spread over the layers from the first to the last
    preference:4         a share for each task, in four places from the first layer to the last
    scale=0.2..2         a number in this range
    method=ties|linear   one of these
    density=0.5          fixed

Names are those of a recipe. What is neither searched nor fixed is the recipe's, else the default. Ranges that are not
given are the declared ones. Numbers are rounded before they are tried, so what is written is what was measured. The
method is the one given, else the recipe's, else the first of `USUAL` that has use for all of the names. Cost: none.
Not here: how the numbers are chosen (`search.study`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prefmerge.errors import MethodError, PreferenceError, UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.parameters import AS_TASK_VECTOR, METHOD, OF_EVERY_MERGE, every, searchable
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import DENSITY, PREFERENCE, WEIGHTS, Choices, Parameter, Range, TaskShares
from prefmerge.methods.shares_by_layer import plain
from prefmerge.preference import as_text, exact
from prefmerge.target.by_command.sources import Sources
from prefmerge.target.search.space import Dimension, ParameterValues, Params, Start, rounded

USUAL = ("task_arithmetic", "tunable_magmax", "ties")
DEFAULT = "weights"
RANGES = {WEIGHTS.name: Range(0.0, 1.0, 3), DENSITY.name: Range(0.1, 1.0, 2), "t": Range(0.0, 1.0, 3)}
DIGITS = 4  # of a range that is given
SCALES = ("0.3", "0.5", "1")  # of task arithmetic, which a search begins with
MOST_VALUES = 64  # over the layers


@dataclass(frozen=True)
class Dial:
    """One parameter that is searched. `values`: how many over the layers."""

    parameter: Parameter[Any]
    over: Range | Choices | TaskShares
    values: int = 1

    @property
    def name(self) -> str:
        return self.parameter.name

    def keys(self, tasks: int) -> list[str]:
        """What the sampler calls its numbers."""
        if isinstance(self.over, TaskShares):
            each = [f"share {t + 1}" for t in range(tasks)]
            return each if self.values == 1 else [f"{one}.{k + 1}" for k in range(self.values) for one in each]
        layers = [f"{self.name}.{k + 1}" for k in range(self.values)] if self.values > 1 else [self.name]
        each = self.parameter is WEIGHTS
        return [f"{one} of task {t + 1}" for t in range(tasks) for one in layers] if each else layers

    def dimension(self) -> Dimension:
        if isinstance(self.over, TaskShares):
            return (0.0, 1.0)
        return self.over.values if isinstance(self.over, Choices) else (self.over.low, self.over.high)

    def value(self, params: Params, names: Sequence[str]) -> Any:
        """What `recipe_of` takes for these numbers."""
        keys = self.keys(len(names))
        if isinstance(self.over, TaskShares):
            rows = [keys[i : i + len(names)] for i in range(0, len(keys), len(names))]
            several = [rounded([float(params[key]) for key in row], names) for row in rows]
            return several[0] if self.values == 1 else [plain(one, names) for one in several]
        if isinstance(self.over, Choices):
            return str(params[keys[0]])
        digits = self.over.digits
        texts = [as_text(Fraction(round(float(params[key]) * 10**digits), 10**digits)) for key in keys]
        rows = [texts[i : i + self.values] for i in range(0, len(texts), self.values)]
        several = [row if self.values > 1 else row[0] for row in rows]
        return several if self.parameter is WEIGHTS else several[0]


@dataclass(frozen=True)
class CommandSpace:
    """`methods`: those that are tried. `given`: what holds where nothing else is said, for the methods that have it.

    Raises UsageError for what makes no sense.
    """

    dials: tuple[Dial, ...]
    fixed: Mapping[str, Any]
    methods: tuple[str, ...]
    given: Mapping[str, Any]
    tasks: tuple[str, ...]

    @classmethod
    def parse(cls, text: str | None, sources: Sources) -> CommandSpace:
        """`text`: parts with commas between; None: a weight for each task."""
        dials: dict[str, Dial] = {}
        fixed: dict[str, Any] = {}
        for part in (one.strip() for one in (DEFAULT if text is None else text).split(",")):
            if not part:
                continue
            words, is_given, value = (piece.strip() for piece in part.partition("="))
            name, _, count = words.partition(":")
            parameter = _parameter(name.strip().replace("-", "_"))
            if parameter.name in dials or parameter.name in fixed:
                raise UsageError(f"--space names {parameter.name!r} twice.")
            if is_given and ".." not in value and "|" not in value and parameter not in (WEIGHTS, PREFERENCE):
                if count:
                    raise UsageError(f"--space {part}: one value is the same in every layer. Leave :{count} out.")
                fixed[parameter.name] = _checked(parameter, value)
            else:
                dials[parameter.name] = Dial(parameter, _over(parameter, value), _values(parameter, count))
        given = dict(sources.given or {})
        method = dials.pop(METHOD.name, None)
        named = fixed.pop(METHOD.name, None)
        names = [*dials, *fixed]
        if method is not None and isinstance(method.over, Choices):
            methods = method.over.values
        elif named is not None:
            methods = (str(named),)
        else:
            methods = (str(given.get(METHOD.name) or _first_that_has(names)),)
        _require_used(names, methods)
        if not dials and method is None:
            raise UsageError("--space names nothing to search: every part is fixed. Write for instance weights:4.")
        if method is not None:
            dials = {METHOD.name: method, **dials}
        return cls(tuple(dials.values()), fixed, methods, given, sources.names)

    def to_json(self) -> dict[str, Any]:
        """What decides which merges are tried."""
        dials = [[dial.name, list(dial.dimension()), dial.values] for dial in self.dials]
        given = {name: str(value) for name, value in self.given.items()}
        return {"searched": dials, "fixed": dict(self.fixed), "methods": list(self.methods), "given": given}

    def dimensions(self) -> dict[str, Dimension]:
        """The range or the choices of every number."""
        return {key: dial.dimension() for dial in self.dials for key in dial.keys(len(self.tasks))}

    def settings(self, params: Params) -> ParameterValues:
        """What to merge with for these numbers."""
        own = {dial.name: dial.value(params, self.tasks) for dial in self.dials}
        return self._used({METHOD.name: self.methods[0], **self.given, **self.fixed, **own})

    def _used(self, values: Mapping[str, Any]) -> ParameterValues:
        """Without what the method has no use for."""
        chosen = values[METHOD.name] if METHOD.name in {dial.name for dial in self.dials} else self.methods[0]
        method = METHODS[METHOD.read(chosen)]
        known = every()
        kept: ParameterValues = {METHOD.name: method.name, **method.needed(len(self.tasks))}
        for name, value in values.items():
            unless = known[name].unless if name in known else None
            idle = unless is not None and values.get(unless.other.name) == unless.value
            if not idle and (name in OF_EVERY_MERGE or name in method.options):
                kept[name] = value
        return kept

    def examples(self) -> Iterator[ParameterValues]:
        """Settings with each choice once: what merging may refuse."""
        middle = {key: _middle(one) for key, one in self.dimensions().items()}
        choices = [
            (dial.name, one) for dial in self.dials if isinstance(dial.over, Choices) for one in dial.over.values
        ]
        for key, value in choices or [("", "")]:
            yield self.settings({**middle, key: value} if key else middle)

    def starts(self, sources: Sources) -> list[Start]:
        """What is tried first: the inputs as they are, the recipe, and what people try without a search."""
        common = sources.common
        names = sources.names
        made = [Start(sources.called(i), {}, self._params_of_input(i), i) for i in sources.inputs]
        if sources.given is not None:
            made.append(Start("the recipe", dict(sources.given), None))
        for what, settings in (
            ("linear, equal weights", {METHOD.name: "linear"}),
            ("MAGMAX", {METHOD.name: "magmax"}),
            ("tunable-magmax, equal shares", {METHOD.name: "tunable_magmax"}),
        ):
            needed = METHODS[settings[METHOD.name]].needed(len(names))
            made.append(Start(what, {**common, **needed, **settings}, None))
        for scale in SCALES:
            weights = {METHOD.name: "task_arithmetic", WEIGHTS.name: [scale] * len(names)}
            params = self._params_of_weights([scale] * len(names))
            made.append(Start(f"task arithmetic, weights {scale}", {**common, **weights}, params))
        return made

    def _params_of_input(self, number: int) -> Params | None:
        return self._params_of_weights(["1" if number == t else "0" for t in range(len(self.tasks))])

    def _params_of_weights(self, weights: Sequence[str]) -> Params | None:
        """The numbers that stand for task arithmetic with one weight for each task; None where that is not inside of
        what is searched.
        """
        plain = self.methods == ("task_arithmetic",) and [dial.name for dial in self.dials] == [WEIGHTS.name]
        others = {name for name in (*self.given, *self.fixed) if name not in (METHOD.name, WEIGHTS.name)}
        over = self.dials[0].over
        if not plain or others or not isinstance(over, Range):
            return None
        values = [float(weight) for weight in weights]
        if any(not over.low <= value <= over.high for value in values):
            return None
        keys = self.dials[0].keys(len(self.tasks))
        return {key: values[i // self.dials[0].values] for i, key in enumerate(keys)}


def _parameter(name: str) -> Parameter[Any]:
    known = {METHOD.name: METHOD, **{one.name: one for one in every().values() if one is not AS_TASK_VECTOR}}
    if name not in known:
        raise UsageError(f"--space: {name!r} is not a parameter of a recipe.{did_you_mean(name, known)}")
    return known[name]


def _over(parameter: Parameter[Any], value: str) -> Range | Choices | TaskShares:
    """What a parameter is searched over: what is given, else what is declared."""
    name = parameter.name
    if value and parameter in (WEIGHTS, PREFERENCE) and (parameter is PREFERENCE or ".." not in value):
        raise UsageError(f"--space {name}={value}: a search gives each task its own. Write {name} alone.")
    if "|" in value:
        words = tuple(dict.fromkeys(word.strip() for word in value.split("|") if word.strip()))
        return Choices(tuple(str(_checked(parameter, word)) for word in words))
    if value:
        low, _, high = value.partition("..")
        try:
            ends = float(exact(low)), float(exact(high))
        except PreferenceError as error:
            raise UsageError(f"--space {name}={value}: expected a range such as {name}=0.2..1.5.") from error
        if not ends[0] < ends[1]:
            raise UsageError(f"--space {name}={value}: the first number must be the smaller one.")
        for end in (low, high):
            _checked(parameter, end.strip())
        return Range(*ends, DIGITS)
    known = searchable()
    if name in RANGES or name in known:
        return RANGES.get(name) or known[name]
    raise UsageError(f"--space {name}: say over what: {name}=LOW..HIGH, or {name}=ONE|ANOTHER.")


def _values(parameter: Parameter[Any], count: str) -> int:
    if not count:
        return 1
    values = int(count) if count.strip().isdecimal() else 0
    if not 1 <= values <= MOST_VALUES:
        raise UsageError(
            f"--space {parameter.name}:{count}: expected how many values over the layers, from 1 to {MOST_VALUES}."
        )
    if not parameter.by_layer:
        raise UsageError(f"--space {parameter.name}:{count}: {parameter.name} has no values over the layers.")
    return values


def _checked(parameter: Parameter[Any], value: str) -> Any:
    """The value as text, if the parameter takes it."""
    try:
        read = parameter.read({"true": True, "false": False}.get(value, value))
    except (ValueError, PreferenceError, MethodError) as error:
        raise UsageError(f"--space {parameter.name}={value}: {error}") from error
    return read if isinstance(read, bool) or parameter is METHOD else value


def _first_that_has(names: Sequence[str]) -> str:
    """The method that is searched where none is named."""
    needed = {name for name in names if name not in OF_EVERY_MERGE}
    having = [name for name in dict.fromkeys([*USUAL, *METHODS]) if needed <= METHODS[name].options]
    if not having:
        raise UsageError(f"--space: no method has {', '.join(sorted(needed))}. Leave one out.")
    return having[0]


def _require_used(names: Sequence[str], methods: Sequence[str]) -> None:
    options = frozenset().union(*(METHODS[name].options for name in methods))
    idle = next((name for name in names if name not in OF_EVERY_MERGE and name not in options), None)
    if idle is not None:
        raise UsageError(f"--space: {idle} has no use with method {' or '.join(methods)}. Leave it out.")


def _middle(dimension: Dimension) -> float | str:
    first = dimension[0]
    return first if isinstance(first, str) else (first + float(dimension[1])) / 2
