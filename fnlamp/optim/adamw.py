"""Adam with decoupled weight decay."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift, zeros
from fnlamp.tag import Hyper, Scheduled, Tag


def adamw(
    learning_rate: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    b1: float | Scheduled = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, Algorithm 2; Kingma & Ba 2014, Algorithm 1).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1:
    `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `m' = m / (1 - b1^t)`, `v' = v / (1 - b2^t)`,
    `p = p - f a m' / (sqrt(v') + eps) - f a w p`; `Decay.INDEPENDENT` decays by `f w p` instead (the paper's).
    `Decay.CAUTIOUS` decays by `f a w p` where the update and p have the same sign.  b1 may be `scheduled`, as in one-cycle
    training: then the product of its values so far takes the place of `b1^t`.
    The default equals torch's `AdamW`, decay included.  lamp multiplies the decay by the bias-corrected step and adds eps to
    the uncorrected root.  Without decay it is Adam.

    >>> optimizer = adamw(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> params  # the first step has the size of the learning rate, for any gradient
    {'weight': Array([0.9], dtype=float32)}
    """
    fixed = None if isinstance(b1, Scheduled) else share("adamw: b1", b1)
    b2, eps, decay = share("adamw: b2", b2), above_zero("adamw: eps", eps), check_decay("adamw", decay)

    def first(p: Array, tag: Tag) -> Slots:
        product = {} if fixed is not None else {"product": jnp.ones((), wide(p))}
        return zeros("m", "v")(p, tag) | product

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w, b = f * h["learning_rate"], h["weight_decay"], h["b1"] if fixed is None else fixed
        m = b * slots["m"] + (1 - b) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(g)
        t = step.astype(g.dtype)
        product = {"product": b * slots["product"]} if fixed is None else {}
        m_hat = m / (one_minus_power(fixed, t) if fixed is not None else 1 - product["product"])
        v_hat = v / one_minus_power(b2, t)
        update = m_hat / (jnp.sqrt(v_hat) + eps)
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m, "v": v, **product}

    hypers: dict[str, Hyper] = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return lift("adamw", first, rule, clip, hypers if fixed is not None else {**hypers, "b1": b1})
