"""in_training: augmentation as a layer, in training alone, the same in every executor and after resuming."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import augment, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 8, 8, 1), np.uint8)
LABELS = RNG.integers(0, 3, 48).astype(np.int32)
LAYER = augment.in_training(augment.random_crop(2), augment.random_flip(), augment.cutout(3))


def test_train_applies_the_functions_in_order_each_with_its_own_key() -> None:
    x = jnp.asarray(IMAGES)
    y, state = LAYER.apply({}, {}, x, Train(KEY))
    functions = (augment.random_crop(2), augment.random_flip(), augment.cutout(3))
    for i, function in enumerate(functions):
        x = function(Train(KEY).inside(str(i)).key, x)
    np.testing.assert_array_equal(y, x)
    assert y.dtype == np.uint8 and state == {}
    twice = augment.in_training(*[augment.random_flip()] * 2).apply({}, {}, IMAGES, Train(KEY))[0]
    assert not np.array_equal(twice, IMAGES)  # one key for both would undo the first


def test_eval_and_no_function_are_the_identity() -> None:
    assert LAYER.apply({}, {}, IMAGES, Eval())[0] is IMAGES
    assert augment.in_training().apply({}, {}, IMAGES, Train(KEY))[0] is IMAGES


def test_an_augmentation_that_changes_the_shape_or_the_dtype_is_a_fault() -> None:
    spec = jax.ShapeDtypeStruct(IMAGES.shape, jnp.uint8)
    for function in (augment.random_crop(0, (6, 6)), lambda key, x: x / 255):
        with pytest.raises(FaultError, match="keeps shape and dtype") as caught:
            augment.in_training(function).init(KEY, spec)
        assert isinstance(caught.value.fault, ShapeMismatch)


def program(epochs, resume=None):
    layer = nn.sequence(
        augment=LAYER,
        scale=nn.rescale(1 / 255),
        centre=nn.fun(augment.standardize(0.5, 0.25)),
        flat=nn.flatten,
        out=nn.linear(3),
    )
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(learning_rate=1e-2),
        train_batches=lambda context: stream.minibatches(IMAGES, LABELS, batch_size=12, seed=context.seed),
        epochs=epochs,
        resume=resume,
    )


def trained(effect, executor=None):
    outcome = effect.run(Runtime(log=None, executor=executor))
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def same(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.mark.slow
def test_executors_agree_bit_for_bit_and_so_does_resuming() -> None:
    whole = trained(program(3), train.Fused())
    same(whole.params, trained(program(3), train.Stepwise()).params)
    half = trained(program(1), train.Fused())
    same(whole.params, trained(program(3, half), train.Fused()).params)


@pytest.mark.slow
def test_predictions_use_unaugmented_images() -> None:
    model = trained(program(1))
    np.testing.assert_array_equal(model.predict(IMAGES), model.predict(IMAGES))
