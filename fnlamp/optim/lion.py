"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.moments import share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag


def lion(
    learning_rate: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    b1: float = 0.9,
    b2: float = 0.99,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Every parameter moves by the learning rate, in the direction of momentum and gradient (Chen et al. 2023, Algorithm 2).

    With f the schedule's factor, a the learning rate, w the weight decay:
    `c = b1 m + (1 - b1) g`, `p = p - f a (sign(c) + w p)`, `m = b2 m + (1 - b2) g`.
    The default decay is the paper's.  The rate should be 3 to 10 times smaller than AdamW's, the decay as much larger (the
    paper's section 5).  torch and lamp have no such rule.

    >>> optimizer = lion(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> params
    {'weight': Array([0.9], dtype=float32)}
    """
    b1, b2, decay = share("lion: b1", b1), share("lion: b2", b2), check_decay("lion", decay)

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        update = jnp.sign(b1 * slots["m"] + (1 - b1) * g)
        m = b2 * slots["m"] + (1 - b2) * g
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m}

    return lift("lion", ("m",), rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})
