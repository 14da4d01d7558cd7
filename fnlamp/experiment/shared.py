"""An experiment of a program that several processes run together: process 0 records it, and tells the others where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from returns.result import Failure, Result

from fnlamp.effect import Effect, Runtime
from fnlamp.effect.together import Records, Together, Unrecorded
from fnlamp.experiment.attempt import Attempt, Plan
from fnlamp.experiment.place import Place
from fnlamp.fault import Fault, FaultError, ProcessFailed

CLAIM: Final = 120.0
"""Seconds that the others wait while process 0 claims a folder and records the repository and the machine."""


def claimed(
    plan: Plan, here: Together, claim: Callable[[Runtime], Result[Attempt, Any]], runtime: Runtime
) -> Result[Attempt, Any]:
    """The claim of a run by process 0; if it fails, the others, which wait for a place, are given the failure."""
    try:
        found = claim(runtime)
    except FaultError as error:
        found = Failure(error.fault)
    if isinstance(found, Failure):
        here.meet(_meeting(plan), json.dumps({"failed": _text(found.failure())}), deadline=CLAIM)
    return found


def announce(plan: Plan, here: Together, place: Place[Any]) -> None:
    """Give the others the place of the claimed run.  Fails: as `meet`, and the caller records the end of the run."""
    said = {"id": place.id, "folder": str(place.folder), "resumed": place.resumed}
    here.meet(_meeting(plan), json.dumps(said), deadline=CLAIM)


def followed(plan: Plan, here: Together, program: Any) -> Effect[tuple[Any, Place[Any]], Any]:
    """The program in a process that records nothing, at the place that process 0 has claimed.

    Fails: `ProcessFailed` if process 0 could not claim it.
    """

    def told() -> Place[Any]:
        said = json.loads(here.meet(_meeting(plan), deadline=CLAIM)[0])
        if "failed" in said:
            raise FaultError(ProcessFailed(0, said["failed"]))
        return Place(said["id"], plan.name, Path(said["folder"]), plan.config, said["resumed"])

    def run(place: Place[Any]) -> Effect[tuple[Any, Place[Any]], Any]:
        effect = program if isinstance(program, Effect) else program(place)
        return effect.local(_unrecorded).map(lambda value: (value, place))

    return Effect.checked(told).bind(run)


def _unrecorded(runtime: Runtime) -> Runtime:
    others = [each for each in runtime.observers if not isinstance(each, Records)]
    return replace(runtime, observers=(*others, Unrecorded()))


def _meeting(plan: Plan) -> str:
    return f"the beginning of experiment {plan.name}"


def _text(failure: Any) -> str:
    return f"{type(failure).__name__}: {failure}" if isinstance(failure, Fault) else str(failure)
