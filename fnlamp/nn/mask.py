"""Masks of attention: which keys each query sees, as values that combine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, describe
from fnlamp.fault import DtypeMismatch, FaultError
from fnlamp.given import arguments, shown, whole
from fnlamp.nn.check import check_integer, check_shape
from fnlamp.nn.lengths import known, widened
from fnlamp.nn.lowering.flash import Band


class Mask(ABC):
    """Which keys each query sees: `causal`, `window`, `key_lengths`, `documents`, `mask`, and of two masks `a & b` and `a | b`.

    Nothing is computed before `seen`, which attention calls, by blocks if asked.  A mask is a pytree of its arrays.

    >>> (nn.causal & nn.window(1)).seen(jnp.arange(3), jnp.arange(3))[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]], dtype=int32)
    """

    @abstractmethod
    def seen(self, queries: Array, keys: Array) -> Array:
        """Booleans that broadcast to `(batch, heads, queries, keys)`, for the queries and keys at these positions."""

    @property
    def sees_ahead(self) -> bool:
        """Whether a query may see a key after its own position; then a sequence cannot be computed piece by piece."""
        return True

    @property
    def band(self) -> Band | None:
        """The mask as a kernel of attention knows it, or `None` if none does."""
        return None

    def rows(self, queries: Array, keys: Array) -> Array:
        """`seen` for queries at other positions in each row, `(batch, queries)`."""
        seen: Array = jax.vmap(lambda row: self.seen(row, keys))(queries)
        own = jnp.arange(seen.shape[0])
        return seen[:, 0] if seen.shape[1] == 1 else seen[own, own]

    def check(self, shape: tuple[int, int, int, int]) -> None:
        """Fails: `ShapeMismatch` if `(batch, heads, queries, keys)` is another shape than that of the mask's arrays."""
        del shape

    def impossible(self, keys: int) -> Array | bool:
        """Whether a row `(batch,)` has a length that is not possible."""
        del keys
        return False

    def __and__(self, other: Mask) -> Mask:
        """A key is seen if both masks show it."""
        return _Both(self, as_mask("&", other))

    def __or__(self, other: Mask) -> Mask:
        """A key is seen if one of the masks shows it."""
        return _Either(self, as_mask("|", other))


def as_mask(where: str, given: Any) -> Mask:
    """The mask.  Raises: `TypeError` for anything else."""
    if isinstance(given, Mask):
        return given
    hint = "; nn.mask makes one of an array of booleans" if hasattr(given, "shape") else ""
    raise TypeError(f"{where}: a mask is a value such as nn.causal or nn.window(8), got {shown(given)}{hint}")


