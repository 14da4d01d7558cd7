"""The same models by hand: one jitted `lax.scan` over the batches, with nothing but JAX.

Each model is `loss(params, state, x, y, key) -> (mean loss, state)` over the parameter tree that fnlamp made, so that both
start from the same numbers. There are no checks, no chunks, and no sums but the loss: a lower bound of the cost of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Tree = Any
Array = jax.Array
Rule = Callable[[Tree, Tree, Tree, Array], tuple[Tree, Tree]]


def trainer(loss: Callable[..., tuple[Array, Tree]], rule: Rule) -> Callable[..., tuple[Tree, Array]]:
    """`run(carry, x, y, rows, key)`: a step for each row of `rows`; returns the mean of the batches' losses."""

    def run(carry: Tree, x: Array, y: Array, rows: Array, key: Array) -> tuple[Tree, Array]:
        def step(carry: Tree, chosen: Array) -> tuple[Tree, Array]:
            params, state, slots, t = carry
            batch = (a.at[chosen].get(mode="promise_in_bounds") for a in (x, y))
            of_step = partial(loss, key=jax.random.fold_in(key, t))
            (value, state), grads = jax.value_and_grad(of_step, has_aux=True)(params, state, *batch)
            params, slots = rule(params, grads, slots, t + 1)
            return (params, state, slots, t + 1), value

        carry, losses = lax.scan(step, carry, rows)
        return carry, losses.mean()

    return jax.jit(run, donate_argnums=0)


def adamw(params: Tree, grads: Tree, slots: Tree, t: Array) -> tuple[Tree, Tree]:
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, slots[0], grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, slots[1], grads)
    m_scale, v_scale = 1 - 0.9**t, 1 - 0.999**t
    moved = jax.tree.map(lambda p, m, v: p - 1e-3 * (m / m_scale) / (jnp.sqrt(v / v_scale) + 1e-8), params, m, v)
    return moved, (m, v)


def sgdw(params: Tree, grads: Tree, slots: Tree, t: Array) -> tuple[Tree, Tree]:
    return jax.tree.map(lambda p, g: p - 1e-2 * g - 1e-2 * 1e-3 * p, params, grads), slots


def momentum(params: Tree, grads: Tree, slots: Tree, t: Array) -> tuple[Tree, Tree]:
    v = jax.tree.map(lambda v, g: 0.9 * v + 1e-2 * g, slots[0], grads)
    return jax.tree.map(jnp.subtract, params, v), (v,)


def zeros(params: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, params)


RULES: dict[str, tuple[Rule, int]] = {"adamw": (adamw, 2), "sgdw": (sgdw, 0), "momentum": (momentum, 1)}


def cross_entropy(logits: Array, y: Array) -> Array:
    picked = jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def pixels(x: Array) -> Array:
    return x.astype(jnp.float32) * (1 / 255)


def affine(p: Tree, x: Array) -> Array:
    return x @ p["weight"] + p["bias"]


# ------------------------------------------------------------------------------- the models


def perceptron(params: Tree, state: Tree, x: Array, y: Array, key: Array) -> tuple[Array, Tree]:
    """`logistic`, `simple` and `wide`."""
    h = pixels(x)
    names = sorted(params)
    for name in names[:-1]:
        h = jax.nn.relu(affine(params[name], h))
    return cross_entropy(affine(params[names[-1]], h), y), state


def lamp(params: Tree, state: Tree, x: Array, y: Array, key: Array) -> tuple[Array, Tree]:
    h, p, moments = pixels(x), params["mlp"], {}
    for i in range(2):
        h = h @ p[f"linear_{i}"]["weight"]
        norm, old = p[f"norm_{i}"], state["mlp"][f"norm_{i}"]
        mean, variance = h.mean(0), h.var(0)
        unbiased = variance * (len(h) / (len(h) - 1))
        moments[f"norm_{i}"] = {
            "mean": 0.9 * old["mean"] + 0.1 * mean,
            "variance": 0.9 * old["variance"] + 0.1 * unbiased,
        }
        h = jax.nn.relu((h - mean) * lax.rsqrt(variance + 1e-5) * norm["scale"] + norm["shift"])
        kept = jax.random.bernoulli(jax.random.fold_in(key, i), 0.8, h.shape)
        h = jnp.where(kept, h / 0.8, 0)
    return cross_entropy(affine(p["linear_2"], h), y), {"mlp": moments}


