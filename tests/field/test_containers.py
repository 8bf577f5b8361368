"""Files of torch as trainers write them: which dict is meant, what may lie beside it, how a key chooses."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import signal
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prefmerge import PrefmergeError, Receipt, merge, open_checkpoint, plan, read_recipe, verify
from prefmerge.checkpoints import harmless
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.cli import app
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound, UnsafePickle
from prefmerge.merging.api import run

torch: Any = pytest.importorskip("torch", reason="writes files of torch")

LONGEST = 1500  # characters of a message


def state(seed: int, *, names: tuple[str, ...] = ("a.weight", "b.bias")) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.standard_normal((4, 5)).astype(np.float32)) for name in names}


def put(path: Path, content: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def values(path: str | Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.raw(name).reshape(info.shape).copy() for name, info in checkpoint.tensors.items()}


def assert_is(path: str | Path, expected: dict[str, Any]) -> None:
    read = values(path)
    assert set(read) == set(expected)
    assert all(np.array_equal(read[name], expected[name].numpy()) for name in expected)


def message(path: str | Path, kind: type[Exception] = CheckpointNotFound) -> str:
    with pytest.raises(kind) as raised:
        open_checkpoint(path)
    assert len(str(raised.value)) <= LONGEST
    return str(raised.value)


HARMLESS: dict[str, Any] = {
    "Namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("x"), seen={1, 2}),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "a NumPy scalar": np.float64(0.5),
    "NumPy scalars": [np.float32(1), np.int64(3), np.bool_(True), np.str_("x"), np.datetime64("2020-01-01")],
    "NumPy dtypes": [np.dtype("float32"), np.float16, np.dtype("int64")],
    "the state of a generator": np.random.RandomState(0).get_state(),
    "paths": (pathlib.Path("/tmp/x"), pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("c")),
    "collections": [
        collections.deque([1, 2], maxlen=3),
        collections.defaultdict(list, {"a": [1]}),
        collections.Counter("aab"),
        collections.OrderedDict(a=1),
    ],
    "times": [
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        datetime.date(2020, 1, 1),
        datetime.timedelta(seconds=3),
        datetime.time(3),
    ],
    "types": [int, float, list, dict, frozenset((1, 2)), range(3), slice(1)],
}


@pytest.mark.parametrize("kind", HARMLESS)
@pytest.mark.parametrize("zipped", [True, False])
def test_case_7a_harmless_types_beside_the_weights(tmp_path: Path, kind: str, zipped: bool) -> None:
    content = {"model": state(0), "args": HARMLESS[kind], "epoch": 3}
    path = put(tmp_path / "x.pth", content, _use_new_zipfile_serialization=zipped)
    assert_is(path, state(0))
    assert open_checkpoint(path).notes == ()


def test_case_7a_no_type_is_made_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a harmless one: an object that forgets stands in for each, and torch's list is as before."""
    path = put(tmp_path / "x.pth", {"model": state(0), "args": argparse.Namespace(lr=0.1)})
    monkeypatch.setattr(argparse, "Namespace", None)
    before = set(torch.serialization.get_safe_globals())
    open_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before  # a list in no order
    stand_in = next(one for one in harmless.stand_ins() if one.__name__ == "Namespace")
    assert vars(stand_in(1, key=os)) == {}


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-of-the-pickle-ran",)


class Own:
    """A class of the user's own script."""

    def __init__(self) -> None:
        self.lr = 0.1


def test_case_7a_code_stays_refused_also_inside_of_harmless_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i, hidden in enumerate([argparse.Namespace(x=Runs()), collections.defaultdict(list, {"a": Runs()}), [Runs()]]):
        path = put(tmp_path / f"{i}.pt", {"model": state(0), "args": hidden})
        assert "wants to run code (posix.mkdir)" in message(path, UnsafePickle)
    assert not Path("code-of-the-pickle-ran").exists()


def test_case_7a_the_recipe_that_is_printed_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layer = torch.nn.Linear(2, 3)
    for content, expected in (
        ({"model": state(0), "args": Own()}, state(0)),
        ({"net": layer, "args": Own()}, dict(layer.state_dict())),
        (layer, dict(layer.state_dict())),
    ):
        put(tmp_path / "x.pt", content)
        said = message("x.pt", UnsafePickle)
        code = said[said.index("  import torch") : said.index("and give prefmerge")]
        exec("\n".join(line[2:] for line in code.splitlines()), {})
        assert_is("weights.pt", {name: value.detach() for name, value in expected.items()})


