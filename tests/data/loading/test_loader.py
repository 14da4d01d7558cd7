"""Loaders and collation against lists, NumPy and torch, in the caller's thread."""

from __future__ import annotations

from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import stream, train
from fnlamp.data import array_dataset, loader, random_split, stack, subset, threads, with_transform
from fnlamp.effect import Effect
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, ItemFailed, ShapeMismatch


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="torch comes with the extra parity")


def use(resource, function):
    """The result of `function` on the acquired stream."""
    outcome = resource.use(lambda s: Effect.suspend(lambda: function(s))).run()
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def batches(resource, state=None):
    return use(resource, lambda s: list(stream.items(s, state)))


def fault(resource):
    """The fault of acquiring or reading."""

    def read(s):
        return Effect.attempt(lambda: list(stream.items(s)), FaultError, lambda error: error.fault)

    outcome = resource.use(read).run()
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def same(left, right):
    assert type(left) is type(right)
    if isinstance(left, tuple | list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        same(list(left.values()), list(right.values()))
    else:
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


# ------------------------------------------------------------------------------- collation

Pair = namedtuple("Pair", "x y")


def test_structures_are_stacked_part_by_part():
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    same(stack([(x[0], 1), (x[1], 2)]), (x, np.array([1, 2], np.int32)))
    same(stack([Pair(x[0], True), Pair(x[1], False)]), Pair(x, np.array([True, False])))
    same(stack([{"a": {"b": x[0]}}, {"a": {"b": x[1]}}]), {"a": {"b": x}})
    same(stack([0.5, 2.0]), np.array([0.5, 2], np.float32))
    same(stack([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.int32))
    same(stack([[[0.5], [1.0]]]), np.array([[[0.5], [1]]], np.float32))
    same(stack([np.int64(3), np.int64(2**40)]), np.array([3, 2**40]))
    same(stack([jnp.ones(2), jnp.zeros(2)]), np.array([[1, 1], [0, 0]], np.float32))
    same(stack([np.float16(1)]), np.array([1], np.float16))


def test_tensors_and_images_become_arrays(torch):
    from PIL import Image

    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    same(stack([(torch.ones(2), Image.fromarray(image))]), (np.ones((1, 2), np.float32), image[None]))


@pytest.mark.parametrize(
    ("items", "kind", "where", "says"),
    [
        ([np.zeros(2), np.zeros(3)], ShapeMismatch, "item 1", "float64[3]"),
        ([np.zeros(2), np.zeros(2, np.float32)], DtypeMismatch, "item 1", "float32[2]"),
        ([(1, np.zeros(2)), (1, np.zeros(2)), (1, np.zeros(1))], ShapeMismatch, "item 2/1", "float64[1]"),
        ([{"a": {"b": 1}}, {"a": {"b": 1.0}}], DtypeMismatch, "item 1/a/b", "float"),
        ([{"a": 1}, {"b": 1}], ShapeMismatch, "item 1", "{b: int}"),
        ([(1,), (1, 2)], ShapeMismatch, "item 1", "(int, int)"),
        ([(1,), [1]], ShapeMismatch, "item 1", "tuple as in item 0, got list"),
        ([[1, 2], [3]], ShapeMismatch, "item 1", "int32[1]"),
        ([[[1], [1, 2]]], ShapeMismatch, "item 0/item 1", "int32[2]"),
        ([1, True], DtypeMismatch, "item 1", "bool"),
        ([1, 2**31], DtypeMismatch, "item 1", "int32 can hold"),
        ([-(2**31) - 1], DtypeMismatch, "item 0", "int32 can hold"),
        ([float("nan"), 1e39], DtypeMismatch, "item 1", "float32 can hold"),
        ([np.zeros(2), 5], ShapeMismatch, "item 1", "int"),
        (["a"], DtypeMismatch, "item 0", "str"),
        ([np.ma.array([1, 2], mask=[0, 1])], DtypeMismatch, "item 0", "without a mask"),
        ([np.zeros(2), np.ma.array([0.0, 2.0], mask=[0, 1])], DtypeMismatch, "item 1", "without a mask"),
        (list(np.ma.array([1.0, 2.0], mask=[0, 1])), DtypeMismatch, "item 1", "without a mask"),
        (list(np.zeros(2, [("a", "f4")])), DtypeMismatch, "item 0", "'<f4'"),
        ([(None, 1)], DtypeMismatch, "item 0/0", "NoneType"),
        ([np.array(["a"])], DtypeMismatch, "item 0", "<U1"),
        ([np.array([None])], DtypeMismatch, "item 0", "object"),
        ([object()], DtypeMismatch, "item 0", "collate"),
        ([], ShapeMismatch, "stack", "at least one"),
    ],
)
def test_items_that_do_not_fit_are_named(items, kind, where, says):
    with pytest.raises(FaultError) as caught:
        stack(items)
    found = caught.value.fault
    assert isinstance(found, kind), found
    assert found.where == where
    assert says in str(found)


def test_nan_and_infinity_pass():
    same(stack([float("nan"), float("-inf"), 3.4e38]), np.array([np.nan, -np.inf, 3.4e38], np.float32))


# ------------------------------------------------------------------------------- order and content


@given(st.integers(0, 20), st.integers(1, 7), st.booleans(), st.none() | st.integers(0, 9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_batches_are_those_of_the_list_in_its_order(rows, size, drop, seed, in_memory):
    x = np.arange(rows)
    data = array_dataset(x, 2 * x) if in_memory else [(x[i], 2 * x[i]) for i in range(rows)]
    order = x if seed is None else np.random.default_rng(seed).permutation(rows)
    model = [order[i : i + size] for i in range(0, rows, size)]
    if drop and rows % size:
        model.pop()
    options = {"batch_size": size, "drop_last": drop, "shuffle": seed is not None, "seed": seed}
    got = batches(loader(data, **options))
    same(got, [(chosen, 2 * chosen) for chosen in model])
    if model:
        start = len(model) // 2
        same(batches(loader(data, **options), start), got[start:])


def test_the_spec_describes_the_batches():
    data = [{"x": np.zeros((4, 3), np.uint8), "y": i} for i in range(10)]
    spec = use(loader(data, batch_size=4), lambda s: (s.spec, s.length))
    assert ({name: (leaf.shape, leaf.dtype) for name, leaf in spec[0].items()}, spec[1]) == (
        {"x": ((4, 4, 3), np.uint8), "y": ((4,), np.int32)},
        3,
    )
    assert use(loader(data, batch_size=64), lambda s: s.spec["y"].shape) == (10,)
    assert use(loader(data, batch_size=64, drop_last=True), lambda s: (s.spec["y"].shape, s.length)) == ((64,), 0)


def test_rows_in_memory_are_cut_in_a_compiled_view_without_workers():
    rows = array_dataset(np.arange(10), np.arange(10))
    part = random_split(rows, [7, 3], seed=0)[0]
    array = np.arange(10)
    for data in (rows, part, array, jnp.arange(10), subset(array, [3, 1, 2]), random_split(array, [7, 3], seed=0)[1]):
        made = loader(data, batch_size=3, shuffle=True, seed=1, workers=2)
        assert use(made, lambda s: s.view is not None)
        items = loader([data[i] for i in range(len(data))], batch_size=3)  # the same items one by one
        assert sorted(np.concatenate([b[0] for b in _tuples(batches(made))])) == sorted(
            np.concatenate([b[0] for b in _tuples(batches(items))])
        )
    assert use(loader(rows, batch_size=3, transform=lambda item: item), lambda s: s.view is None)
    same(batches(loader(part, batch_size=3)), batches(loader(list(part), batch_size=3)))


def _tuples(found):
    return [batch if isinstance(batch, tuple) else (batch,) for batch in found]


def test_a_memory_map_is_a_data_set(tmp_path):
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = loader(mapped, batch_size=4, shuffle=True, seed=0)
    order = np.random.default_rng(0).permutation(10)
    same(batches(made), [x[order[i : i + 4]] for i in (0, 4, 8)])
    assert all(type(batch) is np.ndarray for batch in batches(made))


def test_torchs_data_sets_are_data_sets(torch):
    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    data = torch.utils.data.TensorDataset(x, y)
    theirs = torch.utils.data.DataLoader(data, batch_size=2)
    ours = batches(loader(data, batch_size=2))
    for (a, b), (c, d) in zip(ours, theirs, strict=True):
        same((a, b), (c.numpy(), d.numpy()))
    same(batches(loader(torch.utils.data.Subset(data, [3, 1]), batch_size=2)), [(x[[3, 1]].numpy(), y[[3, 1]].numpy())])


class Many:
    """As Hugging Face's: a list of items for a list of indices."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 5:
            raise KeyError("five")
        return {"n": index}

    def __getitems__(self, indices):
        assert all(type(index) is int for index in indices)
        self.asked.append(indices)
        return [self[index] for index in indices]


def test_many_rows_are_requested_at_once():
    data = Many()
    same(batches(loader(subset(data, [4, 3, 2]), batch_size=2)), [{"n": np.array(n, np.int32)} for n in ([4, 3], [2])])
    assert data.asked == [[4], [4, 3], [2]]  # the first item alone, for the spec of a batch
    doubled = loader(subset(data, [1, 2]), batch_size=2, transform=lambda item: {"n": 2 * item["n"]})
    same(batches(doubled), [{"n": np.array([2, 4], np.int32)}])
    found = fault(loader(data, batch_size=6))
    assert isinstance(found, ItemFailed)
    assert (found.index, found.what) == (5, "KeyError: 'five'")
    found = fault(loader(data, batch_size=5, transform=lambda item: 1 // (item["n"] - 3)))
    assert (found.index, found.what.split(":")[0]) == (3, "ZeroDivisionError")
    assert "returned 1" in fault(loader(Fewer(), batch_size=2)).what


class Fewer(Many):
    """Leaves items out."""

    def __getitems__(self, indices):
        return [self[indices[0]]]


def test_augment_is_a_function_of_seed_and_row_and_comes_before_transform():
    data = [float(i) for i in range(8)]

    def jitter(generator, item):
        return item + generator.random()

    def made(seed, shuffle=False, **options):
        return loader(data, batch_size=8, seed=seed, shuffle=shuffle, augment=jitter, **options)

    plain = batches(made(1))[0]
    same(np.sort(batches(made(1, shuffle=True))[0]), np.sort(plain))  # the generator of a row does not depend on its position
    assert not np.array_equal(batches(made(2))[0], plain)
    noise = plain - np.arange(8)
    assert len(set(noise.tolist())) == 8
    assert 0 <= noise.min() <= noise.max() < 1
    np.testing.assert_allclose(batches(made(1, transform=lambda item: 100 * item))[0], 100 * plain, rtol=1e-6)


def test_a_users_own_collate():
    def padded(items):
        width = max(map(len, items))
        return np.array([item + [0] * (width - len(item)) for item in items]), np.array([len(item) for item in items])

    got = batches(loader([[1], [2, 3], [4, 5, 6]], batch_size=2, collate=padded))
    same(got, [(np.array([[1, 0], [2, 3]]), np.array([1, 2])), (np.array([[4, 5, 6]]), np.array([3]))])


# ------------------------------------------------------------------------------- failures


def test_an_exception_names_the_row_of_the_data_set():
    def broken(item):
        return 1 // (item - 7)

    found = fault(loader(range(10), batch_size=4, transform=broken))
    assert isinstance(found, ItemFailed)
    assert (found.index, found.what) == (7, "ZeroDivisionError: integer division or modulo by zero")
    assert "in broken" in found.error
    shuffled = fault(loader(range(10), batch_size=4, transform=broken, shuffle=True, seed=3))
    assert shuffled.index == 7
    assert fault(loader([1, 2], batch_size=1, collate=lambda items: 1 // 0)).what.startswith("ZeroDivisionError")


def test_a_typed_fault_of_a_transform_stays_one_and_says_where():
    from fnlamp.data import to_float

    found = fault(loader(with_transform([np.zeros(2), np.zeros(2)], to_float), batch_size=2))
    assert isinstance(found, DtypeMismatch)
    assert found.where == "item 0/to_float"


def test_items_of_another_shape_are_named_by_row():
    data = [np.zeros(2)] * 5 + [np.zeros(3)]
    found = fault(loader(data, batch_size=4))
    assert isinstance(found, ShapeMismatch)
    assert found.where == "item 5"
    found = fault(loader(data[:4] + data[5:] * 4, batch_size=4))  # each batch is consistent, but not with the others
    assert isinstance(found, ShapeMismatch)
    assert found.where == "batch 1"
    assert isinstance(fault(loader([1, 2, 3.0, 4.0], batch_size=2)), ShapeMismatch)


@pytest.mark.parametrize(
    "array",
    [np.array(["a", "b"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]"), np.ma.array([1, 2], mask=[0, 1])],
    ids=["text", "records", "dates", "masked"],
)
def test_arrays_of_anything_but_numbers_are_a_fault_however_they_are_read(array):
    for data in (array, subset(array, [1, 0]), list(array)):
        assert isinstance(fault(loader(data, batch_size=2)), DtypeMismatch)
    assert isinstance(fault(loader([0, 1], batch_size=2, collate=lambda items: array[items])), DtypeMismatch)


def test_a_tuple_of_arrays_is_not_a_data_set():
    x, y = np.zeros(4), np.zeros(4)
    for data in ((x, y), {"x": x, "y": y}):
        for options in ({}, {"transform": abs}):
            found = fault(loader(data, batch_size=2, **options))
            assert isinstance(found, ShapeMismatch)
            assert "array_dataset" in found.hint
    same(batches(loader(array_dataset({"x": x}), batch_size=4)), [{"x": x}])


def test_an_empty_data_set_says_why_there_is_no_batch():
    for data in ([], array_dataset(np.zeros((0, 2)))):
        s = use(loader(data, batch_size=3), lambda s: s)
        assert s.length == 0
        assert s.why_empty == EmptyEpoch(0, 3, False)


def test_options_that_mean_nothing_are_bugs():
    with pytest.raises(ValueError, match="seed"):
        loader([1], batch_size=1, shuffle=True)
    with pytest.raises(ValueError, match="seed"):
        loader([1], batch_size=1, augment=lambda generator, item: item)
    for wrong in ({"batch_size": 0}, {"batch_size": 1, "workers": -1}, {"batch_size": 1, "prefetch": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            loader([1], **wrong)
    with pytest.raises(ValueError, match="a seed is 0 or more, got -1"):
        loader([1], batch_size=1, shuffle=True, seed=-1)
    with pytest.raises(ValueError, match="at least 1 worker"):
        threads(0)


def test_nothing_is_loaded_before_it_is_run():
    asked = []
    data = with_transform(range(4), lambda item: asked.append(item) or item)
    made = loader(data, batch_size=2)
    assert not asked
    same(batches(made), [np.array([0, 1], np.int32), np.array([2, 3], np.int32)])


def test_training_reads_a_loader():
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    data = [(row, 3 * row) for row in x]
    from fnlamp import loss, nn, optim
    from fnlamp.effect import Runtime

    program = train.epochs(
        model=train.supervised(nn.linear(1), loss.mse()),
        optimizer=optim.adamw(learning_rate=0.1),
        train_batches=lambda context: loader(data, batch_size=8, shuffle=True, seed=context.seed, workers=0),
        epochs=20,
        seed=0,
    )
    outcome = program.run(Runtime(log=None))
    assert is_successful(outcome), outcome
    assert unsafe_perform_io(outcome.unwrap()).curve[-1].train_loss < 0.01
