"""Rows are taken by position, in whatever form data is given; what does not convert exactly is a fault that names its type."""

from __future__ import annotations

import array
import collections
import warnings
from functools import partial

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.arrays import first_not_finite, to_device
from fnlamp.convert import as_array, as_arrays
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([102, 100, 101, 105, 103, 104])
SHUFFLED = np.array([2, 0, 1, 5, 3, 4])


@pytest.fixture(scope="session")
def pd():
    return pytest.importorskip("pandas", reason="pandas comes with the extra parity")


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="torch comes with the extra parity")


def loaded(resource):
    """The batches of a resource; its fault is raised."""

    def read(s):
        return Effect.attempt(lambda: list(stream.items(s)), FaultError, lambda error: error.fault)

    outcome = resource.use(read).run()
    if not is_successful(outcome):
        raise FaultError(unsafe_perform_io(outcome.failure()))
    return unsafe_perform_io(outcome.unwrap())


def fault(call, *arguments, **options):
    with pytest.raises(FaultError) as caught:
        call(*arguments, **options)
    return caught.value.fault


def rows(batches):
    return np.concatenate([np.asarray(batch) for batch in batches])


DOORS = {
    "minibatches": lambda x, y: rows(b[1] for b in stream.items(stream.minibatches(x, y, batch_size=4))),
    "full_batch": lambda x, y: rows(b[1] for b in stream.items(stream.full_batch(x, y))),
    "from_arrays": lambda x, y: rows(b["y"] for b in stream.items(stream.from_arrays({"y": y}, batch_size=4))),
    "of some": lambda x, y: rows(stream.items(stream.from_arrays(y, batch_size=4, among=[5, 0, 2])))[[1, 2, 0]],
    "data set": lambda x, y: rows(b[1] for b in loaded(data.loader(data.array_dataset(x, y), batch_size=4))),
    "loader": lambda x, y: rows(loaded(data.loader(y, batch_size=4))),
    "transform": lambda x, y: rows(loaded(data.loader(y, batch_size=4, transform=np.asarray))),
    "subset": lambda x, y: rows(loaded(data.loader(data.subset(y, range(6)), batch_size=4))),
    "with_transform": lambda x, y: rows(loaded(data.loader(data.with_transform(y, np.asarray), batch_size=4))),
    "items": lambda x, y: rows(b[1] for b in stream.items(stream.from_items([(x, y)]))),
    "function": lambda x, y: rows(b[1] for b in stream.items(stream.from_function(2, lambda i: (x, y)).take(1))),
    "iterable": lambda x, y: rows(b[1] for b in loaded(stream.from_iterable(lambda: iter([(x, y)])))),
    "host map": lambda x, y: rows(b[1] for b in stream.items(mapped(x, y))),
    "collate": lambda x, y: rows(b[1] for b in loaded(data.loader([0], batch_size=1, collate=lambda items: (x, y)))),
    "padded": lambda x, y: rows(b[1] for b in stream.items(data.padded_batches([[1]] * 6, batch_size=4, pad=0, targets=y))),
}


def mapped(x, y):
    """A stream whose host function makes both."""
    numbers = np.zeros(6, np.float32)
    one = stream.full_batch(numbers, numbers)
    return one.map(lambda batch: (x, y), spec=one.spec)


def expected(door, y=Y):
    return y[[0, 2, 5]] if door == "of some" else y


def test_the_column_of_a_shuffled_frame(pd):
    frame = pd.DataFrame({"v": [0.0, 1.0, 2.0], "t": [100, 101, 102]}).iloc[[2, 0, 1]]
    ((x, y),) = stream.items(stream.minibatches(frame[["v"]].to_numpy(), frame["t"], batch_size=3))
    assert y.tolist() == [102, 100, 101]
    assert x.tolist() == [[2.0], [0.0], [1.0]]


INDICES = {
    "shuffled": lambda pd: SHUFFLED,
    "duplicate": lambda pd: [0, 0, 1, 1, 0, 0],
    "text": lambda pd: list("fbadce"),
    "beyond": lambda pd: np.arange(6) + 10**9,
    "negative": lambda pd: -np.arange(6),
    "multi": lambda pd: pd.MultiIndex.from_tuples([(1, 2), (0, 1), (0, 0), (5, 5), (1, 1), (0, 1)]),
    "dates": lambda pd: pd.date_range("2020", periods=6)[::-1],
    "fractions": lambda pd: [0.5, 3.0, 2.0, 1.0, 0.0, 9.5],
}


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("door", DOORS)
def test_a_series_of_any_index_is_its_values(pd, door, index):
    y = pd.Series(Y, index=INDICES[index](pd))
    np.testing.assert_array_equal(DOORS[door](X, y), expected(door))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("index", ["shuffled", "duplicate", "multi"])
