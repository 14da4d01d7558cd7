"""Weight decay: how it depends on the learning rate and on the update."""

from __future__ import annotations

from enum import Enum
from typing import Any

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import instance


class Decay(Enum):
    """How weight decay depends on the learning rate and on the update."""

    BY_LEARNING_RATE = "by learning rate"
    """`p -= scale * learning_rate * weight_decay * p`: the usual default, as in torch's AdamW."""
    INDEPENDENT = "independent"
    """`p -= scale * weight_decay * p`: Loshchilov & Hutter 2017, Algorithms 1 and 2, and lamp's SGDW."""
    CAUTIOUS = "cautious"
    """By learning rate, but only where the update moves the parameter towards zero: Chen et al. 2025, arXiv 2510.12402."""


def check_decay(name: str, decay: Any) -> Decay:
    """Raises: `TypeError` for anything but a `Decay`."""
    known = "optim.Decay.BY_LEARNING_RATE, optim.Decay.INDEPENDENT or optim.Decay.CAUTIOUS"
    made: Decay = instance(f"{name}: decay", decay, Decay, f"{known} (its amount is weight_decay)")
    return made


def decayed(decay: Decay, p: Array, update: Array, f: Array, a: Array, w: Array) -> Array:
    """What is subtracted for the decay: `a w p`, or `f w p`, or `a w p` where `update p >= 0`.

    `update` is what the rule subtracts besides, up to a positive factor; `f` is the schedule's factor, `a` is `f` times the
    learning rate.
    """
    if decay is Decay.INDEPENDENT:
        return f * w * p
    whole = a * w * p
    return jnp.where(update * p >= 0, whole, jnp.zeros_like(p)) if decay is Decay.CAUTIOUS else whole
