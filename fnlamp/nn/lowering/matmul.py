"""Matrix products."""

from __future__ import annotations

import math

import jax

from fnlamp.arrays import Array


def product(x: Array, weight: Array) -> Array:
    """`x @ weight` as a product of two matrices, the leading axes of `x` taken as one.

    The gradients are then products of matrices too.  With more axes XLA:CPU transposes them in ways that cost a third of
    the time of a layer, forward and backward together.
    """
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def in_memory(x: Array) -> Array:
    """`x`, stored in memory: XLA does not fuse its transposes and copies into the operations that read it.

    Fused, they would be repeated in each product, or make sums of slices access memory with a large stride.
    """
    made: Array = jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return made