def test_a_frame_is_rows_of_its_values(pd, door, index):
    wide = np.stack([Y, 2 * Y, 3 * Y], axis=1).astype(np.float64)
    frame = pd.DataFrame(wide, columns=["b", "a", "b"], index=INDICES[index](pd))
    np.testing.assert_array_equal(DOORS[door](X, frame), expected(door, wide))


@pytest.mark.parametrize("door", DOORS)
def test_a_matrix_gives_rows_without_an_extra_axis(door):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(np.stack([Y, Y], axis=1))
    np.testing.assert_array_equal(DOORS[door](X, matrix), expected(door, np.asarray(matrix)))


@pytest.mark.parametrize("door", DOORS)
def test_a_tensor_is_its_numbers(torch, door):
    np.testing.assert_array_equal(DOORS[door](X, torch.as_tensor(Y)), expected(door))
    np.testing.assert_array_equal(DOORS[door](X, torch.as_tensor(Y * 1.0)[None].T), expected(door, Y[:, None] * 1.0))


class Labelled:
    """Like xarray's arrays: indexed by labels, converted with `__array__`."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def to_numpy(self):
        return self.values


class OnDisk:
    """Like arrays of HDF5 and Zarr: read by indexing, with ascending row numbers only."""

    def __init__(self, values):
        self._values = np.asarray(values)
        self.shape, self.dtype = self._values.shape, self._values.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        if isinstance(key, np.ndarray | list) and not (np.diff(key) > 0).all():
            raise TypeError("Indexing elements must be in increasing order")
        return self._values[key]


class Converting:
    """Has nothing but `__array__`."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return self._values


class Frame:
    """Like frames of polars: columns, indexed by name."""

    def __init__(self, columns):
        self._columns = columns

    @property
    def shape(self):
        return len(self), len(self._columns)

    def get_columns(self):
        return self._columns

    def __len__(self):
        return len(self._columns[0])

    def __getitem__(self, name):
        raise KeyError(name)


class Column(Labelled):
    """Like a Series of polars."""

    def __init__(self, name, values, nulls=()):
        super().__init__(values)
        self.name, self.nulls = name, nulls

    def null_count(self):
        return len(self.nulls)

    def is_null(self):
        return np.isin(np.arange(len(self)), self.nulls)


FORMS = {
    "labelled": Labelled,
    "on disk": OnDisk,
    "list": lambda y: y.tolist(),
    "numbers of NumPy": list,
    "array.array": lambda y: array.array("q", y.tolist()),
    "memory": lambda y: memoryview(np.ascontiguousarray(y)),
    "big-endian": lambda y: y.astype(">i8"),
    "objects": lambda y: y.astype(object),
    "backwards": lambda y: y[::-1].copy()[::-1],
    "every other": lambda y: np.repeat(y, 2)[::2],
    "unaligned": lambda y: np.frombuffer(b"x" + y.tobytes(), np.int8)[1:].view(y.dtype),
    "read-only": lambda y: np.frombuffer(y.tobytes(), y.dtype),
    "deque": lambda y: collections.deque(y.tolist()),
    "jax": jnp.asarray,
    "list of jax": lambda y: list(jnp.asarray(y)),
    "subclass": lambda y: y.view(type("Ours", (np.ndarray,), {})),
    "long double": lambda y: y.astype(np.longdouble),
    "polars": lambda y: Column("y", y),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", ["minibatches", "data set", "loader", "items", "host map", "collate", "padded", "of some"])
def test_the_same_numbers_in_any_form(form, door):
    y = FORMS[form](Y)
    if door == "loader" and form in ("list", "numbers of NumPy", "array.array", "memory", "deque", "list of jax"):
        y = data.array_dataset(y)
        np.testing.assert_array_equal(rows(b[0] for b in loaded(data.loader(y, batch_size=4))), Y)
        return
    np.testing.assert_array_equal(DOORS[door](X, y), expected(door))


def test_data_that_needs_no_conversion_is_not_copied():
    assert as_array(X) is X
    assert as_arrays({"x": (X, Y)})["x"][0] is X
    device = jnp.asarray(X)
    assert as_array(device) is device
    whole = (X, Y)
    assert as_arrays(whole) is whole
    strided = X[::2]
    assert as_array(strided) is strided


def test_a_mapped_array_stays_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "big.npy", X.astype(">f4"))
    mapped, big = (np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "big.npy"))
    assert as_array(mapped) is mapped
    for each in (mapped, big):
        s = stream.minibatches(each, Y, batch_size=4)
        assert s.view is None
        assert s.spec[0].dtype == np.dtype(np.float32)
        found = list(stream.items(s))
        assert all(x.dtype.isnative for x, _ in found)
        np.testing.assert_array_equal(rows(x for x, _ in found), X)


