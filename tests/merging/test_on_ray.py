"""Merges on a cluster of two workers: the bytes and the receipt of one machine, also where a worker is lost.

The cluster is started here, on this machine, and ends with the tests. Not here: clusters of several machines.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import Receipt, merge, merge_recipes
from prefmerge.errors import MissingExtra, NonFiniteValue, UsageError
from prefmerge.ground import atomic
from prefmerge.merging import in_sections, on_ray
from prefmerge.merging.api import recipe_of
from prefmerge.merging.plan import make_plan
from prefmerge.merging.sweep import sweep
from prefmerge.methods import METHODS, optimal
from tests.field.attacked import call
from tests.merging.killed_on_ray import COUNT, FLAG
from tests.merging.test_candidates import files

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a file makes the next worker kill itself."""
    ray: Any = pytest.importorskip("ray", reason="needs the extra ray")
    flag = tmp_path_factory.mktemp("flags") / "kill"
    variables = {FLAG: str(flag), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": variables, "worker_process_setup_hook": "tests.merging.killed_on_ray.setup"},
            )
            yield flag
        finally:
            ray.shutdown()


def of(receipt: Receipt) -> dict[str, Any]:
    return replace(receipt, run=None, output=replace(receipt.output, path=None)).to_json()  # pyright: ignore


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def with_nan(file: Path) -> str:
    """Put a NaN into the largest tensor. Returns its name."""
    state = load_file(file)
    name = max(state, key=lambda one: state[one].size)
    state[name].flat[0] = np.nan
    save_file(state, file)
    return name


