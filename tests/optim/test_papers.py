"""Each rule against a float64 transcription of its paper, over 200 steps, in closed loop.

The problems are Rosenbrock's valley and a network of three layers; the gradient is taken at the reference's own parameters.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Matrix, Role, Tag, optim
from fnlamp.optim import Decay, UpdateScale
from fnlamp.optim.radam import length

RNG = np.random.default_rng(3)
WEIGHT, BIAS = Tag("linear", Role.WEIGHT, matrix=Matrix()), Tag("linear", Role.BIAS)
X, Y = RNG.standard_normal((32, 6)), RNG.standard_normal((32, 6))
STEPS = 200


def banana(p, rows):
    x, y = p["w"][:, 0]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def network(p, rows):
    h = jnp.tanh(jnp.asarray(X)[rows] @ p["w1"] + p["b1"])
    h = jnp.tanh(h @ p["w2"] + p["b2"])
    return jnp.mean(jnp.square(h @ p["w3"] + p["b3"] - jnp.asarray(Y)[rows]))


def matrices(p, rows):
    h = jnp.tanh(jnp.tanh(jnp.asarray(X)[rows] @ p["w1"]) @ p["w2"])
    return jnp.mean(jnp.square(h @ p["w3"] - jnp.asarray(Y)[rows]))


def start(loss):
    if loss is banana:
        return {"w": np.array([[-1.2], [1.0]])}
    rng = np.random.default_rng(7)
    weights = {f"w{i}": rng.standard_normal((6, 6)) / 6**0.5 for i in (1, 2, 3)}
    return weights if loss is matrices else weights | {f"b{i}": 0.1 * rng.standard_normal(6) for i in (1, 2, 3)}


# ---- the papers, line by line; `s` is the state of one array, `t` the step from 1, `f` the schedule's factor


def shrink(decay, p, u, f, a, w):
    if decay is Decay.INDEPENDENT:
        return f * w * p
    return f * a * w * p * ((u * p >= 0) if decay is Decay.CAUTIOUS else 1)


def adam_moments(g, s, t, b1, b2):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return s["m"] / (1 - b1**t), s["v"] / (1 - b2**t)


def nadamw(p, g, s, t, f, a=0.01, w=0.02, b1=0.9, b2=0.99, eps=1e-8, psi=0.01, decay=Decay.BY_LEARNING_RATE):
    """Dozat 2016, Algorithm 2, with the warming momentum of section 3."""
    s.setdefault("mus", [b1 * (1 - 0.5 * 0.96 ** (psi * i)) for i in range(1, STEPS + 2)])
    _, v = adam_moments(g, s, t, b1, b2)
    g_hat = g / (1 - np.prod(s["mus"][:t]))
    m_hat = s["m"] / (1 - np.prod(s["mus"][: t + 1]))
    u = ((1 - s["mus"][t - 1]) * g_hat + s["mus"][t] * m_hat) / (np.sqrt(v) + eps)
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def radam(p, g, s, t, f, a=0.01, w=0.02, b1=0.9, b2=0.99, eps=1e-8, tractable=4.0, decay=Decay.BY_LEARNING_RATE):
    """Liu et al. 2019, Algorithm 2; eps is added to the root; the paper leaves it out."""
    m_hat, _ = adam_moments(g, s, t, b1, b2)
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
    u = m_hat
    if rho > tractable:
        adaptive = np.sqrt(1 - b2**t) / (np.sqrt(s["v"]) + eps)
        u = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) * m_hat * adaptive
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def yogi(p, g, s, t, f, a=0.01, w=0.02, b1=0.9, b2=0.99, eps=1e-3, debias=True, decay=Decay.BY_LEARNING_RATE):
    """Zaheer et al. 2018, Algorithm 2."""
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    v = s.get("v", np.zeros_like(g))
    s["v"] = v - (1 - b2) * np.sign(v - g**2) * g**2
    m, v = (s["m"] / (1 - b1**t), s["v"] / (1 - b2**t)) if debias else (s["m"], s["v"])
    u = m / (np.sqrt(v) + eps)
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def lamb(p, g, s, t, f, a=0.01, w=0.02, b1=0.9, b2=0.99, eps=1e-6):
    """You et al. 2019, Algorithm 2."""
    m, v = adam_moments(g, s, t, b1, b2)
    u = m / (np.sqrt(v) + eps) + w * p
    return p - f * a * np.linalg.norm(p) / np.linalg.norm(u) * u


def lion(p, g, s, t, f, a=0.002, w=0.02, b1=0.9, b2=0.99, decay=Decay.BY_LEARNING_RATE):
    """Chen et al. 2023, Algorithm 2."""
    m = s.get("m", 0)
    u = np.sign(b1 * m + (1 - b1) * g)
    s["m"] = b2 * m + (1 - b2) * g
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def adafactor(p, g, s, t, f, a=0.03, w=0.02, rate=0.8, eps=1e-30, smallest=1e-3, threshold=1.0, decay=Decay.BY_LEARNING_RATE):
    """Shazeer & Stern 2018: Algorithm 4 (5 for vectors), sums as in the paper where the rule has means."""
    b = 1 - t**-rate
    if g.ndim == 2:
        ones_n, ones_m = np.ones(g.shape[0]), np.ones(g.shape[1])
        s["r"] = b * s.get("r", 0) + (1 - b) * (g**2 + eps) @ ones_m
        s["c"] = b * s.get("c", 0) + (1 - b) * ones_n @ (g**2 + eps)
        v = np.outer(s["r"], s["c"]) / (ones_n @ s["r"])
    else:
        v = s["v"] = b * s.get("v", 0) + (1 - b) * (g**2 + eps)
    u = g / np.sqrt(v)
    u = u / max(1, np.sqrt(np.mean(u**2)) / threshold)
    alpha = max(smallest, np.sqrt(np.mean(p**2))) * min(f * a, 1 / np.sqrt(t))
    return p - alpha * u - shrink(decay, p, u, f, a, w)


def root(x, power):
    values, vectors = np.linalg.eigh(x)
    return (vectors * values**power) @ vectors.T


def shampoo(p, g, s, t, f, a=0.05, w=0.02, momentum=0.0, eps=1e-4, every=1, diagonal=False, decay=Decay.BY_LEARNING_RATE):
    """Gupta, Koren & Singer 2018, Algorithm 1."""
    big = g.reshape(len(g), -1)
    n, k = big.shape
    left, right = s.get("L", eps * np.eye(n)) + big @ big.T, s.get("R", eps * np.eye(k)) + big.T @ big
    s["L"], s["R"] = left, right
    if diagonal:
        left, right = np.diag(np.diag(left)), np.diag(np.diag(right))
    if t <= every or t % every == 0:
        s["roots"] = root(left, -0.25), root(right, -0.25)
    s["m"] = momentum * s.get("m", 0) + (1 - momentum) * big
    u = (s["roots"][0] @ s["m"] @ s["roots"][1]).reshape(p.shape)
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def soap(p, g, s, t, f, a=0.01, w=0.02, b1=0.9, b2=0.95, eps=1e-8, every=10, decay=Decay.BY_LEARNING_RATE):
    """Vyas et al. 2024, Algorithms 3 and 4, with Adam's corrections; vectors by Adam. The first step only makes the bases."""
    count = t - 1
    if g.ndim == 1:
        if t == 1:
            return p
        m, v = adam_moments(g, s, count, b1, b2)
        u = m / (np.sqrt(v) + eps)
        return p - f * a * u - shrink(decay, p, u, f, a, w)
    s["L"] = b2 * s.get("L", 0) + (1 - b2) * g @ g.T
    s["R"] = b2 * s.get("R", 0) + (1 - b2) * g.T @ g
    if t == 1:
        s["QL"] = np.linalg.eigh(s["L"])[1]
        s["QR"] = np.linalg.eigh(s["R"])[1]
        if every == 1:
            s["QL"], s["QR"] = np.linalg.qr(s["L"] @ s["QL"])[0], np.linalg.qr(s["R"] @ s["QR"])[0]
        return p
    q, r = s["QL"], s["QR"]
    turned = q.T @ g @ r
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * turned**2
    inside = (q.T @ s["m"] @ r / (1 - b1**count)) / (np.sqrt(s["v"] / (1 - b2**count)) + eps)
    u = q @ inside @ r.T
    if t % every == 0:
        s["QL"] = np.linalg.qr(s["L"] @ q)[0]
        s["QR"] = np.linalg.qr(s["R"] @ r)[0]
    return p - f * a * u - shrink(decay, p, u, f, a, w)


