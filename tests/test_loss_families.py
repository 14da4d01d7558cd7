"""Losses of distributions, overlaps, vectors and sequences: extremes, edges and faults. Torch's numbers are in parity/."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, PredictionMismatch, ShapeMismatch

RNG = np.random.default_rng(5)


def fault_of(function):
    with pytest.raises(FaultError) as caught:
        function()
    return caught.value.fault


def value_and_grad(made, prediction, target):
    return jax.value_and_grad(lambda x: made(x, target).mean)(prediction)


def finite(made, prediction, target):
    value, grads = value_and_grad(made, prediction, target)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(grad).all() for grad in jax.tree.leaves(grads))
    return float(value), grads


# ------------------------------------------------------------------------------- extremes


@pytest.mark.broad
@pytest.mark.parametrize("size", [1e4, -1e4, 50.0, 0.0])
@pytest.mark.parametrize("made", [loss.focal(), loss.focal(0.5), loss.hinge(), loss.dice()], ids=str)
def test_losses_of_labels_are_finite_for_large_scores(made, size):
    for label in range(3):
        finite(made, jnp.array([[size, 0.0, -size]]), jnp.array([label]))


def test_cosine_is_finite_for_vectors_of_any_size():
    for x, y in product([0.0, 1e-30, 1.0, 1e30], repeat=2):
        value, grad = finite(loss.cosine_distance(), jnp.array([[x, 2 * x]]), jnp.array([[y, 2 * y]]))
        assert value == pytest.approx(0.0 if x and y else 1.0, abs=1e-6)
        if not x:
            assert (grad == 0).all()


def test_triplets_of_one_vector_are_finite():
    value, _ = finite(loss.triplet(0.5), jnp.ones((4, 3, 2)), None)
    assert value == 0.5
    value, grad = finite(loss.triplet(0.5), jnp.ones((4, 3, 2)).at[:, 2].set(100.0), None)
    assert value == 0
    assert (grad == 0).all()


def test_kl_of_certain_targets_and_predictions_is_finite():
    logp = jnp.log(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    value, _ = finite(loss.kl_divergence(), logp, jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    assert value == pytest.approx(0, abs=1e-7)
    assert float(loss.kl_divergence()(logp, jnp.array([[0.0, 1.0], [0.5, 0.5]])).mean) == np.inf


def test_a_negative_variance_is_not_a_number():
    assert jnp.isnan(loss.gaussian_nll()((jnp.ones(3), jnp.array([1.0, -1.0, 1.0])), jnp.ones(3)).mean)
    value, (_, slope) = finite(loss.gaussian_nll(), (jnp.ones(3), jnp.zeros(3)), jnp.ones(3))
    assert value == pytest.approx(0.5 * np.log(1e-6), rel=1e-6)
    assert (slope > 0).all()


@pytest.mark.broad
@pytest.mark.parametrize("made", [loss.focal(), loss.hinge()], ids=str)
def test_rows_that_are_ignored_have_no_gradient(made):
    scores = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
    _, grad = finite(made, scores, jnp.array([0, -100, 2, -100]))
    assert (grad[1::2] == 0).all()
    assert float(made(scores, jnp.full(4, -100)).mean) == 0


@pytest.mark.broad
@pytest.mark.parametrize("made", [loss.mse, loss.l1, loss.huber, loss.bce_with_logits, loss.poisson_nll, loss.cosine_distance])
def test_missing_targets_leave_no_trace_in_the_gradient(made):
    x = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32).at[1].set(jnp.inf)
    target = jnp.where(jnp.arange(4)[:, None] == 1, jnp.nan, jnp.ones((4, 3)))
    value, grad = finite(made(ignored=np.nan), x, target)
    assert (grad[1] == 0).all()
    assert value == pytest.approx(float(made()(jnp.delete(x, 1, axis=0), jnp.delete(target, 1, axis=0)).mean), rel=1e-6)
    assert float(made(ignored=np.nan)(x, jnp.full((4, 3), jnp.nan)).weight) == 0


# ------------------------------------------------------------------------------- CTC

TWO = {"label_lengths": jnp.array([2]), "lengths": jnp.array([3])}


def by_hand(probabilities, labels):
    """The sum over all paths of their probabilities: Graves et al. 2006, equations 2 and 3."""
    time, classes = probabilities.shape
    total = 0.0
    for path in product(range(classes), repeat=time):
        merged = [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]
        total += np.prod(probabilities[np.arange(time), path]) if merged == list(labels) else 0.0
    return total


@pytest.mark.slow
@pytest.mark.parametrize("labels", [(), (1,), (2, 1), (1, 1), (1, 2, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("time", [1, 3, 5])
def test_ctc_is_the_sum_over_all_paths(labels, time):
    logits = RNG.standard_normal((1, time, 3))
    expected = by_hand(np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True), labels)
    padded = np.array([[*labels, *[0] * (4 - len(labels))]])
    target = {"labels": padded, "label_lengths": np.array([len(labels)]), "lengths": np.array([time])}
    value = loss.ctc()(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)), target).mean
    assert float(jnp.exp(-value)) == pytest.approx(expected, rel=1e-5)


def test_ctc_of_no_time_and_no_labels_is_certain():
    target = {"labels": np.array([[1, 1]]), "label_lengths": np.array([0]), "lengths": np.array([0])}
    assert float(loss.ctc()(jnp.log(jnp.full((1, 4, 2), 0.5)), target).mean) == 0


def test_time_and_labels_beyond_the_lengths_do_not_count():
    logp = jax.nn.log_softmax(RNG.standard_normal((1, 6, 3)))
    target = {"labels": jnp.array([[1, 2, 2, 1]]), **TWO}
    expected = loss.ctc()(logp[:, :3], {"labels": jnp.array([[1, 2]]), **TWO})
    value, grad = finite(loss.ctc(), logp, target)
    assert value == pytest.approx(float(expected.mean), rel=1e-6)
    assert (grad[:, 3:] == 0).all()


@pytest.mark.slow
def test_an_impossible_row_is_infinite_or_left_out_and_has_no_gradient():
    logp = jax.nn.log_softmax(jnp.asarray(RNG.standard_normal((2, 2, 3)), jnp.float32))
    target = {"labels": jnp.array([[1, 1], [1, 2]]), "label_lengths": jnp.array([2, 2]), "lengths": jnp.array([2, 2])}
    value, grad = value_and_grad(loss.ctc(), logp, target)
    assert float(value) == np.inf
    assert jnp.isfinite(grad).all()
    skipping = loss.ctc(skip_impossible=True)
    value, grad = finite(skipping, logp, target)
    alone = jax.tree.map(lambda x: x[1:], target)
    assert value == pytest.approx(float(loss.ctc()(logp[1:], alone).mean), rel=1e-6)
    assert float(skipping(logp, target).weight) == 1
    assert (grad[0] == 0).all()
    spec = array_spec((2, 2, 3), jnp.float32)
    found = fault_of(lambda: loss.ctc().check(spec, target))
    assert (found.expected, found.actual) == ("at least 3 time steps for the 2 labels of row 0", "2")
    assert skipping.check(spec, target) is None


def test_a_label_of_probability_0_is_impossible():
    logp = jnp.log(jnp.array([[[0.5, 0.5, 0.0]] * 3]))
    value, grad = value_and_grad(loss.ctc(), logp, {"labels": jnp.array([[1, 2]]), **TWO})
    assert float(value) == np.inf
    assert jnp.isfinite(grad).all()


@pytest.mark.slow
def test_a_long_sequence_is_finite():
    logp = jax.nn.log_softmax(50 * jnp.asarray(RNG.standard_normal((2, 2000, 30)), jnp.float32))
    target = {"labels": RNG.integers(1, 30, (2, 300)), "label_lengths": np.array([300, 10]), "lengths": np.array([2000, 700])}
    finite(loss.ctc(), logp, target)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"labels": jnp.array([[1, 0]])}, LabelOutOfRange),
        ({"labels": jnp.array([[1, 3]])}, LabelOutOfRange),
        ({"labels": jnp.array([[-1, 2]])}, LabelOutOfRange),
        ({"label_lengths": jnp.array([3])}, ShapeMismatch),
        ({"lengths": jnp.array([4])}, ShapeMismatch),
        ({"lengths": jnp.array([-1])}, ShapeMismatch),
    ],
    ids=str,
)
def test_what_ctc_cannot_take_is_not_a_number_and_found_by_its_check(change, kind):
    logp, target = jnp.log(jnp.full((1, 3, 3), 1 / 3)), {"labels": jnp.array([[1, 2]]), **TWO, **change}
    assert jnp.isnan(loss.ctc()(logp, target).mean)
    assert isinstance(fault_of(lambda: loss.ctc().check(array_spec((1, 3, 3), jnp.float32), target)), kind)


def test_shapes_of_ctc():
    logp, target = jnp.log(jnp.full((1, 3, 3), 1 / 3)), {"labels": jnp.array([[1, 2]]), **TWO}
    for wrong in (jnp.array([[1, 2]]), {"labels": target["labels"]}, {**target, "labels": jnp.array([1, 2])}):
        assert isinstance(fault_of(lambda wrong=wrong: loss.ctc()(logp, wrong)), ShapeMismatch)
    assert isinstance(fault_of(lambda: loss.ctc()(logp[0], target)), ShapeMismatch)
    assert isinstance(fault_of(lambda: loss.ctc(blank=3)(logp, target)), ShapeMismatch)
    assert isinstance(fault_of(lambda: loss.ctc()(logp, {**target, "lengths": jnp.array([3.0])})), DtypeMismatch)
    assert isinstance(fault_of(lambda: loss.ctc().check_prediction(jnp.ones((1, 3, 3)))), PredictionMismatch)


@pytest.mark.slow
def test_ctc_trains():
    x = np.eye(4, dtype=np.float32)[[[0, 1, 1, 2, 3, 0], [3, 3, 0, 2, 0, 1]]]
    target = {"labels": np.array([[1, 2, 3], [3, 2, 1]]), "label_lengths": np.full(2, 3), "lengths": np.full(2, 6)}
    program = train.epochs(
        model=train.supervised(nn.linear(4) >> nn.log_softmax, loss.ctc()),
        optimizer=optim.adamw(0.1),
        train_batches=lambda context: stream.from_arrays((x, target), batch_size=2),
        epochs=60,
    )
    assert program.run_or_raise(Runtime(log=None)).curve[-1].train_loss < 0.1


# ------------------------------------------------------------------------------- faults


def test_targets_of_kl_are_probabilities():
    made, spec = loss.kl_divergence(), array_spec((2, 2), jnp.float32)
    logp = jnp.log(jnp.full((2, 2), 0.5))
    for wrong, figure in (([[0.5, 0.5], [1.5, -0.5]], 1.5), ([[0.5, 0.5], [0.5, 0.9]], 1.4)):
        assert jnp.isnan(made(logp, jnp.array(wrong)).mean)
        found = fault_of(lambda wrong=wrong: made.check(spec, np.array(wrong)))
        assert (found.label, found.row) == (pytest.approx(figure), 1)
    assert made.check(spec, np.array([[0.5, 0.5], [1.0, 0.0]])) is None
    assert loss.kl_divergence(ignored=np.nan).check(spec, np.array([[0.5, 0.5], [np.nan, 0.0]])) is None
    assert isinstance(fault_of(lambda: made.check_prediction(jnp.full((2, 2), 0.5))), PredictionMismatch)


def test_counts_are_not_negative():
    made, spec = loss.poisson_nll(), array_spec((3,), jnp.float32)
    assert jnp.isnan(made(jnp.zeros(3), jnp.array([1.0, -1.0, 2.0])).mean)
    found = fault_of(lambda: made.check(spec, np.array([1.0, -1.0, 2.0])))
    assert (found.expected, found.actual) == ("counts of 0 or more as the target", "-1.0 in row 1")
    assert loss.poisson_nll(ignored=-1.0).check(spec, np.array([1.0, -1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("made", "prediction", "target", "said"),
    [
        (loss.gaussian_nll(), jnp.ones(3), jnp.ones(3), "a tuple (mean, variance)"),
        (loss.gaussian_nll(), (jnp.ones(3), jnp.ones(2)), jnp.ones(3), "gaussian_nll: variance"),
        (loss.gaussian_nll(), (jnp.ones((3, 1)), jnp.ones((3, 1))), jnp.ones(3), "squeeze the prediction"),
        (loss.triplet(), jnp.ones((4, 2, 3)), None, "(batch, 3, features)"),
        (loss.triplet(), jnp.ones((3, 3)), None, "(batch, 3, features)"),
        (loss.cosine_distance(), jnp.ones((4, 2)), jnp.ones(2), "the prediction's shape [4, 2]"),
        (loss.cosine_distance(), jnp.ones(()), jnp.ones(()), "vectors on the last axis"),
        (loss.kl_divergence(), jnp.ones((4, 2)), jnp.ones(4, int), "the prediction's shape [4, 2]"),
        (loss.dice(), jnp.ones((4, 5, 2)), jnp.ones((4, 5, 2)), "target.argmax(-1)"),
        (loss.focal(), jnp.ones((4, 1)), jnp.ones(4, int), "at least two classes"),
    ],
)
def test_shapes_are_named(made, prediction, target, said):
    found = fault_of(lambda: made(prediction, target))
    assert isinstance(found, ShapeMismatch)
    assert said in str(found)


@pytest.mark.parametrize("made", [loss.focal(), loss.hinge(), loss.dice()], ids=str)
def test_labels_that_are_no_class(made):
    scores, labels = jnp.ones((4, 3)), np.array([0, 1, 3, 2])
    assert jnp.isnan(jax.jit(made)(scores, labels).mean)
    found = fault_of(lambda: made.check(array_spec((4, 3), jnp.float32), labels))
    assert found == LabelOutOfRange(3, 3, 2, where=made.name)


def test_focal_takes_logits():
    found = fault_of(lambda: loss.focal().check_prediction(jax.nn.softmax(jnp.ones((4, 3)))))
    assert (type(found), found.where) == (PredictionMismatch, "focal")
