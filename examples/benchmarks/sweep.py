"""What a sweep costs: 16 lanes of the simple model against 16 solo runs, in one process and in 16, by the number of lanes, and
side by side.

python examples/benchmarks/sweep.py [--data FOLDER] [--rounds 5] [--lanes 16] [--rows 8000] [--json figures.json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cases import CASES, digits

from fnlamp import config, loss, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.sweep import Space, grid, listed, sweep

QUIET = Runtime(log=None)


@config.group
class Settings:
    rate: float = 1e-3
    seed: int = 0
    epochs: int = 6


def maker(x: Any, y: Any) -> Callable[[Place[Settings]], Effect[train.Trained, Any]]:
    """The program of a lane: the simple model, with a save after each epoch."""

    def program_of(place: Place[Settings]) -> Effect[train.Trained, Any]:
        return train.resumable(
            place.checkpoints,
            lambda saved: train.epochs(
                model=train.supervised(CASES["simple"].layer, loss.cross_entropy()),
                optimizer=optim.adamw(place.config.rate, weight_decay=0.01),
                train_batches=lambda context: stream.minibatches(x, y, batch_size=32, seed=context.seed),
                validation_batches=lambda context: stream.minibatches(x[:1024], y[:1024], batch_size=256),
                epochs=place.config.epochs,
                seed=place.config.seed,
                resume=saved,
                checkpoints=train.Checkpoints(place.checkpoints),
            ),
        )

    return program_of


def points(lanes: int) -> Space:
    """Rates and seeds: 8 rates at most, then other seeds."""
    rates = np.geomspace(1e-4, 1e-2, min(lanes, 8))
    return (grid({"seed": range(-(-lanes // len(rates)))}) * grid({"rate": rates}))[:lanes]


def solo(program_of: Any, point: Any, folder: str) -> train.Trained:
    settings = Settings(**point)
    trained: train.Trained = program_of(Place("solo", "solo", Path(folder, f"solo {point}"), settings)).run_or_raise(QUIET)
    return trained


def digest(trained: train.Trained) -> bytes:
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((trained.params, trained.state.optimizer_state)))


class Compilations:
    """How many programs XLA compiles in a `with`."""

    def __enter__(self) -> Compilations:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


@contextlib.contextmanager
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


def in_one_process(program_of: Any, lanes: int, rounds: int) -> dict[str, Any]:
    """Seconds of the sweep and of as many solo runs, after compilation, by turns; and whether all lanes are bitwise equal.

    On a machine that others use, seconds of processors say more than those of the clock.
    """
    space, equal = points(lanes), True
    seconds, processors = ({"solo": list[float](), "sweep": list[float]()} for _ in range(2))
    with folder() as path:
        solo(program_of, {"rate": 0.5, "seed": 99}, path)
    for each in range(rounds):
        for what in ("solo", "sweep") if each % 2 else ("sweep", "solo"):
            with folder() as path, Compilations() as compiled:
                begun = time.process_time()
                if what == "solo":
                    taken, alone = timed(lambda path=path: [digest(solo(program_of, point, path)) for point in space])  # type: ignore[misc]
                    processors[what].append(time.process_time() - begun)
                else:
                    program = sweep("s", program_of, Settings, space, folder=path)
                    taken, found = timed(lambda program=program: program.run_or_raise(QUIET))  # type: ignore[misc]
                    processors[what].append(time.process_time() - begun)
                    lane_bits = [_digest_of(program_of, lane) for lane in found.lanes]
                    assert compiled.count == 0, f"{compiled.count} compilations"
                seconds[what].append(taken)
        equal &= lane_bits == alone
    return {
        "seconds": seconds,
        "ratio": ratio(seconds),
        "processor_seconds": processors,
        "processor_ratio": ratio(processors),
        "bitwise_equal": equal,
    }


def ratio(seconds: dict[str, list[float]]) -> float:
    """The median of the sweep's share of the solo runs' time, round by round."""
    return statistics.median(a / b for a, b in zip(seconds["sweep"], seconds["solo"], strict=True))


def side_by_side(program_of: Any, lanes: int, rounds: int) -> dict[str, Any]:
    """Seconds of all lanes in one vmapped program by those of one lane after the other; and lane-steps if lanes end early."""

    def once(space: Space, together: int) -> tuple[float, list[int]]:
        lines: list[str] = []
        with folder() as path:
            program = sweep("s", program_of, Settings, space, folder=path, together=together)
            taken, _ = timed(lambda: program.run_or_raise(Runtime(log=lines.append)))
        return taken, [int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", lines[-1])]

    space = points(lanes)
    compiling = {together: once(space, together)[0] for together in (1, lanes)}
    seconds = {"solo": list[float](), "sweep": list[float]()}  # of lanes alone, and side by side
    for _ in range(rounds):
        seconds["solo"].append(once(space, 1)[0])
        seconds["sweep"].append(once(space, lanes)[0])
    _, (whole, *_) = once(space, lanes)
    ending = listed([{**point, "epochs": 1 + at * Settings().epochs // lanes} for at, point in enumerate(space)])
    _, (taken, *more, programs) = once(ending, lanes)
    steps = {"all_to_the_end": whole, "taken": taken, "filling_up": sum(more), "programs": programs}
    return {"seconds": seconds, "ratio": ratio(seconds), "first_seconds": compiling, "lane_steps": steps}


def _digest_of(program_of: Any, lane: Any) -> bytes:
    place = Place(lane.id, "s", lane.folder, Settings(**lane.point))
    return digest(program_of(place).run_or_raise(QUIET))


def child(arguments: argparse.Namespace, *words: str) -> tuple[float, dict[str, Any]]:
    """A new process of this script: its seconds in all, and what it says."""
    given = ["--rows", str(arguments.rows), *(("--data", str(arguments.data)) if arguments.data else ())]
    command = [sys.executable, __file__, *given, *words]
    taken, done = timed(lambda: subprocess.run(command, check=True, capture_output=True, text=True))
    return taken, json.loads(done.stdout.splitlines()[-1])


def processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a sweep as one process, and of a process for each lane, from start to end; with growth by lanes."""
    alone = [child(arguments, "--child", "solo", str(lane))[0] for lane in range(arguments.lanes)]
    swept = {lanes: child(arguments, "--child", "sweep", str(lanes)) for lanes in (1, arguments.lanes, 4 * arguments.lanes)}
    whole = swept[arguments.lanes][0]
    return {
        "solo_processes": sum(alone),
        "sweep_process": whole,
        "ratio": whole / sum(alone),
        "by_lanes": {lanes: {"seconds": taken, **said} for lanes, (taken, said) in swept.items()},
    }


