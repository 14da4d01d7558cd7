"""The laws of every stream: the list model, the laws of combinators, and resuming from any state."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain

import jax
import numpy as np
import pytest
from catalogue import ACQUIRED, ONCE, STREAMS
from hypothesis import given, settings
from hypothesis import strategies as st

from fnlamp import stream, tree
from fnlamp.effect import Effect
from fnlamp.fault import NotRereadable
from fnlamp.stream.sink import steps

each_stream = pytest.mark.parametrize("s", STREAMS.values(), ids=STREAMS)
few = partial(settings, max_examples=60, deadline=None)


def batches(s, state=None):
    """Batches as lists of labels, which are all different."""
    return [labels(batch) for batch in stream.items(s, state)]


def labels(batch):
    """The last array of a batch, or of each batch of a pair."""
    return tuple(map(labels, batch)) if isinstance(batch[0], tuple) else np.asarray(batch[1]).tolist()


def on_the_host(s):
    return stream.from_items(list(stream.items(s)))


def sequential(s):
    """The same stream without a view or a position: combinators have its steps only."""
    return replace(s, view=None, indexed=False)


@st.composite
def streams(draw):
    rows = np.arange(draw(st.integers(1, 17)))
    seed = draw(st.none() | st.integers(0, 9))
    s = stream.minibatches(rows[:, None], rows, batch_size=draw(st.integers(1, 6)), seed=seed)
    return draw(st.sampled_from([lambda s: s, on_the_host, sequential]))(s)


OPERATIONS = st.lists(
    st.tuples(st.just("take"), st.integers(0, 6))
    | st.tuples(st.just("drop"), st.integers(0, 6))
    | st.tuples(st.just("every_nth"), st.integers(1, 4), st.integers(0, 3)).filter(lambda t: t[2] < t[1])
    | st.tuples(st.just("repeat_or_take"), st.integers(0, 9))
    | st.tuples(st.just("shuffle_buffer"), st.integers(1, 4), st.integers(0, 3))
    | st.tuples(st.just("chunk"), st.integers(1, 3))
    | st.tuples(st.just("unchunk"), st.integers(1, 3))
    | st.sampled_from([("concat",), ("map",), ("filter",), ("interleave",), ("zip",)]),
    max_size=4,
)
KEEP_THE_VIEW = {"take", "drop", "every_nth", "repeat_or_take", "concat", "map"}


def both(s, model, operation):
    """The operation on the stream, and on a list of its batches."""
    match operation:
        case ("take", n):
            return s.take(n), model[:n]
        case ("drop", n):
            return s.drop(n), model[n:]
        case ("every_nth", n, offset):
            return s.every_nth(n, offset), model[offset::n]
        case ("repeat_or_take", n):
            return s.repeat_or_take(n), (model * n)[:n]
        case ("shuffle_buffer", size, seed):
            return s.shuffle_buffer(size, seed), shuffled(model, size, seed)
        case ("chunk", n):
            return s.chunk(n), [list(chain(*model[i : i + n])) for i in range(0, len(model), n)]
        case ("unchunk", n):
            return s.unchunk(n), [ys[i : i + n] for ys in model for i in range(0, len(ys), n)]
        case ("concat",):
            return s.concat(s), model + model
        case ("interleave",):
            other = model[:2]
            pairs = chain(*zip(model, other, strict=False)) if len(model) > 2 else chain(*zip(model, other, strict=True))
            return s.interleave(s.take(2)), [*pairs, *model[2:]]
        case ("zip",):
            firsts = s.zip(s.drop(1)).map(lambda pair: pair[0], spec=s.spec)
            return firsts, model[:-1]
        case ("filter",):
            return s.filter(lambda batch: np.asarray(batch[1])[0] % 2), [ys for ys in model if ys[0] % 2]
        case _:
            return s.map(lambda batch: (batch[0], batch[1] + 1)), [[y + 1 for y in ys] for ys in model]


def shuffled(model, size, seed):
    out = []
    for buffer, start in enumerate(range(0, len(model), size)):
        part = model[start : start + size]
        out += [
            part[i] for i in np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(buffer,))).permutation(len(part))
        ]
    return out


@given(streams(), OPERATIONS, st.data())
@few(max_examples=150)
def test_combinators_behave_as_for_lists_on_every_source_and_resume_anywhere(s, operations, data):
    model = batches(s)
    kept = s.view is not None and {name for name, *_ in operations} <= KEEP_THE_VIEW
    for operation in operations:
        s, model = both(s, model, operation)
    assert batches(s) == model
    assert s.length in (len(model), None)
    assert (s.view is not None) >= kept
    if s.view is not None:
        assert [labels(s.view.batch(i)) for i in range(len(s.view))] == model
        assert s.view.samples == sum(map(len, model))
    if s.indexed:
        assert s.length == len(model)
        assert [labels(s.step(i).item) for i in range(s.length)] == model
    states = [s.init, *(state for _, state in steps(s, s.init))]
    assert all(isinstance(number, int) for state in states for number in jax.tree.leaves(state))
    at = data.draw(st.integers(0, len(states) - 1))
    assert batches(s, states[at]) == model[at:]


@given(streams(), streams())
@few()
def test_pairs_end_with_the_shorter_stream(one, other):
    assert batches(one.zip(other)) == list(zip(batches(one), batches(other), strict=False))


@given(st.lists(streams(), min_size=1, max_size=4))
@few()
def test_interleaving_takes_turns_and_loses_nothing(many):
    models = [batches(s) for s in many]
    longest = max(map(len, models))
    turns = [model[i] for i in range(longest) for model in models if i < len(model)]
    assert batches(many[0].interleave(*many[1:])) == turns


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**63 - 1))
@few()
def test_a_shuffle_buffer_has_one_order_indexed_or_not_and_loses_nothing(count, size, seed):
    s = stream.from_function(count, lambda i: (np.zeros(1), np.array([i])))
    once = batches(s.shuffle_buffer(size, seed))
    assert once == batches(sequential(s).shuffle_buffer(size, seed))
    assert sorted(once) == batches(s)


@pytest.mark.parametrize("resource", ACQUIRED.values(), ids=ACQUIRED)
def test_streams_in_resources_behave_as_lists_too_and_resume_anywhere(resource):
    def check(s):
        model = [(batch, labels(batch)) for batch in stream.items(s)]
        states = [s.init, *(state for _, state in steps(s, s.init))]
        assert len(model) > 1
        for at in (*range(len(states)), 0, 2, 1):
            assert batches(s, states[at]) == [y for _, y in model[at:]]
        assert s.length in (len(model), None)
        assert [y for _, y in model[1:3]] == batches(s.drop(1).take(2))
        return Effect.from_value(model)

    first, again = (resource.use(check).run().unwrap() for _ in range(2))
    assert [y for _, y in first._inner_value] == [y for _, y in again._inner_value]


@pytest.mark.parametrize("make", ONCE.values(), ids=ONCE)
def test_a_source_that_can_be_read_once_says_so(make):
    s = make()
    first = s.step(s.init)
    assert s.step(s.init) is first  # the last batch can be requested again
    second = s.step(first.state)
    assert s.step(s.init).fault == NotRereadable(0, 2)
    assert s.step(7).fault == NotRereadable(7, 2)
    assert batches(s, second.state) == batches(STREAMS["from_items"])[2:]
    assert s.reread is stream.Reread.NEVER
    assert s.map(lambda b: b).take(2).concat(STREAMS["from_items"]).reread is stream.Reread.NEVER
    assert STREAMS["from_items"].zip(s).reread is stream.Reread.NEVER


@each_stream
def test_the_same_state_gives_the_same_batch_and_the_spec_describes_it(s):
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


@pytest.mark.slow
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