def test_case_7a_an_array_of_numpy_in_the_state_dict_is_not_lost(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {**state(0), "c": np.zeros(3)})
    assert "'c' is a NumPy array beside tensors" in message(path, CheckpointCorrupt)
    path = put(tmp_path / "y.pt", {"c": np.zeros(3)})
    assert "holds NumPy arrays, no tensors" in message(path, CheckpointCorrupt)


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3, 4)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": state(0), "optimizer": OPTIMIZER, "best_acc1": torch.tensor(70.0), "arch": "vit"},
        {"model_state_dict": state(0), "optimizer_state_dict": OPTIMIZER, "loss": torch.ones(7), "epoch": 1},
        {"model": state(0), "optimizer": OPTIMIZER, "lr_scheduler": {"x": torch.ones(3)}, "scaler": {}},
        {"model": {"state_dict": state(0)}, "amp": {"x": torch.ones(3)}},
        {"state_dict": state(0), "mean": torch.zeros(3), "std": torch.ones(3)},
        {  # Lightning
            "state_dict": state(0),
            "optimizer_states": [OPTIMIZER],
            "lr_schedulers": [],
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(2)}},
            "loops": {"fit_loop": {"state_dict": {"x": torch.ones(2)}}},
            "hyper_parameters": {"class_weights": torch.ones(10)},
            "pytorch-lightning_version": "2.0",
        },
    ],
)
def test_case_7d_usual_names_need_no_note(tmp_path: Path, content: Any) -> None:
    path = put(tmp_path / "x.pt", content)
    assert_is(path, state(0))
    assert open_checkpoint(path).notes == ()


@pytest.mark.parametrize("key", ["net", "module", "network", "ema", "params", "teacher", "weights", "ema.shadow"])
def test_case_7d_the_only_dict_of_tensors_is_taken_with_a_note(tmp_path: Path, key: str) -> None:
    content: Any = state(0)
    for name in reversed(key.split(".")):
        content = {name: content}
    path = put(tmp_path / "x.pt", {**content, "optimizer": OPTIMIZER, "step": torch.tensor(3), "epoch": 3})
    assert_is(path, state(0))
    assert open_checkpoint(path).notes == (
        f"the tensors under {key!r} are taken, the only dict of weights in the file",
    )


SEVERAL: dict[str, tuple[Any, list[str]]] = {
    "sub-modules": ({"model": {"vit": state(0), "head": state(1)}}, ["model.vit", "model.head"]),
    "averages": ({"params": state(0), "params_ema": state(1)}, ["params", "params_ema"]),
    "usual and averages": ({"model": state(0), "model_ema": state(1), "args": None}, ["model", "model_ema"]),
    "DINO": (
        {"student": state(0), "teacher": state(1), "dino_loss": {"center": torch.ones(1, 9)}, "optimizer": OPTIMIZER},
        ["student", "teacher"],
    ),
    "a list": ({"models": [state(0), state(1)]}, ["models.0", "models.1"]),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_case_7d_several_are_listed_and_a_key_chooses(tmp_path: Path, kind: str) -> None:
    content, keys = SEVERAL[kind]
    path = put(tmp_path / "x.pt", content)
    said = message(path)
    assert f"holds 2 dicts of tensors: {keys[0]!r} (2 tensors), {keys[1]!r} (2 tensors)." in said
    assert said.endswith(f"for instance {path}#{keys[0]}")
    for i, key in enumerate(keys):
        assert_is(f"{path}#{key}", state(i))
    assert open_checkpoint(f"{path}#{keys[0]}").path == Path(f"{path}#{keys[0]}")


def test_case_7d_tensors_outside_and_inside(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {**state(0), "head": state(1)})
    assert "'.' (2 tensors), 'head' (2 tensors)" in message(path)
    assert_is(f"{path}#.", state(0))
    assert_is(f"{path}#head", state(1))


def test_case_7d_keys_that_are_not_there(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {"model": {"v.it": state(0), "he#ad": state(1)}, "epoch": 1})
    assert_is(f"{path}#model.v.it", state(0))
    assert_is(f"{path}#model.he#ad", state(1))
    assert "has no 'body' there. It has 'v.it', 'he#ad'." in message(f"{path}#model.body")
    assert "has no 'x' there. Nothing lies deeper." in message(f"{path}#model.v.it.x")
    assert "no such file" in message(tmp_path / "y.pt#model")
    assert "is a folder. Name the file" in message(f"{tmp_path}#model")
    (tmp_path / "a#b").mkdir()
    assert_is(put(tmp_path / "a#b" / "x#y.pt", state(0)), state(0))


def test_case_7d_a_state_of_a_training_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {"optimizer": OPTIMIZER, "epoch": 3})
    assert f"(keys: 'optimizer', 'epoch'; of a training: 'optimizer', which {path}#KEY takes all the same)" in message(
        path, CheckpointCorrupt
    )
    assert_is(put(path, {"loss_net": state(0)}).with_name("x.pt#loss_net"), state(0))


