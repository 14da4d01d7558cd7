"""Losses against torch in float64: values and gradients, with ignored rows, and where they are not smooth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss
from fnlamp.loss.ctc import PARTS

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 5, 30)
IGNORING = np.where(RNG.random(30) < 0.3, -100, LABELS)
KEPT = IGNORING >= 0


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normal(*shape, scale=2.0):
    return scale * RNG.standard_normal(shape)


def agree(ours, theirs, prediction, target, tolerance=1e-12):
    """Values and gradients of `ours(prediction, target).mean` and of `theirs(prediction)`, a function of tensors."""
    given = jax.tree.map(jnp.asarray, prediction)
    value, grads = jax.value_and_grad(lambda x: ours(x, jax.tree.map(jnp.asarray, target)).mean)(given)
    leaves = [torch.tensor(np.asarray(x), requires_grad=True) for x in jax.tree.leaves(given)]
    expected = theirs(*leaves)
    expected.backward()
    assert float(value) == pytest.approx(float(expected.detach()), rel=tolerance, abs=tolerance)
    for grad, x in zip(jax.tree.leaves(grads), leaves, strict=True):
        np.testing.assert_allclose(np.asarray(grad), x.grad.numpy(), rtol=1e-9, atol=tolerance)


def tensor(x):
    return torch.tensor(np.asarray(x))


NUMBERS = np.round(normal(40, 3), 1)
TARGETS = np.round(normal(40, 3), 1)  # with differences of exactly 0 and of exactly 1
TARGETS[0] = NUMBERS[0]
TARGETS[1] = NUMBERS[1] + 1.0


@pytest.mark.broad
@pytest.mark.parametrize("size", [0.3, 1.0, 2.5])
def test_elementwise(size):
    t = tensor(TARGETS)
    functional = torch.nn.functional
    agree(loss.l1(), lambda x: functional.l1_loss(x, t), NUMBERS, TARGETS)
    agree(loss.mse(), lambda x: functional.mse_loss(x, t), NUMBERS, TARGETS)
    agree(loss.huber(size), lambda x: functional.huber_loss(x, t, delta=size), NUMBERS, TARGETS)
    agree(loss.smooth_l1(size), lambda x: functional.smooth_l1_loss(x, t, beta=size), NUMBERS, TARGETS)


@pytest.mark.broad
@pytest.mark.parametrize("ignored", [np.nan, -100.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (loss.l1, "l1_loss"),
        (loss.mse, "mse_loss"),
        (loss.huber, "huber_loss"),
        (loss.smooth_l1, "smooth_l1_loss"),
        (loss.bce_with_logits, "binary_cross_entropy_with_logits"),
        (loss.poisson_nll, "poisson_nll_loss"),
    ],
)
def test_ignored_numbers(ours, theirs, ignored):
    missing = RNG.random((40, 3)) < 0.3
    target = np.abs(TARGETS) % 1 if theirs.startswith("binary") else np.floor(np.abs(TARGETS))
    kept = tensor(target[~missing])
    given = np.where(missing, ignored, target)
    agree(ours(ignored=ignored), lambda x: getattr(torch.nn.functional, theirs)(x[tensor(~missing)], kept), NUMBERS, given)


def test_kl_divergence():
    logp = np.asarray(jax.nn.log_softmax(normal(30, 5)))
    target = np.array(jax.nn.softmax(normal(30, 5, scale=4.0)))
    target[::3] = np.eye(5)[LABELS[::3]]  # zeros
    theirs = torch.nn.KLDivLoss(reduction="batchmean")
    agree(loss.kl_divergence(), lambda x: theirs(x, tensor(target)), logp, target)
    some = np.where(KEPT[:, None], target, np.nan)
    agree(loss.kl_divergence(ignored=np.nan), lambda x: theirs(x[tensor(KEPT)], tensor(target[KEPT])), logp, some)


@pytest.mark.broad
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("columns", [3, 1], ids=["each", "one for all columns"])
def test_gaussian_nll(full, columns):
    variance = np.abs(normal(40, columns)) + 1e-9
    variance[0] = 0.0  # below eps: as eps, with a gradient
    theirs = torch.nn.GaussianNLLLoss(full=full, eps=1e-4)
    agree(
        loss.gaussian_nll(full=full, eps=1e-4),
        lambda mean, var: theirs(mean, tensor(TARGETS), var),
        (NUMBERS, variance),
        TARGETS,
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("log_input", [False, True])
def test_poisson_nll(full, log_input):
    counts = RNG.poisson(3.0, (40, 3)).astype(np.float64)
    rates = NUMBERS if log_input else np.abs(NUMBERS)
    theirs = torch.nn.PoissonNLLLoss(log_input=log_input, full=full)
    agree(loss.poisson_nll(log_input=log_input, full=full), lambda x: theirs(x, tensor(counts)), rates, counts)


@pytest.mark.broad
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_hinge(squared, margin):
    scores = normal(30, 5)
    theirs = torch.nn.MultiMarginLoss(p=1 + squared, margin=margin)
    ours = loss.hinge(margin, squared=squared)
    agree(ours, lambda x: theirs(x, tensor(LABELS)), scores, LABELS)
    agree(ours, lambda x: theirs(x[tensor(KEPT)], tensor(LABELS[KEPT])), scores, IGNORING)


def focal_of_torch(x, labels, gamma, weights):
    """Lin et al.'s equation 5, differentiated by torch."""
    logp = torch.log_softmax(x, -1).gather(-1, labels[:, None])[:, 0]
    w = weights[labels]
    return (-w * (1 - logp.exp()) ** gamma * logp).sum() / w.sum()


