"""`prefmerge adapt` as typed: a tiny BERT over words, three tasks, a run that has been moved."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import prefmerge
from prefmerge.cli.options import EXAMPLES
from prefmerge.errors import MissingExtra, UsageError
from prefmerge.models.head_file import read_head
from prefmerge.target.parameters import Parameters, declarations
from tests.cli.adapting import name_of, tasks_of, without_cost, write_words
from tests.cli.conftest import Result
from tests.forks import command
from tests.outputs.traces import traces
from tests.report.pages import lawful

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

CONFIG = """\
model: tiny
data: words.csv
scenario: {kind: class-incremental, tasks: 3}
training: {method: sequential, epochs: 2, batch: 8, learning_rate: 0.003, warmup_steps: 2, threads: 1, device: cpu}
head: prototype
held_out: 12
seed: 1
"""
CLASSES = ("ab", "cd", "ef", "gh", "ij", "kl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, made once; then its data and the model that it began from are removed, and it is moved."""
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from tests.models.tiny import tiny_bert

    folder = tmp_path_factory.mktemp("trained")
    tiny_bert(folder / "tiny")
    write_words(folder / "words.csv", dict.fromkeys(CLASSES, 24), 0)
    (folder / "run.yaml").write_text(
        CONFIG.replace("tiny", str(folder / "tiny")).replace("words.csv", str(folder / "words.csv"))
    )
    finetune(read_config(folder / "run.yaml"), folder / "first")
    shutil.rmtree(folder / "tiny")
    (folder / "words.csv").unlink()
    (folder / "first").rename(folder / "my-run")
    return folder


