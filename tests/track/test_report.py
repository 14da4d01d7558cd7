"""Programs that report: sections, namespaces, figures of the machine."""

import sys
import time
import types

import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, track, train
from fnlamp.effect import CancelToken, Effect, Runtime, sleep


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def sleep(self, seconds, cancel):
        self.time += seconds


def told(program, run=value):
    events = []
    run(program, Runtime(observers=(events.append,), clock=Clock(), log=None))
    return events


def test_sections_are_timed_and_nest():
    inner = track.section("load", sleep(2)).then(sleep(1)).then(track.measure({"x": 1.0}, step=1))
    events = told(track.section("prepare", inner).then(track.section("load", sleep(4))))
    assert [event for event in events if not isinstance(event, track.Advanced)] == [
        track.Timed("prepare/load", 2.0),
        track.Measured({"x": 1.0}, 1),
        track.Timed("prepare", 3.0),
        track.Timed("load", 4.0),
    ]
    assert [event.name for event in events if isinstance(event, track.Advanced)] == ["prepare", "prepare/load", "load"]


def test_a_section_that_fails_is_timed_and_says_so():
    events = told(track.section("a", sleep(1).then(Effect.from_failure("no"))), run=fault)
    assert events[-1] == track.Timed("a", 1.0, failed=True)
    token, stopped = CancelToken(), []
    program = track.section("a", Effect.suspend(token.cancel).then(sleep(1)))
    program.run(Runtime(observers=(stopped.append,), cancel=token, log=None))
    assert stopped[-1].failed


def test_without_observers_a_section_is_the_program():
    assert value(track.section("a", Effect.from_value(3))) == 3


def test_a_namespace_is_before_every_name():
    program = Effect.asks(
        lambda runtime: [
            runtime.tell(event)
            for event in (
                track.Started(3),
                track.Measured({"loss": 1.0}, 4),
                track.Advanced("train", track.Progress(1)),
                track.Alerted("flat", track.Alert("a")),
            )
        ]
    )
    assert told(track.namespace("a", track.namespace("b", program))) == [
        track.Started(3, "a.b."),
        track.Measured({"a.b.loss": 1.0}, 4),
        track.Advanced("a.b.train", track.Progress(1)),
        track.Alerted("a.b.flat", track.Alert("a")),
    ]


def test_two_trainings_in_one_program(tmp_path):
    def training(loss):
        events = [track.Started(0), *(track.Measured({"loss": loss}, step) for step in range(1, 4))]
        return Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)

    both = track.namespace("first", training(1.0)).then(track.namespace("second", training(2.0)))
    value(track.tracked(both, track.lines(tmp_path)))
    history = value(track.history(tmp_path))
    assert {name: len(history.scalars(name)) for name in history.names} == {"first.loss": 3, "second.loss": 3}


def until(events, count):
    """Wait for so many events."""

    def wait():
        end = time.monotonic() + 30
        while len(events) < count and time.monotonic() < end:
            time.sleep(0.01)

    return Effect.suspend(wait)


def test_hardware_reports_the_machine(monkeypatch):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 1 / 0)  # what cannot be read is left out
    events = []
    value(track.hardware(until(events, 2), every=0.02), Runtime(observers=(events.append,)))
    count = len(events)
    assert "hardware.cpu" not in events[-1].values
    assert 0 < events[-1].values["hardware.memory"] <= 100
    assert events[-1].values["hardware.process_memory"] > 2**20
    time.sleep(0.1)
    assert len(events) == count, "the thread has ended"


def test_devices_are_read_and_what_cannot_be_read_is_left_out(monkeypatch):
    pytest.importorskip("psutil")

    calls = {
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda at: at,
        "nvmlDeviceGetUtilizationRates": lambda at: types.SimpleNamespace(gpu=50 + at),
        "nvmlDeviceGetMemoryInfo": lambda at: types.SimpleNamespace(used=2**30),
        "nvmlDeviceGetPowerUsage": lambda at: 250_500,
    }
    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(**calls))
    events = []
    value(track.hardware(until(events, 1), every=0.02), Runtime(observers=(events.append,)))
    found = {name: x for name, x in events[-1].values.items() if "gpu" in name}
    figures = {"": (50, 51), "_memory": (2**30, 2**30), "_watts": (250.5, 250.5)}
    assert found == {f"hardware.gpu{at}{name}": each[at] for name, each in figures.items() for at in (0, 1)}


def test_explain_looks_into_what_is_wrapped():
    layer = train.supervised(nn.linear(2), loss.mse())
    rows = np.zeros((6, 3), np.float32), np.zeros((6, 2), np.float32)

    def described(rate):
        batches = lambda context: stream.minibatches(*rows, batch_size=2)  # noqa: E731
        return train.epochs(model=layer, optimizer=optim.sgdw(rate), train_batches=batches, epochs=2, seed=0)

    def wrapped(rate):
        program = track.namespace("b", track.section("a", track.hardware(described(rate))))
        return track.tracked(program, track.lines("runs/1"), track.console())

    plan = wrapped(0.1).explain()
    assert plan.splitlines()[:3] == ["record in lines(runs/1), console:", "section a:", "figures of the machine, every 10 s:"]
    assert str(described(0.1).explain()) in plan
    assert plan.splitlines()[-1].startswith("then tracked")
    assert "0.1" in str(train.difference(wrapped(0.1), wrapped(0.2)))
