"""Waiting for a computation over several processes: one that is stopped in the middle of it must not hang the others."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import jax

from fnlamp import tree
from fnlamp.effect.runtime import GLANCE
from fnlamp.fault import FaultError
from fnlamp.given import instance, text
from fnlamp.scale.cluster import Cluster
from fnlamp.scale.seconds import seconds

_SHORTEST: Final = 20e-6


def await_ready(arrays: Any, cluster: Cluster, at: str = "a computation", *, deadline: float | None = None) -> Any:
    """Wait until the arrays of a tree are computed, as long as all processes live, and return the tree.

    A computation across processes waits without end for one that is stopped, so ask for its arrays through this before reading
    them. `at` names it in the fault. `deadline`: the most seconds that it may take, by default as long as it needs.

    Raises: `FaultError` with `ProcessLost`, `ProcessLate` or `ProcessFailed`; the error of a computation that fails by itself.

    >>> import jax.numpy as jnp
    >>> print(await_ready(jnp.arange(3) + 1, Cluster(0, 1, 10.0)))
    [1 2 3]
    """
    instance("cluster", cluster, Cluster, "a Cluster, from cluster(...).use(...)"), text("at", at)
    most = math.inf if deadline is None else seconds("deadline", deadline)
    leaves: list[Any] = [leaf for leaf in tree.leaves(arrays) if isinstance(leaf, jax.Array)]
    peers = cluster._peers
    if peers is None:
        return jax.block_until_ready(arrays)  # type: ignore[no-untyped-call]

    def ready(longest: float) -> bool:
        end, pause = time.monotonic() + longest, _SHORTEST
        while not all(leaf.is_ready() for leaf in leaves):
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, GLANCE / 10)
        return True

    others = tuple(peers.lives)
    peers.wait(ready, at, most, lambda: others)
    try:
        return jax.block_until_ready(arrays)  # type: ignore[no-untyped-call]
    except jax.errors.JaxRuntimeError as error:
        _blame(cluster, at, error)
        raise


def _blame(cluster: Cluster, at: str, error: jax.errors.JaxRuntimeError) -> None:
    """Find the process that is gone, whose connection has broken the computation. Returns if all live: it failed by itself."""
    peers = cluster._peers
    assert peers is not None
    end = time.monotonic() + cluster.deadline + 1.0

    def over(longest: float) -> bool:
        time.sleep(longest)
        return time.monotonic() > end

    try:
        peers.wait(over, at, math.inf, lambda: ())
    except FaultError as fault:
        raise fault from error
