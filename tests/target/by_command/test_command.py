"""The user's command: its words, whatever paths hold; its end, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prefmerge.errors import UsageError
from prefmerge.target.by_command import command, guard
from prefmerge.target.by_command.command import KEPT, Command, CommandScore, Failure, Running
from prefmerge.target.by_command.number import MeasuredNumber
from tests.target.by_command.models import python

NASTY = "a b'c\"d$(touch pwned)`touch pwned`;touch pwned #\\e"


def score(text: str, timeout: float | None = None, running: Running | None = None, **words: str) -> CommandScore:
    return Command(text, "--score", timeout=timeout).score({"model": "m", "out": "o", **words}, running or Running())


@pytest.mark.parametrize("quoted", ["{}", '"{}"', "'{}'", "x={}", "x='{}'", 'x="{}"', "\\'{}"])
def test_a_path_reaches_the_command_as_one_word_and_as_no_code(
    quoted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "show.py").write_text("import sys; print(*map(ascii, sys.argv[1:]), sep='\\n'); print(len(sys.argv))")
    word = quoted.format("{model}")
    text = f"{python('show.py')} {word} | tee seen.txt"
    assert score(text, model=NASTY) == MeasuredNumber(2.0)
    before = "'" if quoted.startswith("\\") else "x=" if "x=" in quoted else ""
    assert (tmp_path / "seen.txt").read_text().splitlines()[0] == ascii(before + NASTY)
    assert not (tmp_path / "pwned").exists()


def test_only_known_words_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = "job={job}; echo 'x 3 {budget}' | awk '{print $2 * 2}'; true ${job} {model} {unknown} > /dev/null"
    assert score(text, job="1", budget="7") == MeasuredNumber(6.0)
    assert score("echo ${PREFMERGE_BUDGET} # {model}", budget="50") == MeasuredNumber(50.0)


def test_a_command_without_a_model_or_with_a_slip_is_refused():
    with pytest.raises(UsageError, match=r"^--score: put \{model\} where the command takes the model's folder or file"):
        Command("python score.py", "--score")
    with pytest.raises(UsageError, match=r"^--confirm: \{modell\} stands for nothing\. Did you mean \{model\}\?"):
        Command("x {model} {modell}", "--confirm")
    assert Command("x {model} {budget}", "--score").has("budget")
    assert not Command("x {model} ${budget}", "--score").has("budget")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo {model}; exit 3", "the command failed with exit code 3. The end of its output:\nm"),
        (
            "echo oh no >&2; echo 5; false # {model}",
            "the command failed with exit code 1. The end of its output:\noh no",
        ),
        ("no-such-program {model}", "the command was not found (exit code 127). The end of its output:\n"),
        ("kill -9 $$ # {model}", "the command was ended by SIGKILL, and printed nothing"),
        ("true {model}", "it printed nothing"),
        ("echo nan # {model}", "the number is nan; expected a finite one. The end of its output:\nnan"),
        ("echo hello; echo warning >&2 # {model}", "it printed no number. The end of its output:\nhello"),
    ],
)
def test_what_gives_no_score_says_why(text: str, why: str):
    failure = score(text)
    assert isinstance(failure, Failure)
    assert failure.why.startswith(why)


def test_a_time_below_a_second_is_said_as_it_is():
    failure = score("sleep 5; : {model}", timeout=0.05)
    assert failure == Failure("the command did not end within 0.05 s, and printed nothing")


def test_a_flood_takes_no_memory_and_the_end_of_it_counts():
    code = f"import sys\nfor _ in range({4 * KEPT // 1000}): print('x' * 999)\nprint(4)"
    assert score(f'{python("-c")} "{code}" {{model}}') == MeasuredNumber(4.0)
    _, out, err = Running().run(f'{python("-c")} "{code}"', os.environ, None)
    assert len(out) <= KEPT + (1 << 16)
    assert err == ""


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = time.monotonic()
    failure = score("(sleep 60; echo late > late) & echo $! > pid; echo waiting; sleep 60 # {model}", timeout=0.5)
    assert failure == Failure("the command did not end within 0.5 s. The end of its output:\nwaiting")
    assert time.monotonic() - before < 10
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert score("sleep 60 & echo $! > pid; echo 3 # {model}") == MeasuredNumber(3.0)
    assert gone(int((tmp_path / "pid").read_text()))


def test_running_commands_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    running, scores = Running(), list[CommandScore]()
    thread = threading.Thread(target=lambda: scores.append(score("touch began; sleep 60 # {model}", running=running)))
    thread.start()
    wait_for(tmp_path / "began")
    running.end()
    thread.join(10)
    assert [type(one) for one in scores] == [Failure]
    assert isinstance(score("sleep 60 # {model}", running=running), Failure)  # none begins any more


def test_a_command_ends_when_its_caller_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "call.py").write_text(
        "import os\nfrom prefmerge.target.by_command.command import Running\n"
        "Running().run('echo $$ > pid.part; mv pid.part pid; sleep 60', os.environ, None)\n"
    )
    caller = subprocess.Popen([sys.executable, "call.py"])
    wait_for(tmp_path / "pid")
    caller.kill()
    caller.wait()
    assert gone(int((tmp_path / "pid").read_text()))


def test_the_guard_imports_nothing_of_ours():
    assert "prefmerge." not in Path(guard.__file__).read_text().partition('"""\n\n')[2]
    assert Path(guard.__file__).parent == Path(command.__file__).parent


def wait_for(file: Path) -> None:
    for _ in range(1000):
        if file.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} did not appear")


def gone(pid: int) -> bool:
    for _ in range(1000):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