def cnn(params: Tree, state: Tree, x: Array, y: Array, key: Array) -> tuple[Array, Tree]:
    """Channels first and the batch last, so that copies are contiguous."""
    h = pixels(x).reshape(-1, 28, 28).transpose(1, 2, 0)
    c0, c1 = params["conv_0"], params["conv_1"]
    h = jax.nn.relu(conv_pool_phases(h, c0["weight"]) + c0["bias"][:, None, None, None])
    h = jax.nn.relu(max_pool(convolve(h, c1["weight"])) + c1["bias"][:, None, None, None])
    h = h.transpose(3, 1, 2, 0).reshape(x.shape[0], -1)
    h = jax.nn.relu(affine(params["linear_0"], h))
    return cross_entropy(affine(params["linear_1"], h), y), state


def conv_pool_phases(x: Array, weight: Array) -> Array:
    """One input channel `(H, W, B)`: the four places of a 2x2 pool as four kernels over blocks of 2x2 pixels."""
    k, channels = weight.shape[0], weight.shape[-1]
    half = (k + 1) // 2
    blocks = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1)
    out = blocks.shape[0] - half + 1
    patches = [blocks[i // 2 : i // 2 + out, i % 2, j // 2 : j // 2 + out, j % 2] for i in range(k + 1) for j in range(k + 1)]
    columns = jnp.stack(patches).reshape((k + 1) ** 2, -1)
    places = [jnp.pad(weight[:, :, 0], ((i, 1 - i), (j, 1 - j), (0, 0))) for i in (0, 1) for j in (0, 1)]
    kernels = jnp.stack(places, -2).reshape((k + 1) ** 2, -1)
    products = kernels.T @ columns
    return argmax_pool(products.reshape(4, channels, out, out, -1))


@jax.custom_vjp
def argmax_pool(x: Array) -> Array:
    """The maximum over the first axis; its gradient goes to the first position that has it."""
    return x.max(0)


def first_largest(xs: Sequence[Array]) -> tuple[Array, Array]:
    """The largest, and its position."""
    best, place = xs[0], jnp.zeros(xs[0].shape, jnp.uint8)
    for i, x in enumerate(xs[1:], 1):
        place = jnp.where(x > best, jnp.uint8(i), place)
        best = jnp.maximum(best, x)
    return best, place


argmax_pool.defvjp(first_largest, lambda place, g: (jnp.stack([jnp.where(place == i, g, 0) for i in range(4)]),))


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """2x2 pools of `(C, H, W, B)`."""
    return _max_pool(x)[0]


def _max_pool(x: Array) -> tuple[Array, Array]:
    c, h, w, b = x.shape
    blocks = x.reshape(c, h // 2, 2, w // 2, 2, b)
    return first_largest([blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1)])


def _max_pool_back(place: Array, g: Array) -> tuple[Array]:
    c, h, w, b = g.shape
    parts = [jnp.where(place == i, g, 0) for i in range(4)]
    rows = [jnp.stack(parts[i : i + 2], 3) for i in (0, 2)]
    return (jnp.stack(rows, 2).reshape(c, 2 * h, 2 * w, b),)


max_pool.defvjp(_max_pool, _max_pool_back)


@jax.custom_vjp
def convolve(x: Array, weight: Array) -> Array:
    return _convolve(x, weight)[0]


def _convolve(x: Array, weight: Array) -> tuple[Array, Any]:
    k, _, c, out = weight.shape
    _, high, wide, b = x.shape
    oh, ow = high - k + 1, wide - k + 1
    columns = jnp.concatenate([x[:, i : i + oh, j : j + ow] for i in range(k) for j in range(k)]).reshape(k * k * c, -1)
    flat = weight.reshape(k * k * c, out)
    y = (flat.T @ columns).reshape(out, oh, ow, b)
    return y, (columns, flat, weight.shape)


def _convolve_back(kept: Any, g: Array) -> tuple[Array, Array]:
    columns, flat, (k, _, c, out) = kept
    _, oh, ow, b = g.shape
    g2 = g.reshape(out, -1)
    dw = lax.dot_general(columns, g2, (((1,), (1,)), ((), ()))).reshape(k, k, c, out)
    d = (flat @ g2).reshape(k, k, c, oh, ow, b)
    shifted = [jnp.pad(d[i, j], ((0, 0), (i, k - 1 - i), (j, k - 1 - j), (0, 0))) for i in range(k) for j in range(k)]
    return sum(shifted[1:], shifted[0]), dw


convolve.defvjp(_convolve, _convolve_back)


def lstm(params: Tree, state: Tree, x: Array, y: Array, key: Array) -> tuple[Array, Tree]:
    p = params["lstm"]
    inputs = params["tokens"]["weight"][x.T].reshape(x.size, -1) @ p["input_weight"] + p["bias"]
    h = recur(inputs.reshape(x.shape[1], x.shape[0], -1), p["recurrent_weight"])
    logits = affine(params["out"], h.reshape(x.size, -1))
    return cross_entropy(logits, y.T.reshape(-1)), state


@jax.custom_vjp
def recur(inputs: Array, weight: Array) -> Array:
    return _recur(inputs, weight)[0]


def _recur(inputs: Array, weight: Array) -> tuple[Array, Any]:
    hidden = weight.shape[0]

    def cell(carry: Any, u: Array) -> tuple[Any, Any]:
        h, c = carry
        i, f, g, o = jnp.split(u + h @ weight, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, i, f, g, o)

    start = jnp.zeros((inputs.shape[1], hidden))
    _, kept = lax.scan(cell, (start, start), inputs)
    return kept[0], (kept, weight)


def _recur_back(saved: Any, dh: Array) -> tuple[Array, Array]:
    (h, c, *gates), weight = saved
    before = lambda a: jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])  # noqa: E731

    def cell(carry: Any, kept: Any) -> tuple[Any, Array]:
        back, dc = carry
        dh, c, c_before, i, f, g, o = kept
        dh = dh + back
        t = jnp.tanh(c)
        dc = dc + dh * o * (1 - t * t)
        du = jnp.concatenate(
            [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)], -1
        )
        return (du @ weight.T, dc * f), du

    start = jnp.zeros_like(h[0])
    _, du = lax.scan(cell, (start, start), (dh, c, before(c), *gates), reverse=True)
    flat = du.reshape(-1, du.shape[-1])
    return du, before(h).reshape(-1, h.shape[-1]).T @ flat


