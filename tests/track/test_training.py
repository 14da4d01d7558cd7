"""A training that is tracked: the same figures, with and without a stop and a resume."""

import csv

import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, track, train
from fnlamp.effect import CancelToken, Runtime

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(np.int32)


def described(**options):
    return train.epochs(
        model=train.supervised(nn.linear(2), loss.cross_entropy()),
        optimizer=optim.adamw(0.1),
        train_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=4, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=8),
        metrics={"accuracy": loss.accuracy},
        epochs=3,
        seed=0,
        **options,
    )


def curves(folder):
    """The series that do not depend on the clock."""
    history = value(track.history(folder))
    names = [name for name in history.names if name.startswith(("train.", "validation."))]
    return {name: [(each.steps.tolist(), each.values.tolist()) for each in [history.scalars(name)]] for name in names}


def writers(folder):
    return track.lines(folder), track.sqlite(folder), track.csv_file(folder)


@pytest.mark.parametrize("at", [7, 10, 19])
def test_a_stopped_and_resumed_run_has_the_figures_of_one_that_was_not(tmp_path, at):
    quiet = Runtime(log=None, executor=train.Stepwise())
    whole = value(track.tracked(described(), *writers(tmp_path / "whole")), quiet)
    stop = CancelToken()

    def halt(event):
        if isinstance(event, track.Advanced) and event.step == at:
            stop.cancel()

    runtime = Runtime(log=None, executor=train.Stepwise(), observers=(halt,), cancel=stop)
    stopped = fault(track.tracked(described(), *writers(tmp_path / "parts")), runtime)
    resumed = described(resume=stopped.state.state)
    assert not value(track.tracked(resumed, *writers(tmp_path / "parts")), quiet).warnings
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    assert curves(tmp_path / "whole")["train.loss"][0][1] == [report.train_loss for report in whole.value.curve]
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")


def figures(folder):
    """The rows of CSV without times, once each."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [(row["name"], row["step"], row["value"]) for row in csv.DictReader(file)]
    return sorted(row for row in rows if not row[0].startswith("epoch."))
