"""The kinds of cells: for each what decides it, its spec, and what it gives, its result.

    kind         spec              result
    fixed        FixedSpec         OnAll        a merge that is the same for every target, on all test samples
    model        ModelSpec         OnAll        the base or the last checkpoint as it is, on all test samples
    similarity   SimilaritySpec    Likenesses   how much each environment resembles each task
    checkpoints  CheckpointsSpec   Counts       every single checkpoint on what the environments show
    place        TargetSpec        AtTarget     an entry that depends on the target, at one environment
    search       SearchSpec        Searched     a search on what one environment shows
    measure      MeasureSpec       Measured     the task vectors of a run

Specs and results are frozen; their JSON is the format of the cells' files, and a spec's JSON is part of a cell's key.
`plan` makes specs, `work` makes results of them, `collect` adds the results up. Not here: files and keys (`cells`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np

from prefmerge.lab.entries import Entry
from prefmerge.lab.environments import Environment
from prefmerge.preference import Preference

if TYPE_CHECKING:
    from prefmerge.analysis import Measured
    from prefmerge.target.similarity import Similarity, SimilarityKind

CellKind = Literal["fixed", "model", "similarity", "checkpoints", "place", "search", "measure"]


# Results


class Result(Protocol):
    """What a cell gives. Its kind's spec reads it from JSON."""

    def to_json(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Result)


@dataclass(frozen=True, eq=False)
class Grades:
    """A model's answers: `right` (N,) bool, sample by sample; `samples` is the digest of the samples' ids."""

    right: np.ndarray
    samples: str

    def to_json(self) -> dict[str, Any]:
        return {"right": np.packbits(self.right).tobytes().hex(), "n": len(self.right), "samples": self.samples}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grades:
        packed = np.frombuffer(bytes.fromhex(data["right"]), np.uint8)
        return cls(np.unpackbits(packed, count=data["n"]).astype(bool), data["samples"])


Scaled = Mapping[str, Grades]  # by scale


def _scaled(data: Mapping[str, Any]) -> Scaled:
    return {scale: Grades.from_json(one) for scale, one in data.items()}


V = TypeVar("V")


def _at(by_scale: Mapping[str, V], scale: str) -> dict[str, V]:
    """One scale of several. Raises KeyError."""
    return {scale: by_scale[scale]} if by_scale else {}


def _unscaled(scales: Scaled) -> dict[str, Any]:
    return {scale: one.to_json() for scale, one in scales.items()}


@dataclass(frozen=True, eq=False)
class OnAll:
    """One model at each scale, judged on all test samples. What is no merge has the scale 1.0. `prior`: environment ->
    the same on the samples that judge there, with the log prior of that environment.
    """

    scales: Scaled
    prior: Mapping[str, Scaled] = field(default_factory=dict)

    def only(self, scale: str) -> OnAll:
        return OnAll(_at(self.scales, scale), {key: _at(scales, scale) for key, scales in self.prior.items()})

    def to_json(self) -> dict[str, Any]:
        prior = {"prior": {key: _unscaled(scales) for key, scales in self.prior.items()}} if self.prior else {}
        return {"scales": _unscaled(self.scales), **prior}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OnAll:
        return cls(_scaled(data["scales"]), {key: _scaled(scales) for key, scales in data.get("prior", {}).items()})


@dataclass(frozen=True)
class Likeness:
    """How much an environment resembles each of T tasks, as a cell keeps it; `whole` is the JSON of a `Similarity`."""

    whole: Mapping[str, Any]

    @classmethod
    def of(cls, similarity: Similarity) -> Likeness:
        return cls(similarity.to_json())

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(self.whole["shares"])

    def preference(self) -> Preference:
        """The shares as a preference, from the logarithms: nothing underflows."""
        logs = [-math.inf if one is None else float(one) for one in self.whole["log_similarities"]]
        return Preference.from_log_similarities(logs, self.whole["names"])