recur.defvjp(_recur, _recur_back)


def gpt(params: Tree, state: Tree, x: Array, y: Array, key: Array, *, heads: int = 4) -> tuple[Array, Tree]:
    tokens = params["tokens"]["weight"]
    h = (tokens[x] + params["positions"]["weight"][: x.shape[1]]).reshape(x.size, -1)
    for name in sorted(n for n in params if n.startswith("block")):
        h = block(params[name], h, x.shape, heads)
    return cross_entropy(layer_norm(params["norm"], h) @ tokens.T, y.reshape(-1)), state


def block(p: Tree, h: Array, shape: tuple[int, ...], heads: int) -> Array:
    a, f = p["attention"], p["feed_forward"]
    packed = affine(a["input"], layer_norm(p["attention_norm"], h))
    q, k, v = (part.reshape(*shape, heads, -1).transpose(0, 2, 1, 3) for part in jnp.split(packed, 3, axis=-1))
    mixed = attend(q, k, v).transpose(0, 2, 1, 3).reshape(h.shape)
    h = h + affine(a["output"], mixed)
    return h + affine(f["out"], jax.nn.gelu(affine(f["up"], layer_norm(p["feed_forward_norm"], h)), approximate=True))


def layer_norm(p: Tree, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["shift"]


@jax.custom_vjp
def attend(q: Array, k: Array, v: Array) -> Array:
    return _attend(q, k, v)[0]


def _attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
    time, size = q.shape[-2:]
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k) * size**-0.5
    p = jax.nn.softmax(jnp.where(jnp.tri(time, dtype=bool), scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bhsd->bhtd", p, v), (q, k, v, p)


def _attend_back(kept: Any, g: Array) -> tuple[Array, Array, Array]:
    q, k, v, p = kept
    dp = jnp.einsum("bhtd,bhsd->bhts", g, v)
    ds = p * (dp - jnp.sum(dp * p, -1, keepdims=True)) * q.shape[-1] ** -0.5
    return (
        jnp.einsum("bhts,bhsd->bhtd", ds, k),
        jnp.einsum("bhts,bhtd->bhsd", ds, q),
        jnp.einsum("bhts,bhtd->bhsd", p, g),
    )


attend.defvjp(_attend, _attend_back)

MODELS: dict[str, tuple[Callable[..., tuple[Array, Tree]], str]] = {
    "logistic": (perceptron, "adamw"),
    "simple": (perceptron, "adamw"),
    "wide": (perceptron, "adamw"),
    "lamp": (lamp, "sgdw"),
    "cnn": (cnn, "momentum"),
    "lstm": (lstm, "adamw"),
    "gpt": (gpt, "adamw"),
}


def contestant(name: str, params: Tree, state: Tree) -> tuple[Callable[..., tuple[Tree, Array]], Tree]:
    """The compiled loop of a model and its first carry."""
    loss, rule_name = MODELS[name]
    rule, slots = RULES[rule_name]
    carry = (params, state, tuple(zeros(params) for _ in range(slots)), jnp.zeros((), jnp.int32))
    return trainer(loss, rule), carry
