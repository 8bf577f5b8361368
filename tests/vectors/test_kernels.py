"""The kernels over number formats, for every pair of them, against slow loops (`tests/oracles/vectors.py`)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.checkpoints import TensorInfo, by_name, from_float32, from_state_dict
from prefmerge.checkpoints.dtypes import to_float32
from prefmerge.errors import NonFiniteValue, UnsupportedDtype
from prefmerge.vectors import kernels
from prefmerge.vectors.kernels import operand
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Input, Reading
from tests.oracles import vectors as oracle

FORMATS = ("float32", "float16", "bfloat16", "float64")
every_pair = pytest.mark.parametrize(("task", "base"), list(product(FORMATS, FORMATS)))


def awkward(name: str, seed: int = 0) -> np.ndarray:
    """Stored elements: both zeros, subnormals, the ends of the range, infinity, NaN, what rounds half-way, and plain
    ones.
    """
    storage = by_name(name).storage
    rng = np.random.default_rng(seed)
    if name in ("float16", "bfloat16"):
        edge = np.array([0, 1, 2, 0x3FF, 0x400, 0x401, 0x7F, 0x80, 0x7BFF, 0x7C00, 0x7C01, 0x7F7F, 0x7F80, 0x7FC0])
        bits = np.concatenate([edge, edge | 0x8000, rng.integers(0, 1 << 16, 200)])
        return bits.astype(np.uint16).view(storage)
    small, least, large = 2.0**-126, 2.0**-149, 3.4028234663852886e38
    edge = np.array([0.0, least, least * 3, small, small - least, 1.0, 1 + 2.0**-23, large, np.inf, np.nan, np.pi])
    if name == "float64":  # half-way to a neighbour, above and below it; beyond float32 at both ends
        half = np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 1 + 2.0**-24 + 2.0**-50, least / 2, least * 1.5, least / 4])
        edge = np.concatenate([edge, half, [3.40282356e38, 3.4028235677973366e38, 1e300, 5e-324]])
    return np.concatenate([edge, -edge, rng.standard_normal(200), rng.standard_normal(50) * 1e-40]).astype(storage)


def crossed(task: str, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Every awkward element of one format with many of the other."""
    tasks, bases = awkward(task), awkward(base, 1)
    return np.repeat(tasks, 24), np.tile(bases, 1 + tasks.size * 24 // bases.size)[: tasks.size * 24]


def assert_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit; of NaN only where it is."""
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@every_pair
@pytest.mark.parametrize("block", [1, 7, 4096])
def test_a_task_vector_is_the_oracles(task: str, base: str, block: int):
    of_task, of_base = crossed(task, base)
    expected = oracle.vector(of_task, task, of_base, base)
    found = np.empty(of_task.size, np.float32)
    for start in range(0, found.size, block):
        part = slice(start, min(start + block, found.size))
        told = kernels.subtract(
            operand(of_task[part], by_name(task)), operand(of_base[part], by_name(base)), found[part]
        )
        assert told == (np.isfinite(expected[part]).all(), (expected[part] != 0).any())
    assert_bits(found, expected)


@pytest.mark.parametrize("task", ["float16", "bfloat16"])
@pytest.mark.parametrize("base", FORMATS)
def test_what_rounding_the_base_explains_is_no_difference(task: str, base: str):
    """Of each awkward element the nearest of the task's format, the one below and the one above, and any others."""
    of_base = np.concatenate([awkward(base), awkward(base, 1)])
    near = from_float32(to_float32(of_base, by_name(base)), by_name(task)).view(np.uint16)
    others = np.resize(awkward(task).view(np.uint16), near.size)
    of_task = np.concatenate([near, near - 1, near + 1, others]).view(by_name(task).storage)
    of_base = np.tile(of_base, 4)
    expected = oracle.vector(of_task, task, of_base, base, rounding=True)
    found = np.empty(of_task.size, np.float32)
    told = kernels.subtract_rounded(operand(of_task, by_name(task)), operand(of_base, by_name(base)), found)
    assert_bits(found, expected)
    assert told == (np.isfinite(expected).all(), (expected != 0).any())
    assert np.count_nonzero(expected[: near.size] == 0) >= near.size // 3
    finite = np.isfinite(expected)
    of_task, of_base, found = of_task[finite], of_base[finite], found[finite]
    told = kernels.subtract_rounded(operand(of_task, by_name(task)), operand(of_base, by_name(base)), found)
    assert told == (True, (expected[finite] != 0).any())


@every_pair
def test_a_task_vector_is_what_numpy_makes_of_whole_arrays(task: str, base: str):
    of_task, of_base = crossed(task, base)
    with np.errstate(all="ignore"):
        expected = to_float32(of_task, by_name(task)) - to_float32(of_base, by_name(base))
    found = np.empty(of_task.size, np.float32)
    kernels.subtract(operand(of_task, by_name(task)), operand(of_base, by_name(base)), found)
    assert_bits(found, expected)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_pattern_of_two_bytes(name: str):
    stored = np.arange(1 << 16, dtype=np.uint16).view(by_name(name).storage)
    found = np.empty(stored.size, np.float32)
    assert kernels.convert(operand(stored, by_name(name)), found) == (False, True)
    with np.errstate(invalid="ignore"):
        assert_bits(found, np.array([oracle.value(x, name) for x in stored], np.float32))
        assert_bits(found, to_float32(stored, by_name(name)))


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_conversion(name: str, data: st.DataObject):
    """Of any patterns: the bits of the format, as an integer of its width."""
    storage = by_name(name).storage
    width = storage.itemsize
    patterns = data.draw(st.lists(st.integers(0, 256**width - 1), max_size=70))
    stored = np.array(patterns, f"<u{width}").view(storage)
    expected = np.array([oracle.value(x, name) for x in stored], np.float32)
    found = np.empty(stored.size, np.float32)
    told = kernels.convert(operand(stored, by_name(name)), found)
    assert_bits(found, expected)
    assert told == (np.isfinite(expected).all(), (expected != 0).any())
    assert kernels.survey(operand(stored, by_name(name))) == told


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, -2.5])
def test_the_model_is_the_oracles(name: str, scale: float):
    base = awkward(name)
    base = base[np.isfinite([oracle.value(x, name) for x in base])]
    tau = np.resize(np.array([0.0, -0.0, 1e-3, -0.7, 1e-42], np.float32), base.size)
    expected = oracle.model(base, name, tau, np.float32(scale))
    found = np.empty(base.size, np.float32)
    assert kernels.finish(operand(base, by_name(name)), tau, np.float32(scale), found) == np.isfinite(expected).all()
    assert_bits(found, expected)
    still = tau == 0  # the base's own bits there, -0.0 too
    assert_bits(found[still], np.array([oracle.value(x, name) for x in base[still]], np.float32))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rounding_to_two_bytes(name: str):
    """Every value of the format, what lies beside it and half-way to the next, and any patterns."""
    rng = np.random.default_rng(0)
    exact = np.array([oracle.value(x, name) for x in np.arange(1 << 16, dtype=np.uint16).view(by_name(name).storage)])
    last = 13 if name == "float16" else 16  # bits that are cut off
    beside = [exact.view(np.uint32) + np.uint32(d) for d in (0, 1, 2 ** (last - 1) - 1, 2 ** (last - 1) + 1)]
    bits = [*beside, exact.view(np.uint32) + np.uint32(2 ** (last - 1)), rng.integers(0, 1 << 32, 1 << 16, np.uint32)]
    values = np.concatenate(bits).view(np.float32)
    values = np.concatenate([values[~np.isnan(values)], [np.float32(np.nan)], [-np.float32(np.nan)]]).astype(np.float32)
    infinite, out = kernels.INFINITE_OF_16_BITS[by_name(name).code], np.empty(values.size, by_name(name).storage)
    assert not kernels.narrow(values, operand(out, by_name(name)), infinite)
    expected = from_float32(values, by_name(name))
    nan = np.isnan(values)
    assert np.array_equal(out[~nan].view(np.uint16), expected[~nan].view(np.uint16))
    assert np.isnan(to_float32(out[nan], by_name(name))).all()
    with np.errstate(over="ignore"):
        fits = np.isfinite(to_float32(expected, by_name(name)))
    out = np.empty(fits.sum(), by_name(name).storage)
    assert kernels.narrow(values[fits], operand(out, by_name(name)), infinite)
    largest = np.array([0x477FEFFF if name == "float16" else 0x7F7F7FFF], np.uint32).view(np.float32)  # below half-way
    assert kernels.narrow(largest, operand(out[:1], by_name(name)), infinite)
    assert not kernels.narrow(np.nextafter(largest, np.float32(np.inf)), operand(out[:1], by_name(name)), infinite)