@dataclass(frozen=True)
class Likenesses:
    """The similarities of all environments and tasks: kind -> key of an environment -> likeness."""

    kinds: Mapping[str, Mapping[str, Likeness]]

    def to_json(self) -> dict[str, Any]:
        kinds = {kind: {key: dict(one.whole) for key, one in by_key.items()} for kind, by_key in self.kinds.items()}
        return {"kinds": kinds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Likenesses:
        return cls(
            {kind: {key: Likeness(one) for key, one in by_key.items()} for kind, by_key in data["kinds"].items()}
        )


@dataclass(frozen=True)
class Counts:
    """scale -> key of an environment -> how many shown samples each checkpoint names correctly, (T,)."""

    scales: Mapping[str, Mapping[str, tuple[int, ...]]]

    def only(self, scale: str) -> Counts:
        return Counts(_at(self.scales, scale))

    def to_json(self) -> dict[str, Any]:
        return {"scales": {scale: {key: list(n) for key, n in by_key.items()} for scale, by_key in self.scales.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        return cls({scale: {key: tuple(n) for key, n in by_key.items()} for scale, by_key in data["scales"].items()})


@dataclass(frozen=True, eq=False)
class AtTarget:
    """One entry judged at one environment: at each scale, with the shares that it merged by or what it chose. `prior`:
    with the environment's log prior on the answers. An entry that chooses its own scale has the scale "". `estimate`:
    the accuracy that it promised, and its interval.
    """

    scales: Scaled
    shares: tuple[float, ...] | None = None
    chosen: Mapping[str, str] | None = None  # by scale
    prior: Scaled = field(default_factory=dict)
    estimate: tuple[float, ...] | None = None

    def only(self, scale: str) -> AtTarget:
        chosen = None if self.chosen is None else _at(self.chosen, scale)
        return replace(self, scales=_at(self.scales, scale), chosen=chosen, prior=_at(self.prior, scale))

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"scales": _unscaled(self.scales)}
        if self.shares is not None:
            said["shares"] = list(self.shares)
        if self.chosen is not None:
            said["chosen"] = dict(self.chosen)
        if self.prior:
            said["prior"] = _unscaled(self.prior)
        if self.estimate is not None:
            said["estimate"] = list(self.estimate)
        return said

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AtTarget:
        return cls(
            _scaled(data["scales"]),
            _numbers(data.get("shares")),
            data.get("chosen"),
            _scaled(data.get("prior", {})),
            _numbers(data.get("estimate")),
        )


@dataclass(frozen=True, eq=False)
class Searched:
    """What a search chose for one environment, in words, and how well that does."""

    answers: Grades
    shares: tuple[float, ...] | None
    chosen: str
    trials: int

    def to_json(self) -> dict[str, Any]:
        return {
            "scales": {"": self.answers.to_json()},  # a search chooses its own
            "shares": None if self.shares is None else list(self.shares),
            "chosen": {"": self.chosen},
            "trials": self.trials,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Searched:
        (answers,) = _scaled(data["scales"]).values()
        return cls(answers, _numbers(data["shares"]), data["chosen"][""], data["trials"])


def _numbers(data: Any) -> tuple[float, ...] | None:
    return None if data is None else tuple(data)


# Specs


@dataclass(frozen=True)
class Mark:
    """An environment as a spec names it: `key` finds it, digest and contents are what it held."""

    name: str
    variant: int
    digest: str
    contents: str

    @classmethod
    def of(cls, environment: Environment) -> Mark:
        return cls(environment.name, environment.variant, environment.digest, environment.contents)

    @property
    def key(self) -> str:
        return f"{self.name}/{self.variant}"

    def to_json(self) -> list[Any]:
        return [self.name, self.variant, self.digest, self.contents]


class Spec(ABC, Generic[R]):
    """What decides the result of a cell, beside its run."""

    kind: ClassVar[CellKind]

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

    @abstractmethod
    def result(self, data: Mapping[str, Any]) -> R:
        """The result that was kept as `data`."""

    @property
    def scale(self) -> str | None:
        """The one scale that it is about; None where there are none, or several."""
        scales = getattr(self, "scales", ())
        return scales[0] if len(scales) == 1 else None


@dataclass(frozen=True)
class FixedSpec(Spec[OnAll]):
    """A merge that is the same for every target, judged on all test samples; with the prior of these environments."""

    kind: ClassVar[CellKind] = "fixed"
    settings: Mapping[str, Any]  # parameters of the merge, without scale and seed
    scales: tuple[str, ...]
    samples: str  # digest of all test samples
    seed: int
    batch: int
    priors: tuple[Mark, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "scales": list(self.scales),
            "samples": self.samples,
            "seed": self.seed,
            "batch": self.batch,
            **({"priors": [mark.to_json() for mark in self.priors]} if self.priors else {}),
        }

    def result(self, data: Mapping[str, Any]) -> OnAll:
        return OnAll.from_json(data)


@dataclass(frozen=True)
class ModelSpec(Spec[OnAll]):
    """The base or the last checkpoint as it is, judged on all test samples."""

    kind: ClassVar[CellKind] = "model"
    which: Literal["base", "last"]
    samples: str
    batch: int

    def to_json(self) -> dict[str, Any]:
        return {"which": self.which, "samples": self.samples, "batch": self.batch}

    def result(self, data: Mapping[str, Any]) -> OnAll:
        return OnAll.from_json(data)


@dataclass(frozen=True)
class SimilaritySpec(Spec[Likenesses]):
    """The similarities of these environments' shown samples and the tasks."""

    kind: ClassVar[CellKind] = "similarity"
    kinds: Mapping[SimilarityKind, Mapping[str, Any]]  # with the parameters of each
    samples_per_task: int
    environments: tuple[Mark, ...]
    batch: int

    def to_json(self) -> dict[str, Any]:
        return {
            "kinds": {kind: dict(settings) for kind, settings in self.kinds.items()},
            "samples_per_task": self.samples_per_task,
            "environments": [mark.to_json() for mark in self.environments],
            "batch": self.batch,
        }

    def result(self, data: Mapping[str, Any]) -> Likenesses:
        return Likenesses.from_json(data)


@dataclass(frozen=True)
class CheckpointsSpec(Spec[Counts]):
    """Every single checkpoint on these environments' shown samples."""

    kind: ClassVar[CellKind] = "checkpoints"
    scales: tuple[str, ...]
    environments: tuple[Mark, ...]
    batch: int

    def to_json(self) -> dict[str, Any]:
        return {
            "scales": list(self.scales),
            "environments": [mark.to_json() for mark in self.environments],
            "batch": self.batch,
        }

    def result(self, data: Mapping[str, Any]) -> Counts:
        return Counts.from_json(data)


@dataclass(frozen=True)
class TargetSpec(Spec[AtTarget]):
    """An entry that depends on the target, at one environment."""

    kind: ClassVar[CellKind] = "place"
    entry: Entry
    environment: Mark
    scales: tuple[str, ...]
    seed: int
    batch: int
    # What decides the similarity that is read, if one is; not that cell's key: another environment there changes
    # nothing here.
    similarity: Mapping[str, Any] | None = None
    samples: int | None = None
    prior: bool = False  # judge it with the environment's log prior too

    def to_json(self) -> dict[str, Any]:
        read = {} if self.similarity is None else {"similarity": dict(self.similarity), "samples": self.samples}
        read |= {"prior": True} if self.prior else {}
        return {
            "method": self.entry.to_json(),
            "environment": self.environment.to_json(),
            "scales": list(self.scales),
            "seed": self.seed,
            "batch": self.batch,
            **read,
        }

    def result(self, data: Mapping[str, Any]) -> AtTarget:
        return AtTarget.from_json(data)


@dataclass(frozen=True)
class SearchSpec(Spec[Searched]):
    """The paper's search on the shown samples of one environment. Its entry's settings hold where none are searched."""

    kind: ClassVar[CellKind] = "search"
    entry: Entry
    environment: Mark
    seed: int
    batch: int
    trials: int
    patience: int

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.entry.to_json(),
            "environment": self.environment.to_json(),
            "seed": self.seed,
            "batch": self.batch,
            "search": {"trials": self.trials, "patience": self.patience},
        }

    def result(self, data: Mapping[str, Any]) -> Searched:
        return Searched.from_json(data)


@dataclass(frozen=True)
class MeasureSpec(Spec["Measured"]):
    """The task vectors of a run, measured."""

    kind: ClassVar[CellKind] = "measure"

    def to_json(self) -> dict[str, Any]:
        return {}

    def result(self, data: Mapping[str, Any]) -> Measured:
        from prefmerge.analysis import Measured

        return Measured.from_json(data)
