"""mixup, cutmix and the loss of mixed targets: against NumPy, torch, and the distributions they draw from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from outcomes import fault, value

from fnlamp import augment, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, ShapeMismatch

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SMALLEST_P = 1e-6
ROWS, KEYS = 300, 12


def of_each_row(function, features, classes):
    """Features and targets for many keys; the labels are the rows' numbers, so targets show who was mixed with whom."""
    labels = jnp.arange(ROWS) % classes
    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(lambda key: function(key, (features, labels))))(jax.random.split(KEY, KEYS))
    )


def own_and_other(targets):
    """The weight of the row itself and the number of the other row, for rows that do not meet themselves."""
    rows = np.broadcast_to(np.arange(ROWS), targets.shape[:2])
    own = np.take_along_axis(targets, rows[..., None], -1)[..., 0]
    rest = targets.copy()
    np.put_along_axis(rest, rows[..., None], 0, -1)
    other = np.where(rest.max(-1) > 0, rest.argmax(-1), rows)
    return own, other, other != rows


@pytest.mark.parametrize("alpha", [0.4, pytest.param(1.0, marks=pytest.mark.slow), pytest.param(3.0, marks=pytest.mark.slow)])
def test_mixup_is_the_papers_sum_with_its_weights(alpha):
    features = RNG.standard_normal((ROWS, 2, 3)).astype(np.float32)
    x, targets = of_each_row(augment.mixup(alpha, classes=ROWS), features, ROWS)
    own, other, differ = own_and_other(targets)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    w = own[..., None, None]
    np.testing.assert_allclose(x, w * features + (1 - w) * features[other], atol=1e-5)
    assert scipy.stats.kstest(own[differ], scipy.stats.beta(alpha, alpha).cdf).pvalue > SMALLEST_P
    met = (~differ).sum()  # each row meets itself with probability 1 / ROWS: about one of each permutation
    assert scipy.stats.poisson.sf(met - 1, KEYS) > SMALLEST_P
    assert all(len(set(order)) > ROWS - 5 for order in other)  # an order, not draws with replacement


def expected_area(alpha, height, width):
    """The mean share of a rectangle of the paper that is within the image, over the values and the centres."""
    values = scipy.stats.beta(alpha, alpha).ppf((np.arange(4000) + 0.5) / 4000)

    def inside(length):
        size = np.floor(length * np.sqrt(1 - values)).astype(int)[:, None]
        start = np.arange(length)[None] - size // 2
        return np.clip(start + size, 0, length) - np.clip(start, 0, length)

    return (inside(height).mean(1) * inside(width).mean(1)).mean() / (height * width)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [pytest.param(1.0, marks=pytest.mark.slow), 0.3])
def test_cutmix_pastes_a_rectangle_and_weighs_it_by_its_true_area(alpha):
    height, width = 11, 8
    images = np.broadcast_to(np.arange(ROWS, dtype=np.int32)[:, None, None, None], (ROWS, height, width, 2))
    x, targets = of_each_row(augment.cutmix(alpha, classes=ROWS), images, ROWS)
    own, other, differ = own_and_other(targets)
    pasted = x == other[..., None, None, None]
    assert x.dtype == np.int32
    np.testing.assert_array_equal(np.where(pasted, other[..., None, None, None], np.arange(ROWS)[:, None, None, None]), x)
    area = pasted[..., 0].mean((2, 3))
    np.testing.assert_allclose((1 - own)[differ], area[differ], atol=1e-6)
    rows, columns = pasted[..., 0].any(3), pasted[..., 0].any(2)
    np.testing.assert_array_equal((rows[..., None] & columns[:, :, None]), pasted[..., 0])  # a rectangle
    for axis in (rows, columns):
        assert (np.abs(np.diff(axis.astype(int), axis=-1)).sum(-1) <= 2).all()  # without a gap
    deviation = own.std() / np.sqrt(own.size)
    expected = expected_area(alpha, height, width) * (1 - 1 / ROWS)  # a row that meets itself keeps all of its target
    assert abs((1 - own).mean() - expected) < 5 * deviation


