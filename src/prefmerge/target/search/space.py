"""Which settings of a merge a search tries, and the numbers that stand for them.

    share t = u_t / sum u,  u in [0, 1]^T;   what is declared with a range lies in it;   the others are choices

Which parameters of which methods can be searched, and over what, is declared with them. Source: Tunable MAGMAX, section
3.3, for the shares. What is not searched is fixed, or the default of `merge`. A trial's settings are rounded (shares to
1/10,000, below 1/100 to nothing; the others to the digits that are declared) before they are tried, so that what is
printed is what was measured. Not here: how the numbers are chosen (`study`).
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
    """`searched`: some of `searchable`. `fixed`: parameters of `merge` that hold for every trial.

    A preference that is not searched is the one that the search starts with. Raises UsageError for what makes no sense.
    """

    searched: tuple[str, ...] = field(default_factory=usual)
    fixed: Mapping[str, str] = field(default_factory=dict)

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
    def parse(cls, text: str) -> Space:
        """`preference,scale,selection=optimal`: names to search, name=value to fix. Raises UsageError."""
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
        return cls(tuple(searched), fixed)

    def to_json(self) -> dict[str, Any]:
        order = list(searchable())
        return {"searched": sorted(self.searched, key=order.index), "fixed": dict(sorted(self.fixed.items()))}

    @property
    def _honoured(self) -> frozenset[str]:
        """The parameters that a method in question honours."""
        if METHOD.name in self.searched:
            return frozenset().union(*(one.options for one in METHODS.values() if one.searched))
        return METHODS[METHOD.read(self.fixed.get(METHOD.name, FIRST_METHOD.name))].options

    def _over(self) -> dict[str, Range | Choices | TaskShares]:
        """What is searched, in order, and over what."""
        return {name: over for name, over in searchable().items() if name in self.searched}

    def others(self) -> list[ParameterValues]:
        """Settings that try each choice in turn that is not the default: what may be refused."""
        return [
            {name: value}
            for name, over in self._over().items()
            if isinstance(over, Choices) and name != METHOD.name
            for value in over.values[1:]
        ]

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
        chosen: ParameterValues = {METHOD.name: FIRST_METHOD.name, PREFERENCE.name: first}
        chosen |= {**self._needed(len(names)), **self.fixed}
        for name, over in self._over().items():
            if isinstance(over, TaskShares):
                chosen[name] = rounded([float(params[_share(t)]) for t in range(len(names))], names)
            elif isinstance(over, Choices):
                chosen[name] = str(params[name])
            else:
                chosen[name] = as_text(Fraction(round(float(params[name]) * 10**over.digits), 10**over.digits))
        return _used(chosen)

    def starts(self, names: Sequence[str], first: Preference | None) -> list[Start]:
        """The trials that the search starts with: the first preference (else equal shares), then what the method starts
        with (MAGMAX), at the first scales (0.5 and 1).
        """
        what = "equal shares" if first is None else "label preference"
        preference = Preference.uniform() if first is None else first
        over = self._over().get(SCALE.name)
        scales = over.first if isinstance(over, Range) else (self.fixed.get(SCALE.name),)
        made: list[Start] = []
        for title, own in ((what, {}), *FIRST_METHOD.starts):
            for scale in scales:
                settings = {
                    PREFERENCE.name: preference,
                    **self._firsts(),
                    **self._needed(len(names)),
                    **self.fixed,
                    **own,
                }
                settings[METHOD.name] = FIRST_METHOD.name
                if scale is not None:
                    settings[SCALE.name] = scale
                inside = all(_read(n, v) == _read(n, settings.get(n, v)) for n, v in self.fixed.items())
                inside &= all(n in self.searched or _read(n, v) == _declared(n).default for n, v in own.items())
                settings = _used(settings)
                label = title if scale is None else f"{title}, scale {scale}"
                made.append(Start(label, settings, self._params(settings, preference, names) if inside else None))
        return made

    def _firsts(self) -> ParameterValues:
        """The first choice of what is searched and has no default that every merge shares."""
        over = {name: one for name, one in self._over().items() if name != METHOD.name and _declared(name).varies}
        return {name: one.values[0] for name, one in over.items() if isinstance(one, Choices)}

    def params_of(self, settings: ParameterValues, names: Sequence[str], first: Preference) -> Params | None:
        """The numbers that stand for the settings of a merge; None where they lie outside of what is searched. `first`:
        the preference where none is searched.
        """
        preference = settings.get(PREFERENCE.name, first)
        if PREFERENCE.name not in self.searched and preference != first:
            return None
        if any(isinstance(over, Range) and not _inside(over, name, settings) for name, over in self._over().items()):
            return None
        params = self._params(settings, preference, names)
        again = self.settings(params, names, preference)
        others = {*again, *settings} - {PREFERENCE.name}
        return params if all(_as_used(name, again) == _as_used(name, settings) for name in others) else None

    def _needed(self, tasks: int) -> ParameterValues:
        """What so many tasks need, where it is not searched."""
        return {name: value for name, value in FIRST_METHOD.needed(tasks).items() if name not in self.searched}

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


def _as_used(name: str, settings: ParameterValues) -> Any:
    """What the first method makes of a parameter that may not be given."""
    if name == METHOD.name:
        return METHOD.read(settings.get(name, FIRST_METHOD.name))
    one = FIRST_METHOD.own(_declared(name))
    return one.read(settings[name]) if name in settings else one.default


def _inside(over: Range, name: str, settings: ParameterValues) -> bool:
    return over.low <= float(_as_used(name, settings)) <= over.high


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
    """Without what the method has no use for, or what is searched elsewhere and says no more than its default does."""
    method = METHODS[METHOD.read(settings[METHOD.name])]
    kept: ParameterValues = {}
    for name, value in settings.items():
        one = _declared(name)
        idle = one.unless is not None and settings.get(one.unless.other.name) == one.unless.value
        plain = one.search is not None and not one.varies and value == one.text(one.default)
        if name == METHOD.name or name in OF_EVERY_MERGE or (method.honours(one) and not idle and not plain):
            kept[name] = value
    return kept
