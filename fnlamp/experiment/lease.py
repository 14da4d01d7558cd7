"""The lease of a running run: which process writes it, and when that last gave a sign of life.

Nobody needs to end a run for it to read as ended: a killed process does not exist any more, or another one has its number. Only
the standard library is imported here: `fnlamp runs list` reads leases.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Final

NAME: Final = "lease.json"
BEAT: Final = 5.0
"""Seconds between two signs of life."""
STALE: Final = 60.0
"""Seconds without a sign of life after which a run on another machine, or in another container, has crashed."""
SIZE: Final = 512
"""Bytes of a lease, which is overwritten in place: a sign of life needs no space on a full disk."""


def mine() -> dict[str, Any]:
    """The lease of this process, now."""
    return {
        "host": platform.node(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "beat": _since_boot(),
        "time": time.time(),
    }


def write(folder: str, lease: dict[str, Any]) -> None:
    """Overwrite the lease of a run, without a temporary file.  Raises: `OSError`."""
    descriptor = os.open(os.path.join(folder, NAME), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        os.pwrite(descriptor, json.dumps(lease).encode().ljust(SIZE), 0)
    finally:
        os.close(descriptor)


def remove(folder: str) -> None:
    """The run has ended."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, NAME))


def owner(folder: str) -> str | None:
    """The living process that writes the run, in words, or `None`: then the run has ended, or has crashed."""
    try:
        descriptor = os.open(os.path.join(folder, NAME), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            lease = json.loads(file.read(SIZE) or b"")
    except (OSError, ValueError):
        return None
    return f"process {lease.get('pid')} on {lease.get('host')}" if isinstance(lease, dict) and _alive(lease) else None


def _alive(lease: dict[str, Any]) -> bool:
    """Whether the process of a lease lives.

    Under the same boot and the same numbering of processes, the process is looked up: its number and the time of its start,
    which another process with that number does not have. In another container of this machine the sign of life counts, by the
    clock since boot, which nobody sets. On another machine, or after a reboot, it counts by the wall clocks of the two.
    """
    pid, boot = lease.get("pid"), _text("/proc/sys/kernel/random/boot_id")
    if boot and lease.get("boot") == boot:
        if lease.get("namespace") == _namespace():
            return isinstance(pid, int) and _started(pid) == lease.get("started") != ""
        return _fresh(_since_boot(), lease.get("beat"))
    if not boot and lease.get("host") == platform.node() and isinstance(pid, int) and not _exists(pid):
        return False
    return _fresh(time.time(), lease.get("time"))


def _fresh(now: float, beat: Any) -> bool:
    return isinstance(beat, int | float) and abs(now - beat) < STALE


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _namespace() -> str:
    """Processes are numbered per container: this names the numbering."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> str:
    """When the process began, in ticks since boot; "" if it does not exist, or has ended and only waits to be reaped."""
    stat = _text(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces and brackets
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
