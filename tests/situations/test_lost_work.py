"""Every outcome holds the last good state: faults in `state`, bugs in an attribute, hooks as their second argument."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import BatchTooSmall, Fault, FaultError, LabelOutOfRange, NoWeight, ShapeMismatch

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((16, 3)).astype(np.float32), np.arange(16) % 3
MODEL = train.supervised(nn.linear(4) >> nn.batch_norm() >> nn.linear(3), loss.cross_entropy())


def batches(context):
    return stream.minibatches(X, Y, batch_size=8, seed=context.seed)


def describe(**options):
    return train.epochs(**{"model": MODEL, "optimizer": optim.adamw(), "train_batches": batches, "epochs": 6, **options})


def late(first, then):
    """A factory that is harmless until epoch 5."""
    return lambda context: then(context) if context.epoch == 5 else first(context)


def bad(message):
    raise ValueError(message)


def failing(context):
    return stream.from_items([(X[:8], Y[:8]), (X[8:], Y[8:])]).map(lambda batch: bad("unreadable"), spec=batches(context).spec)


FAULTS = {
    "a last batch too small for batch norm": (
        {"train_batches": late(batches, lambda c: stream.minibatches(X[:9], Y[:9], batch_size=8))},
        BatchTooSmall,
    ),
    "labels out of range": (
        {"train_batches": late(batches, lambda c: stream.minibatches(X, Y + 9, batch_size=8))},
        LabelOutOfRange,
    ),
    "another width": ({"train_batches": late(batches, lambda c: stream.minibatches(X[:, :2], Y, batch_size=8))}, ShapeMismatch),
    "a factory that fails": (
        {"train_batches": late(batches, lambda c: (_ for _ in ()).throw(FaultError(ShapeMismatch("a", "b"))))},
        ShapeMismatch,
    ),
    "validation without a row that counts": (
        {"validation_batches": late(batches, lambda c: stream.minibatches(X, np.full(16, -100), batch_size=8))},
        NoWeight,
    ),
    "training without a row that counts": (
        {"train_batches": late(batches, lambda c: stream.minibatches(X, np.full(16, -100), batch_size=8))},
        NoWeight,
    ),
    "a hook that fails": (
        {"on_epoch": lambda r: Effect.from_failure(ShapeMismatch("room", "a full disk")) if r.epoch == 4 else None},
        ShapeMismatch,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("executor", [train.Fused(), pytest.param(train.Stepwise(), marks=pytest.mark.slow)], ids=str)
def test_a_late_fault_holds_the_last_good_state(name, executor):
    options, kind = FAULTS[name]
    found = describe(**options).run(Runtime(log=None, executor=executor)).failure()._inner_value
    assert isinstance(found, kind)
    assert isinstance(found, Fault)
    assert len(found.state.curve) >= 4
    assert found.state.predict(X).shape == (16, 3)
    taken = found.state.state.stream_state not in (None, 0)  # a part of an epoch that cannot be read again
    again = describe(initial=found.state, epochs=2) if taken else describe(resume=found.state)
    assert len(again.run(Runtime(log=None)).unwrap()._inner_value.curve) == (2 if taken else 6)


BUGS = {
    "a hook that raises": {"on_epoch": lambda report: bad("no") if report.epoch == 4 else None},
    "a metric that raises": {
        "validation_batches": late(batches, lambda c: stream.minibatches(X[:4], Y[:4], batch_size=4)),
        "metrics": {"odd": lambda p, t: bad("no") if p.shape[0] == 4 else loss.accuracy(p, t)},
    },
    "a stream that raises": {"train_batches": late(batches, failing)},
    "a factory that raises": {"train_batches": late(batches, lambda c: bad("no"))},
    "a hook that returns nonsense": {"on_epoch": lambda report: 5 if report.epoch == 4 else None},
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_carries_the_last_good_state(name):
    with pytest.raises((ValueError, TypeError)) as caught:
        describe(**BUGS[name]).run(Runtime(log=None))
    assert len(caught.value.state.curve) >= 4
    assert any("the last good state is in this exception's .state" in note for note in caught.value.__notes__)
    assert len(describe(resume=caught.value.state).run(Runtime(log=None)).unwrap()._inner_value.curve) == 6


def test_a_log_that_raises_loses_no_state():
    def log(line):
        if line.startswith("Epoch 5"):
            raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe") as caught:
        describe().run(Runtime(log=log))
    assert [report.epoch for report in caught.value.state.curve] == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------------------- hooks


def test_print_is_a_hook(capsys):
    assert describe(on_epoch=print, epochs=2).run(Runtime(log=None)).map(lambda trained: len(trained.curve)).unwrap()
    assert capsys.readouterr().out.count("Training Loss:") == 2


@pytest.mark.parametrize("executor", [train.Fused(), train.Stepwise()], ids=str)
def test_a_hook_of_two_arguments_receives_a_trained_to_keep(executor):
    kept = []
    describe(on_epoch=lambda report, trained: kept.append((report, trained))).run(Runtime(log=None, executor=executor))
    assert [report.epoch for report, _ in kept] == [1, 2, 3, 4, 5, 6]
    for report, trained in kept:
        assert trained.curve[-1] == report
        alone = describe(epochs=report.epoch).run(Runtime(log=None, executor=executor)).unwrap()._inner_value
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(trained.params), jax.tree.leaves(alone.params))
    resumed = describe(resume=kept[2][1]).run(Runtime(log=None)).unwrap()._inner_value
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(resumed.params), jax.tree.leaves(kept[-1][1].params))


def test_every_form_of_a_hook():
    seen = []

    class Hook:
        def __call__(self, report, trained):
            seen.append(("object", trained.state.epoch))

    def with_default(report, verbose=True):
        seen.append(("default", verbose))

    def varied(*arguments):
        seen.append(("varied", len(arguments)))

    def program(report, trained):
        return Effect.suspend(lambda: seen.append(("program", len(trained.curve))))

    for hook in (Hook(), with_default, varied, program):
        describe(on_epoch=hook, epochs=1).run(Runtime(log=None)).unwrap()
    assert seen == [("object", 2), ("default", True), ("varied", 1), ("program", 1)]


def test_the_error_for_a_wrong_result_of_a_hook_says_what_to_return():
    with pytest.raises(TypeError, match="on_epoch returned int, expected an Effect"):
        describe(on_epoch=lambda report: 5, epochs=1).run(Runtime(log=None))


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_first_validation_that_is_not_a_number_is_not_the_best(value):
    seen = []

    def validation(context):
        seen.append((context.last_validation_loss, context.best_validation_loss))
        return stream.minibatches(X if context.epoch != 1 or value is None else X * np.float32(np.nan), Y, batch_size=16)

    describe(validation_batches=validation, epochs=4).run(Runtime(log=None)).unwrap()
    last, best = zip(*seen[1:], strict=True)
    finite = [loss for loss in last if loss is not None and np.isfinite(loss)]
    assert best[-1] == min(finite[: len(finite)])
