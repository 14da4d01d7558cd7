"""Sums of losses by name: several outputs, targets as dicts, each term reported, exact over batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import Eval, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import LabelOutOfRange, NotDifferentiable, PredictionMismatch, ShapeMismatch

RNG = np.random.default_rng(6)
X = RNG.standard_normal((37, 4)).astype(np.float32)
KIND = np.where(RNG.random(37) < 0.4, -100, RNG.integers(0, 3, 37))
SIZE = RNG.standard_normal(37).astype(np.float32)
TARGET = {"kind": KIND, "size": SIZE}
QUIET = Runtime(log=None)
BOTH = loss.sum({"kind": loss.cross_entropy(), "size": loss.mse()}, weights={"size": 0.5})
HEADS = nn.branch(nn.linear(3), nn.linear(1)) >> nn.fun(lambda ys: {"kind": ys[0], "size": ys[1][..., 0]}, "named")


def batches(context=None, size=8, target=TARGET):
    return stream.from_arrays((X, target), batch_size=size)


def program(made=BOTH, layer=HEADS, **options):
    defaults = {"optimizer": optim.sgdw(0.1), "train_batches": batches, "epochs": 2}
    return train.epochs(model=train.supervised(layer, made), **{**defaults, **options})


def means(prediction, target=TARGET):
    logits = np.asarray(prediction["kind"], np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = target["kind"] >= 0
    kind = -logp[np.arange(len(logp)), np.where(counted, target["kind"], 0)][counted].mean()
    return kind, np.square(np.asarray(prediction["size"], np.float64) - target["size"]).mean()


@pytest.fixture(scope="module")
def trained():
    return value(program(validation_batches=batches, metrics={"right": right}), QUIET)


def right(prediction, target):
    return prediction["kind"].argmax(-1) == target["kind"]


@pytest.mark.slow
def test_of_a_batch_it_is_the_weighted_sum_of_the_means():
    prediction = HEADS.init(jax.random.key(0), jax.ShapeDtypeStruct(X.shape, X.dtype))
    prediction, _ = HEADS.apply(prediction.params, prediction.state, X, Eval())
    kind, size = means(prediction)
    found = BOTH(prediction, TARGET)
    assert float(found.mean) == pytest.approx(kind + 0.5 * size, rel=1e-6)
    assert float(found.weight) == 37
    grads = jax.grad(lambda p: BOTH(p, TARGET).mean)(prediction)
    apart = jax.grad(lambda p: loss.cross_entropy()(p["kind"], KIND).mean + 0.5 * loss.mse()(p["size"], SIZE).mean)(prediction)
    for name in grads:
        np.testing.assert_allclose(grads[name], apart[name], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5, 37])
def test_the_loss_of_an_evaluation_is_exact_whatever_the_batches(trained, size):
    found = value(Effect.from_value(trained).bind(train.evaluate(batches(size=size))), QUIET)
    kind, square = means(trained.predict(X))
    assert found.metrics["kind_loss"] == pytest.approx(kind, rel=1e-6)
    assert found.metrics["size_loss"] == pytest.approx(square, rel=1e-6)
    assert found.loss == pytest.approx(kind + 0.5 * square, rel=1e-6)


@pytest.mark.slow
def test_training_and_validation_report_each_term(trained):
    report = trained.curve[-1]
    kind, square = means(trained.predict(X))
    assert list(report.validation_metrics) == ["kind_loss", "size_loss", "right"]
    assert report.validation_metrics["kind_loss"] == pytest.approx(kind, rel=1e-6)
    assert report.validation_loss == pytest.approx(kind + 0.5 * square, rel=1e-6)
    terms = report.train_metrics["kind_loss"] + 0.5 * report.train_metrics["size_loss"]
    assert report.train_loss == pytest.approx(terms, rel=1e-12)
    assert "Kind Loss" in str(report)


def test_parameters_that_stand_still_have_the_same_loss_in_training(trained):
    still = value(program(optimizer=optim.sgdw(0.0), initial=trained, epochs=1), QUIET).curve[-1]
    kind, square = means(trained.predict(X))
    assert still.train_loss == pytest.approx(kind + 0.5 * square, rel=1e-6)


def test_a_term_without_a_row_counts_as_zero(trained):
    nothing = {**TARGET, "kind": np.full(37, -100)}
    found = value(Effect.from_value(trained).bind(train.evaluate(batches(target=nothing))), QUIET)
    assert np.isnan(found.metrics["kind_loss"])
    assert found.loss == pytest.approx(0.5 * means(trained.predict(X))[1], rel=1e-6)
    assert float(loss.sum({"kind": loss.cross_entropy()})(jnp.zeros((37, 3)), nothing["kind"]).weight) == 0


def test_terms_of_one_output_take_all_of_it():
    made = loss.sum({"fit": loss.mse(), "small": lambda p, t: jnp.abs(p).sum(-1)}, weights={"small": 0.01})
    report = value(program(made, nn.linear(2), train_batches=lambda c: stream.minibatches(X, X[:, :2], batch_size=8)), QUIET)
    assert report.curve[-1].train_metrics["fit_loss"] > 0
    assert repr(made) == "fit + 0.01 small"


def test_sums_nest():
    inner = loss.sum({"a": loss.mse(), "b": loss.l1()})
    nested = loss.sum({"inner": inner, "a": loss.mse()})
    x, y = jnp.array([1.0, 2.0]), jnp.zeros(2)
    assert float(nested(x, y).mean) == pytest.approx(2.5 + 1.5 + 2.5)


def test_bad_input_is_found_in_each_term():
    wrong = {**TARGET, "kind": np.where(np.arange(37) == 9, 3, KIND)}
    found = fault(program(train_batches=lambda c: batches(target=wrong)), QUIET)
    assert found == LabelOutOfRange(3, 3, 9, where="cross_entropy")
    missing = {"kind": KIND}
    assert isinstance(fault(program(train_batches=lambda c: batches(target=missing)), QUIET), ShapeMismatch)
    logits = loss.sum({"kind": loss.nll(), "size": loss.mse()})
    assert isinstance(fault(program(logits), QUIET), PredictionMismatch)
    assert isinstance(fault(program(loss.sum({"kind": loss.accuracy})), QUIET), NotDifferentiable)


@pytest.mark.parametrize("option", ["metrics", "train_metrics"])
def test_another_metric_with_the_name_of_a_term_is_refused(option):
    with pytest.raises(ValueError, match=rf"{option}\['kind_loss'\] has the name that a term of the loss"):
        program(**{option: {"kind_loss": right}}, validation_batches=batches)


@pytest.mark.parametrize(
    ("terms", "weights", "said"),
    [
        ({}, {}, "terms is empty"),
        ({"a": loss.mse()}, {"b": 1.0}, "weights has b, which the terms a have not"),
        ({"a": loss.mse}, {}, r"terms\['a'\]: fnlamp.loss.mse makes a loss"),
        ({"a": loss.mse()}, {"a": "1"}, r"weights\['a'\] is a number"),
        ([loss.mse()], {}, "terms is a dict by name"),
        ({"a": loss.f1()}, {}, "got the metric f1"),
    ],
)
def test_terms_and_weights_are_named(terms, weights, said):
    with pytest.raises((TypeError, ValueError), match=said):
        loss.sum(terms, weights)


# ------------------------------------------------------------------------------- evaluation of several streams


def test_several_streams_are_evaluated_by_name(trained):
    halves = {"front": stream.from_arrays((X[:20], cut(slice(20))), batch_size=8), "back": lambda c: batches(size=5)}
    found = value(Effect.from_value(trained).bind(train.evaluate(halves, {"right": right})), QUIET)
    assert list(found) == ["front", "back"]
    for name, each in halves.items():
        assert found[name] == value(Effect.from_value(trained).bind(train.evaluate(each, {"right": right})), QUIET)


def cut(rows):
    return {name: column[rows] for name, column in TARGET.items()}


def test_one_that_fails_ends_the_program_and_each_is_explained():
    empty = stream.from_arrays((X, TARGET), batch_size=50, drop_last=True)
    both = {"test": batches(), "none": empty}
    plan = program().bind(train.evaluate(both)).explain()
    assert "evaluate test: loss, on 5 batches of 8 rows" in plan
    assert "evaluate none: loss" in plan
    assert type(plan.fault).__name__ == "EmptyEpoch"
    assert type(fault(program().bind(train.evaluate(both)), QUIET)).__name__ == "EmptyEpoch"
    with pytest.raises(TypeError, match=r"batches\['test'\] is"):
        train.evaluate({"test": X})
    with pytest.raises(TypeError, match="a dict by name"):
        train.evaluate({})