# Laws


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_less_itself_is_zero_and_unchanged(name: str):
    stored = awkward(name)
    stored = operand(stored[np.isfinite([oracle.value(x, name) for x in stored])], by_name(name))
    found = np.full(stored.size, 9, np.float32)
    assert kernels.subtract(stored, stored, found) == (True, False)
    assert not found.any()


@every_pair
def test_the_other_way_round_is_the_negative(task: str, base: str):
    of_task, of_base = (operand(x, by_name(n)) for x, n in zip(crossed(task, base), (task, base), strict=True))
    one, other = np.empty(of_task.size, np.float32), np.empty(of_task.size, np.float32)
    assert kernels.subtract(of_task, of_base, one) == kernels.subtract(of_base, of_task, other)
    assert np.array_equal(one, -other, equal_nan=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_seen_anywhere(name: str, wrong: float):
    out = np.empty(67, np.float32)
    for place in range(67):
        values = np.zeros(67, np.float32)
        values[place] = wrong
        stored = operand(from_float32(values, by_name(name)), by_name(name))
        zeros = operand(from_float32(np.zeros(67, np.float32), by_name(name)), by_name(name))
        assert kernels.subtract(stored, zeros, out) == (False, True)
        assert kernels.subtract(zeros, stored, out) == (False, True)
        assert kernels.convert(stored, out) == kernels.survey(stored) == (False, True)
        assert not kernels.finish(stored, np.zeros(67, np.float32), np.float32(1), out)


def test_a_negative_zero_is_kept_and_is_no_change():
    zeros, negative = np.zeros(5, np.float32), np.full(5, -0.0, np.float32)
    out = np.empty(5, np.float32)
    assert kernels.subtract(negative, zeros, out) == (True, False)
    assert np.signbit(out).all()
    assert kernels.convert(negative, out) == (True, False)
    assert np.signbit(out).all()


def test_two_finite_values_may_lie_too_far_apart():
    far = np.array([3e38], np.float32)
    assert kernels.subtract(far, -far, np.empty(1, np.float32)) == (False, True)


def test_nothing_is_finite_and_unchanged():
    empty = np.empty(0, np.float32)
    assert kernels.subtract(empty, empty, empty) == kernels.convert(empty, empty) == (True, False)


@pytest.mark.parametrize("name", FORMATS)
def test_elements_at_odd_addresses(name: str):
    stored = awkward(name)
    shifted = np.frombuffer(b"x" + stored.tobytes(), np.uint8)[1:].view(stored.dtype)
    assert not shifted.flags.aligned
    one, other = np.empty(stored.size, np.float32), np.empty(stored.size, np.float32)
    kernels.convert(operand(stored, by_name(name)), one)
    kernels.convert(operand(shifted, by_name(name)), other)
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_without_the_compiler_it_is_the_same(name: str):
    stored = operand(awkward(name), by_name(name))
    with np.errstate(all="ignore"):
        slow = np.array([kernels.widen(x) for x in stored], np.float32)
        if stored.dtype.itemsize == 2:
            back = np.array([kernels.narrowed(x, stored[0]) for x in slow[np.isfinite(slow)]])
            assert np.array_equal(back, stored[np.isfinite(slow)])
    fast = np.empty(stored.size, np.float32)
    kernels.convert(stored, fast)
    assert_bits(fast, slow)


def test_what_is_no_float_is_refused():
    for name in ("int8", "float8_e4m3fn"):
        with pytest.raises(UnsupportedDtype, match=f"^{name} is not a float format$"):
            operand(np.zeros(1, by_name(name).storage), by_name(name))


# Through the reader


def reader(task: np.ndarray, base: np.ndarray, *, held: bool = False) -> TaskVectors:
    """Of one tensor in memory."""
    opened = [
        Input.of(from_state_dict({"w": values}, name=name), name) for name, values in (("base", base), ("a", task))
    ]
    reading = Reading.of(opened[0], opened[1:], hashed=True)
    info: TensorInfo = opened[0].checkpoint.tensors["w"]
    return TaskVectors.of(reading, info, ["w"], held=held)


@pytest.mark.parametrize(("task", "base"), list(product(("float32", "float16", "float64"), repeat=2)))
@pytest.mark.parametrize("held", [False, True])
def test_blocks_of_any_size_give_the_same(task: str, base: str, held: bool):
    rng = np.random.default_rng(0)
    of_task, of_base = (rng.standard_normal((301, 233)).astype(name) for name in (task, base))
    narrower = task == "float16" != base
    expected = oracle.vector(of_task.ravel(), task, of_base.ravel(), base, rounding=narrower)
    for block in (1 << 20, 4096, 7, 1):
        vectors = reader(of_task, of_base, held=held)
        assert vectors.readers[0].shape == vectors.shape
        assert (vectors.shape, vectors.size, vectors.changed) == ((301, 233), 301 * 233, False)
        last = vectors.size if block > 7 else 65_800  # around the end of the first chunk, at 1 << 16
        for start in range(65_300 if block <= 7 else 0, last, block):
            stop = min(start + block, last)
            out = np.empty(stop - start, np.float32)
            assert vectors.read(0, start, stop, out)
            assert out.tobytes() == expected[start:stop].tobytes()
            assert (
                vectors.base(start, stop).tobytes() == to_float32(of_base.ravel()[start:stop], by_name(base)).tobytes()
            )
        assert vectors.changed


@pytest.mark.parametrize("held", [False, True])
def test_what_was_read_for_one_plan_says_nothing_of_another(held: bool):
    vectors = reader(np.ones(5, np.float32), np.zeros(5, np.float32), held=held)
    other = vectors.again()
    vectors.read(0, 0, 5, np.empty(5, np.float32))
    assert (vectors.changed, other.changed, vectors.again().changed) == (True, False, False)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("way", ["read", "gather", "model"])
@pytest.mark.parametrize("whose", ["base", "a"])
def test_the_first_wrong_value_is_named(held: bool, way: str, whose: str):
    models = {name: np.zeros(70_000, np.float32) for name in ("base", "a")}
    models[whose][[66_000, 66_001]] = np.inf, np.nan
    vectors = reader(models["a"], models["base"], held=held)
    asks = {
        "read": lambda: vectors.read(0, 0, 70_000, np.empty(70_000, np.float32)),
        "gather": lambda: vectors.gather(0, np.array([3, 66_000, 66_001]), np.empty(3, np.float32)),
        "model": lambda: vectors.model(None if whose == "base" else 0, 0, 70_000),
    }
    with pytest.raises(NonFiniteValue, match=rf"^{whose} \({whose}\): tensor 'w' holds inf at element 66000; every "):
        asks[way]()
