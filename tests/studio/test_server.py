"""What is refused; what the answers hold; and that the bytes are those of the shown command."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import UsageError
from prefmerge.studio import given
from prefmerge.studio.jobs import Cancelled
from prefmerge.studio.opened import open_path
from prefmerge.studio.serving import serving
from tests.studio.conftest import NAMES, TOKEN, Client, files


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an output, by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def by_command(line: str, where: Path) -> None:
    """Carry out a command, as one types it in a folder."""
    words = shlex.split(line)
    assert words[:2] == ["prefmerge", "merge"]
    with contextlib.chdir(where):
        done = CliRunner().invoke(app, words[1:], prog_name="prefmerge")
    assert done.exit_code == 0, done.output


# What is refused


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", ".hidden", "-o", "x" * 81, "a b", "x\n", "ä", "a\x00b", None, 5],
)
def test_only_a_plain_name_is_written_to(of_recipe: Client, name: Any):
    status, told = of_recipe.ask("/api/write", {**of_recipe.dials(), "name": name})
    assert (status, told["field"]) == (422, "name")
    assert "is no plain name" in told["error"]
    assert list(of_recipe.opened.out_dir.iterdir()) == []


def test_what_is_there_is_never_replaced_nor_followed(of_recipe: Client, tmp_path_factory: pytest.TempPathFactory):
    out, elsewhere = of_recipe.opened.out_dir, tmp_path_factory.mktemp("elsewhere")
    (out / "there").mkdir()
    (out / "file").write_text("mine")
    (out / "link").symlink_to(elsewhere)
    (out / "broken").symlink_to(elsewhere / "new")
    for name in ("there", "file", "link", "broken"):
        status, told = of_recipe.ask("/api/write", {**of_recipe.dials(), "name": name})
        assert (status, told["field"]) == (422, "name")
        assert told["error"] == f"{name!r} is there already, and nothing is replaced. Choose another name."
    for name in ("x.safetensors", "x.pt", "x.gguf"):
        assert "is the name of a file" in of_recipe.ask("/api/write", {**of_recipe.dials(), "name": name})[1]["error"]
    assert list(elsewhere.iterdir()) == []
    assert (out / "file").read_text() == "mine"


def test_what_is_no_number_is_refused_with_its_dial(of_recipe: Client):
    body = b'{"dials": [NaN, 0.5, 0.5], "method": "magmax", "values": {}}'
    for name in ("byhand", "layers", "write"):
        status, told = of_recipe.ask(f"/api/{name}", body)
        assert (status, told["field"]) == (422, "dial-0")
        assert told["error"] == "the dial of 'cars': expected a finite number such as 0.8 or 4/5, found 'NaN'."


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"x"'])
def test_what_is_no_object_of_json_is_refused(of_recipe: Client, body: bytes):
    status, told = of_recipe.ask("/api/byhand", body)
    assert status == 400
    assert told["error"].startswith(("this is not JSON", "expected a JSON object"))


def test_a_huge_request_is_refused_before_it_is_read(of_recipe: Client):
    status, told = of_recipe.ask("/api/byhand", b" " * (300 << 10))
    assert (status, told["error"]) == (413, "this is more than the studio takes at once, 0.25 MiB. Give fewer.")
    status, told = of_recipe.ask("/api/labels", b"{}", Content_Length=str(1 << 40))
    assert (status, told["field"]) == (413, "labels")
    without_a_length = (b" " * (1 << 20) for _ in range(5))
    status, told = of_recipe.ask("/api/labels", without_a_length)
    assert (status, told["field"]) == (413, "labels")


def test_a_request_without_a_session_starts_no_job(of_recipe: Client):
    for session in ("", "x", "../../x", "0" * 65):
        assert replace(of_recipe, session=session).ask("/api/layers", of_recipe.dials())[0] == 400


def test_a_recipe_says_what_it_cannot_do(of_recipe: Client):
    assert of_recipe.ask("/api/measure", of_recipe.dials())[1]["error"].startswith("there are no samples")
    assert "does not say which classes" in of_recipe.ask("/api/labels", files(seen__csv="label\ncar\n"))[1]["error"]
    assert "has no samples to compare" in of_recipe.ask("/api/inputs", files(a__png=b"x"))[1]["error"]
    start = of_recipe.ask("/api/start", method="GET")[1]
    assert (start["measurable"], start["run"], start["inputs"]) == (False, False, False)
    assert [task["name"] for task in start["tasks"]] == list(NAMES)
    assert start["dials"] == [3334, 3333, 3333]


def test_what_can_not_be_opened_is_refused_at_the_start(recipe: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="Give the folder"):
        open_path(recipe, tmp_path / "absent" / "deeper")
    with pytest.raises(prefmerge.PrefmergeError):
        open_path(tmp_path, tmp_path)
    with pytest.raises(prefmerge.PrefmergeError):
        open_path(tmp_path / "absent.yaml", tmp_path)
    rules = [{"filter": "a", "value": "uniform"}, {"value": "alpha:2"}]
    layered = {**yaml.safe_load(recipe.read_text()), "parameters": {"prefer": rules}}
    file = tmp_path / "layered.yaml"
    text = yaml.safe_dump(layered)
    file.write_text(re.sub(r"(\w+\.safetensors)", lambda name: str(recipe.parent / name[0]), text))
    with pytest.raises(UsageError, match="its preference differs from layer to layer, and the page has one dial"):
        open_path(file, tmp_path)


# What the answers hold


def test_layers_hold_what_slow_loops_find(of_recipe: Client, recipe: Path):
    base = load_file(recipe.parent / "base.safetensors")
    tasks = [load_file(recipe.parent / f"{name}.safetensors") for name in NAMES]
    (result,) = of_recipe.job("/api/layers", of_recipe.dials(0.5, 0.5, 0))
    assert [row["name"] for row in result["layers"]] == ["block 0", "block 1", "block 2"]
    for row in result["layers"]:
        assert row["owned"] == [32, 31, 0]
        assert row["elements"] == 63
        assert 0.5 < row["kept"] < 1
    (result,) = of_recipe.job("/api/layers", of_recipe.dials(method="last"))
    for i, row in enumerate(result["layers"]):
        vectors = [task[f"layers.{i}.w"] - base[f"layers.{i}.w"] for task in tasks]
        largest = sum(max(abs(float(v.reshape(-1)[p])) for v in vectors) for p in range(63))
        last = sum(abs(float(value)) for value in vectors[-1].reshape(-1))
        assert row["kept"] == pytest.approx(last / largest, rel=1e-6)  # sums of float32
    (result,) = of_recipe.job("/api/layers", of_recipe.dials(method="max_abs"))
    assert all(row["kept"] == 1 for row in result["layers"])
    (result,) = of_recipe.job("/api/layers", of_recipe.dials(method="average"))
    assert all(row["owned"] is None for row in (*result["layers"], result["total"]))


def test_the_parameters_that_are_used_are_shown(of_recipe: Client):
    told = of_recipe.ask("/api/byhand", of_recipe.dials(strength="0.5"))[1]
    assert (told["used"]["scale"], told["used"]["strength"], told["used"]["selection"]) == ("0.7", "0.5", "optimal")


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("tunable_magmax", {}),
        ("tunable_magmax", {"selection": "paper", "passes": "3", "seed": "7", "scope": "model", "scale": "1.1"}),
        ("ties", {"density": "0.3"}),
        ("magmax", {}),
        ("ties", {"normalize": "false", "weights": "1, 0.5, 2"}),
        ("linear", {"weights": "0.2, 0.3, 0.5"}),
    ],
)
def test_the_model_is_that_of_the_command_and_of_the_recipe(of_recipe: Client, method: str, values: dict[str, str]):
    out = of_recipe.opened.out_dir
    body = {**of_recipe.dials(0.57, 0.43, 0, method=method, **values), "name": "made"}
    (written,) = of_recipe.job("/api/write", body)
    assert written["written"] == str(out / "made")
    made = load_bytes(out / "made")
    assert (out / "made" / "receipt.json").is_file()
    assert prefmerge.verify(out / "made")
    told = of_recipe.ask("/api/byhand", {**body, "name": "by-hand"})[1]
    (out / "by-hand.yaml").write_text(told["recipe"])
    by_command(told["command"].replace(str(out / "by-hand"), "by-command"), out)
    by_command("prefmerge merge by-hand.yaml -o by-recipe", out)
    assert load_bytes(out / "by-command") == made
    assert load_bytes(out / "by-recipe") == made
    assert yaml.safe_load(told["recipe"])["merge_method"] == method


def load_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_failed_merge_leaves_nothing_and_the_studio_lives(of_recipe: Client, tmp_path: Path):
    body = {**of_recipe.dials(method="ties", density="0.5"), "name": "made"}
    opened = of_recipe.opened
    moved = Path(opened.start.tasks[0].path)
    away = moved.rename(moved.with_name("away"))
    try:
        (told,) = of_recipe.job("/api/write", body)
    finally:
        away.rename(moved)
    assert "cars" in told["error"]
    assert list(opened.out_dir.iterdir()) == []
    assert "written" in of_recipe.job("/api/write", body)[0]


def test_two_pages_write_the_same_name_once(of_recipe: Client):
    body = {**of_recipe.dials(), "name": "made"}
    told: list[Any] = []
    pages = [replace(of_recipe, session=f"{i:016x}") for i in range(4)]
    threads = [threading.Thread(target=lambda one=one: told.append(one.raw("/api/write", body)[1])) for one in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum('"written"' in one for one in told) == 1
    assert sum("is there already" in one for one in told) == 3


def test_two_pages_do_not_mix_and_a_newer_question_ends_the_older_one(of_run: Client):
    first, second = of_run, replace(of_run, session="f" * 16)
    told: dict[str, Any] = {}

    def asking(name: str, page: Client, body: dict[str, Any]) -> threading.Thread:
        thread = threading.Thread(target=lambda: told.update({name: page.job("/api/front", body)}))
        thread.start()
        return thread

    threads = [asking("older", first, first.dials(1, 0, 0, 0, 0))]
    threads.append(asking("other page", second, second.dials(0, 1, 0, 0, 0, method="magmax")))
    (alone,) = [one for one in of_run.job("/api/measure", of_run.dials(1, 0, 0, 0, 0)) if "tasks" in one]
    threads.append(asking("newer", first, first.dials(0, 0, 1, 0, 0, method="last")))
    for thread in threads:
        thread.join()
    assert told["older"][-1] == {"cancelled": True}
    assert "done" in told["newer"][-1]
    dials = {tuple(point["dials"]) for group in told["other page"] for point in group["points"]}
    assert dials == {(0, 10_000, 0, 0, 0)}
    assert told["other page"][-1]["done"] == told["other page"][-1]["total"]
    again = of_run.job("/api/measure", of_run.dials(1, 0, 0, 0, 0))[0]
    assert again == alone


def test_a_studio_that_ends_leaves_nothing_half_written(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    began, ended = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def endless(*given: Any) -> Any:
        began.set()
        try:
            while True:
                given[-1](1, 2, "merging")
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            ended.set()

    monkeypatch.setattr("prefmerge.studio.written.api.run", lambda *_, progress, **__: endless(progress))
    opened = open_path(recipe, tmp_path)
    with serving(opened, TOKEN) as port:
        client = Client(opened, port)
        body = {**client.dials(), "name": "made"}
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            headers = {"X-Studio-Token": TOKEN, "X-Studio-Session": client.session}
            connection.request("POST", "/api/write", json.dumps(body), headers)
            assert began.wait(30)
            connection.close()  # the page is gone: the model is written all the same
        assert not ended.wait(0.5)
    assert ended.wait(30)
    assert [type(error) for error in raised] == [Cancelled]
    assert list(tmp_path.iterdir()) == []


# Of a run


def test_accuracies_are_those_of_the_written_model(of_run: Client):
    from prefmerge.models.head_file import read_head
    from prefmerge.runs import read_run
    from prefmerge.training.kept import read_kept

    body = {**of_run.dials(0.5, 0, 0, 0, 0.5, scale="0.8"), "name": "measured"}
    measured, beside = of_run.job("/api/measure", body)
    assert [one["name"] for one in beside["beside"]] == ["base", "last checkpoint", "MAGMAX"]
    of_run.job("/api/write", body)
    run = read_run(of_run.opened.path)
    kept, source = read_kept(run), of_run.opened.source
    assert kept is not None
    assert source is not None
    assert run.head_path is not None
    encoder, _ = source._open()
    head = read_head(run.head_path)
    of_model = {of_run.opened.out_dir / "measured": measured["tasks"], run.base_path: beside["beside"][0]["tasks"]}
    for model, rows in of_model.items():
        encoder.load(model)
        for t, examples in enumerate(kept.held_out):
            assert rows[t]["n"] == len(examples) > 0
            assert rows[t]["right"] == right_answers(encoder, head, examples, kept.among[t])


def right_answers(encoder: Any, head: Any, examples: Any, among: tuple[int, ...]) -> int:
    """One sample after the other, in float64."""
    import torch

    encoder.tower.eval()
    with torch.no_grad():
        embeddings = encoder.tower(**encoder.prepare(examples.read(range(len(examples))))).numpy().astype(np.float64)
    right = 0
    for embedding, label in zip(embeddings, examples.labels, strict=True):
        cosines = [float(head.rows[c].astype(np.float64) @ embedding) for c in among]
        right += among[int(np.argmax(cosines))] == label
    return right


def test_the_model_of_a_run_is_that_of_its_command(of_run: Client):
    out = of_run.opened.out_dir
    body = {**of_run.dials(0.8, 0, 0, 0, 0.2), "name": "made"}
    of_run.job("/api/write", body)
    told = of_run.ask("/api/byhand", {**body, "name": "by-hand"})[1]
    assert "--run" in told["command"]
    (out / "by-hand.yaml").write_text(told["recipe"])
    by_command(told["command"].replace(str(out / "by-hand"), "by-command"), out)
    by_command("prefmerge merge by-hand.yaml -o by-recipe", out)
    weights = [name for name in contents(out / "made") if name.endswith(".safetensors")]
    assert weights
    for name in weights:
        assert contents(out / "by-command")[name] == contents(out / "made")[name] == contents(out / "by-recipe")[name]


def test_labels_set_the_dials_with_intervals(of_run: Client):
    status, told = of_run.ask("/api/labels", files(seen__csv="label\n" + "0\n" * 10 + "1\n" * 6 + "8\n" * 4))
    assert status == 200
    assert told["dials"] == [8000, 0, 0, 0, 2000]
    assert all(low <= dial <= high for low, dial, high in zip(told["low"], told["dials"], told["high"], strict=True))
    assert (told["samples"], told["tells"]) == (20, True)
    same = of_run.ask("/api/labels", files(labels__txt="0\n" * 10 + "1\n" * 6 + "8\n" * 4))[1]
    assert same == told


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("seen.csv", "label\nseven\nseven\n1\n", "2 of the target's 3 labels are no class of any task: 'seven'"),
        ("seen.csv", "", "labels"),
        ("seen.txt", "\n\n", "holds no labels"),
        ("seen.json", "{", "labels.json"),
        ("seen.exe", "0", "labels are files that end in .csv, .tsv, .txt, .json"),
        ("../../seen", "0", "labels are files that end in"),
        ("<img src=x>.csv", "label\n<script>alert(1)</script>\n", "'<script>alert(1)</script>'"),
    ],
)
def test_labels_that_tell_nothing_are_refused_in_place(of_run: Client, name: str, content: str, words: str):
    given_files = files(x=content)
    given_files["files"][0]["name"] = name
    status, told = of_run.ask("/api/labels", given_files)
    assert (status, told["field"]) == (422, "labels")
    assert words in told["error"]
    assert "/tmp" not in told["error"]
    assert "prefmerge-studio-" not in told["error"]


def test_a_label_that_no_task_has_is_said_where_the_others_count(of_run: Client):
    told = of_run.ask("/api/labels", files(seen__csv="label\n0\n0\n1\nseven\n"))[1]
    assert told["dials"] == [10_000, 0, 0, 0, 0]
    assert any("'seven'" in note and "not counted" in note for note in told["notes"])


def test_inputs_set_the_dials_with_intervals(of_run: Client, tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("PIL", reason="images are written with Pillow")
    import io

    from PIL import Image

    from prefmerge.lab.demo.digits import load_digits

    digits = load_digits()
    chosen = [i for i in digits.parts["test"] if digits.labels[i] in (0, 1)][:30]
    images = {}
    for i in chosen:
        kept = io.BytesIO()
        Image.fromarray(np.uint8(np.asarray(digits.pixels[i]).reshape(8, 8) * (255 / 16))).save(kept, "png")
        images[f"d{i}__png"] = kept.getvalue()
    (told,) = of_run.job("/api/inputs", files(**images))
    assert sum(told["dials"]) == 10_000
    assert told["samples"] == 30
    assert max(range(5), key=told["dials"].__getitem__) == 0
    assert told["low"][0] < told["high"][0]
    (bad,) = of_run.job("/api/inputs", files(x__png=b"no image"))
    assert (bad["field"], "/tmp" in bad["error"]) == ("inputs", False)
    for name in ("paths.csv", "paths.txt", "x"):
        given_files = files(x="image\n/etc/passwd\n")
        given_files["files"][0]["name"] = name
        (refused,) = of_run.job("/api/inputs", given_files)
        assert "images are files that end in .bmp" in refused["error"]
    assert of_run.job("/api/inputs", {"files": []})[0]["error"].startswith("there is no file")


def test_files_that_are_none_are_refused(of_run: Client):
    for body in (
        {},
        {"files": 1},
        {"files": [1]},
        {"files": [{"name": "x"}]},
        {"files": [{"name": "x", "base64": "?"}]},
    ):
        status, told = of_run.ask("/api/labels", body)
        assert (status, told["error"]) == (400, "expected files, each with its name and its bytes in base64.")
    two = files(a__csv="label\n0\n", b__csv="label\n0\n")
    assert of_run.ask("/api/labels", two)[1]["error"] == "expected one file of labels, found 2."


def test_a_run_without_held_out_samples_shows_who_owns_what(run: Path, tmp_path: Path):
    from prefmerge.studio.server import Studio

    opened = open_path(run, tmp_path)
    assert opened.source is not None
    studio = Studio(replace(opened, source=replace(opened.source, held_out=False)))
    assert not studio.opened.measurable
    with pytest.raises(given.Refused, match="no accuracy can be measured"):
        studio._measurable()
    studio.jobs.close()
