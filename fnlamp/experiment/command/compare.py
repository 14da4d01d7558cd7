"""`fnlamp runs compare`: the settings in which runs differ, and their figures, a column a run."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fnlamp.experiment.command import output, pick
from fnlamp.experiment.where import MISSING, Column


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument("--all", action="store_true", help="also the settings that are equal")


def run(options: argparse.Namespace) -> None:
    records = pick.the_runs(options)
    settings = list(dict.fromkeys(name for each in records for name in each.config))
    config = {name: [_value(Column(name, "config").of(each)) for each in records] for name in settings}
    if not options.all:
        config = {name: values for name, values in config.items() if len(set(map(_text, values))) > 1}
    metrics = sorted({name for each in records for name in each.last})
    kinds = ("last", "lowest", "highest")
    figures = {name: {kind: [getattr(each, kind).get(name) for each in records] for kind in kinds} for name in metrics}
    if options.json:
        ids = [each.id for each in records]
        output.say_json({"runs": ids, "status": [each.status for each in records], "config": config, "metrics": figures})
        return
    fields: dict[str, list[Any]] = {
        "name": [each.name for each in records],
        "status": [each.status for each in records],
        "time": [output.duration(each.elapsed) for each in records],
        "step": [each.step for each in records],
        "tags": [each.tags for each in records],
        "note": [each.note for each in records],
    }
    rows = [[name, *map(output.cell, values)] for name, values in fields.items() if any(values)]
    rows += [[f"config.{output.cell(name)}", *map(output.cell, values)] for name, values in config.items()]
    for name, each in figures.items():
        rows += [[f"{kind}({output.cell(name)})", *map(output.cell, each[kind])] for kind in kinds]
    output.say_table(["", *output.short_ids(records)], rows)


def _value(value: Any) -> Any:
    return None if value is MISSING else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
