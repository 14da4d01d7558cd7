"""Attention and transformer blocks against torch in float32: at most 1e-5 apart, values and gradients alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, nn

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def near(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(initial=0), 1e-3))


def leaf(x):
    return torch.tensor(np.asarray(x), requires_grad=True)


def check(ours, theirs, *arrays):
    """Values, and the gradients of all arrays, from one upstream gradient."""
    y, pull = jax.vjp(ours, *map(jnp.asarray, arrays))
    given = [*map(leaf, arrays)]
    ty = theirs(*given)
    near(y, ty)
    upstream = normal(*y.shape)
    ty.backward(torch.tensor(upstream))
    for d, x in zip(pull(jnp.asarray(upstream)), given, strict=True):
        near(d, x.grad)


def heads_first(x):
    return x.transpose(1, 2)


SHAPES = {
    "odd": (3, 5, 7, 4, 2, 3),
    "batch 1": (1, 6, 6, 2, 2, 4),
    "length 1": (2, 1, 1, 3, 1, 5),
    "long": (2, 65, 33, 2, 1, 8),
}


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("masked", [None, "causal", "array"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_attend(shape, masked, block_size):
    batch, time, keys, heads, kv_heads, features = shape
    q, k, v = (
        normal(batch, time, heads, features),
        normal(batch, keys, kv_heads, features),
        normal(batch, keys, kv_heads, features),
    )
    seen = RNG.random((batch, 1, time, keys)) < 0.6
    seen[..., 0] = True  # torch's row that sees nothing is NaN
    mask = {"causal": nn.causal, "array": nn.mask(seen)}.get(masked)
    options = {"causal": {"is_causal": True}, "array": {"attn_mask": torch.tensor(seen)}}.get(masked, {})

    def theirs(q, k, v):
        k, v = (x.repeat_interleave(heads // kv_heads, 2) for x in (k, v))
        return heads_first(torch.nn.functional.scaled_dot_product_attention(*map(heads_first, (q, k, v)), **options))

    check(lambda q, k, v: nn.attend(q, k, v, mask, block_size=block_size), theirs, q, k, v)


def load(module, params):
    """Our weights in torch's `MultiheadAttention`."""
    if "input" in params:
        weight, bias = params["input"]["weight"], params["input"]["bias"]
    else:
        weight, bias = (jnp.concatenate([params[n][kind] for n in ("query", "memory")], -1) for kind in ("weight", "bias"))
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.tensor(np.asarray(weight.T)))
        module.in_proj_bias.copy_(torch.tensor(np.asarray(bias)))
    load_linear(module.out_proj, params["output"])


def load_linear(module, params):
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.asarray(params["weight"]).T))
        module.bias.copy_(torch.tensor(np.asarray(params["bias"])))


def load_norm(module, params):
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.asarray(params["scale"])))
        module.bias.copy_(torch.tensor(np.asarray(params["shift"])))


def random(layer, spec):
    """Parameters far from their initial values."""
    return jax.tree.map(lambda p: jnp.asarray(0.5 * normal(*p.shape)), layer.init(KEY, spec).params)


LENGTHS = np.array([3, 5, 1], np.int32)


@pytest.mark.parametrize("mode", [Eval(), Train(KEY)], ids=["eval", "train"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(mode, lengths, causal):
    layer, x = nn.self_attention(2, mask=nn.causal if causal else None), normal(3, 5, 6)
    params = random(layer, jnp.asarray(x))
    module = torch.nn.MultiheadAttention(6, 2, batch_first=True)
    load(module, params)
    padding = None if lengths is None else torch.tensor(np.arange(5) >= lengths[:, None])
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
    inside = np.ones((3, 5, 1), np.float32) if lengths is None else (np.arange(5) < lengths[:, None])[..., None]

    def ours(x):
        if lengths is None:
            return layer.apply(params, {}, x, mode)[0]
        return layer.apply(params, {}, (x, lengths), mode)[0][0] * inside

    def theirs(x):
        y, _ = module(x, x, x, key_padding_mask=padding, attn_mask=hidden, need_weights=False)
        return y * torch.tensor(inside)

    y, pull = jax.vjp(ours, jnp.asarray(x))
    tx = leaf(x)
    ty = theirs(tx)
    near(y, ty)
    if lengths is None:  # our padding is 0 before it is projected: it has no gradient
        ty.backward(torch.ones_like(ty))
        near(pull(jnp.ones_like(y))[0], tx.grad)


def test_cross_attention():
    layer, x, memory = nn.cross_attention(3), normal(3, 4, 6), normal(3, 5, 6)
    params = random(layer, (jnp.asarray(x), jnp.asarray(memory)))
    module = torch.nn.MultiheadAttention(6, 3, batch_first=True)
    load(module, params)
    padding = torch.tensor(np.arange(5) >= LENGTHS[:, None])
    y, _ = layer.apply(params, {}, (x, (memory, LENGTHS)), Eval())
    near(y[0], module(*map(torch.tensor, (x, memory, memory)), key_padding_mask=padding, need_weights=False)[0])
    check(
        lambda x, memory: layer.apply(params, {}, (x, memory), Eval())[0][0],
        lambda x, memory: module(x, memory, memory, need_weights=False)[0],
        x,
        memory,
    )


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 1, 6)])
def test_encoder_block(pre_norm, shape):
    layer, x = nn.transformer_block(nn.self_attention(2), nn.feed_forward(3, nn.gelu), pre_norm=pre_norm), normal(*shape)
    params = random(layer, jnp.asarray(x))
    module = torch.nn.TransformerEncoderLayer(6, 2, 18, 0.0, "gelu", batch_first=True, norm_first=pre_norm)
    load(module.self_attn, params["attention"])
    load_rest(module, params, ["attention_norm", "feed_forward_norm"])
    check(lambda x: layer.apply(params, {}, x, Train(KEY))[0], module, x)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_decoder_block(pre_norm):
    attention, cross = nn.self_attention(2, mask=nn.causal), nn.cross_attention(2)
    layer = nn.transformer_block(attention, nn.feed_forward(3, nn.relu), cross=cross, pre_norm=pre_norm)
    x, memory = normal(3, 4, 6), normal(3, 5, 6)
    params = random(layer, (jnp.asarray(x), jnp.asarray(memory)))
    module = torch.nn.TransformerDecoderLayer(6, 2, 18, 0.0, "relu", batch_first=True, norm_first=pre_norm)
    load(module.self_attn, params["attention"])
    load(module.multihead_attn, params["cross"])
    load_rest(module, params, ["attention_norm", "cross_norm", "feed_forward_norm"])
    hidden = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    check(
        lambda x, memory: layer.apply(params, {}, (x, memory), Eval())[0][0],
        lambda x, memory: module(x, memory, tgt_mask=hidden),
        x,
        memory,
    )


def load_rest(module, params, norms):
    load_linear(module.linear1, params["feed_forward"]["up"])
    load_linear(module.linear2, params["feed_forward"]["out"])
    for i, name in enumerate(norms):
        load_norm(getattr(module, f"norm{i + 1}"), params[name])
