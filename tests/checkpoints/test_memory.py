from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from prefmerge.checkpoints import from_state_dict, is_torch_tensor
from prefmerge.errors import CheckpointCorrupt, UnsupportedDtype
from tests.checkpoints.files import a_model, arrays_of, assert_same


def test_numpy_arrays() -> None:
    model = a_model()
    checkpoint = from_state_dict(model, name="mine")
    assert_same(arrays_of(checkpoint), model)
    assert (checkpoint.name, checkpoint.path, checkpoint.files, checkpoint.file_of("mask")) == (
        "mine",
        None,
        (),
        "mine",
    )
    assert np.shares_memory(checkpoint.raw("embed.weight"), model["embed.weight"])
    assert not checkpoint.raw("embed.weight").flags.writeable
    assert model["embed.weight"].flags.writeable


def test_order_layout_and_byte_order_do_not_matter() -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {"b": np.asfortranarray(w), "a": w[:, ::2], "c": w.astype(">f4"), "s": np.float32(3)}
    assert_same(
        arrays_of(from_state_dict(tensors, name="x")),
        {"a": w[:, ::2].copy(), "b": w, "c": w, "s": np.array(3, np.float32)},
    )


def test_aliases_of_arrays() -> None:
    w = np.arange(9.0).reshape(3, 3)
    empty = np.zeros((0, 3))
    tensors = {"z": w, "a": w, "view": w[:], "t": w.T, "part": w[:2], "copy": w.copy(), "e": empty, "f": empty}
    assert dict(from_state_dict(tensors, name="x").aliases) == {"view": "a", "z": "a"}


def test_values_made_on_demand_are_not_taken_for_aliases() -> None:
    """A mapping may make each array when asked; NumPy hands freed memory out again at once."""
    from collections.abc import Iterator, Mapping

    class Lazy(Mapping[str, np.ndarray]):
        def __getitem__(self, key: str) -> np.ndarray:
            return np.full((12, 1000), float(key))[:, 0]

        def __iter__(self) -> Iterator[str]:
            return iter("12345678")

        def __len__(self) -> int:
            return 8

    checkpoint = from_state_dict(Lazy(), name="x")
    assert dict(checkpoint.aliases) == {}
    assert [checkpoint.raw(key)[0] for key in "12345678"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_bfloat16_arrays_of_ml_dtypes() -> None:
    ml_dtypes: Any = pytest.importorskip("ml_dtypes", reason="NumPy's bfloat16 comes from there")
    checkpoint = from_state_dict({"w": np.array([1.0, -2.0], dtype=ml_dtypes.bfloat16)}, name="x")
    assert checkpoint.tensors["w"].dtype.name == "bfloat16"
    assert checkpoint.raw("w").tolist() == [0x3F80, 0xC000]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.array(["x"]), UnsupportedDtype, "state dict 'x': tensor 'w' is a NumPy array of <U1"),
        (np.array([None]), UnsupportedDtype, "a NumPy array of object"),
        (np.zeros(1, np.complex128), UnsupportedDtype, "a NumPy array of complex128"),
        ([1.0, 2.0], CheckpointCorrupt, "'w' is a builtins.list, not a NumPy array or a torch tensor"),
        (3, CheckpointCorrupt, "'w' is a builtins.int"),
    ],
)
def test_what_is_no_tensor(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_state_dict({"w": value}, name="x")


def test_names_are_strings() -> None:
    keys: Any = {1: np.zeros(1)}
    with pytest.raises(CheckpointCorrupt, match="key 1 is a int"):
        from_state_dict(keys, name="x")


def test_nothing_is_a_torch_tensor_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert not is_torch_tensor(np.zeros(1))


def test_torch_tensors() -> None:
    torch: Any = pytest.importorskip("torch", reason="these are torch tensors")
    w = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "parameter": torch.nn.Parameter(w.clone()),
        "bf16": w.bfloat16(),
        "columns": w[:, ::2],
        "transposed": w.T,
        "scalar": torch.tensor(7),
        "empty": torch.ones(0, 3),
        "flag": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]).conj(),
        "minus": torch.tensor([1 + 2j]).conj().imag,
        "w": w,
        "tied": w,
    }
    checkpoint = from_state_dict(tensors, name="x")
    expected = {name: value.detach().resolve_conj().resolve_neg() for name, value in tensors.items()}
    expected["bf16"] = expected["bf16"].view(torch.uint16)
    found = arrays_of(checkpoint)
    assert found.pop("complex").view(np.complex64).tolist() == [1 - 2j]
    del expected["complex"]
    assert_same(found, {name: value.numpy() for name, value in expected.items()})
    assert dict(checkpoint.aliases) == {"w": "tied"}
    assert checkpoint.tensors["bf16"].dtype.name == "bfloat16"


def test_tied_weights_of_a_model() -> None:
    torch: Any = pytest.importorskip("torch", reason="a torch module")
    embed, head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
    head.weight = embed.weight
    model = torch.nn.ModuleDict({"embed": embed, "head": head})
    checkpoint = from_state_dict(model.state_dict(), name="x")
    assert dict(checkpoint.aliases) == {"head.weight": "embed.weight"}


def test_a_meta_tensor() -> None:
    torch: Any = pytest.importorskip("torch", reason="a torch tensor")
    with pytest.raises(CheckpointCorrupt, match="tensor 'w' is on the meta device"):
        from_state_dict({"w": torch.ones(2, device="meta")}, name="x")
