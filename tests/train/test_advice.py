"""What is said about a step that is needlessly slow."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import lax

from fnlamp import Init, Layer, Role, Tag, loss, nn, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime

X, Y = np.ones((8, 6, 6, 2), np.float32), np.arange(8) % 3


def users_own(layout=("NHWC", "HWIO", "NHWC")):
    """A convolution written by a user."""

    def init(key, spec):
        kernel = jax.random.normal(key, (3, 3, 2, 3))
        return Init(
            {"kernel": kernel}, {}, array_spec((spec.shape[0], 4, 4, 3), spec.dtype), {"kernel": Tag("own", Role.WEIGHT)}
        )

    def apply(params, state, x, mode):
        return lax.conv_general_dilated(x, params["kernel"], (1, 1), "VALID", dimension_numbers=layout), state

    return Layer(init, apply, "own")


def described(layer):
    return train.epochs(
        model=train.supervised(layer >> nn.global_avg_pool, loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=4),
        epochs=1,
    )


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: nn.branch(layer) >> nn.fun(lambda ys: ys[0])])
def test_the_gradient_of_a_users_convolution_is_slow_in_a_loop_on_the_cpu(wrap):
    lines, program = [], described(wrap(users_own()))
    program.run(Runtime(log=lines.append)).unwrap()
    expected = "slow: 1 convolution of jax.lax, such as float32"
    assert lines[1].startswith(expected)
    assert "nn.conv2d" in lines[1]
    assert expected in program.explain()


def test_another_layout_is_slow_without_a_gradient_too():
    layer = nn.fun(lambda x: x.transpose(0, 3, 1, 2)) >> users_own(("NCHW", "HWIO", "NHWC"))
    assert "slow: 2 convolutions" in described(layer).explain()


@pytest.mark.parametrize("layer", [nn.conv2d(3, 3), nn.conv_pool(3, 3), nn.conv2d(4, 3, stride=2, groups=2)], ids=str)
def test_fnlamps_own_are_not(layer):
    assert "slow:" not in described(layer).explain()
