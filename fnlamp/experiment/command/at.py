"""`fnlamp runs at`: the values of runs at a step."""

from __future__ import annotations

import argparse
from typing import Any

from fnlamp.experiment.command import output, pick, recorded
from fnlamp.track import Alert, Text


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", type=int, help="a value is that of the last step up to this one that has it")
    pick.some(parser)


def run(options: argparse.Namespace) -> None:
    records = pick.the_runs(options)
    values = {id: history.at(options.step) for id, history in recorded.histories(records).items()}
    if options.json:
        shown = {id: {name: _plain(value) for name, value in found.items()} for id, found in values.items()}
        output.say_json({"step": options.step, "runs": shown})
        return
    names = sorted({name for found in values.values() for name in found})
    rows = [[output.cell(name), *(output.cell(_plain(found.get(name))) for found in values.values())] for name in names]
    output.say_table([f"step {options.step}", *(labels := output.short_ids(records))], rows, right=labels)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, float):
        return value
    return value.text if isinstance(value, Text | Alert) else f"<{type(value).__name__.lower()}>"
