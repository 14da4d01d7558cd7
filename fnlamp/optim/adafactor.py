"""Adafactor: a second moment of rows and columns instead of one of every number."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import number
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import above_zero
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag


def adafactor(
    learning_rate: Hyper = 1e-2,
    weight_decay: Hyper = 0.0,
    rate: float = 0.8,
    eps: float = 1e-30,
    smallest: float = 1e-3,
    threshold: float = 1.0,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam without momentum, with a factored second moment (Shazeer & Stern 2018, Algorithms 4 and 5).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 1, `b = 1 - t^-rate`, and means over
    the last axis (rows) and the one before (columns): `r = b r + (1 - b) mean(g^2 + eps)`, `c = b c + (1 - b) mean(g^2 + eps)`,
    `v = r c / mean(r)`, or `v = b v + (1 - b) (g^2 + eps)` for a parameter of one axis; `u = g / sqrt(v)`,
    `u' = u / max(1, rms(u) / threshold)`, `p = p - max(smallest, rms(p)) min(f a, 1 / sqrt(t)) u' - f a w p`.
    So the learning rate is relative to the size of the array.  The default equals torch's `Adafactor` up to where `eps` enters
    (torch bounds v from below instead); the paper has no decay, lamp has no such rule.

    >>> optimizer = adafactor(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.ones((2, 3))}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.full((2, 3), 2.0)}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"][0]).round(3), state["row"]["weight"].shape, state["column"]["weight"].shape)
    [0.9 0.9 0.9] (2,) (3,)
    """
    rate = number("adafactor: rate", rate, "a number above 0 and up to 1", lambda n: 0 < n <= 1)
    eps, smallest = above_zero("adafactor: eps", eps), above_zero("adafactor: smallest", smallest)
    threshold, decay = above_zero("adafactor: threshold", threshold), check_decay("adafactor", decay)

    def slots(p: Array, tag: Tag) -> Slots:
        if p.ndim < 2:
            return {"v": jnp.zeros(p.shape, wide(p))}
        return {"row": jnp.zeros(p.shape[:-1], wide(p)), "column": jnp.zeros((*p.shape[:-2], p.shape[-1]), wide(p))}

    def moment(g: Array, slots: Slots, b: Array) -> tuple[Array, Slots]:
        square = jnp.square(g) + eps
        if g.ndim < 2:
            v = b * slots["v"] + (1 - b) * square
            return v, {"v": v}
        row = b * slots["row"] + (1 - b) * square.mean(-1)
        column = b * slots["column"] + (1 - b) * square.mean(-2)
        # the smaller of two factors first, so that products of small numbers do not underflow
        shares = row / row.mean(-1, keepdims=True)
        return shares[..., :, None] * column[..., None, :], {"row": row, "column": column}

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        t = step.astype(g.dtype)
        v, kept = moment(g, slots, -jnp.expm1(-rate * jnp.log(t)))
        u = g / jnp.sqrt(v)
        update = u / jnp.maximum(1.0, rms(u) / threshold)
        size = jnp.maximum(smallest, rms(p)) * jnp.minimum(a, 1 / jnp.sqrt(t))
        return p - size * update - decayed(decay, p, update, f, a, w), kept

    return lift("adafactor", slots, rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})


def rms(x: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
