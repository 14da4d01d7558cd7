"""Multi-head attention with weights: of a sequence to itself, or to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, State, Tree, array_spec, describe, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, without_empty
from fnlamp.mode import Decode, Eval, Mode
from fnlamp.nn.attention import attend, options
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.lengths import Sequences, masked
from fnlamp.nn.linear import in_blocks, linear
from fnlamp.nn.mask import Mask, as_mask, key_lengths
from fnlamp.nn.mask import mask as mask_of
from fnlamp.nn.shape import check_whole


@arguments("the width is inferred: nn.self_attention(4) has 4 heads")
def self_attention(
    heads: int,
    *,
    kv_heads: int | None = None,
    mask: Mask | None = None,
    query_key: Layer | None = None,
    soft_cap: float | None = None,
    drop_rate: float = 0.0,
    bias: bool = True,
    block_size: int | None = None,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """Multi-head attention of a sequence to itself: `attend` with weights for queries, keys, values and the result.

    `mask` says what each time step sees, as `nn.causal` or `nn.window(128)`; without one, all.  `kv_heads` below `heads` is
    grouped-query attention.  `query_key` is a layer for the queries and another copy of it for the keys, both
    `(batch, time, heads, features)`: `nn.rotary_positions()`, `nn.rms_norm()`, or one after the other.
    Shapes: `(batch, time, width) -> (batch, time, width)`, each head of `width / heads` features; or `(x, lengths)`, integers
    `(batch,)`, or `(x, seen)`, booleans `(batch, keys)`, `(batch, time, keys)` or `(batch, heads, time, keys)`, or a mask, as
    `nn.documents(numbers)`, to `(y, ...)`.
    A time step that sees nothing has the bias; a length that is not possible makes the row NaN.
    Children: `input`, a linear layer to queries, keys and values, in this order, each ordered by head (as torch's
    `in_proj_weight`), or with `kv_heads` `query` and `memory` (keys, values); and `output`, of the heads' results; with biases
    unless `bias=False`.  `on_query` and `on_key` for `query_key`.
    Fails: `DtypeMismatch` for integer input; `ShapeMismatch` for another rank, or a width that `heads` does not divide.
    Reference: Vaswani et al. 2017, eq. 1 and section 3.2.2; query-key norm: Henry et al. 2020.

    >>> layer = self_attention(4, mask=nn.causal)
    >>> made = layer.init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32))
    >>> made.params["input"]["weight"].shape, made.params["output"]["weight"].shape, made.spec.shape
    ((32, 96), (32, 32), (8, 16, 32))
    """
    attention = softmax_attention("self_attention", mask, soft_cap, drop_rate, block_size)
    return multi_head("self_attention", attention, heads, kv_heads, query_key, bias, weight_init, output_init)


@arguments("the widths are inferred: nn.cross_attention(4) has 4 heads")
def cross_attention(
    heads: int,
    *,
    kv_heads: int | None = None,
    mask: Mask | None = None,
    query_key: Layer | None = None,
    soft_cap: float | None = None,
    drop_rate: float = 0.0,
    bias: bool = True,
    block_size: int | None = None,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """Multi-head attention of one sequence to another, the memory: `(x, memory) -> (y, memory)`.

    The memory, of any number of time steps and any width, is an array, or with its padding `(memory, lengths)` or
    `(memory, seen)`.  Arguments, faults and forms as `self_attention`.
    Shapes: x `(batch, time, width)`, memory `(batch, keys, ...)`; y as x.
    Children: `query`; `memory`, to keys and values, in this order; `output`; and `on_query` and `on_key`.
    Reference: Vaswani et al. 2017, section 3.2.3.

    >>> x, memory = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(8, 5, 32), (8, 16, 24)])
    >>> made = cross_attention(4).init(key, (x, memory))
    >>> made.params["query"]["weight"].shape, made.params["memory"]["weight"].shape, made.spec[0].shape
    ((32, 32), (24, 64), (8, 5, 32))
    """
    attention = softmax_attention("cross_attention", mask, soft_cap, drop_rate, block_size)
    return multi_head("cross_attention", attention, heads, kv_heads, query_key, bias, weight_init, output_init)


# ------------------------------------------------------------------------------- shared by both


Attention = Callable[[Array, Array, Array, Mask | None, Mode, State], tuple[Array, State]]
"""`(q, k, v, mask, mode, kept) -> (y, kept)`, each array `(batch, time, heads, features)`; the mask is that of padding.

