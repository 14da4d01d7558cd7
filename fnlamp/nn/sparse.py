"""Layers of sparse rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, State, Tree, along_last, array_spec, describe, platform, wide
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_float, check_integer
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal, weight_and_bias


@arguments("nn.sparse_linear(16, features=1433) reads rows of 1433 features, of which few are not 0")
def sparse_linear(
    out: int,
    features: int,
    *,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`linear` on rows of `features` numbers, given as `(columns, values)`: those that are not 0, and where.

    A row with fewer has values of 0 at its end; a column that occurs twice counts twice.  A column that does not exist has NaN,
    at which training stops.  `parallel(sequence(), dropout(0.5))` before it drops values.
    Shapes: columns and values `(batch, ..., count) -> (batch, ..., out)`.  Params: as `linear`.
    Fails: `ShapeMismatch` for anything but a pair of arrays of one shape; `DtypeMismatch`.

    >>> rows = jnp.array([[0, 2]]), jnp.array([[1.0, 3.0]])
    >>> params = {"weight": jnp.array([[1.0], [10.0], [100.0]])}
    >>> sparse_linear(1, 3, bias=False).apply(params, {}, rows, Eval())[0]
    Array([[301.]], dtype=float32)
    """
    out, features = whole("sparse_linear: out", out), whole("sparse_linear: features", features)
    bias = flag("sparse_linear: bias", bias)
    check_initializers("sparse_linear", weight_init=weight_init, bias_init=bias_init)

    def init(key: Key, spec: Tree) -> Init:
        columns, values = _pair(spec)
        shape = features, out
        params, tags = weight_and_bias("sparse_linear", key, shape, values.dtype, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec((*columns.shape[:-1], out), values.dtype), tags)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Array, State]:
        del mode
        columns, values = (jnp.asarray(part) for part in _pair(x))
        weight = params["weight"]
        columns = columns.astype(jnp.int32) if columns.dtype.itemsize < 4 else columns  # 8 bits end at column 127
        known = (columns >= 0) & (columns < features)
        # NaN in the values and not in the rows of the weight: those are many more numbers.
        y = _product(jnp.where(known, columns, 0), jnp.where(known, values.astype(weight.dtype), jnp.nan), weight)
        return (y + along_last(params["bias"], y.ndim) if bias else y), state

    return Layer(init, apply, f"sparse_linear({out}, {features})")


def _product(columns: Array, values: Array, weight: Array) -> Array:
    """The sum of the values times the rows of the weight at the columns."""
    if platform() != "cpu":
        return jnp.einsum("...k,...ko->...o", values, weight.at[columns].get(mode="promise_in_bounds"))
    # One value of each row at a time: all gathered rows of the weight are larger than the cache. For 2,708 rows of 30 values
    # and 64 outputs, the sum and its gradient took 4 ms, and 18 ms at once.
    rows, values = weight.astype(wide(weight)), values.astype(wide(weight))

    def added(y: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        column, value = pair
        return y + value[..., None] * rows.at[column].get(mode="promise_in_bounds"), None

    start = jnp.zeros((*values.shape[:-1], weight.shape[1]), rows.dtype)
    y, _ = jax.lax.scan(added, start, (jnp.moveaxis(columns, -1, 0), jnp.moveaxis(values, -1, 0)))
    return y.astype(weight.dtype)


def _pair(x: Any) -> tuple[Any, Any]:
    shapes = [getattr(part, "shape", None) for part in x] if isinstance(x, tuple | list) else []
    if len(shapes) != 2 or shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) < 2:
        expected = "(columns, values), two arrays of one shape (batch, ..., count)"
        raise FaultError(ShapeMismatch(expected, describe(x), where="sparse_linear"))
    check_integer(x[0], "sparse_linear", "integer columns")
    check_float(x[1], "sparse_linear", "floating-point values")
    return x[0], x[1]
