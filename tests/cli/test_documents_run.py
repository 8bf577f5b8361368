"""Every command and every Python block of README and docs, run at toy size, but for those listed here with a reason.

They run in one folder, in the order of the documents (README, tutorial, from-your-files, then by name): a tiny text
encoder stands for every model, three tasks of words for every task. A command that stands in several documents runs
once. Not here: what merges of the demo print, which is compared line by line (tests/benchmarks/test_sessions.py).
"""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import contextlib
import glob
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

for package in ("transformers", "sklearn", "ot", "optuna", "matplotlib"):
    pytest.importorskip(package, reason="the documents use every extra")

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge import analysis
from prefmerge.cli import app
from prefmerge.models.head_file import read_head
from prefmerge.target.fit import one_thread
from prefmerge.training.steps import torch_threads
from tests.cli.adapting import write_words
from tests.documents import ROOT, commands, documents, python_blocks, unfenced_python
from tests.lab.quick import two_candidates
from tests.models.tiny import tiny_bert, tiny_image_classifier, tiny_text_classifier

TASKS = {"birds": ("ef", "gh"), "cars": ("ab", "cd"), "digits": ("ij", "kl")}
SEEN = (*TASKS["cars"], *TASKS["birds"])  # classes of the tasks that stand alone, without a run
CLASSES = [one for classes in TASKS.values() for one in classes]
CONFIG = f"""\
model: tiny
data: words.csv
tasks: {{{", ".join(f"{name}: [{', '.join(classes)}]" for name, classes in TASKS.items())}}}
training: {{method: sequential, epochs: 1, batch: 16, learning_rate: 0.003, warmup_steps: 1, threads: 1, device: cpu}}
head: prototype
held_out: 8
seed: 1
"""

SETS_UP = "sets up an environment from the network"
BENCHMARK = "takes hours; tests/benchmarks runs it at toy size"
HUB = "its model or its data are on the hub"
NOT_RUN = {
    "make demo": SETS_UP,
    "make test": SETS_UP,
    "make setup": SETS_UP,
    "make check": SETS_UP,
    "make bench": BENCHMARK,
    "pip install 'prefmerge[studio]'": SETS_UP,
    "pip install 'prefmerge[places]'": SETS_UP,
    "make site": "tests/pages builds it",
    "make docs": "tests/benchmarks compares every page with what its script writes",
    ". .venv-demo/bin/activate": "changes the shell that types it",
    "python -m benchmarks.targets --docs docs/targets.md": BENCHMARK,
    "python -m benchmarks.targets --collect --docs docs/targets.md": BENCHMARK,
    "python -m benchmarks.targets --recipe examples/bench/wordnet-trainings.yaml": BENCHMARK,
    "python -m benchmarks.fashion": BENCHMARK,
    "prefmerge bench examples/bench/wordnet.yaml -o wordnet": f"a day, and {HUB}",
    "prefmerge bench examples/bench/wordnet-17.yaml -o wordnet-17": f"a day, and {HUB}",
    "prefmerge bench examples/bench/cifar100-5.yaml -o cifar100-5": f"needs a GPU, and {HUB}",
    "prefmerge bench examples/bench/cifar100-5.yaml -o cifar100-5 --dry-run": HUB,
    "prefmerge bench examples/bench/cifar100-5.yaml -o cifar100-5 --jobs 2": f"needs GPUs, and {HUB}",
    "prefmerge bench recipe.yaml -o results/ --ray 10.0.0.1:6379": "tests/lab/test_on_ray.py has a cluster",
    "prefmerge bench RECIPE.yaml -o OUT": "half a minute; tests/lab/test_command.py runs such a recipe",
    "prefmerge finetune examples/finetune/own-images.yaml -o my-run": HUB,
    "prefmerge merge base/ cars/ birds/ -o merged/ --ray 10.0.0.1:6379": "tests/merging/test_on_ray.py has a cluster",
    "prefmerge push merged/ my-org/my-model --private": "tests/merging/test_push.py has a stand-in for the hub",
    "prefmerge merge recipe.yaml -o merged/ --ray auto": "tests/merging/test_on_ray.py has a cluster",
    "accelerate launch -m prefmerge finetune CONFIG.yaml -o RUN": "tests/training/test_processes.py starts processes",
}
STUDIO = "prefmerge studio"
STUDIO_REASON = "serves until it is stopped; tests/studio drives the page"
# Examples of the help texts: tests/cli/test_help.py and the tests of the commands run them.
TRIED_ELSEWHERE = ("commands",)
FEW_TRIALS = ("--trials", "5", "--patience", "2")
SCORED = ("prefmerge search base/ math/ code/", "prefmerge adapt base/ math/ code/")
SCORED_REASON = "needs a language model; tests/target/by_command/test_document.py runs its script and reads its flags"
CLASSIFIERS = "prefmerge adapt base/ cars/ birds/ --task-samples samples/ --labels seen.csv -o for-my-target/"


