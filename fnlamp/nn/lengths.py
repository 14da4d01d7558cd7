"""Sequences in a padded batch: the length of each row, and where rows start."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnlamp.arrays import Array, Tree, describe, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.nn.check import check_float


class Sequences(NamedTuple):
    """What a layer over time is given: the sequences, perhaps the length of each, perhaps whether each starts here."""

    x: Any
    lengths: Any = None
    starts: Any = None

    def with_x(self, x: Any) -> Tree:
        """The same, with other features, in the form in which they were given."""
        rest = [part for part in (self.lengths, self.starts) if part is not None]
        return (x, *rest) if rest else x


def split(given: Tree, where: str, carried: bool = False) -> Sequences:
    """The parts of `x`, `(x, lengths)`, or if it is `carried` `(x, starts)`, `(x, lengths, starts)`, arrays or specs.

    Fails: `ShapeMismatch`, `DtypeMismatch`.
    """
    one = not isinstance(given, tuple | list)
    forms = {2: "(x, starts)", 3: "(x, lengths, starts)"} if carried else {1: "x", 2: "(x, lengths)"}
    parts = (given,) if one else tuple(given)
    x: Any = parts[0] if parts else None
    if len(parts) not in forms or one != (len(parts) == 1) or not hasattr(x, "shape") or len(x.shape) < 2:
        expected = "an array of shape (batch, time, ...)" if forms.get(1) and len(parts) < 2 else " or ".join(forms.values())
        hint = "starts is a boolean for each row: whether its sequence starts in this batch" if carried else ""
        raise FaultError(ShapeMismatch(expected, describe(given), hint, where=where))
    check_float(x, where)
    starts = parts[-1] if carried else None
    lengths = parts[1] if len(parts) - carried == 2 else None
    part: Any
    for name, part, fits in (("lengths", lengths, is_integer), ("starts", starts, lambda a: a.dtype == bool)):
        if part is not None and (not hasattr(part, "shape") or part.shape != x.shape[:1]):
            raise FaultError(ShapeMismatch(f"{name} of shape ({x.shape[0]},)", describe(part), where=where))
        if part is not None and not fits(part):
            kind = "integer lengths" if name == "lengths" else "starts that are booleans"
            raise FaultError(DtypeMismatch(kind, describe(part), where=where))
    return Sequences(x, lengths, starts)


def known(lengths: Array, time: int) -> Array:
    """Which rows have a length that is possible."""
    wide = widened(lengths)
    return (wide >= 0) & (wide <= time)


def masked(parts: Sequences, *, nan: bool = False) -> Array:
    """The features with 0 after the length of each row, so that padding has neither an effect nor a gradient.

    With `nan`, a row whose length is not possible is NaN.
    """
    x, lengths = parts.x, parts.lengths
    if lengths is None:
        array: Array = x
        return array
    inside = jnp.arange(x.shape[1])[None] < widened(lengths)[:, None]
    zeroed = jnp.where(_along(inside, x), x, jnp.zeros((), x.dtype))
    return jnp.where(_along(known(lengths, x.shape[1]), x), zeroed, jnp.nan) if nan else zeroed


def reverse(x: Array, lengths: Array | None) -> Array:
    """Each row from its end to its start; what comes after its length stays where it is."""
    if lengths is None:
        return jnp.flip(x, 1)
    time, ends = jnp.arange(x.shape[1])[None], widened(lengths)[:, None]
    index = jnp.clip(jnp.where(time < ends, ends - 1 - time, time), 0, max(x.shape[1] - 1, 0))
    return jnp.take_along_axis(x, _along(index, x), axis=1, mode="promise_in_bounds")


def at_length(x: Array, lengths: Array) -> Array:
    """Each row's features at its last time step: zeros for a row of length 0, NaN for a length that is not possible."""
    zeros = jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype)
    at = jnp.clip(widened(lengths), 0, x.shape[1])[:, None]
    last = jnp.take_along_axis(jnp.concatenate([zeros, x], 1), _along(at, x), axis=1, mode="promise_in_bounds")[:, 0]
    return jnp.where(_along(known(lengths, x.shape[1]), last), last, jnp.nan)


def widened(lengths: Array) -> Array:
    """In 8 bits, a comparison with 300 time steps would be one with 44."""
    return lengths.astype(jnp.int32) if lengths.dtype.itemsize < 4 else lengths


def _along(rows: Array, x: Array) -> Array:
    return rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim))
