"""The configuration of a run in YAML: the user's file, the copy in the run's folder, and what differs between the two.

Paths that exist beside a file are taken from there. Two configurations are of one run when they give the same
checkpoints: how many processes read images does not count, nor where a folder of the same name lies. Cost: one small
file. Not here: whether the samples are the same (`samples`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data.registry import registered
from prefmerge.errors import ConfigError, RunError
from prefmerge.ground.yaml_file import read_mapping

CONFIG = "config.yaml"  # in a run's folder
_NO_MATTER = re.compile(r"training\.(workers|save_every)|data\[\d+\]\.path")  # samples are compared by their ids
_PATHS = re.compile(r"model\.id|data\[\d+\]\.(name|test)")
_RESOLVED = re.compile(r"training\.(epochs|warmup_steps|warmup_fraction)|data\[\d+\]\.(epochs|skip)|held_out")


def read_config(file: str | Path) -> FinetuneConfig:
    """The configuration in a YAML file. Relative paths in it that exist beside the file mean those.

        config = prefmerge.read_config("cifar100.yaml")

    Raises ConfigError naming file, key, the value found and the nearest known key.
    """
    file = Path(file)
    content = read_mapping(
        file, "Give the YAML file of the run; `prefmerge finetune -h` shows one.", "`model` and `data`"
    )
    return anchored(make_config(content, str(file)), file.parent)


def anchored(config: FinetuneConfig, home: Path) -> FinetuneConfig:
    """Paths that exist beside the configuration's own file, made absolute; hub ids and registered names stay."""

    def at(path: str | None) -> str | None:
        if path is None or Path(path).is_absolute():
            return path
        try:
            if path.startswith("~"):
                return str(Path(path).expanduser())
            return str((home / path).resolve()) if (home / path).exists() else path
        except (OSError, ValueError, RuntimeError):  # no path of this system: whoever needs it will say so
            return path

    data = []
    for one in config.data:
        local = one.path is None and registered(one.name) is None  # else the name is a name, whatever lies beside
        test = at(one.test) if one.test and (local or (home / one.test).is_file()) else one.test
        data.append(
            one.model_copy(update={"name": at(one.name) if local else one.name, "path": at(one.path), "test": test})
        )
    return config.model_copy(
        update={"model": config.model.model_copy(update={"id": at(config.model.id)}), "data": tuple(data)}
    )


def kept_config(out: Path) -> FinetuneConfig:
    """The configuration that the run in `out` started with. Raises RunError, ConfigError."""
    file = out / CONFIG
    try:
        mapping = read_mapping(file, "Copy the whole run folder again from where it was made.", "`model` and `data`")
    except ConfigError as error:
        raise RunError(str(error)) from error
    return make_config({"held_out": 0, **mapping}, str(file))  # a run that does not say it trained on all samples


def run_config(out: Path) -> FinetuneConfig:
    """`kept_config` with paths that exist beside it made absolute: what finds the run's data again."""
    return anchored(kept_config(out), out)


def differences(kept: FinetuneConfig, asked: FinetuneConfig) -> list[tuple[str, Any, Any]]:
    """What makes another run: (key, kept, asked). None asks for a default, which the kept one spells out."""

    def flat(value: Any, at: str) -> dict[str, Any]:
        if at == "scenario.tasks" and isinstance(value, dict):
            return {at: list(value.items())}  # the order of the names is the order of the tasks
        if isinstance(value, dict):
            return {k: v for key, part in value.items() for k, v in flat(part, f"{at}.{key}" if at else key).items()}
        if isinstance(value, list) and any(isinstance(part, dict) for part in value):
            return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{at}[{i}]").items()}
        return {at: value}

    old, new = flat(kept.model_dump(mode="json"), ""), flat(asked.model_dump(mode="json"), "")
    return [
        (key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
        and not _NO_MATTER.fullmatch(key)
        and not (_RESOLVED.fullmatch(key) and new.get(key) in (None, "unreadable"))
        and not (_PATHS.fullmatch(key) and _moved(old.get(key), new.get(key)))
    ]


def _moved(old: Any, new: Any) -> bool:
    """Whether two values are paths to something of one name: folders move, and samples are compared by contents."""
    return isinstance(old, str) and isinstance(new, str) and os.path.isabs(old) and Path(old).name == Path(new).name
