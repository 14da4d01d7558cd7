"""`fnlamp runs rm`: removes runs that have ended, after asking."""

from __future__ import annotations

import argparse
import sys

from fnlamp.experiment.command import output, pick
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.remove import remove, size_of


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    if not pick.filtered(options):
        options.usage("name the runs to remove, by ids or filters")
    records = pick.the_runs(options)
    if not options.yes and not _agreed(options, f"{len(records):,} runs, {size_of(records):,} bytes", records):
        sys.stderr.write("fnlamp: nothing is removed; --yes removes without asking\n")
        return 1
    removed, faults = remove(pick.root_of(options), records)
    if options.json:
        output.say_json({"removed": removed, "kept": [str(fault) for fault in faults]})
    else:
        for folder in removed:
            output.say(f"removed {folder}")
    for fault in faults:
        sys.stderr.write(f"fnlamp: {fault}\n")
    return 1 if faults else 0


def _agreed(options: argparse.Namespace, what: str, records: list[RunRecord]) -> bool:
    if not sys.stdin.isatty() or options.json:
        return False
    for each in records:
        output.say(f"{each.name}/{each.id}  {each.status}  {output.cell(each.note)}")
    sys.stdout.write(f"remove {what}? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