# The demo is a run; what it has of its target lies in the run's folder.
DEMO = {
    "demo-out/seen.csv": "seen.csv",
    "demo-out/photos/": "photos/",
    "demo-out": "my-run",
    "task-1-digits-01": "cars",
    "task-5-digits-89": "digits",
}


def reason(command: str) -> str | None:
    """Why a command is not run here, or None."""
    if command.startswith(STUDIO):
        return STUDIO_REASON
    return SCORED_REASON if command.startswith(SCORED) else NOT_RUN.get(command)


def at_desk(command: str) -> str:
    """The command over the files of this test."""
    for name, here in DEMO.items():
        command = command.replace(name, here)
    return command


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything that the documents name."""
    folder = tmp_path_factory.mktemp("desk")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patched, torch_threads(1), one_thread():
        patched.setenv("PREFMERGE_CACHE", str(folder / "cache"))
        patched.setattr("prefmerge.target.adapt.candidates", two_candidates)
        tiny_bert(Path("tiny"))
        write_words(Path("words.csv"), dict.fromkeys(CLASSES, 24), 0)
        Path("CONFIG.yaml").write_text(CONFIG)
        Path("independent.yaml").write_text(CONFIG.replace("sequential", "independent"))
        typed("prefmerge finetune CONFIG.yaml -o my-run")
        typed("prefmerge finetune independent.yaml -o my-run-independent")
        shutil.copytree("my-run/base", "base")
        for name in ("cars", "birds", "digits"):
            shutil.copytree(f"my-run/tasks/{name}", name)
        for name, like in (("math", "cars"), ("code", "birds"), ("new-task", "digits"), ("last-month", "birds")):
            shutil.copytree(like, name)
        shutil.copy("cars/model.safetensors", "mine.safetensors")
        head = read_head(Path("my-run/head.safetensors"))
        kept = [head.classes.index(one) for one in SEEN]
        Path("head.safetensors").write_bytes(replace(head, rows=head.rows[kept], classes=SEEN).to_bytes())
        _write_samples(Path())
        _write_files_of_others()
        yield folder


def _write_samples(folder: Path) -> None:
    """What the user has of the target and of the tasks."""
    (folder / "samples").mkdir(parents=True)
    for name in ("cars", "birds"):
        write_words(folder / "samples" / f"{name}.csv", dict.fromkeys(TASKS[name], 12), 5)
    for seed, name in enumerate(("seen", "labelled", "later", "more")):
        write_words(folder / f"{name}.csv", {"ab": 9, "cd": 6, "ef": 5}, seed)
    (folder / "photos").mkdir()
    for i, line in enumerate((folder / "seen.csv").read_text().splitlines()[1:]):
        (folder / "photos" / f"{i}.txt").write_text(line.partition(",")[0])
    counts = {name: dict.fromkeys(TASKS[name], 24) for name in ("cars", "birds")}
    (folder / "counts.json").write_text(json.dumps(counts))


def _write_files_of_others() -> None:
    """A checkpoint with other names, models with classifiers, a recipe of the tutorial, the demo's folder."""
    import torch

    renamed = {name.replace("query", "q_proj"): torch.from_numpy(value) for name, value in weights("cars").items()}
    torch.save({**renamed, "classifier.weight": torch.zeros(2, 2)}, "cars.ckpt")
    for seed, name in enumerate(("base", "cars", "birds")):
        tiny_text_classifier(Path("classifiers", name), SEEN, seed)
    _write_samples(Path("classifiers"))
    tutorial = next(page for page in documents() if page.stem == "tutorial").read_text()
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", tutorial, re.MULTILINE | re.DOTALL)
    Path("recipe.yaml").write_text(recipe)
    Path("RECIPE.yaml").write_text(
        "runs: [my-run]\nstudies: [places]\nmethods: [MAGMAX]\nenvironments: {size: 20, variants: [42]}\n"
    )


def weights(name: str) -> dict[str, Any]:
    return load_file(f"{name}/model.safetensors")


