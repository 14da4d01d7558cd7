"""Layers against torch in float32: at most 1e-5 apart, relative to the largest number, values and gradients alike."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, nn

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

F = torch.nn.functional
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
MODES = {"train": Train(KEY), "eval": Eval()}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def near(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(initial=0), 1e-3))


def leaf(x):
    return torch.tensor(np.asarray(x), requires_grad=True)


def arrays(named):
    return jax.tree.map(lambda p: jnp.asarray(p.detach().numpy()), named)


def check(ours, params, x, theirs):
    """`ours(params, x)` and torch's `theirs(params, x)`: values, and gradients of both, from one upstream gradient."""
    given, tx = jax.tree.map(leaf, params), leaf(x)
    y, pull = jax.vjp(ours, jax.tree.map(jnp.asarray, params), jnp.asarray(x))
    ty = theirs(given, tx)
    near(y, ty)
    upstream = normal(*y.shape)
    ty.backward(torch.tensor(upstream))
    grads, dx = pull(jnp.asarray(upstream))
    near(dx, tx.grad)
    jax.tree.map(lambda ours, theirs: near(ours, theirs.grad), grads, given)


def channels_first(f):
    """A function of torch's with channels second, on an array with channels last.

    For a single row, the gradient of torch 2.13's `instance_norm` is wrong (`torch.autograd.gradcheck` fails) if the upstream
    gradient has its channels last in memory: it gets a contiguous one.
    """

    def channels_last(p, x):
        y = f(p, x.movedim(-1, 1))
        y.register_hook(lambda gradient: gradient.contiguous())
        return y.movedim(1, -1)

    return channels_last


# ------------------------------------------------------------------------------- norms


@pytest.mark.parametrize(("groups", "shape"), [(2, (3, 5, 7, 6)), (2, (2, 6)), (6, (1, 1, 4, 6)), (1, (1, 4, 6))])
def test_group_norm(groups, shape):
    layer = nn.group_norm(groups, eps=1e-4)
    params = {"scale": normal(6), "shift": normal(6)}
    for mode in MODES.values():
        check(
            lambda p, x, mode=mode: layer.apply(p, {}, x, mode)[0],
            params,
            normal(*shape),
            channels_first(lambda p, x: F.group_norm(x, groups, p["scale"], p["shift"], 1e-4)),
        )


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 3, 2, 4)])
def test_instance_norm(shape):
    params = {"scale": normal(4), "shift": normal(4)}
    check(
        lambda p, x: nn.instance_norm().apply(p, {}, x, Eval())[0],
        params,
        normal(*shape),
        channels_first(lambda p, x: F.instance_norm(x, weight=p["scale"], bias=p["shift"])),
    )


def test_rms_norm():
    x = normal(5, 3, 7)
    x[2, 1] = 0  # a vector of zeros
    check(
        lambda p, x: nn.rms_norm(1e-5).apply(p, {}, x, Eval())[0],
        {"scale": normal(7)},
        x,
        lambda p, x: F.rms_norm(x, (7,), p["scale"], 1e-5),
    )


def test_weight_norm():
    """torch's weights have their outputs first."""
    weight = torch.nn.utils.parametrizations.weight_norm
    layer, theirs = nn.weight_norm(nn.linear(3)), weight(torch.nn.Linear(4, 3))
    made = layer.init(KEY, jax.ShapeDtypeStruct((5, 4), jnp.float32))
    np.testing.assert_allclose(made.params["gain"]["weight"], np.linalg.norm(made.params["layer"]["weight"], axis=0), rtol=1e-6)
    params = {"gain": {"weight": normal(3)}, "layer": {"weight": normal(4, 3), "bias": normal(3)}}

    def torchs(p, x):
        names = {
            "parametrizations.weight.original0": p["gain"]["weight"][:, None],
            "parametrizations.weight.original1": p["layer"]["weight"].T,
            "bias": p["layer"]["bias"],
        }
        return torch.func.functional_call(theirs, names, (x,))

    check(lambda p, x: layer.apply(p, {}, x, Eval())[0], params, normal(5, 4), torchs)


