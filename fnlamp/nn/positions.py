"""Positions: where in a sequence a vector stands, learned, as sines, or as a rotation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Key, Params, State, Tree, wide
from fnlamp.given import arguments, flag, number, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Decode, Eval, Mode
from fnlamp.nn.check import check_float, check_integer, check_shape
from fnlamp.nn.embedding import rows_of
from fnlamp.nn.initial import Initializer, check_initializers
from fnlamp.nn.shape import of_mode
from fnlamp.tag import Matrix, Role

_small = jax.nn.initializers.normal(0.02)


@arguments("nn.learned_positions(1024) has a vector for each of 1024 time steps; their width is inferred")
def learned_positions(context: int, *, weight_init: Initializer = _small) -> Layer:
    """Adds a learned vector for each position, for up to `context` time steps.

    The positions are 0, 1, ..., or given: `(x, positions)`, integers `(batch, time)`, as `document_positions` makes them.  A
    position that does not exist has a vector of NaN, as a token in `embedding`.
    Shapes: x `(batch, time, width)`, unchanged.  Params: `weight` `(context, width)`, with `Role.EMBEDDING`.
    Fails: `ShapeMismatch` for another rank or more time steps; `DtypeMismatch` for integers (embed them first).
    Reference: Gehring et al. 2017, section 3.1; Devlin et al. 2018.

    >>> learned_positions(16).init(key, jax.ShapeDtypeStruct((2, 9, 4), jnp.float32)).params["weight"].shape
    (16, 4)
    """
    context = whole("learned_positions: context", context)
    check_initializers("learned_positions", weight_init=weight_init)

    def check(x: Any) -> None:
        expected, hint = (
            f"an array of shape (batch, time, width), time at most {context}",
            "a longer text can be cut into pieces",
        )
        check_shape(x, lambda shape: len(shape) == 3 and shape[1] <= context, expected, "learned_positions", hint)
        check_float(x, "learned_positions")

    def parts(given: Tree) -> tuple[Any, Any]:
        x, positions = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
        check(x)
        if positions is not None:
            expected = f"positions of shape {x.shape[:2]}"
            check_shape(positions, lambda shape: shape == x.shape[:2], expected, "learned_positions")
            check_integer(positions, "learned_positions", "integer positions")
        return x, positions

    def init(key: Key, spec: Tree) -> Init:
        x, _ = parts(spec)
        params = {"weight": weight_init(key, (context, x.shape[-1]), x.dtype)}
        return Init(params, {}, x, tag_all("learned_positions", Matrix(), weight=Role.EMBEDDING))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Array, State]:
        x, positions = parts(x)
        weight = params["weight"]
        check_shape(x, lambda shape: shape[-1] == weight.shape[1], f"vectors of width {weight.shape[1]}", "learned_positions")
        if positions is not None:
            return x + rows_of(weight, positions).astype(x.dtype), state
        if isinstance(mode, Decode):
            return x + at_positions(weight, mode, x.shape[1]).astype(x.dtype), state
        return x + weight[None, : x.shape[1]].astype(x.dtype), state

    return Layer(init, apply, f"learned_positions({context})")


@arguments("the number of the document of each time step: nn.document_positions(numbers)")
def document_positions(numbers: Array) -> Array:
    """The position of each time step in its document, from 0 where the number changes.

    Shapes: integers `(batch, time)`, as `data.packed_batches` gives; the result in int32.  Fails: `ShapeMismatch`,
    `DtypeMismatch`.

    >>> document_positions(jnp.array([[1, 1, 2, 2, 2, 0]]))
    Array([[0, 1, 0, 1, 2, 0]], dtype=int32)
    """
    check_shape(numbers, lambda shape: len(shape) == 2, "numbers of documents of shape (batch, time)", "document_positions")
    check_integer(numbers, "document_positions", "integer numbers of documents")
    at = jnp.broadcast_to(jnp.arange(numbers.shape[1], dtype=jnp.int32), numbers.shape)
    first = jnp.pad(numbers[:, 1:] != numbers[:, :-1], ((0, 0), (1, 0)), constant_values=True)[:, : numbers.shape[1]]
    return at - jax.lax.cummax(jnp.where(first, at, 0), axis=1)


@arguments("the width is inferred: nn.sinusoidal_positions()")
def sinusoidal_positions(base: float = 10_000.0) -> Layer:
    """Adds sines and cosines of the position t, from 0: `sin(t / base^(2i/width))` to feature 2i, the cosine to 2i + 1.

    Without parameters, for any number of time steps.  Shapes: `(batch, time, width)`, unchanged.
    Fails: `ShapeMismatch` for another rank; `DtypeMismatch` for integers (embed them first).
    Reference: Vaswani et al. 2017, section 3.5.

    >>> y, _ = sinusoidal_positions().apply({}, {}, jnp.zeros((1, 2, 4)), Eval())
    >>> [[round(float(each), 2) for each in row] for row in y[0]]
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.01, 1.0]]
    """
    base = _base("sinusoidal_positions", base)

    def add(x: Array, mode: Mode) -> Array:
        check_shape(x, lambda shape: len(shape) == 3, "an array of shape (batch, time, width)", "sinusoidal_positions")
        check_float(x, "sinusoidal_positions")
        time, width = x.shape[1:]
        each = np.arange(width)
        angles = np.arange(_known(time, mode))[:, None] * base ** -((each - each % 2) / max(width, 1))
        waves = jnp.asarray(np.where(each % 2, np.cos(angles), np.sin(angles)), x.dtype)
        return x + (at_positions(waves, mode, time) if isinstance(mode, Decode) else waves[None])

    return of_mode(add, "sinusoidal_positions")


@arguments("the width is inferred: nn.rotary_positions()")
def rotary_positions(base: float = 10_000.0, *, halves: bool = False) -> Layer:
    """Rotates each pair of features by an angle in proportion to its position: `rotary` as a layer.

    >>> rotary_positions().init(key, jax.ShapeDtypeStruct((2, 9, 3, 4), jnp.float32)).spec.shape
    (2, 9, 3, 4)
    """
    base, halves = _base("rotary_positions", base), flag("rotary_positions: halves", halves)

    def turned(x: Array, mode: Mode) -> Array:
        return _rotary(x, None, mode, base, halves)

    return of_mode(turned, "rotary_positions")


def rotary(x: Array, positions: Array | None = None, *, base: float = 10_000.0, halves: bool = False) -> Array:
    """Pair i of `width / 2` pairs of features, rotated by the angle `t / base^(2i/width)` at position t; a pure function.

    Products of rotated queries and keys depend on the distance of their positions alone.  A pair is two neighbours, as in
    the paper; with `halves` a feature of the first half and one of the second, as in LLaMA's weights of transformers.
    `positions`, integers `(time,)` or `(batch, time)`, are 0, 1, ... unless given; theirs are angles in float32.
    Shapes: `(batch, time, ..., width)`, unchanged.
    Fails: `ShapeMismatch` for another rank or an odd width; `DtypeMismatch`.  Reference: Su et al. 2021, eq. 34.

    >>> [[round(float(each), 2) for each in row] for row in rotary(jnp.ones((1, 2, 2)))[0]]
    [[1.0, 1.0], [-0.3, 1.38]]
    """
    return _rotary(x, positions, Eval(), _base("rotary", base), flag("rotary: halves", halves))


def _rotary(x: Array, positions: Array | None, mode: Mode, base: float, halves: bool) -> Array:
    expected = "an array of shape (batch, time, ..., width), the width even"
    check_shape(x, lambda shape: len(shape) >= 3 and shape[-1] % 2 == 0, expected, "rotary: x")
    check_float(x, "rotary: x")
    cosines, sines = _turns(x, positions, mode, base ** -(np.arange(0, x.shape[-1], 2) / max(x.shape[-1], 1)))
    half = x.shape[-1] // 2  # written, as there may be no time steps
    pairs = x.astype(wide(x)).reshape(*x.shape[:-1], *((2, half) if halves else (half, 2)))
    first, second = (pairs[..., 0, :], pairs[..., 1, :]) if halves else (pairs[..., 0], pairs[..., 1])
    turned = first * cosines - second * sines, first * sines + second * cosines
    return jnp.stack(turned, -2 if halves else -1).reshape(x.shape).astype(x.dtype)


def _turns(x: Array, positions: Array | None, mode: Mode, rates: np.ndarray[Any, Any]) -> tuple[Array, Array]:
    """Cosines and sines of the angles, in shapes that broadcast against pairs of `x`."""
    if positions is None:
        angles = np.arange(_known(x.shape[1], mode))[:, None] * rates
        turns = [jnp.asarray(f(angles), wide(x)) for f in (np.cos, np.sin)]
        if isinstance(mode, Decode):
            turns = [at_positions(each, mode, x.shape[1]) for each in turns]
        return _among(turns[0], x), _among(turns[1], x)
    time = x.shape[1]
    shapes = (time,), (x.shape[0], time)
    check_shape(positions, lambda s: s in shapes, f"positions of shape {shapes[0]} or {shapes[1]}", "rotary: positions")
    check_integer(positions, "rotary: positions", "integer positions")
    angles_of = jnp.asarray(positions).astype(wide(x))[..., None] * jnp.asarray(rates, wide(x))
    return _among(jnp.cos(angles_of), x), _among(jnp.sin(angles_of), x)


def _among(turns: Array, x: Array) -> Array:
    """`(time, pairs)` or `(batch, time, pairs)`, with axes of length 1 where `x` has others."""
    leading = turns.shape[:-1] if turns.ndim == 3 else (1, *turns.shape[:-1])
    return turns.reshape(*leading, *(1,) * (x.ndim - 3), turns.shape[-1])


def at_positions(table: Array, mode: Decode, time: int) -> Array:
    """The rows of the table at the positions of the time steps, NaN past its end.  Shapes: `(batch, time, ...)`."""
    return jnp.take(table, mode.positions(time), axis=0, mode="fill")


def _known(time: int, mode: Mode) -> int:
    """How many positions may occur."""
    return mode.room if isinstance(mode, Decode) else time


def _base(name: str, base: float) -> float:
    return number(f"{name}: base", base, "a number above 0", lambda b: b > 0)