def test_the_bytes_and_the_receipt_are_those_of_one_machine(
    cluster: Path, tmp_path: Path, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tasks = files(tmp_path, tasks=3)
    given: dict[str, Any] = {"preference": "0.5,0.2,0.3", "max_shard_size": 300}
    given["report"] = True
    whole = merge(base, tasks, tmp_path / "whole", **given)
    filled.clear()
    monkeypatch.chdir(tmp_path)
    local = [Path(path.name) for path in (base, *tasks)]  # relative paths begin where the caller is
    receipt = merge(local[0], local[1:], Path("out"), ray="local", **given)
    assert filled == []
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert len(weights(tmp_path / "out")) > 1
    assert of(receipt) == of(whole)
    assert (tmp_path / "out" / "report.html").read_bytes() == (tmp_path / "whole" / "report.html").read_bytes()
    assert receipt.run.kept is None
    assert atomic.work_folders(tmp_path / "out") == []


def test_a_worker_that_is_killed_is_replaced(cluster: Path, tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, "bfloat16", 3)
    merge(base, tasks, tmp_path / "whole.safetensors", method="ties")
    filled.clear()
    cluster.touch()
    merge(base, tasks, tmp_path / "out.safetensors", method="ties", ray="local")
    assert not cluster.exists()
    assert filled == []
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_sweep(cluster: Path, tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, tasks=2)
    recipe, vary = recipe_of(base, tasks), {"scale": ["0.5", "1"]}
    whole = sweep(recipe, tmp_path / "whole", vary)
    filled.clear()
    made = sweep(recipe, tmp_path / "out", vary, ray="local")
    assert filled == []
    assert [one.out.read_bytes() for one in made] == [one.out.read_bytes() for one in whole]


def test_budgets_over_the_whole_model(
    cluster: Path, tmp_path: Path, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tasks = files(tmp_path, tasks=3)
    monkeypatch.setattr(optimal, "ROWS", 1 << 11)  # of 1105 elements, 3 importances each, so it is settled in parts
    monkeypatch.setattr(optimal, "SAMPLE", 1 << 10)
    given: dict[str, Any] = {"scope": "model", "importance": "step", "sequential": True, "preference": "0.5,0.2,0.3"}
    given |= {"report": True, "max_shard_size": 300, "strength": "0.5"}
    whole = merge(base, tasks, tmp_path / "whole", **given)
    filled.clear()
    receipt = merge(base, tasks, tmp_path / "out", ray="local", **given)
    assert filled == []
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert of(receipt) == of(whole)
    assert (tmp_path / "out" / "report.html").read_bytes() == (tmp_path / "whole" / "report.html").read_bytes()
    assert atomic.work_folders(tmp_path / "out") == []


def test_a_scale_over_the_whole_model(cluster: Path, tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, tasks=3)
    given: dict[str, Any] = {"method": "opcm", "alpha": "0.3"}
    whole = merge(base, tasks, tmp_path / "whole", **given)
    filled.clear()
    receipt = merge(base, tasks, tmp_path / "out", ray="local", **given)
    assert filled == []
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert of(receipt) == of(whole)


def test_a_file_of_several_recipes(cluster: Path, tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, tasks=2)
    first = f"name: half\nmerge_method: last\nbase_model: {base}\nmodels: [{{model: {tasks[0]}}}]\n"
    second = f"merge_method: ties\nbase_model: {base}\nmodels: [{{model: half}}, {{model: {tasks[1]}}}]\n"
    (tmp_path / "recipes.yaml").write_text(f"{first}---\n{second}")
    merge_recipes(tmp_path / "recipes.yaml", tmp_path / "whole")
    filled.clear()
    merge_recipes(tmp_path / "recipes.yaml", tmp_path / "out", ray="local")
    assert filled == []
    for name in ("{}", "{}-parts/half"):
        out, whole = (weights(tmp_path / name.format(one)) for one in ("out", "whole"))
        assert out
        assert out == whole


def test_a_sweep_over_methods_and_both_scopes(cluster: Path, tmp_path: Path, filled: list[str]) -> None:
    base, tasks = files(tmp_path, "bfloat16", 4)
    recipe = recipe_of(base, tasks, preference="0,0.3,0.6,0.1", selection="released")
    vary = {"method": ["tunable-magmax", "ties"], "scope": ["model", "tensor"], "scale": ["0.5", "1"]}
    whole = sweep(recipe, tmp_path / "whole", vary)
    filled.clear()
    made = sweep(recipe, tmp_path / "out", vary, ray="local")
    assert filled == []
    assert len(made) == 8
    assert [one.out.read_bytes() for one in made] == [one.out.read_bytes() for one in whole]
    assert [of(one.receipt) for one in made] == [of(one.receipt) for one in whole]


def test_a_worker_that_is_killed_while_it_counts_and_one_while_it_merges(
    cluster: Path, tmp_path: Path, filled: list[str]
) -> None:
    base, tasks = files(tmp_path, tasks=3)
    given: dict[str, Any] = {"scope": "model", "selection": "paper", "preference": "0.2,0.5,0.3"}
    whole = merge(base, tasks, tmp_path / "whole" / "out.safetensors", **given)
    filled.clear()
    cluster.touch()
    cluster.with_name(COUNT).touch()
    receipt = merge(base, tasks, tmp_path / "out.safetensors", ray="local", **given)
    assert not cluster.with_name(COUNT).exists()
    assert not cluster.exists()
    assert filled == []
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole" / "out.safetensors").read_bytes()
    assert of(receipt) == of(whole)


def test_a_value_that_is_not_finite_ends_a_choice_over_the_whole_model(cluster: Path, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    name = with_nan(tasks[0])
    with pytest.raises(NonFiniteValue, match=name):
        merge(base, tasks, tmp_path / "out.safetensors", scope="model", ray="local")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_a_task_raises_is_raised_here_and_nothing_is_left(cluster: Path, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    name = with_nan(tasks[0])
    with pytest.raises(NonFiniteValue, match=name):
        merge(base, tasks, tmp_path / "out.safetensors", ray="local")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


# Without a cluster


def test_groups_are_neighbours_of_about_one_size(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    with make_plan(recipe_of(base, tasks)) as plan:
        names = sorted(entry.name for entry in plan.of_role("merge"))
        for most in (1, 3, 1000):
            groups = on_ray.grouped([plan, plan], most)
            assert [name for group, _ in groups for name in group] == names
            assert sum(size for _, size in groups) == 2 * sum(4 * plan.base.checkpoint.tensors[n].size for n in names)
        assert len(on_ray.grouped([plan], 1)) == 1


def test_sections_are_neighbours_in_the_order_of_the_plan(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    with make_plan(recipe_of(base, tasks)) as plan:
        names = [entry.name for entry in plan.of_role("merge")]
        for most in (1, 2, 3, 1000):
            sections = in_sections.neighbours([plan, plan], most)
            assert [name for section, _ in sections for name in section] == names
            assert 1 <= len(sections) <= most
        assert len(in_sections.neighbours([plan], 2)) == 2


def test_a_choice_over_the_whole_model_that_cannot_be_shared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(METHODS["average"]), "by_tensor", lambda method, settings: False)
    base, tasks = files(tmp_path, tasks=2)
    with pytest.raises(UsageError, match="--ray and --scope model do not go together with average: its choice"):
        merge(base, tasks, tmp_path / "out.safetensors", method="average", ray="local")
    assert not (tmp_path / "out.safetensors").exists()


def test_without_ray_the_message_is_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    base, tasks = files(tmp_path, tasks=2)
    with pytest.raises(MissingExtra, match=r"--ray needs .* pip install 'prefmerge\[ray\]'"):
        merge(base, tasks, tmp_path / "out.safetensors", ray="local")
    line = ("merge", base, *tasks, "-o", tmp_path / "out.safetensors", "--ray", "local")
    assert call(*line).stderr.startswith("error: --ray needs an optional dependency.")
    assert [path for path in tmp_path.iterdir() if "out" in path.name] == []


def test_an_address_where_nobody_answers_is_told_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    base, tasks = files(tmp_path, tasks=2)
    with socket.socket() as taken:  # bound, so nobody else is there, and it listens to nobody
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"--ray {address}: nobody answers there \(.*\)\. Give the address"):
            merge(base, tasks, tmp_path / "out.safetensors", ray=address)
    assert not (tmp_path / "out.safetensors").exists()


def test_more_threads_than_a_machine_has_are_refused(cluster: Path, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    with pytest.raises(
        UsageError, match=r"--threads 999: the largest machine of the cluster has \d+ processors?\. Give"
    ):
        merge(base, tasks, tmp_path / "out.safetensors", ray="local", threads=999)
    assert not (tmp_path / "out.safetensors").exists()
