"""conv2d and conv_pool."""

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
from fnlamp.nn.lowering import im2col, images
from fnlamp.nn.lowering.window import Window
from fnlamp.tag import Matrix, Role, Tag

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def pulled(function: Callable[..., jax.Array], *at: jax.Array) -> tuple[jax.Array, ...]:
    """The value and the gradients, as one program."""
    y = jax.eval_shape(function, *at)
    upstream = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)

    def both(*at: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *at)
        return (y, *pull(upstream))

    return jax.jit(both)(*at)


def near(ours: Any, theirs: Any, rtol: float = 1e-5) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=rtol * (1 + np.abs(b).max()))


def test_numbers() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None], "bias": jnp.array([0.5])}
    y, state = nn.conv2d(1, 2).apply(params, {}, x, Eval())
    assert y[0, :, :, 0].tolist() == [[27.5, 37.5], [57.5, 67.5]]  # 1 0 + 2 1 + 3 3 + 4 4 + 0.5
    assert state == {}


def test_numbers_with_pooling() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None], "bias": jnp.array([0.5])}
    assert nn.conv_pool(1, 2).apply(params, {}, x, Eval())[0].tolist() == [[[[67.5]]]]
    params["bias"] = jnp.array([-70.0])
    assert nn.conv_pool(1, 2).apply(params, {}, x, Eval())[0].tolist() == [[[[0.0]]]]


def test_params_and_tags() -> None:
    made = nn.conv2d(6, (3, 5), groups=2, padding="same").init(KEY, array_spec((1, 8, 9, 4), jnp.float32))
    assert {name: leaf.shape for name, leaf in made.params.items()} == {"weight": (3, 5, 2, 6), "bias": (6,)}
    assert made.tags == {
        "weight": Tag("conv2d", Role.WEIGHT, matrix=Matrix((0, 1, 2), (3,), 2)),
        "bias": Tag("conv2d", Role.BIAS),
    }
    assert made.spec.shape == (1, 8, 9, 6)
    without = nn.conv_pool(4, 3, bias=False).init(KEY, array_spec((1, 8, 9, 2), jnp.float32))
    assert without.tags == {"weight": Tag("conv_pool", Role.WEIGHT, matrix=Matrix((0, 1, 2), (3,)))}
    assert without.spec.shape == (1, 3, 3, 4)
    depthwise = nn.conv2d(8, 3, groups=4).init(KEY, array_spec((1, 8, 9, 4), jnp.float32))
    assert depthwise.tags["weight"].matrix is None


def test_initialisers_get_the_number_of_inputs_of_an_output() -> None:
    layer = nn.conv2d(500, 4, groups=2, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)
    params = layer.init(KEY, array_spec((1, 8, 8, 8), jnp.float32)).params
    for leaf in params.values():  # 4 x 4 pixels of 4 channels: 1 / sqrt(64)
        assert float(jnp.abs(leaf).max()) == pytest.approx(1 / 8, rel=0.02)


GRID = [  # and against torch in tests/parity
    # image, kernel, stride, padding, dilation, groups
    ((9, 8), (2, 3), (2, 2), "same", (1, 1), 1),
    ((9, 10), (3, 2), (1, 2), ((2, 1), (0, 3)), (2, 3), 1),
    pytest.param((6, 5), (1, 1), (1, 1), 0, (1, 1), 1, marks=pytest.mark.slow),
    pytest.param((7, 8), (3, 3), (2, 2), "same", (2, 1), 4, marks=pytest.mark.slow),
]


