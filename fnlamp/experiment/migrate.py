"""Run folders of earlier versions of the schema, read as those of the present one. Nothing is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from fnlamp.fault import FaultError, FileCorrupt, RunTooNew

VERSION: Final = 1
"""The version of the schema that is written."""

Files: TypeAlias = dict[str, dict[str, Any]]


def migrated(folder: str, files: Files) -> Files:
    """The files of a run in the present version.  Fails: `RunTooNew`; `FileCorrupt` without a version that is a number."""
    version = files["run.json"].get("schema", 0)
    if type(version) is not int or version < 0:
        raise FaultError(FileCorrupt(f"{folder}/run.json", "the number of a version as schema", repr(version)))
    if version > VERSION:
        raise FaultError(RunTooNew(folder, version, VERSION))
    for step in STEPS[version:]:
        files = step(files)
    return files


def _from_0(files: Files) -> Files:
    """Version 0 was fnlamp's plan before its first release, close to labml's `run.yaml`.

    The date was a text, a note a `comment`, the state "in progress", and the other files only had values by path.
    """
    run, config, summary = files["run.json"], files["config.json"], files["summary.json"]
    date = datetime.fromisoformat(run["date"])
    created = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    states = {"in progress": "running", "crashed": "defect"}
    state = run.get("status", "in progress")
    if "schema" not in config:
        config = {"schema": 1, "settings": {path: _setting(value) for path, value in config.items()}}
    if "schema" not in summary:
        figures = {name: dict.fromkeys(("last", "lowest", "highest"), value) for name, value in summary.items()}
        summary = {"schema": 1, "scalars": figures}
    return {
        "run.json": {
            **run,
            "schema": 1,
            "id": run["uuid"],
            "created": created,
            "ended": None,
            "seconds": None,
            "status": states.get(state, state),
            "error": None,
            "tags": run.get("tags", []),
            "note": run.get("comment", ""),
            "attempts": [],
        },
        "config.json": config,
        "summary.json": summary,
    }


def _setting(value: Any) -> dict[str, Any]:
    return {"value": value, "source": "given", "option": "", "formula": "", "needs": [], "origin": ""}


STEPS: Final[tuple[Callable[[Files], Files], ...]] = (_from_0,)
"""What makes each version the next one."""
