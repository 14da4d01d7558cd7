"""The sources of streams: arrays in memory, and sequences of batches."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import stream
from fnlamp.fault import EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.stream.sink import steps

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


def labels(s, state=None):
    return [np.asarray(y).tolist() for _, y in stream.items(s, state)]


def test_batches_are_in_order_and_the_last_has_the_remaining_rows():
    assert labels(stream.minibatches(X, Y, batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert labels(stream.minibatches(X, Y, batch_size=4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels(stream.minibatches(X, Y, batch_size=5, drop_last=True)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert labels(stream.minibatches(X, Y, batch_size=40)) == [Y.tolist()]
    assert labels(stream.minibatches(X, Y, batch_size=40, drop_last=True)) == []


def test_a_full_batch_is_one_batch_of_all_rows():
    ((x, y),) = stream.items(stream.full_batch(X, Y))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    assert stream.full_batch(X[:0], Y[:0]).length == 0


def test_features_and_targets_stay_together_when_shuffled():
    for x, y in stream.items(stream.minibatches(X, Y, batch_size=3, seed=11)):
        np.testing.assert_array_equal(x, X[y])


def test_every_leaf_of_a_tree_is_batched_alike():
    s = stream.minibatches({"a": X, "b": (Y, Y)}, {"t": Y}, batch_size=3, seed=1)
    for features, target in stream.items(s):
        np.testing.assert_array_equal(features["a"], X[target["t"]])
        np.testing.assert_array_equal(features["b"][1], target["t"])
    assert s.spec[0]["b"][0].shape == (3,)


def test_lists_are_arrays():
    s = stream.minibatches(X.tolist(), Y.tolist(), batch_size=4)
    assert repr(s) == "<BatchStream: 3 batches of (float32[4, 2], int32[4])>"
    assert labels(s) == labels(stream.minibatches(X, Y, batch_size=4))


def test_arrays_on_the_device_are_batched_there():
    x, y = next(iter(stream.items(stream.minibatches(jnp.asarray(X), jnp.asarray(Y), batch_size=4, seed=2))))
    assert isinstance(x, jax.Array)
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(np.asarray(y), labels(stream.minibatches(X, Y, batch_size=4, seed=2))[0])


def test_arrays_are_not_copied_by_describing():
    s = stream.minibatches(X, Y, batch_size=4)
    assert s.view.segments[0].arrays[0] is X
    gc.collect()  # drop arrays of earlier tests first
    before = len(jax.live_arrays())
    stream.minibatches(X, Y, batch_size=4, seed=3).map(lambda b: b).concat(s).take(3)
    assert len(jax.live_arrays()) == before


@pytest.mark.parametrize("target", [Y[:9], {"a": Y, "b": Y[:3]}], ids=["fewer", "one leaf"])
def test_different_numbers_of_rows_are_a_fault(target):
    with pytest.raises(FaultError) as caught:
        stream.minibatches(X, target, batch_size=4)
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "as many targets as features"
    with pytest.raises(FaultError, match="as many targets as features"):
        stream.full_batch(X, target)


def test_no_arrays_at_all_are_a_fault():
    with pytest.raises(FaultError, match="first axis counts rows"):
        stream.minibatches({}, (), batch_size=4)


def test_a_sequence_of_batches_is_a_stream_without_a_view():
    made = [(X[:4], Y[:4]), (X[4:6], Y[4:6]), (X[6:], Y[6:])]
    s = stream.from_items(made)
    assert (s.view, s.length, s.init) == (None, 3, 0)
    assert all(got is given for got, given in zip(stream.items(s), made, strict=True))
    assert labels(s, 2) == [[6, 7, 8, 9]]
    with pytest.raises(FaultError) as caught:
        stream.from_items(())
    assert caught.value.fault == EmptyEpoch()


@pytest.mark.parametrize("view", [True, False])
def test_a_stream_resumes_from_each_of_its_states(view):
    s = stream.minibatches(X, Y, batch_size=3, seed=5)
    s = (s if view else stream.from_items(list(stream.items(s)))).concat(
        s if view else stream.from_items(list(stream.items(s)))
    )
    s = s.every_nth(2, 1).take(3)
    whole = labels(s)
    assert len(whole) == 3
    for done, (_, state) in enumerate(steps(s, s.init), start=1):
        assert labels(s, state) == whole[done:]


def test_a_host_function_needs_no_jax_and_is_called_once_per_batch():
    calls = []

    def read(batch):
        calls.append(1)
        return np.float32([float(x) for x in batch[0][:, 0]])[:, None], batch[1]

    base = stream.minibatches(X, Y, batch_size=4)
    s = base.map(read, spec=(jax.ShapeDtypeStruct((4, 1), np.float32), base.spec[1]))
    assert calls == []
    assert labels(s) == labels(base)
    assert len(calls) == 3
    assert repr(s) == "<BatchStream: 3 batches of (float32[4, 1], int32[4])>"


def test_why_a_stream_is_empty_survives_its_combinators():
    empty = stream.minibatches(X, Y, batch_size=40, drop_last=True)
    why = EmptyEpoch(10, 40, True)
    for s in (empty, empty.take(3), empty.every_nth(2), empty.map(lambda b: b), empty.map(lambda b: b, spec=empty.spec)):
        assert (s.length, s.why_empty) == (0, why)


def test_some_of_the_rows_are_named_by_number():
    x = np.arange(8)
    named = stream.from_arrays(x, batch_size=2, among=[1, -1, 3])
    assert [batch.tolist() for batch in stream.items(named)] == [[1, 7], [3]]
    assert stream.from_arrays(x, batch_size=2, among=[]).length == 0
    for wrong, error in (([8], IndexError), ([-9], IndexError), (x > 3, TypeError), ([1.5], TypeError), ([[1]], TypeError)):
        with pytest.raises(error, match=r"numbers of 8 rows|whole numbers"):
            stream.from_arrays(x, batch_size=2, among=wrong)


def test_only_numbers_are_trained_on():
    x = np.zeros(3)
    masked = np.ma.masked_array(x, [0, 1, 0])
    for wrong in (np.array(["a", "b", "c"]), np.zeros(3, "M8[s]"), np.zeros(3, [("a", "f4")]), np.array([{}] * 3), masked):
        with pytest.raises(FaultError, match="DtypeMismatch"):
            stream.minibatches(x, wrong, batch_size=2)


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match="0 or more"):
        stream.minibatches(np.zeros(3), np.zeros(3), batch_size=2, seed=-1)


def test_buffers_of_different_seeds_have_different_orders():
    s = stream.from_function(64, lambda i: np.array([i]))
    orders = {
        tuple(int(b[0]) % 32 for b in stream.items(s.shuffle_buffer(32, seed)))[k : k + 32]
        for seed in (5, 5 + 2**32)
        for k in (0, 32)
    }
    assert len(orders) == 4
