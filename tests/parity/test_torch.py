"""Against torch in float32: at most 1e-5 apart, values and gradients alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.unsafe import unsafe_perform_io

from fnlamp import Eval, Train, loss, nn, optim, stream, train
from fnlamp.effect import Runtime

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape, scale=2.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def near(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=0, atol=1e-5)


def leaf(x):
    return torch.tensor(x, requires_grad=True)


# ------------------------------------------------------------------------------- losses


LABELS = RNG.integers(0, 5, 40)
IGNORING = np.where(np.arange(40) % 7 == 0, -100, LABELS)
WEIGHTS = RNG.uniform(0.2, 3, 5).astype(np.float32)
LOGITS = normal(40, 5)


@pytest.mark.parametrize("labels", [LABELS, IGNORING], ids=["all", "ignoring"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(labels, weights, smoothing):
    ours = loss.cross_entropy(weights, label_smoothing=smoothing)
    theirs = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), label_smoothing=smoothing)
    check_loss(ours, theirs, LOGITS, labels.astype(np.int32), torch.tensor(labels))


@pytest.mark.parametrize("labels", [LABELS, IGNORING], ids=["all", "ignoring"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_nll(labels, weights):
    logp = torch.log_softmax(torch.tensor(LOGITS), -1).numpy()
    theirs = torch.nn.NLLLoss(None if weights is None else torch.tensor(weights))
    check_loss(loss.nll(weights), theirs, logp, labels.astype(np.int32), torch.tensor(labels))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (loss.mse(), torch.nn.MSELoss()),
        (loss.smooth_l1(), torch.nn.SmoothL1Loss()),
        (loss.smooth_l1(0.3), torch.nn.SmoothL1Loss(beta=0.3)),
        (loss.bce_with_logits(), torch.nn.BCEWithLogitsLoss()),
        (loss.bce_with_logits(WEIGHTS), torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS))),
    ],
    ids=str,
)
def test_losses_of_numbers(ours, theirs):
    target = RNG.uniform(0, 1, (40, 5)).astype(np.float32)
    check_loss(ours, theirs, LOGITS, target, torch.tensor(target))


def check_loss(ours, theirs, prediction, target, torch_target):
    value, gradient = jax.value_and_grad(lambda p: ours(p, jnp.asarray(target)).mean)(jnp.asarray(prediction))
    x = leaf(prediction)
    expected = theirs(x, torch_target)
    expected.backward()
    near(value, expected)
    near(gradient, x.grad)


# ------------------------------------------------------------------------------- layers

F = torch.nn.functional
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hard_swish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_gradients(name):
    x = np.linspace(-6.03, 6.03, 240, dtype=np.float32).reshape(24, 10)  # no value is at a kink
    layer, upstream = getattr(nn, name), RNG.choice([-1.0, 1.0], (24, 10)).astype(np.float32)
    ours, pull = jax.vjp(lambda v: layer.apply({}, {}, v, Eval())[0], jnp.asarray(x))
    tx = leaf(x)
    theirs = ACTIVATIONS[name](tx)
    theirs.backward(torch.tensor(upstream))
    near(ours, theirs)
    near(pull(jnp.asarray(upstream))[0], tx.grad)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_both_modes_with_gradients_and_running_moments(training):
    layer, theirs = nn.batch_norm(decay=0.8, eps=1e-5), torch.nn.BatchNorm1d(6, momentum=0.2, eps=1e-5)
    scale, shift = normal(6), normal(6)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(scale))
        theirs.bias.copy_(torch.tensor(shift))
    params = {"scale": jnp.asarray(scale), "shift": jnp.asarray(shift)}
    state = layer.init(KEY, jax.ShapeDtypeStruct((16, 6), jnp.float32)).state
    for _ in range(5):  # move the running moments
        warm = normal(16, 6) + 1
        state = layer.apply(params, state, jnp.asarray(warm), Train(KEY))[1]
        theirs(torch.tensor(warm))
    near(state["mean"], theirs.running_mean)
    near(state["variance"], theirs.running_var)
    theirs.train(training)
    mode = Train(KEY) if training else Eval()
    check_layer(lambda p, v: layer.apply(p, state, v, mode)[0], theirs, params, normal(16, 6) + 1)


def test_layer_norm_with_gradients():
    layer, theirs = nn.layer_norm(), torch.nn.LayerNorm(6)
    params = {"scale": jnp.asarray(normal(6)), "shift": jnp.asarray(normal(6))}
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(np.asarray(params["scale"])))
        theirs.bias.copy_(torch.tensor(np.asarray(params["shift"])))
    for mode in (Train(KEY), Eval()):
        check_layer(lambda p, v, m=mode: layer.apply(p, {}, v, m)[0], theirs, params, normal(16, 6))


def check_layer(ours, theirs, params, x):
    upstream = normal(*x.shape, scale=0.5)
    theirs.zero_grad()
    y, pull = jax.vjp(ours, params, jnp.asarray(x))
    grads, dx = pull(jnp.asarray(upstream))
    tx = leaf(x)
    ty = theirs(tx)
    ty.backward(torch.tensor(upstream))
    near(y, ty)
    near(dx, tx.grad)
    near(grads["scale"], theirs.weight.grad)
    near(grads["shift"], theirs.bias.grad)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3), {}),
        pytest.param((3, 5), {"padding": "same"}, marks=pytest.mark.slow),
        pytest.param((5, 5), {"padding": 2, "bias": False}, marks=pytest.mark.slow),
        ((3, 2), {"stride": (2, 3), "padding": (1, 2)}),
        pytest.param((1, 1), {"stride": 2}, marks=pytest.mark.slow),
        ((2, 3), {"stride": (1, 2), "dilation": (3, 2), "padding": 1}),
        ((3, 3), {"stride": 2, "dilation": (1, 2), "groups": 2}),
        ((3, 3), {"padding": 1, "groups": 4}),
    ],
)
def test_convolution_with_gradients(kernel, options):
    layer, theirs = nn.conv2d(8, kernel, **options), torch.nn.Conv2d(4, 8, kernel, **options)
    params = {"weight": jnp.asarray(theirs.weight.detach().numpy().transpose(2, 3, 1, 0))}
    if theirs.bias is not None:
        params["bias"] = jnp.asarray(theirs.bias.detach().numpy())
    x = normal(3, 9, 10, 4, scale=1)
    grads = check_images(lambda p, v: layer.apply(p, {}, v, Eval())[0], theirs, params, x)
    near(grads["weight"], theirs.weight.grad.permute(2, 3, 1, 0))
    if theirs.bias is not None:
        near(grads["bias"], theirs.bias.grad)


def test_convolution_and_pooling_with_gradients():
    conv = torch.nn.Conv2d(3, 8, 5, padding=1)
    theirs = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    params = {
        "weight": jnp.asarray(conv.weight.detach().numpy().transpose(2, 3, 1, 0)),
        "bias": jnp.asarray(conv.bias.detach().numpy()),
    }
    layer = nn.conv_pool(8, 5, padding=1)
    grads = check_images(lambda p, v: layer.apply(p, {}, v, Eval())[0], theirs, params, normal(3, 11, 12, 3, scale=1))
    near(grads["weight"], conv.weight.grad.permute(2, 3, 1, 0))
    near(grads["bias"], conv.bias.grad)


@pytest.mark.parametrize("window", [{"window": 2}, {"window": (3, 2), "stride": (1, 2), "padding": 1}], ids=str)
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_pooling_with_gradients_and_ties(name, window):
    layer = getattr(nn, name)(**window)
    theirs = {"max_pool2d": torch.nn.MaxPool2d, "avg_pool2d": torch.nn.AvgPool2d}[name](*window.values())
    x = RNG.integers(0, 3, (2, 7, 8, 3)).astype(np.float32)  # many are equal
    check_images(lambda p, v: layer.apply(p, {}, v, Eval())[0], theirs, {}, x)


def check_images(ours, theirs, params, x):
    theirs.zero_grad()
    tx = leaf(x)
    ty = theirs(tx.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    upstream = normal(*ty.shape, scale=0.1)  # sums over an image stay small
    ty.backward(torch.tensor(upstream))

    def both(params, x, upstream):
        y, pull = jax.vjp(ours, params, x)
        return y, *pull(upstream)

    y, grads, dx = jax.jit(both)(params, x, upstream)
    near(y, ty)
    near(dx, tx.grad)
    return grads


@pytest.mark.parametrize("vocabulary", [11, 3000])
def test_embedding_with_gradients(vocabulary):
    weight, tokens = normal(vocabulary, 5), RNG.integers(0, 11, (4, 6))
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(weight), freeze=False)
    layer = nn.embedding(vocabulary, 5)
    check_grads(
        lambda p: layer.apply({"weight": p["w"]}, {}, jnp.asarray(tokens), Eval())[0],
        {"w": weight},
        lambda: theirs(torch.tensor(tokens)),
        lambda: {"w": theirs.weight.grad},
    )


@pytest.mark.parametrize("bias", [True, False])
def test_lstm_with_gradients(bias):
    theirs = torch.nn.LSTM(5, 7, bias=bias, batch_first=True)
    x = normal(4, 9, 5, scale=1)
    params = {"x": x, "input_weight": theirs.weight_ih_l0, "recurrent_weight": theirs.weight_hh_l0}
    params |= {"bias": theirs.bias_ih_l0 + theirs.bias_hh_l0} if bias else {}
    params = {name: leaf if name == "x" else leaf.detach().numpy().T.copy() for name, leaf in params.items()}
    layer, tx = nn.lstm(7, bias=bias), leaf(x)

    def grads():
        weights = {"x": tx.grad, "input_weight": theirs.weight_ih_l0.grad.T, "recurrent_weight": theirs.weight_hh_l0.grad.T}
        return weights | ({"bias": theirs.bias_hh_l0.grad} if bias else {})

    check_grads(lambda p: layer.apply(p, {}, p["x"], Eval())[0], params, lambda: theirs(tx)[0], grads)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_with_gradients(causal, bias):
    theirs = torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
    x = normal(3, 5, 8, scale=1)
    named = {"input": {"weight": theirs.in_proj_weight}, "output": {"weight": theirs.out_proj.weight}}
    if bias:
        torch.nn.init.normal_(theirs.in_proj_bias)
        named["input"]["bias"], named["output"]["bias"] = theirs.in_proj_bias, theirs.out_proj.bias
    params = {name: {kind: leaf.detach().numpy().T.copy() for kind, leaf in part.items()} for name, part in named.items()}
    layer, tx = nn.self_attention(2, mask=nn.causal if causal else None, bias=bias), leaf(x)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5) if causal else None
    check_grads(
        lambda p: layer.apply(p, {}, p["x"], Eval())[0],
        params | {"x": x},
        lambda: theirs(tx, tx, tx, attn_mask=mask, need_weights=False)[0],
        lambda: {name: {kind: leaf.grad.t() for kind, leaf in part.items()} for name, part in named.items()} | {"x": tx.grad},
    )


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_torchs_scaled_dot_product_attention(causal):
    x = normal(6, 5, 3 * 12, scale=1)
    tx = leaf(x)
    heads = tx.unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    mask = nn.causal if causal else None
    check_grads(
        lambda p: nn.attend(*jnp.moveaxis(p["x"].reshape(6, 5, 3, 3, 4), 2, 0), mask).reshape(6, 5, 12),
        {"x": x},
        lambda: F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(1, 2).flatten(2),
        lambda: {"x": tx.grad},
    )


def check_grads(ours, params, theirs, grads):
    """Values alike, and the gradients of all `params` from the same upstream gradient; `grads` reads torch's."""
    y, pull = jax.vjp(ours, jax.tree.map(jnp.asarray, params))
    ty = theirs()
    near(y, ty)
    upstream = normal(*y.shape, scale=0.5)
    ty.backward(torch.tensor(upstream))
    jax.tree.map(near, pull(jnp.asarray(upstream))[0], grads())


