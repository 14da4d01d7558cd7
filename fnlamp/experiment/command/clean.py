"""`fnlamp runs clean`: removes old checkpoints of runs that have ended, and files that killed processes left."""

from __future__ import annotations

import argparse

from fnlamp.experiment.command import output, pick
from fnlamp.experiment.remove import clean


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument(
        "--keep", type=int, default=1, metavar="N", help="the newest saves that stay in each folder (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def run(options: argparse.Namespace) -> int:
    if options.keep < 0:
        options.usage("--keep is a number of 0 or more")
    removed, size = clean(pick.root_of(options), pick.matching(options), options.keep, pretend=options.dry_run)
    if options.json:
        output.say_json({"removed": removed, "bytes": size})
        return 0
    verb = "would remove" if options.dry_run else "removed"
    for path in removed:
        output.say(f"{verb} {path}")
    output.say(f"{verb} {len(removed):,} files, {size:,} bytes")
    return 0
