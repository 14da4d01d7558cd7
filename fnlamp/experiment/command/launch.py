"""`fnlamp launch`: a program in several processes of this machine, for a try; a cluster has tools of its own."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO, Any, Final

GRACE: Final = 30.0
"""Seconds in which the others may end by themselves after one has failed: the deadline of a cluster, and time to save."""

STOP: Final = 5.0
"""Seconds between SIGTERM, for what has not ended, and SIGKILL."""

_GLANCE: Final = 0.05
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--processes", type=_positive, required=True, metavar="N", help="how many processes")
    parser.add_argument("--gpu-each", action="store_true", help="process p sees GPU p only")
    parser.add_argument(
        "--grace", type=float, default=GRACE, metavar="SECONDS", help="time to end for the others after a failure (%(default)g)"
    )
    parser.add_argument("program", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")


def run(options: argparse.Namespace) -> int:
    if not os.path.isfile(options.program):
        options.usage(f"expected a Python file, got {options.program}")
    address = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, options.program, *options.arguments]
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for child in started:
            _send(child, signal.SIGKILL if len(asked) > 2 else number)

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        for process in range(options.processes):
            started.append(_start(command, address, options.processes, process, gpu=options.gpu_each))
        return _watch(started, options.grace)
    finally:
        for child in started:
            _send(child, signal.SIGKILL)  # with the processes that it has started
        for number, handler in before.items():
            signal.signal(number, handler)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text}")
    return int(text)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _start(command: Sequence[str], address: str, processes: int, process: int, *, gpu: bool) -> subprocess.Popen[bytes]:
    places = {"FNLAMP_ADDRESS": address, "FNLAMP_PROCESSES": str(processes), "FNLAMP_PROCESS": str(process)}
    devices = {"JAX_LOCAL_DEVICE_IDS": str(process)} if gpu else {}
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **places, **devices},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on once
        preexec_fn=_end_with_parent(os.getpid()),
    )


def _end_with_parent(parent: int) -> Any:
    """What the child calls before the program: it is killed when the launcher is, even by SIGKILL. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    control, set_signal = ctypes.CDLL(None).prctl, 1  # loaded before the fork

    def call() -> None:
        control(set_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return call


def _watch(children: Sequence[subprocess.Popen[bytes]], grace: float) -> int:
    """Show what the children print until all have ended; returns the exit code of the first that failed, else 0."""
    lock = threading.Lock()
    pipes = [
        (number, pipe)
        for number, child in enumerate(children)
        for pipe in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    ]
    readers = [threading.Thread(target=_show, args=(number, *pipe, lock), daemon=True) for number, pipe in pipes]
    for reader in readers:
        reader.start()
    first, failed, sent = 0, 0.0, 0
    ended: set[int] = set()
    while len(ended) < len(children):
        time.sleep(_GLANCE)
        for number, child in enumerate(children):
            code = child.poll()
            if code is None or number in ended:
                continue
            ended.add(number)
            if code and not first:
                first, failed = code, time.monotonic()
                _say(f"process {number} {_how(code)}; the others have {grace:g} s to end", lock)
        left = [number for number in range(len(children)) if number not in ended]
        if first and sent < 2 and time.monotonic() - failed > grace + sent * STOP:
            _say(f"{'stopping' if sent == 0 else 'killing'} {', '.join(map(str, left))}", lock)
            for number in left:
                _send(children[number], signal.SIGKILL if sent else signal.SIGTERM)
            sent += 1
    for child in children:
        _send(child, signal.SIGKILL)  # what it has started, and left, holds its pipes open
    for reader in readers:
        reader.join(1.0)
    return 128 - first if first < 0 else first


def _how(code: int) -> str:
    return f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


def _say(text: str, lock: Any) -> None:
    with lock:
        sys.stderr.write(f"fnlamp: {text}\n")
        sys.stderr.flush()


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _show(number: int, pipe: IO[bytes], target: Any, lock: Any) -> None:
    """Copy lines, each with the number of its process before it."""
    for line in pipe:
        text = line.decode("utf-8", "replace")
        with lock, contextlib.suppress(OSError, ValueError):
            target.write(f"[{number}] {text}" if text.endswith("\n") else f"[{number}] {text}\n")
            target.flush()
