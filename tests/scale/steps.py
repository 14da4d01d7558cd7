"""A program in several processes: steps of a meeting and a sum over all of them, one of which is harmed at a given moment."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from returns.result import Failure

from fnlamp import fault
from fnlamp.effect import Defect, Effect, Runtime
from fnlamp.scale import Cluster, await_call, cluster

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """The outcome of this process, as JSON can write it."""
    done: list[int] = []
    here: list[Cluster] = []
    keys: list[str] = []

    def steps(peers: Cluster, runtime: Runtime) -> int:
        here.append(peers)
        sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
        x = jax.make_array_from_process_local_data(sharding, np.full(4, peers.process + 1.0, np.float32))
        total = jax.jit(lambda x: x.sum())
        expected = 4 * peers.processes * (peers.processes + 1) / 2
        peers.meet("compiled", deadline=120.0)
        harm(settings, peers)
        started = time.time()
        for step in range(settings["steps"]):
            if runtime.cancel.requested:
                return step  # the machine makes an interruption of it
            if hurts(settings, peers, "slow") and time.time() - started > settings["after"]:
                peers.doing("reading its batch")
                time.sleep(3 * settings["deadline"])
            if hurts(settings, peers, "fail") and time.time() - started > settings["after"]:
                note(settings)
                raise fault.FaultError(fault.EmptyEpoch(rows=3, batch_size=8))
            peers.meet(f"step {step}", str(step))
            assert float(await_call(lambda: total(x), peers, f"the sum of step {step}")) == expected
            done.append(step)
        if peers.process == 0:
            keys.extend(key for key, _ in distributed.global_state.client.key_value_dir_get("fnlamp/"))
        return settings["steps"]

    program = cluster(deadline=settings["deadline"]).use(
        lambda peers: (
            Effect.asks(lambda runtime: runtime)
            .bind(lambda runtime: Effect.checked(lambda: steps(peers, runtime)))
            .salvaged(lambda: len(done))
        )
    )
    exit = program.run_exit(Runtime(log=None))
    if isinstance(exit, Defect):
        traceback.print_exception(exit.cause)
    failure = exit if isinstance(exit, fault.Interrupted) else exit.failure() if isinstance(exit, Failure) else None
    return {
        "process": here[0].process if here else None,
        "kind": type(failure).__name__ if failure is not None else type(exit).__name__,
        "text": str(failure),
        "named": [*getattr(failure, "processes", [getattr(failure, "process", None)])],
        "steps": len(done),
        "state": getattr(failure, "state", None),
        "keys": len(keys),
        "at": time.time(),
    }


def hurts(settings: dict[str, Any], peers: Cluster, how: str) -> bool:
    return settings["how"] == how and settings["victim"] == peers.process


def note(settings: dict[str, Any]) -> None:
    """Write down when the harm is done."""
    with open(settings["moment"], "w") as file:
        file.write(str(time.time()))


def harm(settings: dict[str, Any], peers: Cluster) -> None:
    """Harm this process after a while, if it is the victim."""

    def hit() -> None:
        note(settings)
        if settings["how"] in SIGNALS:
            os.kill(os.getpid(), SIGNALS[settings["how"]])

    if settings["victim"] == peers.process and settings["how"] != "fail":
        timer = threading.Timer(settings["after"], hit)
        timer.daemon = True
        timer.start()


if __name__ == "__main__":
    outcome = main(json.loads(sys.argv[1]))
    print(json.dumps(outcome), flush=True)
    sys.exit(0 if outcome["kind"] == "Success" else 3)
