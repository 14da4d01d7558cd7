"""Mean, standard deviation, largest size, norm and share of zeros of many numbers, in few passes over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Tree, wide

NAMES = ("mean", "std", "largest", "norm", "zeros")
NORM = NAMES.index("norm")
WIDTH = 512
"""Numbers are added up in so many columns first, so that little is lost to rounding."""


def by_path(arrays: Tree) -> dict[str, list[Array]]:
    """Each array that has numbers, by its path with dots."""
    return {path.replace("/", "."): [leaf] for path, leaf in tree.paths(arrays).items() if leaf.size}


def summaries(groups: Mapping[str, list[Array]], *, zeros: bool = False) -> dict[str, Array]:
    """The statistics `NAMES` of the numbers of each group; the share of zeros, the last, if it is asked for."""

    def together(arrays: list[Array]) -> Array:
        dtype = np.result_type(*map(wide, arrays))
        return summary([x.astype(dtype).reshape(-1) for x in arrays], zeros=zeros)

    return {name: together(arrays) for name, arrays in groups.items()}


def summary(arrays: list[Array], *, zeros: bool) -> Array:
    """The statistics of all numbers of some vectors together.  Shape: `(4,)`, or `(5,)` with the share of zeros.

    Squares are of numbers in units of the largest, so that none overflows or underflows, and of differences from the mean.
    """
    count = sum(x.size for x in arrays)
    largest = jnp.stack([all_of(jnp.max, jnp.abs, x) for x in arrays]).max()
    tiny = float(np.finfo(largest.dtype).tiny)
    unit = jnp.where(jnp.isfinite(largest), jnp.maximum(largest, tiny), jnp.ones_like(largest))
    mean = _sum(lambda x: x * (1 / unit), arrays) / count
    variance = _sum(lambda x: jnp.square(x * (1 / unit) - mean), arrays) / count
    norm = jnp.sqrt(count * (variance + jnp.square(mean)))
    found = [mean * unit, jnp.sqrt(variance) * unit, largest, norm * unit]
    if zeros:
        found.append((_sum(lambda x: (x == 0).astype(jnp.int32), arrays) / count).astype(largest.dtype))
    return jnp.stack(found)


def _sum(of: Callable[[Array], Array], arrays: list[Array]) -> Array:
    return jnp.stack([all_of(jnp.sum, of, x) for x in arrays]).sum()


def all_of(combine: Callable[..., Array], of: Callable[[Array], Array], x: Array) -> Array:
    """`combine`, which is `jnp.sum` or `jnp.max`, of a function of each number; NaN if one is."""
    rows = x.size // WIDTH
    if rows < 2:
        return combine(of(x))
    columns = combine(of(x[: rows * WIDTH].reshape(rows, WIDTH)), axis=0)
    return combine(jnp.concatenate([columns, of(x[rows * WIDTH :])]))
