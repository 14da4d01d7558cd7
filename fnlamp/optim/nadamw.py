"""Adam with Nesterov momentum and decoupled weight decay."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import number
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag


def nadamw(
    learning_rate: Hyper = 2e-3,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    psi: float = 0.004,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam with Nesterov momentum, which grows (Dozat 2016, Algorithm 2 and section 3), and decoupled weight decay.

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1, `u_t = b1 (1 - 0.96^(t psi) / 2)`:
    `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `v' = v / (1 - b2^t)`,
    `m' = u_(t+1) m / (1 - u_1 ... u_(t+1)) + (1 - u_t) g / (1 - u_1 ... u_t)`,
    `p = p - f a m' / (sqrt(v') + eps) - f a w p`.
    The default equals torch's `NAdam` with `decoupled_weight_decay`.  The paper has no decay; `Decay.INDEPENDENT` decays by
    `f w p`.  lamp has no such rule.

    >>> optimizer = nadamw(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"]).round(3))
    [0.894]
    """
    b1, b2, eps = share("nadamw: b1", b1), share("nadamw: b2", b2), above_zero("nadamw: eps", eps)
    psi = number("nadamw: psi", psi, "a number of 0 or more", lambda n: n >= 0)
    decay = check_decay("nadamw", decay)

    def slots(p: Array, tag: Tag) -> Slots:
        dtype = wide(p)
        return {"m": jnp.zeros(p.shape, dtype), "v": jnp.zeros(p.shape, dtype), "product": jnp.ones((), dtype)}

    def momentum(t: Array) -> Array:
        return b1 * (1 - 0.5 * jnp.exp(t * psi * math.log(0.96)))

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        t = step.astype(g.dtype)
        now, following = momentum(t), momentum(t + 1)
        product = slots["product"] * now
        m = b1 * slots["m"] + (1 - b1) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(g)
        m_hat = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
        update = m_hat / (jnp.sqrt(v / one_minus_power(b2, t)) + eps)
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m, "v": v, "product": product}

    return lift("nadamw", slots, rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})
