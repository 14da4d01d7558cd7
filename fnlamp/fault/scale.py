"""Faults of a program that runs in several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fnlamp.fault.base import Fault

_RESUME = "resume from the last save"


def _named(processes: Sequence[int]) -> str:
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"


def _known(processes: Sequence[int], doing: Sequence[str]) -> str:
    known = [f"process {process} was last seen {what}" for process, what in zip(processes, doing, strict=False) if what]
    return "".join(f"; {each}" for each in known)


@dataclass(frozen=True)
class ProcessLost(Fault):
    """Processes do not answer: they were killed, stopped, or cannot be reached. Found after `seconds`, at a meeting.

    >>> print(ProcessLost((1,), "step 12", 10.4, ("at 'step 11'",)))
    process 1 was lost: no sign of it for 10.4 s, found at 'step 12'; process 1 was last seen at 'step 11'; ...
    """

    processes: tuple[int, ...]
    meeting: str
    seconds: float = field(compare=False)
    doing: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        several = len(self.processes) > 1
        return self._say(
            f"{_named(self.processes)} {'were' if several else 'was'} lost: no sign of {'them' if several else 'it'} for "
            f"{self.seconds:.1f} s, found at {self.meeting!r}{_known(self.processes, self.doing)}; "
            f"see {'their logs' if several else 'its log'} (killed, out of memory, stopped, network), then {_RESUME}"
        )


@dataclass(frozen=True)
class ProcessLate(Fault):
    """Processes are alive, but did not reach a meeting within the deadline, `seconds`.

    >>> print(ProcessLate((2,), "step 12", 10.0, ("reading its batch",)))
    process 2 is alive but did not reach 'step 12' within 10.0 s; process 2 was last seen reading its batch; ...
    """

    processes: tuple[int, ...]
    meeting: str
    seconds: float = field(compare=False)
    doing: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return self._say(
            f"{_named(self.processes)} {'are' if len(self.processes) > 1 else 'is'} alive but did not reach {self.meeting!r} "
            f"within {self.seconds:.1f} s{_known(self.processes, self.doing)}; "
            f"speed up what it waits for, such as its loader, or allow more time, cluster(deadline=...), and {_RESUME}"
        )


@dataclass(frozen=True)
class ProcessFailed(Fault):
    """Another process ended with a failure, so that this one stops too.

    >>> print(ProcessFailed(1, "FileMissing: rows.csv: No such file or directory"))
    process 1 failed, so that all stop: FileMissing: rows.csv: No such file or directory
    """

    process: int
    what: str = field(compare=False)

    def __str__(self) -> str:
        return self._say(f"process {self.process} failed, so that all stop: {self.what}")


@dataclass(frozen=True)
class MeetingsDiffer(Fault):
    """The processes are not at the same meeting: they do not run the same program on the same settings.

    >>> print(MeetingsDiffer(("step 12", "end")))
    expected all processes at the same meeting, got process 0 at 'step 12' and process 1 at 'end'; ...
    """

    meetings: tuple[str, ...]

    def __str__(self) -> str:
        first = {name: process for process, name in reversed([*enumerate(self.meetings)])}
        places = " and ".join(f"process {process} at {name!r}" for name, process in sorted(first.items(), key=lambda it: it[1]))
        return self._say(
            f"expected all processes at the same meeting, got {places}; run the same program with the same settings in each, "
            "on streams of the same number of batches"
        )


@dataclass(frozen=True)
class ClusterUndefined(Fault):
    """A part of the place in the cluster is unknown: the coordinator's address, the number of processes, or this one's number.

    >>> print(ClusterUndefined("the number of this process"))
    expected a place in a cluster, got none for the number of this process; give cluster(address, processes, process), ...
    """

    missing: str

    def __str__(self) -> str:
        return self._say(
            f"expected a place in a cluster, got none for {self.missing}; give cluster(address, processes, process), or start "
            "the program by fnlamp launch, srun or mpirun, which say it"
        )


@dataclass(frozen=True)
class ClusterIncomplete(Fault):
    """Not all processes joined within `seconds`.

    >>> print(ClusterIncomplete("node1:1234", 4, 300.0, "Deadline Exceeded"))
    expected 4 processes to join the coordinator at node1:1234 within 300 s, got: Deadline Exceeded; ...
    """

    address: str
    processes: int
    seconds: float
    reason: str = field(compare=False)

    def __str__(self) -> str:
        return self._say(
            f"expected {self.processes} processes to join the coordinator at {self.address} within {self.seconds:g} s, got: "
            f"{self.reason}; start all of them, process 0 on the machine of that address, whose port must be free and open"
        )


@dataclass(frozen=True)
class JaxStarted(Fault):
    """JAX has computed something before the cluster was entered; its devices are chosen already.

    >>> print(JaxStarted())
    expected to join the cluster before JAX makes its first array, got a JAX that has started; ...
    """

    def __str__(self) -> str:
        return self._say(
            "expected to join the cluster before JAX makes its first array, got a JAX that has started; make arrays and models "
            "inside cluster(...).use(...), and use it once in a process"
        )


@dataclass(frozen=True)
class RecordsOutside(Fault):
    """A cluster is joined inside of an experiment or a tracker, which each of its processes would write by itself.

    >>> print(RecordsOutside(4))
    expected a record of 4 processes to begin inside of their cluster, got a cluster inside of an experiment or a tracker; ...
    """

    processes: int

    def __str__(self) -> str:
        return self._say(
            f"expected a record of {self.processes} processes to begin inside of their cluster, got a cluster inside of an "
            "experiment or a tracker; put the experiment inside: cluster(...).use(lambda here: experiment(...)), where process "
            "0 writes"
        )


MeetingFault = ProcessLost | ProcessLate | ProcessFailed | MeetingsDiffer
"""The faults of a program in several processes, once they have joined."""

ClusterFault = MeetingFault | ClusterUndefined | ClusterIncomplete | JaxStarted | RecordsOutside
"""The faults of a cluster."""
