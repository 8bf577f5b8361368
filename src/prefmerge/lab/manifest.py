"""The manifest of an experiment's environments: the file that freezes what was drawn, and what reads it again.

One JSON object: a format, the pools with their sizes, and every environment with its samples, the hash of their
contents and a digest of all that it says. Reading checks every field, and with the data at hand that ids, inputs and
labels are still those that were drawn. Cost: a file of some 200 kB; one hash for each sample that is taken. Not here:
drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefmerge.errors import DataError, OutputError, PreferenceError
from prefmerge.ground import atomic, jsons
from prefmerge.ground.checked import checked
from prefmerge.ground.refused import remedy
from prefmerge.lab.environments import (
    Environment,
    Pool,
    Portion,
    apportioned,
    by_name,
    called,
    contents_of,
    require_known,
    require_present,
)
from prefmerge.preference import as_text, exact

FORMAT = "prefmerge-environments/1"
MANIFEST = "environments.json"  # its name in the output of an experiment
_BY_HAND = " Was the manifest edited by hand? Draw the environments again."


def save(path: str | Path, environments: Sequence[Environment], pools: Sequence[Pool]) -> None:
    """Write the manifest: all of it or nothing, in place of what is there. Raises OutputError where it cannot be
    written, DataError where `load` would refuse it.
    """
    pool_of = by_name(pools)
    _all_different(environments)
    for environment in environments:
        _check_against(environment, pool_of)
    manifest = {
        "format": FORMAT,
        "pools": [{"name": pool.name, "samples": len(pool.ids)} for pool in pools],
        "environments": [environment.to_json() for environment in environments],
    }
    try:
        atomic.write_whole(Path(path), (jsons.laid_out(manifest) + "\n").encode())
    except OSError as error:
        reason, way = error.strerror or error, remedy(error, "Choose another output.")
        raise OutputError(f"{path}: the environments cannot be written: {reason}. {way}") from error


def load(path: str | Path, pools: Sequence[Pool] | None = None) -> tuple[Environment, ...]:
    """The environments of a manifest that `save` wrote. With `pools`, their ids, inputs and labels are checked as well;
    samples and tasks that came since do no harm. Raises DataError naming the file, the environment and the fault.
    """
    try:
        data = jsons.read(Path(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file. Give a manifest of environments.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a manifest of environments: {error}.") from error
    form = data.get("format") if isinstance(data, dict) else type(data).__name__
    if form != FORMAT:
        raise DataError(f"{path}: its format is {form!r}; this prefmerge reads {FORMAT!r}.")
    manifest = checked(_Manifest, data, path, DataError, _BY_HAND)
    pool_of = None if pools is None else by_name(pools)
    try:
        result = _read(manifest)
        if pool_of is not None:
            for environment in result:
                _check_against(environment, pool_of)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return result


def read_environment(data: Any) -> Environment:
    """The inverse of `Environment.to_json`. Raises DataError naming the key or the environment, and what is wrong with
    it.
    """
    return _whole(checked(_Environment, data, "environment", DataError, _BY_HAND))


def _text(value: str) -> str:
    if not value:
        raise ValueError("expected a text")
    return value


_Text = Annotated[str, AfterValidator(_text)]  # min_length would refuse names that are not UTF-8


class _Written(BaseModel):
    """A part of the manifest, as it lies on disk."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Pool(_Written):
    name: _Text
    samples: int = Field(ge=0)


class _Part(_Written):
    task: _Text
    ratio: str
    asked: int = Field(ge=1)
    meta: list[str]
    test: list[str]


class _Environment(_Written):
    name: _Text
    variant: int = Field(ge=0)
    seed: int
    size: int = Field(ge=1)
    shortfall: Any
    contents: _Text
    parts: list[_Part] = Field(min_length=1)
    digest: str


class _Manifest(_Written):
    format: str
    pools: list[_Pool] = Field(min_length=1)
    environments: list[_Environment] = Field(min_length=1)


def _check_against(environment: Environment, pools: Mapping[str, Pool]) -> None:
    where = called(environment.name, environment.variant)
    for part in environment.parts:
        require_known(part.task, pools, where)
        require_present([*part.meta, *part.test], pools[part.task], where)
    if contents_of(environment.parts, pools) != environment.contents:
        raise DataError(
            f"{where}: the ids are the same, but inputs or labels of its samples have changed since it was drawn. Give "
            "the data that it was drawn from, or draw again."
        )


def _all_different(environments: Iterable[Environment]) -> None:
    counts = Counter(called(environment.name, environment.variant) for environment in environments)
    twice = [place for place, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"there are two environments {twice[0]}. Give mixes different names.")


def _read(manifest: _Manifest) -> tuple[Environment, ...]:
    twice = [name for name, count in Counter(pool.name for pool in manifest.pools).items() if count > 1]
    if twice:
        raise DataError(f"there are two pools {twice[0]!r}.{_BY_HAND}")
    samples = {pool.name: pool.samples for pool in manifest.pools}
    result = tuple(_whole(one) for one in manifest.environments)
    _all_different(result)
    for environment in result:
        for part in environment.parts:
            where = called(environment.name, environment.variant)
            require_known(part.task, samples, where)
            if part.taken > samples[part.task]:
                raise DataError(
                    f"{where} takes {part.taken} samples of task {part.task!r}, whose pool has {samples[part.task]}."
                    f"{_BY_HAND}"
                )
    return result


def _whole(one: _Environment) -> Environment:
    """The environment, where its fields agree. Raises DataError naming it."""
    where = called(one.name, one.variant)
    try:
        ratios = tuple(exact(part.ratio, f"{where}, part {i}: ratio") for i, part in enumerate(one.parts, start=1))
    except PreferenceError as error:
        raise DataError(str(error)) from error
    parts = tuple(Portion(part.task, part.asked, tuple(part.meta), tuple(part.test)) for part in one.parts)
    environment = Environment(one.name, one.variant, one.seed, ratios, one.size, parts, one.contents)
    for wrong, what in _faults(environment, one.shortfall):
        if wrong:
            raise DataError(f"{where}: {what}.{_BY_HAND}")
    if one.digest != environment.digest:
        raise DataError(f"{where}: what it says does not match its digest.{_BY_HAND}")
    return environment


def _faults(environment: Environment, shortfall: Any) -> list[tuple[bool, str]]:
    """What the fields of an environment can get wrong together: whether they do, and how to say it."""
    parts, ratios = environment.parts, environment.ratios
    ids = [*environment.meta_ids, *environment.test_ids]
    proper = min(ratios) > 0 and sum(ratios) == 1
    return [
        (not proper, f"its ratios are {', '.join(map(as_text, ratios))}; expected positive ones that sum to 1"),
        (len({part.task for part in parts}) != len(parts), "a task occurs twice"),
        (
            proper and tuple(part.asked for part in parts) != apportioned(ratios, environment.size),
            f"the samples that its tasks are asked for are not its ratios of {environment.size}",
        ),
        (len(set(ids)) != len(ids), "a sample occurs twice"),
        (not environment.meta_ids or not environment.test_ids, "it has no meta samples or no test samples"),
        (any(part.taken > part.asked for part in parts), "a task gives more samples than it was asked for"),
        (shortfall != environment.shortfall, f"its shortfall is {shortfall}, not {environment.shortfall}"),
    ]
