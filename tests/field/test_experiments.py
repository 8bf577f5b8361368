"""Journeys 13 to 17: experiments that end at once, write only what was asked for, and do no work twice."""

from __future__ import annotations

import signal
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import ConfigError, DataError, RunError
from prefmerge.lab.environments import PAPERS, Environment, environments
from prefmerge.lab.jobs import gpu_of
from prefmerge.lab.manifest import MANIFEST, save
from prefmerge.lab.prepare import freeze, require_possible
from prefmerge.lab.recipe import read_experiment
from prefmerge.runs import Run, RunTask
from tests.field.trainings import scripted
from tests.lab.made import pools

pytest.importorskip("torch", reason="experiments need the extra train")


def recipe(folder: Path, text: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.yaml").write_text(text)
    return read_experiment(folder / "words.yaml")


# 13 and 17: trainings


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train runs that do as they are asked to: their seeds and what each does."""
    from prefmerge.lab import trainings

    monkeypatch.setattr(trainings, "_train", scripted)
    heard: list[tuple[str, Any]] = []

    def train(*does: str, jobs: int) -> list[tuple[str, Any]]:
        seeds = list(range(len(does)))
        asked = recipe(tmp_path, f"finetune: {{model: tiny, data: {{name: train.csv}}}}\nseeds: {seeds}\n")
        for seed, what in enumerate(does):
            (tmp_path / f"sequential-seed-{seed}.{what}").touch()
        trainings.train(asked, tmp_path, jobs, lambda text: heard.append(("", text)), lambda *now: heard.append(now))
        return heard

    yield train
    assert not active_children()


def began(folder: Path) -> list[str]:
    return sorted(file.stem for file in (folder / "runs").glob("*.began"))


@pytest.mark.parametrize(
    ("does", "said"), [("fails", "failed: photos/cup.jpg: is no picture."), ("dies", "was killed, perhaps for")]
)
def test_journey_13_a_training_that_fails_ends_the_others_and_starts_no_more(
    trained: Any, tmp_path: Path, does: str, said: str
):
    start = time.monotonic()
    with pytest.raises(RunError, match=f"training sequential-seed-1 {said}") as raised:
        trained("sleeps", does, "sleeps", "sleeps", jobs=2)
    assert "ended: sequential-seed-0. Run the same command again: it resumes" in str(raised.value)
    assert "sequential-seed-2" not in began(tmp_path)
    assert time.monotonic() - start < 60  # the others sleep longer


def test_journey_13_ctrl_c_ends_the_trainings(trained: Any, tmp_path: Path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may be started with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            trained("interrupts", "sleeps", "sleeps", jobs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "sequential-seed-2" not in began(tmp_path)


def test_journey_17_trainings_at_once_share_the_cores_and_all_are_heard(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from prefmerge.merging import limits

    monkeypatch.setattr(limits, "available_cores", lambda: 6)
    heard = trained("ends", "ends", jobs=2)
    assert heard[0] == ("", "Training sequential-seed-0, sequential-seed-1, 2 at a time.")
    assert sorted(heard[1:]) == [(f"sequential-seed-{seed}", "loading the model") for seed in (0, 1)]
    assert [file.read_text() for file in sorted((tmp_path / "runs").glob("*.began"))] == ["3 None", "3 None"]


def test_journey_17_one_training_has_all_cores(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trained("ends", jobs=4)
    assert (tmp_path / "runs" / "sequential-seed-0.began").read_text() == "None None"


@pytest.mark.parametrize(
    ("asked", "count", "given"),
    [(None, 2, ["0", "1", "0"]), ("3,5", 2, ["3", "5", "3"]), ("3,5", 1, [None] * 3), (None, 0, [None] * 3)],
)
def test_journey_15_processes_take_the_accelerators_in_turns(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, count: int, given: list[str | None]
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert [gpu_of(number) for number in range(3)] == given


# 14: what is frozen stays


def asked(folder: Path, text: str) -> Any:
    return recipe(folder, f"runs: [a]\n{text}\n")


FIRST = "studies: [places]\nenvironments: {size: 20, variants: [42]}"


def frozen(tmp_path: Path, text: str = FIRST) -> tuple[Path, bytes]:
    """A manifest with the environments of a recipe, and its bytes."""
    file = tmp_path / MANIFEST
    made = freeze(asked(tmp_path, text), pools(5), file, lambda text: None)
    save(file, [one for several in made.values() for one in several], pools(5))
    return file, file.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("environments: {size: 30, variants: [42]}", "e1 variant 0 has 20 samples there, 30 in the recipe"),
        ("environments: {size: 20, variants: [42], meta: 0.5}", "has 2 shown samples there, 10 in the recipe"),
        ("environments: {size: 20, variants: [43]}", "has 42 as its seed there, 43 in the recipe"),
        (
            "environments: {size: 20, variants: [42], mixes: [{name: e1, ratios: [3, 1]}]}",
            "as its ratios there, 3/4:1/4 in the recipe",
        ),
    ],
)
def test_journey_14_other_environments_replace_no_frozen_ones(tmp_path: Path, text: str, said: str):
    file, before = frozen(tmp_path)
    changed = asked(tmp_path, f"studies: [places]\n{text}")
    with pytest.raises(DataError, match=r"environments\.json: was frozen with other environments") as raised:
        freeze(changed, pools(5), file, lambda text: None)
    assert said in str(raised.value)
    assert "another output (-o), or --force" in str(raised.value)
    forced = freeze(changed, pools(5), file, lambda text: None, force=True)
    assert forced["places"][0].size in (20, 30)
    assert file.read_bytes() == before  # whoever only looks writes nothing


@pytest.mark.parametrize(
    "text",
    [
        "studies: [places, diversity]\nenvironments: {size: 20, variants: [42]}",
        "studies: [places]\nenvironments: {size: 20, variants: [42, 43]}",
        "studies: [places]\nenvironments: {size: 20, variants: [42], mixes: [{name: clinic, ratios: [1, 1]}]}",
    ],
)
def test_journey_14_more_environments_stand_beside_the_frozen_ones(tmp_path: Path, text: str):
    file, _ = frozen(tmp_path)
    kept = {one.key: one for one in freeze(asked(tmp_path, FIRST), pools(5), file, print)["places"]}
    more = freeze(asked(tmp_path, text), pools(5), file, print)
    every = {one.key: one for several in more.values() for one in several}
    assert set(every) - set(kept)
    assert all(every[key].digest == one.digest for key, one in kept.items() if key in every)


# 17: what cannot work is refused at the start


def run_of(tmp_path: Path, classes: list[list[str]]) -> Run:
    tasks = tuple(RunTask(f"task-{t + 1:02d}", "x", tuple(own)) for t, own in enumerate(classes))
    return Run(tmp_path, "sequential", "base", tasks)


def shown(mixes: Any = PAPERS[:1], size: int = 40) -> tuple[Environment, ...]:
    return environments(pools(5), mixes, size=size, seeds=(42,))


APART, ALIKE = [["cat"], ["dog"]], [["cat", "dog"], ["cat", "dog"]]


@pytest.mark.parametrize(
    ("text", "classes", "size", "said"),
    [
        ("methods: [Search]", APART, 40, r"places: Search needs at least 10 shown samples .* e1 variant 0 \(4\)"),
        (
            "methods: [MAGMAX]\ndiversity: {methods: [Search]}",
            APART,
            40,
            r"diversity: Search needs at least 10 .* e1 variant 0 \(4\)",
        ),
        ("methods: [Adapt (labels)]", ALIKE, 100, r"places: Adapt \(labels\) needs labels that tell the tasks apart"),
    ],
)
def test_journey_17_what_cannot_work_is_refused_at_the_start(
    tmp_path: Path, text: str, classes: list[list[str]], size: int, said: str
):
    several = {"places": shown(size=size), "diversity": shown(size=size)}
    with pytest.raises(ConfigError, match=said):
        require_possible(asked(tmp_path, text), several, run_of(tmp_path, classes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "classes", "size"),
    [
        ("methods: [Search]", APART, 100),
        ("methods: [Adapt (labels)]", APART, 40),
        ("methods: [Adapt (inputs), Adapt (pairs)]", ALIKE, 100),
    ],
)
def test_journey_17_what_can_work_is_not(tmp_path: Path, text: str, classes: list[list[str]], size: int):
    several = {"places": shown(size=size), "diversity": shown(size=size)}
    require_possible(asked(tmp_path, text), several, run_of(tmp_path, classes))  # pyright: ignore[reportArgumentType]
