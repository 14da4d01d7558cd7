"""Resources as values: acquired in order, released in reverse order, on every outcome."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

from fnlamp.effect import Defect, Effect, Exit, Interrupted, Resource


def noted(log: list[Any], word: Any) -> Effect[Any, Any]:
    return Effect.suspend(lambda: log.append(word))


def file(log: list[Any], name: str) -> Resource[str, Any]:
    """A resource that records its acquisition and release."""
    return Resource.make(noted(log, f"open {name}").map(lambda _: name), lambda name, _: noted(log, f"close {name}"))


def broken() -> Any:
    raise ZeroDivisionError("a bug")


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


ENDINGS: list[tuple[str, Effect[Any, Any], type]] = [
    ("success", Effect.from_value("value"), Success),
    ("failure", Effect.from_failure("no"), Failure),
    ("bug", Effect.suspend(broken), Defect),
    ("interruption", Effect.suspend(ctrl_c).then(Effect.from_value(0)), Interrupted),
]
every_ending = pytest.mark.parametrize(
    ("body", "kind"), [ending[1:] for ending in ENDINGS], ids=[ending[0] for ending in ENDINGS]
)


@every_ending
def test_nested_resources_are_released_in_reverse_order(body: Effect[Any, Any], kind: type) -> None:
    log: list[Any] = []
    both = file(log, "a").bind(lambda a: file(log, "b").map(lambda b: a + b))
    exit = both.use(lambda names: noted(log, f"use {names}").then(body)).run_exit()
    assert type(exit) is kind
    assert log == ["open a", "open b", "use ab", "close b", "close a"]


@every_ending
def test_a_release_is_given_the_outcome(body: Effect[Any, Any], kind: type) -> None:
    seen: list[Any] = []

    def release(resource: int, exit: Exit[Any, Any]) -> Effect[None, Any]:
        return noted(seen, (resource, exit))

    exit = Resource.make(Effect.from_value(1), release).use(lambda _: body).run_exit()
    assert [(resource, type(given)) for resource, given in seen] == [(1, kind)]
    if kind is not Interrupted:  # its state may be filled in on the way out
        assert str(seen[0][1]) == str(exit)


def test_a_resource_is_acquired_again_for_each_use_and_each_run() -> None:
    log: list[Any] = []
    program = file(log, "a").use(Effect.from_value)
    assert log == []
    assert program.run() == program.run() == IOSuccess("a")
    assert log == ["open a", "close a"] * 2


def test_an_acquired_resource_is_released_if_the_next_acquisition_fails() -> None:
    log: list[Any] = []
    missing: Resource[str, str] = Resource.make(Effect.from_failure("missing"), lambda *_: noted(log, "never"))
    assert file(log, "a").bind(lambda _: missing).use(Effect.from_value).run() == IOFailure("missing")
    assert log == ["open a", "close a"]


def test_an_acquired_resource_is_released_if_a_function_of_it_raises() -> None:
    uses: list[Callable[[Resource[str, Any]], Effect[Any, Any]]] = [
        lambda resource: resource.map(lambda _: broken()).use(Effect.from_value),
        lambda resource: resource.bind(lambda _: broken()).use(Effect.from_value),
        lambda resource: resource.use(lambda _: broken()),
    ]
    for use in uses:
        log: list[Any] = []
        with pytest.raises(ZeroDivisionError):
            use(file(log, "a")).run()
        assert log == ["open a", "close a"]


def test_a_value_needs_no_release_and_map_changes_it() -> None:
    assert Resource.from_value(20).map(lambda n: n + 1).bind(lambda n: Resource.from_value(2 * n)).use(
        Effect.from_value
    ).run() == IOSuccess(42)


@every_ending
def test_a_context_manager_is_created_for_each_use_left_once_and_sees_bugs_only(body: Effect[Any, Any], kind: type) -> None:
    log: list[Any] = []

    @contextlib.contextmanager
    def manager() -> Iterator[str]:
        log.append("enter")
        try:
            yield "inside"
        except ZeroDivisionError as error:
            log.append(str(error))
            raise
        finally:
            log.append("leave")

    program = Resource.from_context(manager).use(lambda word: noted(log, word).then(body))
    for _ in range(2):
        log.clear()
        assert type(program.run_exit()) is kind
        assert log == (["enter", "inside", "a bug", "leave"] if kind is Defect else ["enter", "inside", "leave"])
