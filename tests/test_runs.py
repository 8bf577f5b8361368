"""Reading a run's manifest, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import RunError
from prefmerge.runs import Run, RunTask, read_run, require_finished, run_of


def task(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "file": "tasks/a", "classes": ["cat"], "label_counts": {"cat": 3}, **changes}


def manifest(**changes: Any) -> dict[str, Any]:
    whole = {"format": "prefmerge-run/1", "training": "sequential", "base": "base", "tasks": [task()], "seed": 4}
    return {key: value for key, value in {**whole, **changes}.items() if value is not ...}


def written(folder: Path, content: Any) -> Path:
    (folder / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_what_was_written_is_read(tmp_path: Path):
    run = Run(
        tmp_path, "ewc", "base", (RunTask("a", "tasks/a", ("cat",), {"cat": 3}, done=False),), "head", {"seed": 4}
    )
    assert read_run(written(tmp_path, run.to_json())) == run
    assert not run.finished
    assert run.head_path == tmp_path / "head"


def test_an_older_manifest_without_head_and_done_is_read(tmp_path: Path):
    run = read_run(written(tmp_path, manifest()))
    assert run.head_path is None
    assert run.finished
    assert run.about == {"seed": 4}


def test_names_may_be_numbers_and_bytes_that_are_no_text(tmp_path: Path):
    odd = task(name=3, file="tasks/\udce9", classes=[3, "\udce9"], label_counts={"3": "7", "\udce9": 1}, done=0)
    run = read_run(written(tmp_path, manifest(tasks=[odd])))
    assert run.tasks == (RunTask("3", "tasks/\udce9", ("3", "\udce9"), {"3": 7, "\udce9": 1}, done=False),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as a run's manifest"),
        ([], "its format is 'list'; this prefmerge reads 'prefmerge-run/1'"),
        (manifest(format="prefmerge-run/9"), "its format is 'prefmerge-run/9'"),
        (manifest(tasks=...), "'tasks' is missing. Was it edited by hand?"),
        (manifest(tasks={"a": 1}), "tasks: input should be a valid tuple"),
        (manifest(tasks=[3]), "tasks.0: expected keys with values, found 3."),
        (manifest(tasks=[{"name": "a"}]), "'tasks.0.file' is missing."),
        (manifest(tasks=[task(classes="cat")]), "tasks.0.classes: input should be a valid tuple, found 'cat'."),
        (manifest(tasks=[task(label_counts={"cat": "many"})]), "tasks.0.label_counts.cat: input should be a valid int"),
        (manifest(training="by heart"), "training: input should be 'sequential', 'independent', 'joint', 'lwf' or 'e"),
        (manifest(tasks=[task(file="../a")]), "names '../a', which lies outside the run's folder"),
        (manifest(head="../head"), "names '../head', which lies outside the run's folder"),
        (manifest(base="../../etc"), "names '../../etc', which lies outside the run's folder"),
        (manifest(base="/etc"), "names '/etc', which lies outside"),
    ],
)
def test_what_is_no_manifest(content: Any, said: str, tmp_path: Path):
    with pytest.raises(RunError) as raised:
        read_run(written(tmp_path, content))
    assert str(raised.value).startswith(f"{tmp_path / 'run.json'}: ")
    assert said in str(raised.value)


def test_a_checkpoint_finds_its_run(tmp_path: Path):
    written(tmp_path, manifest(tasks=[{"name": "a", "file": "tasks/a"}, {"name": "b", "file": "b.safetensors"}]))
    for index, path in enumerate((tmp_path / "tasks" / "a", tmp_path / "b.safetensors")):
        result = run_of(path)
        assert result is not None
        assert result[1] == index
    assert run_of(tmp_path / "tasks" / "c") is None
    assert run_of(tmp_path / "base") is None


def test_a_run_that_is_not_finished_is_told_in_one_way(tmp_path: Path):
    def run(*done: bool) -> Run:
        tasks = tuple(RunTask(f"t{i}", f"tasks/t{i}", done=one) for i, one in enumerate(done))
        return Run(tmp_path / "run", "sequential", "base", tasks)

    require_finished(run(True, True))
    said = f"{tmp_path}/run: task 't1' is not trained yet (2 of 3 are missing). Run the same `prefmerge finetune` again"
    with pytest.raises(RunError) as raised:
        require_finished(run(True, False, False))
    assert str(raised.value) == f"{said} to resume."
    with pytest.raises(RunError) as raised:
        require_finished(run(True, False, False), otherwise="name the checkpoints")
    assert str(raised.value) == f"{said} to resume, or name the checkpoints."
    assert run(True, True).last_path == tmp_path / "run" / "tasks" / "t1"
    with pytest.raises(RunError, match=r"task 't1' is not trained yet \(1 of 2 are missing\)"):
        print(run(True, False).last_path)
    with pytest.raises(RunError, match="the run has no task"):
        print(run().last_path)


def test_a_damaged_manifest_of_ours_is_not_passed_over(tmp_path: Path):
    (tmp_path / "tasks").mkdir()
    content = json.dumps(manifest())
    written(tmp_path, content.replace('"seed": 4', '"seed": 4, "seed": 5'))
    with pytest.raises(RunError, match="seed"):
        run_of(tmp_path / "tasks" / "a")
    written(tmp_path, content.replace("prefmerge-run/1", "another/1"))
    assert run_of(tmp_path / "tasks" / "a") is None
