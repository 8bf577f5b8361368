"""`prefmerge adapt --score` as typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from prefmerge.cli.options import EXAMPLES
from tests.cli.test_search_by_command import SCORE, call
from tests.target.by_command.models import calls, make, python

WORDS = ["adapt", "base", "cars", "birds", "--score", SCORE, "--lower-is-better", "-o", "site"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def test_from_checkpoints_to_a_model(place: Path) -> None:
    words = [*WORDS, "--prefer", "cars=0.75,birds=0.25", "--confirm", f"{SCORE} confirm", "--report", "page.html"]
    code, out, err = call(*words)
    assert (code, err) == (0, "reading the checkpoints\nwriting the model\n")
    lines = out.splitlines()
    result = json.loads((place / "site" / "adapt.json").read_text())
    assert lines[0] == "The target, by the mix that you state:"
    assert f"{result['chosen']['name']}, chosen" in out
    for name in ("verdict", "expected", "doubt"):
        assert result["scored"][name] in lines
    cost = result["cost"]
    assert f"{cost['candidates']} candidates, {cost['commands']} commands, {cost['merges']} merges, " in out
    assert lines[-3] == "Output: site (weights, report.html; scores, which are not asked for again: site.scores)"
    assert lines[-2] == "Report: page.html"
    assert lines[-1].startswith("The same weights by hand: prefmerge merge base cars birds --method ")
    assert call(*shlex.split(lines[-1].partition(": ")[2])[1:])[0] == 0
    made, by_hand = (place / name / "model.safetensors" for name in ("site", "site-by-hand"))
    assert made.read_bytes() == by_hand.read_bytes()
    assert call("verify", "site")[0] == 0
    before = len(calls(place))
    code, out, _ = call(*words, "--force", "--json")
    assert code == 0
    assert json.loads(out)["scored"] == result["scored"]
    assert len(calls(place)) == before


def test_no_mix_is_called_stated_where_nothing_was_said(place: Path) -> None:
    code, out, _ = call(*WORDS)
    assert code == 0
    assert out.splitlines()[0] == "Nothing was said of the target, so all tasks count alike:"
    card, page = ((place / "site" / name).read_text() for name in ("README.md", "report.html"))
    assert "(all alike, for nothing was said of it)" in card
    assert "Nothing was said of the target, so all tasks count alike." in page
    for text in (out, card, page):
        assert "as stated" not in text
        assert "was stated" not in text
        assert "you state" not in text


def test_the_example_of_the_help_text_works(place: Path) -> None:
    line = next(one for one in EXAMPLES["adapt"] if "score.py" in one)
    words = [word.replace("python score.py", python("score.py")) for word in shlex.split(line)[1:]]
    code, _, err = call(*words)
    assert code == 0, err
    assert (place / "scored" / "report.html").exists()


def test_one_message_for_what_makes_no_sense(place: Path) -> None:
    code, out, err = call(*WORDS, "--inputs", "photos", "--keep", "0.5")
    assert (code, out) == (2, "")
    assert err.startswith("error: --inputs and --keep have no use with --score, whose command alone judges:")
    assert err.count("\n") == 1
    assert not list(place.glob("site*"))
