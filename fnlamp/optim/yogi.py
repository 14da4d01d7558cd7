"""Yogi: Adam whose second moment changes by a bounded amount."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import flag
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag


def yogi(
    learning_rate: Hyper = 1e-2,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-3,
    debias: bool = True,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam whose second moment grows and falls by at most `(1 - b2) g^2` a step (Zaheer et al. 2018, Algorithm 2).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1:
    `m = b1 m + (1 - b1) g`, `v = v - (1 - b2) sign(v - g^2) g^2`, `m' = m / (1 - b1^t)`, `v' = v / (1 - b2^t)`,
    `p = p - f a m' / (sqrt(v') + eps) - f a w p`.
    `debias=False` takes m and v themselves, as the paper does, which has no decay.  lamp's rule is this one with
    `Decay.INDEPENDENT`; torch has none.

    >>> optimizer = yogi(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"]).round(3))
    [0.9]
    """
    b1, b2, eps = share("yogi: b1", b1), share("yogi: b2", b2), above_zero("yogi: eps", eps)
    debias, decay = flag("yogi: debias", debias), check_decay("yogi", decay)

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        m = b1 * slots["m"] + (1 - b1) * g
        v = slots["v"] - (1 - b2) * jnp.sign(slots["v"] - jnp.square(g)) * jnp.square(g)
        t = step.astype(g.dtype)
        m_hat, v_hat = (m / one_minus_power(b1, t), v / one_minus_power(b2, t)) if debias else (m, v)
        update = m_hat / (jnp.sqrt(v_hat) + eps)
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m, "v": v}

    return lift("yogi", ("m", "v"), rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})
