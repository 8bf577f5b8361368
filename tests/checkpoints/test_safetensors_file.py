from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prefmerge.checkpoints import open_checkpoint, require_mergeable
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.checkpoints.safetensors_file import SafetensorsFile, encode_header
from prefmerge.errors import CheckpointCorrupt, CheckpointError, CheckpointNotFound, UnsupportedDtype
from tests.checkpoints.files import a_model, arrays_of, assert_same, entry, info_of, write_arrays, write_raw


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    model = a_model()
    save_file(model, tmp_path / "birds.safetensors", metadata={"format": "pt", "made": "here"})
    checkpoint = SafetensorsFile.open(tmp_path / "birds.safetensors")
    assert_same(arrays_of(checkpoint), model)
    assert list(checkpoint.tensors) == sorted(model)
    assert checkpoint.metadata == {"format": "pt", "made": "here"}
    assert (checkpoint.name, checkpoint.file_of("mask"), dict(checkpoint.aliases)) == ("birds", "birds.safetensors", {})
    assert checkpoint.files == (tmp_path / "birds.safetensors",)


def test_odd_offsets(tmp_path: Path) -> None:
    model = {"a": np.array([1], dtype=np.uint8), **a_model()}
    checkpoint = SafetensorsFile.open(write_arrays(tmp_path / "x.safetensors", model))
    assert checkpoint.offsets["layer.weight"] % 8  # or the test tests nothing
    assert_same(arrays_of(checkpoint), model)


def test_arrays_are_flat_read_only_and_outlive_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = SafetensorsFile.open(write_arrays(tmp_path / "x.safetensors", a_model()))
    scale, weight = checkpoint.raw("layer.scale"), checkpoint.raw("layer.weight")
    assert scale.shape == (1,)
    assert weight.shape == (35,)
    assert checkpoint.raw("layer.empty").shape == (0,)
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 1
    checkpoint.close()
    assert weight.tobytes() == a_model()["layer.weight"].tobytes()
    with pytest.raises(ValueError, match="is closed"):
        checkpoint.raw("mask")


def test_bfloat16_as_torch_has_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle for bfloat16")
    from safetensors.torch import save_file as save_torch

    from prefmerge.checkpoints import from_float32, to_float32

    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(1000).fmod(60).sub(30)
    values[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -0.0, 2.0**-133])  # ties to even, minus zero, a subnormal
    save_torch({"w": values.bfloat16()}, tmp_path / "x.safetensors")
    checkpoint = SafetensorsFile.open(tmp_path / "x.safetensors")
    info, stored = checkpoint.tensors["w"], checkpoint.raw("w")
    assert stored.dtype == np.uint16
    assert to_float32(stored, info.dtype).tobytes() == values.bfloat16().float().numpy().tobytes()
    assert from_float32(values.numpy(), info.dtype).tobytes() == stored.tobytes()


