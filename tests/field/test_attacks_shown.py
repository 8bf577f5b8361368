"""Names that a terminal, a browser or a spreadsheet would obey: every one is shown as it is written."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from prefmerge import shown
from prefmerge.cli import progress, screen
from prefmerge.errors import CheckpointCorrupt, PrefmergeError
from prefmerge.ground.checked import checked
from prefmerge.lab.table import Table, Value
from prefmerge.runs import Run
from tests.field.attacked import call, is_safe, make, refused

CLI = Path(screen.__file__).parent
NAMES = ("a\x1b[2J\x1b]0;x\x07b", "a\u202eb\u2066c", "a\nfault: b", "a\rb\x9b31m")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_attack_s7_names_of_tasks(inputs: list[str], name: str) -> None:
    text = {"merge_method": "magmax", "base_model": inputs[0]}
    tasks = [{"model": inputs[1], "name": name}, {"model": inputs[2]}]
    Path("r.yaml").write_text(json.dumps({**text, "models": tasks}))
    for words in (
        ("plan", "r.yaml"),
        ("merge", "r.yaml", "-o", "out"),
        ("inspect", "out"),
        ("verify", "out", "--with-inputs"),
    ):
        done = call(*words)
        assert done.code == 0
        assert is_safe(done.stdout), words
        assert done.stdout.count("fault: b") == done.stdout.count("\\nfault: b")
    assert is_safe(Path("out/README.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_attack_s7_names_of_tensors(inputs: list[str], name: str) -> None:
    for i, path in enumerate(inputs):
        save_file({name: np.full(3, i, np.float32)}, path)
    for words in (("merge", *inputs, "-o", "o.safetensors"), ("inspect", "o.safetensors", "--by", "tensor")):
        done = call(*words)
        assert done.code == 0
        assert is_safe(done.stdout)
    save_file({name: np.zeros(4, np.float32)}, inputs[1])
    refused("plan", *inputs, saying="shape")


@pytest.mark.parametrize("name", NAMES)
def test_attack_s7_names_of_files(inputs: list[str], name: str) -> None:
    shutil.copy(inputs[1], f"{name}.safetensors")
    done = call("merge", inputs[0], f"{name}.safetensors", inputs[2], "-o", f"out {name}")
    assert done.code == 0
    assert is_safe(done.stdout)
    for words in (
        ("plan", f"gone {name}", inputs[1]),
        ("plan", f"gone {name}.yaml"),
        ("merge", *inputs, "-o", f"out {name}"),
        ("merge", *inputs, "-o", "x", f"--{name}"),
        ("plan", *inputs, "--prefer", name),
        ("plan", "--run", name),
        (name, "x"),
    ):
        assert not any(line.startswith("fault: b") for line in refused(*words).splitlines()), words


def test_attack_s7_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    for bars in (progress.merging, progress.searching, progress.steps):
        with bars() as report:
            assert report is not None
            report(1, 2, "x\x1b[2Jy\u202e")
        drawn = capsys.readouterr().err
        assert "\\x1b" in drawn
        assert "\x1b[2J" not in drawn
        assert "\u202e" not in drawn
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    screen.say("one\ntwo\x1b[2J")
    assert capsys.readouterr().err == "one\\ntwo\\x1b[2J\n"


def test_attack_s7_everything_is_shown_in_one_place() -> None:
    """No other module of the command line prints, and `show` prints JSON alone, which escapes what it must."""
    printing = set()
    for file in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("print", "Console"):
                printing.add(file.stem)
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ("typer.echo", "sys.stderr.write"):
                printing.add(file.stem)
    assert printing <= {"screen", "show", "listing", "commands"}
    assert (CLI / "show.py").read_text().count("print(") == (CLI / "show.py").read_text().count("console.print(") + 2


# M8: messages


@pytest.mark.parametrize("text", ["x" * 10**6, "a\x1b" * 10**4, "line\n" * 10**4])
def test_attack_m8_messages_are_bounded(text: str) -> None:
    said = str(PrefmergeError(f"begins {text} ends with what to do."))
    assert len(said) <= shown.LONGEST
    assert said.startswith("begins ")
    assert said.endswith("ends with what to do.")
    assert "characters more" in said


def test_attack_m8_values_are_short() -> None:
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, "x" * 10**6, 10**5000, list(range(10**5)), {str(i): deep for i in range(99)}, b"x" * 10**6):
        assert len(shown.value(value)) < 600
    with pytest.raises(CheckpointCorrupt) as raised:
        checked(
            Run, {"folder": "x", "training": "x" * 10**6, "base": deep, "tasks": deep}, "run.json", CheckpointCorrupt
        )
    assert len(str(raised.value)) <= shown.LONGEST


def test_attack_m8_many_tasks_and_tensors(inputs: list[str]) -> None:
    """A message about many names names few."""
    save_file({f"{'long' * 50}.{i}": np.zeros(1, np.float32) for i in range(300)}, inputs[1])
    refused("plan", *inputs)
    refused("plan", *inputs, "--prefer", ",".join(f"{'t' * 90}{i}=1" for i in range(300)))
    refused("merge", *inputs, "-o", "x", "--exclude", "y" * 5000)


# M9: what others open


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a|b`c`&lt;", "t\x1b[2J"])
def test_attack_m9_the_model_card(inputs: list[str], name: str) -> None:
    base = Path("base & co" if "|" in name else name.replace("/", ""))
    base.mkdir()
    shutil.copy(inputs[0], base / "model.safetensors")
    tasks = [{"model": inputs[1], "name": name}, {"model": inputs[2]}]
    text = {"merge_method": "tunable_magmax", "base_model": str(base), "models": tasks}
    Path("r.yaml").write_text(json.dumps({**text, "parameters": {"prefer": {name: 1, "t2": 2}}}))
    assert call("merge", "r.yaml", "-o", "out", "--exclude", "b.*").code == 0
    card = Path("out/README.md").read_text()
    assert is_safe(card)
    _, head, rest = card.split("---\n", 2)
    shown, _, code = rest.partition("```yaml\n")
    code, _, end = code.partition("\n```\n")
    assert not re.search(r"(?<!\\)(<img|\[x\]|\|b`|&lt;)", shown + end)
    assert "base_model" not in yaml.safe_load(head)  # it is no model of a hub
    assert yaml.safe_load(code)["base_model"] == base.name
    assert [model["name"] for model in yaml.safe_load(code)["models"]] == [name, "t2"]
    rows = [line for line in card.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 5


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "\t=1", "\r=1"])
def test_attack_m9_cells_of_a_spreadsheet(text: str) -> None:
    table = Table("t", "caption", ("model", text), ((Value(text), Value("-0.5")), (Value("x"), Value("+1.2 % ± 0.3"))))
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0][1].startswith("'")
    assert rows[1][0].startswith("'")
    assert [row[1] for row in rows[1:]] == ["-0.5", "+1.2 % ± 0.3"]  # numbers stay numbers


@pytest.mark.parametrize("text", ["<img src=x>", "a|b", "&amp;", "*x*\x1b[2J"])
def test_attack_m9_tables_in_markdown(text: str) -> None:
    table = Table("t", text, ("model", text), ((Value(text), Value("1")),), notes=(text,))
    for row in table.markdown().splitlines():
        assert is_safe(row)
        assert not re.search(r"(?<!\\)(<img|&amp;)", row)
        assert row.replace("\\|", "").count("|") in (0, 3)
