"""The memory of a device: how much a run may take, and XLA's error as a fault if it is exhausted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from fnlamp.arrays import one_of
from fnlamp.effect import Runtime
from fnlamp.fault import DeviceOutOfMemory, FaultError


@contextlib.contextmanager
def exhaustion(parts: Callable[[], Mapping[str, int]], runtime: Runtime, device: Any, lanes: int = 1) -> Iterator[None]:
    """XLA's RESOURCE_EXHAUSTED inside, while it compiles or runs, as a `DeviceOutOfMemory` with these parts."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # JAX has one class for all errors of XLA, whose message has the status; on a GPU it may be that of an inner error.
        _, status, reason = str(error).partition("RESOURCE_EXHAUSTED")
        if not status:
            raise
        reason = reason.removeprefix(": ").split("\n", 1)[0].strip().rstrip(".")
        plan, limit = tuple(parts().items()), limit_of(device, runtime)
        raise FaultError(DeviceOutOfMemory(name_of(device), plan, limit, reason or status, lanes)) from error


def limit_of(device: Any, runtime: Runtime) -> int | None:
    """The bytes that a run may take: the runtime's, else what the device reports; a CPU reports nothing."""
    if runtime.memory is not None:
        return runtime.memory
    found = (_device(device).memory_stats() or {}).get("bytes_limit")
    return None if found is None else int(found)


def _device(device: Any) -> Any:
    if isinstance(device, jax.sharding.Sharding):  # all of a mesh hold as much
        return one_of(device)
    default = jax.config.jax_default_device if device is None else device  # type: ignore[attr-defined]
    if default is None or isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default


def name_of(device: Any) -> str:
    found = _device(device)
    return f"{found.platform}:{found.id}"
