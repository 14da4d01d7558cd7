"""`fnlamp runs plot`: learning curves, in the terminal, or by matplotlib to a file."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping

from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.experiment.command import output, pick, recorded
from fnlamp.experiment.command.sketch import sketch
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileUnwritable
from fnlamp.track import Series


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument("--metric", action="append", default=[], help="such as train.loss (default: the losses)")
    parser.add_argument("--out", metavar="FILE", help="a picture, .png, .svg or .pdf, drawn by matplotlib (the extra plots)")
    parser.add_argument("--log", action="store_true", help="a logarithmic scale")


def run(options: argparse.Namespace) -> None:
    records = pick.the_runs(options)
    histories = recorded.histories(records)
    known = recorded.names(histories.values())
    wanted = options.metric or [name for name in known if name.rpartition(".")[2] == "loss"] or known[:2]
    curves = {name: recorded.series(histories, name) for name in wanted}
    path = expanded(options.out) if options.out else None
    if path is not None:
        content = picture(curves, path.rpartition(".")[2], log=options.log)
        replaced(path, lambda file: file.write(content))
    if options.json:
        values = {name: {id: _lists(each) for id, each in runs.items()} for name, runs in curves.items()}
        output.say_json({"path": path, "metrics": values})
    elif path is not None:
        output.say(path)
    else:
        for name, runs in curves.items():
            output.say(sketch(name, {id: (each.steps, each.values) for id, each in runs.items()}, log=options.log) + "\n")
        if not curves:
            output.say("these runs recorded no scalars")


def _lists(series: Series) -> dict[str, list[float]]:
    return {"steps": series.steps.tolist(), "values": series.values.tolist()}


def picture(curves: Mapping[str, Mapping[str, Series]], kind: str, *, log: bool) -> bytes:
    """The curves as the bytes of a picture, a panel a metric.  Fails: `ExtraMissing`; `FileUnwritable` for another ending."""
    figure = need("matplotlib.figure", "plots").Figure(figsize=(7, 0.5 + 3.2 * max(1, len(curves))), layout="constrained")
    panels = figure.subplots(max(1, len(curves)), squeeze=False)[:, 0]
    for axes, (name, runs) in zip(panels, curves.items(), strict=False):
        for id, each in runs.items():
            axes.plot(each.steps, each.values, label=id, marker="." if len(each) < 20 else None, linewidth=1.2)
        axes.set(xlabel="step", ylabel=name, yscale="log" if log else "linear")
        axes.grid(alpha=0.3)
        if len(runs) <= 12:
            axes.legend(fontsize="x-small")
    file = io.BytesIO()
    try:
        figure.savefig(file, format=kind, dpi=150)
    except ValueError as error:
        raise FaultError(FileUnwritable(f"a picture .{kind}", str(error))) from error
    return file.getvalue()
