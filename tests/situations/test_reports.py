"""Reports of silent mistakes: a line of the log and of the plan, or a fault that names the place."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import PredictionMismatch

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 3)).astype(np.float32), np.arange(24) % 3


def program(layer=None, objective=None, x=X, y=Y, seed=None, **options):
    return train.epochs(
        model=train.supervised(layer or nn.linear(3), objective or loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=8, seed=seed),
        **{"epochs": 1, **options},
    )


def said(described):
    """The lines that a run logs; the plan has the same words."""
    lines = []
    described.run(Runtime(log=lines.append))
    return "\n".join(lines), str(described.explain())


async def coroutine(report):
    pass


def with_bad(row, column, value):
    bad = X.copy()
    bad[row, column] = value
    return bad


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (with_bad(7, 2, np.nan), "nan in 0, row 7, column 2"),
        (with_bad(0, 0, np.inf), "inf in 0, row 0, column 0"),
        ({"a": X, "b": with_bad(23, 1, -np.inf)}, "-inf in 0/b, row 23, column 1"),
    ],
)
def test_a_number_in_memory_that_is_not_finite_is_named_by_row_and_column(x, words):
    layer = nn.fun(lambda x: x["a"] + x["b"] if isinstance(x, dict) else x) >> nn.linear(3)
    for text in said(program(layer, x=x)):
        assert f"not finite: the training data, {words}" in text
    validated = program(
        layer, x={"a": X, "b": X} if isinstance(x, dict) else X, validation_batches=lambda c: stream.full_batch(x, Y)
    )
    for text in said(validated):
        assert f"not finite: the validation data, {words}" in text


@pytest.mark.parametrize("hook", [lambda: None, lambda report, trained, more: None, coroutine])
def test_a_hook_that_cannot_be_called_is_told_before_the_first_step(hook):
    with pytest.raises(TypeError, match="on_epoch is a .*function of a report, got the .*function"):
        program(on_epoch=hook)


@pytest.mark.parametrize("hook", [print, [].append, lambda *reports: None, partial(lambda name, report: None, "x")])
def test_a_hook_that_can_is_called(hook):
    assert program(on_epoch=hook).run(Runtime(log=None)).unwrap()._inner_value.curve


@pytest.mark.parametrize("schedule", [lambda: 1.0, lambda step, more: 1.0])
def test_a_schedule_that_is_no_function_of_one_step_is_told_at_once(schedule):
    with pytest.raises(TypeError, match="schedule is a function from the step to a factor, got <lambda>"):
        program(schedule=schedule)


@pytest.mark.parametrize("given", [None, {"weight": X}, program(), X, program().explain()])
def test_evaluating_what_is_not_trained_is_told_at_once(given):
    with pytest.raises(TypeError, match="evaluate: trained is"):
        train.evaluate(stream.full_batch(X, Y))(given)


def test_finite_numbers_and_integers_are_not_mentioned():
    for x in (X, (X * 10).astype(np.int32), np.full_like(X, 3e38)):
        layer = nn.fun(lambda x: x / 1e38) >> nn.linear(3)
        assert all("not finite" not in text for text in said(program(layer, x=x)))


def test_a_target_that_is_not_finite_is_named():
    y = np.zeros((24, 3), np.float32)
    y[5, 1] = np.nan
    assert "nan in 1, row 5, column 1" in said(program(objective=loss.mse(), y=y))[0]


@pytest.mark.parametrize(("seed", "expected"), [(None, True), (0, False), (3, False)])
def test_batches_in_order_are_told(seed, expected):
    for text in said(program(seed=seed)):
        assert ("steps of 8 rows, in order" in text) is expected


def test_one_batch_is_in_no_order():
    described = train.epochs(
        model=train.supervised(nn.linear(3), loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.full_batch(X, Y),
        epochs=1,
    )
    assert all("in order" not in text for text in said(described))


def test_metrics_without_validation_are_told():
    for text in said(program(metrics={"accuracy": loss.accuracy, "other": loss.accuracy})):
        assert "not computed: accuracy, other, which need validation_batches" in text


@pytest.mark.parametrize("executor", [train.Fused(), pytest.param(train.Stepwise(), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.linear(3), "use loss.cross_entropy, or end the model with nn.log_softmax"),
        (nn.linear(3) >> nn.softmax, "end the model with nn.log_softmax in place of nn.softmax"),
        (nn.linear(3) >> nn.relu, "use loss.cross_entropy"),
    ],
)
def test_nll_of_what_is_no_log_probability_is_a_fault_of_the_first_batch(layer, words, executor):
    found = program(layer, loss.nll()).run(Runtime(log=None, executor=executor)).failure()._inner_value
    assert isinstance(found, PredictionMismatch)
    assert words in str(found)
    assert int(found.state.state.step) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nll_of_log_probabilities_trains(dtype):
    model = train.supervised(nn.linear(3) >> nn.log_softmax, loss.nll(), precision=train.Precision(compute=dtype))
    described = train.epochs(
        model=model, optimizer=optim.sgdw(0.1), train_batches=lambda c: stream.minibatches(50 * X, Y, batch_size=8), epochs=3
    )
    assert described.run(Runtime(log=None)).map(lambda trained: len(trained.curve)).unwrap()._inner_value == 3


GENERATOR = np.random.default_rng(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "change", "words"),
    [
        (nn.fun(lambda x: x + np.random.normal()) >> nn.linear(3), None, "numpy.random.normal"),
        (nn.linear(3), lambda batch: (batch[0] + GENERATOR.normal(), batch[1]), "a Generator"),
        (nn.linear(3), lambda batch: (batch[0] + 1, batch[1]), None),
        (nn.linear(3) >> nn.dropout(0.5), None, None),
    ],
)
def test_numbers_that_are_drawn_while_compiling_are_told(layer, change, words):
    described = train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=8).map(change or (lambda batch: batch)),
        epochs=1,
    )
    for text in said(described):
        assert ("drawn once for all steps" in text) is (words is not None)
        assert words is None or words in text
