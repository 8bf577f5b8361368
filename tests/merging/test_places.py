"""What is written tells nobody where it was made; who made it finds its inputs again, moved or not."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import CheckpointNotFound
from prefmerge.merging import places
from prefmerge.merging.receipt import Receipt
from prefmerge.outputs.receipts import find_receipt
from tests.outputs.traces import traces

CONFIG = {
    "model_type": "llama",
    "_name_or_path": "{home}/models/base",
    "text_config": {"_name_or_path": "{home}/hub/models--org--base/snapshots/0a1b"},
    "auto_map": {"AutoModel": "modeling.Tiny"},
    "notes": "a/b, /etc",
}
TOKENIZER = {"special_tokens_map_file": "{home}/models/special_tokens_map.json", "name_or_path": "org/base"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user, on a host with a name, with a base and two tasks."""
    home = tmp_path / "users" / "zaphod"
    for seed, name in enumerate(("base", "cars", "birds")):
        (home / "models" / name).mkdir(parents=True)
        rng = np.random.default_rng(seed)
        save_file({"w": rng.standard_normal((6, 5)).astype(np.float32)}, home / "models" / name / "model.safetensors")
    for file, content in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER)):
        (home / "models" / "base" / file).write_text(json.dumps(content).replace("{home}", str(home)))
    monkeypatch.setenv("HOME", str(home))
    for variable in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "zaphod")
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "gethostname", lambda: "heart-of-gold")
    return home


def by_python(home: Path, out: Path) -> None:
    models = home / "models"
    prefmerge.merge(models / "base", [models / "cars", models / "birds"], out)


def by_command(home: Path, out: Path) -> None:
    paths = [str(home / "models" / name) for name in ("base", "cars", "birds")]
    assert CliRunner().invoke(app, ["merge", *paths, "-o", str(out)]).exit_code == 0


def by_recipe(home: Path, out: Path) -> None:
    models = home / "models"
    recipe = {"merge_method": "increments", "base_model": str(models / "base"), "models": []}
    recipe["models"] = [{"model": str(models / name)} for name in ("cars", "birds")]
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    assert CliRunner().invoke(app, ["merge", str(home / "recipe.yaml"), "-o", str(out)]).exit_code == 0


OUTPUTS = {  # where -> the base's path in the receipt
    "{home}/out": "../models/base",
    "{home}/out.safetensors": "models/base",
    "{home}/models/out": "../base",
    "{tmp}/scratch/out": None,
    "{tmp}/scratch/out.safetensors": None,
}


@pytest.mark.parametrize("merge", [by_python, by_command, by_recipe])
@pytest.mark.parametrize(("where", "base"), OUTPUTS.items())
def test_nothing_tells_of_this_machine_and_all_is_found_again(
    merge: Callable[[Path, Path], None], where: str, base: str | None, home: Path, tmp_path: Path
) -> None:
    out = Path(where.format(home=home, tmp=tmp_path))
    merge(home, out)
    assert traces(out, tmp_path) == []
    receipt = find_receipt(out)
    assert receipt is not None
    data = json.loads(receipt.read_text())
    assert (data["inputs"]["base"]["path"], data["output"]["path"]) == (base or "base", out.name)
    assert ("elsewhere" in data["inputs"]["base"], "host" in data["run"]) == (base is None, False)
    assert Receipt.load(receipt).inputs.base.path == str(home / "models" / "base")
    assert prefmerge.verify(out, inputs=True, rerun=True).skipped == ()


def test_the_receipt_in_memory_has_the_paths_and_is_the_one_that_is_read_back(home: Path, tmp_path: Path) -> None:
    for out in (home / "out", tmp_path / "scratch" / "out"):
        receipt = prefmerge.merge(home / "models" / "base", [home / "models" / "cars"], out)
        again = Receipt.load(out / "receipt.json")
        assert receipt.inputs == again.inputs
        assert receipt.inputs.tasks[0].path == str(home / "models" / "cars")
        receipt.save(tmp_path / "saved.json")
        assert Receipt.load(tmp_path / "saved.json").inputs == receipt.inputs


def test_inputs_are_found_where_they_moved_with_the_output(home: Path, tmp_path: Path) -> None:
    by_python(home, home / "out")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    home.rename(tmp_path / "users" / "trillian")
    out = tmp_path / "users" / "trillian" / "out"
    assert prefmerge.verify(out, inputs=True, rerun=True).skipped == ()
    out.rename(tmp_path / "out")  # alone: it verifies, and says which inputs it lacks
    skipped = prefmerge.verify(tmp_path / "out", inputs=True).skipped
    assert skipped[0] == f"base: {tmp_path}/models/base is no longer there"
    linked = tmp_path / "link"
    (tmp_path / "out").rename(out)
    linked.symlink_to(out)
    assert prefmerge.verify(linked, inputs=True).skipped == ()


