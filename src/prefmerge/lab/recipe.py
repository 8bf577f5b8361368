"""The recipe of an experiment: runs, methods, environments, studies, with the papers' protocol as defaults.

    runs: {sequential: [runs/seed-3, runs/seed-4]}       # or, trained where they are not there yet:
    finetune: cifar100.yaml
    seeds: [3, 4, 5]

Read from YAML, checked, with every default spelled out in the output's `recipe.yaml`. Source of the values: Tunable
MAGMAX, sections 4.1 to 4.4. Errors name file, key, value and the nearest known key. Cost: one small file. Not here:
whether runs and data exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.errors import ConfigError, PreferenceError, PrefmergeError
from prefmerge.ground.checked import checked
from prefmerge.ground.words import nearest
from prefmerge.ground.yaml_file import Section, read_mapping
from prefmerge.lab import published
from prefmerge.lab.entries import ABLATION, KNOWN, PAPERS, Entry
from prefmerge.preference import as_text, exact
from prefmerge.runs import Training
from prefmerge.training.config_file import anchored, read_config

StudyName = Literal["places", "alpha", "diversity", "methods", "analysis"]
STUDIES: tuple[str, ...] = get_args(StudyName)
RunKind = Training | Literal["held-out"]  # the last: sequential, with samples held out
HELD_OUT: RunKind = "held-out"
SIZES = ((10, 1000), (20, 500))  # tasks up to, samples of an environment (section 4.3); 200 beyond
FEWEST = 200
DIVERSE = re.compile(r"m\d+")  # what `prefmerge.lab.environments.diversity` calls its mixes


def _number(value: Any) -> str:
    """The exact text of a number as it was written."""
    try:
        return as_text(exact(value))
    except PreferenceError as error:
        raise ValueError(str(error).removeprefix("number: ").rstrip(".")) from error


class MixConfig(Section):
    """A user's own environment: `{name: clinic, ratios: [8, 2], tasks: [cars, birds]}`; else tasks are drawn."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")  # letters, digits, - and _
    ratios: tuple[str, ...] = Field(min_length=1)  # how often each task occurs there; they need not sum to 1
    tasks: tuple[str, ...] | None = None  # which tasks; None: drawn for each variant

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if DIVERSE.fullmatch(value):
            raise ValueError("names such as m3 are those of the diversity study; choose another")
        return value

    @field_validator("ratios", mode="before")
    @classmethod
    def _exact(cls, value: Any) -> Any:
        return [_number(one) for one in value] if isinstance(value, list | tuple) else value


class EnvironmentsConfig(Section):
    """The target environments of the main study."""

    mixes: Literal["papers"] | tuple[MixConfig, ...] = "papers"  # e1 to e5
    size: int | None = Field(default=None, gt=1)  # samples of each; None: the paper's for that number of tasks
    variants: tuple[int, ...] = Field(default=(42, 123, 456, 789, 1011), min_length=1)  # seeds of tasks and samples
    meta: str = "0.1"  # the share of an environment that is shown; the rest is evaluated
    frozen: str | None = None  # a manifest of an earlier experiment, to be used as it is

    @field_validator("meta", mode="before")
    @classmethod
    def _between(cls, value: Any) -> str:
        share = _number(value)
        if not 0 < Fraction(share) < 1:
            raise ValueError("expected a number between 0 and 1")
        return share


class OtConfig(Section):
    """Optimal transport: similarity exp(-gamma x the transport cost)."""

    # How the cost is found: regularised (the paper's), exactly, or regularised without its bias.
    solver: Literal["sinkhorn", "exact", "debiased"] = "sinkhorn"
    regularization: float = Field(default=0.1, gt=0)  # of the largest cost
    iterations: int = Field(default=100, gt=0)  # at most
    gamma: float = Field(default=100.0, gt=0)  # how sharply a distance tells


class CosineConfig(Section):
    """Cosine distance of the mean embeddings: similarity exp(-gamma x distance)."""

    gamma: float = Field(default=50.0, gt=0)  # how sharply a distance tells


class MmdConfig(Section):
    """Maximum mean discrepancy: similarity exp(-gamma x distance)."""

    gamma: float = Field(default=100.0, gt=0)  # how sharply a distance tells


class SimilarityConfig(Section):
    """How a target is compared with the tasks."""

    samples: int = Field(default=500, gt=1)  # training samples of each task
    ot: OtConfig = OtConfig()
    cosine: CosineConfig = CosineConfig()
    mmd: MmdConfig = MmdConfig()

    def of(self, kind: str) -> dict[str, Any]:
        """The parameters of one similarity, for the function of `prefmerge.target.similarity`."""
        return {} if kind == "label" else getattr(self, kind).model_dump()


