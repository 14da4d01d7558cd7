"""The options that verbs share: which folder, which runs, and how the answer is printed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from fnlamp.experiment.folder import STATUSES, RunRecord
from fnlamp.experiment.index import chosen, listing
from fnlamp.experiment.where import in_order, selected
from fnlamp.fault import FaultError, RunMissing


def common(parser: argparse.ArgumentParser) -> None:
    """The folder, and JSON."""
    parser.add_argument("--folder", default="runs", help="the folder of runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def one(parser: argparse.ArgumentParser) -> None:
    """One run."""
    parser.add_argument("id", metavar="RUN", help="the id of a run, or its beginning or end")
    common(parser)


def some(parser: argparse.ArgumentParser) -> None:
    """Several runs, by their ids, by filters, or all."""
    parser.add_argument(
        "ids",
        metavar="RUN",
        nargs="*",
        help="ids of runs, their beginnings or ends, or names of experiments (default: all)",
    )
    filters(parser)
    common(parser)


def filters(parser: argparse.ArgumentParser) -> None:
    """Conditions and the order."""
    group = parser.add_argument_group("filters")
    group.add_argument("--name", help="only runs of this experiment")
    group.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COMPARISON",
        help='such as "config.learning_rate<0.1", "validation.accuracy>0.9", "lowest(validation.loss)<0.2"; all must hold',
    )
    group.add_argument("--tag", action="append", default=[], help="only runs with this tag")
    group.add_argument("--status", action="append", default=[], choices=STATUSES, help="only runs with this status")
    group.add_argument("--sort", default="created", metavar="NAME", help="a field, metric or config. and a setting")
    group.add_argument("--reverse", action="store_true", help="largest first")
    group.add_argument("--limit", type=_count, metavar="N", help="only the last N; 0 is all")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("a number of 0 or more")
    return number


def root_of(options: argparse.Namespace) -> str:
    """The folder of runs, absolute."""
    return str(os.path.abspath(os.path.expanduser(options.folder)))


def the_run(options: argparse.Namespace) -> RunRecord:
    """The run that is named.  Fails: `FileMissing`, `RunMissing`, `RunAmbiguous`."""
    return chosen(listing(root_of(options)), options.id, options.folder)


def the_runs(options: argparse.Namespace) -> list[RunRecord]:
    """The runs that are named, or those that match the filters; at least one.  Fails: as `the_run` and `selected`."""
    found = matching(options)
    if not found:
        raise FaultError(RunMissing(options.folder, ""))
    return found


def matching(options: argparse.Namespace) -> list[RunRecord]:
    """The runs that match, perhaps none."""
    records = listing(root_of(options), options.name)
    ids: Sequence[str] = getattr(options, "ids", ())
    named = [each for id in ids for each in _named(records, id, options.folder)] if ids else records
    named = list({each.folder: each for each in named}.values())  # a run may be named twice, as by its id and its experiment
    found = selected(named, options.where, tags=options.tag, statuses=options.status)
    if not (ids and options.sort == "created"):
        found = in_order(found, options.sort, reverse=options.reverse)
    return found[-options.limit :] if options.limit else found


def _named(records: Sequence[RunRecord], id: str, root: str) -> list[RunRecord]:
    """The run of an id, or the runs of an experiment or a sweep, lanes in their order.  Fails: `RunMissing`, `RunAmbiguous`."""
    if lanes := [each for each in records if each.name == id]:
        return sorted(lanes, key=lambda each: -1 if each.lane is None else each.lane)
    return [chosen(records, id, root)]


def filtered(options: argparse.Namespace) -> bool:
    """Whether anything says which runs are meant."""
    return bool(getattr(options, "ids", ()) or options.name or options.where or options.tag or options.status or options.limit)
