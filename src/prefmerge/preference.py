"""From what a user says of the target to element budgets, in exact arithmetic.

    n_t = floor(s_t d) + 1{t is among the first R tasks with s_t > 0},   R = d - sum floor(s_t d)

Source: Tunable MAGMAX, eq. 5, 6 (budgets), 8, 9 (geometric). Shares s_t >= 0 sum to 1 and are fractions of what was
written: `0.57` of 100 elements is 57. `carried` and `blended` (carry, strength) are ours. Cost: T fractions; nothing
here touches a tensor. Not here: where a preference comes from (labels, features: `prefmerge.target.similarity`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from prefmerge.errors import PreferenceError
from prefmerge.ground.words import did_you_mean

Number = int | float | str | Fraction
PreferenceKind = Literal["uniform", "geometric", "shares", "counts"]

FORMAT = "prefmerge-preference/1"
LARGEST_EXPONENT = 400  # beyond every float; with more digits exact arithmetic takes for ever


def exact(value: Any, what: str = "number") -> Fraction:
    """The number as it was written: `0.57` is 57/100, also when it comes as a float. Raises PreferenceError for NaN,
    infinity and non-numbers.
    """
    if isinstance(value, bool):
        raise PreferenceError(f"{what}: expected a number, found {value!r}.")
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    # str() of a Python or NumPy float is the shortest text that reads back as that float: what the user wrote.
    text = str(value).strip()
    exponent = re.search(r"[eE][+-]?0*([0-9]+)$", text)
    if exponent is not None and (len(exponent[1]) > 3 or int(exponent[1]) > LARGEST_EXPONENT):
        raise PreferenceError(f"{what}: {text!r} is beyond any share or scale; write a number such as 0.8 or 4/5.")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise PreferenceError(f"{what}: expected a finite number such as 0.8 or 4/5, found {str(value)!r}.") from error


def exact_share(value: Any, what: str) -> Fraction:
    """`exact`, where `80%` is 4/5 too."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return exact(value.rstrip()[:-1], what) / 100
    return exact(value, what)


