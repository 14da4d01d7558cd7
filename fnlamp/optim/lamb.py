"""LAMB: Adam with a step in proportion to the size of each array, for large batches."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag
from fnlamp.tree import global_norm


def lamb(
    learning_rate: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    clip: float | None = None,
) -> Optimizer:
    """Adam whose update of each array is scaled to the array's own norm (You et al. 2019, Algorithm 2, phi the identity).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1:
    `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `m' = m / (1 - b1^t)`, `v' = v / (1 - b2^t)`,
    `u = m' / (sqrt(v') + eps) + w p` and `p = p - f a |p| / |u| u`; the ratio is 1 if one of the norms is 0.
    As in the paper, the decay is part of the update that is scaled, so there is only this convention.  torch and lamp have no
    such rule.

    >>> optimizer = lamb(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([3.0, 4.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0, 2.0])}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"]).round(3))  # a step of 0.1 times the norm, which is 5
    [2.646 3.646]
    """
    b1, b2, eps = share("lamb: b1", b1), share("lamb: b2", b2), above_zero("lamb: eps", eps)

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        m = b1 * slots["m"] + (1 - b1) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(g)
        t = step.astype(g.dtype)
        m_hat, v_hat = m / one_minus_power(b1, t), v / one_minus_power(b2, t)
        update = m_hat / (jnp.sqrt(v_hat) + eps) + w * p
        size, length = global_norm(p), global_norm(update)
        both = (size > 0) & (length > 0)
        ratio = jnp.where(both, size / jnp.where(both, length, 1.0), 1.0)
        return p - a * ratio * update, {"m": m, "v": v}

    return lift("lamb", ("m", "v"), rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})
