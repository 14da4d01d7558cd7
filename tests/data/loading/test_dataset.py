"""Data sets and functions of items, against lists, torch and hand-written figures."""

from __future__ import annotations

import pickle
import warnings
from collections import namedtuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fnlamp import data
from fnlamp.data import array_dataset, at, compose, normalize, random_split, subset, to_float, with_transform
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, SizesMismatch

Pair = namedtuple("Pair", "x y")


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="torch comes with the extra parity")


def fault(function, *arguments, **options):
    with pytest.raises(FaultError) as caught:
        function(*arguments, **options)
    return caught.value.fault


def test_items_of_arrays_are_rows():
    x, y = np.arange(12).reshape(4, 3), [5, 6, 7, 8]
    rows = array_dataset(x, y)
    assert len(rows) == 4
    for i in (0, 3, -1, -4, np.int64(2)):
        features, label = rows[i]
        np.testing.assert_array_equal(features, x[i])
        assert label == y[i]
    assert [int(label) for _, label in rows] == y  # iteration ends by IndexError, as for a list
    for i in (4, -5):
        with pytest.raises(IndexError):
            rows[i]
    with pytest.raises(TypeError):
        rows["0"]
    assert rows.arrays[0] is x
    assert repr(rows) == "<Arrays: 4 rows of (int64[3], int64[])>"


def test_arrays_must_agree_and_hold_numbers():
    assert isinstance(fault(array_dataset, np.zeros(3), np.zeros(4)), ShapeMismatch)
    assert isinstance(fault(array_dataset, np.float32(1)), ShapeMismatch)
    found = fault(array_dataset, np.zeros(2), ["a", "b"])
    assert isinstance(found, DtypeMismatch)
    assert found.where == "array_dataset/1"
    with pytest.raises(ValueError, match="at least one"):
        array_dataset()
    for wrong in (np.zeros(2, [("a", "f4")]), np.zeros(2, "V4"), np.zeros(2, "M8[s]"), np.array([None, 1])):
        assert isinstance(fault(array_dataset, wrong), DtypeMismatch), wrong.dtype
    assert "filled" in fault(array_dataset, np.ma.array([1.0, 2.0], mask=[0, 1])).hint
    assert array_dataset(np.zeros(2, ml_dtypes.bfloat16)).arrays[0].dtype == ml_dtypes.bfloat16


def test_a_dict_of_arrays_has_items_that_are_dicts():
    x = np.arange(6).reshape(3, 2)
    rows = array_dataset({"x": x, "y": [7, 8, 9]})
    assert (len(rows), list(rows[-1]), rows[-1]["x"].tolist(), rows[1]["y"]) == (3, ["x", "y"], [4, 5], 8)
    assert rows.arrays["x"] is x
    assert len(list(rows)) == 3
    assert repr(rows) == "<Arrays: 3 rows of {x: int64[2], y: int64[]}>"
    assert fault(array_dataset, {"x": x, "y": ["a"] * 3}).where == "array_dataset/y"
    assert isinstance(fault(array_dataset, {"x": x, "y": [1]}), ShapeMismatch)
    with pytest.raises(ValueError, match="at least one"):
        array_dataset({})


def test_a_memory_map_stays_one(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert array_dataset(mapped).arrays[0] is mapped


@given(st.lists(st.integers(-5, 4), max_size=8), st.data())
def test_a_subset_equals_indexing_and_composes(indices, draw):
    letters = "abcde"
    part = subset(letters, indices)
    assert list(part) == [letters[i] for i in indices]
    again = draw.draw(st.lists(st.integers(-len(indices), len(indices) - 1), max_size=5)) if indices else []
    inner = subset(part, again)
    assert list(inner) == [letters[indices[i]] for i in again]
    assert inner.dataset is letters


def test_indices_are_checked():
    for wrong in ([5], [-6], [0, 99]):
        with pytest.raises(IndexError, match="5 rows"):
            subset("abcde", wrong)
    for wrong in ([True, False], [0.5], [[0]], 3):
        with pytest.raises(TypeError):
            subset("abcde", wrong)
    with pytest.raises(TypeError, match="flatnonzero"):
        subset("ab", np.array([True, False]))
    with pytest.raises(IndexError):
        subset("abcde", [1, 2])[2]


def test_a_subset_of_arrays_names_its_rows_without_copying():
    rows = array_dataset(np.arange(5))
    part = subset(subset(rows, [4, 1, 0]), [2, 0])
    assert part.arrays is rows.arrays
    assert part.among.tolist() == [0, 4]
    for array in (np.arange(5), jnp.arange(5)):
        assert subset(array, [0]).arrays is array
    assert not hasattr(subset("abc", [0]), "arrays")
    assert not hasattr(subset(with_transform(rows, str), [0]), "arrays")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 2**64))
def test_a_split_is_disjoint_covering_and_seeded(sizes, seed):
    rows = range(sum(sizes))
    parts = random_split(rows, sizes, seed=seed)
    assert [len(part) for part in parts] == sizes
    assert sorted(row for part in parts for row in part) == list(rows)
    again = random_split(rows, sizes, seed=seed)
    assert [list(part) for part in again] == [list(part) for part in parts]


