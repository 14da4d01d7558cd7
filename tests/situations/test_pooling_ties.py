"""Max pooling against torch: padding, -inf, NaN, ties, integers, and half precision, values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, nn
from fnlamp.nn.lowering.images import max_pool
from fnlamp.nn.lowering.window import Window

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(4)
RANDOM = RNG.standard_normal((2, 7, 6, 2)).astype(np.float32)
IMAGES = {
    "random": RANDOM,
    "ties": RNG.integers(0, 2, (2, 7, 6, 2)).astype(np.float32),
    "all equal": np.zeros((1, 7, 6, 1), np.float32),
    "all -inf": np.full((1, 7, 6, 1), -INF, np.float32),
    "-inf among numbers": np.where(RANDOM < 0.3, -INF, RANDOM),
    "+inf among numbers": np.where(RANDOM > 0.5, INF, RANDOM),
    "the lowest number": np.full((1, 7, 6, 1), np.finfo(np.float32).min, np.float32),
    "one NaN": np.where(np.arange(42).reshape(1, 7, 6, 1) == 16, NAN, RANDOM[:1, :, :, :1]),
    "many NaN": np.where(RANDOM > 0.4, NAN, RANDOM),
    "NaN and -inf": np.where(RANDOM > 0.4, NAN, -INF).astype(np.float32),
    "all NaN": np.full((1, 7, 6, 1), NAN, np.float32),
    "signed zeros": np.where(RANDOM > 0, 0.0, -0.0).astype(np.float32),
}
WINDOWS = {
    "2": {"kernel_size": 2},
    "2, padded": {"kernel_size": 2, "padding": 1},
    "3, stride 2, padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3, stride 1, padded": {"kernel_size": 3, "stride": 1, "padding": 1},
    "(3, 2), padded": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 1)},
    "5, padded by 2": {"kernel_size": 5, "stride": 3, "padding": 2},
}


def ours(window, x, upstream):
    view = Window(
        both(window["kernel_size"]), both(window.get("stride", window["kernel_size"])), padding=window.get("padding", 0)
    )

    @jax.jit
    def both_ways(x, upstream):
        y, back = jax.vjp(lambda x: max_pool(x, view), x)
        return y, back(upstream)[0]

    y, slope = both_ways(jnp.asarray(x), jnp.asarray(upstream, x.dtype))
    return np.asarray(y), np.asarray(slope)


def both(size):
    return size if isinstance(size, tuple) else (size, size)


def theirs(window, x):
    leaf = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = torch.nn.functional.max_pool2d(leaf, **window)
    upstream = RNG.standard_normal(tuple(y.shape)).astype(x.dtype)
    y.backward(torch.tensor(upstream))

    def back(a):
        return a.transpose(0, 2, 3, 1)

    return back(y.detach().numpy()), back(leaf.grad.numpy()), back(upstream)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_values_and_gradients_are_those_of_torch(window):
    x = np.concatenate([image.transpose(0, 3, 1, 2).reshape(-1, 7, 6, 1) for image in IMAGES.values()])
    names = np.repeat(list(IMAGES), [image.shape[0] * image.shape[3] for image in IMAGES.values()])
    y, slope, upstream = theirs(window, x)
    value, gradient = ours(window, x, upstream)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(value[i], y[i], err_msg=name)
        np.testing.assert_allclose(gradient[i], slope[i], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_of_any_precision(dtype):
    with jax.enable_x64(True):
        x = np.where(RANDOM > 1, -INF, np.round(2 * RANDOM))
        window = WINDOWS["3, stride 2, padded"]
        y, slope, upstream = theirs(window, x.astype(np.float64))
        upstream = np.round(4 * upstream) / 4
        value, gradient = ours(window, jnp.asarray(x, dtype), upstream)
        assert (value.dtype, gradient.dtype) == (dtype, dtype)
        np.testing.assert_array_equal(value.astype(np.float64), y)
        assert (gradient.astype(np.float64) != 0).sum() > 0
        np.testing.assert_array_equal(gradient.astype(np.float64) * (slope == 0), 0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_of_integers(dtype):
    bounds = np.iinfo(dtype)
    x = RNG.integers(bounds.min, bounds.max, (1, 5, 5, 1), dtype, endpoint=True)
    x[0, :2] = bounds.min
    y = max_pool(jnp.asarray(x), Window((3, 3), (1, 1), padding=1))
    around = np.pad(x[0, :, :, 0].astype(np.int64), 1, constant_values=int(bounds.min))
    expected = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).max((2, 3))
    np.testing.assert_array_equal(np.asarray(y)[0, :, :, 0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(5, 4), (6, 6), (3, 7)])
def test_same_padding_gives_no_gradient_to_the_border(size):
    x = jnp.full((1, *size, 1), -INF)
    slope = jax.grad(
        lambda x: jnp.sum(jnp.where(jnp.isinf(y := max_pool(x, Window((3, 3), (2, 2), padding="same"))), 2 * y, y))
    )(x)
    places = -(-size[0] // 2) * -(-size[1] // 2)
    assert float(slope.sum()) == 2 * places


@pytest.mark.slow
def test_the_layer_takes_the_same_form_twice_differentiated():
    layer, x = nn.max_pool2d(3, stride=2, padding=1), jnp.asarray(RANDOM)

    def value(x):
        return jnp.sum(layer.apply({}, {}, x, Eval())[0] ** 3)

    direction = jnp.asarray(RNG.standard_normal(RANDOM.shape), jnp.float32)
    _, slope = jax.jvp(value, (x,), (direction,))
    np.testing.assert_allclose(slope, jnp.sum(jax.grad(value)(x) * direction), rtol=1e-4)
    _, curve = jax.jvp(jax.grad(value), (x,), (direction,))
    assert jnp.isfinite(curve).all()
