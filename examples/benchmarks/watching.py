"""What watching a run costs a small model: events and indicators each 50 steps, and the loss of each step.

    python examples/benchmarks/watching.py --data FOLDER --json FILE

The simple model of `training.py` trains for some epochs, watched and not, alternating; ratios are medians over paired rounds.
Everything is the loss, the learning rate, the gradient norm, and the statistics of each parameter, gradient and update.
Wanted: at most 1.03.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

from cases import CASES, data_for
from paired import Finding, ratios, report, take_turns

from fnlamp import loss, stream, track, train
from fnlamp.effect import Runtime

EPOCHS = 5
EVERYTHING = {
    "loss": train.step_loss(),
    "rate": train.learning_rate(),
    "norm": train.gradient_norm(),
    "parameters": train.statistics("parameters"),
    "gradients": train.statistics("gradients"),
    "updates": train.statistics("updates"),
}
WATCHED: dict[str, dict[str, Any]] = {
    "events alone": {},
    "the loss each 50 steps": {"indicators": {"loss": train.step_loss()}},
    "everything each 50 steps": {"indicators": EVERYTHING},
}


def measure(rounds: int, scale: float, folder: Path | None) -> list[Finding]:
    """The time of training that is watched, as ratios to the time of training that is not."""
    case = CASES["simple"]
    x, y = data_for(case, max(2, int(case.steps * scale)), folder, "uint8")

    def describe(**options: Any) -> Any:
        return train.epochs(
            model=train.supervised(case.layer, loss.cross_entropy()),
            optimizer=case.optimizer,
            train_batches=lambda context: stream.minibatches(x, y, batch_size=case.batch, seed=context.seed),
            epochs=EPOCHS,
            **options,
        )

    def contestant(program: Any, *observers: Any) -> Any:
        return lambda _: program.run_or_raise(Runtime(log=None, observers=observers))

    events: list[Any] = []
    watched = {name: contestant(describe(**options), events.append) for name, options in WATCHED.items()}
    everything = describe(indicators=EVERYTHING)

    def written(_: int) -> None:
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            writers = track.lines(place), track.sqlite(place), track.tensorboard(place), track.console()
            track.tracked(everything, *writers).run_or_raise(Runtime(log=None))

    watched["everything each 50 steps, with lines, SQLite, TensorBoard and console"] = written
    seconds = take_turns({"unwatched": contestant(describe()), **watched}, rounds)
    unit = "of the time without"
    found = {name: ratios(seconds[name], seconds["unwatched"]) for name in watched}
    return [Finding.of(name, unit, each, 1.03, at_least=False) for name, each in found.items()]


def main() -> None:
    report(__doc__, measure)


if __name__ == "__main__":
    main()