`kept` is what it needs in `Decode` of the time steps before, and else `{}`.
"""


def softmax_attention(where: str, mask: Any, soft_cap: Any, drop_rate: Any, block_size: Any) -> Attention:
    """`attend` with these options, checked, and a mask of the layer."""
    _, soft_cap, drop_rate, block_size = options(where, None, soft_cap, drop_rate, block_size)
    own = None if mask is None else as_mask(f"{where}: mask", mask)

    def run(q: Array, k: Array, v: Array, mask: Mask | None, mode: Mode, kept: State) -> tuple[Array, State]:
        if isinstance(mode, Decode) and where == "self_attention":
            if own is None or own.sees_ahead:
                check_whole(mode, where, "its mask shows later time steps; it needs nn.causal or nn.window(n)")
            k, v = (stored(kept.get(name), x, mode) for name, x in (("k", k), ("v", v)))
            kept = {"k": k, "v": v}
        seen = own if mask is None else mask if own is None else own & mask
        return attend(q, k, v, seen, soft_cap=soft_cap, drop_rate=drop_rate, mode=mode, block_size=block_size), kept

    return run


def stored(before: Array | None, x: Array, mode: Decode) -> Array:
    """The time steps so far, each at its position.  Shapes: x `(batch, time, ...)`; the result `(batch, room, ...)`."""
    before = jnp.zeros((x.shape[0], mode.room, *x.shape[2:]), x.dtype) if before is None else before
    return before.at[jnp.arange(x.shape[0])[:, None], mode.slots(x.shape[1])].set(x, mode="drop")


class _Heads(NamedTuple):
    """The arguments of the layer of an attention, checked."""

    where: str
    attention: Attention
    heads: int
    kv_heads: int
    query_key: Layer | None
    bias: bool
    weight_init: Initializer
    output_init: Initializer

    @property
    def crosses(self) -> bool:
        return self.where == "cross_attention"

    @property
    def fused(self) -> bool:
        """Whether one weight makes queries, keys and values."""
        return not self.crosses and self.kv_heads == self.heads

    def children(self, width: int) -> dict[str, Layer]:
        def projection(features: int, blocks: int) -> Layer:
            return in_blocks(linear(features, bias=self.bias, weight_init=self.weight_init), blocks)

        own = width // self.heads * self.kv_heads
        inputs = {"input": projection(3 * width, 3)}
        if not self.fused:
            inputs = {"query": projection(width, 1), "memory": projection(2 * own, 2)}
        norms = {} if self.query_key is None else {"on_query": self.query_key, "on_key": self.query_key}
        return {**inputs, **norms, "output": linear(width, bias=self.bias, weight_init=self.output_init)}


def multi_head(
    where: str,
    attention: Attention,
    heads: int,
    kv_heads: int | None,
    query_key: Layer | None,
    bias: bool,
    weight_init: Initializer,
    output_init: Initializer,
) -> Layer:
    """The layer of an attention, with linear layers before and after it."""
    heads, bias = whole(f"{where}: heads", heads, None), flag(f"{where}: bias", bias)
    if heads < 1:
        raise ValueError(f"{where} needs at least one head, got {heads} heads")
    kv_heads = heads if kv_heads is None else whole(f"{where}: kv_heads", kv_heads)
    if heads % kv_heads:
        raise ValueError(f"{where}: kv_heads divides heads, got {kv_heads} and {heads}")
    query_key = None if query_key is None else as_layer(query_key, f"{where}: query_key")
    check_initializers(where, weight_init=weight_init, output_init=output_init)
    given = _Heads(where, attention, heads, kv_heads, query_key, bias, weight_init, output_init)
    return Layer(partial(_init, given), partial(_apply, given), f"{where}({heads})")


def _init(given: _Heads, key: Key, spec: Tree) -> Init:
    x, memory = (parts.x for parts in _inputs(given, spec))
    layers, size = given.children(x.shape[2]), x.shape[2] // given.heads
    specs = {"input": x, "query": x, "memory": memory, "output": x}
    specs["on_query"] = array_spec((*x.shape[:2], given.heads, size), x.dtype)
    specs["on_key"] = array_spec((*memory.shape[:2], given.kv_heads, size), x.dtype)
    made = {name: init_child(name, layer, key, specs[name]) for name, layer in layers.items()}
    return gather(layers, made, _with_x(given, spec, made["output"].spec))


def _apply(given: _Heads, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
    queries, (memory, mask) = (without_padding(parts) for parts in _inputs(given, x))
    layers, new = given.children(queries[0].shape[2]), {}
    if queries[1] is not None:
        check_whole(mode, given.where, "a mask in the input of queries")

    def through(name: str, x: Array, mode: Mode = mode) -> Array:
        y, new[name] = apply_child(name, layers[name], params, state, x, mode) if name in layers else (x, {})
        return y

    def by_head(x: Array, heads: int) -> Array:
        return x.reshape(*x.shape[:2], heads, x.shape[2] // heads)

    def keys_and_values(projected: Array, mode: Mode) -> tuple[Array, Array]:
        k, v = (by_head(a, given.kv_heads) for a in jnp.split(projected, 2, axis=-1))
        return through("on_key", k, mode), v

    kept = state.get("decoded", {})
    if given.fused:
        q, k, v = (by_head(a, given.heads) for a in jnp.split(through("input", queries[0]), 3, axis=-1))
        k = through("on_key", k)
    else:
        q = by_head(through("query", queries[0]), given.heads)
    if given.crosses and isinstance(mode, Decode):
        kept = kept or dict(zip("kv", keys_and_values(through("memory", memory), Eval()), strict=True))
        k, v = kept["k"], kept["v"]
    elif not given.fused:
        k, v = keys_and_values(through("memory", memory), mode)
    y, new["decoded"] = given.attention(through("on_query", q), k, v, mask, mode.inside("weights"), kept)
    y = through("output", y.reshape(queries[0].shape))
    return _with_x(given, x, y), without_empty(new)


def _inputs(given: _Heads, x: Tree) -> tuple[Sequences, Sequences]:
    """Queries and memory, each with its lengths or mask.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    if not given.crosses:
        one = sequence_of(x, given.where, given.heads)
        return one, one
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise FaultError(ShapeMismatch("a pair (x, memory)", describe(x), where=given.where))
    queries, memory = sequence_of(x[0], given.where, given.heads), sequence_of(x[1], f"{given.where}: memory")
    check_shape(memory.x, lambda s: s[0] == queries.x.shape[0], f"a memory of {queries.x.shape[0]} rows", given.where)
    return queries, memory


