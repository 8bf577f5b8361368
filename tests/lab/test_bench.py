"""From a recipe to right answers: the same samples for every method, cells that are kept, kills, refusals."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

import prefmerge
from prefmerge.errors import ConfigError, DataError, MissingExtra, RunError
from prefmerge.lab import jobs
from prefmerge.lab import prepare as preparing
from prefmerge.lab.bench import run
from prefmerge.lab.prepare import Ready, planned
from prefmerge.lab.recipe import Experiment, read_experiment
from prefmerge.lab.results import Results
from prefmerge.lab.samples import ids_digest
from tests import forks

pytest.importorskip("transformers", reason="experiments need the extra train")

RECIPE = """\
title: words
runs: {sequential: [RUNS/sequential-1, RUNS/sequential-2], independent: [RUNS/independent-1]}
scales: [0.5, 1.0]
methods:
  - Baseline
  - MAGMAX
  - Best checkpoint
  - Tunable (OT)
  - Tunable (Label)
  - Tunable (Cos)
  - {name: Sharp, similarity: label, settings: {selection: optimal, importance: step}}
environments: {size: 40, variants: [42, 123], mixes: [{name: even, ratios: [1, 1]}, {name: most, ratios: [8, 2]}]}
similarity: {samples: 10}
diversity: {counts: [1, 2], variants: [42], methods: [MAGMAX, Tunable (Label)]}
alpha: {values: [0.5, 2]}
batch: 16
"""

# Every kind of cell, and two of most of them: for what takes a whole experiment to see.
FEW = """\
title: words
runs: {sequential: [RUNS/sequential-1, RUNS/sequential-2], independent: [RUNS/independent-1]}
scales: [0.5, 1.0]
methods: [Baseline, MAGMAX, Best checkpoint, Tunable (OT), Tunable (Label)]
environments: {size: 40, variants: [42], mixes: [{name: even, ratios: [1, 1]}]}
similarity: {samples: 10}
diversity: {counts: [1], variants: [42], methods: [MAGMAX]}
alpha: {values: [2]}
batch: 16
"""


def recipe(runs: Path, folder: Path, text: str = RECIPE) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "words.yaml"
    file.write_text(text.replace("RUNS", str(runs)))
    return read_experiment(file)


def prepared(asked: Experiment, out: Path) -> Ready:
    return preparing.prepare(asked, out, jobs=1, say=lambda text: None)


def whole(runs: Path, folder: Path, text: str) -> tuple[Path, Results]:
    """An experiment, one cell at a time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PREFMERGE_CACHE", str(folder / "cache"))
        return folder / "out", run(recipe(runs, folder, text), folder / "out", jobs=1)