@each_mode
def test_spectral_norm(mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = torch.nn.utils.spectral_norm(torch.nn.Conv2d(2, 3, 2, bias=False))
    theirs.train(isinstance(mode, Train))
    layer = nn.spectral_norm(nn.conv2d(3, 2, bias=False))
    weight = theirs.weight_orig.detach().numpy().transpose(2, 3, 1, 0)
    u = theirs.weight_u.numpy().copy()
    v = theirs.weight_v.numpy().reshape(2, 2, 2).transpose(1, 2, 0).reshape(-1)
    state = {"u": {"weight": jnp.asarray(u)}, "v": {"weight": jnp.asarray(v)}}
    x = normal(2, 4, 5, 2)
    y, pull, after = jax.vjp(lambda p, x: layer.apply(p, state, x, mode), {"weight": jnp.asarray(weight)}, x, has_aux=True)
    tx = leaf(x)
    ty = theirs(tx.movedim(-1, 1)).movedim(1, -1)
    near(y, ty)
    upstream = normal(*y.shape)
    ty.backward(torch.tensor(upstream))
    grads, dx = pull(jnp.asarray(upstream))
    near(dx, tx.grad)
    near(grads["weight"], theirs.weight_orig.grad.permute(2, 3, 1, 0))
    near(after["u"]["weight"], theirs.weight_u)


# ------------------------------------------------------------------------------- activations

ACTIVATIONS = {
    "celu": F.celu,
    "selu": F.selu,
    "mish": F.mish,
    "relu6": F.relu6,
    "relu_squared": lambda x: F.relu(x) ** 2,
    "hard_sigmoid": F.hardsigmoid,
    "hard_tanh": F.hardtanh,
    "hard_shrink": F.hardshrink,
    "log_sigmoid": F.logsigmoid,
    "soft_sign": F.softsign,
    "soft_shrink": F.softshrink,
    "tanh_shrink": F.tanhshrink,
    "softmin": lambda x: F.softmin(x, -1),
    "glu": F.glu,
    "geglu": lambda x: x[..., :6] * F.gelu(x[..., 6:]),
    "swiglu": lambda x: x[..., :6] * F.silu(x[..., 6:]),
}


@pytest.mark.broad
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = np.linspace(-7.03, 7.03, 240, dtype=np.float32).reshape(20, 12)  # no value is at a kink
    layer = getattr(nn, name)
    check(lambda p, x: layer.apply({}, {}, x, Eval())[0], {}, x, lambda p, x: ACTIVATIONS[name](x))


@pytest.mark.parametrize("slopes", [1, 5])
def test_prelu(slopes):
    layer = nn.prelu(per_feature=slopes > 1)
    check(
        lambda p, x: layer.apply(p, {}, x, Eval())[0],
        {"slope": normal(slopes)},
        normal(3, 4, 5),
        channels_first(lambda p, x: F.prelu(x, p["slope"])),
    )


def test_rrelu_in_eval_and_its_bounds_in_train():
    x = normal(50, 40)
    check(lambda p, x: nn.rrelu(0.1, 0.3).apply({}, {}, x, Eval())[0], {}, x, lambda p, x: F.rrelu(x, 0.1, 0.3))
    y, _ = nn.rrelu(0.1, 0.3).apply({}, {}, jnp.asarray(x), Train(KEY))
    slopes = (np.asarray(y) / x)[x < 0]
    assert np.abs(slopes.mean() - 0.2) < 0.01
    assert 0.0999 < slopes.min() < 0.102
    assert 0.298 < slopes.max() < 0.3001


# ------------------------------------------------------------------------------- recurrent layers

KINDS = {"rnn": 1, "gru": 3, "lstm": 4}
TORCHS = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def weights(kind, features, hidden, bias=True):
    """Parameters of a recurrent layer as ours."""
    gates = KINDS[kind]
    params = {"input_weight": normal(features, gates * hidden), "recurrent_weight": normal(hidden, gates * hidden)}
    params |= {"bias": normal(gates * hidden)} if bias else {}
    return params | ({"recurrent_bias": normal(hidden)} if bias and kind == "gru" else {})


def as_torchs(params, suffix="l0"):
    """Tensors of ours by torch's names: outputs first, and two biases."""
    named = {f"weight_ih_{suffix}": params["input_weight"].T, f"weight_hh_{suffix}": params["recurrent_weight"].T}
    if "bias" in params:
        zeros = torch.zeros_like(params["bias"])
        own = params.get("recurrent_bias")
        named[f"bias_ih_{suffix}"] = params["bias"]
        named[f"bias_hh_{suffix}"] = zeros if own is None else torch.cat([zeros[: -len(own)], own])
    return named


@pytest.mark.parametrize(
    "shape", [(4, 6, 5), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 1, 5), (1, 6, 5)))], ids=str
)
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers(kind, bias, shape):
    theirs = TORCHS[kind](5, 3, bias=bias, batch_first=True)
    check(
        jax.jit(lambda p, x: getattr(nn, kind)(3, bias=bias).apply(p, {}, x, Eval())[0]),
        weights(kind, 5, 3, bias),
        normal(*shape),
        lambda p, x: torch.func.functional_call(theirs, as_torchs(p), (x,))[0],
    )