NUMBERS = {
    "Int64": ([1, 2**62, -3], "Int64", np.int64),
    "Float64": ([0.5, -1.0, 2.0], "Float64", np.float64),
    "boolean": ([True, False, True], "boolean", np.bool_),
    "UInt8": ([1, 2, 255], "UInt8", np.uint8),
    "Int64 of Arrow": ([1, 2**62, -3], "int64[pyarrow]", np.int64),
    "categories": ([30, 10, 30], "category", np.int64),
    "sparse": ([0.0, 0.0, 2.5], "Sparse[float64]", np.float64),
    "objects": ([1, 2, 3], "object", np.int64),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_of_numbers_are_exact(pd, kind):
    values, name, dtype = NUMBERS[kind]
    column = pd.Series(values, dtype=name, index=[7, 7, 0])
    made = as_array(column)
    assert (made.dtype, made.tolist()) == (dtype, values)
    assert as_array(column.to_frame("a")).tolist() == [[value] for value in values]
    assert as_array(pd.Index(values)).tolist() == values


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "Int64 of Arrow", "categories"])
def test_a_missing_value_is_not_a_number(pd, kind):
    values, name, _ = NUMBERS[kind]
    column = pd.Series([*values, None], dtype=name, index=[3, 2, 1, 0])
    for given in (column, column.to_frame("a"), pd.DataFrame({"b": np.arange(4), "a": column.array})):
        found = fault(stream.minibatches, X[:4], given, batch_size=2)
        assert isinstance(found, DtypeMismatch)
        assert "without a value in row 3" in str(found)
        assert "dropna" in found.hint
    assert np.isnan(as_array(pd.Series([1.0, None])))[1]  # NaN is a valid number of NumPy's floats


def test_columns_of_several_dtypes_are_joined_exactly(pd):
    frame = pd.DataFrame({"flag": [True, False], "count": [3, 4], "share": [0.5, 1.5]}, index=[1, 0])
    assert as_array(frame).tolist() == [[1, 3, 0.5], [0, 4, 1.5]]
    assert as_array(frame[["flag", "count"]]).dtype == np.int64
    assert as_array(frame.astype({"share": "float32", "count": "int8"})).dtype == np.float32
    large = fault(as_array, frame.assign(count=2**53 + 1), "minibatches/0")
    assert isinstance(large, DtypeMismatch)
    assert "in the column 'count'" in str(large)
    assert as_array(frame.assign(share=[2**60, 2**61])).tolist() == [[1, 3, 2**60], [0, 4, 2**61]]
    assert as_array(frame.iloc[:0]).shape == (0, 3)
    assert as_array(frame[[]]).shape == (2, 0)


def test_a_column_that_does_not_convert_is_named(pd):
    frame = pd.DataFrame({"age": [30, 40], "city": ["Paris", "Oslo"]})
    days = pd.Series(pd.date_range("2020", periods=2))
    for column, says in (
        (frame["city"], "'Paris'"),
        (frame["city"].astype("category"), "x.cat.codes"),
        (days, "datetime64"),
        (days.dt.tz_localize("UTC"), "Timestamp"),
        (days - days, "timedelta64"),
        (days.dt.to_period("D"), "Period"),
        (pd.cut(frame["age"], 2), "Interval"),
        (pd.Series([1, "2"]), "'2' (str) in row 1"),
    ):
        for given in (column, column.to_frame("city")):
            found = fault(stream.minibatches, np.zeros(2), given, batch_size=2)
            assert isinstance(found, DtypeMismatch)
            assert says in str(found)
            assert found.where.startswith("minibatches/1")
        assert found.where == "minibatches/1/city"
    found = fault(loaded, data.loader(frame, batch_size=2, transform=lambda row: row))
    assert isinstance(found, DtypeMismatch)
    assert 'to_dict("records")' in found.hint
    records = list(frame.to_dict("records"))
    (batch,) = loaded(data.loader(records, batch_size=2, transform=lambda row: {"age": row["age"], "city": len(row["city"])}))
    assert {name: part.tolist() for name, part in batch.items()} == {"age": [30, 40], "city": [5, 4]}


