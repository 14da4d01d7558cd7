"""`fnlamp runs list`: a table of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from fnlamp.experiment.command import output, pick
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.where import MISSING, Column, check, column

SHOWN: Final = 30
"""Runs in a terminal, unless --limit says otherwise."""
MOST: Final = 5
"""Settings and metrics that are shown without --columns."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="NAME", nargs="?", help="only runs of this experiment")
    pick.filters(parser)
    parser.add_argument("--columns", help="names with commas between: fields, metrics, config. and a setting")
    pick.common(parser)


def run(options: argparse.Namespace) -> None:
    options.name = options.experiment or options.name
    total = pick.matching(options)
    limit = SHOWN if options.limit is None and sys.stdout.isatty() and not options.json else 0
    records = total[-limit:] if limit else total
    if options.json:
        output.say_json({"runs": [output.record_json(each) for each in records]})
        return
    if not records:
        output.say("no runs")
        return
    columns = _named(records, options.columns) if options.columns else _usual(records)
    names = ["id", "name", "status", "created", "time", *map(str, columns)]
    rows = [
        [id, output.cell(each.name), each.status, output.moment(each.created), output.duration(each.elapsed)]
        + [_cell(each, column) for column in columns]
        for id, each in zip(output.short_ids(records), records, strict=True)
    ]
    output.say_table(
        names, rows, right=["time", *(str(each) for each in columns if each.kind in ("last", "lowest", "highest"))]
    )
    if len(records) < len(total):
        output.say(f"the last {len(records)} of {len(total):,} runs; --limit 0 shows all")


def _named(records: Sequence[RunRecord], text: str) -> list[Column]:
    found = [column(each) for each in text.split(",") if each.strip()]
    for each in found:
        check(records, each)
    return found


def _usual(records: Sequence[RunRecord]) -> list[Column]:
    """Tags and notes if there are any, the settings that differ, and the metrics of validation before others."""
    fields = [Column(name, "field") for name in ("tags", "note", "step") if any(getattr(each, name) for each in records)]
    settings = list(dict.fromkeys(name for each in records for name in each.config))
    differing = [name for name in settings if len({repr(each.config.get(name)) for each in records}) > 1]
    metrics = list(dict.fromkeys(name for each in records for name in each.last))
    first = sorted(metrics, key=lambda name: (not name.startswith("validation."), not name.startswith("train.")))
    return [*fields, *(Column(name, "config") for name in differing[:MOST]), *(Column(name, "last") for name in first[:MOST])]


def _cell(record: RunRecord, column: Column) -> str:
    value = column.of(record)
    if column.kind == "field" and column.name in ("created", "ended"):
        return output.moment(value)
    return output.DASH if value is MISSING else output.cell(value)
