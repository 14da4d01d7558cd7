"""Where each array of a carry lies on a mesh of devices: rules that read a parameter's tag, and the layout that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, placed_spec
from fnlamp.fault import FaultError, NotDivisible
from fnlamp.tag import Role, Tag

Rule: TypeAlias = Callable[[Tag, tuple[int, ...], int], int | None]
"""`rule(tag, shape, parts)`: the axis of a parameter that is cut into so many equal parts, or `None` to leave it whole.

No axis is cut twice: in `shape`, one that an earlier rule cuts has the length 1.
"""


def fully_sharded(tag: Tag, shape: tuple[int, ...], parts: int) -> int | None:
    """Cut each parameter along its longest axis that divides evenly.

    With the optimizer's state, which is laid out as the parameters, each device holds one part of the whole.
    Reference: Rajbhandari et al. 2020, "ZeRO", stage 3.

    >>> fully_sharded(Tag("linear", Role.WEIGHT), (30, 64), 8), fully_sharded(Tag("linear", Role.BIAS), (30,), 8)
    (1, None)
    """
    even = [axis for axis, size in enumerate(shape) if size % parts == 0 and size]
    return max(even, key=lambda axis: shape[axis], default=None)


def tensor_parallel(tag: Tag, shape: tuple[int, ...], parts: int) -> int | None:
    """Cut linear layers, embeddings and attention: along the outputs, and along the inputs where a block ends.

    A block ends at a layer named `output` or `out`, as those of attention and of a feed-forward part: its inputs are cut as the
    outputs before, so that the two need one sum over the devices. Parameters that do not divide evenly stay whole.
    Reference: Shoeybi et al. 2019, "Megatron-LM", section 3.

    >>> from fnlamp.tag import Matrix
    >>> up, out = (Tag("linear", Role.WEIGHT, ("feed_forward", name), Matrix()) for name in ("up", "out"))
    >>> tensor_parallel(up, (32, 128), 4), tensor_parallel(out, (128, 32), 4)
    (1, 0)
    """
    ends = bool(tag.path) and tag.path[-1] in ("output", "out")
    axis: int | None = None
    if tag.matrix is not None:
        axis = (tag.matrix.inputs if ends else tag.matrix.outputs)[-1]
    elif tag.role is Role.BIAS and shape and not ends:
        axis = len(shape) - 1
    return axis if axis is not None and shape[axis] % parts == 0 else None


def layout(mesh: Mesh, rules: Mapping[str, Rule], carry: Tree, params: Tree, tags: Tree) -> Tree:
    """The sharding of each leaf of a carry, in which arrays of the optimizer lie as the parameters that they belong to.

    An array belongs to a parameter if its path ends in the parameter's and it has the same shape; any other is on each device.
    Fails: `NotDivisible` for a rule whose axis does not divide evenly.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in tree.paths(params).items()}
    cut = {path: cut_by(rules, mesh, path, tag, shapes[path]) for path, tag in tree.paths(tags).items()}

    def one(path: Any, leaf: Any) -> NamedSharding:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        ends = ("/".join(names[start:]) for start in range(len(names)))
        owner = next((end for end in ends if shapes.get(end) == tuple(leaf.shape)), None)
        return place(mesh, *(cut[owner] if owner is not None else ()))

    return jax.tree_util.tree_map_with_path(one, carry)


def place(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """The sharding of an array whose axes are cut over these of the mesh; of none, a copy on each device."""
    return NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]


def constrained(x: Any, to: NamedSharding) -> Any:
    """The same numbers in a compiled program, where the sharding says."""
    return jax.lax.with_sharding_constraint(x, to)  # type: ignore[no-untyped-call]


def cut_by(rules: Mapping[str, Rule], mesh: Mesh, path: str, tag: Tag, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """By axis of a parameter, the axis of the mesh over which the rules, in their order, cut it."""
    over: list[str | None] = [None] * len(shape)
    left = shape
    for name, rule in rules.items():
        parts = mesh.shape[name]
        axis = rule(tag, left, parts)
        if axis is None or parts == 1:
            continue
        if not 0 <= axis < len(shape):
            raise ValueError(f"Sharded: rules[{name!r}] returns an axis of {path}, of shape {list(shape)}, or None, got {axis}")
        if left[axis] % parts:
            raise FaultError(NotDivisible(path, left, axis, parts, name))
        over[axis] = name
        left = (*left[:axis], 1, *left[axis + 1 :])
    while over and over[-1] is None:  # as JAX writes it
        over.pop()
    return tuple(over)


def parts_of(arrays: Tree, where: Tree) -> Tree:
    """The specs of the parts that one device holds."""
    return jax.tree.map(lambda leaf, place: array_spec(place.shard_shape(tuple(leaf.shape)), leaf.dtype), arrays, where)


def laid_out(arrays: Tree, where: Tree) -> Tree:
    """The specs of the arrays with their shardings, for a program that is compiled without them."""
    return jax.tree.map(placed_spec, arrays, where)
