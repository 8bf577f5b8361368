"""The search that ranks as `adapt` does: a tiny BERT over words, three tasks, a run that kept held-out samples."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("transformers", reason="search needs the extra places")
pytest.importorskip("optuna", reason="search needs the extra places")
pytest.importorskip("sklearn", reason="search needs the extra places")

import prefmerge
from prefmerge.errors import DataError, RunError
from prefmerge.merging.candidates import Candidates
from prefmerge.models.head_file import read_head
from prefmerge.preference import Preference
from prefmerge.target.adapt import adapt
from prefmerge.target.parameters import Parameters, SearchParameters
from prefmerge.target.pool import Candidate, candidates
from prefmerge.target.search import SearchOutcome, search_by_score
from prefmerge.target.search.by_score import _space
from prefmerge.target.search.space import Space
from tests.cli.test_search_command import CLASSES, CONFIG, write_words
from tests.forks import command

LINE = "search --run my-run --labels seen.csv -o found --trials 16 --patience 16"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from tests.models.tiny import tiny_bert

    folder = tmp_path_factory.mktemp("trained")
    tiny_bert(folder / "tiny")
    write_words(folder / "words.csv", dict.fromkeys(CLASSES, 30), 0)
    text = CONFIG.replace("tiny", str(folder / "tiny")).replace("words.csv", str(folder / "words.csv"))
    (folder / "run.yaml").write_text(text.replace("held_out: 0", "held_out: 20"))
    finetune(read_config(folder / "run.yaml"), folder / "my-run")
    write_words(folder / "seen.csv", {"ab": 12, "cd": 6, "ij": 6}, 9)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run for every test, and a folder of its own to write to."""
    (tmp_path / "my-run").symlink_to(trained / "my-run")
    shutil.copy(trained / "seen.csv", tmp_path)
    monkeypatch.setenv("PREFMERGE_CACHE", str(trained / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(line: str) -> Any:
    from typer.testing import CliRunner

    from prefmerge.cli import app

    return CliRunner().invoke(app, shlex.split(line), prog_name="prefmerge")


def searched(**given: Any) -> SearchOutcome:
    return search_by_score(SearchParameters.of(**{"run": "my-run", "labels": "seen.csv", **given}))


def kept(folder: str = "found") -> dict[str, Any]:
    return json.loads(Path(folder, "search.json").read_text())


def test_from_labels_to_a_model_and_its_head(place: Path):
    done = called(LINE)
    assert (done.exit_code, done.stderr) == (0, "")
    files = {"study.journal", "search.json", "search.png", "head.safetensors"}
    assert files <= {path.name for path in (place / "found").iterdir()}
    result = kept()
    assert result["samples"] == {"ranking": 28, "held_out": 12}  # of two present tasks, 20 samples each
    assert result["verdict"] in done.stdout
    assert f"      {result['command']}\n" in done.stdout
    again = called(f"{LINE} --json")
    assert json.loads(again.stdout) == result

    assert called(result["command"].removeprefix("prefmerge ")).exit_code == 0
    judge = "evaluate merged/ --run my-run --head found/head.safetensors"
    assert f"      prefmerge {judge}\n" in done.stdout
    told = json.loads(called(f"{judge} --json").stdout)
    assert told["about"]["head"] == "found/head.safetensors"
    head = read_head(place / "found" / "head.safetensors")
    assert head.bias is not None
    (place / "wrong.safetensors").write_bytes(replace(head, rows=head.rows[::-1]).to_bytes())
    wrong = json.loads(called("evaluate merged/ --run my-run --head wrong.safetensors --json").stdout)
    assert wrong["overall"]["agnostic"] < told["overall"]["agnostic"]
    (place / "other.safetensors").write_bytes(replace(head, classes=head.classes[::-1]).to_bytes())
    other = called("evaluate merged/ --run my-run --head other.safetensors")
    assert "other.safetensors: its classes are not those of my-run." in other.stderr
    nowhere = called("evaluate merged/ --run my-run --head nowhere.safetensors")
    assert "nowhere.safetensors: no such file. Give the head.safetensors that `prefmerge search`" in nowhere.stderr
    narrow = replace(head, rows=np.ascontiguousarray(head.rows[:, :-1]))
    (place / "narrow.safetensors").write_bytes(narrow.to_bytes())
    width = head.rows.shape[1]
    other = called("evaluate merged/ --run my-run --head narrow.safetensors")
    assert (
        f"narrow.safetensors: is for embeddings of {width - 1} numbers, those of my-run have {width}." in other.stderr
    )
    several = called("evaluate --run my-run --head wrong.safetensors")
    assert "--head wrong.safetensors belongs to one model: give its CHECKPOINT, and one --run." in several.stderr


def test_the_first_trials_are_the_candidates_of_adapt(place: Path):
    result, made = searched(trials=14, patience=14), adapt(Parameters.of(run="my-run", labels="seen.csv"))
    count = len(made.pool)
    assert [(one.what, one.task) for one in result.trials[:count]] == [(one.name, one.task) for one in made.pool]
    assert [one.start for one in result.trials] == [True] * count + [False] * (14 - count)
    assert result.pool == made.pool
    assert result.adapts.name in [one.name for one in made.pool]
    best = max(result.trials, key=lambda one: (one.score, -one.number))
    assert result.best == best


@pytest.mark.parametrize(
    "chosen",
    [
        Candidate("checkpoint task-01", task=0),
        Candidate("last checkpoint", task=2),
        Candidate("increments", {"method": "increments", "preference": Preference.parse("0.7,0,0.3"), "boost": "0.5"}),
        Candidate("t", {"method": "tunable_magmax", "preference": Preference.parse("task-01=0.7,task-03=0.3")}),
    ],
)
def test_the_printed_line_makes_exactly_the_chosen_model(place: Path, chosen: Candidate):
    result = replace(searched(trials=1), chosen=chosen)
    assert called(result.command().removeprefix("prefmerge ")).exit_code == 0
    written = load_file("merged/model.safetensors")
    tasks = [place / "my-run" / "tasks" / f"task-0{t}" for t in (1, 2, 3)]
    if chosen.task is not None:
        expected = load_file(tasks[chosen.task] / "model.safetensors")
    else:
        with Candidates(place / "my-run" / "base", tasks) as merges:
            expected = merges.model(**chosen.settings)
    assert all(np.array_equal(written[name], value) for name, value in expected.items())
    assert (result.preference is None) == chosen.single
    assert (result.preference_json() is None) == chosen.single


KILL = """
import os, signal
from prefmerge.target.search.study import Study
keep = Study.keep
def killed(self, *given):
    keep(self, *given)
    if len(self.kept) == {at}: os.kill(os.getpid(), signal.SIGKILL)
Study.keep = killed
"""


def test_a_killed_search_resumes_to_the_same_result(place: Path):
    whole = json.loads(called(LINE.replace("found", "whole") + " --json").stdout)
    for at in (6, 14):  # among adapt's candidates, then among those that were drawn
        killed = command(*shlex.split(LINE), before=KILL.format(at=at))
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert not (place / "found" / "search.json").exists()
    assert json.loads(called(f"{LINE} --json").stdout) == whole
    assert (place / "found" / "head.safetensors").read_bytes() == (place / "whole" / "head.safetensors").read_bytes()


def test_another_target_or_way_to_rank_is_another_search(place: Path):
    assert called(LINE + " --trials 2").exit_code == 0
    write_words(place / "seen.csv", {"ab": 6, "kl": 18}, 9)
    other = called(LINE + " --trials 2")
    assert other.exit_code == 1
    assert "found: holds another search: " in other.stderr
    assert "shares was " in other.stderr
    plain = called("search --run my-run --pairs seen.csv --paper -o found --trials 2")
    assert plain.exit_code == 1
    assert 'ranked by was "score", is null' in plain.stderr


def test_pairs_rank_with_the_held_out_samples_and_alone_where_there_are_none(place: Path):
    both = searched(labels=None, pairs="seen.csv", trials=3)
    assert both.ranking + both.decision.samples == 40 + 24
    shutil.copytree(place / "my-run", place / "bare", symlinks=False)
    shutil.rmtree(place / "bare" / "held-out")
    manifest = json.loads((place / "bare" / "run.json").read_text())
    (place / "bare" / "run.json").write_text(json.dumps({**manifest, "kept": None}))
    alone = searched(run="bare", labels=None, pairs="seen.csv", trials=3)
    assert alone.ranking + alone.decision.samples == 24
    assert "the run kept no held-out samples (held_out: 0): the pairs alone rank the trials." in alone.notes
    with pytest.raises(RunError, match=r"^bare: kept no held-out samples \(held_out: 0\).*Give --pairs PATH.*--paper"):
        searched(run="bare")
    write_words(place / "few.csv", {"ab": 9}, 0)
    with pytest.raises(DataError, match=r"few\.csv: 9 samples are too few to search with\. Give at least 10\."):
        searched(run="bare", labels=None, pairs="few.csv")


def test_too_few_samples_in_all_or_in_a_part_are_refused(place: Path):
    for part, left in ((0.02, "39 that rank and 1 that compare"), (0.9, None), (0.04, "38 that rank and 2 that")):
        if left is None:
            assert searched(trials=1, held_out=part).ranking == 4
            continue
        with pytest.raises(DataError, match=rf"^--held-out {part} of 40 samples leaves {left}.*at least 3: give"):
            searched(held_out=part)
    with pytest.raises(DataError, match=r"^my-run: kept 2 held-out samples .*a search needs 10\. Give --pairs PATH"):
        searched_of_few(place)


def searched_of_few(place: Path) -> None:
    """Of a run whose task in question kept two samples."""
    from prefmerge.target.source import open_source

    asked = SearchParameters.of(run="my-run", prefer="task-01=1")
    source = open_source(asked.of_adapt)
    assert source.samples is not None
    search_by_score(asked, source=replace(source, samples=tuple(one.take([0, 1]) for one in source.samples)))


def test_most_inputs_of_no_task_leave_no_accuracy_and_a_note(place: Path):
    from prefmerge.target.evidence import read_evidence
    from prefmerge.target.shares.estimate import Foreign

    def foreign(*given: Any) -> Any:
        evidence = read_evidence(*given)
        return replace(evidence, shares=replace(evidence.shares, foreign=Foreign(0.8, 0.7, 0.9)))

    asked = SearchParameters.of(run="my-run", labels="seen.csv", trials=1)
    result = search_by_score(asked, read=foreign)
    assert result.decision.rows == ()
    assert result.notes[0] == "most inputs are of no task, so nothing is said of how good the model is there."


@pytest.mark.parametrize("space", ["preference", "preference,scale", "scale,strength=0.5"])
def test_what_the_space_does_not_name_is_what_adapt_tries(place: Path, space: str):
    result = searched(trials=14, patience=14, space=space)
    for one in result.trials[len(result.pool) :]:
        assert (one.settings["selection"], one.settings["importance"]) == ("optimal", "step")
        assert "scale" in space or one.settings["scale"] == "1"


def test_the_paper_form_names_its_selection_and_importance(place: Path):
    assert called("search --run my-run --pairs seen.csv -o plain --paper --trials 6 --space preference").exit_code == 0
    result = kept("plain")
    assert all(one["settings"]["selection"] == "paper" for one in result["trials"])
    assert all(one["settings"]["importance"] == "magnitude" for one in result["trials"])
    assert all(one["settings"]["scale"] == "0.5" for one in result["trials"])
    assert "--selection paper --importance magnitude --scale 0.5" in result["command"]
    line = "search --run my-run --pairs seen.csv -o other --paper --trials 6 --space scale,selection=optimal"
    assert called(line).exit_code == 0
    assert "--selection optimal --importance magnitude " in kept("other")["command"]


def test_from_python_with_the_paper_form_too(place: Path):
    best = prefmerge.search(run="my-run", prefer="task-01=0.5,task-02=0.5", trials=2)
    assert isinstance(best, SearchOutcome)
    assert best.evidence.shares.source == "stated"
    seen: list[tuple[int, int, str]] = []
    plain = prefmerge.search(
        run="my-run", pairs="seen.csv", paper=True, trials=2, progress=lambda *now: seen.append(now)
    )
    assert not isinstance(plain, SearchOutcome)
    assert [one[:2] for one in seen] == [(1, 2), (2, 2)]
    assert seen[0][2].startswith("trials, best ")


@pytest.mark.parametrize("ordered", [True, False])
def test_what_lies_in_the_space_teaches_the_sampler(ordered: bool):
    shares, names = np.array([0.6, 0.0, 0.4]), ("a", "b", "c")
    pool, space = candidates(names, shares, ordered), _space(None, ordered)
    first = Preference.explicit(["0.6", "0", "0.4"])
    params = {one.name: space.params_of(dict(one.settings), names, first) for one in pool if not one.single}
    inside = {name: one for name, one in params.items() if one is not None}
    if ordered:
        assert list(inside) == ["optimal + step, scale 1", "optimal + step, scale 1.25", "optimal + step, carry 0.5"]
        assert inside["optimal + step, scale 1.25"]["scale"] == 1.25
        assert space.settings(inside["optimal + step, carry 0.5"], names, first)["carry"] == "0.5"
    else:
        assert list(inside) == ["optimal, scale 0.5", "optimal, scale 1", "optimal, strength 0.5, scale 1"]
    assert len(inside) == 3
    assert Space.parse("scale").params_of(dict(pool[-1].settings), names, first) is None
    weighted = {"method": "linear", "weights": ["0.6", "0", "0.4"]}
    assert Space.parse("scale,method=linear").params_of(weighted, names, first) is None  # no number stands for a list
