"""Steps to a validation loss: every update rule on one language model of characters, each rule's rate from the same grid.

    python examples/benchmarks/rules.py --data FILE --json FILE          all rules; hours on two cores
    python examples/benchmarks/rules.py --data FILE --rules adamw muon

FILE is a text, as tinyshakespeare. The model is a GPT of 4 layers, width 128 and 4 heads; a batch has 12 windows of 64
characters. The rate rises over 100 steps and then stays. Rate times decay of matrices is the same for all rules at the same
place in the grid. Each rate is tried with the first seed, the middle one first, and given up where it needs more steps than the
best so far (`>` in the table); the one with the fewest steps is repeated with the others.
Rules for matrices (muon) have AdamW for embeddings and norms; its rate is AdamW's own, times the same factor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from returns.result import Failure, Success

import fnlamp
from fnlamp import Role, Tag, data, loss, models, optim, train
from fnlamp.effect import Runtime
from fnlamp.fault import NonFinite

FIRST = {
    "adamw": 2e-3,
    "nadamw": 2e-3,
    "radam": 2e-3,
    "yogi": 2e-3,
    "lamb": 1e-2,
    "lion": 2e-4,
    "adafactor": 3e-2,
    "sgdw": 0.1,
    "shampoo": 0.05,
    "soap": 2e-3,
    "muon": 0.007,
    "muon as adamw": 2e-3,
}
"""The rate in the middle of each rule's grid: a usual one for small transformers."""


@dataclass(frozen=True)
class Task:
    """What is trained, and until when."""

    rows: np.ndarray[Any, Any]
    held_out: np.ndarray[Any, Any]
    vocabulary: int
    layers: int = 4
    width: int = 128
    heads: int = 4
    block: int = 64
    batch: int = 12
    target: float = 1.88
    every: int = 25
    most: int = 4000
    windows: int = 600


def rule(name: str, factor: float) -> optim.Optimizer:
    """The rule with its first rate times the factor; decay is for matrices only, and clipping at 1 for all."""
    rate = factor * FIRST[name]

    def decay(tag: Tag) -> float:
        return 2e-4 * factor / rate if tag.matrix and tag.role is Role.WEIGHT else 0.0

    if name.startswith("muon"):
        scale = optim.UpdateScale.AS_ADAMW if "as" in name.split() else optim.UpdateScale.BY_SHAPE
        rules = {"matrices": optim.muon(rate, decay, scale=scale), "rest": optim.adamw(factor * FIRST["adamw"], b2=0.99)}
        return optim.by_tag(rules, lambda tag: "matrices" if tag.matrix and tag.role is Role.WEIGHT else "rest", clip=1.0)
    if name == "sgdw":
        return optim.sgdw(rate, decay, momentum=0.9, clip=1.0)
    moments = {"b2": 0.99} if name in ("adamw", "nadamw", "radam", "yogi", "lamb") else {}
    made: optim.Optimizer = getattr(optim, name)(rate, decay, clip=1.0, **moments)
    return made


def steps_to_target(task: Task, optimizer: optim.Optimizer, seed: int) -> tuple[int | None, float]:
    """Steps until validation reaches the target, to `every` steps; `None` if it never does. And the seconds of a step."""

    def reached(count: int, report: train.EpochReport) -> tuple[int, train.Verdict]:
        low = report.validation_loss is not None and report.validation_loss <= task.target
        return count + report.steps, train.Verdict(stop=low or count + report.steps >= task.most)

    network = models.gpt(task.vocabulary, layers=task.layers, width=task.width, heads=task.heads, context=task.block)
    batch = min(task.windows, 100)
    program = train.epochs(
        model=train.supervised(network, loss.cross_entropy()),
        optimizer=optimizer,
        train_batches=lambda context: data.language_model_batches(
            task.rows, task.block, task.batch, seed=context.seed, drop_last=True
        ).take(task.every),
        validation_batches=lambda context: data.language_model_batches(task.held_out, task.block, batch).take(
            task.windows // batch
        ),
        epochs=task.most,
        schedule=optim.warmup(100, optim.constant()),
        folds={"target": train.Fold(0, reached, "target")},
        seed=seed,
    )
    match program.run_exit(Runtime(log=None)):
        case Success(trained):
            last = trained.curve[-1]
            seconds = statistics.median(report.seconds / report.steps for report in trained.curve)
            hit = last.validation_loss is not None and last.validation_loss <= task.target
            return sum(report.steps for report in trained.curve) if hit else None, seconds
        case Failure(NonFinite()):
            return None, float("nan")  # a rate at which the loss is not a number
        case other:  # Ctrl-C and others are no figures
            raise SystemExit(str(other))


