"""`fnlamp runs note`: the note of a run."""

from __future__ import annotations

import argparse

from fnlamp.experiment.command import output, pick


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.one(parser)
    parser.add_argument("text", nargs="?", help="the new note; an empty text removes it; without one, the note is printed")


def run(options: argparse.Namespace) -> None:
    record = pick.the_run(options)
    note = record.note
    if options.text is not None:
        from fnlamp.experiment.edit import edit

        note = edit(record.folder, lambda about: {**about, "note": options.text})["note"]
    if options.json:
        output.say_json({"id": record.id, "note": note})
    elif options.text is None:
        output.say(note)
