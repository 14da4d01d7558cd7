"""A failing batch names the row that causes it; numbers in the other byte order are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import DtypeMismatch, FaultError, ItemFailed, ShapeMismatch
from fnlamp.train import Fused, Stepwise


def run(resource):
    def read(s):
        return Effect.attempt(lambda: list(stream.items(s)), FaultError, lambda error: error.fault)

    return resource.use(read).run()


def batches(resource):
    outcome = run(resource)
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def fault(resource):
    outcome = run(resource)
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def stacked(items):
    return np.stack(items)


def by_stack(items):
    return data.stack([(item, 1) for item in items])


def as_pair(items):
    return np.stack([item[0] for item in items]), np.array([int(item[1]) for item in items])


ORDERS = [{}, {"shuffle": True, "seed": 1}, {"shuffle": True, "seed": 2}, {"shuffle": True, "seed": 3}]


@pytest.mark.parametrize("odd", range(5))
@pytest.mark.parametrize("options", ORDERS, ids=str)
def test_the_misshapen_row_is_named(odd, options):
    items = [np.zeros(2, np.float32)] * 5
    items[odd] = np.zeros(3, np.float32)
    found = fault(data.loader(items, batch_size=5, collate=stacked, **options))
    assert isinstance(found, ItemFailed)
    assert found.index == odd
    assert "ValueError" in found.what
    assert "np.stack" in found.error


FIRSTS = {
    "shape": (np.zeros(2), np.zeros(3)),
    "dtype": (np.zeros(2), np.zeros(2, np.float32)),
    "number": (1, 1.0),
    "structure": ((1, 2), (1, 2, 3)),
    "keys": ({"a": 1}, {"b": 1}),
    "inside": ({"a": (1, np.zeros(2))}, {"a": (1, np.zeros(3))}),
    "type": ([1], (1,)),
}


@pytest.mark.parametrize("kind", FIRSTS)
@pytest.mark.parametrize("odd", range(4))
def test_the_default_collation_names_the_item_that_differs_from_the_others(kind, odd):
    usual, other = FIRSTS[kind]
    items = [usual] * 4
    items[odd] = other
    with pytest.raises(FaultError) as caught:
        data.stack(items)
    assert caught.value.fault.where.split("/")[0] == f"item {odd}"
    assert f"as in item {0 if odd else 1}" in str(caught.value)
    found = fault(data.loader(items, batch_size=4, shuffle=True, seed=odd + 1))
    assert found.where.split("/")[0] == f"item {odd}"


@pytest.mark.parametrize("odd", range(5))
@pytest.mark.parametrize("options", ORDERS, ids=str)
def test_the_row_that_fails_alone_is_named(odd, options):
    items = [(np.zeros(2), i) for i in range(5)]
    items[odd] = (np.zeros(2), "five")
    found = fault(data.loader(items, batch_size=4, collate=as_pair, **options))
    assert isinstance(found, ItemFailed)
    assert found.index == odd
    items[odd] = None
    assert fault(data.loader(items, batch_size=4, collate=as_pair, **options)).index == odd


def test_the_row_is_named_in_every_way_of_loading():
    items = [np.zeros(2)] * 6 + [np.zeros(3)] + [np.zeros(2)] * 5
    with_many = data.with_transform(items, np.asarray)
    for resource in (
        data.loader(items, batch_size=4, collate=stacked, workers=1),
        data.loader(with_many, batch_size=4, collate=stacked),
        data.loader(data.subset(items, range(12)), batch_size=12, collate=stacked),
        data.threads(2).bind(lambda team: data.loader(items, batch_size=4, collate=stacked, workers=team)),
        data.loader(Many(items), batch_size=4, collate=stacked),
    ):
        assert fault(resource).index == 6


class Many(list):
    """Loads many rows at once."""

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def test_a_fault_of_the_default_collation_names_rows_also_inside_another():
    items = [np.zeros(2)] * 9
    items[7] = np.zeros(3)
    for collate, place in ((data.stack, "item 7"), (by_stack, "item 7/0")):
        found = fault(data.loader(items, batch_size=4, collate=collate, shuffle=True, seed=4))
        assert isinstance(found, ShapeMismatch)
        assert found.where == place
    with pytest.raises(FaultError, match="item 1: "):
        data.stack([np.zeros(2), np.zeros(3)])  # outside a loader it counts from 0


def test_a_users_own_fault_names_the_row():
    def checked(items):
        for item in items:
            if item.max() > 1:
                raise FaultError(ShapeMismatch("pixels up to 1", str(item.max())))
        return np.stack(items)

    items = [np.zeros(2)] * 6
    items[4] = np.full(2, 255.0)
    found = fault(data.loader(items, batch_size=3, collate=checked))
    assert isinstance(found, ShapeMismatch)
    assert found.where == "item 4"


def test_a_collate_that_fails_for_every_row_names_none():
    calls = []

    def broken(items):
        calls.append(1)
        return items.missing if len(calls) > 1 else np.zeros(1)  # the first item is loaded alone before

    found = fault(data.loader([1, 2, 3], batch_size=3, collate=broken))
    assert isinstance(found, ItemFailed)
    assert found.index is None
    assert "AttributeError" in found.what


# ------------------------------------------------------------------------------- the other order of bytes

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int32)


def loader_of(x, y, **options):
    return data.loader([(x[i], y[i]) for i in range(len(x))], batch_size=8, **options)


STREAMS = {
    "minibatches": lambda x, y: stream.minibatches(x, y, batch_size=8),
    "full_batch": lambda x, y: stream.full_batch(x, y),
    "items": lambda x, y: stream.from_items([(x[:8], y[:8]), (x[8:16], y[8:16])]),
    "function": lambda x, y: stream.from_function(3, lambda i: (x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8])),
    "iterable": lambda x, y: stream.from_iterable(lambda: iter([(x[:8], y[:8]), (x[8:16], y[8:16])])),
    "staged": lambda x, y: stream.staged(24, batch_size=8, bucket=2, load=lambda rows: (x[rows], y[rows])),
    "data set": lambda x, y: data.loader(data.array_dataset(x, y), batch_size=8),
    "loader": loader_of,
    "numbers": lambda x, y: data.loader([(row, y.dtype.type(label)) for row, label in zip(x, y, strict=True)], batch_size=8),
    "stacked": lambda x, y: loader_of(
        x, y, collate=lambda items: (np.stack([i[0] for i in items]), np.array([i[1] for i in items]))
    ),
    "workers": lambda x, y: loader_of(x, y, workers=1),
    "prefetched": lambda x, y: stream.minibatches(x, y, batch_size=8).map(lambda b: b).prefetch(1),
}


@pytest.mark.parametrize("executor", [Fused(), Stepwise()], ids=["fused", "stepwise"])
@pytest.mark.parametrize("name", STREAMS)
def test_swapped_bytes_train_on_the_same_numbers(name, executor):
    curves = []
    for x, y in ((X, Y), (X.astype(">f4"), Y.astype(">i4"))):
        program = train.epochs(
            model=train.supervised(nn.linear(2), loss.cross_entropy()),
            optimizer=optim.sgdw(learning_rate=0.1),
            train_batches=lambda context, x=x, y=y: STREAMS[name](x, y),
            epochs=1,
            seed=0,
        )
        outcome = program.run(Runtime(executor=executor, log=None))
        assert is_successful(outcome), outcome
        curves.append(unsafe_perform_io(outcome.unwrap()).curve[-1].train_loss)
    assert curves[0] == curves[1]


def test_items_of_both_orders_are_one_dtype():
    mixed = [X[0], X[1].astype(">f4"), X[2]]
    np.testing.assert_array_equal(data.stack(mixed), X[:3])
    np.testing.assert_array_equal(data.stack([each.astype(">f4") for each in mixed]), X[:3])
    found = batches(data.loader([*mixed, *mixed], batch_size=2))
    assert all(batch.dtype.isnative for batch in found)
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate([X[:3], X[:3]]))
    with pytest.raises(FaultError) as caught:
        data.stack([X[0].astype(">f4"), X[1].astype(">f8")])
    assert isinstance(caught.value.fault, DtypeMismatch)
