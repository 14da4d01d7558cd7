"""The rules against float64 transcriptions of the papers, hand numbers, and hyperparameters by tag."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Role, Tag, optim
from fnlamp.optim import Decay

RNG = np.random.default_rng(0)
START = RNG.standard_normal((3, 4))
GRADIENTS = RNG.standard_normal((25, 3, 4))
SCALES = 1 / np.sqrt(1 + np.arange(25))
TAG = Tag("linear", Role.WEIGHT)
decays = pytest.mark.parametrize("decay", Decay)


def shrink(decay, theta, step, eta, a, w):
    """eta w x, or eta a w x, or that where the step and x have the same sign (Chen et al. 2025)."""
    if decay is Decay.INDEPENDENT:
        return eta * w * theta
    return eta * a * w * theta * ((step * theta >= 0) if decay is Decay.CAUTIOUS else 1)


def ours(optimizer, dtype=jnp.float32):
    params, tags = {"w": jnp.asarray(START, dtype)}, {"w": TAG}
    state = optimizer.init(params, tags)
    for g, scale in zip(GRADIENTS, SCALES, strict=True):
        params, state = optimizer.advance({"w": jnp.asarray(g, dtype)}, state, params, tags, scale)
    return np.asarray(params["w"], np.float64)


@decays
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_sgdw_is_algorithm_1_of_loshchilov_and_hutter(decay, momentum):
    """Lines 6 to 9: m_t = b1 m_{t-1} + eta_t a g_t;  x_t = x_{t-1} - m_t - eta_t w x_{t-1}, or a w in place of w."""
    a, w, theta, m = 0.05, 0.01, START.copy(), np.zeros_like(START)
    for g, eta in zip(GRADIENTS, SCALES, strict=True):
        m = (momentum or 0.0) * m + eta * a * g
        theta = theta - m - shrink(decay, theta, m, eta, a, w)
    np.testing.assert_allclose(ours(optim.sgdw(a, w, momentum, decay=decay)), theta, rtol=0, atol=2e-6)


@decays
def test_adamw_is_algorithm_2_of_loshchilov_and_hutter(decay):
    """Lines 6 to 12, with m-hat and v-hat; x_t = x_{t-1} - eta_t (a m-hat / (sqrt(v-hat) + eps) + w x_{t-1}), or a w for w."""
    a, w, b1, b2, eps = 0.01, 0.02, 0.9, 0.999, 1e-8
    theta, m, v = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t, (g, eta) in enumerate(zip(GRADIENTS, SCALES, strict=True), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = a * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        theta = theta - eta * step - shrink(decay, theta, step, eta, a, w)
    np.testing.assert_allclose(ours(optim.adamw(a, w, b1, b2, eps, decay=decay)), theta, rtol=0, atol=2e-6)


def test_nesterov_looks_ahead():
    a, b, theta, v = 0.05, 0.9, START.copy(), np.zeros_like(START)
    for g, eta in zip(GRADIENTS, SCALES, strict=True):
        v = b * v + eta * a * g
        theta = theta - (b * v + eta * a * g)
    np.testing.assert_allclose(ours(optim.sgdw(a, momentum=b, nesterov=True)), theta, rtol=0, atol=2e-6)


@decays
@pytest.mark.parametrize("nesterov", [False, True])
def test_in_float64_nothing_is_rounded_to_float32(decay, nesterov):
    """Sutskever et al. 2013 with the decay of Loshchilov & Hutter: rates, scales and moments keep all their digits."""
    a, w, b, theta, v = 0.05, 0.01, 0.9, START.copy(), np.zeros_like(START)
    for g, eta in zip(GRADIENTS, SCALES, strict=True):
        v = b * v + eta * a * g
        step = b * v + eta * a * g if nesterov else v
        theta = theta - step - shrink(decay, theta, step, eta, a, w)
    with jax.enable_x64(True):
        optimizer = optim.sgdw(a, w, b, nesterov=nesterov, decay=decay)
        np.testing.assert_allclose(ours(optimizer, jnp.float64), theta, rtol=0, atol=1e-13)


@decays
def test_adamw_in_float64(decay):
    a, w, theta, m, v = 0.01, 0.02, START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t, (g, eta) in enumerate(zip(GRADIENTS, SCALES, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = a * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        theta = theta - eta * step - shrink(decay, theta, step, eta, a, w)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ours(optim.adamw(a, w, decay=decay), jnp.float64), theta, rtol=0, atol=1e-12)


def test_two_steps_of_adam_by_hand():
    """lamp's recorded figures: parameters (1, 1), gradients (.5, .75), rate .1, b1 .999, b2 .9."""
    optimizer = optim.adamw(0.1, b1=0.999, b2=0.9)
    params, tags = {"w": jnp.ones(2)}, {"w": TAG}
    state = optimizer.init(params, tags)
    for expected in ([0.9000000063, 0.9000000042], [0.8000000109, 0.8000000073]):
        params, state = optimizer.advance({"w": jnp.array([0.5, 0.75])}, state, params, tags, 1.0)
        np.testing.assert_allclose(params["w"], expected, atol=3e-7)


