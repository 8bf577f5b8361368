"""Several merges written over one reading: the bytes of `merge`, whatever fits into memory."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge import Receipt, merge, verify
from prefmerge.errors import DiskFull, DtypeOverflow, OutputExists, UsageError
from prefmerge.merging.api import recipe_of, run
from prefmerge.merging.many import Order, write_all
from prefmerge.vectors.reader import StoredVector
from tests.merging.test_candidates import NAMES, SETTINGS, files

GOLDEN = Path(__file__).parents[1] / "golden"
ROOM = "1000GB"  # what this process holds already counts, and after many tests that may be a gigabyte


def orders(base: Path, tasks: list[Path], out: Path, ending: str = ".safetensors") -> list[Order]:
    return [Order(recipe_of(base, tasks, **settings), out / f"many-{i}{ending}") for i, settings in enumerate(SETTINGS)]


def assert_as_merge_writes(base: Path, tasks: list[Path], made: list[tuple[Order, Receipt]], folder: Path) -> None:
    for i, ((order, receipt), settings) in enumerate(zip(made, SETTINGS, strict=True)):
        out = folder / f"alone-{i}{order.out.suffix}"
        alone = merge(base, tasks, out, **settings)
        assert receipt.fingerprint == alone.fingerprint, settings
        assert (receipt.recipe, receipt.tensors, receipt.totals, receipt.notes) == (
            alone.recipe,
            alone.tensors,
            alone.totals,
            alone.notes,
        )
        if order.out.is_dir():
            assert {path.name for path in order.out.iterdir()} == {path.name for path in out.iterdir()}
            pairs = [(path, order.out / path.name) for path in out.iterdir() if path.name != "receipt.json"]
        else:
            pairs = [(out, order.out)]
        assert all(one.read_bytes() == other.read_bytes() for one, other in pairs), settings


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory", [ROOM, "1kB"])
def test_every_output_of_one_reading_is_what_merge_writes(dtype: str, memory: str, tmp_path: Path):
    base, tasks = files(tmp_path, dtype)
    wanted = orders(base, tasks, tmp_path)
    receipts = write_all(wanted, threads=2, max_memory=memory)
    assert_as_merge_writes(base, tasks, list(zip(wanted, receipts, strict=True)), tmp_path)
    verify(wanted[0].out, inputs=True, rerun=True)


def test_folders_have_their_companions_cards_and_receipts(tmp_path: Path):
    for name in ("base", "cars", "birds"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    base, tasks = tmp_path / "base", [tmp_path / "cars", tmp_path / "birds"]
    wanted = [Order(recipe_of(base, tasks, method="linear", weights=[w, 1]), tmp_path / f"w{w}") for w in (1, 2)]
    receipts = write_all(wanted)
    for order, receipt, weight in zip(wanted, receipts, (1, 2), strict=True):
        alone = merge(base, tasks, tmp_path / f"alone{weight}", method="linear", weights=[weight, 1])
        assert receipt.fingerprint == alone.fingerprint
        for path in (tmp_path / f"alone{weight}").iterdir():
            if path.name != "receipt.json":
                assert (order.out / path.name).read_bytes() == path.read_bytes(), path.name
        assert Receipt.load(order.out / "receipt.json").tensors == receipt.tensors


WEIGHTS = [{"weights": [1, 2, 3, w]} for w in (1, 2, 4)]


@pytest.mark.parametrize(
    ("method", "own", "hold", "least", "most"),
    [
        pytest.param("linear", WEIGHTS, ROOM, 1, 1, id="a sum, with room"),
        pytest.param("linear", WEIGHTS, "1kB", 1, 1, id="a sum, without room"),
        pytest.param("ties", [{"scale": w} for w in (1, 2, 4)], "1kB", 1, 1, id="one merged vector at several scales"),
        pytest.param("ties", WEIGHTS, "1kB", 1.1, 2.9, id="a threshold for each, without room"),
        pytest.param("ties", WEIGHTS, ROOM, 0.1, 1, id="a threshold for each, with room"),
    ],
)
def test_a_block_is_read_once_for_all_orders(
    method: str,
    own: list[dict[str, Any]],
    hold: str,
    least: float,
    most: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    base, tasks = files(tmp_path)
    read: Counter[tuple[str, str]] = Counter()
    plain = StoredVector.read

    def counted(self: StoredVector, start: int, stop: int, out: np.ndarray) -> bool:
        read[self.source.checkpoint.name, self.name] += stop - start
        return plain(self, start, stop, out)

    monkeypatch.setattr(StoredVector, "read", counted)
    recipes = [recipe_of(base, tasks, method=method, **one) for one in own]
    wanted = [Order(recipe, tmp_path / f"{i}.safetensors") for i, recipe in enumerate(recipes)]
    write_all(wanted, threads=1, max_memory=hold)
    assert {name for name, _ in read} == set(NAMES)
    together = Counter(read)
    read.clear()
    merge(base, tasks, tmp_path / "alone.safetensors", method=method, threads=1, **own[0])  # a thread: it counts
    assert all(together[key] <= most * size for key, size in read.items())
    assert together.total() >= least * read.total() > 0


@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("threads", [1, 3])
def test_orders_that_differ_in_the_scale_are_what_merge_writes(block: int, threads: int, tmp_path: Path):
    base, tasks = files(tmp_path)
    settings: list[dict[str, Any]] = [
        {"method": method, "scale": scale, **more}
        for method, more in (("magmax", {}), ("increments", {"preference": "8,1,1,0"}), ("tunable_magmax", {}))
        for scale in ("0.5", "1", "-2")
    ]
    settings.append({"method": "magmax", "scale": "0.5", "exclude": ["deep.*"]})  # the same vector, of fewer tensors
    wanted = [Order(recipe_of(base, tasks, **one), tmp_path / f"{i}.safetensors") for i, one in enumerate(settings)]
    receipts = write_all(wanted, threads=threads, block=block)
    for order, receipt, one in zip(wanted, receipts, settings, strict=True):
        alone = merge(base, tasks, tmp_path / "alone.safetensors", force=True, **one)
        assert (receipt.fingerprint, receipt.tensors, receipt.totals) == (
            alone.fingerprint,
            alone.tensors,
            alone.totals,
        ), one
        assert order.out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("method", ["tunable_magmax", "ties"])
def test_orders_that_call_the_tensors_otherwise_share_nothing(method: str, scope: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(500, np.float32) for name in "ab"}
    tasks = [
        {f"x.{name}": values + rng.standard_normal(500, np.float32) * n for name, values in base.items()}
        for n in (0.1, 0.3)
    ]
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "one", "two")]
    for path, tensors in zip(paths, (base, *tasks), strict=True):
        save_file(tensors, path)
    wanted = [
        Order(
            recipe_of(paths[0], paths[1:], method=method, scope=scope, scale="1", rename=rename),
            tmp_path / f"{i}.safetensors",
        )
        for i, rename in enumerate((["x.a=a", "x.b=b"], ["x.a=b", "x.b=a"]))
    ]
    write_all(wanted)
    for order in wanted:
        run(order.recipe, tmp_path / "alone.safetensors", force=True)
        assert order.out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


def test_inputs_of_one_reading_are_hashed_for_all(tmp_path: Path):
    base, tasks = files(tmp_path)
    recipes = [recipe_of(base, tasks, method="linear", weights=weights) for weights in ([1, 0, 0, 0], [0, 0, 0, 1])]
    first, second = write_all([Order(recipe, tmp_path / f"{i}.safetensors") for i, recipe in enumerate(recipes)])
    assert first.inputs == second.inputs
    assert [one.covers for one in first.inputs.tasks] == ["content", "header", "header", "content"]


def test_what_cannot_be_written_together_is_refused(tmp_path: Path):
    base, tasks = files(tmp_path)
    one = Order(recipe_of(base, tasks), tmp_path / "one.safetensors")
    other = Order(recipe_of(base, tasks[::-1]), tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other\.safetensors: its recipe is over other checkpoints than that"):
        write_all([one, other])
    (tmp_path / "taken.safetensors").touch()
    with pytest.raises(OutputExists, match=r"taken\.safetensors: already exists"):
        write_all([one, Order(one.recipe, tmp_path / "taken.safetensors")])
    assert not one.out.exists()
    assert write_all([]) == []


def test_an_error_of_one_leaves_none(tmp_path: Path):
    base, tasks = files(tmp_path, "float16")
    before = sorted(tmp_path.iterdir())
    scales: list[Any] = ["1", "1e6"]
    with pytest.raises(DtypeOverflow):
        write_all(
            [
                Order(recipe_of(base, tasks, method="last", scale=scale), tmp_path / "deep" / f"{i}.safetensors")
                for i, scale in enumerate(scales)
            ]
        )
    assert sorted(tmp_path.iterdir()) == before


def test_the_space_of_all_outputs_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, tasks = files(tmp_path)
    size = base.stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size))
    recipe = recipe_of(base, tasks, method="magmax")
    write_all([Order(recipe, tmp_path / "alone.safetensors")])
    with pytest.raises(DiskFull, match=r"0\.safetensors: needs"):
        write_all([Order(recipe, tmp_path / f"{i}.safetensors") for i in range(3)])
