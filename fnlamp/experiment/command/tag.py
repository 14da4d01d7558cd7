"""`fnlamp runs tag`: the tags of a run."""

from __future__ import annotations

import argparse
from typing import Any

from fnlamp.experiment.command import output, pick


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.one(parser)
    parser.add_argument("tags", metavar="TAG", nargs="*", help="tags to add; without any, the tags are printed")
    parser.add_argument("--remove", action="append", default=[], metavar="TAG", help="a tag to remove")


def run(options: argparse.Namespace) -> None:
    record = pick.the_run(options)
    tags = list(record.tags)
    if options.tags or options.remove:
        from fnlamp.experiment.edit import edit

        def change(about: dict[str, Any]) -> dict[str, Any]:
            found = dict.fromkeys([*about["tags"], *options.tags])
            return {**about, "tags": [tag for tag in found if tag not in options.remove]}

        tags = edit(record.folder, change)["tags"]
    if options.json:
        output.say_json({"id": record.id, "tags": tags})
    else:
        output.say("\n".join(tags) if tags else "no tags")
