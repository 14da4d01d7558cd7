"""pad, resize, pixel_shuffle, and pooling of any number of axes: numbers, dtypes, ties, faults."""

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

KEY = jax.random.key(0)


def run(layer: Any, x: Any) -> jax.Array:
    y: jax.Array = jax.jit(layer.apply)({}, {}, jnp.asarray(x), Eval())[0]
    return y


def line(*numbers: float) -> jax.Array:
    return jnp.array(numbers).reshape(1, -1, 1)


def test_numbers() -> None:
    assert run(nn.pad((1, 2), mode="reflect"), line(1, 2, 3)).ravel().tolist() == [2, 1, 2, 3, 2, 1]
    assert run(nn.pad(1, mode="circular"), line(1, 2, 3)).ravel().tolist() == [3, 1, 2, 3, 1]
    assert run(nn.pad((0, (1, 2)), mode="replicate"), line(1, 2)[..., None]).shape == (1, 2, 4, 1)
    assert run(nn.resize(5), line(1.0, 2.0, 3.0)).ravel().tolist() == [1, 1, 2, 3, 3]
    assert run(nn.resize(1, method="linear"), line(1.0, 2.0, 6.0)).ravel().tolist() == [2]  # one centre: the middle
    assert run(nn.adaptive_avg_pool(2), line(1.0, 2.0, 6.0)).ravel().tolist() == [1.5, 4]
    assert run(nn.global_max_pool, line(1, 7, 3)).tolist() == [[7]]
    assert run(nn.max_pool3d((1, 2, 1)), jnp.arange(4).reshape(1, 1, 4, 1, 1)).ravel().tolist() == [1, 3]
    assert run(nn.avg_pool1d(2, stride=1, padding=(1, 0)), line(2.0, 4.0)).ravel().tolist() == [1, 3]


def test_shuffling_back_is_the_identity() -> None:
    for shape in [(2, 6, 5), (2, 6, 4, 3), (1, 2, 4, 6, 2)]:
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        apart = run(nn.pixel_unshuffle(2), x)
        assert apart.shape == (shape[0], *(n // 2 for n in shape[1:-1]), shape[-1] * 2 ** (len(shape) - 2))
        np.testing.assert_array_equal(run(nn.pixel_shuffle(2), apart), x)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bfloat16])
def test_what_moves_numbers_keeps_their_dtype(dtype: Any) -> None:
    x = jnp.arange(16).astype(dtype).reshape(1, 2, 2, 4)
    for layer in (nn.pad(1, mode="reflect"), nn.resize(3), nn.pixel_shuffle(2), nn.adaptive_max_pool(3), nn.global_max_pool):
        assert run(layer, x).dtype == layer.init(KEY, array_spec(x.shape, dtype)).spec.dtype == dtype, layer


def test_half_precision_is_averaged_in_float32() -> None:
    y = run(nn.adaptive_avg_pool(1), jnp.full((1, 12, 1), 1.0078125, jnp.bfloat16))  # twelve of them are not a bfloat16
    assert y.dtype == jnp.bfloat16
    assert y.ravel().tolist() == [1.0078125]


def test_one_number_that_is_not_finite_changes_only_its_neighbours() -> None:
    x = jnp.ones((1, 8, 1)).at[0, 3].set(jnp.nan)
    for layer in (nn.resize(16, method="linear"), nn.adaptive_avg_pool(5), nn.adaptive_max_pool(5)):
        assert 0 < int(jnp.isnan(run(layer, x)).sum()) <= 4, layer


def test_of_equal_numbers_the_first_has_the_gradient() -> None:
    for layer, expected in [
        (nn.global_max_pool, [[1, 0, 0], [0, 0, 0]]),
        (nn.adaptive_max_pool((1, 2)), [[1, 1, 0], [0, 0, 0]]),  # both bins have the middle column
        (nn.max_pool2d((2, 3)), [[1, 0, 0], [0, 0, 0]]),
    ]:
        gradient = jax.grad(lambda x, layer=layer: run(layer, x).sum())(jnp.ones((1, 2, 3, 1)))
        assert gradient[0, :, :, 0].tolist() == expected, layer
    deep = jax.grad(lambda x: run(nn.max_pool3d(2), x).sum())(jnp.ones((1, 2, 2, 2, 1)))
    assert deep.ravel().tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


