"""Dropout: of single numbers, of whole channels, of whole branches."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, number
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode, Train
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.lowering.drawn import kept


@arguments("the rate is the probability to drop: nn.dropout(0.5)")
def dropout(rate: float) -> Layer:
    """Zero each number with probability `rate` and divide the others by `1 - rate`, so that the expectation is unchanged.

    `Train` draws from its key; `Eval` is the identity.  Shapes: unchanged.  Raises: `ValueError` unless 0 <= rate < 1.
    Fails: `DtypeMismatch` for input that is not floating-point.  Reference: Srivastava et al. 2014, section 10's inverted form.

    >>> from fnlamp import Eval
    >>> dropout(0.5).apply({}, {}, jnp.ones(3), Eval())[0]
    Array([1., 1., 1.], dtype=float32)
    """
    return _dropped("dropout", rate, lambda shape: shape)


@arguments("the rate is the probability to drop a channel: nn.channel_dropout(0.2)")
def channel_dropout(rate: float) -> Layer:
    """Zero each channel of each row, at all its positions, with probability `rate`, and divide the others by `1 - rate`.

    For neighbours that are alike, as pixels are: torch's `Dropout1d`, `2d` and `3d`, with the channels last.
    `Train` draws from its key; `Eval` is the identity.  Shapes: `(batch, ..., channels)`, unchanged.
    Raises: `ValueError` unless 0 <= rate < 1.  Fails: `ShapeMismatch` without positions, where `dropout` does the same.
    Reference: Tompson et al. 2014, section 3.2.

    >>> y, _ = channel_dropout(0.5).apply({}, {}, jnp.ones((1, 2, 4)), Train(key))
    >>> bool((y[0, 0] == y[0, 1]).all())
    True
    """
    return _dropped("channel_dropout", rate, lambda shape: (shape[0], *(1,) * (len(shape) - 2), shape[-1]), least=3)


@arguments("the rate is the probability to drop a row of the branch: nn.stochastic_depth(0.1)")
def stochastic_depth(rate: float) -> Layer:
    """Zero whole rows with probability `rate` and divide the others by `1 - rate`: at the end of a residual branch.

    A row whose branch is zero skips it.  `Train` draws from its key; `Eval` is the identity.  Shapes: unchanged.
    Raises: `ValueError` unless 0 <= rate < 1.  Fails: `ShapeMismatch` without a batch axis; `DtypeMismatch` for integers.
    Reference: Huang et al. 2016, eq. 2, in the inverted form, which leaves evaluation as it is.

    >>> block = nn.residual(nn.linear(4) >> nn.relu >> nn.stochastic_depth(0.2))
    """
    return _dropped("stochastic_depth", rate, lambda shape: (shape[0], *(1,) * (len(shape) - 1)), least=1)


def _dropped(name: str, rate: float, mask: Callable[[tuple[int, ...]], tuple[int, ...]], least: int = 0) -> Layer:
    """Dropout with a mask of the shape `mask(shape of x)`, which broadcasts; `x` has a rank of at least `least`."""
    rate = checked_rate(f"{name}: rate", rate)
    axes = {1: "(batch, ...)", 3: "(batch, ..., channels) with positions between"}

    def check(x: Array | Spec) -> None:
        if least:
            check_shape(x, lambda shape: len(shape) >= least, f"an array of shape {axes[least]}", name)
        check_float(x, name)

    def init(key: Key, spec: Spec) -> Init:
        del key
        check(spec)
        return Init({}, {}, spec, {})

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del params
        check(x)
        if not isinstance(mode, Train) or rate == 0:
            return x, state
        drawn = kept(mode.root, mode.path, rate, mask(x.shape))
        return jnp.where(drawn, x / (1 - rate), jnp.zeros((), x.dtype)), state

    return Layer(init, apply, f"{name}({rate:g})")


def checked_rate(name: str, rate: float) -> float:
    """The rate as a float.  Raises: `TypeError`, `ValueError` unless 0 <= rate < 1."""
    rate = number(name, rate, "a probability, 0 <= rate < 1")
    if not 0 <= rate < 1:
        hint = f"; write {rate / 100:g} for {rate:g} %" if 1 < rate < 100 else ""
        raise ValueError(f"{name}: dropout needs 0 <= rate < 1, got {rate:g}{hint}")
    return rate
