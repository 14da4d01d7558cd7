"""One model against its peers: rounds in which all train on the same batches, one after the other."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handwritten
import jax
import numpy as np
from cases import Case, data_for, spec_of
from paired import Rounds, interval, ratios

from fnlamp import stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.mode import name_key


@dataclass(frozen=True)
class Race:
    """The results: the seconds of every round, first calls, and the mean losses of the first and the last round."""

    case: Case
    steps: int
    seconds: Rounds
    first_call: dict[str, float]
    first_loss: dict[str, float]
    last_loss: dict[str, float]
    failed: dict[str, str]

    def speed(self, name: str) -> float:
        """Samples per second, the median of the rounds."""
        return self.steps * self.case.batch / statistics.median(self.seconds[name])

    def ratio(self, name: str) -> dict[str, float]:
        """fnlamp's speed as a multiple of the other's: median over paired rounds, with a bootstrap 95 % interval."""
        return interval(ratios(self.seconds[name], self.seconds["fnlamp"]))

    def best_torch(self) -> str | None:
        """The fastest of torch's modes."""
        modes = [name for name in self.seconds if name.startswith("torch")]
        return max(modes, key=self.speed, default=None)


def race(case: Case, *, rounds: int, scale: float, dtype: str, folder: Path | None, with_torch: bool) -> Race:
    """fnlamp trains through `epochs`; after each of its epochs the hook lets the peers train on that epoch's batches.

    The first epoch, in which all compile, is not counted. The order of the peers changes from round to round.
    """
    steps = max(2, round(case.steps * scale))
    x, y = data_for(case, steps, folder, dtype)
    model = train.supervised(case.layer, case.objective())
    params, state = model.init(name_key(jax.random.key(0), "init"), spec_of(case, dtype))
    peers, failed = _peers(case, params, state, x, y, with_torch)
    seconds: Rounds = {name: [] for name in ("fnlamp", *peers)}
    first_call: dict[str, float] = {}
    losses: list[dict[str, float]] = []
    seeds: list[int] = []

    def batches(context: train.LoopContext) -> stream.BatchStream:
        seeds.append(context.seed)
        return stream.minibatches(x, y, batch_size=case.batch, seed=context.seed)

    def others(report: train.EpochReport) -> None:
        rows = stream.Order(len(x), seeds[-1])[:].reshape(steps, case.batch)
        turn = report.epoch % len(peers) if peers else 0
        took, loss = {"fnlamp": report.seconds}, {"fnlamp": report.train_loss_of_batches}
        for name in [*peers, *peers][turn : turn + len(peers)]:
            if name not in failed:
                try:
                    took[name], loss[name] = peers[name](rows)
                except Exception as error:  # torch.compile needs a C++ compiler
                    if not name.startswith("torch"):
                        raise
                    failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        losses.append(loss)
        if report.epoch == 1:
            first_call.update(took)
        else:
            for name, value in took.items():
                seconds[name].append(value)

    program = train.epochs(
        model=model,
        optimizer=case.optimizer,
        train_batches=batches,
        epochs=rounds + 1,
        on_epoch=lambda report: Effect.suspend(lambda: others(report)),
    )
    program.run(Runtime(log=None)).unwrap()
    kept = {name: values for name, values in seconds.items() if name not in failed}
    return Race(case, steps, kept, first_call, losses[0], losses[-1], failed)


Epoch = Callable[[Any], tuple[float, float]]


def _peers(case: Case, params: Any, state: Any, x: Any, y: Any, with_torch: bool) -> tuple[dict[str, Epoch], dict[str, str]]:
    peers: dict[str, Epoch] = {"hand-written": _by_hand(case, params, state, x, y)}
    failed: dict[str, str] = {}
    if with_torch:
        try:
            import torch
            import torch_peers
        except ImportError as error:
            failed["torch"] = f"{error}; pip install -e '.[parity]'"
        else:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            for mode in torch_peers.modes(case):
                peers[mode] = torch_peers.contestant(case, mode, params, x, y)
    return peers, failed


def _by_hand(case: Case, params: Any, state: Any, x: Any, y: Any) -> Epoch:
    run, carry = handwritten.contestant(case.name, *jax.tree.map(lambda a: a.copy(), (params, state)))
    arrays, key = jax.device_put((x, y)), jax.random.key(0)

    def epoch(rows: Any) -> tuple[float, float]:
        nonlocal carry
        started = time.perf_counter()
        carry, loss = run(carry, *arrays, rows, key)
        mean = float(loss)
        jax.block_until_ready(carry)
        return time.perf_counter() - started, mean

    return epoch


def alone_by_hand(case: Case, x: Any, y: Any) -> None:
    """One epoch of the hand-written loop and nothing else, to measure its memory."""
    model = train.supervised(case.layer, case.objective())
    dtype = "uint8" if x.dtype == np.uint8 else "float32"
    params, state = jax.jit(lambda key: model.init(key, spec_of(case, dtype)))(jax.random.key(0))
    epoch = _by_hand(case, params, state, x, y)
    steps = len(x) // case.batch
    epoch(stream.Order(len(x), 1)[:][: steps * case.batch].reshape(steps, case.batch))


def product_peak(sizes: Sequence[int] = (1024, 2048), repeats: int = 7) -> float:
    """The machine's best float32 matrix product, in floating-point operations per second."""
    best = 0.0
    for n in sizes:
        a = np.random.default_rng(0).random((n, n), np.float32)
        on_device = jax.device_put(a)
        multiply = jax.jit(lambda a: a @ a)
        multiply(on_device).block_until_ready()
        for run in (lambda a=a: a @ a, lambda a=on_device, m=multiply: m(a).block_until_ready()):
            for _ in range(repeats):
                started = time.perf_counter()
                run()
                best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best
