"""Attention by cuDNN's kernel, which computes the weights in parts that it does not keep: on CUDA, in half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from fnlamp.arrays import Array, array_spec, device_count, platform
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
    (y,) = _called(mask, how, q, k, v)
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
    return tuple(_called(mask, how, q, k, v, dy))


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


class _Call(NamedTuple):
    """What is known of a call before its arrays; equal calls are equal programs."""

    causal: bool
    before: int | None
    padded: bool
    scale: float
    backward: bool


def _called(mask: Any, how: How, q: Array, k: Array, v: Array, *dy: Array) -> list[Array]:
    band = _band(mask)
    assert band is not None
    lengths = [] if band.lengths is None else [band.lengths]
    call = _Call(band.causal, band.before, bool(lengths), how.scale, bool(dy))
    return _bound(call, q, k, v, *lengths, *dy)


def _bound(call: _Call, *arrays: Array) -> list[Array]:
    """The primitive, with its operations in sight of JAX, which asks whether one of them needs to know the devices."""
    inside = jax.make_jaxpr(partial(_computed, call=call))(*(array_spec(a.shape, a.dtype) for a in arrays))
    made: list[Array] = _attention.bind(*arrays, call=call, inside=inside)  # type: ignore[no-untyped-call]
    return made


def _computed(q: Array, k: Array, v: Array, *rest: Array, call: _Call, inside: Any = None) -> list[Array]:
    """The output, or with its upstream gradient last the gradients."""
    del inside
    y, pull = jax.vjp(partial(_kernel, call, rest[0] if call.padded else None), q, k, v)
    return list(pull(rest[-1])) if call.backward else [y]


def _kernel(call: _Call, lengths: Array | None, q: Array, k: Array, v: Array) -> Array:
    y: Array = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=call.scale,
        is_causal=call.causal,
        # The softmax of no keys is left to the line below, as are the gradients of such a row.
        key_value_seq_lengths=None if lengths is None else jnp.clip(lengths, 1, k.shape[1]).astype(jnp.int32),
        local_window_size=None if call.before is None else (call.before, 0),
        implementation=IMPLEMENTATION,
    )
    return y if lengths is None else jnp.where((lengths > 0)[:, None, None, None], y, 0)


def _abstract(*arrays: Any, call: _Call, inside: Any) -> list[Any]:
    del arrays, call
    return list(inside.out_avals)


def _with_lanes(arrays: Any, axes: Any, call: _Call, inside: Any) -> Any:
    """Lanes of `vmap` are more rows: JAX maps the kernel over a first axis alone, and only if the lengths have it too."""
    del inside
    lanes = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    first = [
        jnp.broadcast_to(a[None], (lanes, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]
    ys = _bound(call, *(a.reshape(-1, *a.shape[2:]) for a in first))
    return [y.reshape(lanes, -1, *y.shape[1:]) for y in ys], [0] * len(ys)


_attention = Primitive("fused_attention")
_attention.multiple_results = True
_attention.def_impl(_computed)  # type: ignore[no-untyped-call]
_attention.def_abstract_eval(_abstract)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_attention] = _with_lanes
mlir.register_lowering(_attention, mlir.lower_fun(_computed, multiple_results=True))