@pytest.mark.slow
def test_a_simple_recurrent_layer_with_relu():
    theirs = torch.nn.RNN(5, 3, batch_first=True, nonlinearity="relu")
    check(
        jax.jit(lambda p, x: nn.rnn(3, activation=nn.relu).apply(p, {}, x, Train(KEY))[0]),
        weights("rnn", 5, 3),
        normal(4, 3, 5),
        lambda p, x: torch.func.functional_call(theirs, as_torchs(p), (x,))[0],
    )


@pytest.mark.parametrize("kind", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_two_bidirectional_layers_of_rows_of_different_lengths(kind):
    """torch packs the rows; its outputs after a row's length are 0, as ours."""
    theirs = TORCHS[kind](5, 3, num_layers=2, bidirectional=True, batch_first=True)
    one = nn.bidirectional(getattr(nn, kind)(3))
    layer, lengths, x = one >> one, np.array([2, 6, 1, 4]), normal(4, 6, 5)
    names = [(at, direction) for at in ("0", "1") for direction in ("forward", "backward")]
    params = {}
    for at, direction in names:
        params.setdefault(at, {})[direction] = weights(kind, 5 if at == "0" else 6, 3)

    def torchs(p, x):
        named = {}
        for at, direction in names:
            named |= as_torchs(p[at][direction], f"l{at}{'_reverse' * (direction == 'backward')}")
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        y, _ = torch.func.functional_call(theirs, named, (packed,))
        return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=6)[0]

    check(jax.jit(lambda p, x: layer.apply(p, {}, (x, jnp.asarray(lengths)), Eval())[0][0]), params, x, torchs)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4]], ids=["full", "padded"])
@pytest.mark.parametrize("kind", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_carries_in_and_out_and_their_gradients(kind, lengths):
    theirs, cell, x = TORCHS[kind](5, 3, batch_first=True), getattr(nn, f"{kind}_cell")(3), normal(3, 5, 5)
    parts = ["h", "c"] if kind == "lstm" else ["h"]
    params = {"weights": weights(kind, 5, 3), "carry": {part: normal(3, 3) for part in parts}}

    def ours(p, x):
        of = None if lengths is None else jnp.array(lengths)
        y, carry = nn.unroll(cell, p["weights"], x, p["carry"], lengths=of)
        return jnp.concatenate([y, *(carry[part][:, None] for part in parts)], axis=1)

    def torchs(p, x):
        carry = tuple(p["carry"][part][None] for part in parts)
        packed = x
        if lengths is not None:
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        given = (packed, carry if kind == "lstm" else carry[0])
        y, last = torch.func.functional_call(theirs, as_torchs(p["weights"]), given)
        if lengths is not None:
            y = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=5)[0]
        return torch.cat([y, *(one[0][:, None] for one in (last if kind == "lstm" else (last,)))], 1)

    check(jax.jit(ours), params, x, torchs)


# ------------------------------------------------------------------------------- embeddings


def test_embedding_with_padding():
    tokens = RNG.integers(0, 7, (4, 6))
    theirs = torch.nn.Embedding(7, 3, padding_idx=2)
    layer = nn.embedding(7, 3, padding=2)
    check(
        lambda p, x: layer.apply(p, {}, jnp.asarray(tokens), Eval())[0] + x,
        {"weight": normal(7, 3)},
        normal(4, 6, 3),
        lambda p, x: torch.func.functional_call(theirs, p, (torch.tensor(tokens),)) + x,
    )