def test_what_lies_elsewhere_is_known_to_its_user_alone(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "scratch" / "out"
    by_python(home, out)
    shutil.copytree(out, tmp_path / "copy")
    assert prefmerge.verify(tmp_path / "copy", inputs=True).skipped == ()
    shutil.rmtree(tmp_path / "cache")  # as on the machine of another user
    assert prefmerge.verify(out, inputs=True).skipped == (
        "base: base was in a place that the receipt does not name, since it may be published",
        "task 'cars': cars was in a place that the receipt does not name, since it may be published",
        "task 'birds': birds was in a place that the receipt does not name, since it may be published",
    )
    with pytest.raises(
        CheckpointNotFound, match="cannot be merged again: inputs are no longer where they were: 'base'"
    ):
        prefmerge.verify(out, rerun=True)


def test_a_cache_that_is_a_file_stops_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    by_python(home, tmp_path / "scratch" / "out")
    assert len(prefmerge.verify(tmp_path / "scratch" / "out", inputs=True).skipped) == 3


def test_receipts_of_earlier_versions_with_whole_paths_and_a_host_are_read(home: Path) -> None:
    by_python(home, home / "out")
    file = home / "out" / "receipt.json"
    data = json.loads(file.read_text())
    for entry in (data["inputs"]["base"], *data["inputs"]["tasks"]):
        entry["path"] = str(home / "models" / entry["name"])
    data["run"]["host"] = "vogon"
    file.write_text(json.dumps(data))
    assert Receipt.load(file).run.host == "vogon"
    Receipt.load(file).save(home / "saved.json")  # written again, it tells no more than a new one
    assert "vogon" not in (home / "saved.json").read_text()
    assert str(home) not in (home / "saved.json").read_text()
    assert prefmerge.verify(home / "out", inputs=True, rerun=True).skipped == ()


def test_configurations_lose_their_paths_and_nothing_else(home: Path) -> None:
    by_python(home, home / "out")
    config = json.loads((home / "out" / "config.json").read_text())
    assert config == {**CONFIG, "_name_or_path": "base", "text_config": {"_name_or_path": "org/base"}}
    tokenizer = json.loads((home / "out" / "tokenizer_config.json").read_text())
    assert tokenizer == {"special_tokens_map_file": "special_tokens_map.json", "name_or_path": "org/base"}
    own = home / "models" / "base" / "config.json"
    own.write_text('{"model_type":   "llama"}')
    prefmerge.merge(home / "models" / "base", [home / "models" / "cars"], home / "again")
    assert (home / "again" / "config.json").read_bytes() == own.read_bytes()  # byte for byte where nothing is to change


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/home/zaphod/data/cars.csv: no such file.", "cars.csv: no such file."),
        (
            "'/home/zaphod/data/cars.csv' and ./birds.csv, ../up/owls.csv, ~/more",
            "'cars.csv' and birds.csv, owls.csv, more",
        ),
        ("\"/a/secret place/s.sh\" x '~/my place/s.py' /b/secret\\ place/s.sh", "\"s.sh\" x 's.py' s.sh"),
        ("half of it and/or 1/2, unet/model.safetensors, https://host/page", None),
        ("/known place/of data: is gone", "of data: is gone"),
    ],
)
def test_paths_in_notes(text: str, plain: str | None) -> None:
    assert places.without_places(text, ["/known place/of data"]) == (text if plain is None else plain)


@pytest.mark.parametrize(
    ("path", "folder", "told"),
    [
        ("{home}/x.pt", "{home}/a/b", "../../x.pt"),
        ("{home}/x.pt", "{tmp}/users/ford/out", None),  # only the folder of all homes holds both
        ("{tmp}/mnt/zaphod/x.pt", "{tmp}/mnt/out", None),  # it names the user
        ("{tmp}/mnt/x.pt", "{tmp}/mnt/out", "../x.pt"),
        ("/x.pt", "{home}", None),
        ("/home/ford/x.pt", "/home/arthur", None),  # of other users
    ],
)
def test_what_may_be_told_of_a_path(path: str, folder: str, told: str | None, home: Path, tmp_path: Path) -> None:
    given, here = (text.format(home=home, tmp=tmp_path) for text in (path, folder))
    assert places.told(given, Path(here)) == told


def test_keys_and_adapters_are_told_with_their_files(home: Path) -> None:
    for name in ("x.pt", "full", "lora"):
        (home / name).touch()
    assert places.told(f"{home}/x.pt#ema.model", home / "out") == "../x.pt#ema.model"
    assert places.told(f"{home}/full+{home}/lora", home / "out") == "../full+../lora"
    assert places.absolute("../full+../lora", home / "out") == f"{home}/full+{home}/lora"
    assert places.name_alone(f"{home}/x.pt#ema.model") == "x.pt#ema.model"


def test_a_stack_of_slices_is_told_by_its_models(home: Path) -> None:
    for name in ("cars", "birds"):
        (home / name).mkdir()
    stack = f"{home}/cars[0:2]|{home}/birds[1:3]"
    assert places.told(stack, home / "out") == "../cars[0:2]|../birds[1:3]"
    assert places.absolute("../cars[0:2]|../birds[1:3]", home / "out") == stack
    assert places.name_alone(stack) == "cars[0:2]|birds[1:3]"
    assert places.told(f"{home}/cars[0:2]|/elsewhere/birds[1:3]", home / "out") is None