F32 = entry("F32", [2], 0, 8)
BAD_HEADERS: dict[str, tuple[object, bytes, str]] = {
    "not JSON": (b"{'a': 1}", b"", "its header is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "its header is not JSON"),
    "a list": ([], b"", "its header is a JSON list, not an object"),
    "a number": (b"12", b"", "its header is a JSON int, not an object"),
    "one name twice": (b'{"a": 1, "a": 2}', b"", "its header lists 'a' twice"),
    "metadata with a number": ({"__metadata__": {"epoch": 3}}, b"", "its __metadata__ is not an object of strings"),
    "metadata a string": ({"__metadata__": "x"}, b"", "its __metadata__ is not an object of strings"),
    "entry not an object": ({"a": 3}, b"", "tensor 'a' no dtype, shape and data_offsets"),
    "entry without dtype": ({"a": {"shape": [], "data_offsets": [0, 4]}}, bytes(4), "tensor 'a' no dtype, shape"),
    "negative shape": ({"a": entry("F32", [-2], 0, 8)}, bytes(8), r"tensor 'a' the shape \[-2\]"),
    "shape of booleans": ({"a": entry("F32", [True], 0, 4)}, bytes(4), r"tensor 'a' the shape \[True\]"),
    "backward offsets": ({"a": entry("F32", [2], 8, 0)}, bytes(8), r"tensor 'a' the data_offsets \[8, 0\]"),
    "negative offset": ({"a": entry("F32", [2], -8, 0)}, bytes(8), r"tensor 'a' the data_offsets \[-8, 0\]"),
    "too few bytes": (
        {"a": entry("F32", [3], 0, 8)},
        bytes(8),
        r"float32 of shape \(3,\), needs 12 bytes and is given 8",
    ),
    "too many bytes": (
        {"a": entry("F16", [3], 0, 8)},
        bytes(8),
        r"float16 of shape \(3,\), needs 6 bytes and is given 8",
    ),
    "overflowing shape": ({"a": entry("F32", [2**40, 2**40], 0, 0)}, b"", "needs .* bytes and is given 0"),
    "overlap": (
        {"a": F32, "b": entry("F32", [2], 4, 12)},
        bytes(12),
        "tensor 'b' starts at byte 4, before 'a' ends at 8",
    ),
    "hole": (
        {"a": F32, "b": entry("F32", [2], 12, 20)},
        bytes(20),
        "bytes 8 to 12, before tensor 'b', belong to no tensor",
    ),
    "hole at the start": (
        {"a": entry("F32", [2], 4, 12)},
        bytes(12),
        "bytes 0 to 4, before tensor 'a', belong to no tensor",
    ),
    "truncated data": ({"a": F32}, bytes(5), "truncated: its tensors take 8 bytes and it holds 5"),
    "data that nobody owns": ({"a": F32}, bytes(9), "its header lies: its tensors take 8 bytes and it holds 9"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    header, data, message = BAD_HEADERS[case]
    path = write_raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointCorrupt, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (b"1234567", "truncated: 7 bytes"),
        (struct.pack("<Q", 100) + b"{}", "announces a header of 100 bytes and holds 2 more"),
        (struct.pack("<Q", 2**63) + b"{}", "announces a header of 9223372036854775808 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.* git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights.* Download the file itself"),
        (b"Entry not found", "is a text, not weights"),
        (struct.pack("<Q", ord("<")) + b'{"a":', "announces a header of 60 bytes"),
        (struct.pack("<Q", ord("<") * 256 + ord(" ")) + b'{"a":', "announces a header of 15392 bytes"),
        (b"\x1f\x8b\x08\x00" + bytes(4) + b"\xff", r"is compressed \(gzip\)"),
    ],
)
def test_truncated_before_or_in_the_header(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=message):
        open_checkpoint(tmp_path / "bad.safetensors")


def test_a_header_beyond_the_formats_limit(tmp_path: Path) -> None:
    with (tmp_path / "bad.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(100_000_100)  # sparse
    with pytest.raises(CheckpointCorrupt, match="announces a header of 100000001 bytes; the format allows 100000000"):
        open_checkpoint(tmp_path / "bad.safetensors")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_never_passes_unless_the_library_lets_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever happens to a file: a CheckpointError or a checkpoint that can be read, and never more than the library
    takes."""
    folder = tmp_path_factory.getbasetemp()
    good = write_arrays(
        folder / "good.safetensors", {"a": np.arange(3, dtype=np.float32), "b": np.arange(2, dtype=np.int64)}
    )
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) or len(content) :]
    bad = folder / "bad.safetensors"
    bad.write_bytes(content)
    try:
        checkpoint = SafetensorsFile.open(bad)
    except CheckpointError:
        return
    arrays_of(checkpoint)
    try:
        with safe_open(bad, framework="numpy") as file:
            assert set(file.keys()) == set(checkpoint.tensors)
    except SafetensorError:
        pytest.fail("the library refuses what we took")


def test_the_library_has_the_last_word(tmp_path: Path) -> None:
    """A lone surrogate is a name to Python's JSON and not to the library's."""
    path = write_raw(
        tmp_path / "x.safetensors", b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"1"
    )
    with pytest.raises(CheckpointCorrupt, match="the safetensors library refuses it"):
        open_checkpoint(path)


def test_eight_bit_floats_open_but_are_not_merged(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"w": entry("F8_E4M3", [3], 0, 3)}, b"\x01\x02\x03")
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors["w"].dtype.family == "other"
    assert checkpoint.raw("w").tobytes() == b"\x01\x02\x03"
    with pytest.raises(UnsupportedDtype, match=r"x.safetensors: tensor 'w' is float8_e4m3fn, .* --exclude 'w'"):
        require_mergeable(checkpoint.tensors["w"].dtype, file="x.safetensors", tensor="w")
    require_mergeable(info_of("v", np.zeros(1, np.float16)).dtype, file="x.safetensors", tensor="v")


def test_formats_that_pack_elements_are_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"w": entry("F4", [4], 0, 2)}, b"12")
    with pytest.raises(UnsupportedDtype, match=r"x.safetensors: tensor 'w' has dtype 'F4'.*Convert"):
        open_checkpoint(path)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="no such file"):
        SafetensorsFile.open(tmp_path / "x.safetensors")


def test_our_layout_is_the_librarys(tmp_path: Path) -> None:
    """Wide elements first, then by name, padded to 8 bytes: the library writes the same header."""
    model = {
        "b": np.zeros(3, np.float32),
        "a": np.zeros((2, 1), np.float32),
        "c": np.zeros(5, np.float64),
        "d": np.zeros(1, np.uint8),
    }
    save_file(model, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header, offsets, size = encode_header([info_of(name, array) for name, array in model.items()], {"format": "pt"})
    content = (tmp_path / "x.safetensors").read_bytes()
    assert content[: len(header)] == header
    assert len(content) == size
    assert all(offsets[name] % array.itemsize == 0 for name, array in model.items())


def test_layout_without_tensors() -> None:
    assert encode_header([], {}) == (struct.pack("<Q", 8) + b"{}      ", {}, 16)


def test_info_counts_elements_and_bytes() -> None:
    info: TensorInfo = info_of("w", np.zeros((3, 4), np.float16))
    assert (info.size, info.nbytes) == (12, 24)
    assert info_of("s", np.zeros((), np.float32)).size == 1
