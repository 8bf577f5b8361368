"""Shares at any distance and gamma; features that do not fit; and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from prefmerge.errors import PreferenceError
from prefmerge.preference import Preference
from prefmerge.target.similarity import KINDS, Similarity, cosine, optimal_transport
from prefmerge.target.similarity.similarity import from_distances
from tests.target.similarity.problems import NAMES, gaussians

FEATURES = ("ot", "cosine", "mmd")


@pytest.mark.parametrize("gamma", [1e-300, 1.0, 100.0, 1e300])
@pytest.mark.parametrize("distances", [[0, 0.1, 0.2], [1e3, 1e3, 1e3], [0, 1e3, 1e3], [1e3, 1e3 + 1e-9, 2e3]])
def test_no_distance_and_no_gamma_gives_nothing_divided_by_nothing(gamma: float, distances: list[float]):
    with np.errstate(all="raise"):
        found = from_distances("ot", NAMES, distances, gamma)
        shares = found.shares()
    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1, abs=1e-15)
    assert shares[0] == shares.max() > 0
    exact = found.preference().shares(NAMES)
    assert sum(exact) == 1
    np.testing.assert_allclose([float(share) for share in exact], shares, rtol=1e-12, atol=1e-300)


def test_shares_are_similarities_over_their_sum_where_those_do_not_underflow():
    found = from_distances("mmd", NAMES, [0.1, 0.2, 0.05], 10)
    np.testing.assert_allclose(found.shares(), found.similarities / found.similarities.sum(), rtol=1e-14)
    assert from_distances("mmd", NAMES, [9, 10, 9], 100).similarities.tolist() == [0, 0, 0]
    assert from_distances("mmd", NAMES, [9, 10, 9], 100).shares() == pytest.approx([0.5, 0, 0.5], abs=1e-40)


@pytest.mark.parametrize("kind", FEATURES)
def test_kinds_name_the_nearest_task_and_can_be_written_down(kind: str):
    tasks, target = gaussians(0)
    found: Similarity = KINDS[kind](tasks, target, NAMES)  # pyright: ignore[reportArgumentType]
    assert (found.kind, found.names) == (kind, NAMES)
    assert found.shares().argmax() == 0
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["distances"] == found.distances.tolist()
    assert written["shares"] == found.shares().tolist()
    again = Preference.from_json(json.loads(json.dumps(found.preference().to_json())))
    assert again.shares(NAMES) == found.preference().shares(NAMES)


@pytest.mark.parametrize("kind", FEATURES)
def test_number_formats_and_the_input_are_left_alone(kind: str):
    tasks, target = gaussians(1)
    tasks, target = [x.astype(np.float32) for x in tasks], [y.astype(np.float32) for y in target]
    before = [z.copy() for z in (*tasks, *target)]
    measure = KINDS[kind]  # pyright: ignore[reportArgumentType]
    wide = measure([x.astype(np.float64) for x in tasks], [y.astype(np.float64) for y in target], NAMES)
    assert measure(tasks, target, NAMES).distances.tolist() == wide.distances.tolist()
    assert all((a == b).all() for a, b in zip(before, (*tasks, *target), strict=True))


@pytest.mark.parametrize("kind", FEATURES)
def test_tasks_do_not_change_one_another(kind: str):
    tasks, target = gaussians(2)
    measure = KINDS[kind]  # pyright: ignore[reportArgumentType]
    every = measure(tasks, target, NAMES).distances
    assert [measure([x], [y], ["one"]).distances[0] for x, y in zip(tasks, target, strict=True)] == every.tolist()
    assert measure(tasks[:1], target[:1], ["one"]).shares().tolist() == [1]
    # Every task has an encoder of its own, and encoders may differ in width.
    narrow = measure([tasks[0], tasks[1][:, :2], tasks[2]], [target[0], target[1][:, :2], target[2]], NAMES)
    assert narrow.distances[[0, 2]].tolist() == every[[0, 2]].tolist()


def broken(**change: object) -> tuple[list[np.ndarray], list[np.ndarray], tuple[str, ...]]:
    tasks, target = gaussians(3)
    parts: dict[str, object] = {"task": tasks[1], "target": target[1], "names": NAMES} | change
    return [tasks[0], parts["task"], tasks[2]], [target[0], parts["target"], target[2]], parts["names"]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"task": np.ones((40, 5))},
            r"task 'birds': its own features are 5 wide, its features of the target 6\. Embed both",
        ),
        (
            {"target": np.ones((24, 6))},
            r"task 'birds': it has features of 24 samples of the target, task 'cars' of 25\. Embed",
        ),
        (
            {"task": np.ones((0, 6))},
            r"task 'birds': its own features: expected at least \d samples? of at least one feature",
        ),
        (
            {"target": np.ones((25, 0))},
            r"task 'birds': its features of the target: expected at least .* found shape \(25, 0\)",
        ),
        (
            {"target": np.ones(25)},
            r"task 'birds': its features of the target: expected a table of numbers, .* shape \(25,\)",
        ),
        ({"task": np.array([["a", "b"]])}, r"task 'birds': its own features: expected a table of numbers, .* of <U1"),
        (
            {"task": [[1.0, np.nan], [1.0, 2.0]]},
            r"its own features: 1 of 2 samples hold NaN or infinity, the first is sample 0",
        ),
        (
            {"target": [[1.0, 2.0], [np.inf, 2.0]]},
            r"its features of the target: 1 of 2 samples hold NaN .* sample 1\. Check",
        ),
        ({"names": NAMES[:2]}, r"3 tasks were given, but 2 names: cars, birds\. Name each task"),
        ({"names": ("a", "b", "a")}, r"two tasks are called 'a'\. Give each task its own name"),
    ],
)
def test_features_that_do_not_fit(kind: str, change: dict[str, object], message: str):
    with pytest.raises(PreferenceError, match=message):
        KINDS[kind](*broken(**change))  # pyright: ignore[reportArgumentType]


def test_a_place_that_was_embedded_too_seldom():
    tasks, target = gaussians(4)
    with pytest.raises(
        PreferenceError, match=r"^3 tasks were given, but the target's samples 2 times\. Give them once per"
    ):
        cosine(tasks, target[:2], NAMES)
    with pytest.raises(PreferenceError, match="needs at least one task"):
        optimal_transport([], [], [])


@pytest.mark.parametrize("gamma", [0, -1, np.nan, np.inf, "much", True])
def test_gammas_that_make_no_sense(gamma: object):
    for kind in FEATURES:
        with pytest.raises(PreferenceError, match=r"^gamma: expected a number above zero, at most 1e\+300, found "):
            KINDS[kind](*gaussians(5), NAMES, gamma=gamma)


def test_needs_no_torch_and_pot_only_for_transport():
    code = """
        import sys

        class Absent:  # sys.modules[name] = None would break scipy, which looks for torch there
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "transformers", "jax", "tensorflow", "matplotlib"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Absent())
        import numpy as np
        from prefmerge.target.similarity import KINDS, feature_interval, label_interval
        assert "ot" not in sys.modules and "scipy" not in sys.modules
        rng = np.random.default_rng(0)
        tasks, target, names = rng.standard_normal((2, 9, 3)), rng.standard_normal((2, 5, 3)), ["a", "b"]
        label_interval([{"a": 1}, {"b": 1}], {"a": 3}, names)
        for kind in ("cosine", "mmd", "ot"):
            assert "ot" not in sys.modules and "scipy" not in sys.modules
            KINDS[kind](tasks, target, names).preference()
            feature_interval(kind, tasks, target, names, draws=20)
        assert "ot" in sys.modules and "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
