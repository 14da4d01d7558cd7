"""What people see: lines, and the live bar in a terminal, in a notebook and in a file."""

import io
import math
import sys
import types

import pytest
from outcomes import value
from telling import VALUES

from fnlamp import track
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import ExtraMissing, FaultError
from fnlamp.track.writers.bar import Board, Meter, in_terminal, notebook
from fnlamp.track.writers.words import chosen, lines_of

EPOCH = {"train.loss": 0.3167, "validation.loss": 0.1802, "validation.accuracy": 0.9505, "epoch.seconds": 9.0}


def shown(capsys, *events, writer=None):
    told = Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)
    outcome = value(track.tracked(told, writer or track.console()), Runtime(log=None))
    assert not outcome.warnings
    return capsys.readouterr().out


def test_the_line_of_an_epoch(capsys):
    epochs = track.Advanced("epochs", track.Progress(1, 5, "epochs"))
    line = "Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%\n"
    assert shown(capsys, epochs, track.Measured(EPOCH, 1563, 1)) == line


def test_not_a_number_stays_visible(capsys):
    values = {"train.loss": math.nan, "x": math.inf, "y": -math.inf}
    assert shown(capsys, track.Measured(values, 7)) == "Step 7, Training Loss: nan, x: inf, y: -inf\n"


def test_alerts_and_texts_are_lines_and_control_characters_are_escaped(capsys):
    lines = shown(capsys, track.Measured(VALUES | {"text": track.Text("\x1b[31mred")}, 3)).splitlines()
    assert lines == [r"Step 3, text: \x1b[31mred", "Step 3, alert: error: the loss is not a number"]


def test_names_are_chosen_by_pattern(capsys):
    event = track.Measured({**EPOCH, "time.load": 1.0, "hardware.cpu": 3.0, "a": 1.0}, 1, lane=2)
    assert "epoch" not in shown(capsys, event)
    assert shown(
        capsys, event, writer=track.console("time.*", "a")
    ) == "Step 1, lane 2, time.load: 1.0000, a: 1.0000\n".replace("Step 1", "Step 1")


def test_many_values_are_cut():
    (line,) = lines_of(track.Entry({f"m{at}": 1.0 for at in range(100)}, 1), chosen(()), None)
    assert line.endswith("and 92 more")


def test_a_closed_standard_output_is_a_warning(monkeypatch):
    out = io.StringIO()
    out.close()
    monkeypatch.setattr(sys, "stdout", out)
    (warning,) = value(track.tracked(track.measure({"x": 1.0}), track.console()), Runtime(log=None)).warnings
    assert "closed file" in warning.reason
    (warning,) = value(track.tracked(track.measure({"x": 1.0}), track.console())).warnings  # the log is closed, too


def test_rate_and_time_left_come_from_the_runs_own_counts():
    meter = Meter()
    meter.take(track.Progress(1000, 2000), 100.0)  # resumed: what was done before counts for no rate
    assert (meter.rate, meter.left) == (None, None)
    meter.take(track.Progress(1010, 2000), 101.0)
    assert (meter.rate, meter.left) == (10.0, 99.0)
    assert meter.text == "1,010/2,000 steps, 10/s, 1:39 left"
    for at in range(100):  # the rate is that of the last half minute
        meter.take(track.Progress(1010 + 2 * at, 2000), 102.0 + at)
    assert meter.rate == pytest.approx(2.0)
    meter.take(track.Progress(3000, 2000), 300.0)
    assert meter.left == 0.0
    meter.take(track.Progress(5, 2000), 301.0)  # the next epoch
    assert (meter.rate, meter.left) == (None, None)
    meter.take(track.Progress(6, 2000), 200.0)  # the clock was set back
    meter.take(track.Progress(7, 2000), 201.0)
    assert meter.rate == 1.0


PROGRESS = [track.Advanced("train", track.Progress(at, 100), at) for at in range(0, 101, 50)]


def test_without_a_terminal_the_bar_is_a_line_now_and_then(capsys):
    pytest.importorskip("rich")
    out = shown(capsys, *PROGRESS, track.Measured(EPOCH, 100, 1), track.Alerted("flat", track.Alert("a")), writer=track.bar())
    assert out.splitlines()[0] == "Step 100, flat: warning: a"
    assert out.splitlines()[1].startswith("train 100/100 steps")
    assert out.endswith("Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%\n")


@pytest.mark.parametrize("width", [20, 80, 200])
def test_in_a_terminal_the_bar_is_drawn_in_place_and_fits(width):
    rich = pytest.importorskip("rich.console")
    file = io.StringIO()
    board = Board(chosen(()))
    with in_terminal(rich.Console(file=file, force_terminal=True, width=width, height=10, color_system=None)) as show:
        for at in (10, 20):
            lines = board.take(track.Entry({"train": track.Progress(at, 100)}, at, time=float(at)))
            lines += board.take(track.Entry({"train.loss": 0.5, "flat": track.Alert("[bold]a")}, at, time=float(at)))
            show(board, lines)
        print("logged", file=sys.stdout)
    text = file.getvalue()
    assert "[bold]a" in text.replace("\n", "")
    assert "train" in text
    import re

    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert max(len(line) for each in plain.split("\n") for line in each.split("\r")) <= width
    if width >= 80:
        assert "20/100 steps, 1/s, 1:20 left" in plain
        assert "Training Loss: 0.5000" in plain


def test_in_a_notebook_the_bar_is_an_output_that_is_replaced(monkeypatch):
    pytest.importorskip("rich")
    shows = []

    class Handle:
        def update(self, data, raw):
            shows.append(data["text/plain"])

    shell = types.SimpleNamespace(kernel=object())
    module, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    module.get_ipython = lambda: shell
    display.display = lambda data, raw, display_id: Handle()
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert notebook() is display.display
    told = Effect.asks(lambda runtime: [runtime.tell(event) for event in PROGRESS] and None)
    assert not value(track.tracked(told.then(track.measure(EPOCH)), track.bar()), Runtime(log=None)).warnings
    assert "100/100 steps" in shows[-1]
    assert "Training Loss: 0.3167" in shows[-1]
    module.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal
    assert notebook() is None


def test_a_section_that_has_ended_leaves_the_bar():
    board = Board(chosen(()))
    board.take(track.Entry({"load": track.Progress(0, None, "")}, 0))
    assert "load" in board.line
    board.take(track.Entry({"time.load": 1.0}, 0))
    assert board.line == ""


@pytest.mark.parametrize(("make", "module", "extra"), [
    (lambda: track.bar(), "rich", "rich"),
    (lambda: track.tensorboard("f"), "tensorboardX", "tensorboard"),
    (lambda: track.mlflow("f"), "mlflow", "mlflow"),
    (lambda: track.hardware(Effect.from_value(1)), "psutil", "hw"),
])  # fmt: skip
def test_a_missing_extra_is_named_before_the_run(monkeypatch, make, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FaultError) as caught:
        make()
    assert caught.value.fault == ExtraMissing(module, extra)
