"""Training, evaluation or decoding: an argument of every layer, never a hidden switch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key


def seed_key(seed: int) -> Key:
    """The key of a seed of any size: `jax.random.key` uses 32 bits of it, and accepts at most 64.

    >>> bool(seed_key(7) == jax.random.key(7)), bool(seed_key(2**32) == seed_key(0))
    (True, False)
    """
    key = jax.random.key(seed % 2**32)
    while seed := seed >> 32:
        key = jax.random.fold_in(key, seed % 2**32)
    return key


def name_hash(name: str) -> int:
    """The hash of a part's name, the same in every process: inserting a part does not change the keys of the others."""
    return zlib.crc32(name.encode())


def name_key(key: Key, name: str) -> Key:
    """The key of the part `name`."""
    return jax.random.fold_in(key, name_hash(name))


# Odd, so that no path is lost, and near 2^32 / golden ratio, which sets near paths apart (Knuth 1998, section 6.4).
_MULTIPLIER = 0x9E3779B1


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Train:
    """Training: randomness comes from `key`, and batch statistics update the layer state.

    Each part has its own key: `path`, a stable hash of the names on the way to it, folded into the root's.
    """

    root: Key
    path: Any = 0
    """A number of 32 bits; traced for the copies of a scanned layer."""

    @property
    def key(self) -> Key:
        """The key of this part: one operation however deep it is, for compiling a chain of them takes time in deep networks."""
        at_root = isinstance(self.path, int) and self.path == 0
        return self.root if at_root else jax.random.fold_in(self.root, self.path)

    def inside(self, name: str) -> Self:
        """The mode for the part `name`, with its own key."""
        return self.at(name_hash(name))

    def at(self, number: Any) -> Self:
        """The mode for a part that has a number of 32 bits in place of a name: an integer, or a traced one."""
        if isinstance(self.path, int) and isinstance(number, int):
            return type(self)(self.root, (self.path * _MULTIPLIER + number) % 2**32)
        return type(self)(
            self.root, jnp.asarray(self.path, jnp.uint32) * jnp.uint32(_MULTIPLIER) + jnp.asarray(number, jnp.uint32)
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], int | None]:
        return ((self.root,), self.path) if isinstance(self.path, int) else ((self.root, self.path), None)

    @classmethod
    def tree_unflatten(cls, path: int | None, leaves: tuple[Any, ...]) -> Self:
        return cls(leaves[0], leaves[1] if path is None else path)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eval:
    """Evaluation: deterministic, with the layer state unchanged."""

    def inside(self, name: str) -> Self:
        """Itself: evaluation needs no key."""
        del name
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Decode:
    """Evaluation of sequences piece by piece: the state that a layer returns holds what its later time steps need.

    `position`, integers `(batch,)`: the time steps that each row has had before this call.  `lengths`, integers `(batch,)`:
    how many time steps of this call belong to the row; the others are padding, and leave no trace.  `room`: the time steps
    that a state has place for; a row that needs more is NaN.  The first call gets the layer state of `Eval`.
    In `Eval`, the same time steps at once have the same output, or the layer fails with `NotDecodable`.

    >>> layer = nn.self_attention(2, mask=nn.causal)
    >>> params = layer.init(key, jax.ShapeDtypeStruct((1, 3, 4), jnp.float32)).params
    >>> x = jax.random.normal(key, (1, 3, 4))
    >>> state, ys = {}, []
    >>> for t in range(3):
    ...     y, state = layer.apply(params, state, x[:, t : t + 1], Decode(jnp.array([t]), jnp.array([1]), room=8))
    ...     ys.append(y)
    >>> bool(jnp.allclose(jnp.concatenate(ys, axis=1), layer.apply(params, {}, x, Eval())[0], atol=1e-6))
    True
    """

    position: Array
    lengths: Array
    room: int = field(metadata={"static": True})

    def inside(self, name: str) -> Self:
        """Itself."""
        del name
        return self

    def positions(self, time: int) -> Array:
        """The positions of so many time steps in their rows, 0 for padding.  Shapes: `(batch, time)`."""
        return jnp.where(self._own(time), self.position[:, None] + jnp.arange(time), 0)

    def slots(self, time: int) -> Array:
        """The same, but past the room for padding, so that it is stored nowhere."""
        return jnp.where(self._own(time), self.position[:, None] + jnp.arange(time), self.room)

    @property
    def overflows(self) -> Array:
        """Which rows need more room."""
        return self.position + self.lengths > self.room

    def _own(self, time: int) -> Array:
        return jnp.arange(time) < self.lengths[:, None]


Mode = Train | Eval | Decode
