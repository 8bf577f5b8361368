"""Many merges in one reading: the bits that `merge` writes, from checkpoints that are read once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge import merge, open_checkpoint
from prefmerge.checkpoints import by_name, from_float32, to_float32
from prefmerge.errors import CheckpointMismatch, DtypeOverflow, MethodError, NonFiniteValue, UsageError
from prefmerge.merging.candidates import Candidates
from prefmerge.methods import METHODS
from prefmerge.methods.tunable import TunableMagmax
from prefmerge.vectors.reader import StoredVector
from tests.checkpoints.files import write_raw
from tests.methods.problems import state_dicts

NAMES = ("cars", "birds", "digits", "signs")
SETTINGS: list[dict[str, Any]] = [
    *({"method": name} for name, one in METHODS.items() if one.most is None),
    {"preference": "alpha:2", "sequential": True},
    {"preference": "alpha:2", "as_published": True},
    {"selection": "paper", "preference": "cars=0.8,birds=0.2", "scale": "0.3"},
    {"selection": "paper", "preference": "0,0,1,0", "seed": 3, "scale": 1.5},
    {"selection": "optimal", "preference": "alpha:2"},
    {"selection": "printed", "passes": 3, "preference": "0.5,0,0.5,0"},
    {"selection": "paper", "importance": "step", "preference": "0,0.7,0,0.3"},
    {"importance": "step", "selection": "optimal", "strength": "0.5", "carry": "0.25", "preference": "8,1,1,0"},
    {"selection": "paper", "strength": "0.3", "preference": "1,0,0,0"},
    {"selection": "paper", "scope": "model", "preference": "alpha:0.5"},
    {"scope": "model", "selection": "optimal", "strength": "0.5"},
    {"method": "ties", "density": 0.5, "weights": [1, 2, 3, -1], "normalize": False},
    {"method": "ties", "scope": "model"},
    {"method": "linear", "normalize": False},
    {"method": "task_arithmetic", "weights": [0.5, 0, -1, 2]},
    {"method": "increments", "preference": "8,1,1,0", "start": "0.75", "boost": 2},
    {"toward_last": "0.5", "selection": "optimal", "preference": "8,1,1,0"},
    {"selection": "paper", "exclude": ["deep.*"], "preference": "alpha:2"},
    {"dtype": "bfloat16", "method": "magmax"},
]


def save(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> Path:
    """A safetensors file of `tensors`, the float ones rounded to `dtype`."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        kind = by_name(dtype) if values.dtype == np.float32 else by_name(values.dtype.name)
        stored = from_float32(values, kind) if values.dtype == np.float32 else values
        header[name] = {
            "dtype": kind.code,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + stored.nbytes],
        }
        data += stored.tobytes()
    return write_raw(path, header, data)


def files(folder: Path, dtype: str = "float32", tasks: int = 4) -> tuple[Path, list[Path]]:
    base, states = state_dicts(tasks, 7)
    paths = [folder / f"{name}.safetensors" for name in NAMES[:tasks]]
    for path, state in zip(paths, states, strict=True):
        save(path, state, dtype)
    return save(folder / "base.safetensors", base, dtype), paths


