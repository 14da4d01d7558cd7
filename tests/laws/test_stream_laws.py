"""What holds for every stream: the list model, the laws of its combinators, and going on from any state."""

from __future__ import annotations

from functools import partial
from itertools import chain

import jax
import numpy as np
import pytest
from catalogue import STREAMS
from hypothesis import given, settings
from hypothesis import strategies as st

from fnlamp import stream, tree
from fnlamp.stream.sink import steps

each_stream = pytest.mark.parametrize("s", STREAMS.values(), ids=STREAMS)
few = partial(settings, max_examples=60, deadline=None)


def batches(s, state=None):
    """As lists of labels, which tell batches apart."""
    return [np.asarray(y).tolist() for _, y in stream.items(s, state)]


def without_view(s):
    return stream.from_items(list(stream.items(s)))


@st.composite
def streams(draw):
    rows = np.arange(draw(st.integers(1, 17)))
    seed = draw(st.none() | st.integers(0, 9))
    s = stream.minibatches(rows[:, None], rows, batch_size=draw(st.integers(1, 6)), seed=seed)
    return s if draw(st.booleans()) else without_view(s)


OPERATIONS = st.lists(
    st.tuples(st.just("take"), st.integers(0, 6))
    | st.tuples(st.just("every_nth"), st.integers(1, 4), st.integers(0, 3)).filter(lambda t: t[2] < t[1])
    | st.just(("concat",))
    | st.just(("map",)),
    max_size=4,
)


def both(s, model, operation):
    """The operation on the stream, and on a list of its batches."""
    match operation:
        case ("take", n):
            return s.take(n), model[:n]
        case ("every_nth", n, offset):
            return s.every_nth(n, offset), model[offset::n]
        case ("concat",):
            return s.concat(s), model + model
        case _:
            return s.map(lambda batch: (batch[0], batch[1] + 1)), [[y + 1 for y in ys] for ys in model]


@given(streams(), OPERATIONS, st.data())
@few()
def test_combinators_are_those_of_lists_with_and_without_a_view_and_go_on_anywhere(s, operations, data):
    model = batches(s)
    kept = s.view is not None
    for operation in operations:
        s, model = both(s, model, operation)
    assert batches(s) == model
    assert s.length == len(model)
    assert (s.view is not None) == kept
    if kept:
        assert [np.asarray(s.view.batch(i)[1]).tolist() for i in range(len(s.view))] == model
        assert s.view.samples == sum(map(len, model))
    states = [s.init, *(state for _, state in steps(s, s.init))]
    at = data.draw(st.integers(0, len(states) - 1))
    assert batches(s, states[at]) == model[at:]


@each_stream
def test_asking_twice_gives_the_same_batch_and_the_spec_describes_it(s):
    assert batches(s) == batches(s)
    for i, batch in enumerate(stream.items(s)):
        for spec, leaf in zip(jax.tree.leaves(s.spec), jax.tree.leaves(batch), strict=True):
            assert leaf.shape[1:] == spec.shape[1:]
            assert leaf.shape[0] == spec.shape[0] or i == s.length - 1
            assert jax.dtypes.canonicalize_dtype(leaf.dtype) == spec.dtype


@each_stream
def test_concatenation_is_associative_and_taking_nothing_its_identity(s):
    nothing = s.take(0)
    assert batches(s.concat(s).concat(s)) == batches(s.concat(s.concat(s))) == batches(s) * 3
    assert batches(nothing.concat(s)) == batches(s.concat(nothing)) == batches(s)


@given(streams(), st.integers(1, 5))
@few()
def test_shards_are_disjoint_and_cover(s, n):
    shards = [batches(s.every_nth(n, offset)) for offset in range(n)]
    assert sorted(chain.from_iterable(shards)) == sorted(batches(s))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**63 - 1), st.booleans())
@few()
def test_a_seed_is_an_order_of_all_rows(rows, size, seed, drop_last):
    x = np.arange(rows)
    make = partial(stream.minibatches, x[:, None], x, batch_size=size, drop_last=drop_last)
    shuffled, in_order = (list(chain.from_iterable(batches(make(seed=s)))) for s in (seed, None))
    kept = rows - rows % size if drop_last else rows
    assert in_order == list(range(kept))
    assert len(set(shuffled)) == len(shuffled) == kept
    assert shuffled == list(chain.from_iterable(batches(make(seed=seed))))


@given(streams().filter(lambda s: s.view is not None), st.booleans())
@few(max_examples=25)
def test_the_recipe_on_the_device_makes_the_hosts_batches(s, mapped):
    s = s.map(lambda batch: (batch[0] * 2, batch[1])) if mapped else s
    on_device = []
    for segment in s.view.segments:
        arrays = jax.tree.map(jax.numpy.asarray, segment.arrays)
        on_device += [jax.jit(segment.recipe.__call__)(arrays, rows) for rows in segment.rows()]
    for ours, theirs in zip(on_device, stream.items(s), strict=True):
        assert tree.map(lambda a: np.asarray(a).tolist(), ours) == tree.map(lambda a: np.asarray(a).tolist(), theirs)
