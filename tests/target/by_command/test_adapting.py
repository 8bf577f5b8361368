"""`adapt` by a command: the ladder for the target's shares, what is kept, how it resumes, and what it writes."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import DataError, MethodError, OutputExists, RunError, UsageError
from prefmerge.ground import locks
from prefmerge.target.by_command import adapting
from prefmerge.target.by_command.choice import CommandChoice, Contender
from prefmerge.target.by_command.number import MeasuredNumber
from prefmerge.target.pool import Candidate, candidates
from prefmerge.target.result import Adapted, command
from tests.forks import begun
from tests.target.by_command.models import calls, make, python, score_of

SCORE = f"{python('score.py')} {{model}}"
CONFIRM = f"{SCORE} confirm"
LABELS = "label\n" + "red\n" * 12 + "wren\n" * 4
COUNTS = {"cars": {"red": 20, "blue": 20}, "birds": {"wren": 30, "crow": 10}}
HIGHER = {"lower_is_better": False}
TRIED = (0, 3, 7)  # of the merges of the ladder: enough, and quicker
MERGES = [one.name for one in candidates(("cars", "birds"), np.array([0.5, 0.5]), True) if not one.single]
MERGES = [MERGES[i] for i in TRIED]


def some(names: Sequence[str], shares: np.ndarray, ordered: bool, own: Sequence[Path] = ()) -> list[Candidate]:
    """A part of the ladder, and the user's own."""
    merges = [one for one in candidates(names, shares, ordered) if not one.single]
    mine = candidates(names, shares, ordered, own)[-len(own) :] if own else []
    return [*(merges[i] for i in TRIED if i < len(merges)), *mine]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seen.csv").write_text(LABELS)
    (tmp_path / "counts.json").write_text(json.dumps(COUNTS))
    monkeypatch.setattr(adapting, "candidates", some)
    return make(tmp_path)


def adapt(**given: Any) -> Adapted:
    usual = {
        "checkpoints": ["base", "cars", "birds"],
        "score": SCORE,
        "lower_is_better": True,
        "out": "site",
        "prefer": "cars=0.75,birds=0.25",
    }
    asked = {name: value for name, value in {**usual, **given}.items() if value is not None}
    return prefmerge.adapt(**asked)  # pyright: ignore[reportArgumentType]


def choice_of(made: Adapted) -> CommandChoice:
    choice: Any = made.scored
    return choice.choice


def rows(made: Adapted) -> dict[str, Contender]:
    """What was scored at the first budget, by name."""
    return {row.trial.what: row for row in choice_of(made).rungs[0].rows}