def read_back(path: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(path)
    return {
        name: to_float32(checkpoint.raw(name), info.dtype).reshape(info.shape)
        for name, info in checkpoint.tensors.items()
        if info.dtype.family == "float"
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: object = "") -> None:
    assert found.keys() == expected.keys(), what
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes(), (what, name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_every_candidate_of_one_reading_is_what_merge_writes(dtype: str, tmp_path: Path):
    base, tasks = files(tmp_path, dtype)
    with Candidates(base, tasks, threads=2) as candidates:
        assert candidates.names == NAMES
        found = candidates.models(SETTINGS)
    for i, (settings, model) in enumerate(zip(SETTINGS, found, strict=True)):
        out = tmp_path / f"out-{i}.safetensors"
        merge(base, tasks, out, **settings)
        assert_same(model, read_back(out), settings)


def test_large_tensors_are_cut_into_blocks_and_small_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, tasks = files(tmp_path)
    with Candidates(base, tasks, threads=3) as candidates:
        expected = candidates.models(SETTINGS)
        monkeypatch.setattr("prefmerge.vectors.workspace.LARGE", 0)
        candidates._work.block = 100  # fmt: skip
        for one, other in zip(expected, candidates.models(SETTINGS), strict=True):
            assert_same(other, one)


def test_candidates_share_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, tasks = files(tmp_path)
    read: Counter[tuple[str, str]] = Counter()  # elements decoded from a file, by task and tensor
    plain = StoredVector.read

    def counted(self: StoredVector, start: int, stop: int, out: np.ndarray) -> bool:
        read[self.source.checkpoint.name, self.name] += stop - start
        return plain(self, start, stop, out)

    monkeypatch.setattr(StoredVector, "read", counted)
    by_tensor = [one for one in SETTINGS if one.get("scope") != "model" and one.get("method") != "opcm"]
    with Candidates(base, tasks, threads=1) as candidates:
        candidates.models(by_tensor * 2)
        once = dict(read)
        read.clear()
        settings = {"selection": "paper", "preference": "0,0.5,0,0.5"}
        candidates.models([{**settings, "seed": seed} for seed in range(5)])
        wanted = dict(read)
    sizes = {name: values.size for name, values in read_back(base).items()}
    assert once == {(name, tensor): size for name in NAMES for tensor, size in sizes.items() if size}
    assert {name for name, _ in wanted} == {"birds", "signs"}  # who is asked for nothing is not read
    assert all(size == sizes[tensor] for (_, tensor), size in wanted.items())


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("selection", ["paper", "optimal"])
def test_merges_that_differ_in_nothing_that_owners_depend_on_assign_them_once(
    selection: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, tasks = files(tmp_path)
    prepared: Counter[int] = Counter()  # calls, by the number of tensors
    plain = TunableMagmax.prepare

    def counted(self: TunableMagmax, tensors: Any, *rest: Any) -> Any:
        prepared[len(tensors)] += 1
        return plain(self, tensors, *rest)

    monkeypatch.setattr(TunableMagmax, "prepare", counted)
    owned = {"selection": selection, "scope": scope, "preference": "8,1,1,0"}
    alike = [{"scale": "1"}, {"scale": "0.3"}]
    with Candidates(base, tasks, threads=1) as candidates:
        candidates.models([owned])
        once = Counter(prepared)
        candidates.models([{**owned, **one} for one in alike])
        assert prepared == once + once
        # The last task has no share: only what goes toward it looks at its changes.
        other = [
            {"toward_last": "0.5"},
            {"seed": 1},
            {"carry": "0.5"},
            {"importance": "step"},
            {"preference": "1,1,1,1"},
        ]
        candidates.models([{**owned, **one} for one in (*alike, *other)])
    assert prepared.total() == once.total() * (2 + 1 + len(other))


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_tensor_that_only_the_last_task_changed_goes_toward_it(scope: str, tmp_path: Path):
    base, states = state_dicts(3, 7)
    for state in states[:2]:
        state["only-last"] = base["only-last"] = np.zeros(40, np.float32)
    states[2]["only-last"] = np.ones(40, np.float32)
    paths = [save(tmp_path / f"{i}.safetensors", one, "float32") for i, one in enumerate((base, *states))]
    settings = [{"preference": "1,1,0", "scope": scope, "toward_last": u} for u in ("0", "0.5", "0.25", "1")]
    with Candidates(paths[0], paths[1:]) as candidates:
        found = [model["only-last"] for model in candidates.models(settings)]
    for values, expected in zip(found, (0, 0.25, 0.125, 0.5), strict=True):  # at the default scale of 0.5
        assert values.tolist() == [expected] * 40


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_vector_at_many_scales_is_the_model_at_each(dtype: str, tmp_path: Path):
    base, tasks = files(tmp_path, dtype)
    scales = ["0.1", 0.5, "1.37"]
    with Candidates(base, tasks, threads=2) as candidates:
        for settings in ({"preference": "alpha:2", "strength": "0.5"}, {"method": "ties"}, {"exclude": ["deep.*"]}):
            vector = candidates.vector(**settings)
            assert {values.dtype for values in vector.values()} == {np.dtype(np.float32)}
            found = list(candidates.at_scales(vector, scales))
            assert len(found) == 3
            for scale, model in zip(scales, found, strict=True):
                assert_same(model, candidates.model(**settings, scale=scale), (settings, scale))
            assert ("deep.weight" in vector) == ("exclude" not in settings)


def test_a_vector_is_what_as_task_vector_writes(tmp_path: Path):
    base, tasks = files(tmp_path)
    merge(base, tasks, tmp_path / "tau.safetensors", as_task_vector=True, preference="alpha:2")
    with Candidates(base, tasks) as candidates:
        assert_same(candidates.vector(preference="alpha:2"), read_back(tmp_path / "tau.safetensors"))
    with Candidates(base, [tmp_path / "tau.safetensors"]) as candidates:  # and is taken for a task again
        assert_same(
            candidates.model(method="last", scale="0.5"), read_back_merge(base, tasks, tmp_path, preference="alpha:2")
        )


def read_back_merge(base: Path, tasks: list[Path], folder: Path, **settings: Any) -> dict[str, np.ndarray]:
    merge(base, tasks, folder / "merged.safetensors", force=True, **settings)
    return read_back(folder / "merged.safetensors")


def test_tied_tensors_are_merged_once(tmp_path: Path):
    torch = pytest.importorskip("torch")
    base, states = state_dicts(2)
    paths = []
    for name, state in (("base", base), ("cars", states[0]), ("birds", states[1])):
        tensors = {key: torch.from_numpy(np.array(values)) for key, values in state.items()}
        torch.save({**tensors, "out.weight": tensors["deep.weight"]}, tmp_path / f"{name}.pt")
        paths.append(tmp_path / f"{name}.pt")
    with Candidates(paths[0], paths[1:]) as candidates:
        vector = candidates.vector(preference="0.7,0.3")
        assert "out.weight" in vector
        model = candidates.model(preference="0.7,0.3")
        assert_same(next(candidates.at_scales(vector, ["0.5"])), model)
    assert_same(model, read_back_merge(paths[0], paths[1:], tmp_path, preference="0.7,0.3"))
    assert model["out.weight"].tobytes() == model["deep.weight"].tobytes()


def test_bad_settings_and_checkpoints_get_the_messages_of_merge(tmp_path: Path):
    base, tasks = files(tmp_path)
    with pytest.raises(UsageError, match=r"^names has 1 entries for 4 tasks; give one per task\.$"):
        Candidates(base, tasks, ["cars"])
    with Candidates(base, tasks) as candidates:
        with pytest.raises(UsageError, match=r"^as_task_vector gives no model\. Ask `vector`"):
            candidates.model(as_task_vector=True)
        with pytest.raises(UsageError, match=r"^--scale has no effect on a task vector"):
            candidates.vector(scale="0.5")
        with pytest.raises(UsageError, match=r"has no use with method magmax"):
            candidates.models([{}, {"method": "magmax", "preference": "alpha:2"}])
        vector = candidates.vector()
        with pytest.raises(
            CheckpointMismatch, match=r"^the vector's 'deep.bias' has shape \(3,\); in the base it is \("
        ):
            candidates.at_scales({**vector, "deep.bias": np.zeros(3, np.float32)}, ["1"])
        with pytest.raises(CheckpointMismatch, match="in the base it is no such tensor"):
            candidates.at_scales({"other": np.zeros(3, np.float32)}, ["1"])
    broken = state_dicts(4, 7)[1][1]
    broken["deep.weight"][2, 3] = np.nan
    save(tasks[1], broken, "float32")
    with (
        Candidates(base, tasks) as candidates,
        pytest.raises(NonFiniteValue, match=r"^task 'birds' \(birds.safetensors\): tensor 'deep.weight' holds nan"),
    ):
        candidates.model()


def test_a_value_that_does_not_fit_is_refused_as_in_merge(tmp_path: Path):
    base, tasks = files(tmp_path, "float16")
    with Candidates(base, tasks) as candidates, pytest.raises(DtypeOverflow, match="does not fit float16"):
        candidates.model(method="last", scale="1e6")


def test_importance_step_is_refused_for_independent_checkpoints(tmp_path: Path):
    base, tasks = files(tmp_path, tasks=2)
    manifest = {
        "format": "prefmerge-run/1",
        "training": "independent",
        "base": base.name,
        "tasks": [{"name": path.stem, "file": path.name, "done": True} for path in tasks],
    }
    with Candidates(base, tasks) as candidates:
        candidates.check(importance="step")
        (tmp_path / "run.json").write_text(json.dumps(manifest))
        for ask in (candidates.check, candidates.model, candidates.vector):
            with pytest.raises(MethodError, match=r"were fine-tuned independently\. Use --importance magnitude"):
                ask(importance="step")


def test_what_was_handed_out_stays_when_the_files_are_closed(tmp_path: Path):
    base, tasks = files(tmp_path)
    with Candidates(base, tasks) as candidates:
        model = candidates.model(exclude=["*"])
    assert_same(model, read_back(base))
