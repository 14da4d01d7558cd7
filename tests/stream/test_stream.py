"""Streams by example, their faults, and the equality of recipes."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import stream
from fnlamp.fault import EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.stream import Recipe

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5)


def test_a_full_last_batch_is_kept_with_drop_last():
    assert stream.minibatches(X[:4], Y[:4], batch_size=2, drop_last=True).length == 2
    assert stream.minibatches(X, Y, batch_size=2, drop_last=True).length == 2
    assert stream.minibatches(X, Y, batch_size=2).length == 3


def test_lists_and_trees_are_arrays_too():
    s = stream.minibatches({"a": [1.0, 2.0], "b": X[:2]}, [0, 1], batch_size=2)
    ((features, target),) = stream.items(s)
    assert set(features) == {"a", "b"}
    assert target.tolist() == [0, 1]


def test_as_many_targets_as_features():
    with pytest.raises(FaultError, match="as many targets as features"):
        stream.minibatches(X, Y[:4], batch_size=2)
    with pytest.raises(FaultError, match="first axis counts rows"):
        stream.minibatches(X, np.float32(3), batch_size=2)
    with pytest.raises(ValueError, match="batch_size"):
        stream.minibatches(X, Y, batch_size=0)


def test_an_empty_stream_knows_why():
    assert stream.minibatches(X, Y, batch_size=9, drop_last=True).take(3).why_empty == EmptyEpoch(5, 9, True)
    assert stream.minibatches(X[:0], Y[:0], batch_size=2).length == 0
    with pytest.raises(FaultError, match="EmptyEpoch"):
        stream.from_items([])


def test_only_streams_of_like_batches_concatenate():
    with pytest.raises(FaultError) as caught:
        stream.minibatches(X, Y, batch_size=2).concat(stream.minibatches(X[:, :1], Y, batch_size=2))
    assert isinstance(caught.value.fault, ShapeMismatch)


def test_a_function_that_cannot_be_traced_needs_a_spec():
    s = stream.minibatches(X, Y, batch_size=2)

    def host(batch):
        return np.array([float(x) for x in np.asarray(batch[0]).sum(1)]), batch[1]

    with pytest.raises(Exception, match="Tracer") as caught:
        s.map(host)
    assert any("spec=" in note for note in caught.value.__notes__)
    mapped = s.map(host, spec=s.spec)
    assert mapped.view is None
    assert next(iter(stream.items(mapped)))[0].tolist() == [1.0, 5.0]


def test_a_failing_stream_raises_its_fault_on_the_host():
    s = stream.BatchStream(0, lambda state: stream.Fail("gone"), None, None)
    with pytest.raises(FaultError, match="gone"):
        list(stream.items(s))


@pytest.mark.parametrize("wrong", [lambda s: s.take(-1), lambda s: s.every_nth(2, 2), lambda s: s.every_nth(0)])
def test_wrong_arguments_are_bugs(wrong):
    with pytest.raises(ValueError, match="needs"):
        wrong(stream.minibatches(X, Y, batch_size=2))


def captured(value):
    return lambda batch: (batch[0] * value, batch[1])


def named(batch, factor=1):
    return batch


class Scale:
    def by(self, batch):
        return batch


WEIGHTS, SCALE = jnp.ones(3), Scale()
PAIRS = [
    (captured(2), captured(2), True),
    (captured(2), captured(3), False),
    (captured(1), captured(1.0), False),
    (captured((1, "a")), captured((1, "a")), True),
    (captured(WEIGHTS), captured(WEIGHTS), True),
    (captured(WEIGHTS), captured(jnp.ones(3)), True),
    (captured(WEIGHTS), captured(2 * jnp.ones(3)), False),
    (captured(captured(2)), captured(captured(2)), True),
    (named, named, True),
    (named, captured(1), False),
    (partial(named, factor=2), partial(named, factor=2), True),
    (partial(named, factor=2), partial(named, factor=3), False),
    (SCALE.by, SCALE.by, True),
    (SCALE.by, Scale().by, True),
]


@pytest.mark.parametrize(("a", "b", "same"), PAIRS)
def test_recipes_compare_by_code_and_captured_values(a, b, same):
    assert (Recipe((a,)) == Recipe((b,))) is same
    if same:
        assert hash(Recipe((a,))) == hash(Recipe((b,)))
    else:
        assert Recipe((a,)).difference(Recipe((b,)))