@pytest.mark.parametrize("made", [augment.mixup(0.2, classes=3), augment.cutmix(classes=3)])
def test_a_batch_of_one_is_itself(made):
    x = RNG.standard_normal((1, 4, 5, 1)).astype(np.float32)
    for features in (x, x.astype(jnp.bfloat16)):
        mixed, target = made(KEY, (features, np.array([2])))
        np.testing.assert_array_equal(mixed, features)
        assert mixed.dtype == features.dtype
        np.testing.assert_array_equal(target, [[0, 0, 1]])


@pytest.mark.slow
def test_targets_that_are_not_labels():
    x = RNG.standard_normal((6, 2)).astype(np.float32)
    y = np.arange(6, dtype=np.float32)
    mixed, target = augment.mixup(1.0)(KEY, (y[:, None], y))
    np.testing.assert_array_equal(mixed[:, 0], target)  # regression
    twice = augment.cutmix()(KEY, (np.zeros((6, 2, 2, 1)), augment.mixup(1.0, classes=3)(KEY, (x, np.arange(6) % 3))[1]))[1]
    np.testing.assert_allclose(twice.sum(-1), 1, atol=1e-6)
    unknown = augment.mixup(1.0, classes=3)(KEY, (x, np.array([0, 1, 2, 0, 1, 3])))[1]
    assert np.isnan(unknown).all(-1).any() and not np.isnan(unknown).all()
    bytes_, _ = augment.mixup(1.0)(KEY, (np.full((6, 1), 255, np.uint8), y))
    np.testing.assert_array_equal(bytes_, np.full((6, 1), 255, np.float32))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16, jnp.float32])
def test_mixing_under_strict_promotion(dtype, x64):
    images, expected = jnp.zeros((3, 4, 5, 1), dtype), jnp.float32 if dtype == jnp.uint8 else dtype
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.enable_x64(x64):
        for labels in (np.arange(3), np.arange(3, dtype=np.uint8)):
            mixed, target = jax.eval_shape(augment.mixup(0.2, classes=3), KEY, (images, labels))
            assert (mixed.dtype, target.dtype) == (expected, jnp.float32)
            assert jax.eval_shape(augment.cutmix(classes=3), KEY, (images, labels))[0].dtype == dtype
            jax.eval_shape(loss.cross_entropy([1.0, 2.0, 3.0], label_smoothing=0.1), jnp.zeros((3, 3), expected), target)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (np.zeros((4, 2, 2, 1)), ShapeMismatch),
        ((np.zeros((4, 2, 2, 1)), np.zeros(3)), ShapeMismatch),
        ((np.zeros((4, 2, 2, 1)), np.zeros(4, int)), DtypeMismatch),
        ((np.zeros((4, 2, 2, 1)), np.zeros(4, bool)), DtypeMismatch),
    ],
)
def test_batches_that_cannot_be_mixed_are_faults(batch, kind):
    for function in (augment.mixup(0.2), augment.cutmix()):
        with pytest.raises(FaultError) as caught:
            function(KEY, batch)
        assert isinstance(caught.value.fault, kind)
    with pytest.raises(FaultError, match="images"):
        augment.cutmix()(KEY, (np.zeros((4, 2)), np.zeros(4)))
    with pytest.raises(FaultError, match=r"train\.augmented"):
        augment.in_training(augment.mixup(0.2)).init(KEY, jax.ShapeDtypeStruct((2, 3), jnp.float32))


# ------------------------------------------------------------------------------- in training

X, Y = RNG.integers(0, 256, (20, 6, 6, 1), np.uint8), (np.arange(20) % 3).astype(np.int32)


def program(gradient, metrics=None):
    return train.epochs(
        model=train.supervised(nn.rescale(1 / 255) >> nn.flatten >> nn.linear(3), loss.cross_entropy(label_smoothing=0.1)),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=8, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(X, Y, batch_size=20),
        metrics={"accuracy": loss.accuracy},
        train_metrics=metrics or {},
        epochs=1,
        gradient=gradient,
    )


