"""`prefmerge sweep` as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result

THREE = "base.safetensors cars.safetensors birds.safetensors"


def test_a_model_for_each_combination(folder: Path, call: Callable[[str], Result]) -> None:
    line = f"sweep {THREE} -o swept --vary prefer=1,0|alpha:2 --vary scale=0.5|1 --selection paper"
    done = call(line)
    assert (done.code, done.stderr, done.exception) == (0, "", None)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "cars", "owns", "birds", "owns"]
    assert lines[2].split() == ["preference-1-0_scale-0.5.safetensors", "100.0", "%", "0.0", "%"]
    assert lines[-2:] == ["4 models.", "Output: swept"]
    assert call("verify swept/preference-alpha-2_scale-1.safetensors").code == 0
    for ending in ("", ".receipt.json"):
        (folder / "swept" / f"preference-1-0_scale-1.safetensors{ending}").unlink()
    refused = call(line)
    assert (refused.code, refused.stdout) == (1, "")
    assert "--resume keeps what is the same" in refused.stderr
    again = call(f"{line} --resume")
    assert again.stdout.splitlines()[-2] == "4 models, 3 of them kept."
    told = json.loads(call(f"{line} --resume --json").stdout)
    assert told == json.loads((folder / "swept" / "sweep.json").read_text())
    assert told["models"][0]["varied"] == {"preference": "1,0", "scale": "0.5"}


def test_a_recipe_is_swept(folder: Path, call: Callable[[str], Result]) -> None:
    done = call("sweep recipe.yaml -o swept --vary method=tunable-magmax|ties")
    assert (done.code, done.exception) == (0, None)
    rows = json.loads((folder / "swept" / "sweep.json").read_text())["models"]
    assert [row["recipe"]["method"] for row in rows] == ["tunable_magmax", "ties"]
    assert {str(row["recipe"]["scale"]) for row in rows} == {"0.5"}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (f"sweep {THREE} -o x", 2, "nothing to vary: give --vary NAME=ONE|ANOTHER"),
        (f"sweep {THREE} --vary scale=1|2", 2, "-o DIR is missing: where should the models go?"),
        (f"sweep {THREE} -o x --vary scale", 2, "--vary scale: expected NAME=ONE|ANOTHER, such as scale=0.5|1."),
        (f"sweep {THREE} -o x --vary scale=1 --vary scale=2", 2, "--vary names scale twice. Put all its values into o"),
        (f"sweep {THREE} -o x --vary scael=1", 2, "--vary: 'scael' is not a parameter of a recipe."),
        ("sweep -o x --vary scale=1", 2, "nothing to merge: give a base and its tasks, a recipe, or --run RUN."),
    ],
)
def test_one_message_for_what_cannot_be(
    folder: Path, call: Callable[[str], Result], line: str, code: int, message: str
) -> None:
    done = call(line)
    assert (done.code, done.stdout, done.exception) == (code, "", None)
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (folder / "x").exists()
