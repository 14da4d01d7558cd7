"""Training or evaluation: an argument of every layer, never a hidden switch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Self

import jax

from fnlamp.arrays import Key


def seed_key(seed: int) -> Key:
    """The key of a seed of any size: `jax.random.key` uses 32 bits of it, and accepts at most 64.

    >>> bool(seed_key(7) == jax.random.key(7)), bool(seed_key(2**32) == seed_key(0))
    (True, False)
    """
    key = jax.random.key(seed % 2**32)
    while seed := seed >> 32:
        key = jax.random.fold_in(key, seed % 2**32)
    return key


def name_key(key: Key, name: str) -> Key:
    """The key of the part `name`: by a stable hash, so that inserting a part does not change the keys of the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Train:
    """Training: randomness comes from `key`, and batch statistics update the layer state."""

    key: Key

    def inside(self, name: str) -> Self:
        """The mode for the part `name`, with its own key."""
        return type(self)(name_key(self.key, name))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eval:
    """Evaluation: deterministic, with the layer state unchanged."""

    def inside(self, name: str) -> Self:
        """Itself: evaluation needs no key."""
        del name
        return self


Mode = Train | Eval
