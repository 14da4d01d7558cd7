"""XLA's analysis of the memory of one compiled step of training, and the whole compared with a device."""

from __future__ import annotations

import contextlib
from typing import Any, Final, NamedTuple

import jax

from fnlamp.arrays import Array, Tree, placed_on
from fnlamp.effect import Runtime
from fnlamp.fault import DeviceOutOfMemory, FaultError
from fnlamp.train.arguments import place_of
from fnlamp.train.execute import Sharded
from fnlamp.train.execute.exhausted import limit_of, name_of
from fnlamp.train.execute.layout import laid_out, place
from fnlamp.train.explain.memory import on_device
from fnlamp.train.plan import Plan

STEP: Final = "temporaries of a step"


class CompiledMemory(NamedTuple):
    """Bytes of one compiled step of training, as XLA's own analysis has them.

    `arguments` are the batch, what every step reads, and what goes from step to step, twice: the outputs are written into the
    second copy. `temporaries` are the rest: activations, gradients, and what the kernels need.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size:,}" for name, size in self._asdict().items())
        return f"one compiled step, in bytes: {parts}"


def compiled_step(plan: Plan, runtime: Runtime) -> Any:
    """One step of a plan for a full batch, compiled as the runtime's executor lays it out."""
    body, shared, carry, batch, executor = plan.body, plan.shared, plan.carry, plan.train.spec, runtime.executor
    if isinstance(executor, Sharded):
        mesh, where = executor.devices(runtime.device), plan.layout(executor, place_of(runtime))
        body, carry = executor.body(body, mesh, where), laid_out(carry, where)
        shared, batch = jax.tree.map(lambda leaf: laid_out(leaf, place(mesh)), (shared, batch))

    def step(shared: Tree, carry: Tree, spare: Tree, batch: Tree) -> tuple[Tree, Array]:
        carry = body.function(shared, carry, batch)
        return carry, body.broken(carry)

    return jax.jit(step, donate_argnums=2, keep_unused=True).lower(shared, carry, carry, batch).compile()


def memory_of(compiled: Any) -> CompiledMemory:
    """XLA's analysis of a compiled step; on many devices, of each."""
    analysis: Any = compiled.memory_analysis()
    kinds = "argument", "output", "alias", "temp", "generated_code"
    return CompiledMemory(*(int(getattr(analysis, f"{kind}_size_in_bytes")) for kind in kinds))


def held(plan: Plan, runtime: Runtime, device: Any) -> dict[str, int]:
    """Bytes on a device by part, as the runtime's executor has them."""
    return on_device(plan, runtime.executor, plan.layout(runtime.executor, device))


def check_memory(plan: Plan, runtime: Runtime, device: Any) -> None:
    """Compare a plan with the memory of a device, before anything is allocated on it.  Fails: `DeviceOutOfMemory`.

    State and data are known from shapes, whatever the device. The temporaries of a step are compared too if the runtime has a
    limit, since that costs a compilation; without one, XLA compares them with what the device has.
    """
    limit = limit_of(device, runtime)
    if limit is None:
        return
    parts, name = held(plan, runtime, device), name_of(device)
    if sum(parts.values()) <= limit and runtime.memory is not None:
        parts = with_step(plan, runtime, device)
    if sum(parts.values()) > limit:
        raise FaultError(DeviceOutOfMemory(name, tuple(parts.items()), limit))
    within = "with" if STEP in parts else "without"
    runtime.say(f"memory: a plan of {sum(parts.values()):,} of {limit:,} bytes on {name}, {within} the {STEP}")


def with_step(plan: Plan, runtime: Runtime, device: Any) -> dict[str, int]:
    """The parts of a plan, with the temporaries of its compiled step; without them if the device cannot compile it."""
    parts = held(plan, runtime, device)
    with placed_on(device), contextlib.suppress(jax.errors.JaxRuntimeError):  # compiling may need the memory that there is not
        parts[STEP] = memory_of(compiled_step(plan, runtime)).temporaries
    return parts
