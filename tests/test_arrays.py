"""Names and descriptions of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp.arrays import (
    array_spec,
    describe,
    is_float,
    is_integer,
    platform,
    spec_after,
    spec_of,
    take_rows,
    to_device,
    tracing,
)
from fnlamp.fault import DtypeMismatch, FaultError


def test_spec_of_gives_the_dtype_on_the_device() -> None:
    specs = spec_of({"a": np.zeros((2, 3)), "b": (np.zeros(4, np.int64), 1.5), "c": jnp.zeros(2, jnp.bfloat16)})
    assert specs == {
        "a": array_spec((2, 3), jnp.float32),
        "b": (array_spec((4,), jnp.int32), array_spec((), jnp.float32)),
        "c": array_spec((2,), jnp.bfloat16),
    }


def test_spec_of_keeps_64_bits_where_they_are_enabled() -> None:
    with jax.enable_x64(True):
        assert spec_of(np.zeros(3)).dtype == np.float64


def test_spec_after_computes_nothing() -> None:
    huge = array_spec((10**6, 10**6), jnp.float32)
    assert spec_after(lambda x, y: x @ y, huge, huge) == huge


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (np.zeros((32, 784), np.float32), "float32[32, 784]"),
        (jnp.zeros(()), "float32[]"),
        ({"x": np.zeros(2, np.uint8), "y": (np.zeros(1, bool),)}, "{x: uint8[2], y: (bool[1])}"),
        ([1], "(int)"),
        (None, "NoneType"),
    ],
)
def test_describe(tree: object, text: str) -> None:
    assert describe(tree) == text


@pytest.mark.parametrize(
    ("dtype", "float_", "integer"),
    [
        ("float32", True, False),
        ("bfloat16", True, False),
        ("int32", False, True),
        ("uint8", False, True),
        ("bool", False, False),
    ],
)
def test_kinds_of_numbers(dtype: str, float_: bool, integer: bool) -> None:
    spec = array_spec((2,), jnp.dtype(dtype))
    assert (is_float(spec), is_integer(spec)) == (float_, integer)


@pytest.mark.parametrize("module", [np, jnp])
def test_take_rows(module: object) -> None:
    array = module.arange(12).reshape(6, 2)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(take_rows(array, np.array([5, 0, 5])), [[10, 11], [0, 1], [10, 11]])


def _unaligned(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize(
    "form",
    [np.asfortranarray, _unaligned, lambda a: np.repeat(a, 2, axis=0)[::2], lambda a: a.astype(">i4"), lambda a: a[:, 0]],
    ids=["fortran", "unaligned", "strided", "swapped", "one-dimensional"],
)
@pytest.mark.parametrize(
    "rows", [np.array([5, 0, 5], np.int32), np.array([[1, 2], [3, 4]]), slice(1, 3)], ids=["1d", "2d", "slice"]
)
def test_take_rows_of_any_layout_is_indexing(form, rows, tmp_path) -> None:
    array = form(np.arange(12, dtype=np.int32).reshape(6, 2))
    taken = take_rows(array, rows)
    assert taken.dtype == array.dtype
    np.testing.assert_array_equal(taken, array[rows])


def test_take_rows_of_a_mapped_file_reads_those_rows(tmp_path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(12).reshape(6, 2))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(take_rows(mapped, np.array([5, 0])), [[10, 11], [0, 1]])


def test_to_device_copies_so_that_later_changes_of_the_host_array_do_not_reach_it() -> None:
    for _ in range(200):  # sharing memory, or reading it late, depends on chance
        host = np.zeros(64, np.float32)
        there = to_device(host)
        host[:] = 1
        assert isinstance(there, jax.Array)
        assert there.sum() == 0


@pytest.mark.parametrize(
    ("dtype", "value", "where"),
    [(np.int64, 2**31, "2147483648"), (np.int64, -(2**31) - 1, "-2147483649"), (np.uint64, 2**32, "")],
)
def test_to_device_does_not_wrap_large_integers_around(dtype: type, value: int, where: str) -> None:
    with pytest.raises(FaultError) as caught:
        to_device(np.array([0, value], dtype))
    assert isinstance(caught.value.fault, DtypeMismatch)
    assert where in str(caught.value)


def test_to_device_narrows_integers_that_fit() -> None:
    there = to_device(np.array([2**31 - 1, -(2**31)]))
    assert there.dtype == jnp.int32
    assert there.tolist() == [2**31 - 1, -(2**31)]
    assert to_device(np.zeros(0, np.int64)).shape == (0,)


def test_tracing() -> None:
    seen = []
    jax.jit(lambda x: seen.append(tracing()) or x)(1.0)  # type: ignore[func-returns-value]
    jax.grad(lambda x: seen.append(tracing()) or x)(1.0)  # type: ignore[func-returns-value]
    assert [*seen, tracing()] == [True, True, False]


def test_the_platform_is_the_default_devices() -> None:
    assert platform() == jax.default_backend()
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform() == "cpu"
    with jax.default_device("cpu"):
        assert platform() == "cpu"
