"""Stochastic gradient descent with decoupled weight decay."""

from __future__ import annotations

from fnlamp.arrays import Array
from fnlamp.given import flag
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag, check_hyper


def sgdw(
    learning_rate: Hyper,
    weight_decay: Hyper = 0.0,
    momentum: Hyper | None = None,
    nesterov: bool = False,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Stochastic gradient descent, with momentum and decoupled weight decay (Loshchilov & Hutter 2017, Algorithm 1).

    With f the schedule's factor, a the learning rate, w the weight decay, b the momentum:
    `v = b v + f a g`, then `p = p - v - f a w p`; `Decay.INDEPENDENT` decays by `f w p` instead (the paper's and lamp's).
    `nesterov` steps by `b v + f a g` (Sutskever et al. 2013).  As in the paper, the velocity includes the learning rate; torch
    keeps it outside, which is the same while `f a` is constant.  torch's `SGD(weight_decay=...)` is a different rule: there the
    decay enters the gradient and the velocity.

    >>> optimizer = sgdw(learning_rate=0.1, momentum=0.9)
    >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": None}
    >>> params, state = optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)
    >>> params
    {'weight': Array([0.8], dtype=float32)}
    """
    nesterov, decay = flag("sgdw: nesterov", nesterov), check_decay("sgdw", decay)
    if nesterov and momentum is None:
        raise ValueError("nesterov needs a momentum")
    if momentum is not None and check_hyper("momentum", momentum) >= 1:
        raise ValueError(f"momentum is a fraction of the last step, from 0 to below 1, got {momentum}")

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        if momentum is None:
            return p - a * g - decayed(decay, p, g, f, a, w), {}
        b = h["momentum"]
        v = b * slots["v"] + a * g
        update = b * v + a * g if nesterov else v
        return p - update - decayed(decay, p, update, f, a, w), {"v": v}

    hypers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    if momentum is None:
        return lift("sgdw", (), rule, clip, hypers)
    return lift("sgdw", ("v",), rule, clip, {**hypers, "momentum": momentum})
