"""`fnlamp runs show`: everything about one run."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fnlamp.experiment import lease
from fnlamp.experiment.command import output, pick
from fnlamp.experiment.folder import CONFIG, DIFF, EXPLAIN, RUN, RUNNING, UNREADABLE, RunRecord, read_run
from fnlamp.fault import FaultError, FileMissing


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.one(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--explain", action="store_true", help="print the text of explain()")
    what.add_argument("--diff", action="store_true", help="print the changes since the commit")
    what.add_argument("--error", action="store_true", help="print the traceback")
    what.add_argument("--alerts", action="store_true", help="print the alerts")


def run(options: argparse.Namespace) -> None:
    record = pick.the_run(options)
    if options.explain or options.diff:
        name, text = ("explain", _text(record, EXPLAIN)) if options.explain else ("diff", _text(record, DIFF))
        _say_text(record, name, text, as_json=options.json)
        return
    if options.alerts:
        _say_alerts(record, as_json=options.json)
        return
    about: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if record.status != UNREADABLE:
        files = read_run(record.folder)
        about, settings = files[RUN], files[CONFIG].get("settings", {})
    if options.error:
        error = about.get("error") or {}
        text = error.get("traceback") or record.problem
        _say_text(record, "error", text if options.json else text or "no error", as_json=options.json)
    elif options.json:
        more = {name: about.get(name) for name in ("error", "warnings", "attempts")}
        output.say_json({**output.record_json(record), **more, "settings": settings})
    else:
        _say(record, about, settings)


def _say_text(record: RunRecord, name: str, text: str, *, as_json: bool) -> None:
    if as_json:
        output.say_json({"id": record.id, name: text})
    else:
        output.say(text)


def _say_alerts(record: RunRecord, *, as_json: bool) -> None:
    from fnlamp.experiment.command.recorded import histories
    from fnlamp.track import Alert

    (history,) = histories([record]).values()
    found = [(each.step, each.name, each.value) for each in history.alerts if isinstance(each.value, Alert)]
    rows = [{"step": step, "name": name, "level": alert.level, "text": alert.text} for step, name, alert in found]
    if as_json:
        output.say_json({"id": record.id, "alerts": rows})
    else:
        output.say_table(
            ["step", "level", "name", "text"], [[str(each[key]) for key in ("step", "level", "name", "text")] for each in rows]
        )


def _text(record: RunRecord, name: str) -> str:
    path = os.path.join(record.folder, name)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or str(error))) from error


def _say(record: RunRecord, about: dict[str, Any], settings: dict[str, Any]) -> None:
    attempts = about.get("attempts") or []
    this = attempts[-1] if attempts else {}
    lines = {
        "run": f"{record.name}/{record.id}",
        "status": record.status + (f" ({record.problem})" if record.problem else ""),
        "owner": (lease.owner(record.folder) or "") if record.status == RUNNING else "",
        "folder": record.folder,
        "created": output.moment(record.created),
        "time": output.duration(record.elapsed) + (f", {len(attempts)} attempts" if len(attempts) > 1 else ""),
        "step": "" if record.step is None else f"{record.step:,}" + ("" if record.epoch is None else f", epoch {record.epoch}"),
        "tags": ", ".join(record.tags),
        "note": record.note,
        "program": this.get("program"),
        "commit": _commit(this.get("git") or {}),
        "machine": ", ".join(filter(None, [this.get("host"), *(this.get("devices") or [])])),
        "versions": ", ".join(f"{name} {version}" for name, version in (this.get("versions") or {}).items()),
        "warnings": "; ".join(about.get("warnings") or []),
    }
    for name, text in lines.items():
        if text:
            output.say(f"{name:9} {text}")
    if settings:
        output.say("")
        rows = [
            [output.cell(path), output.cell(each.get("option") or each["value"]), _source(each)]
            for path, each in settings.items()
        ]
        output.say_table(["setting", "value", "from"], rows)
    if record.last:
        output.say("")
        kinds = ("last", "lowest", "highest")
        figures = [
            [output.cell(name), *(output.cell(getattr(record, kind).get(name)) for kind in kinds)]
            for name in sorted(record.last)
        ]
        output.say_table(["metric", *kinds], figures, right=kinds)


def _commit(git: dict[str, Any]) -> str:
    commit = git.get("commit") or git.get("missing") or "no commit yet"
    branch = f" on {git['branch']}" if git.get("branch") else ""
    return f"{commit}{' with changes' if git.get('dirty') else ''}{branch}"


def _source(setting: dict[str, Any]) -> str:
    needs = f" from {', '.join(setting['needs'])}" if setting.get("needs") else ""
    origin = f" by {setting['origin']}" if setting.get("origin") else ""
    return f"{setting['source']}{origin}{needs}"
