"""Experiments on a cluster of two workers: the results of one machine, also where workers are lost.

The cluster is started here, on this machine, and ends with the tests. Not here: clusters of several machines, and
accelerators, of which `Crew` alone is tried.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import DataError, RunError, UsageError
from prefmerge.lab import on_ray
from prefmerge.lab.bench import run
from prefmerge.lab.on_ray import Crew, OnRay
from prefmerge.lab.trainings import RunToTrain
from tests.field.attacked import call
from tests.lab.killed_on_ray import CELL, FLAGS, TRAINING, die
from tests.lab.test_bench import recipe
from tests.lab.test_jobs import Writer, cell, did, lines

pytest.importorskip("transformers", reason="experiments need the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
ROOT = Path(__file__).parents[2]
TWO = Crew(2, 1, 0, 1)

ONE_RUN = """\
studies: [places]
methods: [MAGMAX, Best checkpoint]
environments: {size: 40, variants: [42], mixes: [{name: even, ratios: [1, 1]}]}
scales: [1.0]
batch: 16
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a file makes a worker kill itself."""
    ray: Any = pytest.importorskip("ray", reason="needs the extra ray")
    flags = tmp_path_factory.mktemp("flags")
    variables = {
        FLAGS: str(flags),
        "PREFMERGE_CACHE": str(flags / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": variables, "worker_process_setup_hook": "tests.lab.killed_on_ray.setup"},
            )
            yield flags
        finally:
            ray.shutdown()


class Mortal(Writer):
    """Dies once where it is asked to, before it says that it did a cell."""

    def do(self, one: Any) -> None:
        if one.title == "mortal":
            die(CELL)
        super().do(one)


def test_cells_are_done_in_order_and_a_lost_one_is_given_out_again(cluster: Path, tmp_path: Path) -> None:
    first = cell("mortal")
    cells = [first, cell("refused", "b"), cell("after", after=first), *(cell(f"threads {i}", "b") for i in range(4))]
    (cluster / CELL).touch()
    told = did(OnRay(partial(Mortal, tmp_path / "log"), TWO), *cells)
    assert not (cluster / CELL).exists()
    assert told.pop("refused") == "the disk caught fire."
    assert told == dict.fromkeys(["mortal", "after", *(f"threads {i}" for i in range(4))])
    titles = [title for _, _, title in lines(tmp_path)]
    assert titles.index("mortal") < titles.index("after")
    assert sorted(titles) == sorted([*told, "refused"])  # each once


def test_a_cell_whose_workers_are_lost_again_and_again_ends_it(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "TRIES", 2)
    with pytest.raises(RunError, match=r"the workers that did dies were lost, 2 times .* it keeps what is finished"):
        did(OnRay(partial(Writer, tmp_path / "log"), Crew(1, 1, 0, 1)), cell("dies"))
    assert [title for _, _, title in lines(tmp_path)] == ["dies"] * 2


def test_a_fault_of_the_program_is_raised(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a fault of the program's"):
        did(OnRay(partial(Writer, tmp_path / "log"), Crew(1, 1, 0, 1)), cell("broken"))


def test_trainings_and_cells_give_the_results_of_one_machine(cluster: Path, runs: Path, tmp_path: Path) -> None:
    text = f"finetune: {runs}/sequential-1.yaml\nseeds: [1]\n{ONE_RUN}"
    told: list[str] = []
    watched: list[Any] = []
    (cluster / TRAINING).touch()
    out = tmp_path / "out"
    asked = recipe(runs, tmp_path, text)
    found = run(asked, out, ray="local", jobs=1, say=told.append, watch=lambda *now: watched.append(now))
    assert not (cluster / TRAINING).exists()
    assert told[0] == "On Ray: one after another, with 2 processors, on 1 machine."
    assert {name for name, _ in watched} == {"sequential-seed-1"}
    for one in ("base", "tasks/task-01", "tasks/task-02", "tasks/task-03"):
        file = f"{one}/model.safetensors"
        trained = out / "runs" / "sequential-seed-1"
        assert (trained / file).read_bytes() == (runs / "sequential-1" / file).read_bytes()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("cells/*.json")}
    assert run(asked, out, jobs=1) == found  # taken as it is
    assert {file: file.stat().st_mtime_ns for file in out.glob("cells/*.json")} == kept
    alone = run(recipe(runs, tmp_path / "alone", f"runs: [RUNS/sequential-1]\n{ONE_RUN}"), tmp_path / "alone", jobs=1)
    assert found.missing == alone.missing == ()
    assert found.scores == alone.scores
    assert found.task_scores == alone.task_scores


def test_a_dry_run_says_how_it_would_be_spread(cluster: Path, runs: Path, tmp_path: Path) -> None:
    recipe(runs, tmp_path, f"runs: [RUNS/sequential-1]\n{ONE_RUN}")
    done = call("bench", tmp_path / "words.yaml", "-o", tmp_path / "out", "--dry-run", "--ray", "local", "--jobs", "1")
    assert done.code == 0, done.stderr
    assert "work on Ray: one after another, with 2 processors, on 1 machine." in done.stdout
    assert not (tmp_path / "out").exists()


# Without a cluster


def test_a_training_that_fails_is_named_with_those_that_it_ends(tmp_path: Path) -> None:
    one, other = (RunToTrain("sequential", seed, tmp_path / f"seed-{seed}") for seed in (1, 2))
    said = r"training seed-1 failed: it is no model\. The trainings beside it were ended: seed-2\. Run the same command"
    with pytest.raises(RunError, match=said):
        on_ray._failed(one, DataError("it is no model."), [other])
    with pytest.raises(ZeroDivisionError):  # a fault of the program
        on_ray._failed(one, ZeroDivisionError(), [other])


@pytest.mark.parametrize(
    ("machines", "jobs", "accelerated", "crew"),
    [
        ([(8, 0)], None, True, Crew(8, 1, 0, 1)),
        ([(8, 0)], 3, True, Crew(3, 2, 0, 1)),
        ([(8, 0), (3, 0)], 2, False, Crew(2, 4, 0, 2)),  # both on the larger one
        ([(8, 2), (16, 0)], None, True, Crew(2, 4, 1, 2)),
        ([(8, 2), (16, 4)], 1, True, Crew(1, 16, 1, 2)),
        ([(8, 2), (0, 0)], None, False, Crew(8, 1, 0, 2)),
        ([(1, 4)], None, True, Crew(1, 1, 1, 1)),
        ([(2, 0)], 9, False, Crew(2, 1, 0, 1)),  # as many as there is room for
    ],
)
def test_how_an_experiment_lies_on_machines(
    machines: list[tuple[int, int]], jobs: int | None, accelerated: bool, crew: Crew
) -> None:
    assert Crew.over(machines, jobs, accelerated=accelerated) == crew
    assert crew.resources == {"num_cpus": crew.processors, "num_gpus": crew.accelerators}


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(UsageError, match="no machine of the cluster has a processor"):
        Crew.over([(0, 4)], None, accelerated=True)


def test_what_is_said_of_accelerators() -> None:
    assert str(Crew(3, 4, 1, 2)) == "3 at once, each with 4 processors and an accelerator, on 2 machines"