def typed(command: str) -> str:
    """What a command prints. What a command before it wrote is out of the way."""
    words = [
        one for word in shlex.split(command) for one in (sorted(glob.glob(word)) if "*" in word else ()) or (word,)
    ]
    if "-o" in words:
        out = Path(words[words.index("-o") + 1])
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    few = FEW_TRIALS if words[1] == "search" else ()
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*words[1:], *few], prog_name="prefmerge")
    assert done.exit_code == 0, f"{command}\n{done.stdout}{done.stderr}{done.exception!r}"
    return done.stdout


def test_every_command_that_can_run_runs(desk: Path) -> None:
    pages = [page for page in documents() if page.stem not in TRIED_ELSEWHERE]
    asked = [command for page in pages for command in commands(page.read_text())]
    failed = []
    for command in dict.fromkeys(at_desk(one) for one in asked if reason(one) is None):
        with contextlib.chdir(desk / "classifiers" if command == CLASSIFIERS else desk):
            try:
                typed(command)
            except AssertionError as error:
                failed.append(str(error))
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def test_what_does_not_run_is_in_the_documents() -> None:
    asked = {command for page in documents() for command in commands(page.read_text())}
    assert sorted(set(NOT_RUN) - asked) == []
    assert sum(command.startswith(SCORED) for command in asked) == 4


def python_of_documents() -> list[Any]:
    """Every Python block: (code), called by its document and number."""
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in documents()
        for number, code in enumerate(python_blocks(page.read_text()), 1)
        if page.stem != "any-model"  # a script: tests/target/by_command/test_document.py runs it
        and "prefmerge.search(" not in code  # half a minute; tests/target/search runs it
        and "prefmerge.push(" not in code  # tests/merging/test_push.py has a hub to push to
        and "made = prefmerge.adapt(" not in code  # the example of check begins with it
    ]


@pytest.mark.parametrize("code", python_of_documents())
def test_every_python_block_runs(code: str, desk: Path, tmp_path: Path) -> None:
    for name in ("base", "cars", "birds", "digits"):
        shutil.copytree(desk / name, tmp_path / name)
    shutil.copytree(desk / "my-run", tmp_path / "my-run")
    for name in ("seen.csv", "later.csv", "words.csv", "recipe.yaml"):
        shutil.copy(desk / name, tmp_path)
    shutil.copytree(desk / "tiny", tmp_path / "tiny")
    with contextlib.chdir(tmp_path):
        exec(code, names_for(code))


def names_for(code: str) -> dict[str, Any]:
    """What a block takes for granted: models in memory, another measurement, an adapted model."""
    if code in python_blocks((ROOT / "docs" / "python.md").read_text()):
        return {"prefmerge": prefmerge} | examples_need(code)
    if "state_dict()" in code:
        return {name: SimpleNamespace(state_dict=partial(weights, name)) for name in ("base", "cars", "birds")}
    if "other" in code:
        return {"other": analysis.measure("base", ["birds", "cars"], names=None, label="another order")}
    if "head.safetensors" in code:
        Path("for-my-target").mkdir()
        shutil.copy("my-run/head.safetensors", "for-my-target")
        head = Path("for-my-target/head.safetensors")
        head.write_bytes(replace(read_head(head), bias=np.zeros(len(CLASSES), np.float32)).to_bytes())
    if "pipeline(" in code:
        tiny_image_classifier(Path("for-my-target"), CLASSES)
        Image.new("RGB", (20, 20), "red").save("photo.jpg")
    return {}


def examples_need(code: str) -> dict[str, Any]:
    """The files and models that the example of a docstring takes for granted."""
    if '"merged' in code:
        for name in ("merged", "merged.safetensors"):
            prefmerge.merge("base", ["cars", "birds"], name, method="magmax")
    if '"base.safetensors"' in code:
        save_file({**weights("base"), "visual.proj": np.zeros((2, 3), np.float32)}, "base.safetensors")
    Path("cifar100.yaml").write_text(CONFIG)
    shutil.copy("recipe.yaml", "recipes.yaml")
    if "check(" in code:
        blocks = python_blocks((ROOT / "docs" / "python.md").read_text())
        exec(next(one for one in blocks if "prefmerge.adapt(" in one), {"prefmerge": prefmerge})
    if "load_state_dict(" in code:
        import torch

        models = {name: torch.nn.Linear(2, 3) for name in ("base", "cars", "birds")}
        return {**models, **{name: model.state_dict() for name, model in models.items() if name != "base"}}
    return {}


def test_python_stands_in_blocks_of_its_own() -> None:
    assert [line for page in documents() for line in unfenced_python(page.read_text())] == []
