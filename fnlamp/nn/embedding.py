"""Embeddings: a vector for each token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.check import check_integer, check_shape
from fnlamp.nn.initial import Initializer, check_initializers
from fnlamp.tag import Matrix, Role

_normal = jax.nn.initializers.normal(1.0)


@arguments("nn.embedding(1000, 64) has a vector of 64 numbers for each of 1000 tokens")
def embedding(vocabulary: int, width: int, *, padding: int | None = None, weight_init: Initializer = _normal) -> Layer:
    """The row of a weight of shape `(vocabulary, width)` for each token, an integer from 0 to `vocabulary - 1`.

    Shapes: `(batch, ...) -> (batch, ..., width)`.  Params: `weight`, with `Role.EMBEDDING`; made in float32.
    Each token learns, but for the `padding` token, if there is one: its row starts at 0 and has no gradient, as torch's
    `padding_idx`.
    A token out of range, negative ones too, has a vector of NaN: the loss becomes NaN, and training stops with `NonFinite`.
    Fails: `DtypeMismatch` for tokens that are not integers.  Default initialiser: normal with deviation 1, as torch's.
    Reference: Bengio et al. 2003, section 2, the matrix C.

    >>> params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> embedding(2, 2).apply(params, {}, jnp.array([1, 0, 2]), Eval())[0]
    Array([[ 3.,  4.],
           [ 1.,  2.],
           [nan, nan]], dtype=float32)
    """
    vocabulary, width = whole("embedding: vocabulary", vocabulary, None), whole("embedding: width", width, None)
    if vocabulary < 1 or width < 1:
        raise ValueError(f"embedding needs at least one token and one feature, got vocabulary={vocabulary} and width={width}")
    padding = None if padding is None else whole("embedding: padding", padding, 0)
    if padding is not None and padding >= vocabulary:
        raise ValueError(f"embedding: padding is a token from 0 to {vocabulary - 1}, got {padding}")
    check_initializers("embedding", weight_init=weight_init)

    def init(key: Key, spec: Spec) -> Init:
        _check(spec)
        weight = weight_init(key, (vocabulary, width), jnp.float32)
        params = {"weight": weight if padding is None else weight.at[padding].set(0)}
        return Init(
            params, {}, array_spec((*spec.shape, width), jnp.float32), tag_all("embedding", Matrix(), weight=Role.EMBEDDING)
        )

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        _check(x)
        rows = rows_of(params["weight"], x)
        return rows if padding is None else jnp.where((x == padding)[..., None], stop_gradient(rows), rows), state

    return Layer(init, apply, f"embedding({vocabulary}, {width})")


def rows_of(weight: Array, tokens: Array) -> Array:
    """`weight[tokens]`, NaN where the row does not exist."""
    if tokens.dtype.itemsize < 4:  # in 8 bits, a vocabulary of 300 would be one of 44
        tokens = tokens.astype(jnp.int32)
    known = (tokens >= 0) & (tokens < weight.shape[0])
    rows = weight.at[jnp.where(known, tokens, 0)].get(mode="promise_in_bounds")
    return jnp.where(known[..., None], rows, jnp.nan)


def _check(x: Any) -> None:
    check_shape(x, lambda shape: len(shape) >= 1, "tokens of shape (batch, ...)", "embedding")
    check_integer(x, "embedding", "integer tokens")