@pytest.fixture(scope="module")
def done(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    return whole(runs, tmp_path_factory.mktemp("bench"), RECIPE)


@pytest.fixture(scope="module")
def few(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    return whole(runs, tmp_path_factory.mktemp("few"), FEW)


def test_every_method_on_every_environment(done: tuple[Path, Results]):
    out, results = done
    assert results.missing == ()
    assert results.seeds == (1, 2)
    places = Counter((one.method, one.scale) for one in results.scores if one.study == "places")
    assert set(places.values()) == {2 * 2 * 2}  # mixes, variants, seeds
    assert len(places) == 7 * 2
    diverse = {(one.method, one.environment) for one in results.scores if one.study == "diversity"}
    assert diverse == {(m, e) for m in ("MAGMAX", "Tunable (Label)") for e in ("m1", "m2")}
    assert {one.alpha for one in results.task_scores if one.study == "alpha"} == {None, "0.5", "2"}
    singles = {(one.method, one.training) for one in results.task_scores if one.study == "methods"}
    assert {("Zero-shot", "sequential"), ("Baseline", "sequential"), ("Max Abs", "independent")} <= singles
    assert {one.kind for one in results.similarities} == {"label", "ot", "cosine"}
    assert Results.load(out / "results.json") == results


def test_all_methods_see_the_same_samples(done: tuple[Path, Results]):
    _, results = done
    digests = {(place.name, place.variant): ids_digest(place.test_ids) for place in results.environments}
    for one in results.scores:
        assert one.samples == digests[one.environment, one.variant], one
    seen: dict[tuple[str, int], set[int]] = {}
    for one in results.scores:
        seen.setdefault((one.environment, one.variant), set()).add(one.n)
    assert all(len(counts) == 1 for counts in seen.values())


def by_hand(runs: Path, tmp_path: Path, trained: int, ids: tuple[str, ...], **settings: Any) -> int:
    """Right answers of a merge on disk, on samples chosen by id, without anything of the experiment's."""
    from prefmerge.data.examples import concatenated
    from prefmerge.models.evaluation import right_answers
    from prefmerge.models.features import embed
    from prefmerge.training.opened import open_run

    opened = open_run(runs / f"sequential-{trained}")
    paths = [opened.run.task_path(i) for i in range(3)]
    names = [task.name for task in opened.run.tasks]
    prefmerge.merge(opened.run.base_path, paths, tmp_path / "merged.safetensors", names=names, force=True, **settings)
    opened.encoder.load(tmp_path / "merged.safetensors")
    every = concatenated([task.test for task in opened.scenario.tasks])
    place = {one: i for i, one in enumerate(every.ids)}
    chosen = every.take([place[one] for one in ids])
    right = right_answers(embed(opened.encoder, chosen, batch=16), opened.head, chosen.labels, range(6))
    return int(right.sum())


@pytest.mark.parametrize("method", ["Baseline", "MAGMAX", "Tunable (Label)", "Sharp"])
def test_a_score_is_what_the_merge_command_and_an_evaluation_give(
    runs: Path, done: tuple[Path, Results], tmp_path: Path, method: str
):
    _, results = done
    place = results.environments[2]
    one = next(
        s
        for s in results.scores
        if (s.method, s.scale, s.seed, s.environment, s.variant) == (method, "1.0", 2, place.name, place.variant)
    )
    settings: dict[str, Any] = {"method": "last"} if method == "Baseline" else {"method": "magmax"}
    if one.shares is not None:
        # The label similarity by hand: all classes have 20 training samples, so it is the share of shown labels.
        counts = Counter(part.task for part in place.parts for _ in part.meta)
        total = sum(counts.values())
        assert one.shares == pytest.approx([counts.get(f"task-0{t}", 0) / total for t in (1, 2, 3)])
        settings = {"preference": ",".join(str(counts.get(f"task-0{t}", 0)) for t in (1, 2, 3)), "seed": 2}
        ours, theirs = {"selection": "optimal", "importance": "step"}, {"selection": "released"}
        settings |= ours if method == "Sharp" else theirs
    assert by_hand(runs, tmp_path, 2, place.test_ids, scale="1.0", **settings) == one.right


def test_the_best_checkpoint_is_chosen_by_what_the_place_shows_alone(
    runs: Path, done: tuple[Path, Results], tmp_path: Path
):
    _, results = done
    place = results.environments[0]
    one = next(
        s
        for s in results.scores
        if (s.method, s.scale, s.seed) == ("Best checkpoint", "1.0", 1) and s.samples == ids_digest(place.test_ids)
    )
    shown = {}
    for t in range(3):
        preference = ",".join("1" if i == t else "0" for i in range(3))
        shown[f"task-0{t + 1}"] = by_hand(runs, tmp_path, 1, place.meta_ids, preference=preference, scale="1.0")
    assert one.chosen is not None
    assert shown[one.chosen] == max(shown.values())


def test_finished_cells_are_kept(
    runs: Path, done: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, results = done
    shutil.copytree(out, tmp_path / "out")
    from prefmerge.lab import work

    asked: list[str] = []
    real = work.do
    monkeypatch.setattr(work, "do", lambda bench, cell: asked.append(cell.title) or real(bench, cell))
    assert run(recipe(runs, tmp_path), tmp_path / "out", jobs=1) == results
    assert asked == []
    lost = sorted((tmp_path / "out" / "cells").glob("place-*"))[3]
    lost.write_text(lost.read_text()[:100])  # as a disk that was full may leave it
    assert run(recipe(runs, tmp_path), tmp_path / "out", jobs=1) == results
    assert len(asked) == 1
    added = RECIPE.replace("  - MAGMAX\n", "  - MAGMAX\n  - Average\n")
    more = run(recipe(runs, tmp_path, added), tmp_path / "out", jobs=1)
    assert sorted(asked[1:]) == [f"sequential, seed {seed}, Average" for seed in (1, 1, 2, 2)]  # at both scales
    assert {one.method for one in more.scores} - {one.method for one in results.scores} == {"Average"}


IN_TWO_PROCESSES = """\
import sys
from prefmerge.lab.recipe import read_experiment
from prefmerge.lab.bench import run
if __name__ == "__main__":
    run(read_experiment(sys.argv[1]), sys.argv[2], jobs=2)
"""


def test_cells_side_by_side_give_the_same_and_go_on_after_a_kill(
    runs: Path, few: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every cell is done in one of two processes. They end with their parent, and what they finished is kept. Those
    that go on are forks: the ones before them are what a user has.
    """
    psutil = pytest.importorskip("psutil")
    asked, out = recipe(runs, tmp_path, FEW), tmp_path / "out"
    (tmp_path / "go.py").write_text(IN_TWO_PROCESSES)
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "words.yaml"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while len(list(out.glob("cells/*.json"))) < 7:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    kept = {file: file.stat().st_mtime_ns for file in out.glob("cells/*.json")}
    assert not (out / "results.json").exists()
    monkeypatch.setattr(jobs, "get_context", lambda method: forks.context())
    assert run(asked, out, jobs=2) == few[1]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_a_cell_that_fails_is_named_and_the_others_go_on(
    runs: Path, few: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from prefmerge.lab import work

    real = work.do

    def failing(bench: Any, cell: Any) -> Any:
        if cell.title.endswith(", MAGMAX") and cell.seed == 2:
            raise DataError("the disk caught fire.")
        return real(bench, cell)

    monkeypatch.setattr(work, "do", failing)
    results = run(recipe(runs, tmp_path, FEW), tmp_path / "out", jobs=1)
    assert results.missing == tuple(
        f"sequential, seed 2, MAGMAX, scale {scale}: the disk caught fire." for scale in ("0.5", "1.0")
    )
    assert {one.seed for one in results.scores if one.method == "MAGMAX"} == {1}
    assert len(results.scores) == len(few[1].scores) - 2 * (1 + 1)
    monkeypatch.undo()
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    assert run(recipe(runs, tmp_path, FEW), tmp_path / "out", jobs=1) == few[1]


def test_another_manifest_than_the_frozen_one_is_refused(runs: Path, done: tuple[Path, Results], tmp_path: Path):
    out, _ = done
    shutil.copytree(out, tmp_path / "out")
    file = tmp_path / "out" / "environments.json"
    data = json.loads(file.read_text())
    meta = data["environments"][0]["parts"][0]["meta"]
    test = data["environments"][0]["parts"][0]["test"]
    meta[0], test[0] = test[0], meta[0]
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"environments\.json"):
        run(recipe(runs, tmp_path), tmp_path / "out", jobs=1)


@pytest.mark.parametrize("method", ["Best checkpoint", "Tunable (OT)", "Tunable (Label)", "MAGMAX"])
def test_a_method_that_was_judged_on_other_samples_is_refused(
    runs: Path, few: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    from prefmerge.lab import work

    shutil.copytree(few[0], tmp_path / "out")
    monkeypatch.setattr(work.Bench, "judged", lambda bench, key: bench.shown(key))
    monkeypatch.setattr(work.Bench, "everything", lambda bench: bench.shown(next(iter(bench.samples.environments))))
    for file in (tmp_path / "out" / "cells").glob("*.json"):
        if json.loads(file.read_text())["title"].endswith(f"even variant 0, {method}") or method == "MAGMAX":
            file.unlink()
    with pytest.raises(DataError, match="it was judged on other samples than"):
        run(recipe(runs, tmp_path, FEW), tmp_path / "out", jobs=1)


def test_training_data_that_changed_are_refused_where_they_are_encoded(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "moved"
    shutil.copytree(runs, folder)
    for file in folder.glob("*/config.yaml"):
        file.write_text(file.read_text().replace(str(runs), str(folder)))
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([rows[0], *(row[::-1][-8:] + row[8:] for row in rows[1:])]) + "\n")
    text = RECIPE.split("environments")[0] + "studies: [places]\nenvironments: {size: 20, variants: [42]}\nbatch: 16\n"
    results = run(recipe(folder, tmp_path, text), tmp_path / "out", jobs=1)
    wrong = [one for one in results.missing if "similarities of places and tasks" in one]
    assert len(wrong) == 2
    assert all("contents of train samples of task 'task-01' changed" in one for one in wrong)
    needing = [one for one in results.missing if "Tunable (OT)" in one]
    assert len(needing) == 5 * 2 * 2
    assert all("it needs what failed" in one and "changed" in one for one in needing)
    assert {one.method for one in results.scores} >= {"MAGMAX", "Tunable (Label)"}


def test_a_head_that_changed_is_another_run(runs: Path, tmp_path: Path):
    from prefmerge.lab.plan import run_identity
    from prefmerge.runs import read_run

    shutil.copytree(runs / "sequential-1", tmp_path / "run")
    before = run_identity(read_run(tmp_path / "run"), b"")
    assert before == run_identity(read_run(runs / "sequential-1"), b"")
    head = bytearray((tmp_path / "run" / "head.safetensors").read_bytes())
    head[-1] ^= 1
    (tmp_path / "run" / "head.safetensors").write_bytes(head)
    assert run_identity(read_run(tmp_path / "run"), b"") != before


def test_a_missing_extra_is_told_before_anything_is_trained(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    again = pickle.loads(pickle.dumps(MissingExtra("search", "places")))  # as it comes from another process
    assert (type(again), str(again)) == (MissingExtra, str(MissingExtra("search", "places")))
    real = preparing.importlib.util.find_spec
    monkeypatch.setattr(preparing.importlib.util, "find_spec", lambda name: None if name == "ot" else real(name))
    text = f"finetune: {runs}/sequential-1.yaml\nseeds: [1]\n"
    with pytest.raises(MissingExtra, match=r"optimal transport needs .* 'prefmerge\[places\]'"):
        run(recipe(runs, tmp_path, text), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / "runs").exists()


def test_what_cannot_be_compared_is_refused_before_the_training(runs: Path, tmp_path: Path):
    config = (runs / "sequential-1.yaml").read_text().replace(", test: test.csv", "")
    (tmp_path / "tune.yaml").write_text(
        config.replace("tiny", str(runs / "tiny")).replace("train.csv", f"{runs}/train.csv")
    )
    with pytest.raises(ConfigError, match="test samples or tasks of seed 2 are not those of seed 1"):
        run(recipe(runs, tmp_path, "finetune: tune.yaml\nseeds: [1, 2]\n"), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / "runs").exists()


def test_environments_of_more_tasks_than_there_are(runs: Path, tmp_path: Path):
    config = (runs / "sequential-1.yaml").read_text().replace("tasks: 3", "tasks: 2")
    (runs / "two.yaml").write_text(config)
    told: list[str] = []
    asked = recipe(runs, tmp_path, f"finetune: {runs}/two.yaml\nseeds: [1]\nenvironments: {{size: 100}}\n")
    ready = planned(asked, tmp_path / "out", told.append)
    assert {place.name for place in ready.environments["places"]} == {"e1", "e2"}
    assert not (tmp_path / "out").exists()
    assert "There are 2 tasks, so there are no environments of more tasks" in told[0]
    assert "At `environments: {size: 75}` all ratios hold." in told[1]  # 60 samples a task, 0.8 of one


def test_another_frozen_manifest_is_taken(runs: Path, tmp_path: Path):
    def frozen(first: str) -> Path:
        other = "task-03" if first == "task-01" else "task-01"
        mixes = f"[{{name: clinic, ratios: [8, 2], tasks: [{first}, {other}]}}]"
        text = (
            f"runs: [RUNS/sequential-1]\nstudies: [places]\nenvironments: {{size: 20, variants: [42], mixes: {mixes}}}"
        )
        preparing.prepare(recipe(runs, tmp_path / first, text), tmp_path / first / "out", jobs=1, say=print, force=True)
        return tmp_path / first / "out" / "environments.json"

    for first in ("task-01", "task-02", "task-01"):
        text = f"runs: [RUNS/sequential-1]\nstudies: [places]\nenvironments: {{frozen: {frozen(first)}}}"
        asked = recipe(runs, tmp_path, text)
        if first == "task-02":
            with pytest.raises(DataError, match=r"clinic variant 0 has other tasks or samples there"):
                prepared(asked, tmp_path / "out")
        ready = preparing.prepare(asked, tmp_path / "out", jobs=1, say=print, force=True)
        assert ready.environments["places"][0].parts[0].task == first


def test_a_worker_that_is_killed_is_one_message(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killer(done: int, of: int, what: str) -> None:
        if done == 0:
            threading.Thread(target=kill, daemon=True).start()

    def kill() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for process in active_children():
                process.kill()
                return
            time.sleep(0.01)

    with pytest.raises(RunError, match=r"was killed, perhaps for its memory\. Run the same command again"):
        run(recipe(runs, tmp_path, FEW), tmp_path / "out", jobs=2, progress=killer)


def test_an_environment_that_was_frozen_elsewhere(runs: Path, done: tuple[Path, Results], tmp_path: Path):
    out, results = done
    lines = [line for line in RECIPE.splitlines() if not line.startswith("environments")]
    text = "\n".join([*lines, f"environments: {{frozen: {out / 'environments.json'}}}", "studies: [places]"])
    ready = prepared(recipe(runs, tmp_path, text), tmp_path / "out")
    wanted = [place for place in results.environments if place.name in ("even", "most")]
    assert [place.digest for place in ready.environments["places"]] == [place.digest for place in wanted]


def test_the_runs_must_belong_together(runs: Path, tmp_path: Path):
    def refused(text: str, match: str) -> None:
        with pytest.raises(RunError, match=match):
            run(recipe(runs, tmp_path, text), tmp_path / "out", jobs=1)

    refused("runs: [RUNS/independent-1]", "its training is independent, but the recipe lists it under sequential")
    refused("runs: [RUNS/sequential-1, RUNS/sequential-1]", r"have the seeds \[1, 1\]")
    refused("runs: [RUNS/nowhere]", "no such folder")
    shutil.copytree(runs / "sequential-2", tmp_path / "unfinished")
    manifest = tmp_path / "unfinished" / "run.json"
    data = json.loads(manifest.read_text())
    data["tasks"][2]["done"] = False
    manifest.write_text(json.dumps(data))
    refused(f"runs: [{tmp_path}/unfinished]", r"is not trained yet \(1 of 3 are missing\)")


def test_cells_are_named_after_all_that_decides_them(runs: Path, done: tuple[Path, Results], tmp_path: Path):
    asked = recipe(runs, tmp_path)
    ready = prepared(asked, tmp_path / "out")
    keys = {cell.called: cell.key for cell in ready.work.cells()}
    assert len(set(keys.values())) == len(ready.work.cells())

    def changed(**what: Any) -> set[str]:
        other = prepared(asked.model_copy(update=what), tmp_path / "out")
        return {cell.called for cell in other.work.cells() if keys.get(cell.called) not in (cell.key, None)}

    assert changed() == set()
    assert changed(title="other", paper=asked.paper) == set()
    assert any(
        "Tunable (OT)" in title for title in changed(similarity=asked.similarity.model_copy(update={"samples": 9}))
    )
    assert not any("Label" in title for title in changed(similarity=asked.similarity.model_copy(update={"samples": 9})))
    assert changed(scales=("0.5", "1.0", "1.5")) == set()
    assert replace(ready.work.cells()[0], run="elsewhere").key == ready.work.cells()[0].key  # a folder may move


def test_training_what_is_not_there(tmp_path: Path, runs: Path):
    text = (
        f"finetune: {runs}/sequential-1.yaml\nseeds: [1]\nstudies: [alpha]\nalpha: {{values: [1]}}\nbatch: 16\n"
        "methods: [MAGMAX]\n"
    )
    told: list[str] = []
    results = run(recipe(runs, tmp_path, text), tmp_path / "out", jobs=1, say=told.append)
    assert told == ["Training sequential-seed-1."]
    trained = tmp_path / "out" / "runs" / "sequential-seed-1"
    same = [(folder / "tasks/task-03/model.safetensors").read_bytes() for folder in (trained, runs / "sequential-1")]
    assert same[0] == same[1]
    told.clear()
    assert run(recipe(runs, tmp_path, text), tmp_path / "out", jobs=1, say=told.append) == results
    assert told == []


def test_two_processes_in_one_folder(runs: Path, tmp_path: Path):
    from prefmerge.training.run_folder import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(RunError, match="another process is at work on this run"):
        run(recipe(runs, tmp_path), tmp_path / "out", jobs=1)
