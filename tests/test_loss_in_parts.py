"""cross_entropy of logits that are not held, and the layer that leaves them to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, loss, nn, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.logits import Logits

RNG = np.random.default_rng(0)
CLASSES, WIDTH = 11, 4
X = RNG.standard_normal((3, 5, WIDTH)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, (3, 5)).astype(np.int32)
LABELS[0, :2] = -100
WEIGHT, BIAS = (RNG.standard_normal(shape).astype(np.float32) for shape in [(WIDTH, CLASSES), (CLASSES,)])
BY_CLASS = RNG.random(CLASSES).astype(np.float32)
OPTIONS = {
    "plain": ({}, None),
    "smoothed": ({"label_smoothing": 0.2}, None),
    "by class": ({"class_weights": BY_CLASS, "label_smoothing": 0.2, "ignored": int(LABELS[1, 1])}, None),
    "soft cap": ({"class_weights": BY_CLASS}, 1.5),
}
each = pytest.mark.parametrize(("options", "cap"), OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Parts of 4 rows, which do not divide the 15."""
    monkeypatch.setattr("fnlamp.loss.parts.PART", 4 * CLASSES)
    monkeypatch.setattr("fnlamp.loss.classes.PART", 4 * CLASSES)


def by_hand(x, weight, bias, labels, cap, class_weights=None, label_smoothing=0.0, ignored=-100):
    """Total and weight, in float64, row by row."""
    x, weight, bias = (np.asarray(a, np.float64) for a in (x, weight, bias))
    w = np.ones(CLASSES) if class_weights is None else np.asarray(class_weights, np.float64)
    total = count = 0.0
    for row, label in zip(x.reshape(-1, WIDTH), labels.reshape(-1), strict=True):
        if label == ignored:
            continue
        z = row @ weight + bias
        z = z if cap is None else cap * np.tanh(z / cap)
        logp = z - np.log(np.exp(z).sum())
        total += -(1 - label_smoothing) * w[label] * logp[label] - label_smoothing * np.mean(w * logp)
        count += w[label]
    return total, count


@each
def test_numbers(options, cap):
    labels = np.where(LABELS < 0, options.get("ignored", -100), LABELS)
    value = jax.jit(lambda *arrays: loss.cross_entropy(**options)(Logits(*arrays, cap), labels))(X, WEIGHT, BIAS)
    np.testing.assert_allclose([value.total, value.weight], by_hand(X, WEIGHT, BIAS, labels, cap, **options), rtol=1e-6)


@pytest.mark.slow
@each
def test_gradients_in_both_modes_are_finite_differences(options, cap):
    labels = np.where(LABELS < 0, options.get("ignored", -100), LABELS)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(a, np.float64)) for a in (X, WEIGHT, BIAS)]
        along = [jnp.asarray(np.random.default_rng(i).standard_normal(a.shape)) for i, a in enumerate(arrays)]

        def mean(arrays):
            return loss.cross_entropy(**options)(Logits(*arrays, cap), labels).mean

        ends = [[a + e * d for a, d in zip(arrays, along, strict=True)] for e in (1e-6, -1e-6)]
        totals = [by_hand(*end, labels, cap, **options) for end in ends]
        difference = (totals[0][0] - totals[1][0]) / 2e-6 / totals[0][1]
        grads = jax.jit(jax.grad(mean))(arrays)
        reverse = sum(float(jnp.vdot(g, d)) for g, d in zip(grads, along, strict=True))
        _, forward = jax.jvp(mean, (arrays,), (along,))
        np.testing.assert_allclose([reverse, forward], difference, rtol=1e-7)
        curved = jax.jvp(jax.grad(mean), (arrays,), (along,))[1]
        sides = [jax.grad(mean)(end) for end in ends]
        step = [(a - b) / 2e-6 for a, b in zip(*sides, strict=True)]
        for a, b in zip(curved, step, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.slow
def test_half_precision_adds_up_in_float32():
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (X, WEIGHT, BIAS)]
    value, grads = jax.value_and_grad(lambda arrays: loss.cross_entropy()(Logits(*arrays), LABELS).total)(narrow)
    assert value.dtype == jnp.float32
    expected, _ = by_hand(*(np.asarray(a, np.float32) for a in narrow), LABELS, None)
    np.testing.assert_allclose(value, expected, rtol=2e-3)
    assert {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}


