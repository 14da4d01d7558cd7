"""SIGINT from outside at random moments while resources are acquired, used and released; reports how many leaked.

`python sigint_stress.py 5000` runs until that many signals were handled. The signals come from a child process, which this
file is too: `python sigint_stress.py send PID FILE`. The first byte of the file counts the runs, and the child sends one signal
in each at most. One that arrives late may be the second of the next run, but none is a third, which may break a release.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from typing import Any


def send(pid: int, path: str) -> None:
    """A signal about every millisecond, until there is input on standard input; then report their number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sent, last = 0, -1
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ) as runs:
        while not select.select([sys.stdin], [], [], random.uniform(0.0005, 0.0015))[0]:
            if runs[0] != last:
                last = runs[0]
                os.kill(pid, signal.SIGINT)
                sent += 1
    print(sent)


class Stress:
    def __init__(self, runs: mmap.mmap) -> None:
        self.runs = runs
        self.acquired = self.live = self.interrupted = self.raised = 0

    def acquire(self) -> str:
        for _ in range(30):
            pass
        self.live += 1
        self.acquired += 1
        return "resource"

    def use(self) -> int:
        return sum(range(100))

    def release(self) -> None:
        for _ in range(30):
            pass
        self.live -= 1

    @property
    def handled(self) -> int:
        return self.interrupted + self.raised

    def drive(self, program: Any, goal: int) -> None:
        from fnlamp.effect import Interrupted

        while self.handled < goal:
            try:
                while self.handled < goal:
                    self.runs[0] = (self.runs[0] + 1) % 256
                    if isinstance(program.run_exit(), Interrupted):
                        self.interrupted += 1
            except KeyboardInterrupt:  # it arrived between two runs, or twice in one
                self.raised += 1


def stress(goal: int, file: Any) -> None:
    from returns.result import Failure, Success

    from fnlamp.effect import Effect, Resource, bracket

    state = Stress(mmap.mmap(file.fileno(), 1))
    acquire, release = Effect.suspend(state.acquire), Effect.suspend(state.release)
    resource = Resource.make(acquire, lambda *_: release)
    plain = bracket(acquire, lambda _: Effect.suspend(state.use), lambda *_: release)
    failing = bracket(acquire, lambda _: Effect.call(lambda _: Failure("no")), lambda *_: release).lash(Effect.from_value)
    nested = resource.bind(lambda _: resource).use(lambda _: Effect.call(lambda _: Success(state.use())).map(str))
    inside = Effect.suspend(plain.run_exit)
    program = plain.then(failing).then(nested).then(inside)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started this process
    command = [sys.executable, __file__, "send", str(os.getpid()), file.name]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    restored = False
    while True:
        try:
            state.drive(program, goal)
            restored = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            break
        except KeyboardInterrupt:  # it arrived in the few instructions outside the `try` of `drive`
            state.raised += 1
    sent, _ = child.communicate(b"stop\n")
    report = {
        "sent": int(sent),
        "handled": state.handled,
        "interrupted runs": state.interrupted,
        "acquired": state.acquired,
        "leaked": state.live,
        "handler restored": restored,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(int(sys.argv[2]), sys.argv[3])
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\0")
            file.flush()
            stress(int(sys.argv[1]), file)