def muon(p, g, s, t, f, a=0.02, w=0.02, b=0.9, nesterov=True, scale=UpdateScale.BY_SHAPE, decay=Decay.BY_LEARNING_RATE):
    """Jordan et al. 2024: momentum as in their code, which sums; only its direction matters."""
    s["m"] = b * s.get("m", 0) + g
    x = g + b * s["m"] if nesterov else s["m"]
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    rows, columns = p.shape
    factor = max(1, columns / rows) ** 0.5 if scale is UpdateScale.BY_SHAPE else 0.2 * max(rows, columns) ** 0.5
    u = factor * x
    return p - f * a * u - shrink(decay, p, u, f, a, w)


CASES = {
    "nadamw": (nadamw, optim.nadamw(0.01, 0.02, b2=0.99, psi=0.01), {}),
    "radam": (radam, optim.radam(0.01, 0.02, b2=0.99, tractable=4), {}),
    "radam, as torch": (radam, optim.radam(0.01, 0.02, b2=0.99), {"tractable": 5.0}),
    "radam, never tractable": (radam, optim.radam(0.2, 0.02, b2=0.5), {"a": 0.2, "b2": 0.5, "tractable": 5.0}),
    "yogi": (yogi, optim.yogi(0.01, 0.02, b2=0.99), {}),
    "yogi of the paper": (yogi, optim.yogi(0.01, 0.02, b2=0.99, debias=False), {"debias": False}),
    "lamb": (lamb, optim.lamb(0.01, 0.02, b2=0.99), {}),
    "lion": (lion, optim.lion(0.002, 0.02), {}),
    "adafactor": (adafactor, optim.adafactor(0.03, 0.02), {}),
    "adafactor, unscaled": (adafactor, optim.adafactor(0.03, 0.02, 0.7, threshold=2.0), {"rate": 0.7, "threshold": 2.0}),
    "shampoo": (shampoo, optim.shampoo(0.05, 0.02, every=1), {}),
    "shampoo, momentum": (shampoo, optim.shampoo(0.05, 0.02, 0.9, every=7), {"momentum": 0.9, "every": 7}),
    "shampoo, diagonal": (shampoo, optim.shampoo(0.05, 0.02, every=1, largest=1), {"diagonal": True}),
    "soap": (soap, optim.soap(0.01, 0.02, b1=0.9), {}),
    "soap, every 3": (soap, optim.soap(0.01, 0.02, b1=0.9, every=3), {"every": 3}),
    "muon": (muon, optim.muon(0.02, 0.02, 0.9), {}),
    "muon, as adamw": (
        muon,
        optim.muon(0.02, 0.02, 0.9, nesterov=False, scale=UpdateScale.AS_ADAMW),
        {"nesterov": False, "scale": UpdateScale.AS_ADAMW},
    ),
}
SLOW = {  # momentum in the valley
    "radam": (radam, optim.radam(1e-4, 0.02, b2=0.99, tractable=4), {"a": 1e-4}),
    "radam, as torch": (radam, optim.radam(1e-4, 0.02, b2=0.99), {"a": 1e-4, "tractable": 5.0}),
    "radam, never tractable": (radam, optim.radam(1e-4, 0.02, b2=0.5), {"a": 1e-4, "b2": 0.5, "tractable": 5.0}),
}
MAKERS = {"nadamw": 0.01, "radam": 0.01, "yogi": 0.01, "lion": 0.002, "adafactor": 0.03, "shampoo": 0.05, "muon": 0.02}
OTHERS = {"nadamw": {"b2": 0.99, "psi": 0.01}, "radam": {"b2": 0.99, "tractable": 4}, "yogi": {"b2": 0.99}}
OTHERS |= {"lion": {}, "adafactor": {}, "shampoo": {"every": 1}, "muon": {"momentum": 0.9}}


