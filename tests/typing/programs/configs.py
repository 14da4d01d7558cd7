"""Configs: every field of a resolved one has its declared type, and the formulas' types are checked against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_type

from returns.result import Result

from fnlamp.config import CommandFault, Resolved, cli, computed, group, options, resolve
from fnlamp.effect import Effect
from fnlamp.fault import ConfigError


def batches_of(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def scaled(batch_size: int) -> float:
    return 0.1 * batch_size / 256


@group
class Loader:
    rows: int = 60_000
    batch_size: int = 64
    batches: int = computed(batches_of)


@group
class Mlp:
    hidden: tuple[int, ...] = (64, 32)


@group
class Cnn:
    kernel: int
    size: int = computed(lambda kernel: 28 - kernel)


@group
class Optimizer:
    learning_rate: float = computed(scaled)
    rule: Callable[[float], float] = options({"double": lambda rate: 2 * rate, "same": float}, default="double")
    warm: float = options({"cold": 0.0, "scaled": computed(scaled)}, default="cold")


@group
class Program(Loader):
    name: str
    epochs: int = 10
    steps: int = computed(lambda epochs, batches: epochs * batches)
    share: float = computed(lambda a, b, c, d, e: a + b + c + d + e, "epochs", "rows", "batches", "steps", "batch_size")
    model: Mlp | Cnn = Mlp()
    optimizer: Optimizer = Optimizer()


def short(program: Program) -> Program:
    return replace(program, epochs=1, optimizer=replace(program.optimizer, learning_rate=0.1))


def describe(program: Program) -> str:
    match program.model:
        case Mlp(hidden=hidden):
            return f"{len(hidden)} layers"
        case Cnn(size=size):
            return f"{size} pixels"


def main() -> None:
    start = Program(name="digits", steps=3)
    assert_type(start.steps, int)
    assert_type(resolve(start, "epochs=2", {"model": Cnn(kernel=5)}, short), Result[Resolved[Program], ConfigError])
    assert_type(resolve(Program, short, "name=a"), Result[Resolved[Program], ConfigError])
    assert_type(resolve(Program, lambda program: replace(program, epochs=1)), Result[Resolved[Program], ConfigError])
    assert_type(cli(Program, presets={"short": short}), Effect[Resolved[Program], CommandFault])
    assert_type(cli(start), Effect[Resolved[Program], CommandFault])
    resolved = resolve(Program(name="digits"), short).unwrap()
    assert_type(resolved, Resolved[Program])
    assert_type(resolved.config.steps, int)
    assert_type(resolved.config.share, float)
    assert_type(resolved.config.model, Mlp | Cnn)
    assert_type(resolved.config.optimizer.learning_rate, float)
    assert_type(resolved.config.optimizer.rule(0.5), float)
    assert_type(resolved.hyperparameters, dict[str, Any])
    assert resolved.config.steps == 938
    assert resolved.config.optimizer.rule(0.5) == 1.0
    assert describe(resolved.config) == "2 layers"


if __name__ == "__main__":
    main()
