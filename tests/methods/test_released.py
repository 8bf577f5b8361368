"""`selection: released` against the authors' released code: how often each element fell to each task, over 1,000 of its
seeds, in eight cases (`released_law.json`; one tensor, five tasks).

Total variation between two frequencies is averaged over elements. `noise` is that between two halves of the authors'
own seeds, so two faithful samples of this size differ by about as much.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.errors import MethodError
from prefmerge.methods import METHODS
from prefmerge.methods.protocol import Settings
from prefmerge.preference import Preference
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays

_LAW = json.loads((Path(__file__).parent / "released_law.json").read_text())
CASES: list[dict[str, Any]] = _LAW["cases"]  # `frequency`: in thousandths
VECTORS = {name: np.array(tau_TP, np.float32) for name, tau_TP in _LAW["vectors"].items()}
SEEDS = 250  # sampled so, a faithful law differs by 1.1 times the noise


def frequencies(case: dict[str, Any], selection: str) -> np.ndarray:
    """How often each element falls to each task, (T, d)."""
    tau_TP = VECTORS[case["vectors"]]
    names = [str(task) for task in range(len(tau_TP))]
    shares = Preference.explicit(case["shares"]).shares(names)
    work = Workspace(threads=1)
    count = np.zeros(tau_TP.shape)
    for seed in range(SEEDS):
        settings = Settings(tasks=len(names), shares=shares, values={"seed": seed, "selection": selection})
        rule = METHODS["tunable_magmax"].prepare([Arrays(tau_TP)], settings, work)
        owners = rule.owners[0]  # type: ignore[attr-defined]  # only owner rules have them
        count[owners, np.arange(tau_TP.shape[1])] += 1
    return count / SEEDS


def variation(case: dict[str, Any], selection: str) -> float:
    return float(0.5 * np.abs(frequencies(case, selection) - np.array(case["frequency"]) / 1000).sum(axis=0).mean())


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['d']}-{case['counts']}" for case in CASES])
def test_the_owners_are_as_often_those_of_the_released_code(case: dict[str, Any]):
    assert variation(case, "released") <= case["noise"] + 0.01


def test_the_paper_s_law_is_another_one():
    """Where a budget has zeros and a remainder, and where the second pass differs: so the test above can fail."""
    worst = max(variation(case, "paper") - case["noise"] for case in CASES)
    assert worst > 0.05


def test_a_plan_says_the_most_that_a_task_may_get(tmp_path: Path):
    """The remainder depends on which tensors changed: of 9 elements task 1 gets one, of 10 it gets none."""
    base = {"changed": np.zeros(9, np.float32), "same": np.zeros(1, np.float32)}
    for name in ("base", "a", "b", "c"):
        moved = {"changed": base["changed"] + np.float32(ord(name[0])), "same": base["same"]}
        save_file(base if name == "base" else moved, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    asked = {"preference": "0,0.5,0.5", "selection": "released", "scope": "model"}
    with prefmerge.plan(tmp_path / "base.safetensors", paths, **asked) as plan:  # pyright: ignore[reportArgumentType]
        most = plan.most_budgets()
    receipt = prefmerge.merge(tmp_path / "base.safetensors", paths, tmp_path / "out.safetensors", **asked)  # pyright: ignore[reportArgumentType]
    assert receipt.owned is not None
    assert tuple(receipt.owned) == (1, 4, 4)
    assert most is not None
    assert all(own <= bound for own, bound in zip(receipt.owned, most, strict=True))


def test_of_many_tasks_only_those_count_that_may_compete():
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(501, np.float32)}
    tasks = [{"w": rng.standard_normal(501).astype(np.float32)} for _ in range(70)]
    shares = [0] * 68 + [1, 2]
    _, receipt = prefmerge.merge_state_dicts(base, tasks, preference=shares, selection="released")
    assert receipt.owned is not None
    assert sum(receipt.owned) == 501
    with pytest.raises(MethodError, match="tasks compete"):
        prefmerge.merge_state_dicts(base, tasks, preference="uniform", selection="released")