def follow(rule, optimizer, loss, steps=STEPS, **options):
    """The parameters of both after the same gradients, which are those of the reference."""
    with jax.enable_x64(True):
        theirs, states = start(loss), {name: {} for name in start(loss)}
        ours = jax.tree.map(jnp.asarray, theirs)
        tags = {name: WEIGHT if name[0] == "w" else BIAS for name in theirs}
        state, gradient = optimizer.init(ours, tags), jax.jit(jax.grad(loss))
        step = jax.jit(lambda g, state, params, scale: optimizer.advance(g, state, params, tags, scale))
        for t in range(1, steps + 1):
            f = 1 - t / (steps + 50)
            grads = {name: np.asarray(g) for name, g in gradient(theirs, (8 * t + np.arange(24)) % 32).items()}
            ours, state = step(grads, state, ours, f)
            theirs = {name: rule(p, grads[name], states[name], t, f, **options) for name, p in theirs.items()}
        return jax.tree.map(np.asarray, ours), theirs


def check(ours, theirs, loss):
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-10)
    with jax.enable_x64(True):
        assert float(loss(theirs, np.arange(32))) < 0.9 * float(loss(start(loss), np.arange(32)))  # it trained


@pytest.mark.broad
@pytest.mark.parametrize("name", CASES)
def test_200_steps_on_a_network_of_three_layers(name):
    rule, optimizer, options = CASES[name]
    loss = matrices if name.startswith("muon") else network
    check(*follow(rule, optimizer, loss, **options), loss)