def test_case_7d_placeholders_of_a_sharded_training(tmp_path: Path) -> None:
    path = put(tmp_path / "mp_rank_00_model_states.pt", {"module": {"a": torch.ones(0), "b": torch.ones(0)}})
    assert "python zero_to_fp32.py" in message(path, CheckpointCorrupt)


def test_case_7d_messages_are_short_and_containers_may_hold_themselves(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {f"{'k' * 5000}{i}": state(i) for i in range(200)})
    assert "holds 200 dicts of tensors" in message(path)
    round_: dict[str, Any] = {"net": state(0)}
    round_["again"] = round_
    assert_is(put(tmp_path / "y.pt", round_), state(0))


def test_case_7d_keys_in_recipes_and_receipts(tmp_path: Path) -> None:
    """The receipt says which dict was read, so that it can be checked and merged again."""
    base = put(tmp_path / "base.pt", state(0))
    both = put(tmp_path / "both.pt", {"student": state(1), "teacher": state(2)})
    (tmp_path / "recipe.yaml").write_text(
        f"merge_method: average\nbase_model: {base.name}\nmodels:\n  - model: both.pt#student\n"
        "  - model: both.pt#teacher\n"
    )
    out = tmp_path / "out.safetensors"
    run(read_recipe(tmp_path / "recipe.yaml"), out)
    receipt = Receipt.load(f"{out}.receipt.json")
    assert [task.path for task in receipt.inputs.tasks] == [f"{both}#student", f"{both}#teacher"]
    assert [file.name for task in receipt.inputs.tasks for file in task.files] == ["both.pt", "both.pt"]
    assert receipt.tasks == ("student", "teacher")
    report = verify(out, inputs=True, rerun=True)
    assert report.skipped == ()
    assert np.allclose(values(out)["a.weight"], (state(1)["a.weight"] + state(2)["a.weight"]).numpy() / 2)
    with pytest.raises(PrefmergeError, match=r"task 2 is .*#student, which is task 1 too"):
        plan(base, [f"{both}#student", f"{both}#student"])


def test_case_7d_the_command_line_takes_keys_and_shows_notes(tmp_path: Path) -> None:
    base = put(tmp_path / "base.pt", {"net": state(0)})
    both = put(tmp_path / "both.pt", {"student": state(1), "teacher": state(2)})
    said = CliRunner().invoke(app, ["plan", str(base), f"{both}#student", f"{both}#teacher"])
    assert said.exit_code == 0, said.output
    assert "base: the tensors under 'net' are taken" in " ".join(said.output.split())
    said = CliRunner().invoke(app, ["inspect", f"{both}#student"])
    assert said.exit_code == 0, said.output
    said = CliRunner().invoke(app, ["inspect", str(base)])
    assert "the tensors under 'net' are taken" in " ".join(said.output.split())
    said = CliRunner().invoke(app, ["plan", str(base), str(both)])
    assert said.exit_code == 1
    assert "holds 2 dicts of tensors" in " ".join(said.stderr.split())