@pytest.mark.broad
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal(gamma):
    scores, weights = normal(30, 5), np.array([0.5, 1.0, 2.0, 3.0, 1.0])
    for given, w in ((None, np.ones(5)), (weights, weights)):
        agree(loss.focal(gamma, given), lambda x, w=w: focal_of_torch(x, tensor(LABELS), gamma, tensor(w)), scores, LABELS)
    ignoring = loss.focal(gamma)
    labels = tensor(LABELS[KEPT])
    agree(ignoring, lambda x: focal_of_torch(x[tensor(KEPT)], labels, gamma, torch.ones(5)), scores, IGNORING)


def test_focal_of_gamma_0_is_cross_entropy():
    scores, weights = normal(30, 5), np.array([0.5, 1.0, 2.0, 3.0, 1.0])
    theirs = torch.nn.CrossEntropyLoss(tensor(weights))
    agree(loss.focal(0.0, weights), lambda x: theirs(x, tensor(IGNORING)), scores, IGNORING)


def dice_of_torch(x, labels, smooth):
    """By hand, image by image, over the positions that count."""
    each = []
    for logits, truth in zip(x, labels, strict=True):
        counted = truth.flatten() >= 0
        if not counted.any():
            continue
        p = torch.softmax(logits, -1).flatten(0, -2)[counted]
        t = torch.nn.functional.one_hot(truth.flatten()[counted], x.shape[-1])
        each.append(1 - ((2 * (p * t).sum(0) + smooth) / (p.sum(0) + t.sum(0) + smooth)).mean())
    return torch.stack(each).mean()


@pytest.mark.broad
@pytest.mark.parametrize("smooth", [1e-3, 1.0])
def test_dice(smooth):
    scores, labels = normal(6, 4, 5, 3), RNG.integers(0, 3, (6, 4, 5))
    ignoring = np.where(RNG.random(labels.shape) < 0.3, -100, labels)
    ignoring[2] = -100
    for target in (labels, ignoring):
        agree(loss.dice(smooth), lambda x, t=target: dice_of_torch(x, tensor(t), smooth), scores, target)


def test_cosine():
    target = normal(40, 3)
    theirs = torch.nn.CosineSimilarity(-1)
    agree(loss.cosine_distance(), lambda x: (1 - theirs(x, tensor(target))).mean(), normal(40, 3), target)
    agree(loss.cosine_distance(), lambda x: (1 - theirs(x, tensor(target))).mean(), 1e3 * normal(40, 3), target)
    some = np.where((np.arange(40) % 3 == 0)[:, None], np.nan, target)
    kept = np.arange(40) % 3 != 0
    missing, t = loss.cosine_distance(ignored=np.nan), tensor(target[kept])
    agree(missing, lambda x: (1 - theirs(x[tensor(kept)], t)).mean(), normal(40, 3), some)


@pytest.mark.broad
@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_triplet(margin):
    x = normal(40, 3, 6)
    theirs = torch.nn.TripletMarginLoss(margin)
    agree(loss.triplet(margin), lambda x: theirs(x[:, 0], x[:, 1], x[:, 2]), x, np.zeros(40))


# ------------------------------------------------------------------------------- CTC


def sequences(rows, longest, time, classes, seed):
    """Labels with repeats, of which each row has enough time for its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, classes, (rows, longest))
    label_lengths = rng.integers(0, longest + 1, rows)
    repeats = [(row[1:n] == row[: max(n - 1, 0)]).sum() for row, n in zip(labels, label_lengths, strict=True)]
    lengths = np.minimum(label_lengths + repeats + rng.integers(0, 5, rows), time)
    return rng.standard_normal((rows, time, classes)), dict(
        zip(PARTS, (labels, label_lengths, np.maximum(lengths, 1)), strict=True)
    )


@pytest.mark.broad
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_ctc(seed, classes):
    logits, target = sequences(9, 5, 15, classes, seed)
    theirs = torch.nn.CTCLoss(reduction="sum")

    def of_torch(x):
        logp = torch.log_softmax(x, -1).transpose(0, 1)
        return theirs(logp, tensor(target["labels"]), tensor(target["lengths"]), tensor(target["label_lengths"])) / 9

    agree(lambda x, t: loss.ctc()(jax.nn.log_softmax(x), t), of_torch, logits, target, tolerance=1e-10)


def test_ctc_with_another_blank():
    logits, target = sequences(9, 5, 15, 4, 0)
    turned = {**target, "labels": target["labels"] - 1}  # the blank is the last class
    expected = loss.ctc()(jax.nn.log_softmax(logits), target).mean
    found = loss.ctc(blank=3)(jax.nn.log_softmax(np.roll(logits, -1, axis=-1)), turned).mean
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
