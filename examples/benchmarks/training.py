"""The speed of training in fnlamp, compared with PyTorch's modes and the same models written by hand in JAX.

    python examples/benchmarks/training.py                       all models, 30 rounds each
    python examples/benchmarks/training.py --models simple cnn --data FOLDER --json out.json
    python examples/benchmarks/training.py --growth              how cost grows with batch, depth, width, rows and arrays

fnlamp trains through `epochs`, as a user does. All contestants start from the same parameters and see the same batches of the
same arrays, alternating; a ratio is the median over paired rounds, with a bootstrap 95 % interval. `--data` names a folder with
MNIST's IDX files (or set FNLAMP_MNIST); without it, digits of the same shape are generated. Freed memory stays with the process
for all of them (`fnlamp.keep_memory()`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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
from cases import CASES, Case, data_for
from race import Race, alone_by_hand, product_peak, race

import fnlamp
from fnlamp import stream, train
from fnlamp.effect import Runtime

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of a round")
    parser.add_argument("--dtype", nargs="+", choices=["uint8", "float32"], default=["uint8"], help="of the pixels")
    parser.add_argument("--data", type=Path, default=os.environ.get("FNLAMP_MNIST"), help="folder of MNIST's IDX files")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-processes", action="store_true", help="leave out start-up times and memory")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        return in_a_process(given.process, CASES[given.models[0]], given)
    fnlamp.keep_memory()
    if given.growth:
        from growth import growth

        found: dict[str, Any] = {"machine": machine(), "growth": growth(given.scale)}
    else:
        found = {"machine": machine(), "models": {}}
        print("machine:", ", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
        for dtype in given.dtype:
            for name in given.models:
                if CASES[name].pixels or dtype == given.dtype[0]:
                    label = name if dtype == given.dtype[0] else f"{name} {dtype}"
                    found["models"][label] = figures(CASES[name], dtype, given, found["machine"]["product peak GFLOP/s"])
        print(summary(found["models"]))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


def machine() -> dict[str, Any]:
    """The machine on which the figures were measured."""
    return {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "processor": next(
            (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
        ),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "product peak GFLOP/s": round(product_peak() / 1e9, 1),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def figures(case: Case, dtype: str, given: Any, peak: float) -> dict[str, Any]:
    """All figures of one model, printed as they are measured."""
    ran = race(case, rounds=given.rounds, scale=given.scale, dtype=dtype, folder=given.data, with_torch=not given.no_torch)
    best = ran.best_torch()
    found: dict[str, Any] = {
        "samples_per_second": {name: round(ran.speed(name)) for name in ran.seconds},
        "best_torch": best,
        "ratio_to_best_torch": ran.ratio(best) if best else None,
        "ratio_to_handwritten": ran.ratio("hand-written"),
        "share_of_product_peak": ran.speed("fnlamp") / case.batch * case.flops / (peak * 1e9),
        "first_call_seconds": ran.first_call,
        "loss_of_first_round": ran.first_loss,
        "loss_of_last_round": ran.last_loss,
        "rounds": given.rounds,
        "steps_a_round": ran.steps,
        "failed": ran.failed,
    }
    if not given.no_processes:
        found |= processes(case, dtype, given)
    print(table(case, dtype, ran, found), flush=True)
    return found


def processes(case: Case, dtype: str, given: Any) -> dict[str, Any]:
    """Start-up with an empty and with a warm cache of programs, and peak memory: each in separate processes."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = [], []
        for i in range(3):
            cache = str(Path(folder) / str(i))
            cold.append(process(case, dtype, given, "start", cache))
            warm.append(process(case, dtype, given, "start", cache))
        # Each twice, to count the compiler's own memory apart from the training's.
        peaks = {
            who: [process(case, dtype, given, who, str(Path(folder) / who))["peak_mib"] for _ in range(2)]
            for who in ("fnlamp", "by-hand")
        }
    middle = lambda times, key: statistics.median(t[key] for t in times)  # noqa: E731
    return {
        "compile_seconds": middle(cold, "compile") - middle(warm, "compile"),
        "first_step_seconds": {"cold": middle(cold, "first_step"), "warm": middle(warm, "first_step")},
        "first_epoch_seconds": {"cold": middle(cold, "first_epoch"), "warm": middle(warm, "first_epoch")},
        "peak_memory_mib": {who: warm for who, (_, warm) in peaks.items()},
        "peak_memory_with_compiling_mib": {who: cold for who, (cold, _) in peaks.items()},
    }


