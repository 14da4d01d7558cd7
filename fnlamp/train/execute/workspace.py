"""What one run mutates: what is on its device, buffers to write into, and how fast its steps are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import jax
import numpy as np
from jax.sharding import NamedSharding

from fnlamp import tree
from fnlamp.arrays import Array, Tree, to_device
from fnlamp.effect import CancelToken, Runtime
from fnlamp.scale import Cluster, await_ready, gathered
from fnlamp.scale.ready import dispatched
from fnlamp.stream import Recipe
from fnlamp.train.execute.body import Body

A = TypeVar("A")
STEPS: Final = "the computation of steps"


@dataclass(eq=False)
class Placed:
    """A host array and the same on the device. It holds the host array, so that no other one gets its id."""

    array: Any
    on_device: Array


class Workspace:
    """The device of a run, the arrays already there, spare buffers, and how many steps of a body fill a dispatch.

    On many devices, `device` is the sharding of an array that each of them has.

    `reached` is the last good progress, whose carry the next dispatches leave as it is, and `steps_of` the body and the
    recipe of the last epoch. Runs that share `elsewhere` have each host array on the device once.
    """

    def __init__(self, device: Any = None, cluster: Cluster | None = None, cancel: CancelToken | None = None) -> None:
        self.device, self.cluster, self.cancel, self.stopping = device, cluster, cancel, False
        self.reached: Any = None
        self.steps_of: tuple[Body, Any] | None = None
        self.elsewhere: WeakValueDictionary[Any, Placed] = WeakValueDictionary()
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to bodies: their paces, spare buffers, and arrays on the device."""
        self.paces: dict[tuple[Body, int], int] = {}
        self.step_seconds: dict[Any, tuple[float, int]] = {}
        self.spares: dict[Body, Tree] = {}
        self._placed: dict[Body, dict[int, Placed]] = {}
        self._earlier: dict[int, Placed] = {}

    def agreed(self, body: Body, steps: int, taken: int, *, first: bool) -> int:
        """The steps of the next dispatch: of a cluster, the fewest that one of its processes has data for.

        Each says whether it is cancelled, too, so that all stop after the same step.
        Fails: as `Cluster.meet`.
        """
        of = "evaluation" if body.inside is None else "training"
        return self.met(f"{of}, after {taken} steps of a pass", steps, first=first)

    def met(self, name: str, steps: int, *, first: bool) -> int:
        """The fewest steps of any process, after a meeting of that name; see `agreed`."""
        if self.cluster is None:
            return steps
        wanted = f"{steps} {int(self.cancel is not None and self.cancel.requested)}"
        patience = self.cluster.deadline * (10 if first else 1)  # another process may still make its data or compile
        met = self.cluster.meet(name, wanted, deadline=patience)
        self.stopping = any(each.endswith(" 1") for each in met)
        self.cluster.doing("computing")
        return min(int(each.split()[0]) for each in met)

    def called(self, program: Callable[[], A]) -> A:
        """What a dispatch returns, computed or not. In a cluster, the call itself may wait for a process without end.

        Fails: as `await_call`.
        """
        return program() if self.cluster is None else dispatched(program, self.cluster, STEPS)

    def awaited(self, array: Any) -> Any:
        """The array when it is computed.  Fails: as `await_ready`, if another process of the cluster is lost meanwhile."""
        if self.cluster is not None:
            await_ready(array, self.cluster, STEPS)
            self.cluster.doing("reading, or running what comes after an epoch")
        return array

    def same(self, name: str, number: float, deadline: float | None = None) -> float:
        """A number that each process has, as process 0 has it.  Fails: as `Cluster.meet`."""
        return number if self.cluster is None else float(self.cluster.meet(name, repr(number), deadline=deadline)[0])

    def begun(self, words: Mapping[str, str], at: str) -> None:
        """Check that all processes of the cluster begin the same program, on the same data, at the same step.

        Fails: `MeetingsDiffer`, and as `Cluster.meet`.
        """
        assert self.cluster is not None
        of = zlib.crc32(repr(sorted(words.items())).encode())
        self.cluster.meet(f"the beginning {at}, of the program and data {of:08x}", deadline=10 * self.cluster.deadline)

    def to_host(self, arrays: Tree) -> Tree:
        """A copy in this process's memory, which no later step writes to."""
        return jax.tree.map(np.array, arrays) if self.cluster is None else gathered(arrays, self.cluster)

    def cancelled(self, runtime: Runtime) -> bool:
        """Whether to stop after this dispatch: of a cluster, what its processes agreed on before it."""
        return runtime.cancel.requested if self.cluster is None else self.stopping

    def begin(self, body: Body) -> None:
        """A new fold: what the body's last one placed goes unless it is placed again."""
        self._earlier = self._placed.pop(body, {})
        self._placed[body] = {}

    def place(self, body: Body, tree: Tree) -> Tree:
        """The arrays on the device in their own dtype, each host array once for as long as folds use it.

        Memory is shared where the device can: a data set may fill half of it, and streams ask that it is not changed.
        """

        def one(array: Any) -> Array:
            for placed in (*self._placed.values(), self._earlier):
                if id(array) in placed:
                    return self._placed[body].setdefault(id(array), placed[id(array)]).on_device
            found = self.elsewhere.get((id(array), self.device))
            if found is None:
                found = Placed(array, to_device(array, self.device, share=True))
                self.elsewhere[id(array), self.device] = found
            self._placed[body][id(array)] = found
            return found.on_device

        return jax.tree.map(one, tree)

    def arguments(self, recipe: Recipe) -> Any:
        """What the functions of a recipe are given, on the device; Python's numbers stay what they are, without a dtype."""
        return jax.tree.map(lambda x: to_device(x, self.device) if hasattr(x, "dtype") else x, recipe.arguments)

    def copy(self, carry: Tree) -> Tree:
        """New buffers with the same numbers."""
        return jax.tree.map(lambda x: tree.copy(x, x.sharding if self.sharded(x) else self.device), carry)

    def put(self, arrays: Tree) -> Tree:
        """The arrays where this run computes; one that lies on its mesh already stays as it is."""
        return jax.tree.map(lambda x: x if self.sharded(x) else to_device(x, self.device, share=True), arrays)

    def sharded(self, x: Any) -> bool:
        """Whether the array is laid out on the mesh of this run."""
        place = getattr(x, "sharding", None)
        return isinstance(place, NamedSharding) and isinstance(self.device, NamedSharding) and place.mesh == self.device.mesh

    def spare(self, body: Body, carry: Tree) -> Tree:
        """Unused buffers shaped like the carry, for the body's next program to write into."""
        return self.spares.pop(body) if body in self.spares else self.copy(carry)
