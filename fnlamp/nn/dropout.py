"""Dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, number
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode, Train
from fnlamp.nn.check import check_float


@arguments("the rate is the probability to drop: nn.dropout(0.5)")
def dropout(rate: float) -> Layer:
    """Zero each number with probability `rate` and divide the others by `1 - rate`, so that the expectation is unchanged.

    `Train` draws from its key; `Eval` is the identity.  Shapes: unchanged.  Raises: `ValueError` unless 0 <= rate < 1.
    Fails: `DtypeMismatch` for input that is not floating-point.  Reference: Srivastava et al. 2014, section 10's inverted form.

    >>> from fnlamp import Eval
    >>> dropout(0.5).apply({}, {}, jnp.ones(3), Eval())[0]
    Array([1., 1., 1.], dtype=float32)
    """
    rate = checked_rate("dropout: rate", rate)

    def init(key: Key, spec: Spec) -> Init:
        del key
        check_float(spec, "dropout")
        return Init({}, {}, spec, {})

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del params
        check_float(x, "dropout")
        if not isinstance(mode, Train) or rate == 0:
            return x, state
        kept = jax.random.bernoulli(mode.key, 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)), state

    return Layer(init, apply, f"dropout({rate:g})")


def checked_rate(name: str, rate: float) -> float:
    """The rate as a float.  Raises: `TypeError`, `ValueError` unless 0 <= rate < 1."""
    rate = number(name, rate, "a probability, 0 <= rate < 1")
    if not 0 <= rate < 1:
        hint = f"; write {rate / 100:g} for {rate:g} %" if 1 < rate < 100 else ""
        raise ValueError(f"{name}: dropout needs 0 <= rate < 1, got {rate:g}{hint}")
    return rate