# ------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(optim.adamw(1e-2), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0), marks=pytest.mark.slow),
        (optim.adamw(1e-2, 0.1), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1)),
        (optim.sgdw(1e-2, momentum=0.9), lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9)),
        (optim.sgdw(1e-2, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True)),
        pytest.param(optim.sgdw(0.1), lambda p: torch.optim.SGD(p, 0.1), marks=pytest.mark.slow),
    ],
    ids=["adam", "adamw", "momentum", "nesterov", "sgd"],
)
def test_parameters_after_twenty_steps_of_the_loop(ours, theirs):
    x, y = normal(160, 7, scale=1), RNG.integers(0, 3, 160)
    first, second = torch.nn.Linear(7, 16), torch.nn.Linear(16, 3)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    initial = {
        name: {"weight": module.weight.detach().numpy().T.copy(), "bias": module.bias.detach().numpy().copy()}
        for name, module in (("first", first), ("second", second))
    }
    program = train.epochs(
        model=train.supervised(nn.sequence(first=nn.linear(16), act=nn.tanh, second=nn.linear(3)), loss.cross_entropy()),
        optimizer=ours,
        train_batches=lambda context: stream.minibatches(x, y, batch_size=8),
        epochs=1,
        initial=initial,
    )
    trained = unsafe_perform_io(program.run(Runtime(log=None)).unwrap())
    rule = theirs(model.parameters())
    for start in range(0, 160, 8):
        rule.zero_grad()
        F.cross_entropy(model(torch.tensor(x[start : start + 8])), torch.tensor(y[start : start + 8])).backward()
        rule.step()
    for name, module in (("first", first), ("second", second)):
        near(trained.params[name]["weight"].T, module.weight)
        near(trained.params[name]["bias"], module.bias)


def test_torchs_default_initialisers_have_torchs_bounds():
    layer = nn.linear(2000, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)
    params = layer.init(KEY, jax.ShapeDtypeStruct((1, 64), jnp.float32)).params
    theirs = torch.nn.Linear(64, 2000)
    for ours, other in ((params["weight"], theirs.weight), (params["bias"], theirs.bias)):
        assert np.abs(ours).max() <= 1 / 8
        assert abs(float(np.abs(ours).max()) - float(other.detach().abs().max())) < 1e-3
        assert abs(float(np.std(ours)) - float(other.detach().std())) < 3e-3
