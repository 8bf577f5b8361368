"""Which settings of a merge a search tries, and the numbers that stand for them.

    share t = u_t / sum u,  u in [0, 1]^T;   what is declared with a range lies in it;   the others are choices

Which parameters of which methods can be searched, and over what, is declared with them. Source: Tunable MAGMAX, section
3.3, for the shares. What is neither searched nor fixed is named by the space (`otherwise`), so that a search does not
change with the defaults of `merge`. A trial's settings are rounded (shares to 1/10,000, below 1/100 to nothing; the
others to the digits that are declared) before they are tried, so that what is printed is what was measured. Not here:
how the numbers are chosen (`study`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from prefmerge.errors import UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.parameters import METHOD, OF_EVERY_MERGE, every, parameter, searchable
from prefmerge.methods import DEFAULT as FIRST_METHOD
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import PREFERENCE, SCALE, YES_OR_NO, Choices, Parameter, Range, TaskShares
from prefmerge.preference import Preference, as_text
from prefmerge.target.pool import PAPER

Params = Mapping[str, float | str]  # what optuna knows of a trial
ParameterValues = dict[str, Any]  # what `merge` takes; all but the preference as text
Dimension = tuple[float, float] | tuple[str, ...]

LEAST = 0.01  # a smaller share is none: it would cost a reading and change next to nothing


@dataclass(frozen=True)
class Start:
    """What is to be tried: what the search starts with, or what the study drew. `task`: a checkpoint as it is."""

    what: str
    settings: ParameterValues
    params: Params | None  # None: outside of what is searched, so the sampler learns nothing from it
    task: int | None = None


def usual() -> tuple[str, ...]:
    """What is searched by default: the dials that cost nothing more and that may change the result most."""
    return tuple(name for name, over in searchable().items() if over.usual)


def fixable() -> dict[str, Parameter[Any]]:
    """What `name=value` can fix."""
    known = {METHOD.name: METHOD, **every()}
    return {
        name: one for name, one in known.items() if one.flag and one.kind is not YES_OR_NO and one is not PREFERENCE
    }


@dataclass(frozen=True)
class Space:
    """`searched`: some of `searchable`. `fixed`: parameters of `merge` that hold for every trial. `otherwise`: those of
    the first method (`tunable_magmax`) that hold where they are neither searched nor fixed.

    A preference that is not searched is the one that the search starts with. Raises UsageError for what makes no sense.
    """

    searched: tuple[str, ...] = field(default_factory=usual)
    fixed: Mapping[str, str] = field(default_factory=dict)
    otherwise: Mapping[str, str] = field(default_factory=lambda: dict(PAPER))

    def __post_init__(self) -> None:
        known, fixed = searchable(), fixable()
        for name in self.searched:
            if name not in known:
                raise UsageError(
                    f"{name!r} cannot be searched; what can is {', '.join(known)}.{did_you_mean(name, known)}"
                )
        for name, value in self.fixed.items():
            if name in self.searched:
                raise UsageError(f"{name} is fixed at {value} and searched. Take one of them out.")
            if name not in fixed:
                raise UsageError(f"{name!r} is not a setting that can be fixed.{did_you_mean(name, fixed)}")
            try:
                fixed[name].read(value)
            except ValueError as error:
                raise UsageError(f"{name}={value}: {error}.") from error
        for name in (*self.searched, *self.fixed):
            if name != METHOD.name and name not in OF_EVERY_MERGE and name not in self._honoured:
                raise UsageError(
                    f"{name} has no use with method {self.fixed.get(METHOD.name, FIRST_METHOD.name)}. Leave it out."
                )
        if not self.searched:
            raise UsageError(f"nothing to search: name at least one of {', '.join(known)}.")

    @classmethod
    def parse(cls, text: str | None, otherwise: Mapping[str, str] = PAPER) -> Space:
        """`preference,scale,selection=optimal`: names to search, name=value to fix; None: the usual ones. Raises
        UsageError.
        """
        if text is None:
            return cls(otherwise=otherwise)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        fixed: dict[str, str] = {}
        searched: list[str] = []
        for part in parts:
            name, given, value = (piece.strip() for piece in part.partition("="))
            name = name.replace("-", "_")
            if name in fixed or name in searched:
                raise UsageError(f"--space names {name!r} twice.")
            if given:
                fixed[name] = value
            else:
                searched.append(name)
        return cls(tuple(searched), fixed, otherwise)

    def to_json(self) -> dict[str, Any]:
        order = list(searchable())
        return {
            "searched": sorted(self.searched, key=order.index),
            "fixed": dict(sorted(self.fixed.items())),
            "otherwise": dict(sorted(self.otherwise.items())),
        }

    @property
    def _honoured(self) -> frozenset[str]:
        """The parameters that a method in question honours."""
        if METHOD.name in self.searched:
            return frozenset().union(*(one.options for one in METHODS.values() if one.searched))
        return METHODS[METHOD.read(self.fixed.get(METHOD.name, FIRST_METHOD.name))].options

    def _over(self) -> dict[str, Range | Choices | TaskShares]:
        """What is searched, in order, and over what."""
        return {name: over for name, over in searchable().items() if name in self.searched}

    def refusable(self, tasks: int) -> list[ParameterValues]:
        """Settings with equal shares that have what is fixed and each choice at least once: what may be refused."""
        choices = [
            {name: value}
            for name, over in self._over().items()
            if isinstance(over, Choices) and name != METHOD.name
            for value in over.values
        ]
        first = {METHOD.name: FIRST_METHOD.name, PREFERENCE.name: Preference.uniform()}
        return [_used({**first, **self._given(tasks, own), **own}) for own in (choices or [{}])]

    def dimensions(self, tasks: int) -> dict[str, Dimension]:
        """The range or the choices of every number that stands for a parameter."""
        ranges: dict[str, Dimension] = {}
        for name, over in self._over().items():
            if isinstance(over, TaskShares):
                ranges.update((_share(t), (0.0, 1.0)) for t in range(tasks))
            else:
                ranges[name] = over.values if isinstance(over, Choices) else (over.low, over.high)
        return ranges

    def settings(self, params: Params, names: Sequence[str], first: Preference) -> ParameterValues:
        """What to merge with for these numbers; `first` is the preference where none is searched."""
        own: ParameterValues = {}
        for name, over in self._over().items():
            if isinstance(over, TaskShares):
                own[name] = rounded([float(params[_share(t)]) for t in range(len(names))], names)
            elif isinstance(over, Choices):
                own[name] = str(params[name])
            else:
                own[name] = as_text(Fraction(round(float(params[name]) * 10**over.digits), 10**over.digits))
        chosen = {METHOD.name: FIRST_METHOD.name, PREFERENCE.name: first, **self._given(len(names), own)}
        return _used({**chosen, **own})

    def starts(self, names: Sequence[str], first: Preference | None) -> list[Start]:
        """The trials that the search starts with: the first preference (else equal shares), then what the method starts
        with (MAGMAX), at the first scales (0.5 and 1).
        """
        what = "equal shares" if first is None else "label preference"
        preference = Preference.uniform() if first is None else first
        over = self._over().get(SCALE.name)
        scales = (
            over.first if isinstance(over, Range) else (self.fixed.get(SCALE.name, self.otherwise.get(SCALE.name)),)
        )
        made: list[Start] = []
        for title, own in ((what, {}), *FIRST_METHOD.starts):
            own = {**own, METHOD.name: FIRST_METHOD.name}
            given = self._given(len(names), own)
            inside = all(n in self.searched or _read(n, v) == _given_or_default(n, given) for n, v in own.items())
            for scale in scales:
                settings = {PREFERENCE.name: preference, **given, **own}
                if scale is not None:
                    settings[SCALE.name] = scale
                settings = _used(settings)
                label = title if scale is None else f"{title}, scale {scale}"
                made.append(Start(label, settings, self._params(settings, preference, names) if inside else None))
        return made

    def params_of(self, settings: ParameterValues, names: Sequence[str], first: Preference) -> Params | None:
        """The numbers that stand for the settings of a merge; None where they lie outside of what is searched. `first`:
        the preference where none is searched.
        """
        preference = settings.get(PREFERENCE.name, first)
        if PREFERENCE.name not in self.searched and preference != first:
            return None
        if any(isinstance(value, list | tuple) for value in settings.values()):
            return None  # a number for each task, which no space holds
        if any(isinstance(over, Range) and not _inside(over, name, settings) for name, over in self._over().items()):
            return None
        params = self._params(settings, preference, names)
        again = self.settings(params, names, preference)
        others = {*again, *settings} - {PREFERENCE.name}
        return (
            params
            if all(_given_or_default(name, again) == _given_or_default(name, settings) for name in others)
            else None
        )

    def _given(self, tasks: int, own: Mapping[str, Any]) -> ParameterValues:
        """What holds for a trial beside its `own` settings: what is fixed, what so many tasks need, and `otherwise`."""
        given: ParameterValues = dict(self.fixed)
        if METHOD.read({**given, **own}.get(METHOD.name, FIRST_METHOD.name)) == FIRST_METHOD.name:
            given = {**self.otherwise, **FIRST_METHOD.needed(tasks), **given}
        return given

    def _params(self, settings: ParameterValues, preference: Preference, names: Sequence[str]) -> Params:
        """The numbers that stand for settings inside the space."""
        numbers: dict[str, float | str] = {}
        for name, over in self._over().items():
            if isinstance(over, TaskShares):
                shares = preference.shares(names)
                numbers.update((_share(t), float(share / max(shares))) for t, share in enumerate(shares))
            elif isinstance(over, Choices):
                numbers[name] = settings.get(name, over.values[0])
            else:
                one = FIRST_METHOD.own(_declared(name))
                numbers[name] = float(Fraction(settings.get(name, one.text(one.default))))
        return numbers


def _declared(name: str) -> Parameter[Any]:
    one = parameter(name)
    assert one is not None, "names are checked where a space is made"
    return one


def _read(name: str, value: Any) -> Any:
    return _declared(name).read(value)


def _given_or_default(name: str, settings: Mapping[str, Any]) -> Any:
    """A parameter's value in these settings of the first method, or what that method takes where they are silent."""
    if name == METHOD.name:
        return METHOD.read(settings.get(name, FIRST_METHOD.name))
    one = FIRST_METHOD.own(_declared(name))
    return one.read(settings[name]) if name in settings else one.default


