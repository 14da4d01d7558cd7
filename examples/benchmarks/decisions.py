"""What a schedule, an average of the weights and folds cost together, and what saving each epoch costs, for a small model.

    python examples/benchmarks/decisions.py --data FOLDER --json FILE

The simple model of `training.py` trains for some epochs with validation, without and with them, alternating; the ratios are
medians over paired rounds. Wanted: at most 1.05, and 1.03 for the saves.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cases import CASES, data_for
from paired import Finding, ratios, report, take_turns

from fnlamp import loss, optim, stream, train
from fnlamp.effect import Runtime

EPOCHS = 3


def measure(rounds: int, scale: float, folder: Path | None) -> list[Finding]:
    """The time of training with decisions, and with saves, as ratios to the time without."""
    case = CASES["simple"]
    steps = max(2, int(case.steps * scale))
    x, y = data_for(case, steps, folder, "uint8")
    plain = describe(case, case.optimizer, x, y)
    decided = describe(
        case,
        optim.ema(case.optimizer, 0.999),
        x,
        y,
        schedule=optim.warmup(50, optim.cosine(EPOCHS * steps)),
        folds={"best": train.best(), "stop": train.patience(EPOCHS), "rate": train.reduce_on_plateau(0.5, EPOCHS)},
    )
    quiet = Runtime(log=None)

    def saved(_: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            policy = train.Checkpoints(folder)
            describe(case, case.optimizer, x, y, checkpoints=policy).run_or_raise(quiet)

    contestants = {
        "plain": lambda _: plain.run_or_raise(quiet),
        "decided": lambda _: decided.run_or_raise(quiet),
        "saved": saved,
    }
    seconds = take_turns(contestants, rounds)
    with_decisions, with_saves = (ratios(seconds[name], seconds["plain"]) for name in ("decided", "saved"))
    unit = "of the time without"
    return [
        Finding.of("a schedule, an average and three folds", unit, with_decisions, 1.05, at_least=False),
        Finding.of("a save after each epoch", unit, with_saves, 1.03, at_least=False),
    ]


def describe(case: Any, optimizer: optim.Optimizer, x: Any, y: Any, **options: Any) -> Any:
    return train.epochs(
        model=train.supervised(case.layer, loss.cross_entropy()),
        optimizer=optimizer,
        train_batches=lambda context: stream.minibatches(x, y, batch_size=case.batch, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(x[:2000], y[:2000], batch_size=200),
        epochs=EPOCHS,
        **options,
    )


def main() -> None:
    report(__doc__, measure)


if __name__ == "__main__":
    main()
