"""What `explain` shows of a sweep: its lanes and axes, what is compiled, and what everything costs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fnlamp.effect import Effect, Outline, Unknown
from fnlamp.effect.node import name_of
from fnlamp.experiment.place import Place
from fnlamp.fault import Fault, FaultError, printable
from fnlamp.sweep.job import Job
from fnlamp.sweep.study import Study
from fnlamp.sweep.together import at_once
from fnlamp.train.explain.totals import Totals, totals
from fnlamp.train.explain.work import Work

MOST: Final = 64
"""Lanes that are planned; of more, the first ones stand for all."""
SHOWN: Final = 8
"""Values of an axis that are shown."""


def outline(job: Job) -> Outline:
    """Lanes, axes and rungs; then programs to compile, steps, work and memory; nothing is run or compiled."""
    runs = f"runs in {job.folder}" + (f", {job.rungs}" if job.rungs is not None else "")
    lines = [f"sweep {job.name}: {len(job.space):,} lanes, {runs}", *_axes(job)]
    direction = "lowest" if job.lowest else "highest"
    lines.append(f"  best: the {direction} {job.column}")
    costs, fault = _costs(job)
    lines += _cost_lines(job, costs) if costs else [f"  each lane: {name_of(job.program_of)}, not looked into"]
    return Outline(tuple(map(printable, lines)), Unknown("the lanes of a sweep are unknown"), fault)


def _axes(job: Job) -> Iterator[str]:
    if isinstance(job.space, Study):
        for path, axis in job.space.axes.items():
            yield f"  {path}: {axis}, proposed by Optuna"
        return
    for path, values in job.space.axes.items():
        more = f", ... ({len(values):,} values)" if len(values) > SHOWN else ""
        yield f"  {path}: {', '.join(map(repr, values[:SHOWN]))}{more}"


def _points(job: Job) -> list[Mapping[str, Any]]:
    """The points that stand for all."""
    if isinstance(job.space, Study):
        return [{path: axis.at(0.5) for path, axis in job.space.axes.items()}]
    return list(itertools.islice(job.space, MOST))


def _costs(job: Job) -> tuple[dict[int, list[Totals]], Fault | None]:
    """The costs of lanes by number, and the fault with which all of them would end."""
    costs, faults = dict[int, list[Totals]](), list[Fault]()
    points = _points(job)
    for number, point in enumerate(points):
        folder = Path(os.path.join(job.folder, "explained"))
        place = Place("explained", job.name, folder, job.resolved(number, point).config)
        try:
            effect = job.program_of(place)
            costs[number] = totals(effect) if isinstance(effect, Effect) else []
        except FaultError as error:
            faults.append(error.fault.inside(f"lane {number}"))
        except Exception:  # any code of the caller's; a program in which nothing is trained
            return {}, None
    return costs, faults[0] if len(faults) == len(points) else None


def _cost_lines(job: Job, costs: dict[int, list[Totals]]) -> Iterator[str]:
    known = [each for lane in costs.values() for each in lane]
    if not known:
        yield "  costs: unknown, the streams of the lanes are acquired when they are run"
        return
    together = min(at_once(job.together), len(job.space))
    yield from _beside(costs, together) if together > 1 else _alone(costs)
    work = Work()
    for each in known:
        work = work.plus(each.work)
    of = "" if len(costs) == len(job.space) else f", for the first {len(costs):,} lanes"
    bound = ", without the rungs" if job.rungs is not None else ""
    yield f"  in all: {sum(each.steps for each in known):,} steps, {work}{of}{bound}"
    memory = [sum(each.memory for each in lane) for lane in costs.values()]
    low, high = min(memory), max(memory)
    if together > 1:
        yield f"  memory: up to {together} lanes at a time, about {together * high:,} bytes on the device"
    else:
        yield f"  memory: one lane at a time, {low:,}{'' if low == high else f' to {high:,}'} bytes on the device"


def _alone(costs: dict[int, list[Totals]]) -> Iterator[str]:
    """What is compiled if lanes run one after the other."""
    programs = {each.compiled for lane in costs.values() for each in lane}
    found = {number: tuple(each.compiled for each in lane) for number, lane in costs.items()}
    yield f"  to compile: {_count(programs)}; lanes of one differ in numbers alone: {_sizes(found)}"


def _beside(costs: dict[int, list[Totals]], together: int) -> Iterator[str]:
    """What is compiled if lanes train side by side, and which do not."""
    found = {number: tuple(each.beside() for each in lane) for number, lane in costs.items()}
    programs = {form for forms in found.values() for form in forms if form is not None}
    if programs:
        lanes = {number: forms for number, forms in found.items() if None not in forms}
        yield f"  to compile: {_count(programs)}, for each number of lanes at once; lanes of one differ in numbers alone"
        yield f"  side by side, up to {together} at a time: {_sizes(lanes)}"
    alone = {number: costs[number][0].compiled for number, forms in found.items() if forms and None in forms}
    if alone:
        yield f"  one at a time, for their data is not on the device: {_sizes(alone)}"


def _count(programs: Collection[Any]) -> str:
    return f"{len(programs):,} {'training program' if len(programs) == 1 else 'training programs'}"


def _sizes(kinds: Mapping[int, Any]) -> str:
    """How many lanes are of each kind."""
    groups: dict[Any, list[int]] = {}
    for number, kind in kinds.items():
        groups.setdefault(kind, []).append(number)
    return ", ".join(f"{len(numbers)} like lane {numbers[0]}" for numbers in [*groups.values()][:SHOWN]) + (
        ", ..." if len(groups) > SHOWN else ""
    )