def by_hand(made: Adapted) -> None:
    """The printed line makes the same weights."""
    done = CliRunner().invoke(app, shlex.split(command(made, "by-hand"))[1:], prog_name="prefmerge")
    assert done.exit_code == 0, done.output
    ours, theirs = (Path(name) / "model.safetensors" for name in ("by-hand", "site"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_from_labels_to_a_model_that_is_better_than_every_input_and_the_default(place: Path):
    shown = {"prefer": None, "labels": "seen.csv", "task_labels": "counts.json"}
    made = adapt(**shown, confirm=CONFIRM, report="page.html", jobs=2)
    assert made.evidence.shares.shares.tolist() == [0.75, 0.25]
    choice = choice_of(made)
    assert set(rows(made)) == {"base", "checkpoint cars", "last checkpoint", *MERGES}
    assert choice.chosen.what == made.chosen.name
    own, *others = choice.compared
    assert own.trial == choice.chosen
    assert {row.trial.what for row in others} == {"base", "checkpoint cars", "last checkpoint", MERGES[0]}
    assert own.measured is not None
    assert all(row.measured is not None and own.measured.value < row.measured.value for row in others)
    assert own.measured.value == pytest.approx(score_of("site"), abs=1e-6)
    assert own.measured.value == min(row.measured.value for row in rows(made).values() if row.measured)
    assert made.estimates is None
    assert made.head is None
    # What is written says all of it, without a path.
    kept = json.loads((place / "site" / "adapt.json").read_text())
    assert kept["scored"]["verdict"] == made.verdict
    assert kept["scored"]["expected"].startswith("Expected: ")
    assert [row["what"] for row in kept["scored"]["compared"]] == [row.trial.what for row in choice.compared]
    assert kept["shown"]["labels"] == {"red": 12, "wren": 4}
    assert kept["parameters"]["confirm"].endswith("score.py {model} confirm")
    receipt = json.loads((place / "site" / "receipt.json").read_text())
    assert made.scored is not None
    assert [made.verdict, made.scored.expected, made.scored.doubt] == receipt["notes"][:3]
    page, card = (place / "site" / name for name in ("report.html", "README.md"))
    assert (place / "page.html").read_text() == page.read_text()
    for text in (page.read_text(), card.read_text()):
        assert str(place) not in text
        assert sys.executable not in text
        assert own.text in text
    assert own.trial.what in page.read_text()
    assert "nothing to judge by" not in page.read_text() + card.read_text()
    assert str(place) not in json.dumps(kept)
    assert prefmerge.verify("site").passed
    by_hand(made)


def test_the_ladder_is_that_of_adapt_for_these_shares(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapting, "candidates", candidates)
    made = adapt(unordered=True, prefer="cars=0.9,birds=0.1")
    expected = [one for one in candidates(("cars", "birds"), np.array([0.9, 0.1]), False) if not one.single]
    assert [one for one in made.pool if not one.single] == expected
    assert set(rows(made)) == {"base", "checkpoint cars", "checkpoint birds", *(one.name for one in expected)}
    assert made.chosen in made.pool
    assert made.source.ordered is False


def test_no_score_is_asked_for_twice_and_other_shares_ask_for_what_is_new(place: Path):
    made = adapt(confirm=CONFIRM)
    asked = Counter(calls(place))
    assert max(asked.values()) == 1
    assert asked.total() == made.cost["commands"]
    inputs = [str(place / name) for name in ("base", "cars", "birds")]
    assert all(asked[name] == asked[f"{name} confirm"] == 1 for name in inputs)
    others = [line.split()[0] for line in asked if line.split()[0] not in inputs]
    assert all(Path(one).parent == place / "site.scores" / "candidates" for one in others)
    assert [one.name for one in (place / "site.scores").iterdir()] == ["scores"]
    first = (place / "site" / "model.safetensors").read_bytes()
    again = adapt(confirm=CONFIRM, force=True)
    assert again.cost["commands"] == again.cost["merges"] == 0
    assert (place / "site" / "model.safetensors").read_bytes() == first
    adapt(confirm=CONFIRM, force=True, prefer="cars=0.5,birds=0.5")
    later = Counter(calls(place)) - asked
    assert 0 < later.total() <= len(MERGES) + 2
    assert not any(line.split()[0] in inputs for line in later)
    adapt(confirm=CONFIRM, force=True, no_cache=True)
    assert not (place / "site.scores").exists()
    assert (Counter(calls(place)) - asked - later).total() == asked.total()


def killed(score: str) -> None:
    adapt(score=score, confirm=f"{score} confirm", jobs=2)


def test_it_resumes_after_a_kill_and_scores_nothing_twice(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapting, "candidates", candidates)
    slow = f"sleep 0.05; {SCORE}"
    process = begun(killed, slow)
    while len(calls(place)) < 7 and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    time.sleep(0.3)  # what it ran has ended, or will print to nobody
    assert not (place / "site").exists()
    made = adapt(score=slow, confirm=f"{slow} confirm", jobs=2)
    # A kill loses what is at work: two commands at most.
    assert sum(count - 1 for count in Counter(calls(place)).values()) <= 2
    assert len(set(calls(place))) == len(rows(made)) + len(choice_of(made).compared)
    assert [one.name for one in (place / "site.scores").iterdir()] == ["scores"]


def test_budgets_go_on_with_the_best_third_and_the_best_input(place: Path):
    made = adapt(score=f"{SCORE} {{budget}}", budgets="5,50")
    first, second = choice_of(made).rungs
    assert len(first.rows) == 3 + len(MERGES)
    kept = [row.trial.number for row in first.rows[: -(-len(first.rows) // 3)]]
    assert [row.trial.number for row in second.rows if row.trial.task is None] == [
        number for number in kept if number >= 3
    ]
    assert any(row.trial.task is not None for row in second.rows)
    assert Counter(line.split()[-1] for line in calls(place)) == {"5": len(first.rows), "50": len(second.rows)}
    assert made.scored is not None
    assert "These scores chose the model" in made.scored.doubt
    assert made.scored.expected.endswith("How good it is on other samples is not known.")


@pytest.mark.parametrize(("kept", "name"), [("birds", "last checkpoint"), ("base", "base")])
def test_an_input_is_kept_where_the_winner_does_not_win(place: Path, kept: str, name: str):
    (place / "confirm.py").write_text(f"import sys\nprint(3 if sys.argv[1].endswith('{kept}') else 7)\n")
    made = adapt(confirm=f"{python('confirm.py')} {{model}}")
    assert choice_of(made).best.task is None
    assert made.chosen.name == name
    assert made.verdict.startswith(f"{name}, which you have, is no worse than the best candidate, ")
    assert made.scored is not None
    assert "chose among what was compared" in made.scored.doubt
    ours, theirs = (load_file(place / one / "model.safetensors") for one in ("site", kept))
    assert all(np.array_equal(ours[tensor], theirs[tensor]) for tensor in theirs)
    assert prefmerge.verify("site").passed
    by_hand(made)


def contender(number: int, score: float, task: int | None = None) -> Contender:
    from prefmerge.target.search.trial import ScoredTrial

    return Contender(ScoredTrial(number, f"model {number}", {}, task, 0.0, True), MeasuredNumber(score))


def test_the_words_of_a_choice():
    base, default, best = contender(0, 3.0, task=-1), contender(1, 4.0), contender(2, 6.0)
    usual: dict[str, Any] = {"command": "s", "confirm": "c", "lower": False, "rungs": (), "default": 1}
    ahead = CommandChoice(best=best.trial, chosen=best.trial, compared=(best, default, base), **usual)
    assert ahead.verdict == ("model 2 is chosen: 6, better by 2 than the default, model 1 (4; higher is better).")
    behind = CommandChoice(best=best.trial, chosen=default.trial, compared=(best, default, base), **usual)
    assert behind.verdict == (
        "model 1, the default, is no worse than the best candidate, model 2 (4 and 6; higher is better). It is kept."
    )
    itself = CommandChoice(best=default.trial, chosen=default.trial, compared=(default, base), **usual)
    assert itself.verdict == "model 1 is chosen: 4, better by 1 than the best input, model 0 (3; higher is better)."
    another = contender(3, 5.0, task=0)
    other = CommandChoice(best=base.trial, chosen=another.trial, compared=(another, base), **usual)
    assert other.verdict.startswith("model 3, which you have, is no worse than the best candidate, model 0 (5 and 3;")


def test_merges_are_scored_in_the_format_that_they_are_written_in(place: Path):
    (place / "size.py").write_text(
        "import sys\nfrom pathlib import Path\nprint((Path(sys.argv[1]) / 'model.safetensors').stat().st_size)\n"
    )
    made = adapt(dtype="float16", score=f"{python('size.py')} {{model}}", prefer=None)
    assert made.evidence.shares.shares.tolist() == [0.5, 0.5]  # all tasks count alike where nothing is said
    assert made.evidence.shares.source == "stated"
    assert not made.chosen.single
    assert choice_of(made).rungs[0].rows[0].measured == MeasuredNumber(
        (place / "site/model.safetensors").stat().st_size
    )
    assert {one.dtype for one in load_file(place / "site" / "model.safetensors").values()} == {np.dtype("float16")}


def test_the_tasks_of_a_run_and_their_label_counts(place: Path):
    tasks = [
        {"name": name, "file": name, "done": True, "classes": [*counts], "label_counts": counts}
        for name, counts in COUNTS.items()
    ]
    manifest = {"format": "prefmerge-run/1", "training": "independent", "base": "base", "head": None, "tasks": tasks}
    (place / "run.json").write_text(json.dumps(manifest))
    made = adapt(checkpoints=None, run=".", prefer=None, labels="seen.csv")
    assert made.evidence.shares.shares.tolist() == [0.75, 0.25]
    assert "average" in rows(made)  # no order, so no increments


def test_a_recipe_of_ones_own_is_scored_too(place: Path):
    (place / "mine.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models:\n- model: cars\n  parameters: {weight: 0.6}\n- model: birds\n  parameters: {weight: [0, 0.8]}\n"
    )
    made = adapt(candidate=["mine.yaml"])
    assert made.chosen.name == "mine (yours)"
    assert made.verdict.startswith("mine (yours) is chosen: ")
    (place / "wrong.yaml").write_text(
        "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: cars}, {model: birds}]\n"
    )
    before = len(calls(place))
    with pytest.raises(MethodError, match="arcee_fusion merges exactly 1 task"):
        adapt(candidate=["wrong.yaml"], out="other")
    assert len(calls(place)) == before
    assert not (place / "other.scores").exists()


# Again, with more


def test_from_an_earlier_result_with_more_labels(place: Path):
    shown = {"prefer": None, "task_labels": "counts.json"}
    adapt(**shown, labels="seen.csv", out="first")
    (place / "more.csv").write_text("label\n" + "wren\n" * 8)
    made = prefmerge.adapt(
        from_="first",
        checkpoints=["base", "cars", "birds"],
        task_labels="counts.json",
        labels="more.csv",
        score=SCORE,
        out="second",
    )
    assert made.evidence.shares.shares.tolist() == [0.5, 0.5]
    assert made.parameters.lower_is_better
    checked = prefmerge.check(
        "first", checkpoints=["base", "cars", "birds"], task_labels="counts.json", labels="more.csv"
    )
    assert checked.command is None or "--score" in checked.command


def test_no_command_is_taken_out_of_a_file(place: Path):
    adapt(out="first", confirm=CONFIRM)
    kept = json.loads((place / "first" / "adapt.json").read_text())
    kept["parameters"]["score"] = "touch owned; echo 1 {model}"
    (place / "first" / "adapt.json").write_text(json.dumps(kept))
    with pytest.raises(UsageError) as error:
        prefmerge.adapt(from_="first", checkpoints=["base", "cars", "birds"], out="second")
    told = "--score (it was 'touch owned; echo 1 {model}'; no command is run out of a file)"
    assert told in str(error.value)
    assert "--confirm (it was " in str(error.value)
    assert not (place / "owned").exists()


# What goes wrong


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"inputs": "photos"},
            "--inputs has no use with --score, whose command alone judges: prefmerge runs no model then. Leave it out, "
            "and say what the target is like with --labels FILE (and --task-labels FILE, where there is no run) or "
            "--prefer SPEC; with neither, all tasks count alike.",
        ),
        (
            {"pairs": "a", "head": "h", "no_prior": True, "keep": 0.5, "compare": ["m"], "task_samples": ["s"]},
            "--pairs, --task-samples, --head, --keep, --no-prior and --compare have no use with --score, whose",
        ),
        (
            {"metric": "balanced", "samples": 5, "model": "m"},
            "--model, --metric and --samples have no use with --score",
        ),
        ({"task_labels": "counts.json"}, "--task-labels has no use with --score without --labels FILE."),
        ({"out": None}, "--out OUT is missing: --score writes its candidates beside it."),
        ({"out": "site.safetensors"}, "-o site.safetensors: other files come with the model"),
        ({"score": None, "jobs": 2, **HIGHER}, "--jobs has no use without --score COMMAND, which scores a model."),
        ({"score": None, "confirm": "a {model}", **HIGHER}, "--confirm has no use without --score COMMAND"),
        ({"score": "true"}, "--score: put {model} where the command takes the model's folder or file."),
        ({"score": f"{SCORE} {{budget}}"}, "--score has {budget}: give --budgets, such as 50,200,1000."),
        ({"confirm": SCORE}, "--confirm is the command of --score, which chose the model. Have it take other samples."),
        ({"max_memory": "lots"}, "--max-memory 'lots' is not a size"),
        ({"prefer": None, "labels": "seen.csv"}, "--labels are compared with those that the tasks were trained on:"),
        ({"checkpoints": ["base"]}, "nothing to adapt: give --run RUN, or BASE TASK..."),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_scored(place: Path, given: dict[str, Any], message: str):
    with pytest.raises(UsageError) as error:
        adapt(**given)
    assert str(error.value).startswith(message)
    assert calls(place) == []
    assert not list(place.glob("site*"))


def test_labels_of_other_classes_are_refused(place: Path):
    (place / "seen.csv").write_text("label\ntrain\nboat\n")
    with pytest.raises(DataError, match="train"):
        adapt(prefer=None, labels="seen.csv", task_labels="counts.json")
    assert calls(place) == []


def test_nothing_is_left_where_no_input_has_a_score(place: Path):
    with pytest.raises(RunError, match=r"--score: none of the inputs has a score\. Of base: the command failed"):
        adapt(score="false {model}")
    assert not list(place.glob("site*"))


def test_a_candidate_that_fails_is_noted_and_tried_again_by_the_next_call(place: Path):
    (place / "some.py").write_text(
        "import sys\nfrom pathlib import Path\nexec(Path('score.py').read_text())\n"
        "if 'candidates' in sys.argv[1] and not Path('mended').exists():\n    print('no memory'); sys.exit(1)\n"
    )
    made = adapt(score=f"{python('some.py')} {{model}}")
    assert made.chosen.single
    assert made.verdict.startswith("No merge scored better than ")
    (note,) = made.notes
    assert note.startswith(f"{len(MERGES)} candidates without a score. Of {MERGES[0]}: the command failed with")
    assert len(calls(place)) == 3 + len(MERGES)
    (place / "mended").touch()
    made = adapt(score=f"{python('some.py')} {{model}}", force=True)
    assert not made.chosen.single
    assert len(calls(place)) == 3 + 2 * len(MERGES)


def test_places_that_are_taken_are_refused_before_anything_is_scored(place: Path):
    (place / "site.scores").mkdir()
    (place / "site.scores" / "mine.txt").touch()
    with pytest.raises(OutputExists, match=r"site\.scores: holds 'mine\.txt', and the scores are kept there"):
        adapt()
    (place / "site").mkdir()
    (place / "site" / "mine.txt").touch()
    with pytest.raises(OutputExists, match="site: exists already"):
        adapt()
    assert calls(place) == []


@pytest.mark.parametrize("mine", ["scores/mine.txt", "candidates/mine/weights", "scores"])
def test_nothing_of_others_is_removed_from_where_the_scores_are_kept(place: Path, mine: str):
    file = place / "site.scores" / mine
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(OutputExists, match=r"site\.scores: holds '(scores|candidates/mine)"):
        adapt(no_cache=True)
    assert file.read_text() == "mine"
    assert calls(place) == []


def test_a_call_that_must_wait_leaves_the_folder_of_the_other(place: Path):
    folder = place / "site.scores"
    folder.mkdir()
    with locks.held(folder):
        with pytest.raises(RunError, match="another process is at work on these scores"):
            adapt()
        assert folder.is_dir()