def tuned(task: Task, name: str, grid: list[float], seeds: int, count: Callable[..., Any] = steps_to_target) -> dict[str, Any]:
    """The figures of one rule: steps for each factor, the best of them, and its steps for each seed."""
    tried: dict[float, tuple[int | None, float, int]] = {}
    found: dict[float, int] = {}
    for factor in sorted(grid, key=lambda factor: abs(math.log(factor))):
        most = min(found.values(), default=task.most)
        steps, seconds = count(replace(task, most=most), rule(name, factor), 0)
        tried[factor] = steps, seconds, most
        if steps is not None:
            found[factor] = steps
    figures: dict[str, Any] = {
        "grid": [{"rate": factor * FIRST[name], "steps": tried[factor][0], "most": tried[factor][2]} for factor in grid],
        "seconds_a_step": statistics.median(seconds for _, seconds, _ in tried.values()),
    }
    if not found:
        return figures
    factor = min(found, key=found.__getitem__)
    steps = [found[factor], *(count(task, rule(name, factor), seed)[0] for seed in range(1, seeds))]
    reached = [each for each in steps if each is not None]
    mean = statistics.mean(reached) if len(reached) == len(steps) else None
    return figures | {"rate": factor * FIRST[name], "steps": steps, "mean": mean}


def line(name: str, figures: dict[str, Any], base: float | None) -> str:
    """A row of the table: steps for each rate of the grid, and for each seed at the best."""
    grid = "  ".join(f"{each['rate']:.1e}: {each['steps'] or '>' + str(each['most']):>5}" for each in figures["grid"])
    mean = figures.get("mean")
    ratio = f"{mean / base:.2f}" if mean and base else "-"
    seeds = " ".join(str(steps or "-") for steps in figures.get("steps", []))
    steps = f"{mean:.0f}" if mean else "-"
    return f"{name:14} {grid}   {steps:>8}  {ratio:>5}  {1e3 * figures['seconds_a_step']:6.0f} ms   {seeds}"


def task_of(path: Path, **options: Any) -> Task:
    text = path.read_text(encoding="utf-8")
    codec = data.character_codec(text)
    ids = codec.encode(text).astype(np.uint16)
    at = len(ids) * 9 // 10
    return Task(ids[:at], ids[at:], codec.size, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text in UTF-8")
    parser.add_argument("--rules", nargs="+", choices=list(FIRST), default=list(FIRST))
    parser.add_argument("--grid", nargs="+", type=float, default=[0.3, 1.0, 3.0], help="factors of each rule's first rate")
    parser.add_argument("--seeds", type=int, default=3)
    for name in ("layers", "width", "heads", "block", "batch", "every", "most", "windows"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Task, name))
    parser.add_argument("--target", type=float, default=Task.target)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = vars(parser.parse_args())
    names, grid, seeds, path, out = (given.pop(key) for key in ("rules", "grid", "seeds", "data", "json"))
    fnlamp.keep_memory()
    task = task_of(path, **given)
    print(f"steps to a validation loss of {task.target}, counted by {task.every}, for each rate of the grid;")
    print(f"mean of {seeds} seeds at the best rate, ratio to adamw, time of a step, steps of each seed")
    found: dict[str, Any] = {}
    start = time.perf_counter()
    for name in names:
        found[name] = tuned(task, name, grid, seeds)
        base = found.get("adamw", {}).get("mean")
        print(line(name, found[name], base), flush=True)
        if out is not None:
            machine = {"cores": os.cpu_count(), "machine": platform.machine(), "platform": jax.default_backend()}
            settings = {**given, "grid": grid, "seeds": seeds, "text": path.name, "jax": jax.__version__}
            figures = {"machine": machine, "settings": settings, "rules": found, "seconds": time.perf_counter() - start}
            out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
