"""The search by a command: better than every input, resumed after a kill, and what it makes of commands that fail."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge.errors import DiskFull, MethodError, OutputExists, RunError, UsageError
from prefmerge.merging.api import run
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.target.by_command import CommandOutcome, scoring
from prefmerge.target.by_command.choice import Contender, ahead_of
from prefmerge.target.by_command.number import MeasuredNumber, repeated
from prefmerge.target.search.trial import ScoredTrial
from tests.forks import begun
from tests.target.by_command.models import calls, make, python, score_of

pytest.importorskip("optuna", reason="search needs the extra search")

SCORE = f"{python('score.py')} {{model}}"
CONFIRM = f"{SCORE} confirm"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def search(**given: Any) -> CommandOutcome:
    usual = {
        "checkpoints": ["base", "cars", "birds"],
        "score": SCORE,
        "lower_is_better": True,
        "out": "found",
        "trials": 14,
        "batch": 7,
        "space": "weights:2",
    }
    asked = {name: value for name, value in {**usual, **given}.items() if value is not None}
    outcome = prefmerge.search(**asked)  # pyright: ignore[reportArgumentType]
    assert isinstance(outcome, CommandOutcome)
    return outcome


def test_a_search_is_better_than_every_input_and_its_recipe_makes_the_same_bytes(place: Path):
    outcome = search(confirm=CONFIRM, model="chosen", jobs=2)
    best, *inputs = outcome.compared
    assert outcome.chosen == outcome.best == best.trial
    assert {row.trial.what for row in inputs} == {"base", "task cars", "task birds"}
    assert best.measured is not None
    assert all(row.measured is not None and best.measured.value < row.measured.value for row in inputs)
    assert [row.measured.value for row in inputs if row.measured] == sorted(
        row.measured.value for row in inputs if row.measured
    )
    assert best.measured.value == pytest.approx(score_of("chosen"), abs=1e-6)
    assert inputs[0].measured is not None
    assert f"better by {inputs[0].measured.value - best.measured.value:.3g} than the best input" in outcome.verdict
    assert "One score has no interval" in outcome.doubt
    receipt = run(read_recipe("found/recipe.yaml"), Path("again"))
    assert (place / "again" / "model.safetensors").read_bytes() == (place / "chosen" / "model.safetensors").read_bytes()
    assert receipt.recipe["method"] == outcome.settings.get("method")
    assert sorted(path.name for path in (place / "found").iterdir()) == [
        "recipe.yaml",
        "scores",
        "search.json",
        "study.journal",
    ]
    kept = json.loads((place / "found" / "search.json").read_text())
    assert kept == outcome.to_json()
    assert kept["chosen"]["number"] == outcome.best.number


def test_no_score_is_asked_for_twice_and_inputs_are_scored_where_they_are(place: Path):
    outcome = search(confirm=CONFIRM)
    asked = Counter(calls(place))
    assert max(asked.values()) == 1
    assert len(outcome.trials) == 14
    assert sum(not line.endswith("confirm") for line in asked) == len({one.key for one in outcome.trials})
    inputs = [str(place / name) for name in ("base", "cars", "birds")]
    assert all(asked[name] == asked[f"{name} confirm"] == 1 for name in inputs)
    others = [line for line in asked if line.split()[0] not in inputs]
    assert all(Path(line.split()[0]).parent == place / "found" / "candidates" for line in others)
    assert not any(Path(line.split()[0]).exists() for line in others)
    again = search(confirm=CONFIRM)
    assert len(calls(place)) == sum(asked.values())
    assert {**again.to_json(), "cost": None} == {**outcome.to_json(), "cost": None}
    assert again.cost["commands"] == 0
    search(confirm=CONFIRM, trials=16)  # longer
    assert sum(not line.endswith("confirm") for line in calls(place)) == 16


def test_the_seed_decides_and_jobs_do_not(place: Path):
    tried = [one.settings for one in search(jobs=3, trials=16, batch=8).trials]
    assert [one.settings for one in search(out="other", trials=16, batch=8).trials] == tried
    assert [one.settings for one in search(out="third", trials=16, batch=8, seed=1).trials] != tried


def searching(score: str) -> None:
    search(score=score, confirm=f"{score} confirm", jobs=2)


def test_a_search_that_is_killed_resumes_and_scores_nothing_twice(place: Path):
    expected = search(confirm=f"{SCORE} confirm", out="whole").to_json()
    (place / "calls.log").unlink()
    slow = f"sleep 0.05; {SCORE}"
    done, kills = 0, 0
    for moment in (4, 11):
        process = begun(searching, slow)
        while len(calls(place)) < moment and process.is_alive():
            time.sleep(0.01)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        time.sleep(0.3)  # what it ran has ended, or will print to nobody
        done = len(calls(place))
    assert kills == 2
    assert done >= 11
    searching(slow)
    kept = json.loads((place / "found" / "search.json").read_text())
    for name in ("trials", "compared", "chosen", "verdict", "recipe"):
        assert kept[name] == expected[name], name
    asked = Counter(calls(place))
    # A kill loses what is at work: two commands at most.
    assert sum(count - 1 for count in asked.values()) <= 2 * kills
    assert not (place / "found" / "candidates").exists()


def test_budgets_go_on_with_the_best_third_and_the_best_input(place: Path):
    outcome = search(score=f"{SCORE} {{budget}}", budgets="1,20,300")
    first, second, third = outcome.rungs
    assert [rung.budget for rung in outcome.rungs] == ["1", "20", "300"]
    assert len(first.rows) == 14
    kept = [row.trial.number for row in first.rows[:5]]
    best_input = next(row.trial for row in first.rows if row.trial.task is not None)
    assert [row.trial.number for row in second.rows[:5]] == kept
    assert {row.trial.number for row in second.rows} == {*kept, best_input.number}
    assert len(third.rows) == 3
    assert outcome.best == third.rows[0].trial
    assert Counter(line.split()[-1] for line in calls(place)) == {"1": 14, "20": 6, "300": 3}
    assert {row.trial.number for row in outcome.compared} == {outcome.best.number, best_input.number}
    assert "These scores chose the model" in outcome.doubt


def test_the_best_input_is_kept_where_the_winner_does_not_win(place: Path):
    (place / "confirm.py").write_text("import sys\nprint(3 if sys.argv[1].endswith('birds') else 7)\n")
    outcome = search(confirm=f"{python('confirm.py')} {{model}}", model="chosen")
    assert outcome.best.task is None
    assert outcome.chosen.what == "task birds"
    assert outcome.verdict.startswith("task birds, which you have, is no worse than the best candidate, ")
    assert "chose among what was compared" in outcome.doubt
    assert outcome.settings == {}
    assert read_recipe("found/recipe.yaml").method == "passthrough"
    birds, chosen = (load_file(place / name / "model.safetensors") for name in ("birds", "chosen"))
    assert all(np.array_equal(birds[name], chosen[name]) for name in birds)
    run(read_recipe("found/recipe.yaml"), Path("again"))
    assert (place / "again" / "model.safetensors").read_bytes() == (place / "chosen" / "model.safetensors").read_bytes()


def test_standard_errors_give_an_interval(place: Path):
    (place / "confirm.py").write_text("import sys\nprint('3 +- 0.1' if 'candidates' in sys.argv[1] else '5 +- 0.2')\n")
    outcome = search(confirm=f"{python('confirm.py')} {{model}}")
    assert "better by 2 than the best input, base (5 ± 0.2, 95 % interval 1.56 to 2.44; lower" in outcome.verdict
    assert "independent" in outcome.doubt


NOISY = """\
import sys
from pathlib import Path

