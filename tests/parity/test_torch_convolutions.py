"""Convolution, pooling, padding and resizing against torch in float32, values and gradients: at most 1e-5 apart, relative."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from fnlamp import Eval, nn
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError
from fnlamp.nn.lowering import volumes
from fnlamp.nn.lowering.resample import nearest_positions

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

F = torch.nn.functional
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def near(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(initial=0), 1e-3))


def leaf(x):
    return torch.tensor(np.asarray(x), requires_grad=True)


def check(layer, theirs, x, params=None):
    """`theirs(params, x)` takes channels second and weights as ours; one upstream gradient for both."""
    params = params or {}
    given, tx = jax.tree.map(leaf, params), leaf(x)
    ty = theirs(given, tx.movedim(-1, 1)).movedim(1, -1)
    upstream = normal(*ty.shape)
    ty.backward(torch.tensor(upstream))

    @jax.jit
    def both(params, x, upstream):
        y, pull = jax.vjp(lambda p, x: layer.apply(p, {}, x, Eval())[0], params, x)
        return y, *pull(upstream)

    y, grads, dx = both(params, x, upstream)
    assert layer.init(KEY, array_spec(x.shape, x.dtype)).spec.shape == y.shape
    near(y, ty)
    near(dx, tx.grad)
    jax.tree.map(lambda ours, theirs: near(ours, theirs.grad), grads, given)


def weight_and_bias(*shape):
    return {"weight": normal(*shape) / np.float32(np.sqrt(np.prod(shape[:-1]))), "bias": normal(shape[-1])}


slow = pytest.mark.slow

# ------------------------------------------------------------------------------- convolution

CONVOLUTIONS = [
    ((3, 11), 3, {}),
    pytest.param((1, 7), 3, {"stride": 5, "padding": 1}, marks=slow),  # the stride is larger than the kernel
    pytest.param((2, 1), 1, {}, marks=slow),  # length 1
    pytest.param((2, 9), 4, {"dilation": 2, "padding": 3, "groups": 2}, marks=slow),
    ((2, 4, 5, 6), (2, 3, 3), {"padding": (1, 0, 2), "stride": (1, 2, 1)}),
    pytest.param((1, 5, 4, 3), (3, 1, 2), {"dilation": (2, 1, 1), "stride": (2, 1, 2)}, marks=slow),
    pytest.param((2, 5, 6, 5), (3, 3, 3), {"groups": 2, "padding": 1}, marks=slow),
    pytest.param((2, 4, 6, 5), (2, 3, 2), {"groups": 4, "padding": 1, "stride": 2}, marks=slow),
    pytest.param((2, 1, 1, 1), 1, {}, marks=slow),
]


@pytest.mark.parametrize(("size", "kernel", "options"), CONVOLUTIONS)
def test_conv1d_and_conv3d(size, kernel, options):
    n, groups = len(size) - 1, options.get("groups", 1)
    layer = {1: nn.conv1d, 3: nn.conv3d}[n](8, kernel, **options)
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * n
    function = {1: F.conv1d, 3: F.conv3d}[n]
    check(
        layer,
        lambda p, x: function(x, p["weight"].permute(n + 1, n, *range(n)), p["bias"], **options),
        normal(*size, 4),
        weight_and_bias(*sizes, 4 // groups, 8),
    )


def test_both_forms_of_conv3d(monkeypatch):
    """The kernel's depth as channels of images, and the one operation of XLA."""
    options = {"padding": (1, 2, 1), "dilation": (2, 1, 1), "groups": 2}
    params, x = weight_and_bias(2, 3, 2, 2, 6), normal(2, 5, 4, 5, 4)
    layer = nn.conv3d(6, (2, 3, 2), **options)
    check(layer, lambda p, x: F.conv3d(x, p["weight"].permute(4, 3, 0, 1, 2), p["bias"], **options), x, params)
    ours = layer.apply(params, {}, x, Eval())[0]
    monkeypatch.setattr(volumes, "platform", lambda: "gpu")
    np.testing.assert_allclose(layer.apply(params, {}, x, Eval())[0], ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, pytest.param({"stride": 2, "dilation": (1, 2), "multiplier": 3}, marks=slow)], ids=str
)
def test_depthwise_conv2d(options):
    times = options.get("multiplier", 1)
    theirs = {name: value for name, value in options.items() if name != "multiplier"} | {"groups": 4}
    check(
        nn.depthwise_conv2d(3, **options),
        lambda p, x: F.conv2d(x, p["weight"].permute(3, 2, 0, 1), p["bias"], **theirs),
        normal(2, 7, 8, 4),
        weight_and_bias(3, 3, 1, 4 * times),
    )


