"""Grain's pipelines as streams: the batches that Grain gives, resumed exactly."""

from __future__ import annotations

import gc
import threading
import time

import grain.python as grain
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import stream
from fnlamp.data import array_dataset, from_grain
from fnlamp.effect import Effect
from fnlamp.fault import EmptyEpoch, FaultError, ItemFailed
from fnlamp.stream.sink import steps


def run(resource, function):
    def read(s):
        return Effect.attempt(lambda: function(s), FaultError, lambda error: error.fault)

    outcome = resource.use(read).run()
    return unsafe_perform_io(outcome.unwrap() if is_successful(outcome) else outcome.failure())


def as_lists(batches):
    return [np.asarray(batch).tolist() for batch in batches]


def map_dataset():
    return grain.MapDataset.range(23).shuffle(seed=4).seed(7).random_map(jitter).batch(4)


def jitter(item, generator):
    return item + generator.random()


def iter_dataset():
    return map_dataset().to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))


def old_loader():
    sampler = grain.IndexSampler(23, num_epochs=1, shuffle=True, seed=3)
    return grain.DataLoader(data_source=range(23), sampler=sampler, operations=[grain.Batch(4)])


SOURCES = {"MapDataset": map_dataset, "IterDataset": iter_dataset, "DataLoader": old_loader}
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@each_source
def test_the_batches_are_grains_and_resume_from_any_of_its_states(source):
    expected = as_lists(source())
    assert len(expected) == 6
    whole = run(from_grain(source()), lambda s: list(steps(s, s.init)))
    assert as_lists(batch for batch, _ in whole) == expected
    for i, (_, state) in enumerate(whole, start=1):  # in a new iterator, as after a restart
        assert as_lists(run(from_grain(source()), lambda s, state=state: list(stream.items(s, state)))) == expected[i:]


@each_source
def test_any_state_can_be_requested_twice_and_backwards(source):
    def back_and_forth(s):
        states = [s.init, *(state for _, state in steps(s, s.init))][:-1]
        return [s.step(states[i]).item for i in (5, 0, 0, 3, 2, 2, 5)]

    expected = as_lists(source())
    assert as_lists(run(from_grain(source()), back_and_forth)) == [expected[i] for i in (5, 0, 0, 3, 2, 2, 5)]


def test_the_state_is_grains_own():
    pipeline = iter_dataset()
    after = run(from_grain(pipeline), lambda s: s.step(s.init).state)
    theirs = iter(pipeline)
    next(theirs)
    assert after == theirs.get_state()


def test_length_and_spec():
    data = grain.MapDataset.source(array_dataset(np.zeros((10, 3), np.float32), np.arange(10))).batch(4)
    found = run(from_grain(data), lambda s: (s.length, [(leaf.shape, str(leaf.dtype)) for leaf in s.spec]))
    assert found == (3, [((4, 3), "float32"), ((4,), "int32")])
    assert run(from_grain(data.repeat()), lambda s: s.length) is None
    assert run(from_grain(iter_dataset()), lambda s: s.length) is None


def broken(item):
    if item == 9:
        raise ValueError("no nine")
    return item


def test_an_exception_is_a_fault_and_the_stream_can_be_used_again():
    pipeline = grain.MapDataset.range(12).map(broken).batch(2)
    found = run(from_grain(pipeline), lambda s: list(stream.items(s)))
    assert isinstance(found, ItemFailed)
    assert found.index is None
    assert "no nine" in found.what
    assert str(found).startswith("an item failed: ValueError")

    def again(s):
        with pytest.raises(FaultError):
            list(stream.items(s))
        return s.step(s.init).item, s.step(s.step(s.init).state).item

    assert as_lists(run(from_grain(pipeline), again)) == [[0, 1], [2, 3]]
    assert isinstance(run(from_grain(pipeline.slice(slice(4, 6))), list), ItemFailed)  # at once


def test_no_batch_is_a_fault():
    assert run(from_grain(grain.MapDataset.range(0).batch(2)), list) == EmptyEpoch()


def test_other_things_are_bugs():
    with pytest.raises(TypeError, match="of Grain, got int"):
        from_grain(3)
    with pytest.raises(TypeError, match="get_state"):
        from_grain([1, 2]).use(lambda s: Effect.from_value(s)).run()


def test_no_thread_is_left():
    gc.collect()
    before = set(threading.enumerate())  # threads of other tests, which may end at any time
    run(from_grain(iter_dataset()), lambda s: s.step(s.init))
    gc.collect()
    end = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:  # Grain ends its threads without waiting
        time.sleep(0.01)
    assert not left
