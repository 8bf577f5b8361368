"""finetune, evaluate and merge --run, as typed: a tiny BERT, a CSV of words, three tasks."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from prefmerge.cli.options import EXAMPLES
from tests.cli.conftest import Result

pytest.importorskip("transformers", reason="fine-tuning needs the extra train")

CONFIG = """\
model: tiny
data: words.csv
scenario: {kind: class-incremental, tasks: 3}
training: {method: METHOD, epochs: 2, batch: 8, learning_rate: 0.001, warmup_steps: 2, threads: 1, device: cpu}
head: prototype
seed: 1
"""


@pytest.fixture
def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an encoder, six classes of words, and a configuration per way of training."""
    from tests.models.tiny import tiny_bert

    tiny_bert(folder / "tiny")
    rng = random.Random(0)
    with open(folder / "words.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label in ("ab", "cd", "ef", "gh", "ij", "kl"):
            writer.writerows(("".join(rng.choices(label, k=8)), label) for _ in range(20))
    for method in ("sequential", "independent"):
        (folder / f"{method}.yaml").write_text(CONFIG.replace("METHOD", method))
    monkeypatch.setenv("PREFMERGE_CACHE", str(folder / "cache"))
    return folder


def test_from_a_configuration_to_a_merged_model(words: Path, call: Callable[[str], Result]) -> None:
    done = call("finetune sequential.yaml -o my-run")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert "sequential fine-tuning of " in done.stdout
    assert "3/3 task-03: done" in done.stderr

    again = call("finetune sequential.yaml -o my-run --json")
    assert again.code == 0
    assert again.stderr == ""
    listed = json.loads(again.stdout)
    assert [task["name"] for task in listed["tasks"]] == ["task-01", "task-02", "task-03"]

    plain = call("merge --run my-run -o merged --force --prefer task-01=0.8,task-03=0.2")
    assert (plain.code, plain.stderr) == (0, "")
    by_hand = call(
        "merge my-run/base my-run/tasks/task-01 my-run/tasks/task-02 my-run/tasks/task-03 -o by-hand --prefer 0.8,0,0.2"
    )
    assert by_hand.code == 0
    same = [(words / name / "model.safetensors").read_bytes() for name in ("merged", "by-hand")]
    assert same[0] == same[1]
    assert call("plan --run my-run --prefer alpha:2").code == 0

    one = json.loads(call("evaluate merged --run my-run --json").stdout)
    assert [task["name"] for task in one["tasks"]] == ["task-01", "task-02", "task-03"]
    assert one["overall"]["n"] == 24
    shown = call("evaluate merged --run my-run")
    assert shown.code == 0
    assert f"{100 * one['overall']['agnostic']:.1f} %" in shown.stdout
    assert "Note" not in shown.stdout

    weights = load_file(words / "merged" / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in weights.items()}, words / "wrapped.safetensors")
    note = "the wrapper 'module.' is left out of the tensor names in task 'wrapped.safetensors'."
    assert f"Note: {note}" in call("evaluate wrapped.safetensors --run my-run").stdout
    assert json.loads(call("evaluate wrapped.safetensors --run my-run --json").stdout)["about"]["notes"] == [note]

    matrix = json.loads(call("evaluate --run my-run --json").stdout)
    assert len(matrix["agnostic"]["matrix"]) == 3
    table = call("evaluate --run my-run --no-cache")
    assert table.code == 0
    assert "forgetting" in table.stdout
    assert "theta_0" in table.stdout


def test_the_examples_of_the_help_texts_work(words: Path, call: Callable[[str], Result]) -> None:
    (words / "cifar100.yaml").write_text((words / "sequential.yaml").read_text())
    lines = [
        line for name in ("finetune", "merge", "evaluate", "inspect") for line in EXAMPLES[name] if "my-run" in line
    ]
    assert len(lines) == 6
    (words / "seed-4.yaml").write_text((words / "sequential.yaml").read_text().replace("seed: 1", "seed: 4"))
    assert call("finetune seed-4.yaml -o my-run-seed-4").code == 0
    assert call("finetune independent.yaml -o my-run-independent").code == 0
    for line in lines:
        done = call(line.removeprefix("prefmerge "))
        assert (done.code, done.exception) == (0, None), line
        assert done.stdout