LAYERS = [nn.pad(1), nn.resize(3, method="linear"), nn.adaptive_avg_pool(3), nn.adaptive_max_pool(3), nn.global_max_pool]


@pytest.mark.parametrize("layer", [*LAYERS, nn.max_pool3d(2), nn.avg_pool3d(2)], ids=str)
def test_an_axis_of_inputs_and_an_empty_batch(layer: Any) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 4, 2, 4, 2), np.float32))
    np.testing.assert_allclose(jax.vmap(lambda x: run(layer, x))(x)[1], run(layer, x[1]), atol=1e-6)
    assert run(layer, x[0, :0]).shape[0] == 0


FAULTS = [
    (nn.pad(1), (2, 3), "with positions"),
    (nn.pad((1, 2)), (2, 3, 4, 4, 1), "2 axes of positions"),
    (nn.pad((0, 3), mode="reflect"), (1, 3, 1), "longer than the reflect padding"),
    (nn.pad((0, 4), mode="circular"), (1, 3, 1), "as long as the circular padding"),
    (nn.pad(1, mode="replicate"), (1, 0, 1), "at least one position"),
    (nn.resize((3, 3)), (1, 3, 1), "2 axes of positions"),
    (nn.resize(3), (1, 0, 1), "at least one position"),
    (nn.pixel_shuffle(2), (1, 3, 3, 6), "channels that 4 divides"),
    (nn.pixel_unshuffle(2), (1, 4, 3, 1), "whose length 2 divides"),
    (nn.adaptive_avg_pool((2, 2)), (1, 3, 1), "2 axes of positions"),
    (nn.adaptive_max_pool(2), (1, 3), "with positions"),
    (nn.global_max_pool, (1, 0, 2), "at least one position"),
    (nn.max_pool1d(4), (1, 3, 1), "at least 4 steps"),
    (nn.max_pool1d(2), (1, 3, 3, 1), "max_pool1d: expected sequences"),
    (nn.avg_pool3d(2), (1, 3, 1, 3, 1), "at least 2 x 2 x 2 voxels"),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), FAULTS)
def test_faults(layer: Any, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(FaultError, match=expected) as caught:
        layer.init(KEY, array_spec(shape, jnp.float32))
    assert isinstance(caught.value.fault, ShapeMismatch)


def test_wrong_dtypes_are_faults() -> None:
    cases = [(nn.resize(3, method="linear"), jnp.uint8), (nn.adaptive_avg_pool(2), jnp.int32), (nn.global_max_pool, bool)]
    for layer, dtype in [*cases, (nn.avg_pool3d(2), jnp.uint8), (nn.max_pool1d(2), bool), (nn.adaptive_max_pool(2), bool)]:
        shape = (1, 4, 4, 4, 1) if "3d" in str(layer) else (1, 4, 1)
        with pytest.raises(FaultError, match="cast first") as caught:
            layer.init(KEY, array_spec(shape, dtype))
        assert isinstance(caught.value.fault, DtypeMismatch)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.pad(()), "pad: size"),
    (lambda: nn.pad(((1, 2, 3),)), "pad: size"),  # type: ignore[arg-type]
    (lambda: nn.pad(1, mode="edge"), "pad: mode is one of 'zeros', 'reflect', 'replicate', 'circular', got 'edge'"),  # type: ignore[arg-type]
    (lambda: nn.resize(), "either size or scale"),
    (lambda: nn.resize(3, scale=2), "either size or scale"),
    (lambda: nn.resize(scale=0), "resize: scale"),
    (lambda: nn.resize(3, method="cubic"), "resize: method is 'nearest' or 'linear'"),  # type: ignore[arg-type]
    (lambda: nn.adaptive_avg_pool(()), "adaptive_avg_pool: size"),
    (lambda: nn.adaptive_max_pool((2, 0)), "adaptive_max_pool: size"),
    (lambda: nn.max_pool3d((2, 1, 2), padding=1), "padding must be less than the window"),
    (lambda: nn.avg_pool1d((2, 3)), "avg_pool1d: window is an integer from 1, got"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_arguments_are_a_value_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
