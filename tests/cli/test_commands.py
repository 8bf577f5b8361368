"""What commands print and where, exit codes, and that an error is one message and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge.checkpoints import content_fingerprint, open_checkpoint
from prefmerge.cli import progress
from prefmerge.merging import api
from tests.cli.conftest import Result, tensors

Call = Callable[[str], Result]
THREE = "base.safetensors cars.safetensors birds.safetensors"


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# merge


def test_merge_says_how_it_was_made(call: Call) -> None:
    done = call(f"merge {THREE} -o out.safetensors --selection paper --prefer 0.8,0.2 --seed 0")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split("  ")[0] == "task"
    assert lines[0].split() == [
        "task",
        "share",
        "asked",
        "elements",
        "owned",
        "share",
        "owned",
        "by",
        "pass",
        "1",
        "by",
        "pass",
        "2",
        "at",
        "random",
    ]
    # 0.8 of 100, 50, 8 and 1 elements; the remainders go to the first
    assert [line.split()[:6] for line in lines if line.startswith(("cars", "birds"))] == [
        ["cars", "80.0", "%", "128", "80.5", "%"],
        ["birds", "20.0", "%", "31", "19.5", "%"],
    ]
    assert "159 elements merged, 3 copied." in lines
    assert "Preference: 80 %, 20 %" in lines
    assert (
        "method tunable_magmax, scale 0.5, seed 0, selection paper, importance magnitude, strength 1, carry 0, "
        "toward_last 0, scope tensor, passes 2." in lines
    )
    assert (
        "It is not known that each task was trained after the one before it. If it was, add --sequential: then the "
        "default is scale 1 and importance step." in lines
    )
    assert lines[-3].startswith("Output:  out.safetensors (")
    assert lines[-2] == "Receipt: out.safetensors.receipt.json"
    assert lines[-1].endswith("prefmerge adapt BASE TASK... --labels FILE -o OUT")


def test_a_merge_of_tasks_in_sequence_says_so_once(call: Call) -> None:
    for flags in (
        "--sequential",
        "--importance magnitude",
        "--as-published",
        "--method magmax",
        "--sequential --scale 1",
    ):
        for done in (call(f"merge {THREE} -o out.safetensors --force {flags}"), call(f"plan {THREE} {flags}")):
            assert (done.code, done.stderr) == (0, "")
            assert "It is not known" not in done.stdout
    assert "the default is importance step." in call(f"plan {THREE} --scale 0.5").stdout
    best = json.loads(call(f"merge {THREE} -o best.safetensors --json --sequential").stdout)["recipe"]
    assert (best["selection"], best["importance"], best["scale"]) == ("optimal", "step", 1.0)
    told = json.loads(call(f"merge {THREE} -o told.safetensors --json --as-published").stdout)["recipe"]
    assert (told["selection"], told["importance"], told["scale"]) == ("released", "magnitude", 0.5)


def test_parameters_without_an_effect_are_not_printed(call: Call) -> None:
    assert "scope tensor.\n" in call(f"plan {THREE} --selection optimal").stdout
    assert "scope tensor, passes 3.\n" in call(f"plan {THREE} --selection paper --passes 3").stdout


def test_a_preference_that_was_not_given_is_printed_too(call: Call) -> None:
    assert "\nPreference: uniform (none was given)\n" in call(f"merge {THREE} -o out.safetensors").stdout


def test_a_method_without_owners(call: Call) -> None:
    done = call(f"merge {THREE} -o out.safetensors --method ties")
    assert done.code == 0
    assert done.stdout.startswith(
        "159 elements merged, 3 copied.\nmethod ties, scale 1, scope tensor, weights 1,1, density 0.2,0.2, "
    )
    assert call("inspect out.safetensors").stdout.startswith("ties blends the tasks: no element has an owner.")


def test_json_is_the_receipt_and_nothing_else(call: Call) -> None:
    done = call(f"merge {THREE} -o out.safetensors --json --sha256")
    assert done.stderr == ""
    assert json.loads(done.stdout) == json.loads(Path("out.safetensors.receipt.json").read_text())
    assert set(json.loads(done.stdout)["inputs"]["base"]["sha256"]) == {"base.safetensors"}


def test_every_flag_reaches_the_receipt(call: Call) -> None:
    flags = (
        "--prefer alpha:2 --scale 0.25 --seed 7 --selection paper --importance step --strength 0.1 --carry 1/3 "
        "--scope model --passes 3 --dtype bfloat16"
    )
    done = call(
        f"merge {THREE} -o out.safetensors --json {flags} --exclude head.* --exclude scale --threads 1 "
        f"--max-memory 512MiB"
    )
    receipt = json.loads(done.stdout)
    expected = {
        "method": "tunable_magmax",
        "scale": 0.25,
        "seed": 7,
        "selection": "paper",
        "importance": "step",
        "strength": "0.1",
        "carry": "1/3",
        "scope": "model",
        "passes": 3,
        "dtype": "bfloat16",
        "exclude": ["head.*", "scale"],
        "as_task_vector": False,
    }
    assert expected.items() <= receipt["recipe"].items()
    assert (receipt["run"]["threads"], receipt["run"]["max_memory"]) == (1, "512MiB")
    ties = json.loads(call(f"merge {THREE} -o ties.safetensors --json --method ties --density 0.57").stdout)
    assert ties["recipe"]["density"] == ["0.57", "0.57"]
    assert (
        json.loads(call(f"merge {THREE} -o best.safetensors --json --selection optimal").stdout)["recipe"]["selection"]
        == "optimal"
    )


def test_a_flag_wins_over_the_recipe_file(call: Call) -> None:
    from_file = json.loads(call("merge recipe.yaml -o a.safetensors --json").stdout)
    assert from_file["totals"]["asked"] == [49, 110]
    assert from_file["recipe"]["scale"] == 0.5
    overridden = json.loads(call("merge recipe.yaml -o b.safetensors --json --prefer 1,0 --scale 1").stdout)
    assert overridden["totals"]["asked"] == [159, 0]
    assert overridden["recipe"]["scale"] == 1.0


def test_recipe_and_arguments_give_the_same_bytes(call: Call, folder: Path) -> None:
    assert call("merge recipe.yaml -o a.safetensors").code == 0
    assert call(f"merge {THREE} -o b.safetensors --prefer 0.3,0.7").code == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_magmax_carried_on_through_a_task_vector(call: Call, folder: Path) -> None:
    assert (
        call("merge base.safetensors cars.safetensors -o so-far.safetensors --method magmax --as-task-vector").code == 0
    )
    assert (
        call("merge base.safetensors so-far.safetensors birds.safetensors -o a.safetensors --method magmax").code == 0
    )
    assert call(f"merge {THREE} -o b.safetensors --method magmax").code == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
    assert call("verify so-far.safetensors --rerun").code == 0


def test_a_folder(call: Call, folder: Path) -> None:
    done = call("merge base cars birds -o out --prefer cars=1,birds=0")
    assert done.code == 0
    assert "\nReceipt: out/receipt.json\n" in done.stdout
    assert (folder / "out" / "config.json").exists()
    merged = load_file(folder / "out" / "model.safetensors")["layers.1.w"]
    base, cars = (tensors(seed)["layers.1.w"] for seed in (0, 1))
    np.testing.assert_array_equal(merged, base + np.float32(0.5) * (cars - base))


def test_what_a_folder_does_not_take_along_is_noted_on_the_screen(call: Call, folder: Path) -> None:
    (folder / "base" / "tekken.json").write_text("{}")
    (folder / "base" / "tf_model.h5").write_text("weights")
    (folder / "base" / "tokenizer.json").symlink_to("../counts.json")
    note = (
        "Note: not copied from the base's folder: tokenizer.json (links out of the folder, or to nothing); "
        "tf_model.h5 (weights).\n"
    )
    assert note in call("merge base cars birds -o out").stdout
    assert {p.name for p in (folder / "out").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "receipt.json",
        "tekken.json",
    }
    assert note not in call("merge base cars birds -o out.safetensors").stdout


# plan, verify, inspect


def test_plan_and_dry_run_write_nothing(call: Call, folder: Path) -> None:
    before = contents(folder)
    done = call("plan recipe.yaml --prefer cars=1")
    assert (done.code, done.stderr) == (0, "")
    assert "4 tensors to merge (159 elements); 1 tensors to copy (3 elements)." in done.stdout
    assert "Preference: cars 100 %\n" in done.stdout
    assert "Note: the preference does not mention birds: share 0.\n" in done.stdout
    assert call("merge recipe.yaml --prefer cars=1 --dry-run").stdout == done.stdout
    assert call("merge recipe.yaml --prefer cars=1 --dry-run -o base.safetensors").code == 0
    data = json.loads(call("plan recipe.yaml --json").stdout)
    assert [(task["name"], task["share"], task["most_elements"]) for task in data["tasks"]] == [
        ("cars", "0.3", 49),
        ("birds", "0.7", 110),
    ]
    assert contents(folder) == before


def test_verify(call: Call, folder: Path) -> None:
    call("merge recipe.yaml -o out.safetensors")
    before = call("verify out.safetensors --inputs")
    assert (before.code, before.stderr) == (0, "note: --inputs is called --with-inputs now.\n")
    assert before.stdout == call("verify out.safetensors --with-inputs").stdout
    assert "task 'cars': content fingerprint" in before.stdout
    done = call("verify out.safetensors --with-inputs --rerun")
    fingerprint = content_fingerprint(open_checkpoint("out.safetensors"))
    assert (done.code, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[-1]
        == f"out.safetensors is what out.safetensors.receipt.json says: 5 tensors, {fingerprint}"
    )
    assert json.loads(call("verify out.safetensors --json").stdout)["fingerprint"] == fingerprint
    changed = load_file("out.safetensors")
    changed["layers.0.w"][3, 3] = 0
    save_file(changed, "out.safetensors")
    done = call("verify out.safetensors --rerun --json")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "error: out.safetensors: the elements are not those that were merged, in tensors: 'layers.0.w'. "
    )


def test_inspect(call: Call, folder: Path) -> None:
    call("merge recipe.yaml -o out.safetensors")
    lines = call("inspect out.safetensors").stdout.splitlines()
    assert ["block", "0", "1", "100", "30.0", "%", "70.0", "%"] in [line.split() for line in lines]
    assert ["ids", "1", "3", "-", "-"] in [line.split() for line in lines]
    assert ["layers.1.w", "1", "50", "30.0", "%", "70.0", "%"] in [
        line.split() for line in call("inspect out.safetensors --by tensor").stdout.splitlines()
    ]
    data = json.loads(call("inspect out.safetensors --json").stdout)
    assert data["rows"][2] == {"name": "block 0", "tensors": 1, "elements": 100, "owned": [30, 70]}
    plain = call("inspect cars").stdout
    assert plain.startswith("cars has no receipt: a checkpoint, not a merged model.\n")
    assert ["float32", "4", "159", "636"] in map(str.split, plain.splitlines())


def test_inspect_draws(call: Call, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    call("merge recipe.yaml -o out.safetensors")
    assert call("inspect out.safetensors --png o.png").stdout.endswith("Picture: o.png\n")
    assert (folder / "o.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "o.png").stat().st_size > 10_000


def test_many_tasks_show_their_largest_owners(call: Call, folder: Path) -> None:
    for seed in range(9):
        save_file(tensors(seed + 1), folder / f"t{seed}.safetensors")
    names = " ".join(f"t{seed}.safetensors" for seed in range(9))
    assert call(f"merge base.safetensors {names} -o out.safetensors --prefer 0,0,0,1,0,0,0,0,3").code == 0
    rows = [line.split("  ") for line in call("inspect out.safetensors").stdout.splitlines()]
    assert any(row[0] == "block 0" and row[-1].strip() == "t8 75.0 %, t3 25.0 %" for row in rows)


# Errors


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("merge base.safetensors -o out.safetensors", 1, "no task given"),
        ("plan base.safetensors", 1, "no task given"),
        ("merge gone.safetensors cars.safetensors -o out.safetensors", 1, "gone.safetensors"),
        ("merge gone.yaml -o out.safetensors", 1, "recipe gone.yaml does not exist."),
        (f"merge {THREE} -o birds.safetensors --force", 1, "which is an input"),
        (f"merge {THREE} -o recipe.yaml/out.safetensors", 1, "recipe.yaml"),
        (
            f"merge {THREE} -o out.safetensors --prefer 1,2,3",
            1,
            "the preference has 3 shares, but there are 2 tasks: cars, birds.",
        ),
        (f"merge {THREE} -o out.safetensors --prefer much", 1, "preference 'much'"),
        (f"merge {THREE} -o out.safetensors --exclude nothing.*", 1, "'nothing.*' matches no tensor"),
        ("verify base.safetensors", 1, "base.safetensors has no receipt"),
        ("verify gone", 1, "gone does not exist."),
        ("inspect gone", 1, "gone does not exist."),
        (f"merge {THREE}", 2, "-o OUT is missing"),
        (
            f"merge {THREE} -o out.safetensors --method average --prefer 0.8,0.2",
            2,
            "--prefer has no use with method average; it is for tunable_magmax, increments. ",
        ),
        (
            f"merge {THREE} -o out.safetensors --method magmax --seed 0",
            2,
            "--seed has no use with method magmax; it is for tunable_magmax, random_mix, dare_linear, dare_ties, "
            "della_linear, della. ",
        ),
        (
            f"merge {THREE} -o out.safetensors --density 0.5",
            2,
            "--density has no use with method tunable_magmax; it is for ties, dare_linear, dare_ties, "
            "breadcrumbs, breadcrumbs_ties, della_linear, della. ",
        ),
        (
            f"merge {THREE} -o out.safetensors --selection optimal --passes 2",
            2,
            "--passes has no use with selection optimal, which has no passes. ",
        ),
        (
            f"merge {THREE} -o out.safetensors --as-published --scale 1",
            2,
            "--as-published sets scale to 0.5, and --scale",
        ),
        (f"merge {THREE} -o out.safetensors --as-published --method ties", 2, "--as-published has no use with method"),
        (f"merge {THREE} -o out.safetensors --as-task-vector --scale 1", 2, "--scale has no effect on a task vector"),
        (f"merge {THREE} -o out.safetensors --method magmx", 2, "Did you mean 'magmax'?"),
        (f"merge {THREE} -o out.safetensors --strength 2", 2, "strength: expected a number from 0 to 1, found 2."),
        (
            f"merge {THREE} -o out.safetensors --dtype int8",
            2,
            "dtype: expected one of float64, float32, float16, bfloat16, found 'int8'.",
        ),
        (f"merge {THREE} -o out.safetensors --max-memory lots", 2, "'lots' is not a size"),
        (
            "merge recipe.yaml cars.safetensors -o out.safetensors",
            2,
            "recipe.yaml is a recipe and names its own checkpoints. Leave cars.safetensors out.",
        ),
        (
            "inspect base.safetensors --png a.png",
            2,
            "--png draws who owns what, which needs a receipt; base.safetensors has none.",
        ),
        ("inspect base.safetensors --by row", 2, "--by: expected layer or tensor, found 'row'."),
    ],
)
def test_an_error_is_one_message_and_leaves_nothing(
    call: Call, folder: Path, line: str, code: int, message: str
) -> None:
    before = contents(folder)
    done = call(line)
    assert (done.code, done.stdout, done.exception) == (code, "", None)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    "line", ["inspect", "merge a b -o c --nonsense", "nonsense", "merge a b -o c --threads 0", "demo --seed x"]
)
def test_what_the_parser_refuses(call: Call, line: str) -> None:
    done = call(line)
    assert (done.code, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_an_existing_output_needs_force(call: Call, folder: Path) -> None:
    call(f"merge {THREE} -o out.safetensors")
    old = (folder / "out.safetensors").read_bytes()
    done = call(f"merge {THREE} -o out.safetensors --scale 1")
    assert done.code == 1
    assert "--force" in done.stderr
    assert (folder / "out.safetensors").read_bytes() == old
    assert call(f"merge {THREE} -o out.safetensors --scale 1 --force").code == 0
    assert (folder / "out.safetensors").read_bytes() != old


def test_streams_and_exit_codes_of_the_script(folder: Path) -> None:
    def script(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prefmerge", *line.split()], capture_output=True, text=True, check=False
        )

    good = script(f"merge {THREE} -o out.safetensors --json")
    assert good.returncode == 0
    assert good.stderr == ""
    assert json.loads(good.stdout)["tasks"] == ["cars", "birds"]
    bad = script(f"merge {THREE} -o out.safetensors")
    assert bad.returncode == 1
    assert bad.stdout == ""
    assert "Traceback" not in bad.stderr
    assert script("merge").returncode == 2


def test_ctrl_c_leaves_nothing(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed = []

    @contextlib.contextmanager
    def impatient() -> Iterator[Callable[[int, int, str], None]]:
        def press(done: int, total: int, what: str) -> None:
            pressed.append(what)
            raise KeyboardInterrupt

        yield press

    monkeypatch.setattr(progress, "merging", impatient)
    before = contents(folder)
    done = call(f"merge {THREE} -o out/deep.safetensors --threads 1")
    assert pressed
    assert (done.code, done.stdout, done.stderr) == (130, "", "error: interrupted; nothing is left half written.\n")
    assert contents(folder) == before


def test_a_bug_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(api, "run", broken)
    done = call(f"merge {THREE} -o out.safetensors")
    assert isinstance(done.exception, ZeroDivisionError)
    assert done.code == 1
    assert done.stderr == ""


# On a terminal


def test_progress_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.merging() as report:
        report(500, 1000, "merging")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.merging() as report:
        for done in (0, 500, 1000):
            report(done, 1000, "merging")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "merging" in shown.err


def test_the_word_error_is_red_on_a_terminal_only(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefmerge.cli.screen import say_error

    say_error("no [bold]way[/bold]")
    assert capsys.readouterr().err == "error: no [bold]way[/bold]\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say_error("no way")
    assert capsys.readouterr().err == "\x1b[31m\x1b[1merror:\x1b[0m no way\n"


def test_a_preference_that_was_found_with_other_settings_says_so(folder: Path, call: Callable[[str], Result]) -> None:
    about = {"settings": {"method": "tunable_magmax", "scale": "0.9", "strength": "0.2"}}
    found = {"format": "prefmerge-preference/1", "kind": "shares", "values": ["0.8", "0.2"], "about": about}
    (folder / "found.json").write_text(json.dumps(found))
    line = "merge base.safetensors cars.safetensors birds.safetensors --prefer @found.json -o m.safetensors --force"
    partly = call(f"{line} --scale 0.9")
    assert (partly.code, partly.exception) == (0, None)
    assert partly.stderr == "note: found.json was found together with --strength 0.2; add these to make that model.\n"
    assert "--scale 0.9 --strength 0.2" in call(line).stderr
    assert call(f"{line} --scale 0.9 --strength 0.2").stderr == ""
