"""Chains of ten thousand, and streams of ten million batches: built at once, run without overflow, with the right batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from returns.io import IOSuccess

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.stream import BatchStream

DEEP = 10_000
SILENT = Runtime(log=None)


def counted(log: list[int]) -> Callable[[int], Resource[int, Any]]:
    def held(n: int) -> Resource[int, Any]:
        return Resource.make(Effect.from_value(n + 1), lambda m, _: Effect.suspend(lambda: log.append(m)))

    return held


def chained(step: Callable[[Any], Any], start: Any, count: int = DEEP) -> Any:
    for _ in range(count):
        start = step(start)
    return start


def test_resources_bound_to_the_left_are_released_in_reverse_order() -> None:
    log: list[int] = []
    program = chained(lambda r: r.bind(counted(log)), Resource.from_value(0)).use(Effect.from_value)
    assert program.run(SILENT) == IOSuccess(DEEP)
    assert log == list(range(DEEP, 0, -1))


def test_resources_bound_to_the_right() -> None:
    log: list[int] = []

    def further(n: int) -> Resource[int, Any]:
        return counted(log)(n).bind(further) if n < DEEP else Resource.from_value(n)

    assert further(0).use(Effect.from_value).run(SILENT) == IOSuccess(DEEP)
    assert log == list(range(DEEP, 0, -1))


@pytest.mark.parametrize(
    "step",
    [
        lambda r: r.map(lambda n: n + 1),
        lambda r: r.bind(lambda n: Resource.from_value(n + 1)),
        lambda r: Resource.from_value(0).bind(lambda _: r).map(lambda n: n + 1),
    ],
    ids=["map", "bind to values", "inside each other"],
)
def test_resources_without_a_release(step: Any) -> None:
    assert chained(step, Resource.from_value(0)).use(Effect.from_value).run(SILENT) == IOSuccess(DEEP)


def test_a_failure_in_the_middle_releases_what_was_acquired() -> None:
    log: list[int] = []
    first = chained(lambda r: r.bind(counted(log)), Resource.from_value(0), 100)
    failing = first.bind(lambda n: Resource.make(Effect.from_failure("no"), lambda *_: Effect.from_value(None)))
    assert chained(lambda r: r.bind(counted(log)), failing, 100).use(Effect.from_value).run_exit(SILENT).failure() == "no"
    assert log == list(range(100, 0, -1))


def test_a_function_that_returns_no_resource_is_named() -> None:
    wrong: Any = Resource.from_value(1).bind(lambda n: n)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="returned int, expected Resource"):
        wrong.use(Effect.from_value).run(SILENT)


# ------------------------------------------------------------------------------- streams


def on_the_host() -> BatchStream:
    return stream.from_function(3, lambda i: np.full(2, i), spec=np.zeros(2, np.int64))


def one_by_one() -> BatchStream:
    """A stream without positions."""
    return stream.from_items([np.full(2, i) for i in range(3)]).filter(lambda batch: True)


def in_memory() -> BatchStream:
    return stream.from_arrays(np.arange(6), batch_size=2)


SOURCES = pytest.mark.parametrize("source", [on_the_host, one_by_one, in_memory], ids=lambda source: source.__name__)


def rows(s: BatchStream) -> list[list[int]]:
    return [np.asarray(batch).tolist() for batch in stream.items(s)]


@pytest.mark.slow
@SOURCES
def test_ten_thousand_filters_and_maps(source: Any) -> None:
    whole = rows(source())
    assert rows(chained(lambda s: s.filter(lambda batch: True), source())) == whole
    assert rows(chained(lambda s: s.filter(lambda batch: batch[0] != whole[1][0]), source())) == [whole[0], whole[2]]
    added = chained(lambda s: s.map(lambda batch: batch + 1, spec=s.spec), source())
    assert rows(added) == [[value + DEEP for value in batch] for batch in whole]


def test_filters_and_maps_keep_their_order() -> None:
    s = on_the_host().map(lambda x: x + 1, spec=np.zeros(2)).filter(lambda x: x[0] != 2).map(lambda x: x * 10, spec=np.zeros(2))
    assert rows(s) == [[10, 10], [30, 30]]


@pytest.mark.slow
@SOURCES
@pytest.mark.parametrize("side", ["left", "right"])
def test_ten_thousand_concats(source: Any, side: str) -> None:
    step = (lambda s: s.concat(source())) if side == "left" else (lambda s: source().concat(s))
    s = chained(step, source())
    assert s.length in (None, 3 * (DEEP + 1))
    assert rows(s) == rows(source()) * (DEEP + 1)


@SOURCES
def test_a_concat_resumes_from_any_state(source: Any) -> None:
    s = source().concat(source()).concat(source().concat(source()))
    whole, state, at = rows(s), s.init, 0
    while at < len(whole):
        assert [np.asarray(batch).tolist() for batch in stream.items(s, state)] == whole[at:]
        got = s.step(state)
        at, state = at + isinstance(got, stream.Emit), got.state


@pytest.mark.slow
@pytest.mark.parametrize("source", [on_the_host, in_memory], ids=lambda source: source.__name__)
def test_ten_thousand_choices_of_an_indexed_stream(source: Any) -> None:
    whole = rows(source())
    assert rows(chained(lambda s: s.take(5).drop(0).every_nth(1), source())) == whole
    assert rows(chained(lambda s: s.repeat_or_take(4), source())) == [*whole, whole[0]]


COMBINATORS: dict[str, Callable[[BatchStream, BatchStream], BatchStream]] = {
    "take": lambda s, _: s.take(5),
    "drop": lambda s, _: s.drop(0),
    "every_nth": lambda s, _: s.every_nth(1),
    "repeat_or_take": lambda s, _: s.repeat_or_take(3),
    "filter and take": lambda s, _: s.filter(lambda batch: True).take(3),
    "map and take": lambda s, _: s.map(lambda batch: batch, spec=s.spec).take(3),
    "concat and take": lambda s, source: s.concat(source).take(3),
    "zip, the left": lambda s, source: s.zip(source).map(lambda pair: pair[0], spec=s.spec),
    "zip, the right": lambda s, source: source.zip(s).map(lambda pair: pair[1], spec=s.spec),
    "interleave": lambda s, source: s.interleave(source.take(0)),
    "chunk": lambda s, _: s.chunk(1),
    "unchunk": lambda s, _: s.unchunk(2),
    "unchunk and chunk": lambda s, _: s.unchunk(1).chunk(2),
    "shuffle_buffer": lambda s, _: s.shuffle_buffer(1, 0),
}


@pytest.mark.parametrize("name", COMBINATORS)
def test_a_deep_chain_of_any_combinator(name: str) -> None:
    deep_chain(one_by_one, name, 1_100)


@pytest.mark.slow
@SOURCES
@pytest.mark.parametrize("name", COMBINATORS)
def test_a_chain_of_ten_thousand_of_any_combinator(source: Any, name: str) -> None:
    deep_chain(source, name, DEEP)


def deep_chain(source: Any, name: str, count: int) -> None:
    whole = rows(source())
    s = chained(lambda s: COMBINATORS[name](s, source()), source(), count)
    assert rows(s) == whole
    got = s.step(s.init)
    while isinstance(got, stream.Skip):
        got = s.step(got.state)
    assert isinstance(got, stream.Emit)
    assert [np.asarray(batch).tolist() for batch in stream.items(s, got.state)] == whole[1:]  # from any state


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_in_pairs_beyond_the_limit_are_an_error_when_the_stream_is_built(side: str) -> None:
    def paired(s: BatchStream) -> BatchStream:
        return s.zip(one_by_one()) if side == "left" else one_by_one().zip(s)

    s = chained(paired, one_by_one(), 399)
    assert len(list(stream.items(s))) == 3
    with pytest.raises(ValueError, match="at most 400 levels"):
        chained(paired, s, 2)


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Fused(), train.Stepwise()], ids=str)
def test_training_over_a_deep_chain(executor: Any) -> None:
    def batches(context: train.LoopContext) -> BatchStream:
        s = stream.from_items([(np.ones((4, 2), np.float32), np.zeros(4, np.int64))] * 3).filter(lambda batch: True)
        return chained(lambda s: s.take(3), s, 3_000)  # type: ignore[no-any-return]

    model = train.supervised(nn.linear(3), loss.cross_entropy())
    program = train.epochs(model=model, optimizer=optim.sgdw(0.1), train_batches=batches, epochs=2)
    assert int(program.run_or_raise(Runtime(log=None, executor=executor)).state.step) == 6


def test_an_exception_in_a_deep_chain_is_raised_unchanged() -> None:
    def fail(batch: Any) -> Any:
        raise ValueError("unreadable")

    s = one_by_one().map(fail, spec=one_by_one().spec)
    with pytest.raises(ValueError, match="unreadable"):
        rows(chained(lambda s: s.take(3), s))


@SOURCES
def test_ten_million_batches_are_described_at_once(source: Any) -> None:
    whole = rows(source())
    started = time.perf_counter()
    s = source().repeat_or_take(10**7)
    assert time.perf_counter() - started < 3
    assert s.length in (None, 10**7)
    if s.indexed:
        assert [np.asarray(s.step(at).item).tolist() for at in (0, 5, 10**7 - 1)] == [
            whole[0],
            whole[2],
            whole[(10**7 - 1) % 3],
        ]
        assert isinstance(s.step(10**7), stream.End)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_repeating_starts_over_as_often_as_necessary(count: int) -> None:
    s = stream.from_arrays(np.arange(7), batch_size=3, seed=1)
    assert rows(s.repeat_or_take(count)) == (rows(s) * 3)[:count]
