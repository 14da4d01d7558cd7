"""The runtime: its services, the cancel token and the clocks."""

from __future__ import annotations

from typing import Any

import pytest
from returns.io import IOSuccess

from fnlamp.effect import CancelToken, Effect, Interrupted, Runtime, SystemClock, ask, sleep


class RecordingClock:
    def __init__(self) -> None:
        self.slept: list[tuple[float, bool]] = []

    def now(self) -> float:
        return 12.5

    def sleep(self, seconds: float, cancel: CancelToken) -> None:
        self.slept.append((seconds, cancel.requested))


def test_a_token_is_requested_once_it_or_a_parent_is() -> None:
    first, second = CancelToken(), CancelToken()
    child = CancelToken(first, second)
    assert not child.requested
    second.cancel()
    assert child.requested
    assert not first.requested
    child.cancel()
    assert not first.requested


def test_a_masked_token_is_not_requested() -> None:
    masked = [True]
    token = CancelToken(masked=lambda: masked[0])
    token.cancel()
    assert not token.requested
    masked[0] = False
    assert token.requested


def test_ask_gives_the_services_of_the_run() -> None:
    clock = RecordingClock()
    runtime = Runtime(clock=clock, device="device")
    assert ask().map(lambda inner: (inner.clock, inner.device, inner.executor)).run(runtime) == IOSuccess(
        (clock, "device", None)
    )
    assert Effect.asks(lambda inner: inner.clock.now()).run(runtime) == IOSuccess(12.5)
    assert Effect.access(lambda inner: Effect.from_value(inner.device)).run(runtime) == IOSuccess("device")


def test_a_run_has_its_own_cancel_token_below_that_of_the_runtime() -> None:
    runtime = Runtime()
    assert ask().map(lambda inner: inner.cancel is runtime.cancel).run(runtime) == IOSuccess(False)


def test_sleep_waits_by_the_clock_of_the_runtime() -> None:
    clock = RecordingClock()
    assert sleep(60).run(Runtime(clock=clock)) == IOSuccess(None)
    assert clock.slept == [(60, False)]


def test_a_sleep_in_a_release_is_not_cut_short() -> None:
    runtime = Runtime(clock=RecordingClock())
    cancelled = Effect.suspend(runtime.cancel.cancel).then(Effect.from_value(None))
    assert isinstance(cancelled.ensuring(lambda _: sleep(2)).run_exit(runtime), Interrupted)
    assert isinstance(runtime.clock, RecordingClock)
    # The runtime's own token is requested; the clock receives that of the run, which is masked.
    assert runtime.cancel.requested
    assert runtime.clock.slept == [(2, False)]


def test_the_system_clock_sleeps_as_long_as_asked_and_not_when_cancelled() -> None:
    clock = SystemClock()
    start = clock.now()
    clock.sleep(0.02, CancelToken())
    assert clock.now() - start >= 0.02
    cancelled = CancelToken()
    cancelled.cancel()
    start = clock.now()
    clock.sleep(60, cancelled)
    assert clock.now() - start < 10


def test_say_writes_lines_to_the_log_if_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[Any] = []
    Runtime(log=lines.append).say("epoch 1")
    Runtime(log=None).say("epoch 2")
    Runtime().say("epoch 3")
    assert lines == ["epoch 1"]
    assert capsys.readouterr().out == "epoch 3\n"
