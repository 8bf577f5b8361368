"""`prefmerge search --score` as typed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.cli.options import EXAMPLES
from tests.target.by_command.models import calls, make, python

pytest.importorskip("optuna", reason="search needs the extra places")

SCORE = f"{python('score.py')} {{model}}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words), prog_name="prefmerge")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_from_checkpoints_to_a_model(place: Path) -> None:
    words = ["search", "base", "cars", "birds", "--score", SCORE, "--lower-is-better", "-o", "found"]
    words += ["--confirm", f"{SCORE} confirm", "--trials", "12", "--batch", "6"]
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[-1] == "score"
    assert lines[0].startswith("the best of 12 trials")
    result = json.loads((place / "found" / "search.json").read_text())
    assert f"{result['chosen']['what']}, chosen" in out
    assert result["verdict"] in lines
    assert result["doubt"] in lines
    assert "12 trials; ended by 12 trials." in lines
    assert f"{result['cost']['commands']} commands, {result['cost']['merges']} merges, " in out
    assert lines[-2:] == ["Output: found", "Next: prefmerge merge found/recipe.yaml -o merged/"]
    assert call(*shlex.split(lines[-1])[2:])[0] == 0
    assert (place / "merged" / "receipt.json").exists()

    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    assert {**json.loads(out), "cost": 0} == {**result, "cost": 0}
    code, out, _ = call(*words, "--model", "chosen")
    assert code == 0
    assert out.splitlines()[-1] == "Model: chosen"
    assert (place / "chosen" / "model.safetensors").read_bytes() == (
        place / "merged" / "model.safetensors"
    ).read_bytes()
    assert call("verify", "chosen")[0] == 0


def test_the_example_of_the_help_text_works(place: Path) -> None:
    line = next(one for one in EXAMPLES["search"] if "score.py" in one)
    words = [word.replace("python score.py", python("score.py")) for word in shlex.split(line)[1:]]
    code, _, err = call(*words, "--trials", "9")
    assert (code, err) == (0, "")
    assert len(calls(place)) == 9


def test_ctrl_c_ends_the_commands_and_the_same_command_resumes(place: Path) -> None:
    (place / "slow.py").write_text(
        "import os, time\nopen('pids.log', 'a').write(f'{os.getpid()}\\n')\ntime.sleep(60)\n"
    )
    words = ["base", "cars", "birds", "-o", "found", "--jobs", "2", "--trials", "9", "--lower-is-better"]
    slow = f"test $(wc -l < calls.log) -lt 5 || {python('slow.py')}; {SCORE}"
    (place / "calls.log").touch()
    line = [sys.executable, "-m", "prefmerge", "search", *words, "--score", slow]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (place / "pids.log").exists():
                assert process.poll() is None, "it ended before it could be interrupted"
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=50)  # less than what it waits for takes
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted; the same command resumes."
    assert not (place / "found" / "candidates").exists()
    for pid in (place / "pids.log").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    before = len(calls(place))
    (place / "slow.py").write_text("")
    code, _, err = call("search", *words, "--score", slow)
    assert (code, err) == (0, "")
    assert len(set(calls(place))) == 9 > before
    # The command beside the slow one may have been ended after it had noted its call: it is called again.
    assert len(calls(place)) - 9 <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", SCORE], "--out OUT is missing: where to keep the search."),
        (["--score", SCORE, "-o", "found.json"], "--out found.json: with --score it is a folder."),
        (
            ["--score", SCORE, "-o", "x", "--labels", "a"],
            "--labels has no use with --score, whose command alone",
        ),
        (["--score", SCORE, "-o", "x", "--paper"], "--paper has no use with --score, whose command alone ranks."),
        (["--score", SCORE, "-o", "x", "--run", "r"], "--run r already says which checkpoints to take."),
        (["--score", "true", "-o", "x"], "--score: put {model} where the command takes the model's folder or file."),
        (["-o", "x"], "BASE TASK... has no use without --score COMMAND, which scores a model."),
    ],
)
def test_one_message_for_what_makes_no_sense(place: Path, words: list[str], message: str) -> None:
    code, out, err = call("search", "base", "cars", "birds", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (place / "x").exists()


def test_without_checkpoints_or_with_a_base_alone(place: Path) -> None:
    assert (
        "nothing to merge: give BASE TASK..., a RECIPE.yaml, or --run RUN."
        in call("search", "--score", SCORE, "-o", "x")[2]
    )
    assert "base is the base, and no task follows it" in call("search", "base", "--score", SCORE, "-o", "x")[2]
    assert "--jobs has no use without --score COMMAND" in call("search", "--run", "r", "-o", "x", "--jobs", "2")[2]
    (place / "r.yaml").touch()
    assert "r.yaml is a recipe and names its own" in call("search", "r.yaml", "base", "--score", SCORE, "-o", "x")[2]


def test_a_command_that_always_fails_shows_the_end_of_its_output(place: Path) -> None:
    code, _, err = call("search", "base", "cars", "--score", "echo no GPU >&2; false {model}", "-o", "x")
    assert code == 1
    assert err == (
        "error: --score: none of the inputs has a score. Of base: the command failed with exit code 1. The end of its "
        "output:\n  no GPU\n"
    )
