"""The measuring against slow loops (`tests/oracles/analysis.py`), its laws, and what it takes as input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import prefmerge
from prefmerge import analysis
from prefmerge.analysis import Measured, kernels, measured
from prefmerge.analysis.measured import DENSITIES, require_one_base
from prefmerge.analysis.task_vectors import BLOCK, JOB, measure_over
from prefmerge.checkpoints import from_state_dict
from prefmerge.errors import CheckpointMismatch, NonFiniteValue, RecipeError, UsageError
from prefmerge.merging.api import recipe_of
from prefmerge.merging.plan import plan_over
from prefmerge.vectors.workspace import Workspace
from tests.oracles import analysis as oracle
from tests.oracles.problems import Problem, problems

State = Mapping[str, np.ndarray]


def measure(base: State, tasks: Sequence[State], **how: Any) -> Measured:
    """Measure state dicts in memory."""
    names = [f"task{t}" for t in range(len(tasks))]
    exclude = how.pop("exclude", None)
    recipe = recipe_of("base", names, names=names, method="magmax", exclude=exclude)
    opened = [from_state_dict(task, name=name) for task, name in zip(tasks, names, strict=True)]
    with plan_over(recipe, from_state_dict(base, name="base"), opened) as planned:
        return measure_over(planned, **{"threads": 1, **how})


def walk(tasks: int, sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> tuple[State, list[State]]:
    """A base and tasks trained one after another: no equal values."""
    rng = np.random.default_rng(seed)
    models: list[State] = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}]
    for _ in range(tasks):
        step = {name: np.float32(0.01) * rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
        models.append({name: models[-1][name] + step[name] for name in sizes})
    return models[0], models[1:]


@given(problems(most_tasks=6), st.sampled_from([1, 7, 64, BLOCK]), st.sampled_from([5, 40, JOB]))
@settings(deadline=None, max_examples=60)  # the first example compiles the kernels
def test_against_the_oracle(problem: Problem, block: int, job: int) -> None:
    found = measure(problem.base, problem.tasks, block=block, job=job)
    tensors = [name for name, array in problem.base.items() if array.dtype == np.float32]
    deltas = {name: problem.deltas(name) for name in tensors}
    assert sorted(part.name for part in found.parts) == sorted(tensors)
    assert found.elements == sum(problem.base[name].size for name in tensors)
    for d, (density, signs) in enumerate(zip(DENSITIES, found.signs, strict=True)):
        expected = [oracle.signs(deltas[name], density) for name in tensors]
        assert signs.density == density
        for key in ("kept", "reached", "several", "conflicts", "pair_kept", "pair_differ"):
            total = np.sum([getattr(counts, key) for counts in expected], axis=0)
            assert np.array_equal(getattr(signs, key), total), key
        by_name = dict(zip(tensors, expected, strict=True))
        for part in found.parts:
            assert part.several[d] == by_name[part.name].several[-1]
            assert part.conflicts[d] == by_name[part.name].conflicts[-1]
    for part in found.parts:
        alone, merged = oracle.magnitude_sums(deltas[part.name])
        assert part.magnitudes == pytest.approx(alone, rel=1e-12)  # float64 in another order
        assert part.merged == pytest.approx(merged, rel=1e-12)
        owned, contributed, _ = oracle.owners(deltas[part.name])
        assert (list(part.owned), list(part.contributed)) == (owned, contributed)
    joined = np.concatenate([deltas[name] for name in tensors], axis=1).astype(np.float64)
    products = oracle.products(list(joined))
    scale = max(np.diagonal(products), default=0)
    assert np.allclose(found.products, products, rtol=1e-12, atol=1e-13 * scale)
    assert found.zeros() == tuple((joined == 0).sum(axis=1))
    if found.elements:
        assert found.mean_magnitudes() == pytest.approx(np.abs(joined).mean(axis=1), rel=1e-12)
        assert found.deviations() == pytest.approx(joined.std(axis=1), rel=1e-9, abs=1e-12)
    owners = [oracle.owners(deltas[name])[2] for name in tensors]
    taken = [[value for values in owners for value in values[t]] for t in range(len(problem.tasks))]
    for t, row in enumerate(joined):
        for spread, values in ((found.values[t], row[row != 0]), (found.contributed[t], np.array(taken[t]))):
            edges = spread.edges()
            assert np.array_equal(spread.positive, np.histogram(values[values > 0], edges)[0])
            assert np.array_equal(spread.negative, np.histogram(-values[values < 0], edges)[0])
            assert spread.total == values.size


def test_the_bins_of_kernels_and_numbers_are_the_same() -> None:
    assert (kernels.OCTAVES, kernels.PER_OCTAVE) == (measured.OCTAVES, measured.PER_OCTAVE)


def test_values_beyond_the_bins_count_as_the_nearest() -> None:
    base = {"w": np.zeros(4, np.float32)}
    [spread] = measure(base, [{"w": np.array([1e-30, -1e30, 0, 1.0], np.float32)}]).values
    assert (spread.first, spread.total, len(spread.positive)) == (0, 3, kernels.BINS)
    assert (spread.positive[0], spread.negative[-1], spread.positive[64 * 16]) == (1, 1, 1)


def test_quantiles_are_as_near_as_the_bins() -> None:
    base, tasks = walk(3, {"w": (40_000,)})
    found = measure(base, tasks)
    for share in (0.1, 0.5, 0.9, 0.99, 0.999):
        exact = [float(np.quantile(np.abs(task["w"] - base["w"]), share)) for task in tasks]
        assert found.quantiles(share) == pytest.approx(exact, rel=1 / 16)
    half = {"w": np.where(np.arange(40_000) % 2, tasks[0]["w"], base["w"])}
    assert measure(base, [half]).quantiles(0.4)[0] == 0
    assert measure(base, [half]).quantiles(0.75)[0] == pytest.approx(found.quantiles(0.5)[0], rel=1 / 16)


# Laws


def test_equal_tasks_have_no_conflicts_and_share_everything() -> None:
    base, tasks = walk(1, {"w": (500,), "v": (7, 9)})
    found = measure(base, [tasks[0], dict(tasks[0])])
    for signs in found.signs:
        assert signs.conflicts == (0, 0)
        assert signs.several == (0, signs.kept[0])
    assert found.contributions().tolist() == [0, 0]
    assert found.tied() == 1
    assert found.owned() == (0, 563)
    assert found.cosines() == pytest.approx(np.ones((2, 2)))
    assert found.step_norms()[1] == 0
    assert math.isnan(found.step_cosines()[1, 0])
    assert found.step_cosines()[0, 0] == pytest.approx(1)


def test_opposite_tasks_conflict_everywhere() -> None:
    base = {"w": np.zeros(300, np.float32)}
    tau = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    found = measure(base, [{"w": tau}, {"w": -tau}])
    for signs, kept in zip(found.signs, (300, 60), strict=True):
        assert signs.kept == (kept, kept)
        assert signs.share().tolist()[1:] == [1]
        assert signs.pairs().tolist() == [[0, 1], [1, 0]]
    assert math.isnan(found.signs[0].share()[0])  # one task has nothing to conflict with
    assert found.cosines()[0, 1] == pytest.approx(-1)


def test_steps_are_measured_from_the_task_before() -> None:
    base, tasks = walk(4, {"w": (3000,)})
    found = measure(base, tasks)
    taus = [np.zeros(3000), *(np.float64(task["w"] - base["w"]) for task in tasks)]
    steps = [b - a for a, b in pairwise(taus)]
    assert found.step_norms() == pytest.approx([float(np.linalg.norm(step)) for step in steps], rel=1e-9)
    expected = [[oracle.cosine(a, b) for b in steps] for a in steps]
    assert found.step_cosines() == pytest.approx(np.array(expected), abs=1e-9)


def test_a_step_that_products_cannot_tell_from_nothing_is_none() -> None:
    tau = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    for place in range(20):
        after = tau.copy()
        after[place] = np.nextafter(after[place], np.float32(9))
        found = measure({"w": np.zeros(5000, np.float32)}, [{"w": tau}, {"w": after}])
        assert found.step_norms()[1] == 0
        assert np.isnan(found.step_cosines()[1]).all()


@pytest.mark.parametrize("kind", ["real", "grid"])
def test_what_a_task_owns_is_what_the_receipt_of_a_merge_says(tmp_path: Path, kind: str) -> None:
    sizes = {"layers.0.w": (30, 11), "layers.1.w": (30, 11), "head.bias": (5,), "still": (6,)}
    base, tasks = walk(4, sizes)
    if kind == "grid":
        tasks = [{n: base[n] + np.round((task[n] - base[n]) * 64) / 64 for n in sizes} for task in tasks]
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "a", "b", "c", "d")]
    for path, state in zip(paths, (base, *tasks), strict=True):
        save_file({**state, "still": base["still"], "ids": np.arange(3)}, path)
    receipt = prefmerge.merge(paths[0], paths[1:], tmp_path / "out.safetensors", method="magmax").data
    found = analysis.measure(paths[0], paths[1:])
    assert found.tasks == ("a", "b", "c", "d")
    assert list(found.owned()) == receipt["totals"]["owned"]
    for part in found.parts:
        assert list(part.owned) == receipt["tensors"][part.name].get("owned", [0, 0, 0, 0])
    if kind == "real":
        assert found.tied() == pytest.approx(0, abs=1e-12)
        assert sum(found.owned()) == sum(sum(part.contributed) for part in found.parts)
    else:
        assert found.tied() > 0.02
    layer = {part.name: part for part in found.by("layer")}
    assert layer["block 1"].owned == found.parts[[p.name for p in found.parts].index("layers.1.w")].owned


def test_one_task() -> None:
    base, tasks = walk(1, {"w": (50,)})
    found = measure(base, tasks)
    assert found.contributions().tolist() == [1]
    assert [signs.several for signs in found.signs] == [(0,), (0,)]
    assert found.mean_merged().tolist() == found.mean_magnitudes().tolist()


def test_nothing_to_measure() -> None:
    state = {"w": np.ones(3, np.float32), "ids": np.arange(2)}
    found = measure(state, [dict(state), dict(state)])
    assert found.zeros() == (3, 3)
    assert found.owned() == (0, 0)
    assert np.isnan(found.contributions()).all()
    assert np.isnan(found.cosines()).all()
    empty = measure({"ids": np.arange(2)}, [{"ids": np.arange(2)}])
    assert (empty.elements, empty.parts) == (0, ())
    for one in (found, empty):
        text = json.dumps(one.to_json(), allow_nan=False)
        assert Measured.from_json(json.loads(text)) == one


def test_types_and_blocks_leave_biases_out() -> None:
    sizes = {"b.0.attn.weight": (4, 4), "b.0.attn.bias": (4,), "b.1.ln_1.weight": (4,), "head.weight": (4, 2)}
    base, tasks = walk(2, sizes)
    found = measure(base, tasks)
    assert [(part.name, part.elements) for part in found.by("type")] == [
        ("layer norm", 4),
        ("attention", 16),
        ("projection", 8),
    ]
    assert [(part.name, part.elements) for part in found.by("block")] == [("block 0", 16), ("block 1", 4)]
    assert [(part.name, part.elements) for part in found.by("layer")] == [("block 0", 20), ("block 1", 4), ("head", 8)]
    assert found.by("tensor") == found.parts
    tau = [np.abs(np.float64(task["b.0.attn.weight"] - base["b.0.attn.weight"])) for task in tasks]
    assert found.by("type")[1].mean_magnitudes() == pytest.approx([t.mean() for t in tau])
    assert found.by("type")[1].mean_merged() == pytest.approx([tau[0].mean(), np.maximum(*tau).mean()])


# How it is read


SPANNING = {"a.weight": (300, 70), "b.weight": (900,), "c.bias": (3,), "d.weight": (40, 40)}


def test_threads_and_the_order_of_reading_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tasks = walk(5, SPANNING)
    how = {"block": 128, "job": 1000}
    once = measure(base, tasks, **how)
    for threads in (2, 5):
        assert measure(base, tasks, threads=threads, **how) == once
    plain = Workspace.map

    def backwards(self: Workspace, function: Callable[[Any], Any], items: Any) -> list[Any]:
        return plain(self, function, list(items)[::-1])[::-1]

    monkeypatch.setattr(Workspace, "map", backwards)
    assert measure(base, tasks, **how) == once


def test_blocks_change_no_count_and_sums_by_a_rounding() -> None:
    base, tasks = walk(3, SPANNING)
    once = measure(base, tasks)
    for block, job in ((64, 64), (100, 700), (BLOCK, 500)):
        other = measure(base, tasks, block=block, job=job)
        assert (other.signs, other.values, other.contributed) == (once.signs, once.values, once.contributed)
        for a, b in zip(other.parts, once.parts, strict=True):
            assert replace(a, magnitudes=(), merged=()) == replace(b, magnitudes=(), merged=())
            assert a.merged == pytest.approx(b.merged, rel=1e-12)
        assert np.allclose(other.products, once.products, rtol=1e-12)


def test_progress_ends_with_everything() -> None:
    base, tasks = walk(2, SPANNING)
    told: list[tuple[int, int, str]] = []
    measure(base, tasks, job=700, progress=lambda *now: told.append(now))
    elements = sum(math.prod(shape) for shape in SPANNING.values())
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert told[-1] == (elements * 4 * 3, elements * 4 * 3, "measuring d.weight")


# What it takes


def test_bfloat16_is_measured_as_its_values() -> None:
    base, tasks = walk(2, {"w": (400,)})
    narrow = [{"w": state["w"].astype(ml_dtypes.bfloat16)} for state in (base, *tasks)]
    wide = [{"w": state["w"].astype(np.float32)} for state in narrow]
    found = measure(narrow[0], narrow[1:])
    assert replace(found, base="") == replace(measure(wide[0], wide[1:]), base="")
    assert found.signs[0].kept[0] < 400  # some values are too close to the base's for bfloat16


def test_a_task_vector_file_stands_for_its_task(tmp_path: Path) -> None:
    base, tasks = walk(2, {"w": (40,), "v": (3, 3)})
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "a", "b")]
    for path, state in zip(paths, (base, *tasks), strict=True):
        save_file(dict(state), path)
    vector = tmp_path / "vector.safetensors"
    prefmerge.merge(paths[0], [paths[1]], vector, method="magmax", as_task_vector=True)
    names = ["first", "second"]
    assert analysis.measure(paths[0], [vector, paths[2]], names) == analysis.measure(paths[0], paths[1:], names)


def test_tied_tensors_count_once_and_integers_and_the_excluded_not_at_all() -> None:
    rng = np.random.default_rng(0)
    states = []
    for _ in range(3):
        shared = rng.standard_normal((6, 2)).astype(np.float32)
        head = rng.standard_normal(5).astype(np.float32)
        states.append({"embed": shared, "out": shared, "head.w": head, "ids": rng.integers(0, 9, 4)})
    found = measure(states[0], states[1:])
    assert [(part.name, part.elements) for part in found.parts] == [("embed", 12), ("head.w", 5)]
    less = measure(states[0], states[1:], exclude=("head.*",))
    assert [part.name for part in less.parts] == ["embed"]
    assert less.base == found.base


def test_what_cannot_be_merged_cannot_be_measured(tmp_path: Path) -> None:
    def saved(name: str, **tensors: Any) -> Path:
        save_file(
            {key: np.asarray(value, np.float32) for key, value in tensors.items()}, tmp_path / f"{name}.safetensors"
        )
        return tmp_path / f"{name}.safetensors"

    base, good = saved("base", w=[1, 2]), saved("good", w=[1, 3])
    with pytest.raises(NonFiniteValue, match=r"^task 'bad' \(bad\.safetensors\): tensor 'w' holds nan at element 1; "):
        analysis.measure(base, [good, saved("bad", w=[1, math.nan])])
    with pytest.raises(CheckpointMismatch, match=r"tensor 'w' has shape \(3,\), the base has \(2,\)\. "):
        analysis.measure(base, [good, saved("long", w=[1, 2, 3])])
    with pytest.raises(CheckpointMismatch, match=r"^task 'other' \(other\.safetensors\) lacks 1 of the base's tensors"):
        analysis.measure(base, [good, saved("other", v=[1, 2])])
    with pytest.raises(RecipeError, match="no task given"):
        analysis.measure(base, [])
    with pytest.raises(UsageError, match="names has 1 entries for 2 tasks"):
        analysis.measure(base, [good, saved("fine", w=[0, 0])], ["one"])


def test_only_changes_of_one_base_are_compared() -> None:
    base, tasks = walk(1, {"w": (5,)})
    other, more = walk(1, {"w": (5,)}, seed=1)
    found = [measure(base, tasks, label="here"), measure(other, more, label="there")]
    with pytest.raises(
        CheckpointMismatch, match=r"^'here' and 'there' are task vectors over different bases \(xxh3-128:\w+ and xxh3"
    ):
        require_one_base(found)
    require_one_base([found[0], measure(base, more)])


def test_json_keeps_everything() -> None:
    base, tasks = walk(3, SPANNING)
    found = measure(base, tasks, label="walk")
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Measured.from_json(data) == found
    assert data["summary"]["sign_conflicts"]["density 0.2"] == [
        None,
        *(pytest.approx(x) for x in found.signs[1].share()[1:]),
    ]
    assert data["summary"]["sign_conflicts_of_all"]["density 1"][2] == found.signs[0].conflicts[2] / found.elements
    with pytest.raises(
        UsageError, match=r"^an analysis has format 'prefmerge-analysis/1', found 'x'\. Measure again\."
    ):
        Measured.from_json({"format": "x"})


def test_a_run_says_how_it_was_trained(tmp_path: Path) -> None:
    base, tasks = walk(2, {"w": (9,)})
    for name, state in zip(("base", "one", "two"), (base, *tasks), strict=True):
        save_file(dict(state), tmp_path / f"{name}.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in ("one", "two")]
    assert analysis.measure(tmp_path / "base.safetensors", paths).label == "tasks"
    (tmp_path / "run.json").write_text(
        json.dumps(
            {
                "format": "prefmerge-run/1",
                "training": "independent",
                "base": "base.safetensors",
                "tasks": [{"name": name, "file": f"{name}.safetensors"} for name in ("one", "two")],
            }
        )
    )
    found = analysis.measure(tmp_path / "base.safetensors", paths)
    assert (found.label, found.training) == ("independent", "independent")
    assert analysis.measure(tmp_path / "base.safetensors", paths, label="mine").label == "mine"