def for_all_queries(mask: Mask) -> bool:
    """Whether it is a mask of padding, which all queries may share."""
    return isinstance(mask, _Lengths | _Given)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Both(Mask):
    a: Mask
    b: Mask

    def seen(self, queries: Array, keys: Array) -> Array:
        return self.a.seen(queries, keys) & self.b.seen(queries, keys)

    @property
    def sees_ahead(self) -> bool:
        return self.a.sees_ahead and self.b.sees_ahead

    @property
    def band(self) -> Band | None:
        a, b = self.a.band, self.b.band
        if a is None or b is None or (a.lengths is not None and b.lengths is not None):
            return None
        before = min((each.before for each in (a, b) if each.before is not None), default=None)
        return Band(a.causal or b.causal, before, b.lengths if a.lengths is None else a.lengths)

    def check(self, shape: tuple[int, int, int, int]) -> None:
        self.a.check(shape)
        self.b.check(shape)

    def impossible(self, keys: int) -> Array | bool:
        return self.a.impossible(keys) | self.b.impossible(keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Either(_Both):
    def seen(self, queries: Array, keys: Array) -> Array:
        return self.a.seen(queries, keys) | self.b.seen(queries, keys)

    @property
    def sees_ahead(self) -> bool:
        return self.a.sees_ahead or self.b.sees_ahead

    @property
    def band(self) -> Band | None:
        return None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Window(Mask):
    before: int | None = field(metadata={"static": True})
    after: int = field(metadata={"static": True})

    @property
    def sees_ahead(self) -> bool:
        return self.after > 0

    @property
    def band(self) -> Band | None:
        return None if self.after else Band(True, self.before)

    def seen(self, queries: Array, keys: Array) -> Array:
        distance = keys[None] - queries[:, None]
        near = distance <= self.after
        return (near if self.before is None else near & (distance >= -self.before))[None, None]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Lengths(Mask):
    lengths: Array

    def seen(self, queries: Array, keys: Array) -> Array:
        del queries
        return (keys[None] < widened(self.lengths)[:, None])[:, None, None]

    @property
    def band(self) -> Band | None:
        return Band(lengths=widened(self.lengths))

    def impossible(self, keys: int) -> Array | bool:
        return ~known(self.lengths, keys)

    def check(self, shape: tuple[int, int, int, int]) -> None:
        check_shape(self.lengths, lambda own: own == shape[:1], f"lengths of shape ({shape[0]},)", "key_lengths")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Given(Mask):
    array: Array

    def seen(self, queries: Array, keys: Array) -> Array:
        rows = self.array if self.array.shape[2] == 1 else jnp.take(self.array, queries, axis=2, mode="clip")
        return rows if rows.shape[3] == 1 else jnp.take(rows, keys, axis=3, mode="clip")

    def check(self, shape: tuple[int, int, int, int]) -> None:
        expected = f"a mask whose axes have the lengths (batch, heads, time, keys) = {shape}, or 1"
        check_shape(self.array, lambda own: all(n in (1, full) for n, full in zip(own, shape, strict=True)), expected, "mask")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Documents(Mask):
    numbers: Array

    def seen(self, queries: Array, keys: Array) -> Array:
        of_queries, of_keys = (jnp.take(self.numbers, at, axis=1, mode="clip") for at in (queries, keys))
        return (of_queries[:, :, None] == of_keys[:, None])[:, None]

    def check(self, shape: tuple[int, int, int, int]) -> None:
        batch, _, queries, keys = shape
        expected = f"numbers of documents of shape ({batch}, {keys}), for {keys} queries and keys"
        check_shape(self.numbers, lambda own: own == (batch, keys) and queries == keys, expected, "documents")


causal: Mask = _Window(None, 0)
"""Each query sees the key at its own position and those before it."""


@arguments("nn.window(128): each query sees its own key and the 128 before it")
def window(before: int, after: int = 0) -> Mask:
    """A query at position t sees the keys from `t - before` to `t + after`: sliding-window attention.

    Reference: Beltagy et al. 2020 (Longformer), section 3.1.

    >>> nn.window(1, 1).seen(jnp.arange(3), jnp.arange(3))[0, 0].astype(int)
    Array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]], dtype=int32)
    """
    return _Window(whole("window: before", before, 0), whole("window: after", after, 0))


@arguments("the number of keys of each row: nn.key_lengths(lengths)")
def key_lengths(lengths: Array) -> Mask:
    """Each query sees the first keys of its row, as many as the row's length; the others are padding.

    A length below 0 or above the number of keys makes the row NaN.
    Shapes: integers `(batch,)`.  Fails: `ShapeMismatch`, `DtypeMismatch`.

    >>> nn.key_lengths(jnp.array([2, 0])).seen(jnp.arange(1), jnp.arange(3))[:, 0, 0].astype(int)
    Array([[1, 1, 0],
           [0, 0, 0]], dtype=int32)
    """
    check_shape(lengths, lambda shape: len(shape) == 1, "lengths of shape (batch,)", "key_lengths")
    check_integer(lengths, "key_lengths", "integer lengths")
    return _Lengths(jnp.asarray(lengths))


@arguments("the number of the document of each time step: nn.documents(numbers)")
def documents(numbers: Array) -> Mask:
    """Each query sees the keys of its own document: rows that hold several, as `data.packed_batches` packs them.

    Shapes: integers `(batch, time)`, for attention of a sequence to itself.  Fails: `ShapeMismatch`, `DtypeMismatch`.
    Reference: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", section 3.2.3.

    >>> nn.documents(jnp.array([[1, 1, 2]])).seen(jnp.arange(3), jnp.arange(3))[0, 0].astype(int)
    Array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]], dtype=int32)
    """
    check_shape(numbers, lambda shape: len(shape) == 2, "numbers of documents of shape (batch, time)", "documents")
    check_integer(numbers, "documents", "integer numbers of documents")
    return _Documents(jnp.asarray(numbers))


@arguments("booleans, true where a query sees a key: nn.mask(array)")
def mask(array: Array) -> Mask:
    """Any mask: booleans, true where a query sees a key.

    Shapes: `(time, keys)`, `(batch, time, keys)` or `(batch, heads, time, keys)`; an axis of length 1 is for all.
    Fails: `ShapeMismatch`; `DtypeMismatch` for numbers, as they may count what is hidden, or be added to the scores.

    >>> both = nn.causal & nn.mask(jnp.array([[True, False, True]]))
    >>> both.seen(jnp.arange(3), jnp.arange(3))[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 0, 0],
           [1, 0, 1]], dtype=int32)
    """
    expected = "booleans of shape (time, keys), (batch, time, keys) or (batch, heads, time, keys)"
    check_shape(array, lambda shape: 2 <= len(shape) <= 4, expected, "mask")
    if array.dtype != bool:
        raise FaultError(DtypeMismatch("booleans, true where a query sees a key", describe(array), where="mask"))
    array = jnp.asarray(array)
    return _Given(array[None, None] if array.ndim == 2 else array[:, None] if array.ndim == 3 else array)
