"""A thread that may hang: calls, their exceptions, and a program that ends although one hangs and then returns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fnlamp.scale.worker import Worker, ended


def test_calls_are_made_in_order_and_their_exceptions_kept():
    worker, seen = Worker(), []
    calls = [worker.call(lambda number=number: seen.append(number) or 10 // number) for number in (2, 0, 5)]
    for call in calls:
        assert call.done.wait(10.0)
    assert seen == [2, 0, 5]
    assert [call.value for call in calls] == [5, None, 2]
    assert isinstance(calls[1].error, ZeroDivisionError)
    thread = worker.stop()
    ended(thread, 10.0)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_thread_that_hangs_is_suspended_and_never_returns():
    code = """
import threading, time
from fnlamp.scale.worker import Worker, ended
worker, seen = Worker(), []
call = worker.call(lambda: (time.sleep(0.5), seen.append(1)))
ended(worker.stop(), 0.1)
time.sleep(1.5)
print(seen, call.done.is_set())
raise SystemExit(6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[] False\n", done.stderr
    assert done.returncode == 6