LAMP = {
    "radam": (optim.radam(0.1, b1=0.999, b2=0.9, tractable=4), [(0.95, 0.925), (0.9, 0.85)]),
    "yogi": (optim.yogi(1.0, 1e-5, decay=Decay.INDEPENDENT), [(0.001986, 0.0013216)]),
    "sgdw": (optim.sgdw(1.0, 0.1, decay=Decay.INDEPENDENT), [(0.4, 0.15), (-0.14, -0.615)]),
}


@pytest.mark.parametrize("name", LAMP)
def test_the_first_steps_by_hand(name):
    """lamp's recorded figures, where they are right: parameters (1, 1), gradients (.5, .75)."""
    optimizer, figures = LAMP[name]
    params, tags = {"w": jnp.ones(2)}, {"w": TAG}
    state = optimizer.init(params, tags)
    for expected in figures:
        params, state = optimizer.advance({"w": jnp.array([0.5, 0.75])}, state, params, tags)
        np.testing.assert_allclose(params["w"], expected, atol=6e-7)


@pytest.mark.slow
def test_decay_by_tag_skips_what_it_skips():
    params = {"bias": jnp.ones(3), "weight": jnp.ones((2, 3))}
    tags = {"bias": Tag("linear", Role.BIAS), "weight": TAG}
    grads = {"bias": jnp.full(3, 0.5), "weight": jnp.full((2, 3), 0.5)}
    for make in (optim.sgdw, optim.adamw, optim.nadamw, optim.radam, optim.yogi, optim.lion, optim.shampoo):
        chosen, plain = make(0.1, lambda tag: 0.5 if tag.role is Role.WEIGHT else 0.0), make(0.1, 0.0)
        some, none = (o.advance(grads, o.init(params, tags), params, tags)[0] for o in (chosen, plain))
        np.testing.assert_array_equal(some["bias"], none["bias"])
        np.testing.assert_allclose(some["weight"], none["weight"] - 0.05, rtol=1e-6)


def test_clipping_by_the_norm_of_all_arrays():
    """lamp's figure: eight ones clipped to a norm of 2.1."""
    clipped = optim.clip_by_global_norm({"a": jnp.ones((1, 2, 3)), "b": jnp.ones((1, 2))}, 2.1)
    for leaf in clipped.values():
        np.testing.assert_allclose(leaf, 0.7424621202, rtol=1e-6)
    untouched = optim.clip_by_global_norm({"a": jnp.array([0.1, 0.0])}, 2.1)
    np.testing.assert_array_equal(untouched["a"], np.array([0.1, 0.0], np.float32))
    assert (optim.clip_by_global_norm({"a": jnp.zeros(3)}, 1.0)["a"] == 0).all()


def test_the_clip_acts_before_the_rule():
    optimizer = optim.sgdw(1.0, clip=1.0)
    params = {"w": jnp.zeros(2)}
    tags = {"w": TAG}
    new, _ = optimizer.advance({"w": jnp.array([3.0, 4.0])}, optimizer.init(params, tags), params, tags)
    np.testing.assert_allclose(new["w"], [-0.6, -0.8], rtol=1e-6)


def test_half_precision_parameters_have_float32_moments():
    optimizer = optim.adamw(0.1)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tags = {"w": TAG}
    state = optimizer.init(params, tags)
    new, state = optimizer.advance({"w": jnp.ones(3, jnp.bfloat16)}, state, params, tags)
    assert (new["w"].dtype, state["m"]["w"].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: optim.sgdw(0.1, nesterov=True),
        lambda: optim.sgdw(0.1, clip=0.0),
        lambda: optim.sgdw(0.1, momentum=1.0),
        lambda: optim.sgdw(0.1, momentum=90),
        lambda: optim.adamw(b1=1.0),
        lambda: optim.cosine(0),
        lambda: optim.linear_ramp(1, 0, 0),
    ],
)
def test_wrong_arguments_are_bugs(wrong):
    with pytest.raises(ValueError, match=r"needs|above|below 1"):
        wrong()


def test_schedules_by_hand():
    steps = np.arange(8)
    np.testing.assert_allclose(
        [optim.linear_ramp(1, 0.2, 4)(s) for s in steps], [1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2], rtol=1e-6
    )
    cosine = [0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * min(s / 5, 1))) for s in steps]
    np.testing.assert_allclose([optim.cosine(5, 0.1)(s) for s in steps], cosine, rtol=1e-6)
    warm = optim.warmup(3, optim.linear_ramp(1, 0, 5))
    np.testing.assert_allclose([warm(s) for s in steps], [1 / 3, 2 / 3, 1, 1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    assert optim.constant()(3) == 1.0
