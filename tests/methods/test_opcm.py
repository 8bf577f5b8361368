"""OPCM against the published steps (`tests/oracles/opcm.py`), its laws, and the same bytes however the work is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge import merge_state_dicts
from prefmerge.methods import METHODS, Settings, orthogonal
from prefmerge.methods.opcm import Opcm, is_matrix
from prefmerge.methods.protocol import Deltas
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays
from tests.methods.test_sections import in_one, of
from tests.oracles import opcm as oracle

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = {
    "tall.weight": (23, 11),
    "wide.weight": (7, 31),
    "square.weight": (16, 16),
    "row.weight": (1, 12),
    "column.weight": (9, 1),
    "wte.weight": (14, 6),
    "bias": (10,),
    "conv.weight": (3, 4, 2),
    "scalar": (),
    "empty": (0, 4),
}
MATRICES = ("tall.weight", "wide.weight", "square.weight", "row.weight", "column.weight")
State = dict[str, np.ndarray]


def drawn(count: int, seed: int = 0, shapes: dict[str, tuple[int, ...]] = SHAPES) -> tuple[State, list[State]]:
    """A base of zeros, so that a model is its task vector, and tasks that share something."""
    rng = np.random.default_rng(seed)
    base: State = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    common = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tasks: list[State] = [
        {name: np.asarray(common[name] + rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]
    return base, tasks


def merged(base: State, tasks: list[State], **settings: Any) -> State:
    return merge_state_dicts(base, tasks, method="opcm", **settings)[0]


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 0.99, 1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_is_what_is_published(alpha: float, count: int):
    base, tasks = drawn(count)
    wide = [{name: values.astype(np.float64) for name, values in task.items()} for task in tasks]
    expected = oracle.merge(wide, alpha, MATRICES)
    found = merged(base, tasks, alpha=alpha)
    for name, values in expected.items():
        # float32 after each task: a few roundings of numbers that are sums of five of about 1.
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("alpha", ["0.0", "0.3", "0.5"])
def test_is_what_the_authors_code_makes(alpha: str):
    base, *tasks = (load_file(GOLDEN / name / "model.safetensors") for name in ("base", "cars", "birds", "digits"))
    found = merged(base, tasks, alpha=alpha)
    for name, values in load_file(GOLDEN / "opcm" / f"{alpha}.safetensors").items():
        # Their singular vectors are float32, and each task's scale is taken back by the next; changes are 0.02 to 1.
        np.testing.assert_allclose(found[name], values, rtol=0, atol=5e-6, err_msg=name)


def test_one_task_is_itself_and_so_are_equal_ones():
    base, (task,) = drawn(1)
    assert all(merged(base, [task])[name].tobytes() == values.tobytes() for name, values in task.items())
    again = merged(base, [task, task, task])
    for name in MATRICES:  # of which nothing is new; what is no matrix is three times as long before it is scaled
        found, wanted = again[name].ravel(), task[name].ravel()
        assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) == pytest.approx(1, abs=1e-6)
    alone = {name: task[name] for name in MATRICES}
    zeros = {name: base[name] for name in MATRICES}
    for name, values in merged(zeros, [alone] * 3).items():
        np.testing.assert_allclose(values, alone[name], rtol=0, atol=2e-6)


def test_what_shares_no_row_and_no_column_is_added_whole():
    base = {"weight": np.zeros((8, 6), np.float32)}
    first, second = np.zeros((8, 6), np.float32), np.zeros((8, 6), np.float32)
    rng = np.random.default_rng(1)
    first[:4, :3], second[4:, 3:] = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    factor = np.mean(lengths) / np.hypot(*lengths)
    found = merged(base, [{"weight": first}, {"weight": second}])["weight"]
    np.testing.assert_allclose(found, factor * (first + second), rtol=0, atol=1e-6)


def test_what_is_added_to_a_matrix_has_nothing_of_its_directions():
    base, tasks = drawn(2, 3, {"weight": (20, 12)})
    first, second = (task["weight"].astype(np.float64) for task in tasks)
    found = merged(base, tasks)["weight"].astype(np.float64)
    found *= np.linalg.norm(first + oracle.cleaned(first, second, 0.5)) / np.mean(
        [np.linalg.norm(first), np.linalg.norm(second)]
    )
    u, s, vt = np.linalg.svd(first)
    inside = u.T @ (found - first) @ vt.T
    closed = int((np.cumsum(s) / s.sum() <= 0.5).sum())
    assert closed > 1
    np.testing.assert_allclose(np.diagonal(inside), 0, rtol=0, atol=1e-5)
    np.testing.assert_allclose(inside[:closed, :closed], 0, rtol=0, atol=1e-5)
    assert np.abs(inside).max() > 0.5


def test_the_length_is_the_mean_of_the_tasks():
    base, tasks = drawn(4)
    lengths = [np.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in task.values())) for task in tasks]
    found = merged(base, tasks)
    length = np.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in found.values()))
    assert length == pytest.approx(np.mean(lengths), rel=1e-6)


def test_updates_of_low_rank_take_nothing_away_where_they_are_nothing():
    """As of adapters: an SVD has any directions there."""
    rng = np.random.default_rng(2)
    base = {"weight": np.zeros((40, 30), np.float32)}
    tasks = [
        {"weight": (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 30))).astype(np.float32)} for _ in range(3)
    ]
    expected = oracle.merge([{"weight": task["weight"].astype(np.float64)} for task in tasks], 0.5, ["weight"])
    np.testing.assert_allclose(merged(base, tasks)["weight"], expected["weight"], rtol=0, atol=1e-5)


def test_a_task_that_does_not_change_a_tensor_adds_nothing_to_it():
    base, (first, second) = drawn(2)
    still = {**second, "square.weight": base["square.weight"]}
    late, early = merged(base, [first, still]), merged(base, [still, first])
    for found in (late["square.weight"], early["square.weight"]):
        ratio = found / first["square.weight"]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)
    opposite = {name: -values for name, values in first.items() if name not in MATRICES}
    rest = {name: values for name, values in first.items() if name not in MATRICES}
    zeros = {name: base[name] for name in rest}
    assert not any(values.any() for values in merged(zeros, [rest, opposite]).values())


def test_the_first_task_is_kept_and_order_matters():
    base, tasks = drawn(2, 0, {"weight": (20, 12)})
    forwards, backwards = merged(base, tasks)["weight"], merged(base, tasks[::-1])["weight"]
    assert np.abs(forwards - backwards).max() > 0.1


def test_a_matrix_and_its_transpose_are_merged_alike():
    base, tasks = drawn(3, 0, {"weight": (20, 12)})
    turned = merged({"weight": base["weight"].T.copy()}, [{"weight": task["weight"].T.copy()} for task in tasks])
    np.testing.assert_allclose(turned["weight"].T, merged(base, tasks)["weight"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "yes"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (4, 4), True),
        ("lm_head.weight", (9, 4), True),
        ("gpt_neox.embed_out.weight", (9, 4), True),
        ("h.0.attn.c_attn.weight", (4, 12), True),
        ("weight", (2, 3), True),
        ("model.embed_tokens.weight", (9, 4), False),
        ("transformer.wte.weight", (9, 4), False),
        ("wpe.weight", (9, 4), False),
        ("shared.weight", (9, 4), False),
        ("bert.embeddings.word_embeddings.weight", (9, 4), False),
        ("positional_embedding", (9, 4), False),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (9, 4), False),
        ("mlp.fc1.bias", (4,), False),
        ("patch_embed.proj.weight", (4, 3, 2, 2), False),
        ("fc.weight", (0, 4), False),
    ],
)
def test_which_tensors_are_projected(name: str, shape: tuple[int, ...], yes: bool):
    assert is_matrix(name, shape) is yes


LARGER = {"a.weight": (70, 300), "b.weight": (300, 40), "bias": (300,)}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_no_cut_of_the_work_changes_a_byte(threads: int, monkeypatch: pytest.MonkeyPatch):
    base, tasks = drawn(3, 4, LARGER)
    expected = merged(base, tasks, threads=1)
    monkeypatch.setattr(orthogonal, "PANEL", 600)
    monkeypatch.setattr(orthogonal, "COLUMNS", 13)
    found = merged(base, tasks, threads=threads, block=101)
    assert all(found[name].tobytes() == values.tobytes() for name, values in expected.items())


def arrays(tasks: list[State]) -> list[Deltas]:
    made = []
    for name in tasks[0]:
        one = Arrays(np.stack([task[name].ravel() for task in tasks]), name)
        one.shape = tasks[0][name].shape
        made.append(one)
    return made


@pytest.mark.parametrize("cuts", [[1], [2], [0, 3], [1, 2, 5]])
@pytest.mark.parametrize("memory", [1 << 30, 2000])
def test_any_cut_into_sections_and_any_memory_gives_the_same(cuts: list[int], memory: int):
    _, tasks = drawn(3)
    how, method = Settings(3), Opcm()
    with Workspace() as work:
        whole = in_one(method, arrays(tasks), how, work)
    with Workspace(threads=2, block=64, memory=memory) as work:
        assert of(method, arrays(tasks), how, cuts, work) == whole
        assert bool(work.spilled) == (memory == 2000)


def test_is_registered_with_the_authors_default():
    assert METHODS["opcm"].options == {"scale", "alpha"}
    base, tasks = drawn(2)
    half, default = merged(base, tasks, alpha="1/2"), merged(base, tasks)
    assert all(half[name].tobytes() == values.tobytes() for name, values in default.items())
