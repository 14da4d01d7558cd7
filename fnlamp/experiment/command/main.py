"""`fnlamp`: parses the command line, runs a verb, and reports faults. Exit codes: 0 fine, 1 a fault, 2 wrong usage."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from fnlamp.fault import FaultError

VERBS: Final = {
    "list": "a table of runs",
    "show": "everything about one run",
    "compare": "what differs between runs, and their figures",
    "plot": "learning curves, in the terminal or to a file",
    "at": "the values of runs at a step",
    "sql": "a query of a run's metrics that only reads",
    "note": "set or show the note of a run",
    "tag": "add and remove tags of a run",
    "rm": "remove runs",
    "clean": "remove old checkpoints and what killed processes left",
    "export": "runs or their scalars as CSV or Parquet",
    "report": "one HTML file about runs",
}


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of this command line; only the verb that it names is imported."""
    parser = argparse.ArgumentParser("fnlamp", description="Look at recorded runs; run programs in several processes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    runs = commands.add_parser("runs", help="list, compare and manage recorded runs")
    verbs = runs.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, line in VERBS.items():
        verb = verbs.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name in words:
            module = importlib.import_module(f"fnlamp.experiment.command.{name}")
            module.arguments(verb)
            verb.set_defaults(run=module.run, usage=verb.error)
    launch = commands.add_parser("launch", help="run a program in several processes of this machine")
    if "launch" in words[:1]:
        module = importlib.import_module("fnlamp.experiment.command.launch")
        module.arguments(launch)
        launch.set_defaults(run=module.run, usage=launch.error)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of the process; returns the exit code.  Raises: `SystemExit` for wrong usage."""
    given = list(sys.argv[1:] if words is None else words)
    options = parser_for(given).parse_args(given)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return int(code or 0)
    except FaultError as error:
        sys.stderr.write(f"fnlamp: {error.fault}\n")
        return 1
    except BrokenPipeError:  # such as `fnlamp runs list | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
