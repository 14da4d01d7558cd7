"""The processes of one program as a resource: joined, met at barriers with a deadline, left without hanging."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import socket
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import jax
from jax._src import api, dispatch, distributed, xla_bridge  # to leave without JAX's own shutdown; see `_abandon`
from returns.result import Failure, Success

from fnlamp.effect import Defect, Effect, Exit, Resource
from fnlamp.effect.runtime import GLANCE, Stopped
from fnlamp.fault import (
    ClusterFault,
    ClusterIncomplete,
    ClusterUndefined,
    Fault,
    FaultError,
    Interrupted,
    JaxStarted,
    ProcessFailed,
)
from fnlamp.given import flag, text, whole
from fnlamp.scale.peers import Patience, Peers
from fnlamp.scale.place import ALONE, Place, place
from fnlamp.scale.relay import Relay
from fnlamp.scale.seconds import seconds
from fnlamp.scale.worker import Worker, ended

_NEVER: Final = 10**6
"""Seconds for JAX's own heartbeats, at whose end it would abort the other processes instead of letting them end."""


@dataclass(frozen=True)
class Cluster:
    """This process among the processes of a program: its number, from 0, how many there are, and the deadline in seconds.

    >>> cluster().use(lambda here: Effect.from_value((here.process, here.processes, here.meet("start", "ready")))).run()
    <IOResult: <Success: (0, 1, ('ready',))>>
    """

    process: int
    processes: int
    deadline: float
    _peers: Peers | None = field(default=None, repr=False, compare=False)

    def meet(self, name: str, value: str = "", *, deadline: float | None = None) -> tuple[str, ...]:
        """Wait for all processes at a barrier, and return the value of each, in the order of their numbers.

        All processes call it at the same point of the program with the same `name`, from one thread. A process that is silent
        for the cluster's deadline is lost; one that lives may take `deadline` seconds, by default the cluster's.

        Raises: `FaultError` with `ProcessLost`, `ProcessLate`, `ProcessFailed` or `MeetingsDiffer`, the same in all processes.
        If another process was interrupted, the run is interrupted here as well.
        """
        text("name", name), text("value", value)
        most = self.deadline if deadline is None else seconds("deadline", deadline)
        return (value,) if self._peers is None else self._peers.meet(name, value, most)

    def agreed(self, name: str, wanted: bool, *, deadline: float | None = None) -> bool:
        """Whether any process wants it, such as to stop: the same answer in all. A meeting, with its faults."""
        return "1" in self.meet(name, "1" if flag("wanted", wanted) else "", deadline=deadline)

    def doing(self, what: str) -> None:
        """Note what this process does now, as "reading its batch"; a fault in another process that waits for it says so."""
        text("what", what)
        if self._peers is not None:
            self._peers.doing = what


def cluster(
    address: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    deadline: float = 10.0,
    join: float = 300.0,
) -> Resource[Cluster, ClusterFault]:
    """The processes that run this program together, on `jax.distributed`; inside, `jax.devices()` are those of all of them.

    `address`: host and port of process 0, as "node1:1234"; `processes`: how many there are; `process`: this one's number.
    What is not given is taken from `fnlamp launch`, else detected as JAX does (Slurm, Open MPI, Kubernetes, Cloud TPU); where
    nothing is found, or with one process, it is a cluster of one, which starts nothing. `deadline`: seconds of silence after
    which a process is lost, and within which all come to a meeting. `join`: seconds in which all processes must have started.

    When one process fails or is interrupted, the others find out at their next meeting. JAX cannot join a second time: use a
    cluster once in a process, before JAX makes its first array.

    Fails: `ClusterUndefined`, `ClusterIncomplete`, `JaxStarted`.
    """
    address = address if address is None else text("address", address)
    processes = processes if processes is None else whole("processes", processes)
    process = process if process is None else whole("process", process, 0)
    deadline, join = seconds("deadline", deadline), seconds("join", join)
    return Resource.make(Effect.checked(lambda: _joined(place(address, processes, process, join), deadline, join)), _leave)


def _joined(here: Place, deadline: float, join: float) -> Cluster:
    if here is ALONE:
        return Cluster(0, 1, deadline)
    if xla_bridge.backends_are_initialized() or jax.distributed.is_initialized():
        raise FaultError(JaxStarted())
    host, _, port = here.address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        raise FaultError(ClusterUndefined(f"the address as host:port, which is {here.address!r}"))
    local = host in ("localhost", "127.0.0.1")
    if here.process == 0:
        try:
            socket.create_server(("127.0.0.1" if local else "", int(port))).close()
        except OSError as error:  # JAX would wait without end for a coordinator that it cannot start
            raise FaultError(
                ClusterIncomplete(here.address, here.processes, join, f"process 0 cannot listen: {error}")
            ) from error
    relay = Relay(host, int(port)) if here.process else None
    _initialized(here, here.address if relay is None else relay.address, join)
    gone = threading.Event()
    if relay is not None:
        relay.joined.set()
        gone = relay.closed
    peers = Peers(distributed.global_state.client, here.process, here.processes, deadline, gone)
    return Cluster(here.process, here.processes, deadline, peers)


def _initialized(here: Place, address: str, join: float) -> None:
    """Join JAX's runtime, on a thread and without a time limit of its own, at whose end JAX would abort the process."""
    host, _, port = here.address.rpartition(":")
    # JAX's service would take SIGTERM, at which a run saves and stops.
    jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    worker = Worker()
    call = worker.call(
        lambda: jax.distributed.initialize(
            address,
            here.processes,
            here.process,
            local_device_ids=here.devices,
            cluster_detection_method="deactivate" if here.launched else None,
            initialization_timeout=_NEVER,
            heartbeat_timeout_seconds=_NEVER,
            # For a try on one machine no port is open to others.
            coordinator_bind_address=f"127.0.0.1:{port}" if host in ("localhost", "127.0.0.1") else None,
        )
    )
    waited = Patience()
    while not call.done.wait(GLANCE) and waited.tick() < join:
        pass
    reason = "not all of them" if call.error is None else str(call.error).split("\n")[0]
    if call.error is not None or not call.done.is_set():
        ended(worker.stop(), GLANCE)
        _abandon()
        raise FaultError(ClusterIncomplete(here.address, here.processes, join, reason)) from call.error
    worker.stop()


def _leave(here: Cluster, exit: Exit[Any, Any]) -> Effect[None, Any]:
    return Effect.suspend(lambda: None if here._peers is None else _left(here, here._peers, exit))


def _left(here: Cluster, peers: Peers, exit: Exit[Any, Any]) -> None:
    try:
        match exit:
            case Success():
                # Process 0 must not go while another one works. After a fault there, this process has its result all the same.
                with contextlib.suppress(FaultError, Stopped):
                    peers.meet("end", "", here.deadline)
            case Interrupted():
                peers.settle(Interrupted())
            case Failure(failure):
                name = f"{type(failure).__name__}: " if isinstance(failure, Fault) else ""
                peers.settle(ProcessFailed(here.process, f"{name}{failure}"))
            case Defect(cause):
                peers.settle(ProcessFailed(here.process, f"{type(cause).__name__}: {cause}"))
    finally:
        peers.leave()
        _abandon()


def _abandon() -> None:
    """Let the process end without JAX's own shutdown, which waits for the other processes and for collectives without end.

    What it would destroy is kept alive until the process ends.
    """
    for shutdown in (api.clean_up, dispatch.wait_for_tokens):
        atexit.unregister(shutdown)
    state = distributed.global_state
    for kept in (state.client, state.service, state.preemption_sync_manager, *xla_bridge._backends.values()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
