"""Adam with decoupled weight decay."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import number
from fnlamp.optim.optimizer import Decay, Numbers, Optimizer, Slots, check_decay, lift
from fnlamp.tag import Hyper, Tag


def adamw(
    learning_rate: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, Algorithm 2; Kingma & Ba 2014, Algorithm 1).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1:
    `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `m' = m / (1 - b1^t)`, `v' = v / (1 - b2^t)`,
    `p = p - f a m' / (sqrt(v') + eps) - f a w p`; `Decay.INDEPENDENT` decays by `f w p` instead (the paper's).
    The default equals torch's `AdamW`, decay included.  lamp multiplies the decay by the bias-corrected step and adds eps to
    the uncorrected root.  Without decay it is Adam.

    >>> optimizer = adamw(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> params  # the first step has the size of the learning rate, for any gradient
    {'weight': Array([0.9], dtype=float32)}
    """
    b1, b2 = number("adamw: b1", b1, SHARE, _is_share), number("adamw: b2", b2, SHARE, _is_share)
    eps, decay = number("adamw: eps", eps, "a number above 0", lambda e: e > 0), check_decay("adamw", decay)

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        m = b1 * slots["m"] + (1 - b1) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(g)
        t = step.astype(g.dtype)
        m_hat, v_hat = m / one_minus_power(b1, t), v / one_minus_power(b2, t)
        decayed = (a if decay is Decay.BY_LEARNING_RATE else f) * w * p
        return p - a * m_hat / (jnp.sqrt(v_hat) + eps) - decayed, {"m": m, "v": v}

    return lift("adamw", ("m", "v"), rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})


SHARE = "the decay rate of a moving average, a number from 0 to below 1"


def _is_share(number: float) -> bool:
    return 0 <= number < 1


def one_minus_power(b: float, t: Array) -> Array:
    """`1 - b^t` without cancellation: in float32 `1 - 0.999` alone would be off by 1 part in 20,000."""
    return -jnp.expm1(t * math.log(b)) if b else jnp.ones_like(t)
