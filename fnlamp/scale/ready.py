"""Computing over several processes: one that is stopped in the middle of a collective must not hang the others."""

from __future__ import annotations

import contextlib
import contextvars
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import jax

from fnlamp import tree
from fnlamp.effect.runtime import GLANCE
from fnlamp.fault import FaultError
from fnlamp.given import function, instance, text
from fnlamp.scale.cluster import Cluster
from fnlamp.scale.peers import Peers
from fnlamp.scale.seconds import seconds

A = TypeVar("A")

_SHORTEST: Final = 20e-6
_BROKEN: Final = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION):")
"""The beginning of XLA's errors of execution, which JAX raises as `ValueError` or `JaxRuntimeError`."""


def await_call(compute: Callable[[], A], cluster: Cluster, at: str = "a computation", *, deadline: float | None = None) -> A:
    """Call a function that computes across processes, and return its arrays once they are computed, as long as all live.

    A collective waits without end for a process that is stopped, sometimes in the call itself. So in a cluster of several, the
    call is made on another thread, in this one's context and settings of JAX. `at` names the computation in a fault.
    `deadline`: the most seconds that it may take, compilation included; by default as long as it needs.

    Raises: `FaultError` with `ProcessLost`, `ProcessLate` or `ProcessFailed`; what the function raises by itself.

    >>> import jax.numpy as jnp
    >>> print(await_call(lambda: jnp.arange(3) + 1, Cluster(0, 1, 10.0)))
    [1 2 3]
    """
    (
        function("compute", compute, "a function without arguments"),
        instance("cluster", cluster, Cluster, "a Cluster"),
        text("at", at),
    )
    if isinstance(compute, type):
        raise TypeError(f"compute is a function without arguments, got the class {compute.__name__}")
    deadline = None if deadline is None else seconds("deadline", deadline)
    if cluster._peers is None:
        return jax.block_until_ready(compute())  # type: ignore[no-any-return, no-untyped-call]
    return await_ready(dispatched(compute, cluster, at, deadline=deadline), cluster, at, deadline=deadline)


def dispatched(compute: Callable[[], A], cluster: Cluster, at: str, *, deadline: float | None = None) -> A:
    """What the function returns, in a cluster of several, when its call ends: arrays that may not be computed yet.

    Raises: as `await_call`.
    """
    peers = cluster._peers
    assert peers is not None
    call = peers.computing.call(_as_here(compute))
    peers.wait(call.done.wait, at, deadline, lambda: tuple(peers.lives))
    if call.error is not None:
        _blame(peers, at, call.error)
        raise call.error
    found: A = call.value
    return found


def await_ready(arrays: A, cluster: Cluster, at: str = "a computation", *, deadline: float | None = None) -> A:
    """Wait until the arrays of a tree are computed, as long as all processes live, and return the tree; see `await_call`.

    Raises: `FaultError` with `ProcessLost`, `ProcessLate` or `ProcessFailed`; the error of a computation that fails by itself.

    >>> import jax.numpy as jnp
    >>> print(await_ready(jnp.arange(3) + 1, Cluster(0, 1, 10.0)))
    [1 2 3]
    """
    instance("cluster", cluster, Cluster, "a Cluster, from cluster(...).use(...)"), text("at", at)
    most = None if deadline is None else seconds("deadline", deadline)
    peers = cluster._peers
    if peers is not None:
        leaves: list[Any] = [leaf for leaf in tree.leaves(arrays) if isinstance(leaf, jax.Array)]
        peers.wait(lambda longest: _ready(leaves, longest), at, most, lambda: tuple(peers.lives))
    try:
        return jax.block_until_ready(arrays)  # type: ignore[no-any-return, no-untyped-call]
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if peers is not None:
            _blame(peers, at, error)
        raise


def unsaved(cluster: Cluster, save: str, process: int) -> str:
    """Why the part of a process will never come, or "". Any thread may ask.

    After the deadline the program finds a silent process by itself, and names it; only if it does not wait, this does.
    """
    life = None if cluster._peers is None else cluster._peers.lives.get(process)
    if life is not None and life.unsaved == save:
        return "could not write its part"
    return "ended before its part was written" if life is not None and life.silent >= 2 * cluster.deadline else ""


def give_up(cluster: Cluster, save: str) -> None:
    """Let process 0 know that this one cannot write its part of a save."""
    if cluster._peers is not None:
        cluster._peers.unsaved = save


def _as_here(compute: Callable[[], A]) -> Callable[[], A]:
    """The function in this thread's context and settings of JAX: in 32 bits, a program for float64 would be another one."""
    now: Any = jax.config
    settings = (
        (jax.default_device, now.jax_default_device),
        (jax.enable_x64, now.jax_enable_x64),
        (jax.default_matmul_precision, now.jax_default_matmul_precision),
        (jax.numpy_dtype_promotion, now.jax_numpy_dtype_promotion),
        (jax.numpy_rank_promotion, now.jax_numpy_rank_promotion),
        (jax.transfer_guard, "allow"),
    )

    def call() -> A:
        with contextlib.ExitStack() as stack:
            for setting, value in settings:
                stack.enter_context(setting(value))
            return compute()

    return partial(contextvars.copy_context().run, call)


def _ready(leaves: list[Any], longest: float) -> bool:
    end, pause = time.monotonic() + longest, _SHORTEST
    while not all(leaf.is_ready() for leaf in leaves):
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, GLANCE / 10)
    return True


def _blame(peers: Peers, at: str, error: Exception) -> None:
    """Raise the fault of the process that is gone, whose connection has broken a collective. Returns if all live."""
    if not _BROKEN.match(str(error)):
        return  # an error of the caller's function
    end = time.monotonic() + peers.deadline + 1.0
    while time.monotonic() < end:
        try:
            peers.broken(at)
        except FaultError as fault:
            raise fault from error
        time.sleep(GLANCE)