@pytest.mark.broad
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (", " in name)) for name in CASES])
def test_200_steps_in_the_valley_of_rosenbrock(name):
    rule, optimizer, options = {**CASES, **SLOW}[name]
    check(*follow(rule, optimizer, banana, **options), banana)


@pytest.mark.broad
@pytest.mark.parametrize("decay", [Decay.INDEPENDENT, Decay.CAUTIOUS])
@pytest.mark.parametrize("name", MAKERS)
def test_other_decays(name, decay):
    amount = 1e-3 if decay is Decay.INDEPENDENT else 0.5
    optimizer = getattr(optim, name)(MAKERS[name], amount, decay=decay, **OTHERS[name])
    loss = matrices if name == "muon" else network
    ours, theirs = follow(globals()[name], optimizer, loss, steps=50, w=amount, decay=decay)
    for part in theirs:
        np.testing.assert_allclose(ours[part], theirs[part], rtol=0, atol=1e-10)


def in_one_program(optimizer, dtype, start, tags, grads):
    """The parameters after all gradients, computed in that dtype."""
    with jax.enable_x64(True):
        params, given = (jax.tree.map(lambda x: jnp.asarray(x, dtype), tree) for tree in (start, grads))

        def step(carry, g):
            params, state = carry
            return optimizer.advance(g, state, params, tags, jnp.asarray(1.0, dtype)), None

        (end, _), _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))((params, optimizer.init(params, tags)), given)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), end)


@pytest.mark.broad
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (", " in name)) for name in CASES])
def test_float32_loses_no_more_than_its_last_digits(name):
    """200 steps of small gradients that drift, in float32 and in float64: apart by 1e-5 of the way that the parameters went."""
    _, optimizer, _ = CASES[name]
    first = start(matrices if name.startswith("muon") else network)
    rng = np.random.default_rng(0)
    tags = {part: WEIGHT if part[0] == "w" else BIAS for part in first}
    grads = {
        part: np.float32(1e-3 * (rng.standard_normal(p.shape) + rng.standard_normal((STEPS, *p.shape))))
        for part, p in first.items()
    }
    ours, exact = (in_one_program(optimizer, dtype, first, tags, grads) for dtype in (jnp.float32, jnp.float64))
    for part in first:
        assert np.linalg.norm(ours[part] - exact[part]) < 1e-5 * np.linalg.norm(exact[part] - first[part])


@pytest.mark.broad
@pytest.mark.parametrize("b", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_the_length_of_a_moving_average_has_its_digits_in_float32(b):
    """The paper's rho_t, computed with fractions where float64 would cancel."""
    t = np.unique(np.geomspace(1, 10**6, 60).astype(int))
    with localcontext(prec=60):
        exact = [2 / (1 - Decimal(b)) - 1 - 2 * i * Decimal(b) ** i / (1 - Decimal(b) ** i) for i in map(Decimal, map(int, t))]
    np.testing.assert_allclose(length(b, jnp.asarray(t, jnp.float32)), np.array(exact, float), rtol=2e-6)
