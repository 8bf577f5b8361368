"""The YAML file of a run: read, and its paths taken from beside it. Cost: one small file."""

from __future__ import annotations

from pathlib import Path

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data.registry import registered
from prefmerge.ground.yaml_file import read_mapping


def read_config(file: str | Path) -> FinetuneConfig:
    """The configuration in a YAML file. Relative paths in it that exist beside the file mean those.

        config = prefmerge.read_config("cifar100.yaml")

    Raises ConfigError naming file, key, what was found and the nearest known key.
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