def test_mean_and_deviation_over_seeds(words: Path, call: Callable[[str], Result]) -> None:
    for seed in (4, 5):
        (words / "own.yaml").write_text(
            (words / "sequential.yaml").read_text().replace("seed: 1", f"seed: {seed}\nheld_out: 0")
        )
        assert call(f"finetune own.yaml -o run-{seed}").code == 0
    single = [  # prototypes of letters: even a tiny random model tells some words apart
        json.loads(call(f"evaluate run-{seed}/tasks/task-03 --run run-{seed} --json").stdout)["overall"]["agnostic"]
        for seed in (4, 5)
    ]
    both = json.loads(call("evaluate --run run-4 --run run-5 --json").stdout)
    assert both["runs"] == 2
    assert both["overall"]["agnostic"]["mean"] == pytest.approx(sum(single) / 2)
    assert both["overall"]["agnostic"]["std"] == pytest.approx(abs(single[0] - single[1]) / 2**0.5)
    assert both["overall"]["agnostic"]["std"] > 0
    given = json.loads(call("evaluate run-4/base run-5/base --run run-4 --run run-5 --json").stdout)
    assert given["overall"] != both["overall"]
    assert "over 2 runs" in call("evaluate --run run-4 --run run-5").stdout


def test_importance_step_refuses_an_independent_run(words: Path, call: Callable[[str], Result]) -> None:
    assert call("finetune independent.yaml -o apart").code == 0
    assert call("merge --run apart -o merged --force --method max-abs").code == 0
    refused = call("merge --run apart -o other --importance step")
    assert refused.code == 1
    assert "fine-tuned independently" in refused.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("finetune sequential.yaml", 2, "-o RUN is missing"),
        ("finetune absent.yaml -o r", 1, "absent.yaml: no such file"),
        ("finetune words.csv -o r", 1, "words.csv: expected a mapping with at least `model` and `data`, found str"),
        ("finetune typo.yaml -o r", 1, "typo.yaml: unknown key 'training.epoch'. Did you mean 'epochs'?"),
        ("evaluate base", 2, "--run RUN is missing"),
        ("evaluate base cars --run base", 2, "2 checkpoints for 1 runs: give one for each --run"),
        ("evaluate base --run base", 1, "base: not a run of prefmerge: there is no run.json in it"),
        ("evaluate base --run nowhere", 1, "nowhere: not a run of prefmerge: no such folder"),
        ("merge --run base -o out", 1, "base: not a run of prefmerge"),
        ("merge base --run base -o out", 2, "--run base already says which checkpoints to take. Leave base out."),
        ("merge", 2, "nothing to merge: give a base and its tasks, a recipe, or --run RUN"),
        ("merge -o out", 2, "nothing to merge: give a base and its tasks, a recipe, or --run RUN"),
    ],
)
def test_what_a_user_gets_wrong(line: str, code: int, said: str, words: Path, call: Callable[[str], Result]) -> None:
    (words / "typo.yaml").write_text("model: tiny\ndata: words.csv\ntraining: {epoch: 3}\n")
    done = call(line)
    assert (done.code, done.exception) == (code, None)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unfinished_run_is_not_merged(words: Path, call: Callable[[str], Result]) -> None:
    assert call("finetune sequential.yaml -o my-run").code == 0
    file = words / "my-run" / "run.json"
    manifest = json.loads(file.read_text())
    manifest["tasks"][2]["done"] = False
    file.write_text(json.dumps(manifest))
    done = call("merge --run my-run -o out")
    assert done.code == 1
    assert "task 'task-03' is not trained yet (1 of 3 are missing)" in done.stderr
    assert call("evaluate --run my-run").code == 1


def test_merging_a_run_needs_no_torch(words: Path, call: Callable[[str], Result]) -> None:
    assert call("finetune sequential.yaml -o my-run").code == 0
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'datasets', 'accelerate'): sys.modules[name] = None\n"
        "from prefmerge.cli import main\n"
        "sys.argv = ['prefmerge', 'merge', '--run', 'my-run', '-o', 'without']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (words / "without" / "model.safetensors").is_file()
    asked = subprocess.run(
        [
            sys.executable,
            "-c",
            code.replace("'merge', '--run', 'my-run', '-o', 'without'", "'evaluate', '--run', 'my-run'"),
        ],
        cwd=words,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert asked.stderr == (
        "error: evaluation needs an optional dependency. Install it with: pip install 'prefmerge[train]'\n"
    )


def test_a_run_says_what_it_keeps_and_is_judged_on_it_where_the_data_are_gone(
    words: Path, call: Callable[[str], Result]
) -> None:
    done = call("finetune sequential.yaml -o my-run")
    held_out = json.loads((words / "my-run" / "run.json").read_text())["kept"]["held_out"]
    assert f"Held-out samples: {held_out} texts, " in done.stdout
    assert "the base's embeddings of " in done.stdout
    assert json.loads(call("evaluate --run my-run --json").stdout)["about"] == {"samples": "test"}
    (words / "words.csv").unlink()
    said = "The samples that the run held out take the place of the test samples: "
    for line in ("evaluate --run my-run", "evaluate my-run/base --run my-run"):
        told = json.loads(call(f"{line} --json").stdout)["about"]
        assert told["samples"] == "held-out"
        assert told["note"].startswith(said)
        assert said in " ".join(call(line).stdout.split())
