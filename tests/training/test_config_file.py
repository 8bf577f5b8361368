"""The YAML file of a run: what is read, which paths are taken from beside it, and the files in examples/finetune."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.data.registry import REGISTRY
from prefmerge.errors import ConfigError
from prefmerge.training.config_file import read_config

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "finetune").glob("*.yaml"))


def test_what_yaml_reads_otherwise(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("model: a/b\ndata: {name: mnist, classes: [0, 1]}\ntraining: {precision: no}\n")
    result = read_config(tmp_path / "run.yaml")
    assert result.training.precision == "no"
    assert result.data[0].classes == ("0", "1")


def test_a_registered_name_stays_a_name_whatever_lies_beside(tmp_path: Path):
    for name in ("cifar100", "mnist", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.yaml").write_text("model: a/b\ndata: [mnist, {name: cifar100, path: cifar100, test: test}]\n")
    result = read_config(tmp_path / "run.yaml").data
    assert [one.name for one in result] == ["mnist", "cifar100"]
    assert (result[1].path, result[1].test) == (str(tmp_path / "cifar100"), "test")


def test_paths_beside_the_file_are_meant(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "run.yaml").write_text("model: facebook/dinov2-small\ndata: [photos, {name: cifar100, path: photos}]\n")
    result = read_config(tmp_path / "run.yaml")
    assert result.model.id == "facebook/dinov2-small"
    assert result.data[0].name == str(tmp_path / "photos")
    assert (result.data[1].name, result.data[1].path) == ("cifar100", str(tmp_path / "photos"))


@pytest.mark.parametrize(("content", "said"), [("a: [", "cannot be read as YAML"), ("- 1", "expected a mapping")])
def test_a_file_that_is_none(content: str, said: str, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path / "run.yaml")


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read(example: Path):
    result = read_config(example)
    assert f"prefmerge finetune examples/finetune/{example.name} -o runs/" in example.read_text(encoding="utf-8")
    for one in result.data:
        assert one.name in REGISTRY or one.name in ("photos/", "tickets.csv")
