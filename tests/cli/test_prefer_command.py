"""`prefmerge prefer` as typed: what it prints, what it writes, and that `merge` takes it."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prefmerge.cli.options import EXAMPLES
from prefmerge.cli.prefer import bar
from prefmerge.preference import Preference
from prefmerge.runs import Run, RunTask
from tests.cli.conftest import Result
from tests.forks import command

COUNTS = {"cars": {"sedan": 30, "van": 10}, "birds": {"owl": 20, "tit": 30}}


@pytest.fixture
def place(folder: Path) -> Path:
    """The tiny checkpoints as a run, what their tasks had, and labels of the target."""
    (folder / "counts.json").write_text(json.dumps(COUNTS))
    (folder / "seen.csv").write_text("label\n" + "owl\n" * 30 + "van\n" * 19 + "zebra\n")
    tasks = tuple(RunTask(f"task {i}", name, label_counts=COUNTS[name]) for i, name in enumerate(("cars", "birds"), 1))
    (folder / "my-run").mkdir()
    for name in ("base", "cars", "birds"):
        (folder / "my-run" / name).symlink_to(folder / name)
    run = Run(folder / "my-run", "sequential", "base", tasks)
    (folder / "my-run" / "run.json").write_text(json.dumps(run.to_json()))
    return folder


def test_labels_to_a_merged_model(place: Path, call: Callable[[str], Result]) -> None:
    done = call("prefer --run my-run --labels seen.csv -o preference.json")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    # 19/49 of the labels are a quarter of task 1, 30/49 two fifths of task 2.
    assert lines[2].split() == ["task", "1", "28.4", "%", bar((19 / 4) / 12), *lines[2].split()[5:]]
    assert lines[3].split()[2:5] == ["71.6", "%", "█" * 24]
    assert lines[2].split()[6:8][0] == "to"
    assert lines[5].startswith("49 samples: with 90 % confidence task 2 has ")
    assert lines[6] == "Note: 1 of the target's 50 labels is no class of any task and not counted: 'zebra'."
    assert lines[7] == "Output: preference.json"
    assert lines[8] == "Next: prefmerge merge --run my-run -o merged/ --prefer @preference.json"
    assert Preference.load("preference.json").names == ("task 1", "task 2")

    following = call(lines[8].removeprefix("Next: prefmerge ").replace("merged/", "by-place"))
    assert (following.code, following.stderr) == (0, "")
    by_hand = call("merge base cars birds -o by-hand --prefer 19/4,12 --sequential")
    assert by_hand.code == 0
    same = [(place / name / "model.safetensors").read_bytes() for name in ("by-place", "by-hand")]
    assert same[0] == same[1]


def test_any_checkpoints_with_counts(place: Path, call: Callable[[str], Result]) -> None:
    line = "prefer base cars birds --labels seen.csv --task-labels counts.json"
    told = json.loads(call(f"{line} -o preference.json --json").stdout)
    assert told["names"] == ["cars", "birds"]
    assert told["about"]["shares"] == pytest.approx([19 / 67, 48 / 67])
    assert told["next"] == "prefmerge merge base cars birds -o merged/ --prefer @preference.json"
    assert call("merge base cars birds -o out --prefer @preference.json").code == 0
    assert {**told, "next": None} == {**json.loads(Path("preference.json").read_text()), "next": None}
    shown = call(line).stdout.splitlines()
    assert shown[-3:-1] == ["Next: the same with -o preference.json, then", f"      {told['next']}"]
    assert shown[-1].endswith("prefmerge adapt base cars birds --task-labels counts.json --labels seen.csv -o OUT")
    without = call(f"{line} --draws 0").stdout
    assert "interval" not in without
    assert "confidence" not in without


def test_nothing_known_of_the_target(place: Path, call: Callable[[str], Result]) -> None:
    done = call("prefer --run my-run -o preference.json")
    assert done.code == 0
    assert done.stdout.count("50.0 %") == 2
    assert (
        "Nothing is known of the target, so every task gets the same. With something from there, better:" in done.stdout
    )
    assert "--labels FILE" in done.stdout
    assert Preference.load("preference.json") == Preference.uniform()
    assert call("merge --run my-run -o out --prefer @preference.json").code == 0


def test_the_examples_of_the_help_text_work(place: Path, call: Callable[[str], Result]) -> None:
    first, _, third = EXAMPLES["prefer"]  # the second needs an encoder
    for line in (first, third):
        done = call(line.removeprefix("prefmerge "))
        assert (done.code, done.exception) == (0, None), done.stderr
    assert first in call("prefer --help").stdout


@pytest.mark.parametrize(
    ("part", "shown"), [(0, ""), (0.001, "▏"), (0.5, "█" * 12), (0.53, "█" * 12 + "▊"), (1, "█" * 24)]
)
def test_bars(part: float, shown: str) -> None:
    assert bar(part) == shown
    assert len(bar(part, plain=True)) == max(round(24 * part), int(part > 0))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("prefer", 2, "nothing to go by. Say what the tasks are (--run RUN, or BASE TASK...) and what you have of the"),
        ("prefer --run my-run --labels seen.csv --inputs x", 2, "--labels and --inputs: give one of them. With label"),
        ("prefer base cars --run my-run", 2, "--run my-run already says which checkpoints to take. Leave base out."),
        ("prefer base", 2, "base is the base, and no task follows it: give BASE TASK... in the order of training."),
        ("prefer base lost --labels seen.csv", 1, "lost: no such file or folder. Give BASE TASK... in the order of tr"),
        ("prefer --run my-run --labels seen.csv --gamma 3", 2, "--gamma has no use with --labels."),
        (
            "prefer --run my-run --inputs x --task-labels counts.json",
            2,
            "--task-labels has no use with --inputs.",
        ),
        (
            "prefer --run my-run --inputs x --similarity mmd --solver exact",
            2,
            "--solver has no use with --similarity mmd.",
        ),
        (
            "prefer --run my-run --inputs x --gamma 3",
            2,
            "--gamma has no use with --similarity estimate, the default. Give --similarity ot, cosine or mmd with it.",
        ),
        (
            "prefer --run my-run --inputs x --solver exact",
            2,
            "--solver has no use with --similarity estimate, the default. Give --similarity ot with it.",
        ),
        (
            "prefer --run my-run --inputs x.npy",
            2,
            "x.npy: holds embeddings. By default shares are estimated",
        ),
        ("prefer --run my-run --draws 20", 2, "--draws has no use without --labels, --inputs or --pairs."),
        (
            "prefer --run my-run --inputs x --similarity dot",
            2,
            "--similarity dot: expected estimate, ot, cosine",
        ),
        (
            "prefer --run my-run --labels seen.csv --level 90",
            2,
            "--level 90: expected a number between 0 and 1, such a",
        ),
        (
            "prefer --run my-run --labels seen.csv --draws 3",
            2,
            "draws: expected a whole number of at least 20 at level",
        ),
        ("prefer --run base --labels seen.csv", 1, "base: not a run of prefmerge: there is no run.json in it"),
        ("prefer --run my-run --labels lost.csv", 1, "lost.csv: no such file or folder; expected labels."),
        (
            "prefer --run my-run --labels seen.csv -o recipe.yaml",
            1,
            "recipe.yaml: exists already. Give another -o FILE",
        ),
        (
            "prefer base cars --labels seen.csv --task-labels counts.json",
            1,
            "counts.json: has 'birds', which is none of",
        ),
    ],
)
def test_what_a_user_gets_wrong(line: str, code: int, said: str, place: Path, call: Callable[[str], Result]) -> None:
    done = call(line)
    assert (done.code, done.exception) == (code, None)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


PROGRAM = "import sys\n{first}\nimport prefmerge.cli.prefer\nfrom prefmerge.cli import main\nmain()"


def program(line: str, first: str = "", **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(first=first), *line.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
    )


def test_labels_need_neither_torch_nor_pot(place: Path) -> None:
    absent = "for name in ('torch', 'ot', 'transformers', 'datasets', 'PIL'): sys.modules[name] = None"
    running = program("prefer --run my-run --labels seen.csv", absent, PYTHONIOENCODING="ascii")
    out, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, "")
    assert "71.6 % | ########################" in out
    assert out.isascii()
    asked = program("prefer --run my-run --inputs seen.csv --similarity mmd", absent)
    assert asked.communicate(timeout=60)[1] == (
        "error: encoding samples needs an optional dependency. Install it with: pip install 'prefmerge[train]'\n"
    )


def test_embeddings_of_the_users_own_need_no_torch(place: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"cars": rng.standard_normal((9, 4)), "birds": rng.standard_normal((9, 4)) + 1}
    np.savez("tasks.npz", cars=arrays["cars"], birds=arrays["birds"])
    np.save("place.npy", arrays["birds"][:5])
    absent = "for name in ('torch', 'ot', 'transformers'): sys.modules[name] = None"
    running = program("prefer --inputs place.npy --task-samples tasks.npz --similarity mmd --json", absent)
    out, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, "")
    told = json.loads(out)
    assert told["names"] == ["cars", "birds"]
    assert told["about"]["shares"][1] > 0.9
    assert told["next"] == "prefmerge merge BASE TASK... -o merged/ --prefer @preference.json"


CONFIG = """\
model: tiny
data: words.csv
scenario: {kind: class-incremental, tasks: 3}
training: {epochs: 1, batch: 8, learning_rate: 0.001, warmup_steps: 2, threads: 1, device: cpu}
head: prototype
seed: 1
"""


@pytest.fixture
def trained(folder: Path, call: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three tasks over words; a target that has those of the second."""
    pytest.importorskip("transformers", reason="inputs are encoded by the extra places")
    pytest.importorskip("ot", reason="inputs are compared by the extra places")
    from tests.models.tiny import tiny_bert

    tiny_bert(folder / "tiny")
    rng = random.Random(0)
    with open(folder / "words.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label in ("ab", "cd", "ef", "gh", "ij", "kl"):
            writer.writerows(("".join(rng.choices(label, k=8)), label) for _ in range(20))
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "photos").mkdir()
    for number in range(30):
        (folder / "photos" / f"{number}.txt").write_text("".join(rng.choices("efgh", k=8)))
    monkeypatch.setenv("PREFMERGE_CACHE", str(folder / "cache"))
    (folder / "my-run").mkdir()
    assert call("finetune run.yaml -o my-run").code == 0
    return folder