def _inside(over: Range, name: str, settings: ParameterValues) -> bool:
    return over.low <= float(_given_or_default(name, settings)) <= over.high


def _share(task: int) -> str:
    return f"share {task + 1}"


def rounded(weights: Sequence[float], names: Sequence[str]) -> Preference:
    """Weights >= 0 as a preference of short decimals; all zero: equal shares."""
    total = sum(weights)
    shares = [weight / total if total > 0 else 1 / len(weights) for weight in weights]
    least = LEAST if max(shares) >= LEAST else 0.0
    kept = [share if share >= least else 0.0 for share in shares]
    return Preference.named(
        {
            name: as_text(Fraction(max(round(share / sum(kept) * 10_000), int(share > 0)), 10_000))
            for name, share in zip(names, kept, strict=True)
        }
    )


def _used(settings: ParameterValues) -> ParameterValues:
    """Without what the method has no use for, and numbers that say no more than their default does."""
    method = METHODS[METHOD.read(settings[METHOD.name])]
    kept: ParameterValues = {}
    for name, value in settings.items():
        one = _declared(name)
        idle = one.unless is not None and settings.get(one.unless.other.name) == one.unless.value
        plain = isinstance(one.search, Range) and not one.varies and value == one.text(one.default)
        if name == METHOD.name or name in OF_EVERY_MERGE or (method.honours(one) and not idle and not plain):
            kept[name] = value
    return kept
