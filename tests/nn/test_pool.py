"""max_pool2d, avg_pool2d and global_avg_pool."""

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
from fnlamp.nn.lowering import images
from fnlamp.nn.lowering.window import Window

KEY = jax.random.key(0)


def image(*rows: list[float]) -> jax.Array:
    return jnp.array(rows)[None, :, :, None]


def run(layer: Any, x: jax.Array) -> jax.Array:
    y: jax.Array = jax.jit(layer.apply)({}, {}, x, Eval())[0]
    return y


def test_numbers() -> None:
    x = image([1, 5, 2, 0, 9], [4, 3, 6, 7, 9], [9, 9, 9, 9, 9])  # the last row and column do not fill a window
    assert run(nn.max_pool2d(2), x)[0, :, :, 0].tolist() == [[5, 7]]
    assert run(nn.avg_pool2d(2), x * 1.0)[0, :, :, 0].tolist() == [[3.25, 3.75]]
    assert run(nn.max_pool2d((3, 1), stride=(1, 2)), x)[0, :, :, 0].tolist() == [[9, 9, 9]]
    assert run(nn.global_avg_pool, image([1.0, 2.0], [3.0, 6.0])).tolist() == [[3.0]]


def test_padding_is_never_the_largest_and_counts_as_zeros_of_the_mean() -> None:
    x = image([-1.0, -2.0], [-3.0, -4.0])
    assert run(nn.max_pool2d(2, padding=1), x)[0, :, :, 0].tolist() == [[-1, -2], [-3, -4]]
    assert run(nn.avg_pool2d(2, padding=1), x)[0, :, :, 0].tolist() == [[-0.25, -0.5], [-0.75, -1]]
    assert run(nn.max_pool2d(2, stride=1, padding="same"), x)[0, :, :, 0].tolist() == [[-1, -2], [-3, -4]]


def test_the_first_of_equal_numbers_in_row_major_order_has_the_whole_gradient() -> None:
    gradient = jax.grad(lambda x: run(nn.max_pool2d(2), x).sum())
    assert gradient(image([1.0, 2.0], [2.0, 2.0]))[0, :, :, 0].tolist() == [[0, 1], [0, 0]]
    assert gradient(image([1.0, 1.0], [2.0, 2.0]))[0, :, :, 0].tolist() == [[0, 0], [1, 0]]
    overlapping = jax.grad(lambda x: run(nn.max_pool2d(2, stride=1), x).sum())
    assert overlapping(jnp.ones((1, 3, 3, 1)))[0, :, :, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_nan_is_larger_than_any_number() -> None:
    for at in range(4):
        x = jnp.array([1.0, jnp.inf, 2.0, 3.0]).at[at].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(run(nn.max_pool2d(2), x)).all()


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bfloat16, jnp.float16])
def test_max_pool_keeps_the_dtype(dtype: Any) -> None:
    x = jnp.arange(16).astype(dtype).reshape(1, 4, 4, 1)
    y = run(nn.max_pool2d(2, padding=1), x)
    assert y.dtype == nn.max_pool2d(2, padding=1).init(KEY, array_spec(x.shape, dtype)).spec.dtype == dtype
    assert y.ravel().tolist() == [0, 2, 3, 8, 10, 11, 12, 14, 15]


def test_half_precision_is_averaged_in_float32() -> None:
    y = run(nn.avg_pool2d((3, 4)), jnp.full((1, 3, 4, 1), 1.0078125, jnp.bfloat16))  # twelve of them are not a bfloat16
    assert y.dtype == jnp.bfloat16
    assert y.ravel().tolist() == [1.0078125]


@pytest.mark.parametrize(
    "window",
    [
        Window((2, 2), (2, 2)),
        Window((3, 2), (1, 3), padding=1),
        Window((2, 3), (3, 2), padding=((0, 1), (2, 0))),
        Window((3, 3), (2, 2), padding="same"),
    ],
    ids=str,
)
def test_both_forms_agree_in_values_and_gradients(window: Window) -> None:
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 3), np.float32)

    def largest(x: jax.Array, window: Window) -> jax.Array:
        padding = ((0, 0), *window.sides(*x.shape[1:3]), (0, 0))
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, *window.size, 1), (1, *window.stride, 1), padding)

    for ours, native in ((images.max_pool, largest), (images.sum_pool, images.native_sum_pool)):

        def pulled(function: Callable[..., jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y, pull = jax.vjp(lambda x: function(x, window), x)
            return y, pull(jnp.cos(y) + 2)[0]

        compiled = jax.jit(pulled, static_argnums=0)
        for a, b in zip(compiled(ours, x), compiled(native, x), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.max_pool2d(2), nn.avg_pool2d(2), nn.global_avg_pool], ids=str)
def test_an_axis_of_inputs_and_an_empty_batch(layer: Any) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 4, 4, 2), np.float32))
    apply = jax.jit(lambda x: run(layer, x))
    np.testing.assert_allclose(jax.vmap(apply)(x)[1], apply(x[1]), atol=1e-6)
    assert apply(x[0, :0]).shape[0] == 0


def test_faults() -> None:
    for layer, x, kind, expected in [
        (nn.max_pool2d(2), (2, 4, 4), ShapeMismatch, "max_pool2d: expected images"),
        (nn.avg_pool2d(2), (2, 4), ShapeMismatch, "avg_pool2d: expected images"),
        (nn.global_avg_pool, (2, 4), ShapeMismatch, "global_avg_pool: .*channels\\) with positions"),
        (nn.max_pool2d(5), (2, 4, 4, 1), ShapeMismatch, "at least 5 x 5 pixels"),
        (nn.avg_pool2d((2, 7), padding=1), (2, 4, 4, 1), ShapeMismatch, "at least 2 x 7 pixels.* got 6 x 6"),
    ]:
        with pytest.raises(FaultError, match=expected) as caught:
            layer.init(KEY, array_spec(x, jnp.float32))
        assert isinstance(caught.value.fault, kind)
    for layer, dtype in ((nn.max_pool2d(2), bool), (nn.avg_pool2d(2), jnp.uint8), (nn.global_avg_pool, jnp.uint8)):
        with pytest.raises(FaultError, match="cast first") as caught:
            layer.init(KEY, array_spec((2, 4, 4, 1), dtype))
        assert isinstance(caught.value.fault, DtypeMismatch)


def test_wrong_sizes_are_a_value_error() -> None:
    for build, message in [
        (lambda: nn.max_pool2d(0), "max_pool2d: window is an integer from 1"),
        (lambda: nn.avg_pool2d(2, stride=(1, 0)), "avg_pool2d: stride"),
        (lambda: nn.max_pool2d(2, padding=(0, -1)), "max_pool2d: padding"),
        (lambda: nn.max_pool2d((3, 2), padding=2), "padding must be less than the window"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