@pytest.mark.slow
def test_the_step_takes_the_mixed_batch_and_validation_the_plain_one():
    seen = []

    def noting(key, batch):
        made = augment.cutmix(classes=3)(key, batch)
        seen.append(jax.tree.map(jnp.shape, made))
        return made

    trained = value(program(train.augmented(noting), {"right": lambda p, t: p.argmax(-1) == t.reshape(len(t), -1).argmax(-1)}))
    assert {shape for _, shape in seen} == {(8, 3), (4, 3)}  # the last batch is short
    assert 0 <= trained.curve[-1].validation_metrics["accuracy"] <= 1
    found = fault(program(train.augmented(augment.mixup(0.2, classes=3)), {"accuracy": loss.accuracy}))
    assert isinstance(found, ShapeMismatch) and "argmax" in str(found)  # mixed targets are not labels


@pytest.mark.slow
def test_executors_agree_bit_for_bit_and_microbatches_are_parts_of_the_mixed_batch():
    mixed = train.augmented(augment.mixup(0.4, classes=3))
    fused, stepped, parts = (
        value(program(gradient), Runtime(log=None, executor=executor)).params
        for gradient, executor in (
            (mixed, train.Fused()),
            (mixed, train.Stepwise()),
            (train.augmented(augment.mixup(0.4, classes=3), train.microbatches(2)), train.Fused()),
        )
    )
    jax.tree.map(np.testing.assert_array_equal, fused, stepped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fused, parts)
    plain = value(program(train.plain), Runtime(log=None)).params
    assert not np.allclose(fused["2"]["weight"], plain["2"]["weight"], atol=1e-4)


# ------------------------------------------------------------------------------- the loss

LOGITS, LABELS = RNG.standard_normal((7, 4)).astype(np.float32), RNG.integers(0, 4, 7)
SOFT = RNG.dirichlet(np.ones(4), 7).astype(np.float32)
OPTIONS = [{}, {"label_smoothing": 0.2}, {"class_weights": [1.0, 2.0, 0.5, 0.0]}]
OPTIONS += [OPTIONS[1] | OPTIONS[2]]


@pytest.mark.parametrize("options", OPTIONS)
def test_one_hot_targets_are_their_labels(options):
    made = loss.cross_entropy(**options)

    def both(target):
        found = made(LOGITS, target)
        return found.total, found.weight, jax.grad(lambda x: made(x, target).mean)(LOGITS)

    for ours, theirs in zip(both(np.eye(4, dtype=np.float32)[LABELS]), both(LABELS), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_probabilities_are_torchs(smoothing):
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True), torch.tensor(SOFT, dtype=torch.float64)
    theirs = torch.nn.functional.cross_entropy(x, t, label_smoothing=smoothing)
    theirs.backward()
    made = loss.cross_entropy(label_smoothing=smoothing)
    ours, slope = jax.value_and_grad(lambda x: made(x, SOFT).mean)(LOGITS)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-6)
    np.testing.assert_allclose(slope, x.grad.numpy(), rtol=1e-4, atol=1e-7)
    maps = np.broadcast_to(SOFT[:, None], (7, 2, 4)), np.broadcast_to(LOGITS[:, None], (7, 2, 4))
    np.testing.assert_allclose(made(jnp.asarray(maps[1]), maps[0]).mean, theirs.item(), rtol=1e-6)
    half = made(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(SOFT, jnp.bfloat16)).mean
    np.testing.assert_allclose(half, theirs.item(), rtol=0.02)


def test_targets_that_are_not_distributions_are_found():
    made, wrong = loss.cross_entropy(), SOFT.copy()
    wrong[3] *= 2
    assert np.isnan(made(LOGITS, wrong).mean)
    with pytest.raises(FaultError) as caught:
        made.check(jax.ShapeDtypeStruct((7, 4), jnp.float32), wrong)
    assert isinstance(caught.value.fault, LabelOutOfRange) and caught.value.fault.row == 3
    made.check(jax.ShapeDtypeStruct((7, 4), jnp.float32), SOFT)
    excluded = LOGITS.copy()
    excluded[:, 0] = -np.inf  # a class that cannot be, and has no share of the target
    certain = np.where(np.arange(4) == 0, 0, 1 / 3).astype(np.float32)[None].repeat(7, 0)
    found, slope = jax.value_and_grad(lambda x: made(x, certain).mean)(jnp.asarray(excluded))
    assert np.isfinite(found) and np.isfinite(slope).all()