def test_inputs_to_a_preference_through_a_kill(trained: Path, call: Callable[[str], Result]) -> None:
    line = "prefer --run my-run --inputs photos --similarity ot --json"
    # Killed by the system while the second checkpoint encodes, which is when the cache holds the first's two files.
    kill = (
        "import os, signal\nfrom prefmerge.models import features\nwhole = features._write\n"
        "def last(store, key, found):\n"
        "    whole(store, key, found)\n"
        "    if len(list(store.folder.iterdir())) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "features._write = last"
    )
    killed = command(*line.split(), before=kill)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (trained / "cache" / "features").iterdir()}
    assert len(kept) == 3
    done = call(line)
    assert (done.code, done.stderr) == (0, "")
    files = list((trained / "cache" / "features").iterdir())
    assert len(files) == 6
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    told = json.loads(done.stdout)
    assert int(np.argmax(told["about"]["shares"])) == 1
    assert told["about"]["samples"] == 30
    assert told["about"]["samples_of_tasks"] == [29, 29, 29]  # the run held out a tenth of each

    mmd = call("prefer --run my-run --inputs photos --similarity mmd")
    assert (mmd.code, mmd.exception) == (0, None), mmd.stderr
    (trained / "own").mkdir()
    for name, letters in (("task-01", "abcd"), ("task-02", "efgh"), ("task-03", "ijkl")):
        (trained / "own" / f"{name}.txt").write_text("".join(f"{letters}{letters[i % 4]}\n" for i in range(9)))
    inputs = " ".join(f"my-run/{one}" for one in ("base", "tasks/task-01", "tasks/task-02", "tasks/task-03"))
    own = call(f"prefer {inputs} --inputs photos --task-samples own --similarity ot -o preference.json")
    assert (own.code, own.exception) == (0, None), own.stderr
    assert Preference.load("preference.json").names == ("task-01", "task-02", "task-03")
    assert call("merge --run my-run -o out --prefer @preference.json").code == 0


