"""With 64 bits enabled, nothing is rounded to float32: losses, layers, schedules and augmentation against NumPy in float64."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, augment, loss, nn
from fnlamp.layer import abstract_init

scipy = pytest.importorskip("scipy.special", reason="scipy comes with the extra test")

RNG = np.random.default_rng(6)
X = RNG.standard_normal((7, 5))
Y = RNG.random((7, 5))
LABELS = RNG.integers(0, 5, 7)
WEIGHTS = RNG.random(5) + 0.1
IMAGES = RNG.standard_normal((2, 6, 5, 3))


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield


def near(ours, theirs, rtol=1e-14):
    assert np.asarray(ours).dtype == np.float64
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=rtol, atol=1e-15)


def logp(x):
    return x - scipy.logsumexp(x, axis=-1, keepdims=True)


def picked(x, labels=LABELS):
    return np.take_along_axis(x, labels[:, None], -1)[:, 0]


def smoothed(e, w):
    p = logp(X)
    each = -(1 - e) * w[LABELS] * picked(p) - e * (w * p).mean(-1)
    return each.sum() / w[LABELS].sum()


def bce(w):
    return -(w * Y * -np.logaddexp(0, -X) + (1 - Y) * -np.logaddexp(0, X)).mean()


def huber(b):
    d = np.abs(X - Y)
    return np.where(d < b, d * d / (2 * b), d - b / 2).mean()


LOSSES = {
    "cross_entropy": (loss.cross_entropy(), LABELS, -picked(logp(X)).mean()),
    "class weights": (loss.cross_entropy(WEIGHTS), LABELS, smoothed(0, WEIGHTS)),
    "class weights of jax": (loss.cross_entropy(WEIGHTS.tolist()), LABELS, smoothed(0, WEIGHTS)),
    "smoothed": (loss.cross_entropy(WEIGHTS, label_smoothing=0.1), LABELS, smoothed(0.1, WEIGHTS)),
    "smoothed by a scalar of NumPy": (
        loss.cross_entropy(WEIGHTS, label_smoothing=np.float64(0.1)),
        LABELS,
        smoothed(0.1, WEIGHTS),
    ),
    "nll": (loss.nll(WEIGHTS), LABELS, -(WEIGHTS[LABELS] * picked(X)).sum() / WEIGHTS[LABELS].sum()),
    "mse": (loss.mse(), Y, np.square(X - Y).mean()),
    "smooth_l1": (loss.smooth_l1(0.3), Y, huber(0.3)),
    "bce": (loss.bce_with_logits(), Y, bce(1)),
    "bce, weighted": (loss.bce_with_logits(WEIGHTS), Y, bce(WEIGHTS)),
    "bce, weighted by one": (loss.bce_with_logits(0.1), Y, bce(0.1)),
    "identity": (loss.identity(), None, X.mean()),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "compiled"])
@pytest.mark.parametrize(("made", "target", "expected"), LOSSES.values(), ids=LOSSES)
def test_losses(made, target, expected, how):
    value = how(made)(jnp.asarray(X), target)
    assert (value.total.dtype, value.weight.dtype) == (jnp.float64, jnp.float64)
    near(value.mean, expected)


@pytest.mark.parametrize("metric", [loss.accuracy, loss.binary_accuracy(0.1)], ids=repr)
def test_counts(metric):
    target = LABELS if metric is loss.accuracy else X > 0.1
    value = metric(jnp.asarray(X), target)
    right = np.argmax(X, -1) == LABELS if metric is loss.accuracy else np.ones((7, 5))
    near(value.total, right.sum())
    near(value.mean, right.mean())


def norm(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def pooled(x, f, size=2):
    b, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size].reshape(b, h // size, size, w // size, size, c)
    return f(f(x, 4), 2)


def erf_gelu(x):
    return x * scipy.ndtr(x)


LAYERS = {
    "batch_norm": (nn.batch_norm(eps=1e-3), X, norm(X, 0, 1e-3)),
    "layer_norm": (nn.layer_norm(eps=np.float64(1e-3)), X, norm(X, 1, 1e-3)),
    "max_pool2d": (nn.max_pool2d(2), IMAGES, pooled(IMAGES, np.max)),
    "avg_pool2d": (nn.avg_pool2d(2), IMAGES, pooled(IMAGES, np.mean)),
    "global_avg_pool": (nn.global_avg_pool, IMAGES, IMAGES.mean((1, 2))),
    "rescale": (nn.rescale(1 / 255, 0.1), X, X / 255 + 0.1),
    "rescale of pixels": (nn.rescale(1 / 255), LABELS.astype(np.uint8), LABELS / 255),
    "rescale by scalars of NumPy": (nn.rescale(np.float64(1 / 3)), X, X / 3),
    "standardize": (nn.fun(augment.standardize((0.1, 0.2, 0.3), 3 * (0.7,))), IMAGES, (IMAGES - [0.1, 0.2, 0.3]) / 0.7),
    "gelu": (nn.gelu, X, erf_gelu(X)),
    "gelu_tanh": (nn.gelu_tanh, X, 0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))),
    "silu": (nn.silu, X, X * scipy.expit(X)),
    "hard_swish": (nn.hard_swish, X, X * np.clip(X + 3, 0, 6) / 6),
    "sigmoid": (nn.sigmoid, X, scipy.expit(X)),
    "tanh": (nn.tanh, X, np.tanh(X)),
    "leaky_relu": (nn.leaky_relu, X, np.where(X > 0, X, 0.01 * X)),
    "elu": (nn.elu, X, np.where(X > 0, X, np.expm1(X))),
    "softplus": (nn.softplus, X, np.logaddexp(X, 0)),
    "softmax": (nn.softmax, X, np.exp(logp(X))),
    "log_softmax": (nn.log_softmax, X, logp(X)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "x", "expected"), LAYERS.values(), ids=LAYERS)
def test_layers_without_weights(layer, x, expected):
    made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    near(layer.apply(made.params, made.state, jnp.asarray(x), Train(jax.random.key(1)))[0], expected, rtol=2e-14)


WEIGHTED = {
    "linear": (nn.linear(3), X),
    "linear as torch": (nn.linear(3, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform), X),
    "conv2d": (nn.conv2d(4, 3, padding=1), IMAGES),
    "lstm": (nn.lstm(3), IMAGES[0]),
    "self_attention": (nn.self_attention(1, mask=nn.causal), IMAGES[0]),
    "mlp": (nn.mlp(hidden=(4,), out=2, norm=None), X),
}


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "x"), WEIGHTED.values(), ids=WEIGHTED)
def test_initialisers_have_all_digits(layer, x):
    made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    for leaf in jax.tree.leaves(made.params):
        assert leaf.dtype == jnp.float64
        assert not leaf.any() or (np.unique(leaf).size <= 2) or (np.asarray(leaf, np.float32) != np.asarray(leaf)).any()
    y, _ = jax.eval_shape(layer.apply, made.params, made.state, jnp.asarray(x), Eval())
    assert y.dtype == jnp.float64


def test_linear_convolution_and_attention():
    x, w, b = X, RNG.standard_normal((5, 3)), RNG.standard_normal(3)
    near(
        nn.linear(3).apply({"weight": jnp.asarray(w), "bias": jnp.asarray(b)}, {}, jnp.asarray(x), Eval())[0], x @ w + b, 1e-13
    )
    kernel = RNG.standard_normal((3, 2, 3, 4))
    seen = np.lib.stride_tricks.sliding_window_view(IMAGES, (3, 2), (1, 2))
    expected = np.einsum("bijchw,hwco->bijo", seen, kernel)
    near(
        nn.conv2d(4, (3, 2), bias=False).apply({"weight": jnp.asarray(kernel)}, {}, jnp.asarray(IMAGES), Eval())[0],
        expected,
        1e-13,
    )
    qkv, out = RNG.standard_normal((3, 9)), RNG.standard_normal((3, 3))
    q, k, v = np.split(IMAGES[0] @ qkv, 3, -1)
    scores = np.einsum("btd,bsd->bts", q, k) / np.sqrt(3)
    expected = np.einsum("bts,bsd->btd", np.exp(logp(scores)), v) @ out
    params = {"input": {"weight": jnp.asarray(qkv)}, "output": {"weight": jnp.asarray(out)}}
    near(nn.self_attention(1, bias=False).apply(params, {}, jnp.asarray(IMAGES[0]), Eval())[0], expected, 1e-12)


def test_lstm():
    w, r, b = RNG.standard_normal((3, 8)), RNG.standard_normal((2, 8)), RNG.standard_normal(8)
    h, c, states = np.zeros((6, 2)), np.zeros((6, 2)), []
    for t in range(5):
        i, f, g, o = np.split(IMAGES[0][:, t] @ w + h @ r + b, 4, -1)
        c = scipy.expit(f) * c + scipy.expit(i) * np.tanh(g)
        h = scipy.expit(o) * np.tanh(c)
        states.append(h)
    params = {"input_weight": jnp.asarray(w), "recurrent_weight": jnp.asarray(r), "bias": jnp.asarray(b)}
    near(nn.lstm(2).apply(params, {}, jnp.asarray(IMAGES[0]), Eval())[0], np.stack(states, 1), 1e-12)


@pytest.mark.parametrize("rate", [0.1, np.float64(0.3), np.float32(0.3), jnp.float32(0.7)], ids=str)
def test_dropout_divides_by_the_exact_share(rate):
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        x = jnp.asarray(X, dtype)
        y, _ = nn.dropout(rate).apply({}, {}, x, Train(jax.random.key(3)))
        assert y.dtype == dtype
    y, _ = nn.dropout(rate).apply({}, {}, jnp.asarray(X), Train(jax.random.key(3)))
    near(y, np.where(np.asarray(y) != 0, X / (1 - float(rate)), 0))


def test_running_moments_of_batch_norm():
    layer = nn.batch_norm(decay=np.float64(0.9))
    made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(X.shape, X.dtype))
    state = layer.apply(made.params, made.state, jnp.asarray(X), Train(jax.random.key(1)))[1]
    near(state["mean"], 0.1 * X.mean(0))
    near(state["variance"], 0.9 + 0.1 * X.var(0, ddof=1))


def test_float32_stays_float32():
    """Enabling 64 bits for something else widens no layer and no loss."""
    mode = Train(jax.random.key(1))
    for layer, x in [*((layer, x) for layer, x, _ in LAYERS.values() if x.dtype == np.float64), *WEIGHTED.values()]:
        spec = jax.ShapeDtypeStruct(x.shape, jnp.float32)
        made = abstract_init(layer, spec)
        y, state = jax.eval_shape(layer.apply, made.params, made.state, spec, mode)
        assert {leaf.dtype for leaf in jax.tree.leaves((y, state, made.params, made.state))} == {np.dtype(np.float32)}, layer
    for made, target, _ in LOSSES.values():
        assert jax.eval_shape(lambda x, m=made, t=target: m(x, t).mean, jnp.zeros((7, 5), jnp.float32)).dtype == jnp.float32
