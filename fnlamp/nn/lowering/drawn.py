"""Which numbers a dropout keeps: random masks that cost little more than reading them."""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Key

_MIX = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


def kept(root: Key, path: Any, rate: float, shape: tuple[int, ...]) -> Array:
    """Booleans of this shape, each true with probability `1 - rate`; a function of root, path and the place.

    The place of a number, counted through the array, is hashed with the path and the words of the key, twice, so that no mask
    is another one moved.  The generator of `jax.random` takes twenty rounds, which XLA:CPU compiles for each mask as a loop: a
    dropout took eight times as long, a deep network twice as long to compile.  The barrier keeps the hash out of each reader
    of the mask.
    """
    if prod(shape) > 2**32:  # more than the hash has places
        return jax.random.bernoulli(jax.random.fold_in(root, path), 1 - rate, shape)
    words = jax.random.key_data(root).ravel()
    at = np.array([path, path + 1]).astype(np.uint32) if isinstance(path, int) else path + np.arange(2, dtype=np.uint32)
    near, far = _mixed(at)
    for word in words:
        far = jnp.multiply(far, _MIX[0]) + word
    bits = _mixed(_mixed(jax.lax.iota(jnp.uint32, prod(shape)) + jnp.add(near, words[0])) + far)
    # 24 bits are exact in float32; and the bound is a float, which a lifted program has as an argument.
    draw, bound = (bits >> 8).astype(jnp.float32), (1 - rate) * 2**24
    mask: Array = jax.lax.optimization_barrier(draw < bound)  # type: ignore[no-untyped-call]
    return mask.reshape(shape)


def _mixed(x: Any) -> Any:
    """A permutation of the numbers of 32 bits in which each bit of `x` changes each bit of the result half of the time.

    Two multiplications and three shifts, found by search: Wellons 2018, "lowbias32".  At a path that is known when the program
    is traced, NumPy computes it.
    """
    x = (x ^ (x >> 16)) * _MIX[0]
    x = (x ^ (x >> 15)) * _MIX[1]
    return x ^ (x >> 16)
