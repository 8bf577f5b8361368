"""`prefmerge search` as typed: a tiny BERT over words, three tasks, labelled words of the target."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge.cli.options import EXAMPLES
from prefmerge.preference import Preference
from tests.cli.adapting import write_words
from tests.cli.conftest import Result
from tests.outputs.traces import traces

pytest.importorskip("transformers", reason="search needs the extra places")
pytest.importorskip("optuna", reason="search needs the extra places")

CONFIG = """\
model: tiny
data: words.csv
scenario: {kind: class-incremental, tasks: 3}
training: {method: sequential, epochs: 1, batch: 8, learning_rate: 0.003, warmup_steps: 2, threads: 1, device: cpu}
head: prototype
held_out: 0
seed: 1
"""
CLASSES = ("ab", "cd", "ef", "gh", "ij", "kl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, made once."""
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from tests.models.tiny import tiny_bert

    folder = tmp_path_factory.mktemp("trained")
    tiny_bert(folder / "tiny")
    write_words(folder / "words.csv", dict.fromkeys(CLASSES, 12), 0)
    (folder / "run.yaml").write_text(
        CONFIG.replace("tiny", str(folder / "tiny")).replace("words.csv", str(folder / "words.csv"))
    )
    finetune(read_config(folder / "run.yaml"), folder / "my-run")
    return folder


@pytest.fixture
def place(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained / "my-run", folder / "my-run")
    write_words(folder / "seen.csv", {"ab": 12, "cd": 6, "ij": 6}, 9)
    monkeypatch.setenv("PREFMERGE_CACHE", str(folder / "cache"))
    return folder


def test_from_labelled_samples_to_a_merged_model(place: Path, call: Callable[[str], Result]) -> None:
    line = "search --run my-run --pairs seen.csv -o found --paper --trials 7 --batch 3 --seed 2"
    done = call(line)
    assert (done.code, done.stderr, done.exception) == (0, "", None)
    assert traces(place / "found", place, place.parent) == []
    assert {path.name for path in (place / "found").iterdir()} == {
        "study.journal",
        "search.json",
        "preference.json",
        "search.png",
    }
    kept = json.loads((place / "found" / "search.json").read_text())
    assert len(kept["trials"]) == 7
    # 18 of 24 words are of task 1, 6 of task 3.
    first = Preference.from_json(kept["trials"][0]["settings"]["preference"])
    assert [float(share) for share in first.shares(kept["tasks"])] == [0.75, 0, 0.25]
    assert "label preference, scale 0.5" in done.stdout
    assert "7 trials; ended by 7 trials." in done.stdout
    assert kept["verdict"] in done.stdout.replace("\n", " ")

    again = call(f"{line} --json")  # nothing is left to do
    assert again.code == 0
    assert json.loads(again.stdout) == kept

    following = kept["command"]
    assert f"Next: {following}" in done.stdout
    merged = call(following.removeprefix("prefmerge ").replace("merged/", "by-place"))
    assert (merged.code, merged.stderr) == (0, "")

    from prefmerge.merging.candidates import Candidates
    from prefmerge.target.search.trial import from_json

    tasks = [place / "my-run" / "tasks" / name for name in kept["tasks"]]
    with Candidates(place / "my-run" / "base", tasks) as candidates:
        model = candidates.model(**from_json(kept["best"]["settings"]))
    written = load_file(place / "by-place" / "model.safetensors")
    assert all(np.array_equal(written[name], model[name]) for name in model)


def test_a_preference_file_as_output(place: Path, call: Callable[[str], Result]) -> None:
    line = "search --run my-run --pairs seen.csv -o mine.json --paper --trials 2 --space preference,scale"
    assert call(line).code == 0
    assert Preference.load("mine.json").names == ("task-01", "task-02", "task-03")
    assert (place / "mine.search" / "search.json").exists()
    other = call(f"{line} --seed 1")
    assert other.code == 1
    assert other.stderr == (
        "error: mine.search: holds another search: seed was 0, is 1. Give another -o OUT, or --force to start "
        "it again from nothing.\n"
    )
    assert call(f"{line} --seed 1 --force").code == 0
    assert json.loads((place / "mine.search" / "search.json").read_text())["settings"]["seed"] == 1


def test_the_example_of_the_help_text_works(place: Path, call: Callable[[str], Result]) -> None:
    first, second, third, _ = EXAMPLES["search"]  # the first needs a run with held-out samples
    for line in (first.replace("--labels", "--pairs"), second, third):
        done = call(f"{line.removeprefix('prefmerge ').replace('photos/', 'seen.csv')} --trials 5")
        assert (done.code, done.exception) == (0, None), done.stderr
        assert shlex.split(line)[1] == "search"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("search", 2, "--run RUN is missing: the run whose tasks are to be merged."),
        (
            "search --run my-run",
            2,
            "what is the target like? Give --labels FILE, --inputs PATH, --pairs PATH or --prefer SPE",
        ),
        (
            "search --run my-run --paper --labels seen.csv -o x",
            2,
            "--paper needs --pairs PATH: inputs of the target with their labels.",
        ),
        (
            "search --run my-run --pairs few.csv -o x --paper",
            1,
            "few.csv: 9 samples are too few to search with. Give a",
        ),
        (
            "search --run my-run --labels seen.csv -o x",
            1,
            "my-run: kept no held-out samples (held_out: 0), so nothing can rank the trials. Give --pairs PATH",
        ),
        ("search --run my-run --pairs seen.csv", 2, "--out OUT is missing: where to keep the search."),
        ("search --run my-run --pairs no.csv -o x", 1, "no.csv"),
        ("search --run my-run --pairs empty.csv -o x", 1, "empty.csv"),
        ("search --run my-run --pairs few.csv -o x", 1, "few.csv: 9 samples are too few to search with. Give at least"),
        (
            "search --run my-run --pairs odd.csv -o x",
            1,
            "odd.csv: 5 of the target's 9 labels are no class of any task: 'zz' (first at sample",
        ),
        ("search --run my-run --pairs images -o x", 1, "images: is a folder; texts with labels are a CSV"),
        ("search --run base --pairs seen.csv -o x", 1, "base: not a run of prefmerge"),
        ("search --run my-run --pairs seen.csv -o x --space speed", 2, "'speed' cannot be searched; what can is "),
        ("search --run my-run --pairs seen.csv -o x --held-out 1.5", 2, "--held-out 1.5: expected at most 0.9."),
        ("search --run my-run --pairs seen.csv -o x --trials 0", 2, "--trials 0: expected at least 1."),
        ("search --run my-run --pairs seen.csv -o base", 1, "base: holds something that is not a search. Give a new"),
    ],
)
def test_one_message_for_what_cannot_be(
    place: Path, call: Callable[[str], Result], line: str, code: int, message: str
) -> None:
    (place / "empty.csv").write_text("text,label\n")
    write_words(place / "few.csv", {"ab": 9}, 0)
    write_words(place / "odd.csv", {"ab": 4, "zz": 5}, 0)
    (place / "images").mkdir()
    done = call(line)
    assert (done.code, done.exception) == (code, None)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (place / "x").exists()


def test_importance_step_is_refused_before_anything_is_tried(place: Path, call: Callable[[str], Result]) -> None:
    manifest = json.loads((place / "my-run" / "run.json").read_text())
    (place / "my-run" / "run.json").write_text(json.dumps({**manifest, "training": "independent"}))
    done = call("search --run my-run --pairs seen.csv -o x --space scale,importance")
    assert done.code == 1
    assert "were fine-tuned independently. Use --importance magnitude." in done.stderr
    assert not (place / "x" / "study.journal").exists()
