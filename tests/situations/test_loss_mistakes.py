"""Wrong arguments of losses and metrics: each error says where it is, and what to write."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, train
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, PredictionMismatch, ShapeMismatch
from fnlamp.loss import LossValue, as_loss, checked_value

RNG = np.random.default_rng(2)
LOGITS = (3 * RNG.standard_normal((8, 4))).astype(np.float32)
LABELS = RNG.integers(0, 4, 8)
NUMBERS = RNG.standard_normal((8, 4)).astype(np.float32)
GIVEN = {
    "nll": (loss.nll(), LOGITS, LABELS),
    "cross_entropy": (loss.cross_entropy(), LOGITS, LABELS),
    "mse": (loss.mse(), LOGITS, NUMBERS),
    "smooth_l1": (loss.smooth_l1(), LOGITS, NUMBERS),
    "bce_with_logits": (loss.bce_with_logits(), LOGITS, np.abs(NUMBERS) % 1),
    "accuracy": (loss.accuracy, LOGITS, LABELS),
    "binary_accuracy": (loss.binary_accuracy(0.0), LOGITS, LOGITS > 1),
    "multilabel_accuracy": (loss.multilabel_accuracy(0.0), LOGITS, LOGITS > 1),
}
each = pytest.mark.parametrize(("made", "prediction", "target"), GIVEN.values(), ids=GIVEN)
MAKERS = [loss.nll, loss.cross_entropy, loss.mse, loss.smooth_l1, loss.bce_with_logits, loss.identity]


def fault_of(function):
    with pytest.raises(FaultError) as caught:
        function()
    return caught.value.fault


# ------------------------------------------------------------------------------- a loss that was not called


@pytest.mark.parametrize("make", [*MAKERS, loss.binary_accuracy], ids=lambda make: make.__name__)
def test_a_maker_of_losses_is_no_loss(make):
    with pytest.raises(TypeError, match=rf"write loss\.{make.__name__}\(\)"):
        train.supervised(nn.linear(4), make)
    with pytest.raises(TypeError, match=make.__name__):
        make(LOGITS, LABELS)


@pytest.mark.parametrize("wrong", ["mse", None, 3, LossValue(jnp.ones(()), jnp.ones(())), [loss.mse()], LossValue], ids=str)
def test_nor_is_what_is_no_function(wrong):
    with pytest.raises(TypeError, match=r"expected a loss such as fnlamp.loss.mse\(\)"):
        as_loss(wrong)


def test_nor_is_the_loss_of_another_library():
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
    for theirs in (torch.nn.MSELoss(), torch.nn.functional.cross_entropy):
        with pytest.raises(TypeError, match="of torch"):
            as_loss(theirs)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (jnp.ones(()), "a number, expected LossValue.*; for a mean m over n rows return LossValue"),
        (1.5, "float, expected LossValue.*; for a mean m over n rows return LossValue"),
        (np.float32(2), "a number, expected LossValue.*; for a mean m over n rows return LossValue"),
        (jnp.ones(3), r"float32\[3\], expected .*; for one loss per row return LossValue\(jnp.sum"),
        ((1.0, 2.0), "a tuple of two, expected .*; return LossValue"),
        (None, "NoneType"),
        ({"total": 1.0}, "dict"),
        (loss.mse(), r"the loss mse, expected .*; call it: mse\(\)\(prediction, target\)"),
    ],
    ids=str,
)
def test_what_a_loss_returns(value, said):
    with pytest.raises(TypeError, match=f"own returned {said}"):
        checked_value("own", value)
    with pytest.raises((TypeError, FaultError), match="expected LossValue"):
        as_loss(lambda prediction, target: value)(LOGITS, LABELS)


@pytest.mark.parametrize(
    "value", [LossValue(jnp.ones(3), jnp.ones(())), LossValue(jnp.ones(()), np.ones(2)), LossValue(1j, 1.0)]
)
def test_a_value_is_two_real_scalars(value):
    assert isinstance(fault_of(lambda: checked_value("own", value)), ShapeMismatch | DtypeMismatch)


@pytest.mark.parametrize(
    "value", [LossValue(2, 1), LossValue(2.0, np.float32(1)), LossValue(jnp.bfloat16(2), np.int64(1))], ids=str
)
def test_plain_numbers_are_one(value):
    whole = checked_value("own", value)
    assert (whole.total.dtype, whole.weight.dtype, float(whole.mean)) == (jnp.float32, jnp.float32, 2)


# ------------------------------------------------------------------------------- predictions and targets


@each
@pytest.mark.parametrize("wrap", [lambda x: (x, x), lambda x: {"a": x}, lambda x: [x, x]], ids=["tuple", "dict", "list"])
def test_several_heads_are_told(made, prediction, target, wrap):
    for given in ((wrap(prediction), target), (prediction, wrap(target))):
        fault = fault_of(lambda given=given: made(*given))
        assert isinstance(fault, ShapeMismatch)
        assert fault.where == made.name
        assert "one array as the" in str(fault)
        assert fault.hint


@each
def test_what_is_no_array_is_told(made, prediction, target):
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
    for wrong in (None, 3.0, "labels", torch.tensor(np.asarray(target))):
        fault = fault_of(lambda wrong=wrong: made(prediction, wrong))
        assert isinstance(fault, DtypeMismatch)
        assert "NumPy array" in str(fault)
    assert isinstance(fault_of(lambda: made(prediction + 1j, target)), DtypeMismatch)


@pytest.mark.parametrize("name", ["nll", "cross_entropy", "accuracy"])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, bool])
def test_one_hot_labels_are_told(name, dtype):
    made, prediction, target = GIVEN[name]
    if name == "cross_entropy" and dtype is np.float32:  # these are probabilities: the same loss
        np.testing.assert_allclose(
            made(prediction, np.eye(4, dtype=dtype)[target]).mean, made(prediction, target).mean, rtol=1e-6
        )
        return
    fault = fault_of(lambda: made(prediction, np.eye(4, dtype=dtype)[target]))
    assert isinstance(fault, ShapeMismatch)
    assert "target.argmax(-1)" in str(fault)


@pytest.mark.parametrize("name", ["nll", "cross_entropy", "accuracy"])
def test_labels_are_integers(name):
    made, prediction, target = GIVEN[name]
    for wrong in (target.astype(np.float32), target > 1):
        assert "target.astype(np.int32)" in str(fault_of(lambda wrong=wrong: made(prediction, wrong)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3, 4], "the labels run from 1 to 4: subtract 1"),
        ([1, 4, -100, 2], "the labels run from 1 to 4: subtract 1"),
        ([0, 1, 2, 4], "widen the last layer"),
        ([0, 1, -1, 2], "ignored=-1"),
        ([0, 255, 1, 2], "name the label as ignored"),
    ],
)
def test_labels_that_are_no_class_are_told_what_may_be_meant(labels, said):
    fault = fault_of(lambda: loss.cross_entropy().check(jax.ShapeDtypeStruct((4, 4), np.float32), np.array(labels)))
    assert isinstance(fault, LabelOutOfRange)
    assert said in str(fault)


# ------------------------------------------------------------------------------- predictions of another meaning


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("prediction", [LOGITS, 0 * LOGITS, softmax(LOGITS), LOGITS - 5, LOGITS.astype(jnp.bfloat16)])
def test_nll_takes_log_probabilities(prediction):
    fault = fault_of(lambda: loss.nll().check_prediction(jnp.asarray(prediction)))
    assert isinstance(fault, PredictionMismatch)
    assert (fault.where, "log_softmax" in str(fault)) == ("nll", True)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("classes", [2, 10, 50_000])
def test_and_accepts_them_in_any_precision(dtype, scale, classes):
    x = scale * jax.random.normal(jax.random.key(0), (4, classes))
    loss.nll().check_prediction(jax.nn.log_softmax(x.astype(dtype)))


def test_certain_and_broken_predictions_are_left_to_the_loss():
    loss.nll().check_prediction(np.array([[0.0, -np.inf], [-np.inf, 0.0]]))
    loss.nll().check_prediction(np.array([[np.nan, 1.0]]))
    loss.nll().check_prediction(np.zeros((0, 3)))


def test_cross_entropy_takes_logits():
    fault = fault_of(lambda: loss.cross_entropy().check_prediction(softmax(LOGITS)))
    assert isinstance(fault, PredictionMismatch)
    assert "leave out the softmax" in str(fault)
    for fine in (LOGITS, np.log(softmax(LOGITS)), 0 * LOGITS, np.abs(LOGITS)):
        loss.cross_entropy().check_prediction(fine)
    for other in (loss.mse(), loss.accuracy, as_loss(lambda prediction, target: LossValue(1, 1))):
        other.check_prediction(softmax(LOGITS))


# ------------------------------------------------------------------------------- hyperparameters


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: loss.cross_entropy(label_smoothing="0.1"), "label_smoothing is a probability"),
        (lambda: loss.cross_entropy(label_smoothing=10), "label_smoothing is a probability"),
        (lambda: loss.cross_entropy(label_smoothing=np.nan), "label_smoothing is a probability"),
        (lambda: loss.cross_entropy(smoothing=0.1), "loss.cross_entropy makes a loss"),
        (lambda: loss.cross_entropy(reduction="sum"), "unexpected keyword argument 'reduction'"),
        (lambda: loss.nll(ignored=1.5), "ignored is a whole number"),
        (lambda: loss.nll(ignored=2**40), "ignored is a 32-bit integer"),
        (lambda: loss.smooth_l1("1"), "beta is a number"),
        (lambda: loss.smooth_l1(np.inf), "beta is a number"),
        (lambda: loss.bce_with_logits([-1.0]), "not negative"),
    ],
)
def test_wrong_hyperparameters_are_named(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


@pytest.mark.parametrize("kind", [np.float64, np.float32, jnp.asarray, np.asarray, float])
def test_hyperparameters_of_any_numeric_type(kind):
    """JAX treats a NumPy scalar as float64 if 64 bits are enabled, which would widen the loss."""
    with jax.enable_x64(True):
        x, y, labels = jnp.asarray(LOGITS), jnp.asarray(NUMBERS), jnp.asarray(LABELS)
        for made, target in ((loss.cross_entropy(label_smoothing=kind(0.5)), labels), (loss.smooth_l1(kind(0.5)), y)):
            assert made(x, target).total.dtype == jnp.float32
        assert loss.binary_accuracy(kind(0.5))(x, y > 0).total.dtype == jnp.float32
