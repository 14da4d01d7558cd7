"""Figures of the machine: processor, memory, devices."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from fnlamp.effect import Effect, Exit, Resource, Runtime
from fnlamp.effect.explain import Around
from fnlamp.extra import installed, need
from fnlamp.given import instance, number
from fnlamp.track.event import Measured

A = TypeVar("A")
E = TypeVar("E")


def hardware(program: Effect[A, E], *, every: float = 10.0) -> Effect[A, E]:
    """Run a program, and report figures of the machine every so many seconds, from another thread.

    `hardware.cpu` and `hardware.memory` in percent of the machine, `hardware.process_cpu` in percent of one core,
    `hardware.process_memory` in bytes; for each NVIDIA device `hardware.gpu0` in percent, `hardware.gpu0_memory` in bytes,
    `hardware.gpu0_watts` and `hardware.gpu0_celsius`. What cannot be read is left out. Their step is that of the event
    before. It needs the extra `hw`.  Fails: `ExtraMissing`.
    """
    seconds = number("every", every, "a number of seconds above 0", lambda time: time > 0)
    instance("program", program, Effect, "an Effect, such as train.epochs(...)")
    installed("psutil", "hw")

    def run(runtime: Runtime) -> Effect[A, E]:
        if not runtime.observers:
            return program
        start = Effect.suspend(lambda: Sampler(runtime.tell, seconds))

        def stop(each: Sampler, _: Exit[Any, Any]) -> Effect[None, Any]:
            return Effect.suspend(each.close)

        return Resource.make(start, stop).use(lambda _: program)

    return Effect.access(run).outlined(Around(program._inner_value, (f"figures of the machine, every {seconds:g} s:",)))


class Sampler:
    """A thread that reads the figures until it is closed."""

    def __init__(self, tell: Callable[[Any], object], every: float) -> None:
        self._tell, self._every = tell, every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fnlamp track hardware", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        with contextlib.suppress(Exception), contextlib.ExitStack() as stack:  # never the program's concern
            probes = [machine(), *devices(stack)]
            for probe in probes:
                readings(probe)  # a share of time is that since the reading before
            while not self._closed.wait(self._every):
                self._tell(Measured({name: value for probe in probes for name, value in readings(probe).items()}))


Probe = Mapping[str, Callable[[], float]]


def readings(probe: Probe) -> dict[str, float]:
    """What can be read."""
    found = {}
    for name, read in probe.items():
        with contextlib.suppress(Exception):  # drivers raise what they like
            found[f"hardware.{name}"] = float(read())
    return found


def machine() -> Probe:
    """The processor and the memory."""
    psutil = need("psutil", "hw")
    process = psutil.Process()
    return {
        "cpu": psutil.cpu_percent,
        "memory": lambda: psutil.virtual_memory().percent,
        "process_cpu": process.cpu_percent,
        "process_memory": lambda: process.memory_info().rss,
    }


def devices(stack: contextlib.ExitStack) -> list[Probe]:
    """NVIDIA's devices, if there are any."""
    try:
        nvml = need("pynvml", "hw")
        nvml.nvmlInit()
        stack.callback(nvml.nvmlShutdown)
        handles = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # no such package, no driver, no device
        return []
    return [_device(nvml, at, handle) for at, handle in enumerate(handles)]


def _device(nvml: Any, at: int, handle: Any) -> Probe:
    return {
        f"gpu{at}": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        f"gpu{at}_memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
        f"gpu{at}_watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / MILLI,
        f"gpu{at}_celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }


MILLI: Final = 1000.0
