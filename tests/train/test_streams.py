"""Training on streams of all kinds: the same bits, typed faults, and resuming where it stopped."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.io import IOFailure, IOSuccess
from returns.result import Failure

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import BufferReused, DtypeMismatch, Interrupted, NonFinite, NotRereadable
from fnlamp.train.check import batch_specs

X = np.random.default_rng(0).random((40, 3), np.float32)
Y = X @ np.float32([1, 2, 3])[:, None]
EXECUTORS = [train.Stepwise(), train.Fused(chunk=3), train.Fused()]
each_executor = pytest.mark.parametrize("executor", EXECUTORS, ids=str)

describe = partial(
    train.epochs,
    model=train.supervised(nn.linear(1), loss.mse()),
    optimizer=optim.adamw(0.1),
    epochs=2,
)


def run(train_batches, executor=None, **options):
    return describe(train_batches=train_batches, **options).run(Runtime(executor=executor, log=None))


def same_bits(a, b):
    assert jax.tree.all(jax.tree.map(np.array_equal, a.unwrap()._inner_value.params, b.unwrap()._inner_value.params))


def in_memory(context):
    return stream.minibatches(X, Y, batch_size=4, seed=context.seed)


def batches_of(context):
    return list(stream.items(in_memory(context)))


SOURCES = {
    "items": lambda context: stream.from_items(batches_of(context)),
    "prefetched": lambda context: stream.from_items(batches_of(context)).prefetch(),
    "an iterable": lambda context: stream.from_iterable(lambda: iter(batches_of(context))),
    "an iterable prefetched": lambda context: stream.from_iterable(lambda: iter(batches_of(context))).bind(
        lambda s: s.prefetch(3)
    ),
    "an iterator": lambda context: stream.from_iterator(iter(batches_of(context)), spec=(X[:4], Y[:4])),
    "cut and joined": lambda context: stream.from_items(batches_of(context)).unchunk(3).unchunk(1).chunk(4),
    "staged": lambda context: stream.staged(
        40, batch_size=4, bucket=3, load=lambda rows: (X[rows], Y[rows]), seed=context.seed
    ),
}


@each_executor
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_of_the_same_batches_trains_to_the_same_bits(source, executor):
    same_bits(run(source, executor), run(in_memory, executor))


def test_a_mapped_file_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    make = lambda context: stream.minibatches(mapped, Y, batch_size=4, seed=context.seed)  # noqa: E731
    context = train.LoopContext(1, 3)
    assert make(context).view is None
    assert make(context).indexed
    same_bits(run(make), run(in_memory))


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "an iterator"])
def test_training_that_was_stopped_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(source):
    token = CancelToken()

    def stopping(context):
        def watched(batch):
            if context.epoch == 2 and np.array_equal(batch[0], batches_of(context)[6][0]):
                token.cancel()
            return batch

        def wrap(s):
            return s.map(watched, spec=s.spec)

        made = SOURCES[source](context)
        return wrap(made) if isinstance(made, stream.BatchStream) else made.map(wrap)

    program = describe(train_batches=stopping)
    stopped = program.run(Runtime(executor=train.Stepwise(), log=None, cancel=token))
    assert isinstance(stopped, IOFailure)
    interrupted = stopped.failure()._inner_value
    assert isinstance(interrupted, Interrupted)
    assert 10 < int(interrupted.state.state.step) < 20
    same_bits(run(SOURCES[source], resume=interrupted.state), run(in_memory))


@each_executor
def test_functions_of_batches_are_part_of_the_compiled_step_for_host_streams_too(executor):
    calls = []

    def halved(batch):
        calls.append(type(batch[0]).__name__)
        return batch[0] / 2, batch[1]

    def mapped(make):
        return lambda context: make(context).map(halved).map(lambda batch: (batch[0] + 1, batch[1]))

    same_bits(run(mapped(SOURCES["items"]), executor), run(mapped(in_memory), executor))
    assert all("Tracer" in name for name in calls)
    whole = stream.from_items([(np.arange(4, dtype=np.uint8), np.arange(4))]).map(lambda batch: (batch[0] / 2, batch[1]))
    ((x, _),) = stream.items(whole)
    assert x.dtype == np.float32  # as on the device, not NumPy's float64
    ((x, _),) = stream.items(whole.take(1).zip(whole).map(lambda pair: pair[0], spec=whole.spec))
    assert x.tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    "chosen",
    [
        lambda s: s.take(5),
        lambda s: s.drop(3),
        lambda s: s.every_nth(2, 1),
        lambda s: s.repeat_or_take(12),
        lambda s: s.shuffle_buffer(4, 1),
        lambda s: s.prefetch(2),
    ],
)
@pytest.mark.parametrize("source", ["items", "an iterator"])
def test_functions_of_batches_stay_compiled_when_batches_are_chosen(source, chosen):
    traced = []

    def halved(batch):
        traced.append(isinstance(batch[0], jax.core.Tracer))
        return batch[0] / 2, batch[1]

    run(lambda context: chosen(SOURCES[source](context).map(halved)), epochs=1)
    assert all(traced)
    run(lambda context: chosen(SOURCES[source](context).map(halved)), train.Stepwise(), epochs=1)
    assert all(traced)


@each_executor
def test_numbers_are_not_narrowed_without_a_word_because_the_batch_before_was_narrow(executor):
    batches = [(X[:4], np.zeros((4, 1), np.int32)), (X[:4], np.full((4, 1), 2**33))]
    assert isinstance(run(lambda context: stream.from_items(batches), executor, epochs=1).failure()._inner_value, DtypeMismatch)


@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64, 2**100])
def test_every_bit_of_a_seed_counts(seed):
    weights = [run(in_memory, seed=s, epochs=0).unwrap()._inner_value.params["weight"] for s in (seed, seed % 2**32)]
    assert not np.array_equal(*weights)


def test_a_seed_of_training_is_not_negative():
    with pytest.raises(ValueError, match="0 or more"):
        run(in_memory, seed=-1)


def test_a_resource_is_evaluated_too():
    trained = run(in_memory, epochs=1).unwrap()._inner_value
    whole = stream.minibatches(X, Y, batch_size=4)
    items = stream.from_items(list(stream.items(whole)))
    figures = [train.evaluate(s)(trained).run().unwrap()._inner_value for s in (whole, items.prefetch(), lambda c: items)]
    assert figures[0].loss == pytest.approx(figures[1].loss) == figures[2].loss


@each_executor
def test_a_producer_that_fills_one_buffer_again_and_again_is_not_trained_on(executor):
    def reusing(context):
        buffer = np.zeros((4, 3), np.float32)

        def make():
            for x, y in batches_of(context):
                buffer[:] = x
                yield buffer, y

        return stream.from_iterable(make)

    for source in (reusing, lambda context: reusing(context).bind(lambda s: s.prefetch())):
        assert run(source, executor) == IOFailure(BufferReused("0"))


@each_executor
def test_a_source_that_can_be_read_once_is_not_gone_on_with_from_another_place(executor):
    made = stream.from_iterator(iter(batches_of(train.LoopContext(1, 3))), spec=(X[:4], Y[:4]))
    match run(lambda context: made, executor):
        case IOFailure(Failure(NotRereadable(wanted=0, at=10))):
            pass
        case other:
            pytest.fail(str(other))


@each_executor
def test_numbers_that_break_in_a_source_that_can_be_read_once_are_still_told_as_such(executor):
    bad = [(x, y if i < 5 else y * np.inf) for i, (x, y) in enumerate(batches_of(train.LoopContext(1, 3)))]
    match run(lambda context: stream.from_iterator(iter(bad), spec=(X[:4], Y[:4])), executor, epochs=1):
        case IOFailure(Failure(NonFinite(step=6))):
            pass
        case other:
            pytest.fail(str(other))


def test_the_plan_tells_what_resuming_costs():
    text = str(describe(train_batches=lambda c: stream.from_iterator(iter(batches_of(c)), spec=(X[:4], Y[:4]))).explain())
    assert "the stream can be read only once, in order" in text
    assert "resuming" not in str(describe(train_batches=in_memory).explain())


def test_validation_may_be_a_source_of_any_kind():
    for source in SOURCES.values():
        outcome = run(in_memory, validation_batches=source)
        assert isinstance(outcome, IOSuccess)
        (report, _) = outcome.unwrap()._inner_value.curve
        assert report.validation_loss == pytest.approx(
            run(in_memory, validation_batches=in_memory).unwrap()._inner_value.curve[0].validation_loss, rel=1e-5
        )


def test_the_spec_of_a_mapped_batch_is_derived_again_only_if_its_function_reads_another_value():
    times, calls = {"rows": 2}, []

    def repeated(batch):
        calls.append(batch)
        return tuple(jnp.repeat(part, times["rows"], 0) for part in batch)

    batches = stream.minibatches(X, Y, batch_size=4).map(repeated)
    calls.clear()
    assert [next(batch_specs(batches))[0].shape for _ in range(3)] == [(8, 3)] * 3 and len(calls) == 1
    times["rows"] = 3
    assert next(batch_specs(batches))[0].shape == (12, 3) and len(calls) == 2