def _with_x(given: _Heads, x: Tree, y: Tree) -> Tree:
    return (with_first(x[0], y), x[1]) if given.crosses else with_first(x, y)


def with_first(given: Tree, y: Tree) -> Tree:
    """`y` in the form of a sequence that was given: alone, or with its lengths or mask."""
    return (y, given[1]) if isinstance(given, tuple | list) else y


def sequence_of(given: Tree, where: str, heads: int = 1) -> Sequences:
    """The parts of a sequence, arrays or specs; a mask is where lengths are.

    Fails: `ShapeMismatch` for anything but `x`, `(x, lengths)` and `(x, seen)`, or a width that `heads` does not divide;
    `DtypeMismatch`.
    """
    pair = isinstance(given, tuple | list)
    if pair and len(given) != 2:
        raise FaultError(ShapeMismatch("x, (x, lengths) or (x, seen)", describe(given), where=where))
    x, seen = given if pair else (given, None)
    expected = "an array of shape (batch, time, width)" + (f", the width divisible by {heads} heads" if heads > 1 else "")
    check_shape(x, lambda s: len(s) == 3 and s[-1] > 0 and s[-1] % heads == 0, expected, where)
    check_float(x, where)
    if seen is not None and not isinstance(seen, Mask):  # a mask is checked by `attend`
        expected = (
            f"lengths of shape ({x.shape[0]},), or booleans (batch, keys), (batch, time, keys) or (batch, heads, time, keys)"
        )
        check_shape(seen, lambda s: 1 <= len(s) <= 4 and s[0] == x.shape[0], expected, where)
        if not (is_integer(seen) if len(seen.shape) == 1 else seen.dtype == bool):
            expected = "integer lengths, or booleans with an axis of keys, true where a key is seen"
            raise FaultError(DtypeMismatch(expected, describe(seen), where=where))
    return Sequences(x, seen)


def without_padding(parts: Sequences) -> tuple[Array, Mask | None]:
    """The features, 0 after a row's length and NaN if it is not possible, and the mask of the keys."""
    x, seen = parts.x, parts.lengths
    if seen is None or isinstance(seen, Mask):
        return x, seen
    if seen.ndim == 1:
        return masked(parts, nan=True), key_lengths(seen)
    return x, mask_of(seen[:, None] if seen.ndim == 2 else seen)
