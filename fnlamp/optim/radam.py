"""Rectified Adam."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import number
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag


def radam(
    learning_rate: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    tractable: float = 5.0,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam whose step is rectified while few gradients are known (Liu et al. 2019, Algorithm 2), with decoupled weight decay.

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1:
    `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `m' = m / (1 - b1^t)`,
    `rho = rho_inf - 2 t b2^t / (1 - b2^t)` with `rho_inf = 2 / (1 - b2) - 1`; if rho is above `tractable`,
    `l = sqrt(1 - b2^t) / (sqrt(v) + eps)`, `r = sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))` and
    `p = p - f a r m' l - f a w p`, else `p = p - f a m' - f a w p`.
    The default equals torch's `RAdam` with `decoupled_weight_decay`.  The paper and lamp have `tractable=4`; the paper has no
    decay, lamp's is `Decay.INDEPENDENT`.

    >>> optimizer = radam(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"]).round(3))  # the first steps are those of momentum
    [0.8]
    """
    b1, b2, eps = share("radam: b1", b1), share("radam: b2", b2), above_zero("radam: eps", eps)
    tractable = number("radam: tractable", tractable, "a number of 4 or more", lambda n: n >= 4)
    decay = check_decay("radam", decay)
    rho_inf = 2 / (1 - b2) - 1

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        m = b1 * slots["m"] + (1 - b1) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(g)
        t = step.astype(g.dtype)
        m_hat, rho = m / one_minus_power(b1, t), length(b2, t)
        above = rho > tractable
        rho = jnp.where(above, rho, tractable)
        adaptive = jnp.sqrt(one_minus_power(b2, t)) / (jnp.sqrt(v) + eps)
        rectified = jnp.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) if rho_inf > 4 else 1.0
        update = jnp.where(above, rectified * m_hat * adaptive, m_hat)
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m, "v": v}

    return lift("radam", ("m", "v"), rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})


def length(b: float, t: Array) -> Array:
    """The paper's `rho_t`, the length of the moving average so far, without cancellation.

    For b near 1 both terms of `rho_inf - 2 t b^t / (1 - b^t)` are large, and float32 would leave 4 digits of their difference.
    With `h = -log b` and the Langevin function `L(x) = coth x - 1 / x` it is `L(h / 2) + t (1 - L(t h / 2))`.
    """
    if b == 0:
        return jnp.ones_like(t)
    h = -math.log(b)
    x = t * h / 2
    # its Taylor series; from 0.5 on the other form, which loses nothing there
    small = 1 - x / 3 + x**3 / 45 - 2 * x**5 / 945 + x**7 / 4725 - 2 * x**9 / 93555
    large = jnp.maximum(x, 0.5)
    near_zero = 1 / math.tanh(h / 2) - 2 / h
    return near_zero + t * jnp.where(x < 0.5, small, 1 / large - 2 / jnp.expm1(2 * large))
