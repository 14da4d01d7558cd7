"""Which process of which cluster this is: from arguments, from the environment, or as JAX detects it."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

from jax._src import clusters  # what jax.distributed.initialize detects by; it has no public name

from fnlamp.fault import ClusterUndefined, FaultError

ADDRESS: Final = "FNLAMP_ADDRESS"
PROCESSES: Final = "FNLAMP_PROCESSES"
PROCESS: Final = "FNLAMP_PROCESS"
"""The environment variables that `fnlamp launch` sets."""


class Place(NamedTuple):
    """The coordinator's address as host:port, the number of processes, this one's number, and its local devices if limited.

    `launched`: by `fnlamp launch`, also inside of a cluster's job, whose variables then say nothing about this process.
    """

    address: str
    processes: int
    process: int
    devices: Any = None
    launched: bool = False


ALONE: Final = Place("", 1, 0)


def place(address: str | None, processes: int | None, process: int | None, seconds: float) -> Place:
    """This process's place; `ALONE` if nothing says that there are others.  Raises: `FaultError` with `ClusterUndefined`."""
    address = address or os.environ.get(ADDRESS) or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number(PROCESSES) if processes is None else processes
    process = _number(PROCESS) if process is None else process
    if processes == 1:
        return ALONE
    devices, launched = None, os.environ.get(ADDRESS) is not None
    if None in (address, processes, process):
        address, processes, process, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address, processes, process, None, None, int(seconds)
        )
    if processes == 1 or (address, processes, process) == (None, None, None):
        return ALONE
    parts = {"the address": address, "the number of processes": processes, "the number of this process": process}
    missing = [name for name, value in parts.items() if value is None]
    if address is None or processes is None or process is None:
        raise FaultError(ClusterUndefined(" and ".join(missing)))
    if not 0 <= process < processes:
        raise FaultError(ClusterUndefined(f"the number of this process, which is {process} of {processes}"))
    return Place(address, processes, process, devices, launched)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise FaultError(ClusterUndefined(f"{name}, which is {text!r}")) from None
