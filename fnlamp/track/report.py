"""Programs that report: values, sections with their times, and names under a prefix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Never, TypeVar

from returns.result import Success

from fnlamp.effect import Effect, Exit, Runtime
from fnlamp.effect.explain import Around
from fnlamp.given import instance, text, whole
from fnlamp.track.entry import Progress, checked_name, value_of
from fnlamp.track.event import Advanced, Alerted, Event, Measured, Started, Timed

A = TypeVar("A")
E = TypeVar("E")
PROGRAM = "an Effect, such as train.epochs(...)"


def measure(
    values: Mapping[str, Any], *, step: int | None = None, epoch: int | None = None, lane: int = 0
) -> Effect[None, Never]:
    """Report values to the observers of the run: numbers, or `track.Text`, `track.Image` and others.

    Without a step, they are of the step that was reported last.

    >>> from fnlamp.effect import Runtime
    >>> measure({"samples": 3}, step=1).run(Runtime(observers=(print,)))
    Measured(values={'samples': 3}, step=1, epoch=None, lane=0)
    <IOResult: <Success: None>>
    """
    found = dict(instance("values", values, Mapping, "a dict from names to numbers and other values"))
    for name, value in found.items():
        value_of(checked_name(name), value)
    at = None if step is None else whole("step", step, 0)
    event = Measured(found, at, None if epoch is None else whole("epoch", epoch, 0), whole("lane", lane, 0))
    return Effect.asks(lambda runtime: runtime.tell(event))


def section(name: str, program: Effect[A, E]) -> Effect[A, E]:
    """The program as a named part, which reports its seconds when it ends, however it ends: `time.name`.

    Sections nest: one called `load` inside `prepare` is `prepare/load`. Without observers, this is the program.

    >>> from fnlamp.effect import Runtime
    >>> program = section("prepare", section("load", Effect.from_value(42)))
    >>> program.run(Runtime(observers=(lambda event: print(type(event).__name__, event.name),)))
    Advanced prepare
    Advanced prepare/load
    Timed prepare/load
    Timed prepare
    <IOResult: <Success: 42>>
    """
    checked_name(text("name", name))
    instance("program", program, Effect, PROGRAM)

    def timed(runtime: Runtime) -> Effect[A, E]:
        if not runtime.observers:
            return program
        start = runtime.clock.now()
        runtime.tell(Advanced(name, Progress(0, None, "")))

        def ended(exit: Exit[A, E]) -> Effect[None, Never]:
            seconds, failed = runtime.clock.now() - start, not isinstance(exit, Success)
            return Effect.suspend(lambda: runtime.tell(Timed(name, seconds, failed=failed)))

        return _through(program, lambda event: _within_section(name, event)).ensuring(ended)

    return Effect.access(timed).outlined(Around(program._inner_value, (f"section {name}:",)))


def _within_section(name: str, event: Event) -> Event:
    return replace(event, name=f"{name}/{event.name}") if isinstance(event, Advanced | Timed) else event


def namespace(name: str, program: Effect[A, E]) -> Effect[A, E]:
    """The program, with the names of what it reports under a prefix: `train.loss` within `pretrain` is `pretrain.train.loss`.

    A program with several trainings gives each its own, so that the steps of one do not replace those of another.

    >>> from fnlamp.effect import Runtime
    >>> namespace("pretrain", measure({"loss": 0.5}, step=1)).run(Runtime(observers=(print,)))
    Measured(values={'pretrain.loss': 0.5}, step=1, epoch=None, lane=0)
    <IOResult: <Success: None>>
    """
    start = f"{checked_name(text('name', name))}."
    return _through(instance("program", program, Effect, PROGRAM), lambda event: _under(start, event))


def _under(start: str, event: Event) -> Event:
    match event:
        case Measured(values):
            return replace(event, values={start + name: value for name, value in values.items()})
        case Started(_, within):
            return replace(event, within=start + within)
        case Advanced(name) | Alerted(name) | Timed(name):
            return replace(event, name=start + name)
    return event


def _through(program: Effect[A, E], change: Callable[[Event], Event]) -> Effect[A, E]:
    """The program, whose observers receive changed events."""

    def changed(observer: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda event: observer(change(event))

    return program.local(lambda runtime: replace(runtime, observers=tuple(map(changed, runtime.observers))))
