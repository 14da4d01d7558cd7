"""The steps of `Fused` over many devices: one program, which XLA partitions, and its collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fnlamp import tree
from fnlamp.arrays import Array, Tree, over_devices, to_device
from fnlamp.effect import Reached
from fnlamp.given import function, instance, shown, text
from fnlamp.scale import Cluster
from fnlamp.stream import BatchStream
from fnlamp.train.execute.body import Body
from fnlamp.train.execute.fused import Fused
from fnlamp.train.execute.layout import Rule, constrained, layout, place
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.execute.share import Share, share_of
from fnlamp.train.execute.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Sharded:
    """`Fused` over the devices of a mesh: the same program and, up to the order of sums, the same numbers on any of them.

    The rows of each batch are split over the axis `batch` of the mesh, its first one unless another is named. `rules` says by
    axis of the mesh how parameters, and the optimizer's state with them, are cut: `{}` holds a copy on each device (data
    parallel), `{"data": train.fully_sharded}` a part on each, `{"model": train.tensor_parallel}` cuts the layers themselves.
    Rules combine in their order. A rule is a function of a parameter's tag; see `train.fully_sharded`.

    Without a mesh, all devices are one axis named "data". Everything is a function of whole batches: batch norm, losses and
    metrics are over all rows, dropout masks and shuffles do not depend on the devices, and a batch that does not divide
    evenly is computed too.

    With a `cluster` of several processes, each runs this program on its own part of the mesh; they meet before each dispatch,
    so that one that is lost or late is a fault in the others, and stop after the same step. Process 0 saves, or with
    `train.Checkpoints(form="shards")` each process its own parts.

    `chunk` and `seconds` are those of `Fused`.

    Reference: Xu et al. 2021, "GSPMD: general and scalable parallelization for ML computation graphs".
    """

    mesh: Mesh | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict)
    batch: str | None = field(default=None, kw_only=True)
    cluster: Cluster | None = field(default=None, kw_only=True)
    chunk: int | None = field(default=None, kw_only=True)
    seconds: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh | None):
            raise TypeError(f"Sharded: mesh is a jax.sharding.Mesh, as jax.make_mesh((8,), ('data',)), got {shown(self.mesh)}")
        names = ("data",) if self.mesh is None else tuple(self.mesh.axis_names)
        if not isinstance(self.rules, Mapping):
            raise TypeError(f'Sharded: rules is a dict by axis, as {{"data": train.fully_sharded}}, got {shown(self.rules)}')
        for name, rule in self.rules.items():
            function(f"Sharded: rules[{name!r}]", rule, "a function of a parameter's tag, its shape and the number of parts")
        if self.batch is not None:
            text("Sharded: batch", self.batch, "the name of an axis of the mesh")
        for what, name in (
            *(("rules", name) for name in self.rules),
            ("batch", names[0] if self.batch is None else self.batch),
        ):
            if name not in names:
                raise ValueError(f"Sharded: {what} names an axis of the mesh, which has {', '.join(names)}, got {name!r}")
        instance("Sharded: cluster", self.cluster, Cluster | None, "a Cluster, from scale.cluster().use(...)")
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))
        Fused(self.chunk, self.seconds)

    def place(self, device: Any) -> NamedSharding:
        """A copy on each device of the mesh.  Raises: `ValueError` for a runtime with one device of its own."""
        if device is not None and not isinstance(device, str):
            raise ValueError(f"Sharded has its devices from its mesh, and Runtime.device is {shown(device)}: give one of them")
        found = place(self.devices(device))
        if not found.addressable_devices or (self.cluster is None and not found.is_fully_addressable):
            hint = "give the cluster, as Sharded(cluster=here), and a mesh with devices of each process"
            raise ValueError(f"Sharded: the mesh has devices of other processes, got cluster={self.cluster}: {hint}")
        return found

    def devices(self, platform: str | None = None) -> Mesh:
        """The mesh, whose axes XLA may cut arrays over as it finds best."""
        if self.mesh is None:
            return Mesh(np.array(jax.devices(platform)), ("data",))
        return Mesh(self.mesh.devices, self.mesh.axis_names)

    def layout(self, mesh: Mesh, carry: Tree, tags: Tree) -> Tree:
        """The sharding of each array of a training carry.  Fails: `NotDivisible`."""
        return layout(mesh, self.rules, carry, carry.params, tags)

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, workspace: Workspace
    ) -> Iterator[Reached]:
        """What is reached after each chunk."""
        mesh: Mesh = workspace.device.mesh
        whole = place(mesh)
        carry = jax.tree.map(lambda x: x if isinstance(x.sharding, NamedSharding) else to_device(x, whole), carry)
        spread = self.body(body, mesh, jax.tree.map(lambda x: x.sharding, carry))
        share = self.share(stream, mesh)
        return Fused(self.chunk, self.seconds).fold(spread, shared, carry, stream, position, workspace, share)

    def body(self, body: Body, mesh: Mesh, where: Tree) -> Body:
        """The body with each batch split by its rows, and each carry laid out as `where` says."""
        rows = self.rows(mesh)
        parts = tuple(tree.leaves(where)), jax.tree.structure(where)
        spread: Body = BODIES.get(("sharded", body, rows, parts), lambda: over(body, mesh, rows, where))
        return spread

    def rows(self, mesh: Mesh) -> NamedSharding:
        """Where the rows of a batch lie."""
        return place(mesh, self.batch or str(mesh.axis_names[0]))

    def share(self, stream: BatchStream[Any], mesh: Mesh) -> Share | None:
        """The rows of each batch that this process of a cluster reads; `None` for all."""
        alone = self.cluster is None or self.cluster.processes == 1
        return None if alone else share_of(self.rows(mesh), stream)

    def on(self, stream: BatchStream[Any]) -> str:
        """What this executor makes of a stream, in words."""
        reading = "".join(f", {line}" for line in self.reading(stream))
        return f"{self}, {Fused(self.chunk, self.seconds).on(stream).partition(', ')[2]}{reading}"

    def reading(self, stream: BatchStream[Any]) -> tuple[str, ...]:
        """Which rows of a stream that is not in memory the processes of a cluster read."""
        if self.cluster is None or self.cluster.processes == 1 or stream.view is not None:
            return ()
        whole = self.share(stream, self.devices()) is None
        return ("each process reads all rows" if whole else "each process reads the rows of its own devices",)

    def __str__(self) -> str:
        axes = "all devices" if self.mesh is None else " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        rules = ", ".join(f"{getattr(rule, '__name__', rule)} over {name}" for name, rule in self.rules.items())
        return f"sharded over {axes}, {rules or 'a copy of the parameters on each'}, {Fused(self.chunk, self.seconds)}"


def over(body: Body, mesh: Mesh, rows: NamedSharding, where: Tree) -> Body:
    """The body with each batch split by its rows, and each carry laid out as the one before."""

    whole = place(mesh)

    def split(batch: Tree) -> Tree:
        return tree.map(lambda x: constrained(x, rows) if x.ndim else x, batch)

    def laid(carry: Tree) -> Tree:
        return jax.tree.map(constrained, carry, where)

    @over_devices(mesh.size)
    def copies(row: Callable[[], Tree]) -> Tree:
        return jax.tree.map(lambda x: constrained(x, whole), row())

    @over_devices(mesh.size)
    def step(shared: Tree, carry: Tree, batch: Tree) -> Tree:
        return laid(body.function(shared, carry, split(batch)))

    def broken(carry: Tree) -> Array:
        found: Array = constrained(body.broken(carry), whole)
        return found

    recorder = body.recorder
    if recorder is not None:
        plain = recorder.measured

        @over_devices(mesh.size)
        def measured(shared: Tree, carry: Tree, batch: Tree) -> Any:
            carry, rows = plain(shared, carry, split(batch))
            return laid(carry), tuple(partial(copies, row) for row in rows)

        recorder = replace(recorder, measured=measured)
    return replace(body, function=step, broken=broken, recorder=recorder)
