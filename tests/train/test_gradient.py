"""Gradients as values: parts of a batch, moved parameters and features, and less memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, NotDifferentiable, ShapeMismatch
from fnlamp.mode import Train

QUIET = Runtime(log=None)
RNG = np.random.default_rng(5)
X = RNG.standard_normal((23, 6)).astype(np.float32)
Y = RNG.integers(0, 4, 23).astype(np.int32)
IGNORED = np.where(np.arange(23) % 5 == 0, -100, Y).astype(np.int32)
WEIGHTED = loss.cross_entropy(class_weights=[0.5, 1.0, 2.0, 4.0])
LAYER = nn.linear(8) >> nn.tanh >> nn.linear(4)
KEY = Train(jax.random.key(3))


def objective(layer, measure):
    def apply(params, state, batch, mode):
        prediction, state = layer.apply(params, state, batch[0], mode)
        return measure(prediction, batch[1]), state

    return apply


def found(gradient, layer=LAYER, measure=WEIGHTED, batch=(X, IGNORED), dtype=jnp.float64):
    """What a gradient gives in float64 from parameters that a seed determines."""
    with jax.enable_x64(True):
        features = jnp.asarray(batch[0], dtype)
        made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(features.shape, features.dtype))
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), made.params)
        return params, gradient(objective(layer, measure), params, made.state, (features, jnp.asarray(batch[1])), KEY)


def close(a, b, tolerance=1e-12):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def slope(function, params, direction):
    """The derivative along a direction, by central differences."""
    step = 1e-6
    ahead, behind = (jax.tree.map(lambda p, d, s=s: p + s * d, params, direction) for s in (step, -step))
    return (function(ahead) - function(behind)) / (2 * step)


def along(grads, direction):
    return sum(float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 12, 22, 23, 40])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    _, whole = found(train.plain)
    _, cut = found(train.microbatches(parts))
    close(cut, whole)


@pytest.mark.slow
def test_a_part_of_ignored_rows_alone_adds_nothing():
    target = np.where(np.arange(23) < 12, -100, Y)
    _, whole = found(train.plain, batch=(X, target))
    _, cut = found(train.microbatches(4), batch=(X, target))
    close(cut, whole)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(found(train.microbatches(4), batch=(X, 0 * Y - 100))))


def test_each_part_draws_its_own_dropout():
    # One row of ones in each part: the gradient of the weights is a multiple of the sum of the masks.
    layer = nn.dropout(0.5) >> nn.linear(1)
    rows, target = np.ones((8, 64), np.float32), np.zeros((8, 1), np.float32)
    _, cut = found(train.microbatches(8), layer, loss.mse(), (rows, target))
    weight = next(np.asarray(g) for g in jax.tree.leaves(cut.grads) if g.size == 64)
    assert len(np.unique(weight.round(6))) > 2  # of one mask there would be two


@pytest.mark.slow
@pytest.mark.parametrize("rule", [optim.sgdw(0.1, momentum=0.9), optim.adamw(0.01, weight_decay=0.1)], ids=str)
@pytest.mark.parametrize("schedule", [optim.constant(1.0), optim.warmup(3, optim.cosine(20))], ids=["constant", "warmup"])
def test_accumulated_training_equals_training_on_the_big_batch(rule, schedule):
    def trained(size, gradient):
        def batches(context):
            small = stream.minibatches(X, IGNORED, batch_size=size, seed=context.seed)
            return small if size == 10 else small.chunk(10 // size)

        program = train.epochs(
            model=train.supervised(LAYER, WEIGHTED),
            optimizer=rule,
            train_batches=batches,
            epochs=3,
            schedule=schedule,
            gradient=gradient,
        )
        return value(program, QUIET)

    big, small = trained(10, train.plain), trained(5, train.microbatches(2))
    close(small.params, big.params, 1e-5 if jax.default_backend() != "cpu" else 2e-6)
    np.testing.assert_allclose(small.curve[-1].train_loss, big.curve[-1].train_loss, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        (train.microbatches(3), train.plain),
        (train.microbatches(2, train.microbatches(2)), train.plain),
        (train.rematerialised(train.microbatches(4)), train.plain),
        (train.microbatches(20), train.plain),
        (train.adversarial(0.1, train.microbatches(3)), train.adversarial(0.1)),
        (train.microbatches(3, train.adversarial(0.1)), train.adversarial(0.1)),
    ],
    ids=str,
)
def test_parts_of_a_sum_whose_terms_ignore_different_rows_are_those_of_the_whole(cut, whole):
    kind = np.where(np.arange(23) < 7, -100, Y % 3)
    size = np.where((np.arange(23) > 8) & (np.arange(23) % 4 > 0), np.nan, X[:, 0]).astype(np.float32)
    both = loss.sum({"kind": loss.cross_entropy([1.0, 2.0, 0.3]), "size": loss.mse(ignored=np.nan)}, weights={"size": 0.3})
    heads = (
        nn.linear(8)
        >> nn.tanh
        >> nn.branch(nn.linear(3), nn.linear(1))
        >> nn.fun(lambda ys: {"kind": ys[0], "size": ys[1][:, 0]})
    )

    def trained(gradient):
        program = train.epochs(
            model=train.supervised(heads, both),
            optimizer=optim.sgdw(0.3, momentum=0.9),
            train_batches=lambda context: stream.minibatches(X, {"kind": kind, "size": size}, batch_size=9),
            epochs=3,
            gradient=gradient,
        )
        return value(program, QUIET)

    ours, theirs = trained(cut), trained(whole)
    close(ours.params, theirs.params, 2e-6)
    for name in ("train_loss", "train_loss_of_batches"):
        np.testing.assert_allclose(getattr(ours.curve[-1], name), getattr(theirs.curve[-1], name), rtol=2e-6)


def test_the_gradient_of_moved_parameters_agrees_with_finite_differences():
    size = 0.3
    seen = []
    spy = train.Gradient(lambda o, params, *rest: seen.append(params) or train.plain(o, params, *rest), "spy")
    params, there = found(train.perturbed(size, spy))
    moved = seen[0]
    pairs = zip(*map(jax.tree.leaves, (moved, params)), strict=True)
    noise = np.concatenate([np.ravel((np.asarray(m) - np.asarray(p)) / size) for m, p in pairs])
    assert abs(noise.mean()) < 0.35 and 0.75 < noise.std() < 1.25
    with jax.enable_x64(True):
        of = objective(LAYER, WEIGHTED)
        direction = jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal(p.shape)), params)

        def mean(params):
            return float(of(params, {"0": {}, "2": {}}, (jnp.asarray(X, float), jnp.asarray(IGNORED)), KEY)[0].mean)

        np.testing.assert_allclose(along(there.grads, direction), slope(mean, moved, direction), rtol=1e-7)
        np.testing.assert_allclose(float(there.value.mean), mean(params), rtol=1e-12)  # the loss is that of the parameters


def test_the_adversarial_gradient_agrees_with_finite_differences():
    # The lamp's own halves were not those of its loss; here both are, with the moved features held constant.
    eps = 0.2
    params, there = found(train.adversarial(eps))
    with jax.enable_x64(True):
        of, x, y = objective(LAYER, WEIGHTED), jnp.asarray(X, float), jnp.asarray(IGNORED)
        moved = x + eps * jnp.sign(jax.grad(lambda x: of(params, {}, (x, y), KEY)[0].total)(x))

        def mean(params):
            both = [float(of(params, {}, (features, y), KEY)[0].mean) for features in (x, moved)]
            return sum(both) / 2

        for _ in range(3):
            direction = jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal(p.shape)), params)
            np.testing.assert_allclose(along(there.grads, direction), slope(mean, params, direction), rtol=1e-7)
        np.testing.assert_allclose(float(there.value.mean), mean(params), rtol=1e-12)


@pytest.mark.broad
@pytest.mark.parametrize(
    "gradient", [train.perturbed(0.0), train.adversarial(0.0), train.rematerialised()], ids=lambda gradient: gradient.name
)
def test_nothing_moved_is_the_plain_gradient(gradient):
    _, plain = found(train.plain)
    _, there = found(gradient)
    close(there, plain)


@pytest.mark.broad
@pytest.mark.parametrize(
    "gradient",
    [
        train.adversarial(0.2, train.microbatches(4)),
        train.microbatches(4, train.adversarial(0.2)),
        train.rematerialised(train.adversarial(0.2)),
        train.adversarial(0.2, train.rematerialised(train.microbatches(3))),
    ],
    ids=lambda gradient: gradient.name,
)
def test_nested_gradients_of_a_model_of_independent_rows_are_the_same(gradient):
    _, whole = found(train.adversarial(0.2))
    _, nested = found(gradient)
    close(nested, whole)


def test_pixels_are_moved_as_numbers_and_token_ids_are_refused():
    def program(layer, features, gradient):
        return train.epochs(
            model=train.supervised(layer, loss.cross_entropy()),
            optimizer=optim.sgdw(0.1),
            train_batches=lambda context: stream.minibatches(features, Y, batch_size=8),
            epochs=1,
            gradient=gradient,
        )

    pixels = RNG.integers(0, 256, (23, 6)).astype(np.uint8)
    assert value(program(nn.rescale(1 / 255) >> LAYER, pixels, train.adversarial(2.0)), QUIET).curve[0].train_loss > 0
    ids = nn.embedding(256, 3) >> nn.flatten >> LAYER
    assert isinstance(fault(program(ids, pixels.astype(np.int32), train.adversarial(2.0)), QUIET), DtypeMismatch)


@pytest.mark.parametrize(
    "gradient", [train.plain, train.microbatches(2), train.adversarial(0.1), train.perturbed(0.1)], ids=str
)
def test_a_loss_without_a_gradient_is_found_before_the_first_step(gradient):
    program = train.epochs(
        model=train.supervised(LAYER, loss.accuracy),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=8),
        epochs=1,
        gradient=gradient,
    )
    assert isinstance(program.explain().fault, NotDifferentiable)


def test_a_mask_among_the_features_stays_a_mask():
    mask = RNG.random((23, 6)) < 0.5
    layer = nn.fun(lambda x: jnp.where(~x["mask"], x["numbers"], 0)) >> LAYER
    params, expected = found(train.adversarial(0.2), nn.fun(lambda x: jnp.where(~mask, x, 0)) >> LAYER)
    with jax.enable_x64(True):
        batch = {"mask": jnp.asarray(mask), "numbers": jnp.asarray(X, float)}, jnp.asarray(IGNORED)
        state = {name: {} for name in params}
        close(train.adversarial(0.2)(objective(layer, WEIGHTED), params, state, batch, KEY)[:2], expected[:2])


@pytest.mark.parametrize(
    "features", [{"a": np.ones((1, 6), np.float32), "b": X[:8]}, {"a": np.float32(1), "b": X[:8]}], ids=["one row", "scalar"]
)
def test_arrays_that_cannot_be_cut_together_are_a_fault(features):
    program = train.epochs(
        model=train.supervised(nn.fun(lambda x: x["a"] * x["b"]) >> LAYER, loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.from_iterable(lambda: [(features, Y[:8])]),
        epochs=1,
        gradient=train.microbatches(2),
    )
    said = fault(program, QUIET)
    assert isinstance(said, ShapeMismatch) and said.where.endswith("microbatches")


def test_gradients_have_names():
    assert str(train.adversarial(2.0, train.microbatches(4))) == "adversarial(2, microbatches(4))"
    assert str(train.rematerialised(train.perturbed(0.01))) == "rematerialised(perturbed(0.01))"
