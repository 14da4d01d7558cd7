"""The memory of a device does not hold what a program needs."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class DeviceOutOfMemory(Fault):
    """A device lacks the memory for a program: found from shapes before the first step, or reported by XLA.

    `plan` has the bytes by part, `limit` those of the device as far as they are known, and `reason` the words of XLA; it is ""
    if nothing was allocated yet. "temporaries of a step" are XLA's analysis of the compiled step: activations, gradients and
    what kernels need. `lanes` is the number of runs that a sweep has on the device together. `state` is the last good state.

    >>> print(DeviceOutOfMemory("gpu:0", (("parameters", 6_000), ("training data", 3_000)), limit=8_000))
    expected at most 8,000 bytes on gpu:0, got a plan of 9,000 (parameters 6,000, training data 3,000); ...
    """

    device: str
    plan: tuple[tuple[str, int], ...]
    limit: int | None = None
    reason: str = ""
    lanes: int = 1

    @property
    def needed(self) -> int:
        """The bytes of the plan."""
        return sum(size for _, size in self.plan)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size:,}" for name, size in self.plan)
        plan = f"a plan of {self.needed:,} ({parts})"
        bound = "" if self.limit is None else f" of its {self.limit:,}"
        if self.reason:
            return self._say(f"expected memory{bound} left on {self.device}, got {self.reason}, with {plan}; {self._advice()}")
        return self._say(f"expected at most {self.limit:,} bytes on {self.device}, got {plan}; {self._advice()}")

    def _advice(self) -> str:
        if self.lanes > 1:
            return "run fewer lanes side by side: together="
        state = sum(size for name, size in self.plan if not name.startswith(FOLLOWS_THE_BATCH))
        if self.limit is not None and state > self.limit:
            return "the state alone exceeds it: use several devices, a smaller model, or an optimizer with less state"
        return (
            "lower batch_size, split each batch with gradient=train.microbatches(k), recompute activations with "
            "train.rematerialised(), keep large data on the host (stream.from_items, mapped arrays), or use several devices"
        )


FOLLOWS_THE_BATCH = "temporaries of a step", "training data", "validation data", "data"