TRANSPOSED = [
    # size, kernel, options
    ((3, 5), 4, {"stride": 2, "padding": 1}),
    pytest.param((1, 1), 3, {}, marks=slow),
    pytest.param((2, 4), 2, {"stride": 5, "output_padding": 3}, marks=slow),  # gaps, and more at the end
    pytest.param((2, 4), 2, {"padding": 3, "stride": 3}, marks=slow),  # padding larger than the kernel
    pytest.param((2, 5), 3, {"dilation": 3, "stride": 2, "padding": 2, "output_padding": 2, "groups": 2}, marks=slow),
    pytest.param((2, 3), 2, {"dilation": 4, "output_padding": 3}, marks=slow),  # beyond the last tap
    ((2, 3, 4), (3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    pytest.param((1, 7, 5), 3, {"padding": 1}, marks=slow),
    pytest.param((2, 5, 4), (4, 3), {"stride": (3, 1), "dilation": (1, 2), "groups": 4, "padding": (2, 1)}, marks=slow),
    pytest.param((2, 4, 4), 3, {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}, marks=slow),
    pytest.param((2, 3, 2, 3), (2, 3, 4), {"stride": 2, "padding": (0, 1, 1), "output_padding": (1, 0, 1)}, marks=slow),
    pytest.param((1, 2, 3, 2), 3, {"stride": (1, 2, 3), "dilation": (2, 1, 1), "groups": 2, "padding": 1}, marks=slow),
]


@pytest.mark.parametrize(("size", "kernel", "options"), TRANSPOSED)
def test_transposed_convolution(size, kernel, options):
    n, groups = len(size) - 1, options.get("groups", 1)
    layer = (nn.conv_transpose1d, nn.conv_transpose2d, nn.conv_transpose3d)[n - 1](8, kernel, **options)
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * n
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]

    def theirs(p, x):
        """torch's weight is (in, out / groups, sizes), the inputs of a group one after the other."""
        weight = p["weight"].reshape(*sizes, 4 // groups, groups, 8 // groups)
        weight = weight.permute(n + 1, n, n + 2, *range(n)).reshape(4, 8 // groups, *sizes)
        return function(x, weight, p["bias"], **options)

    check(layer, theirs, normal(*size, 4), weight_and_bias(*sizes, 4 // groups, 8))


# ------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    "mode", ["zeros", "reflect", pytest.param("replicate", marks=slow), pytest.param("circular", marks=slow)]
)
@pytest.mark.parametrize(
    ("size", "widths"),
    [((2, 5, 4), ((2, 1), (0, 3))), pytest.param((1, 4), ((3, 2),), marks=slow), pytest.param((2, 3, 2, 4), 1, marks=slow)],
)
def test_pad(mode, size, widths):
    theirs = {"zeros": "constant"}.get(mode, mode)
    sides = widths if isinstance(widths, tuple) else (((widths,) * 2),) * (len(size) - 1)
    flat = [n for side in reversed(sides) for n in side]
    check(nn.pad(widths, mode=mode), lambda p, x: F.pad(x, flat, mode=theirs), normal(*size, 3))


@pytest.mark.parametrize(("mode", "most"), [("reflect", 3), ("circular", 4)])
def test_where_torch_refuses_padding_so_does_pad(mode, most):
    x = normal(1, 4, 6, 2)
    for width in (most, most + 1):
        ours = theirs = "taken"
        try:
            nn.pad(((width, 0), (0, 1)), mode=mode).apply({}, {}, x, Eval())
        except FaultError:
            ours = "refused"
        try:
            F.pad(torch.tensor(x).movedim(-1, 1), (0, 1, width, 0), mode=mode)
        except RuntimeError:
            theirs = "refused"
        assert (ours, theirs) == (("taken",) * 2 if width == most else ("refused",) * 2)


# ------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize(
    ("size", "window", "options"),
    [
        ((2, 9), 3, {"stride": 2, "padding": 1}),
        pytest.param((1, 4), 1, {"stride": 3}, marks=slow),
        ((2, 4, 5, 6), (2, 3, 2), {"stride": (1, 2, 2), "padding": (1, 1, 0)}),
        pytest.param((1, 2, 2, 2), 2, {}, marks=slow),
    ],
)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_with_ties(kind, size, window, options):
    n = len(size) - 1
    theirs = getattr(F, f"{kind}_pool{n}d")
    x = RNG.integers(0, 3, (*size, 3)).astype(np.float32)  # many are equal
    check(getattr(nn, f"{kind}_pool{n}d")(window, **options), lambda p, x: theirs(x, window, **options), x)


@pytest.mark.parametrize(
    ("size", "bins"),
    [
        ((2, 7, 6), (3, 2)),
        pytest.param((1, 11), 4, marks=slow),
        pytest.param((1, 5, 3), (1, 5), marks=slow),  # more bins than positions
        pytest.param((2, 5, 4, 7), (2, 4, 3), marks=slow),
        pytest.param((2, 6, 8), 1, marks=slow),
    ],
)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pooling_with_ties(kind, size, bins):
    n = len(size) - 1
    theirs = getattr(F, f"adaptive_{kind}_pool{n}d")
    x = RNG.integers(0, 3, (*size, 3)).astype(np.float32)
    check(getattr(nn, f"adaptive_{kind}_pool")(bins), lambda p, x: theirs(x, bins), x)


@pytest.mark.parametrize("kind", ["max", pytest.param("avg", marks=slow)])
def test_global_pooling(kind):
    x = RNG.integers(0, 3, (2, 3, 4, 2)).astype(np.float32)
    layer = {"max": nn.global_max_pool, "avg": nn.global_avg_pool}[kind]
    theirs = getattr(F, f"adaptive_{kind}_pool2d")
    check(layer, lambda p, x: theirs(x, 1)[..., 0, 0], x)


# ------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((2, 5, 4), (7, 3)),
        pytest.param((1, 3), (7,), marks=slow),
        pytest.param((2, 1, 3), (4, 1), marks=slow),
        pytest.param((1, 2, 3, 4), (5, 3, 2), marks=slow),
        pytest.param((1, 9, 8), (3, 16), marks=slow),
    ],
)
@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_resize(method, size, to):
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(to)]
    theirs = {"mode": "nearest-exact"} if method == "nearest" else {"mode": linear, "align_corners": False}
    check(nn.resize(to, method=method), lambda p, x: F.interpolate(x, to, **theirs), normal(*size, 3))


@pytest.mark.parametrize("method", ["nearest", pytest.param("linear", marks=slow)])
def test_resize_by_a_scale(method):
    theirs = {"mode": "nearest"} if method == "nearest" else {"mode": "bilinear", "align_corners": False}
    check(nn.resize(scale=3, method=method), lambda p, x: F.interpolate(x, scale_factor=3, **theirs), normal(2, 5, 4, 3))


def test_nearest_is_that_of_torch_for_every_pair_of_lengths():
    for old in range(1, 14):
        x = torch.arange(old, dtype=torch.float32).reshape(1, 1, old)
        for new in range(1, 30):
            theirs = F.interpolate(x, new, mode="nearest-exact").ravel()
            np.testing.assert_array_equal(nearest_positions(old, new), theirs, f"{old} to {new}")


def test_pixel_shuffle_and_its_inverse():
    check(nn.pixel_shuffle(3), lambda p, x: F.pixel_shuffle(x, 3), normal(2, 2, 3, 18))
    check(nn.pixel_unshuffle(2), lambda p, x: F.pixel_unshuffle(x, 2), normal(2, 4, 6, 3))