exec(Path('score.py').read_text())
repeat = int(sys.argv[3])
if Path('broken').exists() and repeat == 3:
    sys.exit('no memory')
print(total + (0, 0.5, -0.125, 0.25)[repeat])
"""
REPEATED = f"{python('noisy.py')} {{model}} confirm {{repeat}}"


def test_a_confirming_command_that_is_run_several_times(place: Path):
    (place / "noisy.py").write_text(NOISY)
    (place / "broken").touch()
    with pytest.raises(RunError, match="--confirm: no model has a score"):
        search(confirm=REPEATED, confirm_repeats=3)
    (place / "broken").unlink()
    before = Counter(calls(place))
    outcome = search(confirm=REPEATED, confirm_repeats=3)
    asked = Counter(calls(place)) - before
    assert asked.total() == len(outcome.compared)  # the runs that were had are kept
    assert all(line.endswith("confirm 3") for line in asked)
    own, rival = outcome.compared[:2]
    assert own.measured is not None
    assert rival.measured is not None
    plain = outcome.rungs[-1].rows[0].measured
    assert plain is not None
    noise = (0.5, -0.125, 0.25)
    error = stdev(noise) / math.sqrt(3)
    assert own.measured.value == pytest.approx(plain.value + sum(noise) / 3)
    assert own.measured.error == pytest.approx(error)
    assert own.interval == pytest.approx(  # Student's t for two degrees of freedom
        (own.measured.value - 4.302653 * error, own.measured.value + 4.302653 * error), rel=1e-6
    )
    assert outcome.expected.startswith(f"Expected: {own.text}, 95 % interval ")
    assert outcome.expected.endswith(", the mean of 3 runs, by the confirming command (lower is better).")
    assert outcome.doubt.startswith("The interval is that of 3 runs: it holds what differs from run to run")
    # The noise is the same for each model here, so it is not in the difference.
    ahead, half = ahead_of(own, rival, True)
    assert ahead == pytest.approx(rival.measured.value - own.measured.value)
    assert half is None or half < 1e-6
    assert [len(row["runs"]) for row in outcome.to_json()["compared"]] == [3] * 4


def test_runs_that_are_all_the_same_have_no_interval(place: Path):
    outcome = search(confirm=CONFIRM, confirm_repeats=2)
    assert outcome.compared[0].interval is None
    assert "95 %" not in outcome.verdict + outcome.expected
    assert outcome.doubt.startswith("All runs of the confirming command print the same, so there is no interval.")
    assert sum(line.endswith("confirm") for line in calls(place)) == 2 * len(outcome.compared)


def test_the_interval_of_several_runs():
    def row(*values: float, error: float | None = None) -> Contender:
        trial = ScoredTrial(0, "one", {}, None, 0.0, False)
        return Contender(trial, repeated([MeasuredNumber(value, error) for value in values]))

    ahead, half = ahead_of(row(3, 5, 4), row(1, 2, 3), False)
    apart = (2, 3, 1)
    assert (ahead, half) == pytest.approx((2, 4.302653 * stdev(apart) / math.sqrt(3)), rel=1e-6)
    assert ahead_of(row(3, 5, 4), row(1, 2, 3), True)[0] == pytest.approx(-2)
    # A standard error that the command prints counts where it is larger: samples are few, however often they are run.
    _, half = ahead_of(row(3, 5, 4, error=3.0), row(1, 2, 3, error=4.0), False)
    assert half == pytest.approx(1.96 * 5)
    assert row(3, 5, 4, error=3.0).text == "4 ± 3"
    assert row(3, 5, 4, error=0.1).text == f"4 ± {1 / math.sqrt(3):.2g}"


def test_files_are_searched_as_folders_are(place: Path):
    for name in ("base", "cars", "birds"):
        (place / name / "model.safetensors").rename(place / f"{name}.safetensors")
    outcome = search(checkpoints=[f"{name}.safetensors" for name in ("base", "cars", "birds")], model="out.safetensors")
    assert outcome.best.task is None
    assert all(line.endswith(".safetensors") for line in calls(place))
    assert outcome.rungs[0].rows[0].measured is not None
    assert score_of("out.safetensors") == pytest.approx(outcome.rungs[0].rows[0].measured.value, abs=1e-6)
    assert list((place / "found").glob("candidates*")) == []


def test_what_is_no_model_by_itself_is_written_first(place: Path):
    prefmerge.merge("base", ["birds"], "birds-vector.safetensors", method="last", as_task_vector=True)
    (place / "cars" / "config.json").unlink()  # weights alone
    outcome = search(checkpoints=["base", "cars", "birds-vector.safetensors"], trials=8)
    scores = {row.trial.what: row.measured for row in outcome.rungs[0].rows}
    for task, name in (("task cars", "cars"), ("task birds-vector", "birds")):
        measured = scores[task]
        assert measured is not None
        assert measured.value == pytest.approx(score_of(name), abs=1e-5)


def test_a_recipe_gives_the_checkpoints_and_what_holds(place: Path):
    (place / "recipe.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\ndtype: float32\nexclude: ['layers.0.*']\n"
        "models:\n- model: cars\n  parameters: {weight: 0.5}\n- model: birds\n  parameters: {weight: 0.4}\n"
    )
    outcome = search(checkpoints=["recipe.yaml"], trials=14, space=None)
    assert outcome.trials[3].what == "the recipe"
    assert outcome.trials[3].settings["weights"] == ["0.5", "0.4"]
    assert all(one.settings["exclude"] == ["layers.0.*"] for one in outcome.trials[3:])
    assert "exclude:" in (place / "found" / "recipe.yaml").read_text()


def test_the_tasks_of_a_run(place: Path):
    tasks = [
        {"name": name, "file": name, "done": True, "classes": [], "label_counts": {}} for name in ("cars", "birds")
    ]
    manifest = {"format": "prefmerge-run/1", "training": "sequential", "base": "base", "head": None, "tasks": tasks}
    (place / "run.json").write_text(json.dumps(manifest))
    outcome = search(checkpoints=None, run=".", trials=9)
    assert [one.what for one in outcome.trials[:3]] == ["base", "task cars", "task birds"]
    assert outcome.trials[5].settings == {"method": "tunable_magmax"}
    assert all(row.measured is not None for row in outcome.rungs[0].rows)


# What goes wrong


def test_a_candidate_that_fails_is_left_aside(place: Path):
    (place / "some.py").write_text(
        "import sys\nfrom pathlib import Path\nexec(Path('score.py').read_text())\n"
        "if 'candidates' in sys.argv[1] and round(total * 1e6) % 2:\n    print('out of memory'); sys.exit(1)\n"
    )
    outcome = search(score=f"{python('some.py')} {{model}}", trials=20, patience=20)
    failed = [row for row in outcome.rungs[0].rows if row.measured is None]
    assert 0 < len(failed) < 17
    assert outcome.rungs[0].rows[-1] in failed
    why = failed[0].to_json()["why"]
    assert why.startswith("the command failed with exit code 1. The end of its output:\n")
    assert "out of memory" in why
    assert all(
        one["score"] is None
        for one in outcome.to_json()["trials"]
        if one["number"] in {row.trial.number for row in failed}
    )
    before = len(calls(place))
    search(score=f"{python('some.py')} {{model}}", trials=20, patience=20)
    assert len(calls(place)) == before


def test_a_merge_that_cannot_be_made_is_left_aside(place: Path):
    for name in ("base", "cars", "birds"):
        tensors = load_file(place / name / "model.safetensors")
        save_file(
            {key: (values * 100).astype(np.float16) for key, values in tensors.items()},
            place / name / "model.safetensors",
            metadata={"format": "pt"},
        )
    (place / "size.py").write_text("import sys, os\nprint(len(sys.argv[1]))\n")
    outcome = search(score=f"{python('size.py')} {{model}}", space="scale=1..100000,method=task_arithmetic", trials=20)
    failed = [row for row in outcome.rungs[0].rows if row.measured is None]
    assert failed
    assert all("does not fit float16" in str(row.score) for row in failed)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("false {model}", "the command failed with exit code 1, and printed nothing"),
        ("echo nan # {model}", "the number is nan; expected a finite one. The end of its output:"),
        ("echo {model} is fine", "it printed no number. The end of its output:"),
        ("no-such-program {model}", "the command was not found (exit code 127)"),
    ],
)
def test_nothing_is_kept_where_no_input_has_a_score(place: Path, command: str, why: str):
    with pytest.raises(RunError) as error:
        search(score=command)
    assert str(error.value).startswith("--score: none of the inputs has a score. Of base: ")
    assert why in str(error.value)
    assert not (place / "found").exists()
    search(trials=3)  # another command in the same folder


def test_confirming_scores_that_fail_are_noted(place: Path):
    (place / "confirm.py").write_text("import sys\nprint('x' if sys.argv[1].endswith('cars') else len(sys.argv[1]))\n")
    outcome = search(confirm=f"{python('confirm.py')} {{model}}")
    assert outcome.notes == ("--confirm gives no score for task cars: it printed no number. The end of its output:\nx",)
    with pytest.raises(RunError, match="--confirm: no model has a score"):
        search(confirm="false {model}")
    (place / "none.py").write_text("import sys\nprint('x' if 'candidates' in sys.argv[1] else 4)\n")
    outcome = search(confirm=f"{python('none.py')} {{model}}")
    assert outcome.chosen.what == "base"
    assert outcome.verdict.endswith("has no confirming score. base is kept.")


def test_no_merge_better_than_an_input(place: Path):
    (place / "inputs.py").write_text("import sys\nprint(9 if 'candidates' in sys.argv[1] else 1)\n")
    outcome = search(score=f"{python('inputs.py')} {{model}}", trials=9)
    assert outcome.chosen.what == outcome.best.what == "base"
    assert outcome.verdict == "No merge scored better than base, which you have (lower is better). It is kept."
    outcome = search(score=f"{python('inputs.py')} {{model}}", confirm=CONFIRM, trials=9)
    assert (outcome.best.what, outcome.chosen.what) == ("base", "task cars")
    assert outcome.verdict.startswith("task cars, which you have, is no worse than the best candidate, base (")


def test_a_method_that_cannot_merge_these_is_refused_at_once(place: Path):
    with pytest.raises(MethodError, match="arcee_fusion merges exactly 1 task with the base, found 2"):
        search(space="scale,method=ties|arcee_fusion")
    assert calls(place) == []


def test_another_search_in_the_folder_needs_force(place: Path):
    search(trials=4, batch=4)
    with pytest.raises(RunError, match=r"holds another search: seed was 0, is 1\."):
        search(trials=4, batch=4, seed=1)
    tensors = load_file(place / "cars" / "model.safetensors")
    tensors["layers.0.w"][0] += 1
    save_file(tensors, place / "cars" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="holds another search: checkpoints was"):
        search(trials=4, batch=4)
    before = len(calls(place))
    search(trials=4, batch=4, force=True)
    assert len(calls(place)) == before + 4


def test_a_model_that_is_there_is_refused_before_anything_is_scored(place: Path):
    (place / "chosen").mkdir()
    with pytest.raises(OutputExists, match="chosen: already exists"):
        search(model="chosen")
    assert calls(place) == []
    (place / "chosen").rmdir()
    first = search(model="chosen", trials=12)
    search(model="chosen", trials=12)  # the same is there
    (place / "confirm.py").write_text("import sys\nprint(3 if sys.argv[1].endswith('birds') else 7)\n")
    assert first.chosen.task is None
    with pytest.raises(OutputExists, match="chosen: already exists, and is another model"):
        search(model="chosen", trials=12, confirm=f"{python('confirm.py')} {{model}}")


def test_fewer_candidates_at_once_where_the_disk_is_small(place: Path, monkeypatch: pytest.MonkeyPatch):
    plain, most = scoring.write_all, list[int]()

    def small(orders: Any, **how: Any) -> Any:
        if len(orders) > 2:
            raise DiskFull("the disk is full")
        most.append(len(orders))
        return plain(orders, **how)

    monkeypatch.setattr(scoring, "write_all", small)
    outcome = search()
    assert len(outcome.trials) == 14
    assert max(most) <= 2
    monkeypatch.setattr(scoring, "write_all", lambda *_, **__: (_ for _ in ()).throw(DiskFull("the disk is full")))
    with pytest.raises(DiskFull):
        search(out="other")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budgets": "1,2"}, "--budgets 1,2: put {budget} where --score takes it."),
        ({"score": f"{SCORE} {{budget}}"}, "--score has {budget}: give --budgets, such as 50,200,1000."),
        ({"score": f"{SCORE} {{budget}}", "budgets": "2,1"}, "--budgets 2,1: expected growing numbers above 0"),
        ({"score": f"{SCORE} {{budget}}", "budgets": "few"}, "--budgets few: expected growing numbers above 0"),
        ({"confirm": SCORE}, "--confirm is the command of --score, which chose the model. Have it take other samples."),
        ({"confirm": f"{SCORE} {{budget}}"}, "--confirm gets no budget."),
        ({"confirm_repeats": 3}, "--confirm-repeats 3 has no use without --confirm COMMAND."),
        ({"score": f"{SCORE} {{repeat}}"}, "--score is run once for each candidate. {repeat} is for --confirm."),
        ({"trials": 2}, "--trials 2: the base and the tasks are tried first. Give at least 3."),
        ({"max_memory": "lots"}, "--max-memory 'lots' is not a size"),
        ({"model": "model.bin"}, "-o model.bin: prefmerge writes a .safetensors file or a folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_scored(place: Path, given: dict[str, Any], message: str):
    with pytest.raises(UsageError) as error:
        search(**given)
    assert str(error.value).startswith(message)
    assert calls(place) == []
    assert not (place / "found").exists()


def test_jobs_have_numbers_and_run_side_by_side(place: Path):
    (place / "slot.py").write_text(
        "import sys, time\nstart = time.time(); time.sleep(0.2)\n"
        "open('slots.log', 'a').write(f'{sys.argv[2]} {start} {time.time()}\\n')\nprint(len(sys.argv[1]))\n"
    )
    search(score=f"{python('slot.py')} {{model}} {{job}}", jobs=2, trials=9)
    rows = [line.split() for line in (place / "slots.log").read_text().splitlines()]
    assert {row[0] for row in rows} == {"0", "1"}
    times = sorted((float(row[1]), float(row[2])) for row in rows)
    assert any(second[0] < first[1] for first, second in pairwise(times))
    of_one = sorted((float(row[1]), float(row[2])) for row in rows if row[0] == "0")
    assert all(second[0] >= first[1] for first, second in pairwise(of_one))


def test_json_in_the_folder_out(place: Path):
    (place / "eval.py").write_text(
        "import json, sys\nfrom pathlib import Path\nexec(Path('score.py').read_text())\n"
        "made = Path(sys.argv[2]) / 'model'; made.mkdir()\n"
        "(made / 'results.json').write_text(json.dumps({'results': {'toy': {'loss,none': total}}}))\n"
        "print('|toy|', 1, 2, 3)\n"
    )
    outcome = search(score=f"{python('eval.py')} {{model}} {{out}}", score_key="results/toy/loss,none", trials=9)
    measured = outcome.rungs[0].rows[0].measured
    assert measured is not None
    assert all(row.measured is not None for row in outcome.rungs[0].rows)
    assert os.listdir(place / "found") != []
    assert not (place / "found" / "candidates").exists()
