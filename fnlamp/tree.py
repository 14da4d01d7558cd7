"""Helpers for pytrees: size, norm, dtype, and the path of each leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree, is_float, over_processes


def map(function: Callable[..., Any], *trees: Tree, is_leaf: Callable[[Any], bool] | None = None) -> Tree:
    """`jax.tree.map`, for packages that do not import JAX."""
    return jax.tree.map(function, *trees, is_leaf=is_leaf)


def leaves(tree: Tree) -> list[Any]:
    """Every leaf, in order."""
    return jax.tree.leaves(tree)


def equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure and the same numbers.

    >>> equal((1, {"x": np.arange(2)}), (1, {"x": np.arange(2)})), equal((1, ()), ((), 1))
    (True, False)
    """
    (ours, our_structure), (theirs, their_structure) = jax.tree.flatten(a), jax.tree.flatten(b)
    same: bool = our_structure == their_structure  # type: ignore[operator]
    return same and all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))


def count(tree: Tree) -> int:
    """The number of elements in all arrays.

    >>> count({"weight": jnp.zeros((784, 10)), "bias": jnp.zeros(10)})
    7850
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """The number of bytes of all arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def paths(tree: Tree) -> dict[str, Any]:
    """Each leaf by its path.

    >>> list(paths({"hidden": {"weight": jnp.zeros(1), "bias": jnp.zeros(1)}}))
    ['hidden/bias', 'hidden/weight']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def named(tree: Tree) -> dict[tuple[str, ...], Any]:
    """Each leaf of nested dicts by the names on its way.

    >>> named({"hidden": {"weight": 1}, "scale": 2})
    {('hidden', 'weight'): 1, ('scale',): 2}
    """
    if not isinstance(tree, dict):
        return {(): tree}
    return {(name, *rest): leaf for name, part in tree.items() for rest, leaf in named(part).items()}


def at(tree: Tree, path: tuple[str, ...]) -> Any:
    """The leaf or subtree of nested dicts at a path.  Raises: `KeyError`."""
    for name in path:
        if not isinstance(tree, dict):
            raise KeyError(name)
        tree = tree[name]
    return tree


def put(tree: Tree, path: tuple[str, ...], value: Any) -> Tree:
    """Nested dicts with `value` at a path, which is made if it does not exist; `tree` itself stays as it is.

    >>> put({"a": {"b": 1}}, ("a", "c"), 2)
    {'a': {'b': 1, 'c': 2}}
    """
    return {**tree, path[0]: put(tree.get(path[0], {}), path[1:], value)} if path else value


def without(tree: Tree, path: tuple[str, ...]) -> Tree:
    """Nested dicts without what is at a path, nor dicts that are empty then; `tree` itself stays as it is.

    >>> without({"a": {"b": 1}, "c": 2}, ("a", "b"))
    {'c': 2}
    """
    name, *rest = path
    part = without(tree[name], tuple(rest)) if rest else {}
    return {other: part if other == name else one for other, one in tree.items() if other != name or part}


def cast(tree: Tree, dtype: Any) -> Tree:
    """Floating-point leaves in `dtype`; other leaves unchanged."""
    return jax.tree.map(lambda x: x.astype(dtype) if is_float(x) else x, tree)


def copy(tree: Tree, device: Any = None) -> Tree:
    """New buffers with the same numbers, so that the originals survive donation."""

    def one(x: Any) -> Any:
        place = x.sharding if device is None and isinstance(x, jax.Array) else device
        if isinstance(place, jax.sharding.Sharding) and not place.is_fully_addressable:
            return over_processes(x, place)
        return jax.device_put(x, device, may_alias=False)

    return jax.tree.map(one, tree)


def global_norm(tree: Tree) -> Array:
    """The Euclidean norm of all numbers in the tree, in at least float32.

    No square overflows or underflows: for (3e19, 4e19) it is 5e19, although float32 cannot hold 9e38.

    >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    """
    norm, scale = scaled_norm(tree)
    return norm / scale


def scaled_norm(tree: Tree) -> tuple[Array, Array]:
    """The norm of the numbers times `scale`, and that power of two: 1, unless the squares overflow or underflow.

    Only then are they summed again, scaled; so the usual gradient is read once.
    """
    leaves = jax.tree.leaves(tree)
    dtype = np.dtype(np.float64 if any(x.dtype == np.float64 for x in leaves) else np.float32)
    if not leaves:
        return jnp.zeros((), dtype), jnp.ones((), dtype)
    bounds = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    power = 2.0 ** (5 * bounds.maxexp // 8)

    def squares(scale: Array) -> Array:
        return jnp.stack([jnp.sum(jnp.square(x.astype(dtype) * scale)) for x in leaves]).sum()

    one = jnp.ones((), dtype)
    plain = squares(one)
    # Below `low`, squares that underflow could matter, if a large model has many of them.
    low, high = plain < float(bounds.tiny) * 2.0**60, ~jnp.isfinite(plain)
    scale = jnp.where(high, 1 / power, jnp.where(low, power, one))
    total = jax.lax.cond(low | high, squares, lambda _: plain, scale)
    return jnp.sqrt(total), scale