def test_inputs_alone_are_estimated_as_adapt_does(trained: Path, call: Callable[[str], Result]) -> None:
    pytest.importorskip("sklearn", reason="shares from inputs need the extra places")
    from prefmerge.target.adapt import adapt
    from prefmerge.target.parameters import Parameters

    (trained / "words.csv").rename(trained / "kept-elsewhere.csv")  # the run has what is needed of it
    (trained / "from-photos.json").unlink(missing_ok=True)
    done = call(EXAMPLES["prefer"][1].removeprefix("prefmerge "))
    assert (done.code, done.stderr) == (0, "")
    assert "90 % interval" in done.stdout
    about = json.loads(Path("from-photos.json").read_text())["about"]
    assert about["case"] == "estimate"
    shares = about["shares"]
    assert int(np.argmax(shares)) == 1
    assert shares[1] > 0.8  # all inputs are of its letters
    there = adapt(Parameters(run=Path("my-run"), inputs=Path("photos"))).evidence.shares
    assert shares == there.shares.tolist()
    assert about["intervals"] == np.stack([there.low, there.high], axis=1).tolist()
    assert about["notes"] == list(there.notes)
    written = Preference.load("from-photos.json").shares(about["tasks"])
    assert [float(one) for one in written] == pytest.approx(shares, abs=1e-4)
    assert call("merge --run my-run -o by-estimate --prefer @from-photos.json").code == 0
    other = call("prefer --run my-run --inputs photos --model elsewhere")
    assert other.code == 2
    assert other.stderr.startswith("error: --model elsewhere: the run's own samples are compared with the run's own ")
    bare = json.loads(call("prefer --run my-run --inputs photos --similarity estimate --draws 0 --json").stdout)
    assert bare["about"]["shares"] == shares
    assert bare["about"]["intervals"] is None
    assert "interval" not in call("prefer --run my-run --inputs photos --draws 0").stdout


