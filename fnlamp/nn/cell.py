"""Cells: one time step of a recurrence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, Tree, along_last, array_spec, wide
from fnlamp.given import arguments, flag, function, text, whole
from fnlamp.layer import Init, Layer, abstract_init, as_layer, tag_all
from fnlamp.mode import Eval
from fnlamp.nn.activation import tanh
from fnlamp.nn.check import check_features
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.lowering.matmul import product
from fnlamp.nn.lowering.recur import lstm_step, recur
from fnlamp.tag import Matrix, Role

_zeros: Initializer = jax.nn.initializers.zeros


@dataclass(frozen=True)
class Cell:
    """One time step of a recurrence, for `recurrent(cell)` and `unroll`.

    `init(key, spec) -> Init` for the spec of one time step, `(batch, features)`; its `spec` is that of one output, and it has
    no state.  `start(params, spec) -> carry` is the carry before the first time step: any tree of arrays, rows first.
    `step(params, carry, x) -> (carry, y)`, pure.  `inputs(params, x)` may compute what does not depend on the carry for all
    time steps at once, `(batch, time, features) -> (time, batch, ...)`, and `scan(params, carry, inputs) -> (carry, ys)` the
    whole loop; both are optional, and for speed.

    >>> def init(key, spec):
    ...     return nn.linear(1).init(key, spec)
    >>> def step(params, total, x):
    ...     total = total + x @ params["weight"]
    ...     return total, total
    >>> sums = Cell(init, lambda params, spec: jnp.zeros((spec.shape[0], 1)), step, name="sums")
    >>> params = {"weight": jnp.ones((2, 1))}
    >>> nn.recurrent(sums).apply(params, {}, jnp.ones((1, 3, 2)), Eval())[0][0, :, 0]
    Array([2., 4., 6.], dtype=float32)
    """

    init: Callable[[Key, Any], Init]
    start: Callable[[Params, Any], Tree]
    step: Callable[[Params, Any, Any], tuple[Any, Any]]
    inputs: Callable[[Params, Array], Tree] | None = None
    scan: Callable[[Params, Any, Any], tuple[Any, Any]] | None = None
    name: str = "cell"

    def __post_init__(self) -> None:
        for name in ("init", "start", "step"):
            function(f"Cell: {name}", getattr(self, name), "a function")
        for name in ("inputs", "scan"):
            if getattr(self, name) is not None:
                function(f"Cell: {name}", getattr(self, name), "a function")
        text("Cell: name", self.name)

    def __repr__(self) -> str:
        return self.name


def forget_one(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """An initialiser for the bias of `lstm`: 1 for the forget gates, so that cells start by remembering, and 0 for the others.

    Reference: Jozefowicz, Zaremba & Sutskever 2015, section 2.2.

    >>> forget_one(key, (8,), jnp.float32)
    Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """
    del key
    hidden = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


def orthogonal(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """An orthogonal matrix; the QR decomposition is not implemented in half precision."""
    weight: Array = jax.nn.initializers.orthogonal()(key, shape, wide(array_spec(shape, dtype))).astype(dtype)
    return weight


@arguments("the number of features is inferred: nn.rnn_cell(128)")
def rnn_cell(
    hidden: int,
    *,
    activation: Layer = tanh,
    bias: bool = True,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = _zeros,
) -> Cell:
    """The cell of `rnn`: `h = activation(x W + h R + b)`, which is its output and its carry.

    >>> rnn_cell(128)
    rnn(128)
    """
    made = abstract_init(as_layer(activation, "rnn_cell: activation"), array_spec((1, 1), jnp.float32))
    if made.params or made.state:
        raise ValueError(f"rnn_cell: activation is a layer without parameters and state, such as nn.relu, got {activation}")

    def step(params: Params, carry: Tree, z: Array) -> tuple[Tree, Array]:
        weight, h = params["recurrent_weight"], carry["h"]
        h, _ = activation.apply({}, {}, z.astype(h.dtype) + (h.astype(weight.dtype) @ weight).astype(h.dtype), Eval())
        return {"h": h}, h.astype(weight.dtype)

    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return _cell("rnn", hidden, 1, bias, inits, step)


@arguments("the number of features is inferred: nn.gru_cell(128)")
def gru_cell(
    hidden: int,
    *,
    bias: bool = True,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = _zeros,
) -> Cell:
    """The cell of `gru`, whose carry `h` is its output.

    >>> gru_cell(128)
    gru(128)
    """

    def step(params: Params, carry: Tree, z: Array) -> tuple[Tree, Array]:
        weight, h = params["recurrent_weight"], carry["h"]
        own = (h.astype(weight.dtype) @ weight).astype(h.dtype)
        (r, u, n), (r_own, u_own, n_own) = (jnp.split(part, 3, axis=-1) for part in (z.astype(h.dtype), own))
        if bias:
            n_own = n_own + along_last(params["recurrent_bias"], n_own.ndim).astype(h.dtype)
        r, u = jax.nn.sigmoid(r + r_own), jax.nn.sigmoid(u + u_own)
        h = (1 - u) * jnp.tanh(n + r * n_own) + u * h
        return {"h": h}, h.astype(weight.dtype)

    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return _cell("gru", hidden, 3, bias, inits, step, recurrent_bias=True)


@arguments("the number of features is inferred: nn.lstm_cell(128)")
def lstm_cell(
    hidden: int,
    *,
    bias: bool = True,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = forget_one,
) -> Cell:
    """The cell of `lstm`, whose carry is `h`, its output, and `c`.

    >>> lstm_cell(128)
    lstm(128)
    """

    def step(params: Params, carry: Tree, z: Array) -> tuple[Tree, Array]:
        h, c = lstm_step(params["recurrent_weight"], carry["h"], carry["c"], z)
        return {"h": h, "c": c}, h

    def scan(params: Params, carry: Tree, gates: Array) -> tuple[Tree, Array]:
        hs, c = recur(gates, params["recurrent_weight"], carry["h"], carry["c"])
        return {"h": hs[-1], "c": c}, hs

    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return _cell("lstm", hidden, 4, bias, inits, step, scan)


def _cell(
    name: str,
    hidden: int,
    gates: int,
    bias: bool,
    inits: dict[str, Initializer],
    step: Callable[[Params, Tree, Array], tuple[Tree, Array]],
    scan: Callable[[Params, Tree, Array], tuple[Tree, Array]] | None = None,
    *,
    recurrent_bias: bool = False,
) -> Cell:
    """A cell with a weight for its inputs and one for its output before, each of `gates` blocks side by side."""
    hidden, bias = whole(f"{name}: hidden", hidden, None), flag(f"{name}: bias", bias)
    check_initializers(name, **inits)
    if hidden < 1:
        raise ValueError(f"{name} needs at least one hidden feature, got {hidden}")
    wanted = "h", *(["c"] if scan else [])

    def init(key: Key, spec: Spec) -> Init:
        check_features(spec, name, axes="batch")
        keys = jax.random.split(key, 3)
        params = {
            "input_weight": inits["input_init"](keys[0], (spec.shape[-1], gates * hidden), spec.dtype),
            "recurrent_weight": inits["recurrent_init"](keys[1], (hidden, gates * hidden), spec.dtype),
        }
        roles = dict.fromkeys(params, Role.WEIGHT)
        if bias:
            params["bias"], roles["bias"] = inits["bias_init"](keys[2], (gates * hidden,), spec.dtype), Role.BIAS
        if bias and recurrent_bias:
            params["recurrent_bias"], roles["recurrent_bias"] = jnp.zeros((hidden,), spec.dtype), Role.BIAS
        return Init(params, {}, array_spec((spec.shape[0], hidden), spec.dtype), tag_all(name, Matrix(blocks=gates), **roles))

    def start(params: Params, spec: Spec) -> Tree:
        narrow, long = params["recurrent_weight"].dtype, wide(params["recurrent_weight"])
        # Where h is a running mean, as a cell is a running sum, half precision would lose what is added.
        dtypes = {"h": narrow if scan else long, "c": long}
        return {part: jnp.zeros((spec.shape[0], hidden), dtypes[part]) for part in wanted}

    def inputs(params: Params, x: Array) -> Array:
        weight = params["input_weight"]
        check_features(x, name, weight.shape[0], axes="batch, time")
        z = product(x.astype(weight.dtype).swapaxes(0, 1), weight)  # only h R needs the loop
        return z + along_last(params["bias"], z.ndim) if bias else z

    return Cell(init, start, step, inputs, scan, f"{name}({hidden})")
