"""Which settings of a merge a search tries, and the numbers that stand for them.

    share t = u_t / sum u,  u in [0, 1]^T;   scale in [0.1, 1.5];   strength, carry in [0, 1];   the others are choices

Source: Tunable MAGMAX, section 3.3, for the shares. What is not searched is fixed, or the default of `merge`. A trial's
settings are rounded (shares to 1/10,000, below 1/100 to nothing; scale to 1/1,000; strength and carry to 1/100) before
they are tried, so that what is printed is what was measured. Left out: how the numbers are chosen (`study`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from prefmerge.errors import UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.recipe import CONVERTERS
from prefmerge.methods import METHODS
from prefmerge.methods.records import MOST_COMPETING
from prefmerge.preference import Preference, as_text

Params = Mapping[str, float | str]  # what optuna knows of a trial
Settings = dict[str, Any]  # what `merge` takes; all but the preference as text
Dimension = tuple[float, float] | tuple[str, ...]

# By default the dials that cost nothing more and that may change the result most. Selection stays `paper`: `optimal`
# takes much longer to merge, and a search makes dozens of merges.
DEFAULT = ("preference", "scale", "strength", "carry")
SCALES = (0.1, 1.5)
FIRST_SCALES = ("0.5", "1")  # the paper's two
CHOICES: Mapping[str, tuple[str, ...]] = {
    "selection": ("paper", "optimal"),
    "importance": ("magnitude", "step"),
    "method": ("tunable_magmax", "ties", "average", "task_arithmetic", "last"),  # MAGMAX is strength 0
}
DIMENSIONS = (*DEFAULT, *CHOICES)
LEAST = 0.01  # a smaller share is none: it would cost a reading and change next to nothing


@dataclass(frozen=True)
class Start:
    """A trial to begin with: the result is never worse than these on the samples that decide."""

    what: str
    settings: Settings
    params: Params | None  # None: outside of what is searched, so the sampler learns nothing from it


@dataclass(frozen=True)
class Space:
    """`searched`: some of DIMENSIONS. `fixed`: settings of `merge` that hold for every trial.

    A preference that is not searched is the one to begin with. Raises UsageError for what makes no sense.
    """

    searched: tuple[str, ...] = DEFAULT
    fixed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.searched:
            if name not in DIMENSIONS:
                raise UsageError(
                    f"{name!r} cannot be searched; what can is {', '.join(DIMENSIONS)}.{did_you_mean(name, DIMENSIONS)}"
                )
        for name, value in self.fixed.items():
            if name in self.searched:
                raise UsageError(f"{name} is fixed at {value} and searched. Take one of them out.")
            if name not in CONVERTERS or name in ("preference", "as_task_vector", "weight"):
                raise UsageError(f"{name!r} is not a setting that can be fixed.{did_you_mean(name, CONVERTERS)}")
            try:
                CONVERTERS[name](value)
            except ValueError as error:
                raise UsageError(f"{name}={value}: {error}.") from error
        for name in (*self.searched, *self.fixed):
            if name not in ("scale", "method", "dtype", "exclude") and name not in self._options:
                raise UsageError(
                    f"{name} has no use with method {self.fixed.get('method', 'tunable_magmax')}. Leave it out."
                )
        if not self.searched:
            raise UsageError(f"nothing to search: name at least one of {', '.join(DIMENSIONS)}.")

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
        return {"searched": sorted(self.searched, key=DIMENSIONS.index), "fixed": dict(sorted(self.fixed.items()))}

    @property
    def _options(self) -> frozenset[str]:
        """The settings that a method in question honours, beyond scale."""
        if "method" in self.searched:
            return frozenset().union(*(METHODS[name].options for name in CHOICES["method"]))
        return METHODS[CONVERTERS["method"](self.fixed.get("method", "tunable_magmax"))].options

    def dimensions(self, tasks: int) -> dict[str, Dimension]:
        """The range or the choices of every number that stands for a setting."""
        found: dict[str, Dimension] = {}
        for name in DIMENSIONS:
            if name not in self.searched:
                continue
            if name == "preference":
                found.update((_share(t), (0.0, 1.0)) for t in range(tasks))
            else:
                found[name] = CHOICES.get(name, SCALES if name == "scale" else (0.0, 1.0))
        return found

    def settings(self, params: Params, names: Sequence[str], first: Preference) -> Settings:
        """What to merge with for these numbers; `first` is the preference where none is searched."""
        found: Settings = {"method": "tunable_magmax", "preference": first, **self._defaults(len(names)), **self.fixed}
        if "preference" in self.searched:
            found["preference"] = rounded([float(params[_share(t)]) for t in range(len(names))], names)
        for name, digits in (("scale", 3), ("strength", 2), ("carry", 2)):
            if name in self.searched:
                found[name] = as_text(Fraction(round(float(params[name]) * 10**digits), 10**digits))
        found.update((name, str(params[name])) for name in CHOICES if name in self.searched)
        return _honoured(found)

    def starts(self, names: Sequence[str], first: Preference | None) -> list[Start]:
        """The trials to begin with: the first preference (else equal shares) and MAGMAX, at scale 0.5 and 1."""
        what = "equal shares" if first is None else "label preference"
        preference = Preference.uniform() if first is None else first
        scales: Sequence[str | None] = FIRST_SCALES if "scale" in self.searched else (self.fixed.get("scale"),)
        found: list[Start] = []
        for title, own in (
            (what, {"strength": self.fixed.get("strength", "1"), "carry": self.fixed.get("carry", "0")}),
            ("MAGMAX", {"strength": "0", "carry": "0", "importance": "magnitude"}),
        ):
            for scale in scales:
                settings = {"preference": preference, **self._defaults(len(names)), **self.fixed, **own}
                settings["method"] = "tunable_magmax"
                if scale is not None:
                    settings["scale"] = scale
                inside = all(CONVERTERS[n](v) == CONVERTERS[n](settings[n]) for n, v in self.fixed.items())
                inside &= title != "MAGMAX" or "strength" in self.searched
                settings = _honoured(settings)
                label = title if scale is None else f"{title}, scale {scale}"
                found.append(Start(label, settings, self._params(settings, preference, names) if inside else None))
        return found

    def _defaults(self, tasks: int) -> dict[str, str]:
        # Only `optimal` takes more tasks than a mask holds.
        return {"selection": "optimal"} if tasks > MOST_COMPETING and "selection" not in self.searched else {}

    def _params(self, settings: Settings, preference: Preference, names: Sequence[str]) -> Params:
        """The numbers that stand for settings inside the space."""
        defaults = {"scale": "0.5", "strength": "1", "carry": "0", **{name: all_[0] for name, all_ in CHOICES.items()}}
        found: dict[str, float | str] = {}
        for name in self.searched:
            if name == "preference":
                shares = preference.shares(names)
                found.update((_share(t), float(share / max(shares))) for t, share in enumerate(shares))
            else:
                value = settings.get(name, defaults[name])
                found[name] = value if name in CHOICES else float(Fraction(value))
        return found


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


def _honoured(settings: Settings) -> Settings:
    """Without what the method has no use for, or what says no more than its default does."""
    method = METHODS[CONVERTERS["method"](settings["method"])]
    plain = {"strength": "1", "carry": "0", "selection": "paper", "importance": "magnitude"}
    used = {"method", "scale", "dtype", "exclude"} | method.options
    if settings.get("selection") == "optimal":
        used -= {"passes"}
    return {name: value for name, value in settings.items() if name in used and value != plain.get(name)}
