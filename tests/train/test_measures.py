"""Metrics that are any sums: added up exactly over batches and epochs, their result on the host."""

from __future__ import annotations

from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.loss import LossValue, Metric, as_loss, as_metric
from fnlamp.train import tally

RNG = np.random.default_rng(1)
X = RNG.standard_normal((37, 4)).astype(np.float32)
Y = RNG.standard_normal((37, 2)).astype(np.float32)
MODEL = train.supervised(nn.linear(2), loss.mse())
QUIET = Runtime(log=None)


def histogram(prediction, target):
    above = (prediction > target).sum(0, dtype=jnp.int32)
    return {"above": above, "moments": (jnp.sum(target), jnp.sum(jnp.square(target), axis=0))}


def shares(sums):
    return sums["above"] / 37


def program(**options):
    defaults = {"model": MODEL, "optimizer": optim.sgdw(0.1), "train_batches": batches, "epochs": 1}
    return train.epochs(**{**defaults, **options})


def batches(context):
    return stream.minibatches(X, Y, batch_size=8)


@pytest.fixture(scope="module")
def trained():
    return value(program(), QUIET)


def evaluated(trained, metrics, batch_size=8, **runtime):
    batched = stream.minibatches(X, Y, batch_size=batch_size)
    return Effect.from_value(trained).bind(train.evaluate(batched, metrics)), Runtime(log=None, **runtime)


@pytest.mark.broad
@pytest.mark.parametrize("size", [1, 8, 37])
def test_a_tree_of_sums_adds_up_over_batches(trained, size):
    seen = []
    metric = Metric(histogram, lambda sums: seen.append(sums) or shares(sums), "histogram")
    found = value(*evaluated(trained, {"plain": loss.mse(), "own": metric}, size)).metrics
    prediction = np.asarray(trained.predict(X), np.float64)
    np.testing.assert_array_equal(found["own"], (prediction > Y).sum(0) / 37)
    (sums,) = seen
    assert sums["above"].dtype == sums["moments"][0].dtype == np.float64
    np.testing.assert_allclose(sums["moments"][1], np.square(Y, dtype=np.float64).sum(0), rtol=1e-6)
    assert found["plain"] == pytest.approx(np.square(prediction - Y).mean(), rel=1e-6)


def test_every_executor_gives_the_same_bits(trained):
    metrics = {"own": Metric(histogram, shares, "histogram")}
    first = value(*evaluated(trained, metrics, executor=train.Stepwise()))
    assert value(*evaluated(trained, metrics, executor=train.Fused(chunk=2))) == first
    assert value(*evaluated(trained, {"own": Metric(histogram, lambda s: shares(s) + 1, "histogram")})) != first


def test_counts_of_a_batch_and_of_an_epoch_are_exact_past_two_to_the_24():
    counts = jnp.array([2**24 + 1, 2**31 - 1, 3, 0], jnp.int32)
    sums = jnp.asarray(tally.empty(4))
    one = jnp.float32(1)
    for _ in range(5):
        sums = jax.jit(lambda sums: tally.add(sums, 1, [one, one, one, counts]))(sums)
    np.testing.assert_array_equal(tally.sums(sums).metrics, 5 * np.asarray(counts, np.float64))


def test_counts_of_numbers_of_any_size_are_exact():
    counts = RNG.integers(0, 2**31, (300, 5)) >> RNG.integers(0, 31, (300, 5))

    def step(i, sums):
        one = jnp.float32(1)
        return tally.add(sums, 1, [one, one, one, jnp.asarray(counts, jnp.int32)[i]])

    sums = jax.jit(lambda: jax.lax.fori_loop(0, 300, step, jnp.asarray(tally.empty(5))))()
    np.testing.assert_array_equal(tally.sums(sums).metrics, counts.sum(0))


def test_called_on_arrays_a_metric_gives_its_result():
    metric = Metric(histogram, shares, "histogram")
    np.testing.assert_array_equal(metric(Y + 1, Y), np.ones(2))
    assert Metric(lambda p, t: len(p), lambda rows: rows, "rows")(X, Y) == 37.0
    assert as_metric(loss.accuracy)(jnp.eye(3), jnp.array([0, 1, 0])) == 2 / 3
    assert as_metric(metric) is metric