def test_streams_take_several_arrays_and_loaders_refuse_them(pd):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [4.0, 5.0, 6.0]}, index=[2, 1, 0])
    (batch,) = stream.items(stream.from_arrays(dict(frame), batch_size=3))
    assert {name: part.tolist() for name, part in batch.items()} == {"a": [1, 2, 3], "b": [4, 5, 6]}
    (batch,) = stream.items(stream.from_arrays([frame["a"], frame["b"]], batch_size=3))  # a list is one array
    assert batch.tolist() == [[1, 2, 3], [4, 5, 6]]
    for wrong in ({"a": frame["a"]}, (frame["a"], frame["b"]), {"a": [1, 2]}, dict(frame)):
        found = fault(loaded, data.loader(wrong, batch_size=2))
        assert isinstance(found, ShapeMismatch)
        assert "array_dataset" in found.hint


def test_frames_of_arrow_and_polars():
    pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra tables")
    table = pa.table({"a": [3, 1, 2], "b": [0.5, 1.5, 2.5]})
    for given in (table, table.to_batches()[0], pa.concat_tables([table[:1], table[1:]])):
        assert as_array(given).tolist() == [[3, 0.5], [1, 1.5], [2, 2.5]]
        np.testing.assert_array_equal(rows(loaded(data.loader(given, batch_size=2))), [[3, 0.5], [1, 1.5], [2, 2.5]])
    assert as_array(table["a"]).tolist() == [3, 1, 2]
    assert as_array(pa.array([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]]
    assert as_array(pa.array([7, 5, 7]).dictionary_encode()).tolist() == [7, 5, 7]
    assert "None (NoneType) in row 1" in str(fault(as_array, pa.array([[1, 2], [3, None]])))
    assert isinstance(fault(as_array, pa.array([[1, 2], [3]])), ShapeMismatch)
    assert "without a value in row 1" in str(fault(as_array, pa.array([1, None])))
    assert as_array(Frame([Column("a", [3, 1]), Column("b", [0.5, 1.5])])).tolist() == [[3, 0.5], [1, 1.5]]
    found = fault(as_array, Frame([Column("a", [3, 1]), Column("b", [0.5, np.nan], nulls=[1])]), "x")
    assert "x/b: " in str(found)
    assert "without a value in row 1" in str(found)


def test_an_array_of_hdf5_is_read_by_position(tmp_path):
    h5py = pytest.importorskip("h5py", reason="a stand-in is tested where it is not installed")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"], file["s"] = X, Y, ["a"] * 6
        np.testing.assert_array_equal(rows(loaded(data.loader(file["x"], batch_size=4, shuffle=True, seed=0))), shuffled(X, 0))
        s = stream.minibatches(file["x"], file["y"], batch_size=4, seed=3)
        np.testing.assert_array_equal(rows(y for _, y in stream.items(s)), shuffled(Y, 3))
        assert isinstance(fault(stream.full_batch, file["x"], file["s"]), DtypeMismatch)
        closed = file["x"]
    assert "h5py Dataset" in fault(stream.full_batch, closed, Y).actual


def shuffled(array, seed):
    return array[np.random.default_rng(seed).permutation(len(array))]


@pytest.mark.parametrize("door", ["minibatches", "data set", "items", "host map", "collate", "padded"])
def test_the_fault_for_anything_but_a_dense_array_says_what_to_write(door):
    eye = np.eye(6)
    for given, says in (
        (scipy.sparse.csr_matrix(eye), "x.toarray()"),
        (scipy.sparse.coo_array(eye), "x.toarray()"),
        (jax.experimental.sparse.BCOO.fromdense(jnp.eye(6)), "x.todense()"),
        ((x for x in eye), "can be read only once"),
        (map(float, range(6)), "can be read only once"),
        ({1, 2, 3, 4, 5, 6}, "give a list"),
        (collections.UserDict(x=eye), "give a dict"),
        ("abcdef", "encode"),
        (b"abcdef", "encode"),
        (object(), "object"),
        (len, "builtin_function"),
        (np.array(list("abcdef"), np.dtypes.StringDType()), "StringDType"),
        (np.zeros(6, "M8[D]"), "timedelta64"),
        (np.zeros(6, [("a", "f4"), ("b", "f4")]), "a dict of its fields"),
        (np.ma.array(np.arange(6), mask=[1, 0, 0, 0, 0, 0]), "filled"),
        ([np.ma.array([1], mask=[1])] * 6, "filled"),
        (np.array([1, 2, 3, None, 5, 6]), "None (NoneType) in row 3"),
        ([1, 2, "3", 4, 5, 6], "encode"),
        (jax.random.split(jax.random.key(0), 6), "key"),
    ):
        with pytest.raises(FaultError) as caught:
            DOORS[door](X, given)
        assert isinstance(caught.value.fault, DtypeMismatch)
        assert says in str(caught.value), given


def test_the_fault_for_tensors_that_do_not_convert_says_what_to_write(torch):
    for given, says in (
        (torch.ones(6, requires_grad=True), ".detach().cpu().numpy()"),
        (torch.nn.Parameter(torch.ones(6)), ".detach().cpu().numpy()"),
        (torch.ones(6, dtype=torch.bfloat16), ".float().numpy()"),
        (torch.eye(6).to_sparse(), ".to_dense().detach().cpu().numpy()"),
        (torch.ones(6, device="meta"), ".numpy()"),
        (torch.ones(6, dtype=torch.complex64).conj(), "resolve_conj"),
    ):
        for found in (
            fault(stream.minibatches, X, given, batch_size=4),
            fault(data.stack, [given, given]),
            fault(loaded, data.loader(given, batch_size=2)),
        ):
            assert isinstance(found, DtypeMismatch)
            assert says in str(found)
    assert as_array([torch.ones(2), torch.zeros(2)]).tolist() == [[1, 1], [0, 0]]


def test_batches_of_torchs_loader_are_batches(torch):
    dataset = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(Y))
    found = loaded(stream.from_iterable(lambda: torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert all(isinstance(part, np.ndarray) for batch in found for part in batch)
    np.testing.assert_array_equal(rows(y for _, y in found), Y)


RAGGED = {
    "rows": ([[1, 2], [1, 2], [3]], "[1] in row 2"),
    "depths": ([[1, 2], 3], "[] in row 1"),
    "inner": ([[[1], [1]], [[2], [2, 3]]], "[2] in row 1"),
    "arrays": ([np.zeros(2), np.zeros(2), np.zeros(3)], "float64[3] in row 2"),
    "mixed": ([np.zeros(2), 1.0], "float64[] in row 1"),
    "objects": (np.array([[1, 2], [3]], object), "[1] in row 1"),
}


@pytest.mark.parametrize("case", RAGGED)
def test_ragged_rows_are_named(case):
    given, says = RAGGED[case]
    for found in (
        fault(stream.minibatches, np.zeros(len(given)), given, batch_size=2),
        fault(data.array_dataset, given),
    ):
        assert isinstance(found, ShapeMismatch)
        assert says in str(found)
        assert "padded_batches" in found.hint


def test_integers_convert_exactly_or_are_a_fault():
    for given in ([2**63 - 1, -(2**63)], [2**64 - 1, 2**63], [2**53 + 1, 0], np.array([2**53 + 1, 2**62], object)):
        assert as_array(given).tolist() == list(given)
    for given in (
        [2**64, 0],
        [2**63 + 1, -1],
        [2**53 + 1, 0.5],
        [[2**53 + 1], [0.5]],
        np.array([2**64, True], object),
        [[2**64], [1]],
    ):
        assert isinstance(fault(stream.minibatches, np.zeros(2), given, batch_size=2), DtypeMismatch)
    assert as_array([2**53, 0.5]).tolist() == [2**53, 0.5]
    assert as_array([True, 2, 0.5]).tolist() == [1, 2, 0.5]
    assert isinstance(fault(as_array, [np.arange(2), np.array([0.5, 2.0**60]), np.array([2**53 + 1, 0])]), DtypeMismatch)
    assert as_array(range(2**40, 2**40 + 2)).tolist() == [2**40, 2**40 + 1]


def test_numbers_that_the_device_cannot_hold_are_a_fault():
    for large in (2**31, -(2**31) - 1, np.int64(2**40), [1, 2**40], np.array([2**32], np.uint64), np.array([2**40], ">i8")):
        assert "int32" in fault(to_device, large).expected
    for large in (1e39, np.float64(-1e300), [0.0, 1e39], np.array([np.inf, 1e39]), np.array([1e39j])):
        assert isinstance(fault(to_device, large), DtypeMismatch)
    kept = np.array([np.inf, -np.inf, np.nan, 3.4e38, 1e-50, 0.1])
    np.testing.assert_array_equal(np.asarray(to_device(kept)), kept.astype(np.float32))


def test_wide_and_narrow_floats_keep_their_values():
    third = np.longdouble(1) / 3
    assert as_array(np.array([0.5, np.nan, np.inf], np.longdouble)).dtype == np.float64
    if np.dtype(np.longdouble).itemsize > 8:
        assert "astype(np.float64)" in fault(as_array, np.array([third])).hint
        assert isinstance(fault(as_array, np.array([third], np.clongdouble)), DtypeMismatch)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.complex64, np.bool_, np.int8, np.uint64):
        assert as_array(np.ones(2, dtype)).dtype == dtype
        assert as_array(np.ones((), dtype)).shape == ()


def test_objects_that_hold_arrays_are_stacked(pd):
    column = pd.Series([np.float32([1, 2]), np.float32([3, 4])], index=[1, 0])
    assert as_array(column).tolist() == [[1, 2], [3, 4]]
    assert as_array(pd.Series([[1, 2], [3, 4]], index=[1, 0])).tolist() == [[1, 2], [3, 4]]
    assert as_array([pd.Series([1, 2], index=[1, 0])] * 2).tolist() == [[1, 2], [1, 2]]
    assert as_array(pd.Series([pd.Series([1, 2]), pd.Series([3, 4], index=[1, 0])])).tolist() == [[1, 2], [3, 4]]
    assert as_array(Converting(Y)).tolist() == Y.tolist()
    mixed = pd.DataFrame({"a": [[1, 2], [3, 4]], "b": [1, 2]})
    assert "the column 'b'" in str(fault(as_array, mixed))


# ------------------------------------------------------------------------------- text


def test_sequences_of_ids_are_taken_by_position(pd, torch):
    sequences = [[5, 6, 7], [8], [9, 9]]
    model = list(stream.items(data.padded_batches(sequences, 2, pad=0)))
    column = pd.Series(sequences, index=[2, 0, 1])
    forms = [column, np.array(sequences, object), tuple(sequences), [torch.tensor(each) for each in sequences]]
    forms += [
        [pd.Series(each, index=range(len(each), 0, -1)) for each in sequences],
        [np.array(each, ">i2") for each in sequences],
    ]
    for given in forms:
        found = list(stream.items(data.padded_batches(given, 2, pad=0)))
        for (ids, lengths), (ours, our_lengths) in zip(model, found, strict=True):
            np.testing.assert_array_equal(ids, ours)
            np.testing.assert_array_equal(lengths, our_lengths)
    frame = pd.DataFrame([[5, 6], [8, 9]], index=[1, 0])
    ((ids, _),) = stream.items(data.padded_batches(frame, 2, pad=0))
    assert ids.tolist() == [[5, 6], [8, 9]]
    for wrong in ("abc", {0: [1]}, (each for each in sequences), 5, None):
        with pytest.raises(TypeError, match="sequences is a list"):
            data.padded_batches(wrong, 2, pad=0)
    for wrong in ([5, 6], ["ab", "c"], [[1], None], [[1.5]], [np.ma.array([1], mask=[1])], [scipy.sparse.eye(2).tocsr()]):
        with pytest.raises(FaultError):
            list(stream.items(data.padded_batches(wrong, 2, pad=0)))


def test_a_corpus_is_taken_by_position(pd, torch):
    ids = np.random.default_rng(0).permutation(20)
    model = list(stream.items(data.language_model_batches(ids, 3, 2)))
    forms = [
        pd.Series(ids, index=ids),
        ids.tolist(),
        torch.as_tensor(ids),
        ids.astype(">u2"),
        OnDisk(ids),
        array.array("h", ids),
    ]
    forms += [pd.Series(ids, index=ids, dtype="Int64"), memoryview(ids), ids.astype(object)]
    for given in forms:
        found = list(stream.items(data.language_model_batches(given, 3, 2)))
        for batch, ours in zip(model, found, strict=True):
            np.testing.assert_array_equal(batch, ours)
    for wrong in ("to be", list("to be"), ids * 1.0, {1: 2}, (i for i in ids), None, pd.Series([1, None], dtype="Int64")):
        assert isinstance(fault(data.language_model_batches, wrong, 3, 2), DtypeMismatch | ShapeMismatch)


def test_paragraphs_are_taken_by_position(pd):
    paragraphs = [[[5, 6], [8, 9]], [[6, 6], [7, 5]]]
    make = partial(data.masked_batches, batch_size=2, maximum=8, vocabulary=10, cls=0, sep=1, mask=2, pad=3, seed=0)
    ((model, _),) = stream.items(make(paragraphs))
    for given in (
        pd.Series(paragraphs, index=[1, 0]),
        np.array(paragraphs),
        [pd.DataFrame(each, index=[1, 0]) for each in paragraphs],
        [[np.array(ids, ">i8") for ids in each] for each in paragraphs],
    ):
        ((found, _),) = stream.items(make(given))
        np.testing.assert_array_equal(found["ids"], model["ids"])
    for wrong, error in (("abc", TypeError), (iter(paragraphs), TypeError), (["ab"], FaultError), ([[["a"]]], FaultError)):
        with pytest.raises(error):
            make(wrong)


# ------------------------------------------------------------------------------- training


def trained(x, y):
    program = train.epochs(
        model=train.supervised(nn.linear(2), loss.cross_entropy()),
        optimizer=optim.sgdw(learning_rate=0.1),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=8, seed=context.seed),
        validation_batches=lambda context: stream.full_batch(x, y),
        metrics={"accuracy": loss.accuracy},
        epochs=2,
        seed=np.int64(0),
    )
    outcome = program.run(Runtime(log=None))
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


