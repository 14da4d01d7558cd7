"""Convolutions over one and three axes, depthwise, separable and transposed: numbers, scales, tags, faults, derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.mode import Eval
from fnlamp.tag import Matrix, Role

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def made(layer: Any, *shape: int) -> Any:
    return layer.init(KEY, array_spec(shape, jnp.float32))


def run(layer: Any, params: Any, x: jax.Array) -> jax.Array:
    y: jax.Array = jax.jit(layer.apply)(params, {}, x, Eval())[0]
    return y


def test_numbers() -> None:
    kernel, x = jnp.array([1.0, 2.0]), jnp.array([1.0, 10.0, 100.0])
    one, across = {"weight": kernel.reshape(2, 1, 1)}, {"weight": kernel.reshape(2, 1, 1, 1, 1)}
    assert run(nn.conv1d(1, 2, bias=False), one, x.reshape(1, 3, 1)).ravel().tolist() == [21, 210]
    assert run(nn.conv1d(1, 2, bias=False, padding=(1, 0)), one, x.reshape(1, 3, 1)).ravel().tolist() == [2, 21, 210]
    assert run(nn.conv3d(1, (2, 1, 1), bias=False), across, x.reshape(1, 3, 1, 1, 1)).ravel().tolist() == [21, 210]
    up = run(nn.conv_transpose1d(1, 2, stride=2, bias=False, output_padding=1), one, x.reshape(1, 3, 1))
    assert up.ravel().tolist() == [1, 2, 10, 20, 100, 200, 0]
    up = run(nn.conv_transpose1d(1, 2, bias=False, padding=(0, 1)), one, x.reshape(1, 3, 1))
    assert up.ravel().tolist() == [1, 12, 120]
    doubled = run(
        nn.depthwise_conv2d(1, multiplier=2, bias=False),
        {"weight": jnp.arange(4.0).reshape(1, 1, 1, 4)},
        jnp.ones((1, 1, 1, 2)),
    )
    assert doubled.ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("down", "up", "size"),
    [
        (nn.conv1d(3, 4, stride=3, padding=1), nn.conv_transpose1d(2, 4, stride=3, padding=1, output_padding=1), (12,)),
        pytest.param(
            nn.conv2d(3, (2, 3), stride=2, dilation=(1, 2), padding=1),
            nn.conv_transpose2d(2, (2, 3), stride=2, dilation=(1, 2), padding=1),
            (6, 7),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_a_transposed_convolution_is_the_gradient_of_a_convolution(down: Any, up: Any, size: tuple[int, ...]) -> None:
    params = made(down, 2, *size, 2).params
    x = normal(2, *size, 2)
    y, pull = jax.vjp(lambda x: run(down, params, x), x)
    upstream = normal(*y.shape)
    turned = {"weight": jnp.swapaxes(params["weight"], -1, -2), "bias": jnp.zeros(2)}
    np.testing.assert_allclose(run(up, turned, upstream), pull(upstream)[0], rtol=1e-4, atol=1e-5)
    assert made(up, *y.shape).spec.shape == x.shape


# lamp draws every weight by the channels alone, with variance 2 / (in + out), and for all input channels if there are groups.
SCALES = [
    # layer, input, the weight's shape, inputs and outputs of one group with the kernel's area
    (nn.conv1d(64, 5), (1, 9, 32), (5, 32, 64), 5 * 32, 5 * 64),
    (nn.conv2d(64, (3, 2)), (1, 9, 9, 32), (3, 2, 32, 64), 6 * 32, 6 * 64),
    (nn.conv3d(32, 2), (1, 4, 4, 4, 32), (2, 2, 2, 32, 32), 8 * 32, 8 * 32),
    (nn.conv2d(64, 3, groups=4), (1, 9, 9, 64), (3, 3, 16, 64), 9 * 16, 9 * 16),
    (nn.depthwise_conv2d(3, multiplier=2), (1, 9, 9, 500), (3, 3, 1, 1000), 9, 18),
    (nn.conv_transpose2d(64, 4, stride=2), (1, 4, 4, 32), (4, 4, 32, 64), 16 * 32, 16 * 64),
    (nn.conv_transpose3d(64, 2, groups=2), (1, 2, 2, 2, 64), (2, 2, 2, 32, 64), 8 * 32, 8 * 32),
]


@pytest.mark.parametrize(("layer", "shape", "weight", "inputs", "outputs"), SCALES, ids=[str(case[0]) for case in SCALES])
def test_the_initial_scale_counts_the_kernels_area_and_the_channels_of_a_group(
    layer: Any, shape: tuple[int, ...], weight: tuple[int, ...], inputs: int, outputs: int
) -> None:
    params = made(layer, *shape).params
    assert params["weight"].shape == weight
    # Glorot & Bengio 2010: variance 2 / (inputs + outputs)
    assert float(params["weight"].std()) == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.05)
    assert not params["bias"].any()


def test_each_group_is_drawn_by_itself() -> None:
    weight = made(nn.conv2d(8, 1, groups=2, weight_init=jax.nn.initializers.orthogonal()), 1, 1, 1, 8).params["weight"]
    for group in (weight[0, 0, :, :4], weight[0, 0, :, 4:]):
        np.testing.assert_allclose(group.T @ group, np.eye(4), atol=1e-6)
    assert np.abs(weight[0, 0, :, :4] - weight[0, 0, :, 4:]).max() > 0.1


def test_tags_and_parts() -> None:
    tags = made(nn.conv3d(4, 2, groups=2), 1, 3, 3, 3, 4).tags
    assert (tags["weight"].layer, tags["weight"].matrix) == ("conv3d", Matrix((0, 1, 2, 3), (4,), 2))
    assert tags["bias"].role is Role.BIAS
    assert made(nn.depthwise_conv2d(3), 1, 5, 5, 4).tags["weight"].matrix is None
    separable = made(nn.separable_conv2d(6, 3, multiplier=2, stride=2, padding=1), 2, 9, 9, 4)
    assert {path: leaf.shape for path, leaf in separable.params["depthwise"].items()} == {"weight": (3, 3, 1, 8)}
    assert {path: leaf.shape for path, leaf in separable.params["pointwise"].items()} == {"weight": (1, 1, 8, 6), "bias": (6,)}
    assert separable.spec.shape == (2, 5, 5, 6)


def test_names() -> None:
    assert str(nn.conv3d(8, (1, 3, 3), stride=2)) == "conv3d(8, (1, 3, 3), stride=2)"
    assert str(nn.separable_conv2d(8, 3)) == "depthwise_conv2d(3) >> conv2d(8, 1)"
    assert str(nn.conv_transpose1d(8, 4, stride=2)) == "conv_transpose1d(8, 4, stride=2)"


FORMS = [
    (nn.conv1d(4, 3), (2, 5, 3)),
    (nn.conv3d(4, 2, padding=1), (2, 3, 2, 3, 3)),
    (nn.conv_transpose2d(4, 3, stride=2), (2, 3, 2, 3)),
    (nn.separable_conv2d(4, 2), (2, 3, 3, 3)),
]
each_form = pytest.mark.parametrize(("layer", "shape"), FORMS, ids=[str(layer) for layer, _ in FORMS])


@pytest.mark.slow
@each_form
def test_derivatives_of_derivatives_forward_and_in_reverse(layer: Any, shape: tuple[int, ...]) -> None:
    params = made(layer, *shape).params
    x, along = normal(*shape), normal(*shape)

    def objective(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(run(layer, params, x)))

    @jax.jit
    def three_ways(x: jax.Array) -> list[jax.Array]:
        forward = jax.jvp(jax.grad(objective), (x,), (along,))[1]
        twice = jax.grad(lambda x: jax.jvp(objective, (x,), (along,))[1])(x)
        return [forward, twice, jax.grad(lambda x: jnp.vdot(jax.grad(objective)(x), along))(x)]

    forward, *others = three_ways(x)
    assert np.abs(forward).max() > 0.01
    for other in others:
        np.testing.assert_allclose(other, forward, atol=1e-4)


@pytest.mark.slow
@each_form
def test_an_axis_of_models_an_empty_batch_and_half_precision(layer: Any, shape: tuple[int, ...]) -> None:
    params = made(layer, *shape).params
    x = normal(3, *shape)
    together = jax.vmap(lambda x: run(layer, params, x))(x)
    np.testing.assert_allclose(together[1], run(layer, params, x[1]), atol=1e-5)
    gradient = jax.grad(lambda params: jnp.sum(run(layer, params, x[0, :0])))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert run(layer, half, x[0]).dtype == jnp.bfloat16
    np.testing.assert_allclose(run(layer, half, x[0]).astype(float), together[0], atol=0.1)


FAULTS = [
    (nn.conv1d(4, 3), (2, 5), r"conv1d: expected sequences \(batch, length, channels\)"),
    (nn.conv1d(4, 6), (2, 5, 3), "at least 6 steps, the window's, after padding, got 5"),
    (nn.conv3d(4, 3), (2, 5, 5, 3), r"conv3d: expected volumes \(batch, depth, height, width, channels\)"),
    (nn.conv3d(4, 3), (2, 5, 2, 5, 3), "at least 3 x 3 x 3 voxels, the window's, after padding, got 5 x 2 x 5"),
    (nn.conv3d(4, 3, groups=2), (2, 5, 5, 5, 3), "volumes whose channels 2 groups divide"),
    (nn.depthwise_conv2d(3), (2, 5, 3), "depthwise_conv2d: expected images"),
    (nn.depthwise_conv2d(3), (2, 5, 5, 0), "images of at least one channel"),
    (nn.separable_conv2d(3, 6), (2, 5, 5, 3), "at least 6 x 6 pixels"),
    (nn.conv_transpose2d(4, 3), (2, 5, 5), "conv_transpose2d: expected images"),
    (nn.conv_transpose2d(4, 3), (2, 0, 5, 3), "at least one position along each axis"),
    (nn.conv_transpose1d(4, 2, padding=3), (2, 5, 3), r"an output of at least one position, got \(0,\)"),
    (nn.conv_transpose1d(4, 2, groups=2), (2, 5, 3), "sequences whose channels 2 groups divide"),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), FAULTS)
def test_faults(layer: Any, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(FaultError, match=expected) as caught:
        made(layer, *shape)
    assert isinstance(caught.value.fault, ShapeMismatch)


@each_form
def test_other_channels_and_integers_are_faults(layer: Any, shape: tuple[int, ...]) -> None:
    params = made(layer, *shape).params
    with pytest.raises(FaultError, match=f"of {shape[-1]} channels, the last axis") as caught:
        run(layer, params, jnp.ones((*shape[:-1], 2 * shape[-1])))
    assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(FaultError, match="cast first") as caught:
        layer.init(KEY, array_spec(shape, jnp.uint8))
    assert isinstance(caught.value.fault, DtypeMismatch)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.conv1d(4, (3, 3)), "conv1d: kernel is an integer from 1, got"),  # type: ignore[arg-type]
    (lambda: nn.conv1d(4, 3, padding=(1, 2, 3)), "conv1d: padding is an integer from 0, \\(before, after\\)"),  # type: ignore[arg-type]
    (lambda: nn.conv3d(4, (3, 3)), "conv3d: kernel is an integer from 1, or three of them"),  # type: ignore[arg-type]
    (lambda: nn.conv3d(4, 3, padding=(1, 2)), "conv3d: padding"),  # type: ignore[arg-type]
    (lambda: nn.conv3d(4, 3, stride=(1, 0, 1)), "conv3d: stride"),
    (lambda: nn.depthwise_conv2d(3, multiplier=0), "depthwise_conv2d: multiplier"),
    (lambda: nn.conv_transpose2d(4, 3, padding="same"), "conv_transpose2d: padding is given in numbers"),  # type: ignore[arg-type]
    (lambda: nn.conv_transpose2d(4, 3, stride=2, output_padding=2), "output_padding must be smaller than stride or dilation"),
    (lambda: nn.conv_transpose2d(4, 3, output_padding=(0, -1)), "output_padding is an integer from 0"),
    (lambda: nn.conv_transpose1d(4, 3, groups=3), "output channels that groups divides"),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_sizes_are_a_value_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