# ------------------------------------------------------------------------------- plain functions


def absolute(prediction, target):
    return jnp.abs(prediction - target).sum(-1)


def test_one_number_per_row_is_a_loss_and_a_metric():
    made = as_loss(absolute)(X[:, :2], Y)
    assert (float(made.weight), made.total.dtype) == (37, jnp.float32)
    assert float(made.mean) == pytest.approx(np.abs(X[:, :2] - Y).sum(-1).mean(), rel=1e-6)
    model = train.supervised(nn.linear(2), absolute)
    metrics = {"right": lambda p, t: p[:, 0] > t[:, 0], "each": lambda p, t: jnp.abs(p - t)}
    report = value(program(model=model, validation_batches=batches, metrics=metrics), QUIET).curve[-1]
    assert report.validation_loss == pytest.approx(2 * report.validation_metrics["each"], rel=1e-6)
    assert (report.validation_metrics["right"] * 37).is_integer()


@pytest.mark.parametrize(
    ("function", "prediction", "target"),
    [
        (lambda p, t: p - t, np.zeros((20, 1)), np.zeros(20)),
        (lambda p, t: p - t, np.zeros((20, 20)), np.zeros(20)),
        (lambda p, t: p.mean(0), np.zeros((20, 3)), np.zeros((20, 3))),
        (lambda p, t: (p - t)[:5], np.zeros(20), np.zeros(20)),
    ],
)
def test_arrays_of_another_shape_are_a_fault(function, prediction, target):
    with pytest.raises(FaultError, match=r"one number per row, of shape \[20\]"):
        as_loss(function)(jnp.asarray(prediction), jnp.asarray(target))


def test_several_predictions_and_no_target_have_rows_too():
    given = {"a": jnp.ones((5, 2)), "b": jnp.ones(5)}
    assert float(as_loss(lambda p, t: p["b"])(given, None).weight) == 5
    assert float(as_loss(lambda p, t: p["a"])(given, jnp.zeros((5, 2))).weight) == 10


# ------------------------------------------------------------------------------- what cannot be sums


def test_sums_have_one_shape_for_all_batches(trained):
    metric = Metric(lambda p, t: p[:, 0], lambda sums: sums.sum(), "rows")
    found = fault(*evaluated(trained, {"own": metric}))
    assert found == ShapeMismatch("sums (float32[8]) for a batch of any size", "(float32[5])", where="own")


def test_sums_are_real_numbers():
    with pytest.raises(FaultError) as caught:
        Metric(lambda p, t: {"a": p * 1j}, lambda sums: 0, "own")(X, Y)
    assert caught.value.fault == DtypeMismatch("sums of real numbers", "{a: complex64[37, 4]}", where="own")
    with pytest.raises(TypeError, match="own: expected a tree of arrays as the sums, got 'text'"):
        Metric(lambda p, t: "text", lambda sums: 0, "own")(X, Y)


def test_a_metric_is_not_a_loss():
    with pytest.raises(TypeError, match=r"got the metric histogram, which is given as metrics=\{'histogram': ...\}"):
        train.supervised(nn.linear(2), Metric(histogram, shares, "histogram"))


def test_a_batch_without_a_mean_is_not_hidden(trained):
    negative = as_metric(lambda p, t: LossValue(jnp.sum(p), -1.0))
    assert np.isnan(value(*evaluated(trained, {"own": negative})).metrics["own"])


@pytest.mark.parametrize("option", ["metrics", "train_metrics"])
def test_a_metric_that_was_not_called_is_told_at_once(option):
    with pytest.raises(TypeError, match=rf"{option}\['f1'\]: fnlamp.loss.f1 makes a loss or a metric; write loss.f1\(\)"):
        program(**{option: {"f1": loss.f1}})


def test_a_result_is_a_number_or_an_array():
    with pytest.raises(TypeError, match="own: result returned .*, expected a number or an array of numbers"):
        Metric(lambda p, t: p.sum(), lambda sums: {"sum": sums}, "own")(X, Y)


def test_a_fold_reads_a_number():
    metrics = {"above": Metric(histogram, shares, "histogram")}
    with pytest.raises(TypeError, match=r"the metric 'above' of a fold is an array of shape \(2,\); give a function"):
        value(program(validation_batches=batches, metrics=metrics, folds={"best": train.best("above")}), QUIET)