@pytest.mark.parametrize("form", ["frame", "nullable", "tensor", "on disk", "big-endian"])
def test_training_validation_and_prediction_are_those_of_the_same_numbers(pd, torch, form):
    x = np.random.default_rng(0).normal(size=(40, 2))
    y = (x[:, 0] > x[:, 1]).astype(np.int64)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y}, index=np.random.default_rng(1).permutation(40))
    features, target = {
        "frame": (frame[["a", "b"]], frame["y"]),
        "nullable": (frame.convert_dtypes()[["a", "b"]], frame.convert_dtypes()["y"]),
        "tensor": (torch.tensor(x), torch.tensor(y)),
        "on disk": (OnDisk(x), OnDisk(y)),
        "big-endian": (x.astype(">f8"), y.astype(">i2")),
    }[form]
    ours, theirs = trained(features, target), trained(x, y)
    assert [report.train_loss for report in ours.curve] == [report.train_loss for report in theirs.curve]
    assert ours.curve[-1].validation_metrics == theirs.curve[-1].validation_metrics
    np.testing.assert_array_equal(ours.predict(features), theirs.predict(x))


# ------------------------------------------------------------------------------- numbers without a value


def test_the_first_number_without_a_value_is_found(tmp_path):
    x = np.zeros((100_000, 3), np.float32)
    assert first_not_finite((x, {"y": np.arange(5)})) is None
    x[70_001, 2] = np.inf
    found = first_not_finite({"b": x, "a": np.zeros(4)})
    assert (found.path, found.row, found.column, found.value) == ("b", 70_001, 2, np.inf)
    assert str(found) == "inf in b, row 70,001, column 2"
    images = np.zeros((5, 2, 2, 3), ml_dtypes.bfloat16)
    images[4, 1, 0, 2] = np.nan
    assert first_not_finite((np.zeros(3), images))[:3] == ("1", 4, (1, 0, 2))
    assert first_not_finite(np.array([1.0, np.nan]))[:3] == ("", 1, None)
    assert first_not_finite(np.array([[1, 2j], [np.nan, 0]]).T)[:3] == ("", 0, 1)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert first_not_finite((mapped, mapped[1:], np.asarray(mapped), np.zeros((0, 3)), np.zeros(()))) is None
