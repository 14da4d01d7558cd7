"""An experiment and a tracker in a program of several processes, which then may not begin a sweep; prints what was seen."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fnlamp import experiment, loss, nn, optim, stream, sweep, track, train
from fnlamp.config import group
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import FaultError
from fnlamp.scale import Cluster, cluster
from fnlamp.scale.relay import Relay

ROWS = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)


@group
class Settings:
    rate: float = 0.1


def main(folder: str, alone: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    relays: list[Relay] = []

    def relay(host: str, port: int) -> Relay:
        relays.append(Relay(host, port))
        return relays[-1]

    vars(sys.modules["fnlamp.scale.cluster"])["Relay"] = relay  # the name in the package is that of the function

    def training(place: experiment.Place[Any]) -> Effect[Any, Any]:
        return train.epochs(
            model=train.supervised(nn.linear(8), loss.mse()),
            optimizer=optim.sgdw(0.1),
            train_batches=lambda context: stream.minibatches(ROWS, ROWS, batch_size=16, seed=context.seed),
            epochs=3,
            checkpoints=train.Checkpoints(place.checkpoints),
        ).bind(lambda trained: track.measure({"done": 1.0}, step=21).map(lambda _: trained.curve[-1].train_loss))

    def inside(here: Cluster) -> Effect[Any, Any]:
        executor = None if alone else train.Sharded(cluster=here)
        run = experiment.experiment("demo", training, {"rate": 0.1}, folder=str(Path(folder, "runs")))
        tracked = track.tracked(track.measure({"loss": 0.5}, step=here.processes), track.lines(str(Path(folder, "lines"))))
        point = sweep.grid({"rate": (0.1, 0.2)})
        measured, sweeps = track.measure({"loss": 1.0}, step=1), str(Path(folder, "sweeps"))
        lanes = sweep.sweep("lanes", lambda place: measured, Settings, point, metric="loss", folder=sweeps)
        refused = lanes.map(lambda _: "a sweep").lash(lambda fault: Effect.from_value(f"{type(fault).__name__}: {fault}"))

        def note(run: experiment.Run[Any]) -> None:
            found.update(id=run.id, folder=str(run.folder), loss=run.value, process=here.process)

        program = run.map(note).then(tracked).then(refused).map(lambda text: found.update(sweep=text))
        return program.local(lambda runtime: replace(runtime, executor=executor))

    def outside() -> Effect[Any, Any]:
        return experiment.experiment("around", cluster().use(inside), folder=str(Path(folder, "around")))

    quiet = Runtime(log=None)
    if alone:
        inside(Cluster(0, 1, 1.0)).run_or_raise(quiet)
        return found
    try:
        outside().run_or_raise(quiet)
    except FaultError as error:
        found["around"] = str(error.fault)
    cluster(deadline=20.0).use(inside).run_or_raise(quiet)
    found["open"] = [relay.address for relay in relays if connects(relay.address)]
    found["relays"] = len(relays)
    return found


def connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except ConnectionRefusedError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "alone")), flush=True)
