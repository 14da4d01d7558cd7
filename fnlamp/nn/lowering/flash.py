"""Attention by cuDNN's kernel, which computes the weights in parts that it does not keep: on CUDA, in half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Tree, device_count, platform
from fnlamp.nn.lowering.attend import How
from fnlamp.nn.lowering.attend import attend as plain
from fnlamp.nn.lowering.linear_map import linear_map

CAPABILITY: Final = 8, 0
"""The compute capability that the kernel needs: Ampere's."""
FEATURES: Final = 128
"""Features of a head, at most: those that every such device can differentiate."""
SHORTEST: Final = 64
"""Time steps, at least: fewer have few weights to keep, and some versions refuse a single one."""
IMPLEMENTATION: Any = "cudnn"
"""JAX's name for it; the tests replace it by JAX's other form, which runs on a CPU."""


class Band(NamedTuple):
    """A mask in the kernel's terms: no key after the query's own, at most so many before it, the first keys of each row."""

    causal: bool = False
    before: int | None = None
    lengths: Array | None = None


def fits(q: Array, k: Array, v: Array, mask: Any, how: How) -> bool:
    """Whether the kernel computes this attention, without dropout, on the device that programs are for.

    A program for several devices does not use it, as XLA may have to divide its rows unevenly.
    Limits: NVIDIA, cuDNN's "Attention", support matrix; what depends on the device and its cuDNN, JAX checks.
    """
    band, features, time, keys = _band(mask), q.shape[3], q.shape[1], k.shape[1]
    if band is None or how.soft_cap is not None or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    if k.shape != v.shape or features % 8 or features > FEATURES or min(time, keys) < SHORTEST:
        return False
    if (band.causal and time != keys) or (band.before is not None and band.lengths is not None):
        return False
    if platform() == "any" or device_count() > 1 or capability() < CAPABILITY:
        return False
    try:
        jax.eval_shape(partial(attend, how=how), q, k, v, mask)
    except (NotImplementedError, RuntimeError):  # no cuDNN, or one that is too old for the device
        return False
    return True


def capability() -> tuple[int, ...]:
    """The compute capability of the CUDA device that programs are for, and `(0, 0)` of anything else."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    device = jax.local_devices(backend=device)[0] if device is None or isinstance(device, str) else device
    if "cuda" not in device.client.platform_version:
        return 0, 0
    return tuple(int(part) for part in device.compute_capability.split("."))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def attend(q: Array, k: Array, v: Array, mask: Any, how: How) -> Array:
    """`attend.attend` of arrays that fit.  Forward mode and second derivatives have that one's operations.

    The backward pass calls the kernel's own, after the forward kernel once more.  The forward pass calls it in its form for
    training too: XLA finds the two calls equal and keeps one, unless the backward pass computes its part again anyway.
    """
    y: Array = _by_rows(lambda q, k, v, *lengths: jax.vjp(_kernel(mask, how, *lengths), q, k, v)[0], mask, q, k, v)
    return y


@attend.defjvp
def _with_tangents(how: How, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    tangent = linear_map(partial(_tangents, how), partial(_backward, how), primals, tangents[:3])
    return attend(*primals, how), tangent


def _tangents(how: How, kept: tuple[Any, ...], x: tuple[Array, ...]) -> Array:
    *arrays, mask = kept
    tangent: Array = jax.jvp(partial(_plain, mask, how), tuple(arrays), x)[1]
    return tangent


def _backward(how: How, kept: tuple[Any, ...], dy: Array) -> tuple[Array, ...]:
    return _gradients(*kept, dy, how)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _gradients(q: Array, k: Array, v: Array, mask: Any, dy: Array, how: How) -> tuple[Array, ...]:
    def gradients(q: Array, k: Array, v: Array, dy: Array, *lengths: Array) -> tuple[Array, ...]:
        return _pulled(_kernel(mask, how, *lengths), q, k, v, dy)

    made: tuple[Array, ...] = _by_rows(gradients, mask, q, k, v, dy)
    return made


@_gradients.defjvp
def _with_second_tangents(how: How, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    q, k, v, mask, dy = primals
    along = *tangents[:3], tangents[4]
    return _gradients(*primals, how), jax.jvp(partial(_pulled, partial(_plain, mask, how)), (q, k, v, dy), along)[1]


def _pulled(function: Callable[..., Array], q: Array, k: Array, v: Array, dy: Array) -> tuple[Array, ...]:
    gradients: tuple[Array, ...] = jax.vjp(function, q, k, v)[1](dy)
    return gradients


def _plain(mask: Any, how: How, q: Array, k: Array, v: Array) -> Array:
    seen = None if mask is None else mask.seen(jnp.arange(q.shape[1]), jnp.arange(k.shape[1]))
    return plain(q, k, v, seen, None, how)


def _band(mask: Any) -> Band | None:
    found: Band | None = Band() if mask is None else mask.band
    return found


def _by_rows(function: Callable[..., Tree], mask: Any, *arrays: Array) -> Tree:
    """`function` of the arrays and the mask's lengths.  Under `vmap` its lanes are rows: JAX maps the kernel over few axes."""
    lengths = mask.band.lengths if mask is not None else None
    call: Any = jax.custom_batching.custom_vmap(function)

    def lanes_as_rows(lanes: int, mapped: list[bool], *arrays: Array) -> tuple[Tree, Tree]:
        each = [a if own else jnp.broadcast_to(a[None], (lanes, *a.shape)) for a, own in zip(arrays, mapped, strict=True)]
        ys = call(*(a.reshape(-1, *a.shape[2:]) for a in each))
        return jax.tree.map(lambda y: y.reshape(lanes, -1, *y.shape[1:]), ys), jax.tree.map(lambda _: True, ys)

    call.def_vmap(lanes_as_rows)
    return call(*arrays, *([] if lengths is None else [lengths]))


def _kernel(mask: Any, how: How, lengths: Array | None = None) -> Callable[[Array, Array, Array], Array]:
    band = _band(mask)
    assert band is not None

    def kernel(q: Array, k: Array, v: Array) -> Array:
        y: Array = jax.nn.dot_product_attention(
            q,
            k,
            v,
            scale=how.scale,
            is_causal=band.causal,
            # The softmax of no keys is left to the line below, as are the gradients of such a row.
            key_value_seq_lengths=None if lengths is None else jnp.clip(lengths, 1, k.shape[1]).astype(jnp.int32),
            local_window_size=None if band.before is None else (band.before, 0),
            implementation=IMPLEMENTATION,
        )
        return y if lengths is None else jnp.where((lengths > 0)[:, None, None, None], y, 0)

    return kernel