def as_text(value: Fraction) -> str:
    """The shortest exact text: a decimal where one exists, else numerator/denominator."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1 or value.denominator > 10**30:
        return str(value)
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    if digits == 0:
        return str(value.numerator)
    whole = f"{abs((value * 10**digits).numerator):0{digits + 1}d}"
    return f"{'-' if value < 0 else ''}{whole[:-digits]}.{whole[-digits:]}"


def _normalised(values: Sequence[Fraction], what: str) -> tuple[Fraction, ...]:
    negative = [i for i, v in enumerate(values) if v < 0]
    if negative:
        raise PreferenceError(
            f"{what}: share {negative[0] + 1} is {as_text(values[negative[0]])}; shares cannot be negative."
        )
    total = sum(values, Fraction(0))
    if total == 0:
        raise PreferenceError(f"{what}: every share is zero. Give at least one task a positive share.")
    return tuple(v / total for v in values)


@dataclass(frozen=True)
class Preference:
    """How much each task matters for the target. Build one with a constructor below; `shares(names)` resolves it for T
    tasks.

    Not tied to a number of tasks until resolved, except explicit shares and counts.
    """

    kind: PreferenceKind = "uniform"  # `uniform`, `geometric` (alpha), `shares` or `counts` (elements)
    values: tuple[Fraction, ...] = ()  # shares or counts; (alpha,) when geometric
    names: tuple[str, ...] | None = None  # the tasks that `values` speak of; None: by position

    @classmethod
    def uniform(cls) -> Preference:
        """The same share for every task."""
        return cls()

    @classmethod
    def geometric(cls, alpha: Number) -> Preference:
        """s_t proportional to alpha^(T - t) (paper eq. 8, 9): alpha > 1 favours early tasks, alpha < 1 late ones, 0 the
        last alone.
        """
        value = exact(alpha, "alpha")
        if value < 0:
            raise PreferenceError(f"alpha is {as_text(value)}; it cannot be negative.")
        return cls("geometric", (value,))

    @classmethod
    def explicit(cls, shares: Sequence[Number]) -> Preference:
        """One share per task, in order; normalised, so `[8, 2]` is `[0.8, 0.2]`; `"80%"` is 0.8."""
        values = tuple(exact_share(s, f"share {i + 1}") for i, s in enumerate(shares))
        _normalised(values, "preference")
        return cls("shares", values)

    @classmethod
    def named(cls, shares: Mapping[str, Number]) -> Preference:
        """Shares by task name; a task left out gets zero."""
        values = tuple(exact_share(s, f"share of {name!r}") for name, s in shares.items())
        _normalised(values, "preference")
        return cls("shares", values, tuple(shares))

    @classmethod
    def counts(cls, counts: Sequence[int]) -> Preference:
        """The paper's preference vector n itself: elements per task over the whole model (scope `model` only)."""
        for i, n in enumerate(counts):
            if isinstance(n, bool) or exact(n).denominator != 1 or n < 0:
                raise PreferenceError(f"count {i + 1}: expected a number of elements >= 0, found {n!r}.")
        values = tuple(Fraction(int(n)) for n in counts)
        _normalised(values, "counts")
        return cls("counts", values)

    @classmethod
    def from_similarities(cls, similarities: Sequence[Number], names: Sequence[str] | None = None) -> Preference:
        """s_t = sim_t / sum sim (paper eq. 5, 6). Use `from_log_similarities` where sim is an exponential."""
        values = tuple(exact(s, f"similarity {i + 1}") for i, s in enumerate(similarities))
        _normalised(values, "similarities")
        return cls("shares", values, _checked_names(names, len(values)))

    @classmethod
    def from_log_similarities(cls, log_similarities: Sequence[float], names: Sequence[str] | None = None) -> Preference:
        """s_t proportional to exp(log_sim_t), formed in log space: exp(-100 d) underflows float32 at d = 1, this does
        not.
        """
        logs = [float(v) for v in log_similarities]
        if any(math.isnan(v) or v == math.inf for v in logs):
            raise PreferenceError(f"log similarities must be numbers below infinity, found {logs}.")
        top = max(logs, default=-math.inf)
        if top == -math.inf:
            raise PreferenceError(
                "no task has any similarity to the place: every similarity is zero. Check that they share inputs or "
                "labels."
            )
        return cls("shares", tuple(exact(math.exp(v - top)) for v in logs), _checked_names(names, len(logs)))

    @classmethod
    def parse(cls, spec: str) -> Preference:
        """`uniform`, `alpha:2`, `0.8,0.2,0`, `80%,20%,0`, `cars=0.8,birds=0.2` or `@preference.json`. Raises
        PreferenceError.
        """
        text = spec.strip()
        if text.startswith("@"):
            return cls.load(text[1:])
        if text == "uniform":
            return cls.uniform()
        if text.startswith("alpha:"):
            return cls.geometric(text.removeprefix("alpha:"))
        parts = [part.strip() for part in text.split(",")]
        if all("=" in part for part in parts):
            pairs = [part.rpartition("=") for part in parts]
            names = [name.strip() for name, _, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise PreferenceError(f"preference {spec!r} names {twice[0]!r} twice.")
            return cls.named({name: share for name, (_, _, share) in zip(names, pairs, strict=True)})
        try:
            return cls.explicit(parts)
        except PreferenceError as error:
            raise PreferenceError(
                f"preference {spec!r}: {error} Write uniform, alpha:2, shares in the order of the tasks (0.8,0.2), "
                "shares by name (cars=0.8,birds=0.2) or @preference.json."
            ) from error

    def shares(self, names: Sequence[str]) -> tuple[Fraction, ...]:
        """The share of each of the T tasks called `names`, in order; they sum to exactly 1. Raises PreferenceError when
        it does not fit them.
        """
        count = len(names)
        if count == 0:
            raise PreferenceError("a preference needs at least one task.")
        if self.kind == "uniform":
            return (Fraction(1, count),) * count
        if self.kind == "geometric":
            alpha = self.values[0]
            return _normalised([alpha ** (count - 1 - i) for i in range(count)], "preference")
        if self.names is None:
            if len(self.values) != count:
                what = "counts" if self.kind == "counts" else "shares"
                raise PreferenceError(
                    f"the preference has {len(self.values)} {what}, but there are {count} tasks: {', '.join(names)}. "
                    "Give one per task, in this order."
                )
            return _normalised(self.values, "preference")
        given = dict(zip(self.names, self.values, strict=True))
        for name in given:
            if name not in names:
                raise PreferenceError(
                    f"the preference names {name!r}, but the tasks are {', '.join(names)}.{did_you_mean(name, names)}"
                )
        return _normalised([given.get(name, Fraction(0)) for name in names], "preference")

    def left_out(self, names: Sequence[str]) -> list[str]:
        """The tasks that a named preference does not mention: they get zero, and the plan says so."""
        return [name for name in names if name not in self.names] if self.names is not None else []

    def describe(self) -> str:
        """The preference as one would type it."""
        if self.kind == "uniform":
            return "uniform"
        if self.kind == "geometric":
            return f"alpha:{as_text(self.values[0])}"
        if self.names is not None:
            return ",".join(f"{name}={as_text(value)}" for name, value in zip(self.names, self.values, strict=True))
        return ("counts:" if self.kind == "counts" else "") + ",".join(as_text(value) for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; numbers are text, so that nothing is rounded."""
        data: dict[str, Any] = {"format": FORMAT, "kind": self.kind, "values": [as_text(v) for v in self.values]}
        if self.names is not None:
            data["names"] = list(self.names)
        return data

    @classmethod
    def from_json(cls, data: Any) -> Preference:
        """The inverse of `to_json`. Also takes a plain list of shares, an object of shares by name, or {"counts":
        [...]}.
        """
        if isinstance(data, list):
            return cls.explicit(data)
        if not isinstance(data, Mapping):
            raise PreferenceError(f"a preference file holds a list or an object, found {type(data).__name__}.")
        if "format" not in data:
            return cls.counts(_listed(data, "counts")) if list(data) == ["counts"] else cls.named(data)
        if data["format"] != FORMAT:
            raise PreferenceError(f"preference format {data['format']!r} is not known; this version reads {FORMAT!r}.")
        kind, values = data.get("kind"), _listed(data, "values")
        names = None if data.get("names") is None else _listed(data, "names")
        if names is not None and not all(isinstance(name, str) for name in names):
            raise PreferenceError("'names' holds something else than names of tasks.")
        if kind == "uniform":
            return cls.uniform()
        if kind == "geometric" and len(values) == 1:
            return cls.geometric(values[0])
        if kind == "counts":
            return cls.counts([int(exact(v, "count")) for v in values])
        if kind == "shares":
            if names is None:
                return cls.explicit(values)
            if len(names) != len(values) or len(set(names)) != len(names):
                raise PreferenceError(
                    f"the preference has {len(names)} names and {len(values)} shares; each name needs one share."
                )
            return cls.named(dict(zip(names, values, strict=True)))
        raise PreferenceError(f"preference kind {kind!r} is not known; use uniform, geometric, shares or counts.")

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        from prefmerge.ground import jsons  # where files are: help texts need the rest

        jsons.write(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Preference:
        """Read a file that `save` or `prefmerge prefer` wrote. Raises PreferenceError naming the file."""
        from prefmerge.ground import jsons

        try:
            return cls.from_json(jsons.read(Path(path)))
        except FileNotFoundError as error:
            raise PreferenceError(f"preference file {str(path)!r} does not exist.") from error
        except (OSError, jsons.NotJson) as error:
            raise PreferenceError(f"preference file {str(path)!r} cannot be read as JSON: {error}.") from error
        except PreferenceError as error:
            raise PreferenceError(f"preference file {str(path)!r}: {error}") from error
        except (TypeError, ValueError) as error:
            raise PreferenceError(f"preference file {str(path)!r} is not a preference: {error}.") from error


def _listed(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise PreferenceError(f"{key!r}: expected a list, found {type(value).__name__}.")
    return value


def _checked_names(names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if len(names) != count or len(set(names)) != count:
        raise PreferenceError(f"expected {count} different task names, found {list(names)}.")
    return tuple(names)


def budgets(shares: Sequence[Fraction], elements: int, *, also_zero: bool = False) -> tuple[int, ...]:
    """Elements per task, summing to `elements` (paper eq. 5, 6). The remainder goes one each to the first tasks with a
    positive share; with `also_zero` to the first tasks, whatever their share, as in the authors' released code.
    """
    # Whole numbers: a scope may be a tensor, and models have many.
    floors = [share.numerator * elements // share.denominator for share in shares]
    rest = elements - sum(floors)
    for i, share in enumerate(shares):
        if rest and (also_zero or share.numerator > 0):
            floors[i] += 1
            rest -= 1
    return tuple(floors)


def carried(shares: Sequence[Fraction], carry: Fraction) -> tuple[Fraction, ...]:
    """s'_t proportional to the sum over q <= t of s_q carry^(t - q): what task q taught lives on, fading, in the
    vectors after it. Ours; 0 changes nothing.
    """
    if not 0 <= carry <= 1:
        raise PreferenceError(f"carry is {as_text(carry)}; it must lie between 0 and 1.")
    result: list[Fraction] = []
    running = Fraction(0)
    for share in shares:
        running = running * carry + share
        result.append(running)
    return _normalised(result, "carried shares")


def blended(shares: Sequence[Fraction], strength: Fraction, own: Sequence[int]) -> tuple[Fraction, ...]:
    """strength * preference + (1 - strength) * MAGMAX's own shares, where `own` counts the elements that each task owns
    under MAGMAX. Ours; 1 changes nothing.
    """
    if not 0 <= strength <= 1:
        raise PreferenceError(f"strength is {as_text(strength)}; it must lie between 0 and 1.")
    elements = sum(own)
    if elements == 0:
        return tuple(shares)
    return tuple(
        strength * share + (1 - strength) * Fraction(count, elements) for share, count in zip(shares, own, strict=True)
    )