class AlphaConfig(Section):
    """Figure 3: Tunable MAGMAX at geometric preferences."""

    values: tuple[str, ...] = ("0.25", "0.5", "1", "2", "4")  # above 1 earlier tasks get more

    @field_validator("values", mode="before")
    @classmethod
    def _exact(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        numbers = [_number(one) for one in value]
        if any(Fraction(one) < 0 for one in numbers):
            raise ValueError("an alpha cannot be negative")
        return numbers


class DiversityConfig(Section):
    """Figure 4: equal shares of M tasks."""

    counts: tuple[int, ...] = (1, 2, 3, 5, 10, 20)  # M; those above the number of tasks are left out
    variants: tuple[int, ...] = Field(default=(42, 123, 456), min_length=1)  # seeds of tasks and samples
    methods: tuple[str, ...] = PAPERS  # names of entries


class SearchConfig(Section):
    """The paper's search, `prefmerge search --paper`, for the entry `Search`."""

    trials: int = Field(default=40, gt=0)  # merges that are tried at most
    patience: int = Field(default=10, gt=0)  # it ends after so many trials that are no better; the paper's


class HeldOutConfig(Section):
    """Runs of their own for the entries that need held-out samples, where the others keep none, as in the papers."""

    samples: int = Field(default=100, gt=0)  # of each task, kept from training


class PaperConfig(Section):
    """Which published numbers stand beside ours; `prefmerge.lab.published` knows their names."""

    environments: str | None = None  # tables 2, 3 and 5 to 8: cifar100-5, ...
    ablation: str | None = None  # table 4, by the number of tasks: "5"
    supplement: str | None = None  # tables 1 and 2 of MAGMAX's supplement: vit-l-14-webimagetext, ...
    column: str | None = None  # of the supplement's table: CIFAR100/5, ...; None: average


class OwnEntry(Section):
    """An entry of the recipe's own: a merge with a preference from a similarity, or one without."""

    name: str = Field(min_length=1)  # of the row
    # Whence the preference; None: none.
    similarity: Literal["label", "ot", "cosine", "mmd"] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)  # method and parameters of the merge, without scale and seed

    @field_validator("name")
    @classmethod
    def _own(cls, value: str) -> str:
        if value in KNOWN:
            raise ValueError("that is a method of the papers or of ours, with settings of its own; choose another name")
        return value

    @field_validator("settings")
    @classmethod
    def _of_a_merge(cls, value: dict[str, Any]) -> dict[str, Any]:
        from prefmerge.merging.api import recipe_of

        for key in ("preference", "scale", "seed"):
            if key in value:
                raise ValueError(f"{key!r} is not a method's own: the experiment sets it")
        try:
            recipe_of("base", ["task"], **value)
        except PrefmergeError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return value


