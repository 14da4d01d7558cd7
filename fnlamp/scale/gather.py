"""Arrays that are cut over several processes, whole in each of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from fnlamp.arrays import Tree
from fnlamp.given import instance
from fnlamp.scale.cluster import Cluster
from fnlamp.scale.ready import await_call


def is_here(arrays: Tree) -> bool:
    """Whether this process has every number of the arrays, so that it can read them without the others.

    >>> is_here({"weight": np.zeros(3)})
    True
    """
    return all(not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(arrays))


def _whole(part: Any) -> Any:
    """A function that is one for all arrays: those of one shape compile once."""
    return part


def gathered(arrays: Tree, cluster: Cluster) -> Tree:
    """The arrays in the memory of each process, whole, wherever their parts lie; all processes call it at the same point.

    Raises: `FaultError` as `Cluster.meet`.

    >>> gathered({"weight": np.zeros(2)}, Cluster(0, 1, 10.0))
    {'weight': array([0., 0.])}
    """
    instance("cluster", cluster, Cluster, "a Cluster, from cluster(...).use(...)").meet("gathering arrays")

    def one(x: Any) -> Any:
        if not is_here(x):
            everywhere = jax.sharding.NamedSharding(x.sharding.mesh, jax.sharding.PartitionSpec())  # type: ignore[no-untyped-call]
            x = await_call(partial(jax.jit(_whole, out_shardings=everywhere), x), cluster, "gathering arrays")
        return np.array(x)

    return jax.tree.map(one, arrays)