@pytest.mark.broad
@pytest.mark.parametrize(("image", "kernel", "stride", "padding", "dilation", "groups"), GRID)
def test_both_forms_agree_in_values_and_gradients(image, kernel, stride, padding, dilation, groups) -> None:  # type: ignore[no-untyped-def]
    window = Window(kernel, stride, dilation, padding)
    x, weight, bias = normal(2, *image, 4), normal(*kernel, 4 // groups, 8), normal(8)
    ours = pulled(lambda *at: images.convolve(*at, window, groups), x, weight, bias)
    near(ours, pulled(lambda *at: images.native_convolve(*at, window, groups), x, weight, bias))
    layer = nn.conv2d(8, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert layer.init(KEY, array_spec(x.shape, x.dtype)).spec.shape == ours[0].shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "channels", "kernel", "pool", "padding"),
    [
        ((9, 11), 2, (3, 5), (2, 2), 0),  # the last row and column do not fill a pool
        pytest.param((11, 8), 3, (4, 3), (3, 2), "same", marks=pytest.mark.slow),
        ((8, 8), 1, (4, 4), (2, 2), 1),  # an even kernel: convolution, then pooling
        ((7, 6), 70, (3, 3), (2, 2), ((1, 0), (2, 1))),  # many channels: convolution, then pooling
        pytest.param((6, 7), 2, (1, 1), (2, 3), 0, marks=pytest.mark.slow),
    ],
)
def test_conv_pool_is_convolution_pooling_and_relu(image, channels, kernel, pool, padding) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = normal(3, *image, channels), normal(*kernel, channels, 4), normal(4)
    layer, window, pools = (
        nn.conv_pool(4, kernel, pool=pool, padding=padding),
        Window(kernel, padding=padding),
        Window(pool, pool),
    )

    def ours(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        y: jax.Array = layer.apply({"weight": weight, "bias": bias}, {}, x, Eval())[0]
        return y

    def apart(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        return images.max_pool(jax.nn.relu(images.native_convolve(x, weight, bias, window)), pools)

    y, *gradients = pulled(ours, x, weight, bias)
    near((y, *gradients), pulled(apart, x, weight, bias))
    assert layer.init(KEY, array_spec(x.shape, x.dtype)).spec.shape == y.shape


@pytest.mark.parametrize("pool", [(2, 2), pytest.param((4, 1), marks=pytest.mark.slow)])
def test_all_phases_at_once_equal_convolution_and_max_pooling(pool) -> None:  # type: ignore[no-untyped-def]
    x, weight = normal(3, 13, 14, 5), normal(5, 5, 3, 4)

    def apart(x: jax.Array, weight: jax.Array) -> jax.Array:
        return im2col.max_pool(im2col.convolve(x, weight, Window((5, 5))), Window(pool, pool))

    near(pulled(lambda x, w: im2col.convolve_pooled(x, w, pool), x, weight), pulled(apart, x, weight))


def test_among_equal_phases_the_first_has_the_gradient_and_nan_is_seen() -> None:
    weight = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    grad = jax.jit(jax.grad(lambda x: im2col.convolve_pooled(x, weight, (2, 2)).sum()))
    assert grad(jnp.ones((1, 4, 4, 1)))[0, :, :, 0].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert jnp.isnan(im2col.convolve_pooled(jnp.ones((1, 4, 4, 1)).at[0, 2, 1].set(jnp.nan), weight, (2, 2))).all()


def test_recomputed_patches_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = normal(3, 8, 8, 2), normal(3, 3, 3, 4)
    kept = pulled(lambda *at: im2col.convolve(*at, Window((3, 3))), x, weight)
    monkeypatch.setattr(im2col, "KEPT", 0)
    near(kept, pulled(lambda *at: im2col.convolve(*at, Window((3, 3))), x, weight), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.conv2d(3, 2), nn.conv_pool(3, 3)], ids=str)
def test_derivatives_of_derivatives_forward_and_in_reverse(layer: Any) -> None:
    made = layer.init(KEY, array_spec((2, 6, 6, 2), jnp.float32))
    x, along = normal(2, 6, 6, 2), normal(2, 6, 6, 2)

    def objective(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer.apply(made.params, {}, x, Eval())[0]))

    def slope(x: jax.Array) -> jax.Array:
        return jax.jvp(objective, (x,), (along,))[1]

    def three_ways(x: jax.Array) -> list[jax.Array]:
        forward = jax.jvp(jax.grad(objective), (x,), (along,))[1]
        return [forward, jax.grad(slope)(x), jax.grad(lambda x: jnp.vdot(jax.grad(objective)(x), along))(x)]

    forward, *others = jax.jit(three_ways)(x)
    assert np.abs(forward).max() > 0.01
    near(others, [forward, forward])


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.conv2d(4, 2, groups=2), nn.conv_pool(4, 3)], ids=str)
def test_an_axis_of_models_and_an_empty_batch(layer: Any) -> None:
    spec = array_spec((2, 6, 6, 2), jnp.float32)
    params = jax.jit(jax.vmap(lambda key: layer.init(key, spec).params))(jax.random.split(KEY, 3))
    x = normal(3, 2, 6, 6, 2)

    def total(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer.apply(params, {}, x, Eval())[0]))

    gradient = jax.jit(jax.grad(total))
    together = jax.jit(jax.vmap(jax.grad(total)))(params, x)
    for i in range(3):
        alone = gradient(jax.tree.map(lambda leaf, i=i: leaf[i], params), x[i])
        near([leaf[i] for leaf in jax.tree.leaves(together)], jax.tree.leaves(alone))
    nothing = gradient(jax.tree.map(lambda leaf: leaf[0], params), x[0, :0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


@pytest.mark.parametrize("layer", [nn.conv2d(4, 3), nn.conv_pool(4, 3)], ids=str)
def test_it_computes_in_the_dtype_of_the_weight(layer: Any) -> None:
    made = layer.init(KEY, array_spec((2, 6, 6, 2), jnp.bfloat16))
    assert made.spec.dtype == made.params["weight"].dtype == jnp.bfloat16
    x, apply = normal(2, 6, 6, 2), jax.jit(layer.apply)
    y = apply(made.params, {}, x, Eval())[0]
    assert y.dtype == jnp.bfloat16
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), made.params)
    near([y], [apply(wide, {}, x, Eval())[0]], 0.02)


