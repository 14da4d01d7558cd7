"""What the loop tells observers: progress, figures of epochs, alerts, and where training starts."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, track, train
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import NonFinite
from fnlamp.track import Advanced, Alerted, Measured, Started
from fnlamp.train.events import value_of

ROWS = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(np.int32)
EXECUTORS = [train.Fused(chunk=2), train.Stepwise()]


def described(**options):
    given = {
        "model": train.supervised(nn.linear(2), loss.cross_entropy()),
        "optimizer": optim.sgdw(0.1),
        "train_batches": lambda context: stream.minibatches(ROWS, LABELS, batch_size=4, seed=context.seed),
        "epochs": 2,
    }
    return train.epochs(**{**given, **options})


def watched(program, **settings):
    """The trained model, and what was told."""
    told = []
    return value(program, Runtime(log=None, observers=(told.append,), **settings)), told


def of(told, kind):
    return [event for event in told if isinstance(event, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS, ids=str)
def test_a_run_tells_its_start_its_steps_and_the_figures_of_each_epoch(executor):
    program = described(
        validation_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=8),
        metrics={"accuracy": loss.accuracy, "confusion": loss.confusion_matrix()},
        train_metrics={"recall": loss.recall(loss.Average.EACH)},
    )
    trained, told = watched(program, executor=executor)
    assert told[0] == Started(0)
    first = [event for event in of(told, Advanced) if event.epoch == 1]
    dispatched = [2, 4, 5] if isinstance(executor, train.Fused) else [1, 2, 3, 4, 5]
    assert [(e.step, e.progress.done, e.progress.total) for e in first if e.name == "train"] == [(n, n, 5) for n in dispatched]
    assert {(e.step, e.progress.total, e.progress.unit) for e in first if e.name == "validation"} == {(5, 3, "batches")}
    assert [e.progress.done for e in of(told, Advanced) if (e.name, e.epoch) == ("train", 2)] == dispatched
    assert [(e.step, e.progress.done, e.progress.total) for e in of(told, Advanced) if e.name == "epochs"] == [
        (5, 1, 2),
        (10, 2, 2),
    ]
    for event, report in zip(of(told, Measured), trained.curve, strict=True):
        assert (event.step, event.epoch) == (5 * report.epoch, report.epoch)
        values = dict(event.values)
        assert values["train.loss"] == report.train_loss
        assert values["validation.loss"] == report.validation_loss
        assert values["validation.accuracy"] == report.validation_metrics["accuracy"]
        assert np.array_equal(values["train.recall"].values, report.train_metrics["recall"])
        table = [row[1:] for row in values["validation.confusion"].rows]
        assert np.array_equal(table, report.validation_metrics["confusion"])
        assert values["epoch.samples"] == 20
        assert values["epoch.samples_per_second"] > 0
        assert 0 <= values["epoch.waiting"] <= 1


def test_a_run_resumed_within_an_epoch_tells_where_it_starts_and_counts_on():
    stop = CancelToken()

    def halt(event):
        if isinstance(event, Advanced) and event.step == 7:
            stop.cancel()

    interrupted = fault(described(), Runtime(log=None, executor=train.Stepwise(), observers=(halt,), cancel=stop))
    _, told = watched(described(resume=interrupted.state.state), executor=train.Stepwise())
    assert told[0] == Started(7)
    assert [(e.step, e.progress.done) for e in of(told, Advanced) if e.name == "train"] == [(8, 3), (9, 4), (10, 5)]
    assert [e.step for e in of(told, Measured)] == [10]


def test_nothing_is_told_or_read_without_observers(monkeypatch):
    monkeypatch.setattr(train.events.Timing, "of", lambda carry: pytest.fail("read for nobody"))
    assert described().run(Runtime(log=None))


# ------------------------------------------------------------------------------- alerts


def curve(*losses):
    return [train.EpochReport(at + 1, len(losses), 1, 1, 0.0, 0.0, value) for at, value in enumerate(losses)]


def alerts(fold, *losses):
    return [verdict.alert is not None for verdict in train.replay(fold, curve(*losses))]


def test_an_alert_comes_at_the_first_epoch_of_those_in_which_its_condition_holds():
    high = train.when(lambda report: report.validation_loss > 1, "high")
    assert alerts(high, 0.5, 2.0, 3.0, 0.5, 2.0) == [False, True, False, False, True]
    not_finite = train.when("validation_loss", "not finite")
    assert alerts(not_finite, 1.0, math.nan, math.inf, 1.0, -math.inf) == [False, True, False, False, True]
    assert alerts(not_finite, None) == [False]
    stuck = train.when(train.patience(2), "stuck", level="error")
    verdicts = train.replay(stuck, curve(3.0, 2.0, 2.0, 2.0, 2.0))
    assert [verdict.alert for verdict in verdicts] == [None] * 3 + [track.Alert("stuck", "error"), None]
    assert not any(verdict.stop for verdict in verdicts)


def test_alerts_are_told_and_are_not_part_of_the_state():
    folds = {"low": train.when(lambda report: report.epoch >= 2, "low", level="info"), "end": train.time_budget(1e-9)}
    own = train.Fold(0, lambda acc, report: (acc + 1, train.Verdict(alert="each")), "own")
    trained, told = watched(described(epochs=3, folds={"low": folds["low"], "own": own}))
    each = [(e.name, e.alert, e.step, e.epoch) for e in of(told, Alerted)]
    warning, low = track.Alert("each"), track.Alert("low", "info")
    assert each == [("own", warning, 5, 1), ("low", low, 10, 2), ("own", warning, 10, 2), ("own", warning, 15, 3)]
    assert trained.state.folds["own"] == (3, train.Verdict())
    _, told = watched(described(folds={"end": folds["end"]}))
    (stopped,) = of(told, Alerted)
    assert (stopped.name, stopped.step, stopped.epoch, stopped.alert.level) == ("end", 5, 1, "info")
    assert "stopped after epoch 1 by end" in stopped.alert.text


def test_an_alert_of_another_type_is_refused():
    wrong = train.Fold(0, lambda acc, report: (acc, train.Verdict(alert=3)), "wrong")
    with pytest.raises(TypeError, match="alert is a text or a track.Alert"):
        described(folds={"wrong": wrong}).run(Runtime(log=None))
    with pytest.raises(ValueError, match="level is"):
        train.when("train_loss", "text", level="loud")


def test_a_step_that_breaks_the_run_is_an_alert():
    bad = np.array(ROWS)
    bad[9] = np.inf
    program = described(train_batches=lambda context: stream.minibatches(bad, LABELS, batch_size=4))
    for executor in EXECUTORS:
        told = []
        found = fault(program, Runtime(log=None, observers=(told.append,), executor=executor))
        assert isinstance(found, NonFinite)
        (event,) = of(told, Alerted)
        assert (event.name, event.step, event.epoch, event.alert.level) == ("fault", found.step, 1, "error")
        assert "NonFinite" in event.alert.text
        assert of(told, Advanced)[-1].step == found.step - 1 == 2


@pytest.mark.slow
def test_a_step_that_breaks_has_one_number_in_its_indicators_its_alert_and_its_fault():
    bad = np.array(ROWS)
    bad[9] = np.inf
    program = described(
        train_batches=lambda context: stream.minibatches(bad, LABELS, batch_size=4),
        indicators={"loss": train.step_loss()},
        measure_every=1,
    )
    told = []
    found = fault(program, Runtime(log=None, observers=(told.append,)))
    losses = {event.step: event.values["loss"] for event in of(told, Measured) if "loss" in event.values}
    assert [step for step, value in losses.items() if not np.isfinite(value)] == [found.step] == [3]
    (event,) = of(told, Alerted)
    assert event.step == found.step


# ------------------------------------------------------------------------------- values


def test_figures_become_values_of_their_shape():
    assert value_of(np.int64(3)) == 3.0
    assert math.isnan(value_of(np.nan))
    each = value_of(np.array([0.5, np.nan]))
    assert each.indices.tolist() == [0, 1]
    assert np.array_equal(each.values, [0.5, np.nan], equal_nan=True)
    assert value_of(np.zeros((2, 2, 2))).values.shape == (8,)
    assert value_of(np.zeros((1, 2)), ("a", "b")).rows == (("0", 0.0, 0.0),)


# ------------------------------------------------------------------------------- waiting for data


class Slow:
    """Batches that each take some seconds to make."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __iter__(self):
        for at in range(0, 20, 4):
            time.sleep(self.seconds)
            yield ROWS[at : at + 4], LABELS[at : at + 4]


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Fused(), train.Stepwise()], ids=str)
@pytest.mark.parametrize(("load", "step"), [(0.1, 0.0), (0.3, 0.2), (0.0, 0.1)])
def test_the_share_of_waiting_is_that_in_which_the_device_has_no_batch(executor, load, step):
    """A step that sleeps on the host for `step` seconds, over batches that take `load` seconds each."""

    def slow(x):
        return jax.pure_callback(lambda x: (time.sleep(step), x)[1], jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    layer = nn.fun(lambda x: jax.lax.stop_gradient(slow(x))) >> nn.linear(2)
    program = described(
        model=train.supervised(layer, loss.cross_entropy()),
        train_batches=lambda context: stream.from_iterable(lambda: Slow(load)),
        epochs=4,
    )
    _, told = watched(program, executor=executor)
    shares = []
    for event in of(told, Measured)[1:]:  # the first has the time of compiling in it
        seconds = event.values["epoch.samples"] / event.values["epoch.samples_per_second"]
        waited = seconds * event.values["epoch.waiting"]
        # No more than the time in which no step sleeps, and of each load what is longer than the step beside it.
        assert 0.8 * 5 * (load - step) <= waited <= seconds - 5 * step + 0.05 * seconds
        shares.append(waited / seconds)
    assert load or min(shares) < 0.1  # another program may delay one epoch, not each