def test_splits_of_two_seeds_differ():
    assert list(random_split(range(50), [25, 25], seed=0)[0]) != list(random_split(range(50), [25, 25], seed=1)[0])


@given(st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=60)
def test_fractions_are_rounded_as_torch_rounds(torch, rows, weights):
    fractions = [w / sum(weights) for w in weights]
    assume(sum(fractions) <= 1)  # torch refuses fractions that rounding made slightly too large
    with warnings.catch_warnings(action="ignore"):  # torch warns of an empty part
        theirs = torch.utils.data.random_split(range(rows), fractions)
    assert [len(part) for part in random_split(range(rows), fractions, seed=0)] == [len(part) for part in theirs]


@pytest.mark.parametrize("sizes", [[3, 3], [], [0.5, 0.4], [0.5, 0.6], [5.0, 5.0], [11]])
def test_sizes_that_do_not_add_up_are_a_fault(sizes):
    found = fault(random_split, range(10), sizes, seed=0)
    assert isinstance(found, SizesMismatch)
    assert (found.rows, found.sizes) == (10, tuple(sizes))


@pytest.mark.parametrize("sizes", [[-1, 11], [-0.5, 1.5], [float("nan"), 1.0]])
def test_sizes_below_zero_are_a_bug(sizes):
    with pytest.raises(ValueError, match="0 or more"):
        random_split(range(10), sizes, seed=0)


def test_a_tuple_of_arrays_is_not_a_data_set():
    x, y = np.zeros((4, 2)), np.zeros(4)
    for wrong in ((x, y), {"x": x, "y": y}, (jnp.zeros(3),), Pair(x, y)):
        assert "array_dataset" in fault(subset, wrong, [0]).hint
        assert "array_dataset" in fault(random_split, wrong, [0.5, 0.5], seed=0).hint
    for right in ([x, y], (1, 2), {0: x, 1: y}, {0: "a", 1: "b"}):
        assert len(subset(right, [1])) == 1


def test_a_seed_below_zero_is_a_bug():
    with pytest.raises(ValueError, match="a seed is 0 or more, got -1"):
        random_split(range(4), [2, 2], seed=-1)


def test_a_transform_is_lazy():
    asked = []
    rows = with_transform([1, 2, 3], lambda item: asked.append(item) or 10 * item)
    assert not asked
    assert (rows[1], rows[-1], len(rows), asked) == (20, 30, 3, [2, 3])
    assert list(rows) == [10, 20, 30]
    with pytest.raises(IndexError):
        rows[3]


def test_functions_compose_and_reach_one_part():
    assert compose()(5) == 5
    assert compose(abs, str, len)(-100) == 3
    assert at(1, abs)((-1, -2)) == (-1, 2)
    assert at(-1, abs)([-1, -2]) == (-1, 2)
    assert at(0, abs)(Pair(-1, -2)) == Pair(1, -2)
    item = {"x": -1, "y": -2}
    assert at("x", abs)(item) == {"x": 1, "y": -2}
    assert item["x"] == -1  # the data set's own item is unchanged


def test_functions_can_be_sent_to_a_process():
    function = compose(at(0, compose(to_float, normalize(0.5, 0.5))))
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    there = pickle.loads(pickle.dumps(function))
    np.testing.assert_array_equal(there((image, 1))[0], function((image, 1))[0])


def test_bytes_become_fractions_as_in_torch(torch):
    every = np.arange(256, dtype=np.uint8)
    ours = to_float(every)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, torch.from_numpy(every).to(torch.float32).div(255).numpy())


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32, np.bool_])
def test_only_bytes_have_a_known_range(dtype):
    assert isinstance(fault(to_float, np.zeros(3, dtype)), DtypeMismatch)


def test_normalising_is_torchvisions_formula(torch):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = np.random.default_rng(0).random((5, 4, 3), np.float32)
    wide = (torch.from_numpy(image).double() - torch.tensor(mean).double()) / torch.tensor(std).double()
    ours = normalize(mean, std)(image)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, wide.numpy(), rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(normalize(0.5, 0.25)(image[..., 0]), (image[..., 0] - 0.5) / 0.25, rtol=1e-6, atol=1e-6)


def test_normalising_other_dtypes_and_channels_is_a_fault():
    found = fault(normalize(0.5, 0.5), np.zeros((2, 2, 1), np.uint8))
    assert isinstance(found, DtypeMismatch)
    assert "to_float" in found.hint
    assert isinstance(fault(normalize((0, 0, 0), (1, 1, 1)), np.zeros((3, 2, 2), np.float32)), ShapeMismatch)
    assert isinstance(fault(normalize(0.0, 1.0), np.zeros(2, np.int64)), DtypeMismatch)
    for mean, std in [((0, 0), (1,)), (0, 0), (0, -1), (np.nan, 1), (0, np.inf), ((), ())]:
        with pytest.raises(ValueError, match="normalize needs"):
            normalize(mean, std)


def test_the_public_names_are_there():
    assert {"loader", "stack", "processes", "threads", "Workers", "Dataset", "Arrays", "Subset"} <= set(vars(data))
