"""A linear map with its own transpose, for derivatives that are fast in reverse mode and known in forward mode.

XLA may be slow at the transposes that JAX derives of a rule of `jax.custom_jvp`; a rule of `jax.custom_vjp` is written by hand,
but has no forward mode.  `jax.custom_derivatives.linear_call` would do, if it had second derivatives and `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fnlamp.arrays import Tree, array_spec

Map = Callable[[Tree, Tree], Tree]


def linear_map(forward: Map, transposed: Map, kept: Tree, x: Tree) -> Tree:
    """`forward(kept, x)`, linear in `x`.  Its transpose is `transposed(kept, dy)`, which has the structure of `x`.

    The tangent of a `jax.custom_jvp`.  Forward mode, `vmap` and second derivatives look into `forward`; reverse mode leaves
    only the operations of `transposed`.
    """
    arrays, structure = jax.tree.flatten((kept, x))
    made = jax.eval_shape(forward, kept, x)
    static = {"forward": forward, "transposed": transposed, "structure": structure, "result": jax.tree.structure(made)}
    return jax.tree.unflatten(static["result"], _linear_map.bind(*arrays, **static))  # type: ignore[no-untyped-call]


def _leaves(*arrays: Any, forward: Map, structure: Any, **_: Any) -> list[Any]:
    return jax.tree.leaves(forward(*jax.tree.unflatten(structure, arrays)))


def _abstract(*arrays: Any, **static: Any) -> list[Any]:
    made = jax.eval_shape(partial(_leaves, **static), *(array_spec(a.shape, a.dtype) for a in arrays))
    return [jax.core.ShapedArray(one.shape, one.dtype) for one in made]


def _with_tangents(primals: Any, tangents: Any, **static: Any) -> Any:
    return jax.jvp(partial(_leaves, **static), tuple(primals), tuple(map(_full, tangents)))


def _batched(arrays: Any, axes: Any, **static: Any) -> Any:
    ys = jax.vmap(partial(_leaves, **static), axes)(*arrays)
    return ys, [0] * len(ys)


def _full(tangent: Any) -> Any:
    """Zeros that JAX keeps symbolic, as an array."""
    return ad.instantiate_zeros(tangent)  # type: ignore[no-untyped-call]


def _transpose(upstream: Any, *arrays: Any, transposed: Map, structure: Any, result: Any, **_: Any) -> list[Any]:
    kept, x = jax.tree.unflatten(structure, arrays)
    linear = jax.tree.leaves(x, is_leaf=lambda one: isinstance(one, ad.UndefinedPrimal))
    dy = jax.tree.unflatten(result, map(_full, upstream))
    dx = jax.tree.leaves(transposed(kept, dy))
    wanted = [d if isinstance(one, ad.UndefinedPrimal) else None for d, one in zip(dx, linear, strict=True)]
    return [None] * (len(arrays) - len(linear)) + wanted


_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True
_linear_map.def_impl(_leaves)  # type: ignore[no-untyped-call]
_linear_map.def_abstract_eval(_abstract)  # type: ignore[no-untyped-call]
ad.primitive_jvps[_linear_map] = _with_tangents
ad.primitive_transposes[_linear_map] = _transpose
batching.primitive_batchers[_linear_map] = _batched
mlir.register_lowering(_linear_map, mlir.lower_fun(_leaves, multiple_results=True))