def test_a_label_that_is_not_a_class_makes_the_loss_nan():
    assert np.isnan(loss.cross_entropy()(Logits(X, WEIGHT, BIAS), LABELS + 20).total)
    ignored = loss.cross_entropy()(Logits(X, WEIGHT, BIAS), np.full_like(LABELS, -100))
    assert (float(ignored.total), float(ignored.weight)) == (0, 0)


def test_wrong_targets_are_faults():
    for target, fault in [(LABELS[:, :3], ShapeMismatch), (LABELS.astype(np.float32), DtypeMismatch)]:
        with pytest.raises(FaultError) as caught:
            loss.cross_entropy()(Logits(X, WEIGHT), target)
        assert isinstance(caught.value.fault, fault)


def test_other_losses_and_metrics_compute_the_logits():
    logits = Logits(X, WEIGHT, BIAS)
    labels = np.abs(LABELS) % CLASSES
    for measure in (loss.focal(), loss.hinge()):
        np.testing.assert_allclose(measure(logits, labels).total, measure(logits.array(), labels).total, rtol=1e-6)
    np.testing.assert_allclose(loss.accuracy(logits, labels).total, loss.accuracy(logits.array(), labels).total)


def tied(last):
    model = nn.sequence(tokens=nn.embedding(CLASSES, WIDTH), norm=nn.layer_norm(), out=last)
    return nn.share(model, "out/weight", of="tokens/weight", transpose=True)


@pytest.mark.slow
def test_training_and_predictions_are_those_of_a_linear_layer():
    tokens = np.abs(LABELS) % CLASSES

    def run(last):
        return train.epochs(
            model=train.supervised(tied(last), loss.cross_entropy()),
            optimizer=optim.adamw(1e-2),
            train_batches=lambda context: stream.minibatches(tokens, LABELS, batch_size=2, seed=context.seed),
            validation_batches=lambda context: stream.minibatches(tokens, LABELS, batch_size=3),
            metrics={"accuracy": loss.accuracy},
            epochs=3,
        ).run_or_raise(Runtime(log=None))

    ours, plain = run(nn.logits(CLASSES)), run(nn.linear(CLASSES))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.params, plain.params)
    np.testing.assert_allclose(ours.predict(tokens), plain.predict(tokens), atol=1e-4)
    assert ours.predict(tokens).shape == (3, 5, CLASSES)
    wrong = train.epochs(
        model=train.supervised(tied(nn.logits(CLASSES)), loss.cross_entropy()),
        optimizer=optim.adamw(1e-2),
        train_batches=lambda context: stream.minibatches(tokens, LABELS + 200, batch_size=2),
        epochs=1,
    )
    with pytest.raises(FaultError) as caught:
        wrong.run_or_raise(Runtime(log=None))
    assert isinstance(caught.value.fault, LabelOutOfRange)


def test_the_layer():
    made = nn.logits(CLASSES, bias=False).init(jax.random.key(0), array_spec((2, WIDTH), jnp.float32))
    assert (made.spec.shape, made.spec.dtype) == ((2, CLASSES), jnp.float32)
    y, _ = nn.logits(CLASSES, bias=False).apply(made.params, {}, jnp.ones((2, WIDTH)), Eval())
    np.testing.assert_allclose(y.array(), jnp.ones((2, WIDTH)) @ made.params["weight"], rtol=1e-6)
    with pytest.raises(FaultError):
        nn.logits(CLASSES).init(jax.random.key(0), array_spec((2, WIDTH), jnp.int32))