@pytest.fixture
def place(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained / "my-run", folder / "my-run")
    write_words(folder / "seen.csv", {"ab": 12, "cd": 6, "ij": 6}, 9)
    (folder / "photos").mkdir()
    with open(folder / "seen.csv", newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            (folder / "photos" / f"{i}.txt").write_text(row["text"])
    monkeypatch.setenv("PREFMERGE_CACHE", str(folder / "cache"))
    return folder


@pytest.fixture(scope="module")
def site(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of labels, with its run beside it, made once."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(trained / "my-run", folder / "my-run")
    write_words(folder / "seen.csv", {"ab": 12, "cd": 6, "ij": 6}, 9)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PREFMERGE_CACHE", str(folder / "cache"))
        patched.chdir(folder)
        done = Result("adapt --run my-run --labels seen.csv -o site")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert "choosing" in done.stderr  # a sign of life where there is no terminal
    return folder


def adapted(call: Callable[[str], Result], line: str) -> dict[str, Any]:
    done = call(f"adapt --run my-run {line} --json")
    assert (done.code, done.exception) == (0, None), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", [one for one in EXAMPLES["adapt"] if "--score" not in one])
def test_the_examples_work(place: Path, call: Callable[[str], Result], line: str) -> None:
    done = call(line.removeprefix("prefmerge "))
    assert (done.code, done.exception) == (0, None), done.stderr
    assert "accuracy at the target" in done.stdout
    out = place / shlex.split(line)[-1]
    assert {"adapt.json", "head.safetensors", "model.safetensors", "receipt.json", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    prefmerge.verify(out, rerun=True)


def test_the_printed_command_makes_the_same_weights(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    line = shlex.split(json.loads((site / "site" / "adapt.json").read_text())["command"])
    assert line[:2] == ["prefmerge", "merge"]
    if "--run" not in line:  # a checkpoint that is kept as it is: told by its names
        line[2:4] = ["my-run/base", f"my-run/tasks/{line[3]}"]
    assert Result(shlex.join([*line[1:-1], "by-hand"])).code == 0
    ours, theirs = (load_file(site / name / "model.safetensors") for name in ("site", "by-hand"))
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def test_the_head_answers_with_prior_and_bias(
    site: Path, call: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    head, before = read_head(site / "site" / "head.safetensors"), read_head(site / "my-run" / "head.safetensors")
    assert head.bias is not None
    assert before.bias is None
    by_class = dict(zip(head.classes, head.bias.tolist(), strict=True))
    assert min(by_class["ab"], by_class["cd"]) > max(by_class["ef"], by_class["gh"])  # which the target does not have
    done = call("evaluate site --run my-run --json --no-cache")
    assert done.code == 0, done.stderr
    about = json.loads(done.stdout)["about"]
    assert (about["samples"], about["head"]) == ("held-out", "the checkpoint's own")


def test_nothing_that_is_published_tells_of_this_machine(site: Path) -> None:
    assert traces(site / "site", site, site.parent) == []
    lawful((site / "site" / "report.html").read_text())


def test_the_report_has_the_merge_too(site: Path) -> None:
    page, receipt = (
        lawful((site / "site" / "report.html").read_text()),
        json.loads((site / "site" / "receipt.json").read_text()),
    )
    assert page.row("base")[1] == "base"
    assert receipt["recipe"]["method"] in page.shown
    assert receipt["output"]["fingerprint"] in page.shown
    assert "What each layer keeps" in page.shown
    assert json.loads((site / "site" / "adapt.json").read_text())["command"] in page.shown


def test_a_report_goes_elsewhere_too(place: Path, call: Callable[[str], Result]) -> None:
    done = call("adapt --run my-run --labels seen.csv -o out --report page.html")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert "Report: page.html" in done.stdout
    assert (place / "page.html").read_bytes() == (place / "out" / "report.html").read_bytes()
    for line, said in (
        ("-o out --force --report page.html", ""),
        ("-o out2 --report page.html", "error: page.html: exists already"),
        ("--report other.html", "--report has no use without -o OUT"),
    ):
        (place / "page.html").write_text("mine")
        done = call(f"adapt --run my-run --labels seen.csv {line}")
        assert (done.code == 0) == (not said)
        assert said in done.stderr


def test_the_model_card_says_what_to_expect(site: Path) -> None:
    card, told = (site / "site" / "README.md").read_text(), json.loads((site / "site" / "adapt.json").read_text())
    expected = told["estimates"]["rows"][0]["accuracy"]
    assert f"Estimated accuracy there: **{100 * expected['value']:.1f} %**" in card
    assert f"{told['estimates']['samples']} samples that took no part in choosing" in card
    assert "(estimated from 24 labels): task-01 " in card
    assert "Its answers need `head.safetensors`." in card
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["merge", "prefmerge"]


def test_more_labels_later_give_what_all_at_once_gives(
    site: Path, call: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is where it was, so --from alone is enough; a default that is typed counts as given."""
    monkeypatch.chdir(site)
    monkeypatch.setenv("PREFMERGE_CACHE", str(site / "cache"))
    some, more = (site / name for name in ("some.csv", "more.csv"))
    header, *rows = (site / "seen.csv").read_text().splitlines()
    some.write_text("\n".join([header, *(row for i, row in enumerate(rows) if i % 3)]) + "\n")
    more.write_text("\n".join([header, *rows[::3]]) + "\n")
    for line in (
        "adapt --run my-run --labels some.csv --seed 5 --metric balanced -o some",
        "adapt --from some --labels more.csv --seed 0 --metric accuracy -o more",
    ):
        done = call(line)
        assert (done.code, done.exception) == (0, None), done.stderr
    for name in ("model.safetensors", "head.safetensors"):
        assert (site / "more" / name).read_bytes() == (site / "site" / name).read_bytes()
    ours, theirs = (json.loads((site / name / "adapt.json").read_text()) for name in ("more", "site"))
    assert ours["parameters"] | {"labels": "seen.csv"} == theirs["parameters"]
    for name in ("target", "prior", "drawn", "estimates", "candidates", "notes", "shown"):
        assert ours[name] == theirs[name], name


def test_whether_the_mix_has_moved(site: Path, call: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    write_words(site / "later.csv", {"ab": 3, "ef": 20, "gh": 14}, 11)
    write_words(site / "same.csv", {"ab": 11, "cd": 7, "kl": 6}, 12)
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    told = {}
    for name in ("later", "same"):
        done = call(f"adapt --check site --labels {name}.csv")
        assert (done.code, done.exception) == (0, None), done.stderr
        told[name] = done.stdout
    assert "The mix has moved, by" in told["later"]
    assert "There is clearly more of task-02." in told["later"]
    assert "prefmerge adapt --from site --forget --run" in told["later"]
    assert "No clear change: the mixes differ by" in told["same"]
    assert "Expected accuracy in the new mix:" in told["same"]
    done = call("adapt --check site --pairs later.csv --json --no-cache")
    assert json.loads(done.stdout)["moved"] is True
    assert json.loads(done.stdout)["accuracy_on_pairs"]["value"] <= 1
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before
    for line, message in (
        ("--check gone --labels same.csv", "gone: no such file"),
        ("--check site", "with what?"),
        ("--check site --labels same.csv -o x", "--out has no use with --check"),
        ("--check site --labels same.csv --run my-run --task-samples x", "--task-samples has no use with --run"),
    ):
        done = call(f"adapt {line}")
        assert (done.code in (1, 2), done.exception) == (True, None)
        assert message in done.stderr


def test_an_output_of_adapt_is_compared_with_its_own_head(
    site: Path, call: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    monkeypatch.setenv("PREFMERGE_CACHE", str(site / "cache"))
    shutil.copytree(site / "site", site / "shuffled")
    made = adapted(call, "--labels seen.csv --compare site --compare my-run/tasks/task-03")
    rows = {(row["name"], row["how"]): row["accuracy"] for row in made["estimates"]["rows"]}
    assert [how for name, how in rows if name == "site (yours)"] == ["with its own head"]
    for how in ("as it is", "with the prior", "with a fitted bias"):
        assert rows["task-03 (yours)", how] == rows["last checkpoint", how]
    assert any(note.startswith("site (yours) was adapted before.") for note in made["notes"])
    head = read_head(site / "shuffled" / "head.safetensors")
    order = np.array([3, 1, 5, 0, 4, 2])
    assert head.bias is not None
    shuffled = dataclasses.replace(
        head, rows=head.rows[order], bias=head.bias[order], classes=tuple(head.classes[i] for i in order)
    )
    (site / "shuffled" / "head.safetensors").write_bytes(shuffled.to_bytes())
    again = adapted(call, "--labels seen.csv --compare shuffled")
    rows_again = {(row["name"], row["how"]): row["accuracy"] for row in again["estimates"]["rows"]}
    assert rows_again["shuffled (yours)", "with its own head"] == rows["site (yours)", "with its own head"]
    renamed = dataclasses.replace(head, classes=("zz", *head.classes[1:]))
    (site / "shuffled" / "head.safetensors").write_bytes(renamed.to_bytes())
    done = call("adapt --run my-run --labels seen.csv --compare shuffled")
    assert done.code == 2
    assert "they are not the same: it has 'zz'" in done.stderr


def test_the_report_shows_what_each_class_gains_and_loses(site: Path) -> None:
    made = json.loads((site / "site" / "adapt.json").read_text())
    recall = made["estimates"]["recall"]
    assert set(recall) == {name for name, p in made["prior"].items() if p > 0.01}
    before = next(
        row
        for row in made["estimates"]["rows"]
        if row["name"] == made["estimates"]["there"] and row["how"] == "as it is"
    )
    # As it is, without a prior: balanced accuracy is the plain mean of what stands beside each class.
    assert before["balanced"]["value"] == pytest.approx(sum(one["before"] for one in recall.values()) / len(recall))
    page = lawful((site / "site" / "report.html").read_text())
    assert page.row("class")[3:] == ["this model", made["estimates"]["there"], "change"]
    for name, one in recall.items():
        shown = [str(one["samples"]), f"{100 * one['recall']:.0f} %", f"{100 * one['before']:.0f} %"]
        assert page.row(name)[2:5] == shown


@pytest.mark.parametrize(
    "line",
    [
        "--labels seen.csv --inputs photos",
        "--pairs seen.csv --inputs photos",
        "--pairs seen.csv --prefer task-01=0.7,task-03=0.3",
        "--labels seen.csv --no-prior",
        "--labels seen.csv --keep 0.5 --metric balanced --unordered",
    ],
)
def test_what_is_known_of_the_target_goes_together(place: Path, call: Callable[[str], Result], line: str) -> None:
    found = adapted(call, line)
    shares = found["target"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert (
        max(shares, key=lambda name: shares[name])
        == next(name for name, classes in tasks_of(place).items() if "ab" in classes)
        or "--prefer" in line
    )
    row = found["estimates"]["rows"][0]["accuracy"]
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    names = {row["how"] for row in found["estimates"]["rows"]}
    assert ("with the prior" in names) == ("--no-prior" not in line)


def test_a_recipe_of_ones_own_is_tried(place: Path, call: Callable[[str], Result]) -> None:
    tasks = "\n".join(f"  - model: my-run/tasks/{name}" for name in tasks_of(place))
    (place / "mine.yaml").write_text(
        f"merge_method: ties\nbase_model: my-run/base\nmodels:\n{tasks}\nparameters:\n  density: 0.5\n"
    )
    found = adapted(call, "--labels seen.csv --candidate mine.yaml")
    assert "mine (yours)" in [one["name"] for one in found["candidates"]]


def test_without_a_run(place: Path, call: Callable[[str], Result]) -> None:
    (place / "samples").mkdir()
    for name, classes in tasks_of(place).items():
        write_words(place / "samples" / f"{name}.csv", dict.fromkeys(classes, 10), 3)
    paths = " ".join(f"my-run/tasks/{name}" for name in tasks_of(place))
    given = "--task-samples samples --head my-run/head.safetensors --labels seen.csv"
    done = call(f"adapt my-run/base {paths} {given} -o site --json")
    assert (done.code, done.exception) == (0, None), done.stderr
    prefmerge.verify(place / "site", rerun=True)


def test_checkpoints_without_any_sample_of_their_tasks(place: Path, call: Callable[[str], Result]) -> None:
    """A mix of tasks needs their names alone; labels need to know whose they are; pairs judge by themselves."""
    tasks = tasks_of(place)
    paths = " ".join(f"my-run/tasks/{name}" for name in tasks)
    (place / "counts.json").write_text(json.dumps({name: dict.fromkeys(own, 10) for name, own in tasks.items()}))
    done = call(f"adapt my-run/base {paths} --prefer task-01=0.8,task-03=0.2 -o mix --json")
    assert (done.code, done.exception) == (0, None), done.stderr
    found = json.loads(done.stdout)
    assert found["estimates"] is None
    assert found["chosen"]["name"] == "optimal + step, scale 1"
    assert any("nothing could be compared" in note for note in found["notes"])
    assert not (place / "mix" / "head.safetensors").exists()
    prefmerge.verify(place / "mix", rerun=True)

    done = call(f"adapt my-run/base {paths} --labels seen.csv --task-labels counts.json -o labels --json")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert json.loads(done.stdout)["target"]["shares"][name_of("ab", tasks)] > 0.4

    head = "--head my-run/head.safetensors --task-labels counts.json"
    done = call(f"adapt my-run/base {paths} {head} --labels seen.csv -o head")
    assert (done.code, done.exception) == (0, None), done.stderr
    bias = read_head(place / "head" / "head.safetensors").bias
    assert bias is not None
    done = call(f"adapt my-run/base {paths} {head} --model my-run/base --pairs seen.csv -o pairs --json")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert json.loads(done.stdout)["estimates"]["samples"] == 24


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--labels seen.csv", "--task-samples PATH (samples of each task with labels"),
        ("--inputs photos --task-labels counts.json", "compared with samples of the tasks, and there are none. Give"),
        ("--prefer 1,1,1 --head my-run/head.safetensors", "nothing says which classes each task has"),
        ("--labels seen.csv --task-labels other.json --head my-run/head.safetensors", "'zz' is no class of"),
        ("--labels seen.csv --task-labels near.json --head my-run/head.safetensors", " Did you mean 'ab'? Use these"),
        ("--labels seen.csv --task-labels few.json", "lacks task"),
    ],
)
def test_what_is_wrong_without_samples(place: Path, call: Callable[[str], Result], given: str, told: str) -> None:
    tasks = tasks_of(place)
    files = {"counts": tasks, "few": {"cars": ["ab"]}}
    files |= {file: {task: [label] for task in tasks} for file, label in (("other", "zz"), ("near", "aab"))}
    for name, content in files.items():
        counts = {task: dict.fromkeys(own, 1) for task, own in content.items()}
        (place / f"{name}.json").write_text(json.dumps(counts))
    done = call(f"adapt my-run/base {' '.join(f'my-run/tasks/{name}' for name in tasks)} {given} -o out")
    assert done.code in (1, 2)
    assert told in done.stderr
    assert not (place / "out").exists()


KILLS = int(os.environ.get("PREFMERGE_KILLS", "3"))  # a call more takes seconds, so 20 moments are for who asks


def test_killed_at_any_moment_it_leaves_nothing_partial_and_resumes(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once after the kills, from the same cache: both are right."""
    expected = json.loads((site / "site" / "adapt.json").read_text())
    line = ("adapt", "--run", "my-run", "--labels", "seen.csv", "-o")
    monkeypatch.chdir(site)
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    for wait in np.linspace(0.2, 1.2 if KILLS == 3 else 3, KILLS).tolist():
        process = command(*line, "killed")
        process.join(wait)
        process.kill()
        process.join()
        if (site / "killed").exists():
            prefmerge.verify(site / "killed")
            shutil.rmtree(site / "killed")
    both = {name: command(*line, name, said=tmp_path / name) for name in ("killed", "other")}
    for name, process in both.items():
        process.join()
        assert process.exitcode == 0, (tmp_path / name).read_text()
    for name in ("killed", "other"):
        assert without_cost(json.loads((site / name / "adapt.json").read_text())) == without_cost(expected)
        prefmerge.verify(site / name)
        ours, theirs = (load_file(site / folder / "model.safetensors") for folder in (name, "site"))
        assert all(np.array_equal(ours[tensor], theirs[tensor]) for tensor in ours)
    assert not [path for path in site.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("--labels seen.csv -o site.safetensors", 2, "site.safetensors: other files come with the model (a report for"),
        ("--score= -o site", 2, "--score is empty. Give the command"),
        ("--labels seen.csv -o my-run", 1, "my-run: exists already, and prefmerge did not make it."),
        ("--labels seen.csv -o my-run --force", 1, "my-run: exists already, and prefmerge did not make it."),
        ("--labels seen.csv --dtype int7", 2, "--dtype: expected one of float64, float32"),
        ("--labels wrong.csv", 1, "3 of the target's 3 labels are no class of any task: 'zz'"),
        ("--labels gone.csv", 1, "gone.csv"),
        ("--prefer 0.5,0.5", 1, "3 tasks"),
        ("--metric speed --labels seen.csv", 2, "--metric speed: expected accuracy or balanced."),
        ("--samples 1 --labels seen.csv", 2, "--samples 1: expected at least 2."),
        ("--labels seen.csv --pairs seen.csv", 2, "the pairs have labels already"),
        ("--labels seen.csv --head x", 2, "--head has no use with --run"),
        ("", 2, "what is the target like?"),
    ],
)
def test_what_a_user_gets_wrong(place: Path, call: Callable[[str], Result], line: str, code: int, told: str) -> None:
    (place / "wrong.csv").write_text("label\nzz\nzz\nzz\n")
    done = call(f"adapt --run my-run {line}")
    assert (done.code, told in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "site").exists()


def test_a_run_that_kept_nothing_and_lost_its_data_is_taken_at_the_shares_word(
    place: Path, call: Callable[[str], Result]
) -> None:
    shutil.rmtree(place / "my-run" / "held-out")
    (place / "my-run" / "base-embeddings.safetensors").unlink()
    run = json.loads((place / "my-run" / "run.json").read_text())
    del run["kept"]
    (place / "my-run" / "run.json").write_text(json.dumps(run))
    found = adapted(call, "--labels seen.csv -o site")
    assert found["estimates"] is None
    assert "it could not be compared with anything" in found["verdict"]
    assert any("kept no held-out samples" in note for note in found["notes"])
    assert read_head(place / "site" / "head.safetensors").bias is not None
    done = call("adapt --run my-run --inputs photos")
    assert done.code == 2
    assert "Give --labels" in done.stderr


def test_from_python(place: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    told: list[str] = []
    made = prefmerge.adapt(
        run="my-run", labels="seen.csv", out="python", progress=lambda done, of, what: told.append(what)
    )
    assert made.estimates is not None
    assert made.drift is not None
    assert "choosing" in told
    same = {**made.to_json(), "cost": None}
    written = json.loads((place / "python" / "adapt.json").read_text())
    assert {**written, "cost": None} == {**same, "command": written["command"]}
    expected = json.loads((site / "site" / "adapt.json").read_text())
    assert same["estimates"] == expected["estimates"]
    prefmerge.verify(place / "python")
    with pytest.raises(UsageError, match="Did you mean 'labels'"):
        prefmerge.adapt(run="my-run", label="seen.csv")  # pyright: ignore[reportCallIssue]
    assert set(inspect.signature(prefmerge.adapt).parameters) == {*declarations(Parameters), "progress"}


def test_a_library_that_is_absent_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prefmerge\[places\]'"):
        prefmerge.adapt(run="my-run", labels="seen.csv")


def test_other_commands_point_to_it(place: Path, call: Callable[[str], Result]) -> None:
    done = call("merge --run my-run --prefer 1,1,0 -o merged")
    assert done.stdout.splitlines()[-1].endswith("prefmerge adapt --run my-run --labels FILE -o OUT")
    done = call("prefer --run my-run --labels seen.csv")
    line = done.stdout.splitlines()[-1]
    assert line.endswith("prefmerge adapt --run my-run --labels seen.csv -o OUT")
    assert call(line.partition("prefmerge ")[2].replace("OUT", "pointed")).code == 0


def test_the_sentence_on_drift_is_what_the_numbers_say(place: Path, call: Callable[[str], Result]) -> None:
    found = adapted(call, "--labels seen.csv")
    others = list(found["estimates"]["other_tasks"].values())
    chosen = found["estimates"]["rows"][0]["accuracy"]["value"]
    left = 0.8 * chosen + 0.2 * sum(one["chosen"] for one in others) / len(others)
    assert f"expect {100 * left:.0f} % in place of {100 * chosen:.0f} %" in found["drift"]
