"""`fnlamp runs report`: one HTML file about a run, or about several."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.experiment.command import output, pick, recorded
from fnlamp.experiment.folder import CONFIG, DIFF, EXPLAIN, SWEEP, RunRecord, read_json, read_run
from fnlamp.experiment.importance import importance
from fnlamp.experiment.report import ReportRun, report
from fnlamp.experiment.where import MISSING, column
from fnlamp.fault import FaultError
from fnlamp.track import Figure, Histogram, History, Media, Rows, Text

MOST_TEXT = 200_000
"""Characters of a text in a report of one run; in a comparison, texts are left out."""


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the file (default: report.html)")
    parser.add_argument("--title", help="the title")


def run(options: argparse.Namespace) -> None:
    records = pick.the_runs(options)
    path = expanded(options.out)
    page = page_of(options.title or title_of(records), records).encode("utf-8", "backslashreplace")
    replaced(path, lambda file: file.write(page))
    if options.json:
        output.say_json({"path": path, "bytes": len(page), "runs": len(records)})
    else:
        output.say(f"{path}: {len(records):,} runs, {len(page):,} bytes")


def title_of(records: Sequence[RunRecord]) -> str:
    """The names of the runs."""
    names = list(dict.fromkeys(each.name for each in records))
    what = records[0].id if len(records) == 1 else f"{len(records):,} runs"
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: {what}"


def page_of(title: str, records: Sequence[RunRecord]) -> str:
    """The report as HTML."""
    histories = recorded.histories(records).values()
    alone = len(records) == 1
    runs = [report_run(each, history, alone=alone) for each, history in zip(records, histories, strict=True)]
    metric, highest = metric_of(records)
    shares = _importance(records, runs, metric) if metric else {}
    return report(title, runs, metric=metric, highest=highest, importance=shares)


def metric_of(records: Sequence[RunRecord]) -> tuple[str, bool]:
    """The metric of the sweep whose lanes these are, such as `lowest(validation.loss)`, or ""; and if it is best when high."""
    if None not in {each.lane for each in records} and len({os.path.dirname(each.folder) for each in records}) == 1:
        with contextlib.suppress(FaultError):
            said = read_json(os.path.dirname(records[0].folder), SWEEP)
            return str(said.get("metric", "")), said.get("best") == "highest"
    return "", False


def _importance(records: Sequence[RunRecord], runs: Sequence[ReportRun], metric: str) -> dict[str, float]:
    """How much each setting of the lanes matters, if the extra `sweep` is installed; formulas follow from other settings."""
    values = [column(metric).of(each) for each in records]
    points = [{path: value for path, (value, source) in each.settings.items() if source != "computed"} for each in runs]
    with contextlib.suppress(FaultError):
        return importance(points, [math.nan if each is MISSING else each for each in values])
    return {}


def report_run(record: RunRecord, history: History, *, alone: bool) -> ReportRun:
    """What a report shows of a run; of one that is alone, also its texts, pictures and distributions."""
    sources = _sources(record)
    found: dict[str, Any] = {"alerts": [(each.step, each.name, each.value) for each in history.alerts]}
    if alone:
        found |= _values(history)
        found["texts"] = {**_texts(record), **found.get("texts", {})}
    return ReportRun(
        id=record.id,
        name=record.name,
        status=record.status,
        created=record.created,
        note=record.note,
        tags=record.tags,
        settings={path: (value, sources.get(path, "")) for path, value in record.config.items()},
        figures=record.last,
        curves={name: history.scalars(name) for name in history.last},
        **found,
    )


def _values(history: History) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {"histograms": {}, "images": {}, "texts": {}, "tables": {}}
    for name in history.names:
        if name in history.last:
            continue
        for each in history.values(name):
            match each.value:
                case Histogram():
                    kinds["histograms"].setdefault(name, []).append((each.step, each.value))
                case Media(path, media_type):
                    with contextlib.suppress(OSError), open(path, "rb") as file:  # a picture that was removed
                        kinds["images"].setdefault(name, []).append((each.step, Figure(file.read(), media_type)))
                case Text(text):
                    kinds["texts"][f"{name} at step {each.step}"] = text
                case Rows():
                    kinds["tables"][name] = each.value
    return kinds


def _sources(record: RunRecord) -> dict[str, str]:
    with contextlib.suppress(FaultError):
        return {path: each["source"] for path, each in read_run(record.folder)[CONFIG].get("settings", {}).items()}
    return {}


def _texts(record: RunRecord) -> dict[str, str]:
    found = {"problem": record.problem} if record.problem else {}
    for title, name in {"explain()": EXPLAIN, "changes since the commit": DIFF}.items():
        path = os.path.join(record.folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                found[title] = file.read(MOST_TEXT)
    return found