def process(case: Case, dtype: str, given: Any, what: str, cache: str) -> Any:
    """The last line that a process of this script prints."""
    data = ["--data", str(given.data)] if given.data else []
    command = [sys.executable, __file__, "--process", what, "--models", case.name, "--dtype", dtype, *data]
    command += ["--scale", str(given.scale)]
    started = time.time()
    environment = {**os.environ, "FNLAMP_CACHE": cache, "FNLAMP_STARTED": str(started)}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def in_a_process(what: str, case: Case, given: Any) -> None:
    """Train one epoch; print the seconds since the process started, and its peak memory."""
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    started = float(os.environ["FNLAMP_STARTED"])
    # `simple` has the rows of the tutorials' training set, so that its first epoch can be compared with other tools'.
    steps = 1563 if case.name == "simple" else max(2, round(case.steps * given.scale))
    x, y = data_for(case, steps, given.data, given.dtype[0])
    if case.name == "simple":
        x, y = x[:50_000], y[:50_000]
    moments = {"data": time.time() - started}
    if what == "by-hand":
        alone_by_hand(case, x, y)
    else:
        program = train.epochs(
            model=train.supervised(case.layer, case.objective()),
            optimizer=case.optimizer,
            train_batches=lambda context: stream.minibatches(x, y, batch_size=case.batch, seed=context.seed),
            epochs=1,
        )
        noting = Noting(lambda: moments.setdefault("first_step", time.time() - started))
        program.run(Runtime(log=None, executor=noting)).unwrap()
    moments["first_epoch"] = time.time() - started
    moments["compile"] = moments.get("first_step", moments["first_epoch"]) - moments["data"]
    print(json.dumps({**moments, "peak_mib": peak_memory()}))


class Noting(train.Fused):
    """The default executor, which notes when the first dispatch is done."""

    def __init__(self, note: Callable[[], object]) -> None:
        super().__init__()
        object.__setattr__(self, "note", note)

    def fold(self, *args: Any) -> Iterator[Any]:
        for item in super().fold(*args):
            self.note()  # type: ignore[attr-defined]
            yield item


def peak_memory() -> float:
    """The peak memory of this process, in MiB; `ru_maxrss` alone would count the parent's as well."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(case: Case, dtype: str, ran: Race, found: dict[str, Any]) -> str:
    """One model as text: a line per contestant."""
    share = 100 * found["share_of_product_peak"]
    what = f"{dtype} pixels" if case.pixels else "tokens"
    lines = [f"\n{case.name}: batch {case.batch}, {what}, {ran.steps} steps per round, {share:.0f} % of the product peak"]
    lines.append(f"  {'':20}{'samples/s':>11}  {'fnlamp is faster by':28}{'loss, first round':>18}{'last':>9}")
    for name in ran.seconds:
        r = ran.ratio(name)
        times = f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" if name != "fnlamp" else ""
        losses = f"{ran.first_loss[name]:>18.5f}{ran.last_loss[name]:>9.5f}"
        lines.append(f"  {name:20}{ran.speed(name):>11,.0f}  {times:28}{losses}")
    lines += [f"  {name}: not run, {why}" for name, why in ran.failed.items()]
    if "peak_memory_mib" in found:
        first, epoch, memory = (found[key] for key in ("first_step_seconds", "first_epoch_seconds", "peak_memory_mib"))
        lines.append(
            f"  from process start to the first step {first['cold']:.1f} s, {first['warm']:.1f} s with a warm cache; "
            f"to the end of the first epoch {epoch['cold']:.1f} and {epoch['warm']:.1f} s; "
            f"peak memory {memory['fnlamp']:.0f} MiB, by hand {memory['by-hand']:.0f}"
        )
    return "\n".join(lines)


def summary(models: dict[str, Any]) -> str:
    """The ratios of all models."""

    def interval(r: dict[str, float] | None) -> str:
        return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" if r else "-"

    lines = ["", f"{'model':18}{'to the best torch mode':28}{'':16}{'to the hand-written loop':28}"]
    for name, found in models.items():
        torch_ratio, hand_ratio = interval(found["ratio_to_best_torch"]), interval(found["ratio_to_handwritten"])
        lines.append(f"{name:18}{torch_ratio:28}{found['best_torch'] or '':16}{hand_ratio:28}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