@pytest.mark.parametrize("name", ["best_model.pth.tar", "model_best.pkl", "weights", "last.ckpt.tar", "x.model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_case_7e_other_endings_are_recognised_by_content(tmp_path: Path, name: str, zipped: bool) -> None:
    path = put(tmp_path / name, {"state_dict": state(0)}, _use_new_zipfile_serialization=zipped)
    assert_is(path, state(0))
    assert open_checkpoint(path).name == ("best_model" if ".pth" in name else open_checkpoint(path).name)


def test_case_7e_in_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "cars" / "best_model.pth.tar", {"state_dict": state(0)})
    assert_is(tmp_path / "cars", state(0))


def test_case_7e_what_is_no_file_of_torch(tmp_path: Path) -> None:
    (tmp_path / "y.zip").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "x").write_bytes(bytes(range(200)))
    for name in ("y.zip", "x"):
        assert "not a checkpoint that prefmerge can read" in message(tmp_path / name)


@pytest.mark.parametrize(
    "out", ["out.pt", "out.bin", "out.pth.tar", "out.ckpt", "out.gguf", "out.h5", "out.safetensor", "out.PT"]
)
def test_case_8_an_output_that_is_called_as_what_prefmerge_does_not_write(tmp_path: Path, out: str) -> None:
    base, task = put(tmp_path / "base.pt", state(0)), put(tmp_path / "task.pt", state(1))
    for flags in ([], ["--dry-run"]):
        said = CliRunner().invoke(app, ["merge", str(base), str(task), "-o", str(tmp_path / out), *flags])
        assert said.exit_code == 2
        words = " ".join(said.stderr.split())
        assert "prefmerge writes a .safetensors file or a folder" in words
        assert "out.safetensors" in words
    with pytest.raises(PrefmergeError, match=r"writes a \.safetensors file or a folder"):
        merge(base, [task], tmp_path / out)
    assert not (tmp_path / out).exists()


def test_case_8_folders_with_dots_and_capital_endings_stay_possible(tmp_path: Path) -> None:
    base, task = put(tmp_path / "base.pt", state(0)), put(tmp_path / "task.pt", state(1))
    merge(base, [task], tmp_path / "llama-3.1-v0.2")
    assert (tmp_path / "llama-3.1-v0.2" / "model.safetensors").is_file()
    merge(base, [task], tmp_path / "OUT.SAFETENSORS")
    assert (tmp_path / "OUT.SAFETENSORS").is_file()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x", "model.safetensors.index.json"])
def test_attack_m2_a_pipe_as_input_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "is a pipe, a device or the like, not a file" in message(tmp_path / name)


def test_attack_m2_a_pipe_among_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "modules.json", "model_index.json", "trainer_state.json"):
        os.mkfifo(tmp_path / name)
    assert "no checkpoint in this folder" in message(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    os.mkfifo(tmp_path / "x.safetensors")
    assert "it is not there" in message(tmp_path, CheckpointCorrupt)


def test_attack_m2_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")

    def stop(*_: object) -> None:
        raise TimeoutError("it waits for someone to write")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    try:
        with pytest.raises(CheckpointNotFound, match="is a pipe"):
            InputFile(tmp_path / "x")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_attack_m2_a_device(tmp_path: Path) -> None:
    assert "is a pipe, a device or the like" in message("/dev/zero")


@pytest.mark.parametrize("how", [os.link, os.symlink])
def test_attack_m6_the_same_file_twice_by_a_link(tmp_path: Path, how: Any) -> None:
    base, task = put(tmp_path / "base.pt", state(0)), put(tmp_path / "task.pt", {"net": state(1)})
    how(task, tmp_path / "again.pt")
    for key in ("", "#net"):
        with pytest.raises(PrefmergeError, match="which is task 1 too"):
            plan(base, [f"{task}{key}", f"{tmp_path / 'again.pt'}{key}"])


def test_attack_m6_the_same_folder_by_a_cache_and_its_snapshot(tmp_path: Path) -> None:
    base = put(tmp_path / "base.pt", state(0))
    cache = tmp_path / "models--org--name"
    put(cache / "snapshots" / "abc" / "pytorch_model.bin", state(1))
    with pytest.raises(PrefmergeError, match="which is task 1 too"):
        plan(base, [cache, cache / "snapshots" / "abc"])
