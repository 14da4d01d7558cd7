"""Prefetching and staging: when and in which thread batches are made, and that nothing is left afterwards."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

from fnlamp import stream
from fnlamp.effect import CancelToken, Effect, Interrupted, Runtime
from fnlamp.fault import BufferReused, EmptyEpoch, FaultError, FileMissing, NotRereadable
from fnlamp.stream import Emit
from fnlamp.stream.memory import fingerprints, overwritten
from fnlamp.stream.sink import steps

PATIENCE = 10.0


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def counted(length=10):
    """A stream that records the batches that it made, with their threads."""
    made = []

    def make(position):
        made.append((position, threading.current_thread().name))
        return np.array([position])

    return made, stream.from_function(length, make, spec=stream.from_items([np.array([0])]).spec)


def use(resource, function):
    return resource.use(lambda s: Effect.suspend(lambda: function(s))).run(Runtime(log=None))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fnlamp")]


def test_batches_are_made_ahead_up_to_the_count():
    made, s = counted()

    def check(s):
        assert made == []  # nothing before the first request
        state = s.step(s.init).state
        until(lambda: len(made) == 4)
        time.sleep(0.02)
        assert [position for position, _ in made] == [0, 1, 2, 3]
        assert {name for _, name in made} == {"fnlamp prefetch"}
        s.step(state)
        until(lambda: len(made) == 5)
        return True

    assert use(s.prefetch(3), check) == IOSuccess(True)
    assert threads() == []


def test_waiting_for_a_batch_overlaps_with_using_the_last():
    slow = stream.from_function(10, lambda i: time.sleep(0.03) or np.array([i]), spec=counted()[1].spec)

    def consume(s):
        started = time.perf_counter()
        for _ in stream.items(s):
            time.sleep(0.03)
        return time.perf_counter() - started

    assert use(slow.prefetch(2), consume).unwrap()._inner_value < 0.5 < 0.6  # one after the other takes 0.6 s


def broken_at(position, error):
    def make(at):
        if at == position:
            raise error
        return np.array([at])

    return stream.from_function(5, make, spec=counted()[1].spec)


def test_an_exception_in_the_thread_is_raised_by_the_request_for_the_batch():
    def read(s):
        seen = []
        with pytest.raises(FaultError) as caught:
            for batch in stream.items(s):
                seen.append(int(batch[0]))
        return seen, caught.value.fault

    missing = FileMissing("a", "gone")
    assert use(broken_at(2, FaultError(missing)).prefetch(4), read) == IOSuccess(([0, 1], missing))
    with pytest.raises(ZeroDivisionError):
        use(broken_at(2, ZeroDivisionError()).prefetch(4), lambda s: list(stream.items(s)))
    assert threads() == []


@pytest.mark.parametrize("end", ["success", "failure", "bug", "interruption"])
def test_the_thread_ends_on_every_exit(end):
    token = CancelToken()

    def body(s):
        def call(runtime):
            s.step(s.init)
            assert len(threads()) == 1
            if end == "bug":
                raise ZeroDivisionError
            if end == "interruption":
                token.cancel()
                return Interrupted()
            return Success(1) if end == "success" else Failure("no")

        return Effect.call(call)

    with suppress(ZeroDivisionError):
        counted()[1].prefetch().use(body).run(Runtime(log=None, cancel=token))
    assert threads() == []


def test_a_released_stream_is_not_used():
    s = use(counted()[1].prefetch(), lambda s: s).unwrap()._inner_value
    with pytest.raises(RuntimeError, match="after it had been released"):
        s.step(s.init)


def test_a_stream_in_memory_is_returned_unchanged():
    s = stream.minibatches(np.zeros(4), np.zeros(4), batch_size=2)
    assert use(s.prefetch(), lambda same: same is s) == IOSuccess(True)


def test_counts_are_at_least_one():
    s = counted()[1]
    for wrong in (
        lambda: s.prefetch(0),
        lambda: s.take(-1),
        lambda: s.drop(-1),
        lambda: s.repeat_or_take(-1),
        lambda: s.chunk(0),
        lambda: s.unchunk(0),
        lambda: s.shuffle_buffer(0, 1),
        lambda: s.shuffle_buffer(2, -1),
        lambda: stream.from_function(-1, np.zeros),
        lambda: stream.staged(3, batch_size=0, bucket=1, load=np.array),
    ):
        with pytest.raises(ValueError, match="of 0 or more|of 1 or more|is 0 or more"):
            wrong()


# ---- one buffer for all batches


def reusing(length=6, buffers=1):
    """A producer with fewer buffers than batches."""
    rooms = [np.zeros(3) for _ in range(buffers)]

    def make():
        for i in range(length):
            rooms[i % buffers][:] = i
            yield rooms[i % buffers], np.full(3, i)

    return stream.from_iterable(make)


def test_a_reused_buffer_is_detected():
    def read(s):
        with pytest.raises(FaultError) as caught:
            list(stream.items(s))
        return caught.value.fault

    assert use(reusing(), read) == IOSuccess(BufferReused("0"))
    assert use(reusing(buffers=3).bind(lambda s: s.prefetch(4)), read) == IOSuccess(BufferReused("0"))
    assert "in its own memory" in str(BufferReused("0"))


def reused(resource):
    """The outcome of reading a whole stream, slowly enough for a thread to overwrite waiting batches."""

    def read(s):
        seen = []
        for batch in stream.items(s):
            time.sleep(0.005)
            seen.append(batch)
        return seen

    return resource.use(lambda s: Effect.attempt(lambda: read(s), FaultError, lambda error: error.fault)).run()


@pytest.mark.parametrize(
    "combined",
    [
        lambda s: s.chunk(3),
        lambda s: s.shuffle_buffer(9, 0),
        lambda s: s.shuffle_buffer(2, 0).chunk(2),
        lambda s: s.zip(s.drop(1)),
    ],
)
def test_combinators_that_hold_several_batches_detect_a_reused_buffer(combined):
    outcome = reused(reusing().map(combined))
    assert isinstance(outcome.failure()._inner_value, BufferReused)


def test_overwritten_parts_of_buffers_and_sparse_batches_are_detected():
    def large():
        room = np.zeros((10, 1))
        for i in range(4):
            room[:] = i
            yield room

    parts = stream.from_iterable(large).map(lambda s: s.unchunk()).bind(lambda s: s.prefetch(2))
    assert reused(parts) == IOFailure(BufferReused(""))

    def sparse():
        room, generator = np.zeros((64, 5000), np.float32), np.random.default_rng(0)
        for _ in range(6):
            room[:] = 0
            room[np.arange(64), generator.integers(0, 5000, 64)] = 1
            yield room

    assert reused(stream.from_iterable(sparse).bind(lambda s: s.prefetch(2))) == IOFailure(BufferReused(""))


def test_views_of_one_array_are_not_a_reused_buffer():
    a = np.arange(12.0).reshape(4, 3)
    assert len(list(stream.items(stream.from_items([a[:1], a[:2], a[:3]])))) == 3
    assert len(list(stream.items(stream.from_items([(a, a[:, :1])]).repeat_or_take(3)))) == 3
    assert len(list(stream.items(stream.from_items([a, a.T, a[::2]]).chunk(1)))) == 3


@given(st.integers(0, 40_000), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_fingerprint_is_of_every_byte(size, seed):
    generator = np.random.default_rng(seed)
    array = generator.integers(0, 256, size + 1, dtype=np.uint8)
    before = fingerprints(array)
    assert fingerprints(array.copy()) == before == fingerprints(np.stack([array, array])[:, :][0])
    array[generator.integers(len(array))] ^= 1
    assert overwritten(array, before) == ""
    array.flags.writeable = False
    assert fingerprints(array) == [None]


def test_a_repeated_batch_and_buffers_that_are_free_again_are_harmless():
    batch = np.arange(3.0)
    same = stream.from_function(5, lambda i: batch)
    assert len(list(stream.items(same))) == 5
    assert use(same.prefetch(3), lambda s: len(list(stream.items(s)))) == IOSuccess(5)
    assert use(reusing(buffers=2), lambda s: [int(x[0]) for x, _ in stream.items(s)]) == IOSuccess([0, 1, 2, 3, 4, 5])


# ---- several threads, and threads that fail


def test_streams_that_share_a_thread_take_turns():
    def two(p):
        return p.take(150).prefetch(2).bind(lambda a: p.drop(3).prefetch(2).map(lambda b: a.zip(b)))

    f = stream.from_function(200, lambda i: np.full(1, i), spec=counted()[1].spec)
    pairs = use(f.prefetch(2).bind(two), lambda s: [(int(a[0]), int(b[0])) for a, b in stream.items(s)])
    assert pairs == IOSuccess([(i, i + 3) for i in range(150)])
    cut = stream.from_function(50, lambda i: np.arange(4 * i, 4 * i + 4)).unchunk()
    pairs = use(two(cut), lambda s: [(int(a[0]), int(b[0])) for a, b in stream.items(s)])
    assert pairs == IOSuccess([(i, i + 3) for i in range(150)])
    lines = stream.from_iterable(lambda: (np.full(1, i) for i in range(200)))
    pairs = use(lines.bind(two), lambda s: [(int(a[0]), int(b[0])) for a, b in stream.items(s)])
    assert pairs == IOSuccess([(i, i + 3) for i in range(150)])


def test_a_thread_within_a_thread_ends_too():
    slow = stream.from_function(5, lambda i: time.sleep(0.3 * (i == 2)) or np.zeros(1), spec=counted()[1].spec)
    nested = slow.prefetch(2).bind(lambda s: s.prefetch(2))
    assert use(nested, lambda s: len([next(stream.items(s))])) == IOSuccess(1)
    until(lambda: threads() == [])


def test_a_generator_that_is_read_during_its_release_is_closed_afterwards(monkeypatch):
    monkeypatch.setattr("fnlamp.stream.ahead.PATIENCE", 0.05)
    log = []

    def lines():
        try:
            for i in range(3):
                time.sleep(0.3 * (i == 2))
                yield np.array([i])
        finally:
            log.append("closed")

    resource = stream.from_iterable(lines).bind(lambda s: s.prefetch(3))
    assert use(resource, lambda s: len([next(stream.items(s))])) == IOSuccess(1)
    until(lambda: log == ["closed"] and threads() == [])


def test_a_release_that_fails_is_raised_and_nothing_hangs():
    def release(loaded):
        if loaded[0] == 4:
            raise OSError("cannot release")

    def load(numbers):
        time.sleep(0.2 * (numbers[0] == 4))
        return numbers

    resource = stream.staged(80, batch_size=2, bucket=2, load=load, release=release, spec=counted()[1].spec)

    def jump(s):
        s.step(0)
        time.sleep(0.05)  # the thread is at the bucket that cannot be released
        for position in (12, 20, 28):
            s.step(position)
            time.sleep(0.2)

    with pytest.raises(OSError, match="cannot release"):
        use(resource, jump)


def test_a_batch_that_is_not_a_tree_is_an_error():
    odd = stream.from_function(3, lambda i: {1: np.zeros(1), "a": np.zeros(1)}, spec=counted()[1].spec)
    with pytest.raises(ValueError, match="Comparator raised|not supported"):
        use(odd.prefetch(), lambda s: s.step(0))


# ---- stages


def staging(rows=23, **options):
    log = []

    def load(numbers):
        log.append(("load", numbers.tolist()))
        return {"rows": numbers}

    def release(loaded):
        log.append(("release", loaded["rows"].tolist()))

    settings = {"batch_size": 3, "bucket": 3} | options
    return log, stream.staged(rows, load=load, release=release, batch=lambda loaded, at: loaded["rows"][at], **settings)


def flat(lists):
    return list(chain(*lists))


def named(log, what):
    return [rows for name, rows in log if name == what]


@pytest.mark.parametrize("seed", [None, 4])
def test_23_items_in_batches_of_3_and_buckets_of_3_are_3_loads_3_releases_and_8_batches(seed):
    log, resource = staging(seed=seed)

    def read(s):
        batches = [batch.tolist() for batch in stream.items(s)]
        assert s.length == len(batches) == 8
        return batches

    batches = use(resource, read).unwrap()._inner_value
    assert list(map(len, batches)) == [3] * 7 + [2]
    assert (sorted if seed else list)(flat(batches)) == list(range(23))
    assert list(map(len, named(log, "load"))) == [9, 9, 5]
    assert flat(named(log, "load")) == flat(batches)
    assert named(log, "release") == named(log, "load")


def test_the_next_bucket_is_loaded_while_one_is_used_and_no_more():
    log, resource = staging(rows=60)

    def check(s):
        state = s.step(s.init).state
        until(lambda: len(log) == 2)
        time.sleep(0.02)
        assert len(named(log, "load")) == 2
        for _ in range(3):
            state = s.step(state).state
        assert named(log, "release") == [list(range(9))]
        until(lambda: len(named(log, "load")) == 3)
        return True

    assert use(resource, check) == IOSuccess(True)
    assert sorted(named(log, "release")) == sorted(named(log, "load"))  # the unused ones too
    assert threads() == []


def test_resuming_in_the_middle_loads_one_bucket_and_the_next():
    log, resource = staging(rows=60, spec=counted()[1].spec)

    def check(s):
        assert s.step(13).item.tolist() == [39, 40, 41]
        until(lambda: len(log) == 2)
        assert named(log, "load") == [list(range(36, 45)), list(range(45, 54))]
        return [batch.tolist()[0] for batch, _ in steps(s, 17)]

    assert use(resource, check) == IOSuccess([51, 54, 57])
    assert sorted(named(log, "release")) == sorted(named(log, "load"))


def test_a_stage_can_drop_the_short_batch_and_have_no_batch_at_all():
    assert use(staging(drop_last=True)[1], lambda s: (s.length, sum(map(len, stream.items(s))))) == IOSuccess((7, 21))
    spec = counted()[1].spec
    log, nothing = staging(rows=2, drop_last=True, spec=spec)
    assert use(nothing, lambda s: (s.length, list(stream.items(s)), str(s.why_empty)[:27])) == IOSuccess(
        (0, [], "expected at least one batch")
    )
    assert log == []


def test_a_load_that_fails_is_a_fault_of_the_batch():
    def load(numbers):
        raise FaultError(FileMissing("a", "gone"))

    resource = stream.staged(5, batch_size=2, bucket=1, load=load, spec=counted()[1].spec)
    assert use(resource, lambda s: s.step(0).fault) == IOSuccess(FileMissing("a", "gone"))
    assert use(stream.staged(5, batch_size=2, bucket=1, load=load), lambda s: s) == IOFailure(FileMissing("a", "gone"))


# ---- iterables


def test_an_iterable_is_opened_for_a_pass_read_on_request_and_closed():
    log = []

    def lines():
        log.append("open")
        try:
            for i in range(9):
                log.append(i)
                yield np.array([i])
        finally:
            log.append("close")

    def check(s):
        assert s.step(3).item.tolist() == [3]
        assert s.step(1).item.tolist() == [1]
        assert s.reread is stream.Reread.REPLAY
        return s.map(lambda x: x).reread

    assert use(stream.from_iterable(lines), check) == IOSuccess(stream.Reread.REPLAY)
    assert log == ["open", 0, 1, 2, 3, "close", "open", 0, 1, "close"]


def test_an_iterable_without_a_batch_needs_a_spec():
    assert isinstance(use(stream.from_iterable(lambda: iter([])), lambda s: s).failure()._inner_value, EmptyEpoch)
    empty = stream.from_iterable(lambda: iter([]), spec=counted()[1].spec)
    assert use(empty, lambda s: list(stream.items(s))) == IOSuccess([])


def test_the_same_iterator_is_not_read_again():
    one = (np.array([i]) for i in range(3))

    def read(s):
        return [int(x[0]) for x in stream.items(s)], s.step(0).fault

    assert use(stream.from_iterable(lambda: one), read) == IOSuccess(([0, 1, 2], NotRereadable(0, 3)))


def test_an_iterable_that_cannot_be_opened_is_a_failure():
    def make():
        raise FaultError(FileMissing("a", "gone"))

    assert use(stream.from_iterable(make), lambda s: s) == IOFailure(FileMissing("a", "gone"))
    later = stream.from_iterable(make, spec=counted()[1].spec)
    assert later.use(stream.to_list).run() == IOFailure(FileMissing("a", "gone"))


def test_a_bug_in_an_iterable_is_raised_again_by_the_next_request():
    def lines():
        yield np.zeros(1)
        raise ZeroDivisionError

    s = stream.from_iterator(lines(), spec=np.zeros(1))
    s.step(0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            s.step(1)


def test_an_iterator_that_fails_keeps_failing():
    def lines():
        yield np.array([0])
        raise FaultError(FileMissing("a", "gone"))

    s = stream.from_iterator(lines(), spec=np.zeros(1))
    assert isinstance(s.step(0), Emit)
    assert s.step(1).fault == s.step(1).fault == FileMissing("a", "gone")


def test_fold_and_to_list_are_programs():
    s = stream.from_function(4, lambda i: np.array([i]))
    total = stream.fold(s, 0, lambda so_far, batch: so_far + int(batch[0]))
    assert total.run() == total.run() == IOSuccess(6)
    both = [stream.to_list(s).map(len).run() for _ in range(2)]
    assert both == [IOSuccess(4), IOSuccess(4)]
    missing = FileMissing("a", "gone")
    assert stream.to_list(broken_at(2, FaultError(missing))).run() == IOFailure(missing)
    token = CancelToken()
    stopped = stream.fold(s, 0, lambda so_far, batch: token.cancel() or so_far + 1).run(Runtime(log=None, cancel=token))
    assert stopped.failure()._inner_value == Interrupted()
    assert stopped.failure()._inner_value.state == 1


def test_failures_of_the_resource_itself_are_failures():
    resource = stream.from_iterable(lambda: iter([np.zeros(1)]))
    assert resource.use(lambda s: Effect.from_failure("no")).run() == IOFailure("no")