# ------------------------------------------------------------------------------- reports


def test_a_report_with_arrays_prints_and_compares():
    metrics = {"above": Metric(histogram, shares, "histogram"), "wide": Metric(lambda p, t: jnp.ones((5, 5)), lambda s: s, "w")}
    runs = [value(program(validation_batches=batches, metrics=metrics), QUIET).curve[-1] for _ in range(2)]
    line = str(runs[0])
    assert "Validation Above: [0." in line
    assert "Validation Wide: 5x5 numbers" in line
    assert "\n" not in line
    assert asdict(runs[0])["validation_metrics"]["wide"].shape == (5, 5)
    again = type(runs[1])(**{**vars(runs[1]), "seconds": runs[0].seconds})
    assert (again == runs[0], hash(again) == hash(runs[0])) == (True, True)


# ------------------------------------------------------------------------------- fnlamp's own, over batches


@pytest.mark.slow
def test_each_metric_of_classes_over_batches_is_that_of_all_rows():
    labels = np.where(RNG.random(37) < 0.2, -100, RNG.choice([0, 2, 3], 37))  # class 1 is absent
    metrics = {
        "accuracy": loss.accuracy,
        "top_k": loss.top_k_accuracy(2),
        "table": loss.confusion_matrix(),
        **{f"{make.__name__} {a.name}": make(a) for make in (loss.precision, loss.recall, loss.f1) for a in loss.Average},
        "auroc": loss.auroc(np.linspace(-3, 3, 301), loss.Average.EACH),
        "calibration": loss.calibration_error(5),
        "perplexity": loss.perplexity(),
    }
    model = train.supervised(nn.linear(4), loss.cross_entropy())
    stood = value(program(model=model, train_batches=lambda c: stream.minibatches(X, labels, batch_size=8)), QUIET)
    prediction = stood.predict(X)
    for executor in (train.Fused(), train.Fused(chunk=2), train.Stepwise()):
        evaluation = train.evaluate(stream.minibatches(X, labels, batch_size=8), metrics)(stood)
        found = value(evaluation, Runtime(log=None, executor=executor)).metrics
        for name, metric in metrics.items():
            np.testing.assert_allclose(found[name], as_metric(metric)(prediction, labels), rtol=1e-6, err_msg=name)
    exact = loss.exact_auroc(prediction, labels, loss.Average.EACH)
    assert np.isnan(exact[1])
    np.testing.assert_allclose(found["auroc"], exact, atol=0.03)


@pytest.mark.slow
def test_each_metric_of_numbers_over_batches_is_that_of_all_rows(trained):
    target = np.where(RNG.random(Y.shape) < 0.2, np.nan, Y).astype(np.float32)
    metrics = {make.__name__: make(ignored=np.nan) for make in (loss.mae, loss.rmse, loss.r2)}
    model = train.supervised(nn.linear(2), loss.mse(ignored=np.nan))
    seen = stream.minibatches(X, target, batch_size=8)
    program_ = program(model=model, initial=trained, train_batches=lambda c: seen, optimizer=optim.sgdw(0.0))
    found = value(program_.bind(train.evaluate(seen, metrics)), QUIET)
    for name, metric in metrics.items():
        assert found.metrics[name] == pytest.approx(as_metric(metric)(trained.predict(X), target), rel=1e-6)
    assert found.loss == pytest.approx(found.metrics["rmse"] ** 2, rel=1e-6)


@pytest.mark.slow
def test_a_label_that_is_no_class_is_found_by_a_metric_of_counts():
    labels = np.where(np.arange(37) == 20, 7, 0)
    model = train.supervised(nn.linear(4), lambda prediction, target: jnp.square(prediction).sum(-1))
    items = list(stream.items(stream.minibatches(X, labels, batch_size=8)))
    stood = value(program(model=model, train_batches=lambda c: stream.from_items(items)), QUIET)
    for metric in (loss.f1(), loss.confusion_matrix(), loss.auroc([0.0]), loss.calibration_error()):
        found = fault(train.evaluate(stream.from_items(items), {"own": metric})(stood), QUIET)
        assert (type(found), found.label, found.row) == (LabelOutOfRange, 7, 4)