@pytest.mark.slow
def test_a_training_loop_has_no_xla_convolution_and_no_transpose_between_layers() -> None:
    model = nn.conv_pool(4, 5) >> nn.conv_pool(6, 3)
    made = model.init(KEY, array_spec((8, 16, 16, 1), jnp.float32))

    x = normal(8, 16, 16, 1)

    def step(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        i, params = carry
        grads = jax.grad(lambda p: model.apply(p, {}, x, Eval())[0].var())(params)
        return i + 1, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    loop = jax.jit(lambda params: jax.lax.while_loop(lambda carry: carry[0] < 3, step, (0, params)))
    text = loop.lower(made.params).compile().as_text()
    assert " convolution(" not in text
    assert " transpose(" in text  # of weights, and of pixels into channels
    assert not [line for line in text.splitlines() if " transpose(" in line and "dimensions={3,1,2,0}" in line]


def test_the_gradient_of_the_data_is_not_computed_if_it_is_not_used() -> None:
    layer = nn.conv2d(4, 3)
    made = layer.init(KEY, array_spec((8, 16, 16, 3), jnp.float32))

    def objective(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(layer.apply(params, {}, x, Eval())[0] ** 2)

    gradients = [
        str(jax.make_jaxpr(jax.grad(objective, argnums))(made.params, normal(8, 16, 16, 3))).count("conv2d_images[")
        for argnums in (0, (0, 1))
    ]
    assert gradients == [0, 1]


def test_faults() -> None:
    spec = array_spec((2, 8, 8, 4), jnp.float32)
    made = nn.conv2d(4, 3).init(KEY, spec)
    for layer, x, expected in [
        (nn.conv2d(4, 3), array_spec((2, 8, 8), jnp.float32), r"conv2d: expected images \(batch, height, width, channels\)"),
        (nn.conv2d(4, 9), spec, r"at least 9 x 9 pixels, the window's, after padding, got 8 x 8 of float32"),
        (nn.conv2d(4, 3, dilation=4), spec, r"at least 9 x 9 pixels"),
        (nn.conv2d(9, 3, groups=3), spec, r"images whose channels 3 groups divide, got float32\[2, 8, 8, 4\]"),
        (nn.conv_pool(4, 5, pool=5), spec, r"conv_pool: expected at least 5 x 5 pixels"),
        (nn.conv_pool(4, 9), spec, r"conv_pool: expected at least 9 x 9 pixels"),
    ]:
        with pytest.raises(FaultError, match=expected) as caught:
            layer.init(KEY, x)
        assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(FaultError, match=r"images of 4 channels, the last axis, got float32\[2, 4, 8, 8\]"):
        nn.conv2d(4, 3).apply(made.params, {}, jnp.ones((2, 4, 8, 8)), Eval())
    for layer in (nn.conv2d(4, 3), nn.conv_pool(4, 3)):
        with pytest.raises(FaultError, match="cast first, as nn.rescale") as caught:
            layer.init(KEY, array_spec((2, 8, 8, 4), jnp.uint8))
        assert isinstance(caught.value.fault, DtypeMismatch)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.conv2d(0, 3), "at least one output channel, got channels=0"),
    (lambda: nn.conv2d(4, 3, groups=3), "output channels that groups divides, got 4 and groups=3"),
    (lambda: nn.conv2d(4, 0), "conv2d: kernel is an integer from 1"),
    (lambda: nn.conv2d(4, (3, 3, 3)), "conv2d: kernel"),  # type: ignore[arg-type]
    (lambda: nn.conv2d(4, 3, stride=0), "conv2d: stride"),
    (lambda: nn.conv2d(4, 3, dilation=(1, 0)), "conv2d: dilation"),
    (lambda: nn.conv2d(4, 3, padding=-1), "conv2d: padding"),
    (lambda: nn.conv2d(4, 3, padding="full"), "conv2d: padding"),  # type: ignore[arg-type]
    (lambda: nn.conv2d(4, 3, padding=(1, 2, 3)), "conv2d: padding"),  # type: ignore[arg-type]
    (lambda: nn.conv_pool(0, 3), "at least one output channel"),
    (lambda: nn.conv_pool(4, 3, pool=0), "conv_pool: pool"),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_sizes_are_a_value_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_names() -> None:
    assert str(nn.conv2d(8, (3, 5), stride=2)) == "conv2d(8, (3, 5), stride=2)"
    assert str(nn.conv_pool(8, 3) >> nn.conv_pool(8, 3, pool=3)) == "conv_pool(8, 3) >> conv_pool(8, 3, pool=3)"