def as_child(program_of: Any, what: str, number: int) -> None:
    with folder() as path, Compilations() as compiled:
        if what == "solo":
            solo(program_of, points(16)[number % 16], path)
        else:
            sweep("s", program_of, Settings, points(number), folder=path).run_or_raise(QUIET)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"compilations": compiled.count, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with MNIST; without, made-up digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--no-processes", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    x, y = (each[: arguments.rows] for each in digits(arguments.data))
    program_of = maker(x, y)
    if arguments.child:
        as_child(program_of, arguments.child[0], int(arguments.child[1]))
        return
    found = {"in_one_process": in_one_process(program_of, arguments.lanes, arguments.rounds)}
    one = found["in_one_process"]
    medians = {name: statistics.median(values) for name, values in one["seconds"].items()}
    print(
        f"{arguments.lanes} lanes: sweep {medians['sweep']:.2f} s, solo runs {medians['solo']:.2f} s, ratio {one['ratio']:.3f}"
    )
    print(f"in seconds of processors: ratio {one['processor_ratio']:.3f}")
    print(f"lanes equal their solo runs bitwise: {one['bitwise_equal']}; compilations of the sweep after one solo run: 0")
    found["side_by_side"] = beside = side_by_side(program_of, arguments.lanes, arguments.rounds)
    print(f"side by side: {beside['ratio']:.2f} of the time of one lane after the other, after compilation")
    steps = beside["lane_steps"]
    share = (steps["taken"] + steps["filling_up"]) / steps["all_to_the_end"]
    print(f"lanes that end after 1 to 6 epochs: {share:.2f} of all lane-steps computed, in {steps['programs']} programs")
    if not arguments.no_processes:
        found["processes"] = processes(arguments)
        two = found["processes"]
        alone = f"{arguments.lanes} processes {two['solo_processes']:.1f} s"
        print(f"one process {two['sweep_process']:.1f} s, {alone}: {two['ratio']:.2f}")
        for lanes, said in two["by_lanes"].items():
            figures = f"{said['compilations']} compilations, peak {said['peak_mb']:.0f} MB"
            print(f"  {lanes} lanes: {figures}, {said['seconds']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