class Experiment(Section):
    """A whole recipe."""

    title: str | None = None  # of the report; None: the file's name
    runs: dict[RunKind, tuple[str, ...]] | None = None  # folders of runs that are there
    finetune: str | dict[str, Any] | None = None  # or the configuration of fine-tuning, and what to train with it
    seeds: tuple[int, ...] = (3, 4, 5)  # of the trainings (authors' code)
    trainings: tuple[Training, ...] | dict[Training, tuple[int, ...]] = ("sequential",)  # or with seeds for each
    # places: tables 2 to 8; alpha: figure 3; diversity: figure 4; methods, analysis: MAGMAX's supplement.
    studies: tuple[StudyName, ...] = ("places", "alpha", "diversity", "methods", "analysis")
    scales: tuple[str, ...] = Field(default=("0.5",), min_length=1)  # the paper's; every method at each
    # Names of entries, `papers`, `all`, or entries of your own.
    methods: tuple[str | OwnEntry, ...] = PAPERS + ABLATION
    environments: EnvironmentsConfig = EnvironmentsConfig()
    similarity: SimilarityConfig = SimilarityConfig()
    alpha: AlphaConfig = AlphaConfig()
    diversity: DiversityConfig = DiversityConfig()
    search: SearchConfig = SearchConfig()
    prior: bool = False  # judge each entry with the log prior of the shown labels too
    held_out: HeldOutConfig = HeldOutConfig()
    paper: PaperConfig = PaperConfig()
    batch: int = Field(default=256, gt=0)  # samples encoded at once

    @field_validator("scales", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        several = value if isinstance(value, list | tuple) else [value]
        for one in several:
            if Fraction(_number(one)) < 0:
                raise ValueError(f"{one} is negative")
        return [str(one).strip() for one in several]

    @field_validator("runs", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = {"sequential": value}
        if isinstance(value, Mapping):
            return {key: [one] if isinstance(one, str) else one for key, one in value.items()}
        return value

    @field_validator("methods", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value == "papers":
            return PAPERS + ABLATION
        if value == "all":
            return tuple(KNOWN)
        return value

    @model_validator(mode="after")
    def _checked(self) -> Experiment:
        if (self.runs is None) == (self.finetune is None):
            raise ValueError("give either runs (folders that are there) or finetune (a configuration to train with)")
        if self.runs is not None and not self.runs.get("sequential"):
            raise ValueError("runs: at least one sequential run is needed; the places and the alphas are studied on it")
        if self.finetune is not None and not self.wanted().get("sequential"):
            raise ValueError("trainings: sequential is needed; the places and the alphas are studied on it")
        for what, names in (("methods", self.methods), ("diversity.methods", self.diversity.methods)):
            shown = [one if isinstance(one, str) else one.name for one in names]
            own = [one.name for one in self.methods if isinstance(one, OwnEntry)]
            for one in names:
                if isinstance(one, str) and one not in KNOWN and one not in own:
                    near = nearest(one, [*KNOWN, *own], fold=True, cutoff=0.0)
                    raise ValueError(f"{what}: {one!r} is no method; did you mean {near!r}?")
            twice = sorted({name for name in shown if shown.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} is there twice")
        seeded = [(f"seeds of {training}", seeds) for training, seeds in self.wanted().items()]
        for what, several in (*seeded, ("environments.variants", self.environments.variants)):
            if len(set(several)) != len(several):
                raise ValueError(f"{what}: the same number twice: {list(several)}")
        return self

    def wanted(self) -> dict[RunKind, tuple[int, ...]]:
        """The runs that are trained: seeds by kind."""
        asked = self.trainings if isinstance(self.trainings, dict) else dict.fromkeys(self.trainings, self.seeds)
        wanted: dict[RunKind, tuple[int, ...]] = {**asked}
        if self.needs_held_out and not (isinstance(self.finetune, dict) and self.finetune.get("held_out")):
            wanted[HELD_OUT] = asked.get("sequential", ())
        return wanted

    @property
    def needs_held_out(self) -> bool:
        """Whether an entry needs samples that training did not see."""
        return any(entry.held_out for several in self.entries().values() for entry in several)

    def entries(self) -> dict[StudyName, list[Entry]]:
        """The rows of each study of environments that is asked for, in order."""
        own = {one.name: one for one in self.methods if isinstance(one, OwnEntry)}
        rows: dict[StudyName, list[Entry]] = {
            "places": [_entry(one) for one in self.methods],
            "diversity": [_entry(own.get(name, name)) for name in self.diversity.methods],
        }
        return {study: several for study, several in rows.items() if study in self.studies}

    def size(self, tasks: int) -> int:
        """Samples of an environment: as asked, or the paper's for that number of tasks."""
        if self.environments.size is not None:
            return self.environments.size
        return next((size for most, size in SIZES if tasks <= most), FEWEST)

    @property
    def meta(self) -> Fraction:
        return Fraction(self.environments.meta)

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _entry(one: str | OwnEntry) -> Entry:
    if isinstance(one, str):
        return KNOWN[one]
    return Entry(one.name, "preference" if one.similarity else "fixed", one.settings, one.similarity)


def read_experiment(file: str | Path) -> Experiment:
    """The recipe in a YAML file. Paths in it (runs, finetune, environments.frozen) are beside it.

    Raises ConfigError that names file, key, value and the nearest known key, or the nearest published table.
    """
    file = Path(file)
    keys = read_mapping(file, "Give the YAML file of an experiment; examples/bench has some.", "`runs` or `finetune`")
    recipe = checked(Experiment, keys, file, ConfigError)
    paper = recipe.paper
    if paper.environments is not None:
        published.environments(paper.environments)
    if paper.ablation is not None:
        published.ablation(paper.ablation)
    if paper.supplement is not None:
        published.supplement(paper.supplement, paper.column or "average")
    return _anchored(recipe, file)


def _anchored(recipe: Experiment, file: Path) -> Experiment:
    home = file.parent

    def at(path: str) -> str:
        return str((home / Path(path).expanduser()).resolve())

    changes: dict[str, Any] = {"title": recipe.title or file.stem}
    if recipe.runs is not None:
        changes["runs"] = {kind: tuple(at(one) for one in several) for kind, several in recipe.runs.items()}
    if isinstance(recipe.finetune, str):
        changes["finetune"] = read_config(at(recipe.finetune)).model_dump(mode="json")
    elif recipe.finetune is not None:
        inline = make_config(recipe.finetune, f"{file}: finetune")
        changes["finetune"] = anchored(inline, home).model_dump(mode="json")
    if recipe.environments.frozen is not None:
        changes["environments"] = recipe.environments.model_copy(update={"frozen": at(recipe.environments.frozen)})
    return recipe.model_copy(update=changes)


def training_config(recipe: Experiment, training: str, seed: int) -> FinetuneConfig:
    """The configuration of one of the runs that the recipe trains."""
    assert isinstance(recipe.finetune, dict)
    # The papers train on every sample: an experiment holds some out only where it is asked to.
    held_out = recipe.finetune.get("held_out") or 0
    if training == HELD_OUT:
        training, held_out = "sequential", recipe.held_out.samples
    made = make_config({**recipe.finetune, "seed": seed, "held_out": held_out}, "finetune")
    return made.model_copy(update={"training": made.training.model_copy(update={"method": training})})