def test_checkpoints_without_a_run_need_labelled_samples_to_estimate(
    trained: Path, call: Callable[[str], Result]
) -> None:
    pytest.importorskip("sklearn", reason="shares from inputs need the extra places")
    rng = random.Random(2)
    (trained / "own").mkdir()
    for name, labels in (("task-01", ("ab", "cd")), ("task-02", ("ef", "gh")), ("task-03", ("ij", "kl"))):
        rows = "".join(f"{''.join(rng.choices(one, k=8))},{one}\n" for one in labels * 12)
        (trained / "own" / f"{name}.csv").write_text(f"text,label\n{rows}")
    inputs = " ".join(f"my-run/{one}" for one in ("base", "tasks/task-01", "tasks/task-02", "tasks/task-03"))
    told = json.loads(call(f"prefer {inputs} --inputs photos --task-samples own --json").stdout)
    assert told["names"] == ["task-01", "task-02", "task-03"]
    assert int(np.argmax(told["about"]["shares"])) == 1

    none = call(f"prefer {inputs} --inputs photos")
    assert none.stderr == (
        "error: --inputs are compared with samples of the tasks: give --run RUN, or --task-samples PATH for each task, "
        "a CSV with labels or a folder of images per class. --similarity ot, cosine or mmd needs samples too, without "
        "labels.\n"
    )
    (trained / "own" / "task-02.csv").unlink()
    (trained / "own" / "task-02.txt").write_text("efgh\n" * 9)
    bare = call(f"prefer {inputs} --inputs photos --task-samples own")
    assert bare.code == 1
    assert "own/task-02.txt: texts with labels are a CSV with the columns text and label. By default" in bare.stderr
    assert "need labels; --similarity ot, cosine or mmd needs none." in bare.stderr


def test_pairs_to_a_preference_and_what_goes_with_it(trained: Path, call: Callable[[str], Result]) -> None:
    pytest.importorskip("optuna", reason="search needs the extra places")
    rng = random.Random(1)
    with open("pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(("".join(rng.choices(label, k=8)), label) for label in ("ef", "gh", "ef") * 5)
    done = call("prefer --run my-run --pairs pairs.csv -o preference.json")
    assert (done.code, done.exception) == (0, None), done.stderr
    assert "labels alone" in done.stdout
    assert "held-out samples" in done.stdout
    following = done.stdout.splitlines()[-2].removeprefix("Next: prefmerge ")
    assert following.startswith("merge --run my-run -o merged/ --prefer @preference.json")
    about = json.loads(Path("preference.json").read_text())["about"]
    assert f"--scale {about['settings']['scale']}" in following
    assert call(following.replace("merged/", "by-pairs")).code == 0
    again = call("prefer --run my-run --pairs pairs.csv -o preference.json --json")
    assert again.code == 0
    assert json.loads(again.stdout)["about"]["search"]["best"] == about["search"]["best"]
