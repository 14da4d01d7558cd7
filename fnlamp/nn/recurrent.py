"""Recurrent layers: a cell over the time axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, Spec, State, Tree, array_spec, describe, is_float, spec_after
from fnlamp.fault import FaultError, ShapeMismatch, located
from fnlamp.given import arguments, flag, instance
from fnlamp.layer import Init, Layer, as_layer, gather, init_child, without_empty
from fnlamp.layer import apply_child as applied
from fnlamp.mode import Decode, Mode, Train
from fnlamp.nn.activation import tanh
from fnlamp.nn.cell import Cell, forget_one, gru_cell, lstm_cell, orthogonal, rnn_cell
from fnlamp.nn.check import check_shape
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.lengths import Sequences, at_length, known, masked, reverse, split
from fnlamp.nn.shape import check_whole, fun, whole_only

INFERRED = "the number of features is inferred"


@arguments("the parameters are those of recurrent(cell): nn.unroll(cell, params, x, carry)")
def unroll(
    cell: Cell, params: Params, x: Array, carry: Tree | None = None, *, lengths: Array | None = None
) -> tuple[Any, Tree]:
    """The outputs of a cell over the time axis, and its carry after the last time step: a pure function, for loops of your own.

    `carry` is the one before the first time step, without it the cell's `start`.  With `lengths`, a row's carry stays as it is
    after so many time steps, and its outputs are 0 from there; padding is not read.  A length below 0 or above the number of
    time steps makes the row's outputs and carry NaN.
    Shapes: x `(batch, time, ...)`, lengths `(batch,)`, integers; outputs `(batch, time, ...)`.
    Fails: `ShapeMismatch`, `DtypeMismatch`, also for parameters or a carry that are not the cell's.

    >>> cell = nn.lstm_cell(3)
    >>> params = nn.recurrent(cell).init(key, jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)).params
    >>> first, carry = unroll(cell, params, jnp.ones((2, 3, 4)))
    >>> then, _ = unroll(cell, params, jnp.ones((2, 2, 4)), carry)
    >>> whole, _ = unroll(cell, params, jnp.ones((2, 5, 4)))
    >>> bool(jnp.allclose(jnp.concatenate([first, then], axis=1), whole, atol=1e-6))
    True
    """
    instance("unroll: cell", cell, Cell, "a cell, such as nn.lstm_cell(128)")
    parts = split(x if lengths is None else (x, lengths), "unroll")
    one = _step_spec(parts.x)
    _check_like(params, spec_after(lambda: cell.init(jax.random.key(0), one).params), "unroll: params")
    start = cell.start(params, one)
    carry = start if carry is None else _check_like(carry, start, "unroll: carry")
    ys, carry = _unrolled(cell, params, masked(parts), carry, parts.lengths)
    return ys, carry


def _check_like(given: Tree, expected: Tree, where: str) -> Tree:
    """The given tree.  Fails: `ShapeMismatch` unless its arrays have the expected names and shapes."""
    same = jax.tree.structure(given) == jax.tree.structure(expected)  # type: ignore[operator]
    if not same or any(jnp.shape(a) != b.shape for a, b in zip(tree.leaves(given), tree.leaves(expected), strict=True)):
        raise FaultError(ShapeMismatch(describe(expected), describe(given), where=where))
    return given


def _step_spec(x: Any) -> Spec:
    return array_spec((x.shape[0], *x.shape[2:]), x.dtype)


def _unrolled(cell: Cell, params: Params, x: Array, carry: Tree, lengths: Array | None) -> tuple[Any, Tree]:
    inputs = x.swapaxes(0, 1) if cell.inputs is None else cell.inputs(params, x)
    if not x.size:
        one = tree.map(lambda z: array_spec(z.shape[1:], z.dtype), inputs)
        _, y = spec_after(cell.step, params, carry, one)
        return tree.map(lambda y: jnp.zeros((*x.shape[:2], *y.shape[1:]), y.dtype), y), carry
    if cell.scan is not None and lengths is None:
        carry, ys = cell.scan(params, carry, inputs)
    else:

        def step(carry: Tree, at: tuple[Any, Array]) -> tuple[Tree, Any]:
            z, t = at
            new, y = cell.step(params, carry, z)
            if lengths is None:
                return new, y
            running, fits = t < lengths, known(lengths, x.shape[1])
            kept = tree.map(lambda a, b: _where(running, a, b), new, carry)
            zero = tree.map(lambda y: _where(running, y, jnp.zeros_like(y)), y)
            return tree.map(lambda a: _or_nan(fits, a), kept), tree.map(lambda a: _or_nan(fits, a), zero)

        carry, ys = jax.lax.scan(step, carry, (inputs, jnp.arange(x.shape[1])))
    return tree.map(lambda y: y.swapaxes(0, 1), ys), carry


def _where(rows: Array, a: Array, b: Array) -> Array:
    return jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - 1)), a, b)


def _or_nan(rows: Array, a: Array) -> Array:
    return _where(rows, a, jnp.full_like(a, jnp.nan)) if is_float(a) else a


@arguments("it takes a cell: nn.recurrent(nn.lstm_cell(128)), or one of your own")
def recurrent(cell: Cell, *, carried: bool = False) -> Layer:
    """A cell over the time axis, each batch from the cell's `start`; returns the output at each time step.

    Padded batches: `(x, lengths) -> (y, lengths)`, as `data.padded_batches` makes them.  Outputs after a row's length are 0 and
    padding is not read; a length below 0 or above the number of time steps makes the row NaN.

    With `carried`, in `Train`, rows continue where the same rows of the batch before ended: truncated backpropagation through
    a stream.  The carry is layer state, through which no gradient flows, so that a resumed run has it too.  The input says
    where sequences start: `(x, starts) -> (y, starts)`, or `(x, lengths, starts)`, with a boolean for each row, true in the
    first batch of an epoch.  `Eval` leaves state unchanged, so each of its batches begins from `start`; `unroll` takes a
    carry and returns one.

    Shapes: `(batch, time, ...) -> (batch, time, ...)`; lengths `(batch,)`, integers; starts `(batch,)`, booleans.
    Params: the cell's.  State: `carry` if it is carried.
    Fails: `ShapeMismatch`, also for a batch of another number of rows than the carried one; `DtypeMismatch`.
    Reference: Williams & Peng 1990, section 3.2, truncated backpropagation.

    >>> layer = recurrent(nn.gru_cell(3))
    >>> made = layer.init(key, jax.ShapeDtypeStruct((2, 5, 4), jnp.float32))
    >>> y, lengths = layer.apply(made.params, {}, (jnp.ones((2, 5, 4)), jnp.array([2, 5])), Eval())[0]
    >>> (jnp.abs(y).sum(-1) > 0).sum(-1).tolist()
    [2, 5]
    """
    instance("recurrent: cell", cell, Cell, "a cell, such as nn.lstm_cell(128)")
    carried, (where, _, size) = flag(f"{cell}: carried", carried), cell.name.partition("(")
    name = f"{where}({size.removesuffix(')') + ', ' if size else ''}carried)" if carried else cell.name

    def init(key: Key, spec: Tree) -> Init:
        parts = split(spec, where, carried)
        one = _step_spec(parts.x)
        check_shape(parts.x, lambda shape: len(shape) >= 3, "an array of shape (batch, time, ...)", where)
        with located("one time step"):
            made = cell.init(key, one)
        if made.state:
            raise ValueError(f"{cell} has state; what goes from one time step to the next is its carry")
        y = spec_after(lambda params, x: _unrolled(cell, params, x, cell.start(params, one), None)[0], made.params, parts.x)
        state = {"carry": cell.start(made.params, one)} if carried else {}
        return Init(made.params, state, parts.with_x(y), made.tags)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        if isinstance(mode, Decode):
            return _continued(cell, params, state, x, mode, where, carried)
        parts = split(x, where, carried)
        start = cell.start(params, _step_spec(parts.x))
        if not (carried and isinstance(mode, Train)):
            y, _ = _unrolled(cell, params, masked(parts), start, None)
            return parts.with_x(tree.map(lambda y: masked(parts._replace(x=y), nan=True), y)), state
        _check_rows(state["carry"], start, where)
        carry = tree.map(lambda new, old: _where(parts.starts, new, old), start, state["carry"])
        y, carry = _unrolled(cell, params, masked(parts), carry, parts.lengths)
        return parts.with_x(y), {"carry": stop_gradient(carry)}

    return Layer(init, apply, name)


def _continued(
    cell: Cell, params: Params, state: State, x: Tree, mode: Decode, where: str, carried: bool
) -> tuple[Tree, State]:
    """The next time steps of each row, from the carry that the state has."""
    if carried:
        check_whole(mode, where, "carried=True takes where sequences start; without it, the parameters are the same")
    parts = split(x, where)
    if parts.lengths is not None:
        check_whole(mode, where, "lengths in the input, whose place is the mode")
    parts = parts._replace(lengths=mode.lengths)
    carry = state["decoded"] if "decoded" in state else cell.start(params, _step_spec(parts.x))
    y, carry = _unrolled(cell, params, masked(parts), carry, parts.lengths)
    return y, {"decoded": carry}


def _check_rows(carried: Tree, start: Tree, where: str) -> None:
    if [a.shape for a in tree.leaves(carried)] != [a.shape for a in tree.leaves(start)]:
        hint = "each batch has the same rows as the one before, each the next part of its sequence: drop_last=True"
        raise FaultError(ShapeMismatch(f"rows for the carry {describe(carried)}", describe(start), hint, where=where))


@arguments(f"{INFERRED}: nn.rnn(128)")
def rnn(
    hidden: int,
    *,
    activation: Layer = tanh,
    bias: bool = True,
    carried: bool = False,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """The simple recurrent network: `h_t = activation(x_t W + h_(t-1) R + b)`, with one bias for torch's two.

    Shapes: `(batch, time, features) -> (batch, time, hidden)`; lengths and `carried` as in `recurrent`.
    Params: `input_weight` W `(features, hidden)`, `recurrent_weight` R `(hidden, hidden)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (embed it); `ShapeMismatch` for another rank or number of features.
    Reference: Elman 1990.

    >>> rnn(128).init(key, jax.ShapeDtypeStruct((32, 64, 100), jnp.float32)).spec.shape
    (32, 64, 128)
    """
    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return recurrent(rnn_cell(hidden, activation=activation, bias=bias, **inits), carried=carried)


@arguments(f"{INFERRED}: nn.gru(128)")
def gru(
    hidden: int,
    *,
    bias: bool = True,
    carried: bool = False,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """The gated recurrent unit over the time axis, with the reset gate after the product, as in torch and cuDNN.

    With s the sigmoid, `[r u n] = x_t W + b` and `[r' u' n'] = h_(t-1) R`: `r = s(r + r')`, `u = s(u + u')`,
    `h_t = (1 - u) tanh(n + r (n' + b')) + u h_(t-1)`; the gates are in torch's order, with one bias for its two of r and u.
    Shapes: `(batch, time, features) -> (batch, time, hidden)`; lengths and `carried` as in `recurrent`.
    Params: `input_weight` W `(features, 3 hidden)`, `recurrent_weight` R `(hidden, 3 hidden)`, and unless `bias=False`,
    `bias` b and `recurrent_bias` b' `(hidden,)`.
    Fails: `DtypeMismatch` for integer input (embed it); `ShapeMismatch` for another rank or number of features.
    Reference: Cho et al. 2014, eq. 5 to 8, with the reset gate of its first version, arXiv:1406.1078v1.

    >>> made = gru(128).init(key, jax.ShapeDtypeStruct((32, 64, 100), jnp.float32))
    >>> made.params["input_weight"].shape, made.params["recurrent_bias"].shape, made.spec.shape
    ((100, 384), (128,), (32, 64, 128))
    """
    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return recurrent(gru_cell(hidden, bias=bias, **inits), carried=carried)


@arguments(f"{INFERRED}: nn.lstm(128)")
def lstm(
    hidden: int,
    *,
    bias: bool = True,
    carried: bool = False,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = orthogonal,
    bias_init: Initializer = forget_one,
) -> Layer:
    """Long short-term memory over the time axis, from a state of zeros in every batch; returns the state at each time step.

    With s the sigmoid and `[i f g o] = x_t W + h_(t-1) R + b`:
    `c_t = s(f) c_(t-1) + s(i) tanh(g)` and `h_t = s(o) tanh(c_t)`; the gates are in torch's order, with one bias for its two.
    Shapes: `(batch, time, features) -> (batch, time, hidden)`; for the last state only, `>> nn.last_step`.  Lengths and
    `carried` as in `recurrent`.
    Params: `input_weight` W `(features, 4 hidden)`, `recurrent_weight` R `(hidden, 4 hidden)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (embed it); `ShapeMismatch` for another rank or number of features.
    Default initialisers: Glorot normal, orthogonal, and `forget_one`.  The gradient is taken in reverse mode only.
    Reference: Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000, eq. 2 to 6.

    >>> made = lstm(128).init(key, jax.ShapeDtypeStruct((32, 64, 100), jnp.float32))
    >>> made.params["input_weight"].shape, made.params["recurrent_weight"].shape, made.spec.shape
    ((100, 512), (128, 512), (32, 64, 128))
    """
    inits = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    return recurrent(lstm_cell(hidden, bias=bias, **inits), carried=carried)


@arguments("it goes around a layer over time: nn.bidirectional(nn.lstm(64))")
def bidirectional(layer: Layer, backward: Layer | None = None) -> Layer:
    """A layer over time, and a second one on the sequence from its end to its start; the features of both at each time step.

    `backward` is the second one, else another copy of `layer` with its own weights.  With lengths, a row is read from its own
    end; `bidirectional` twice is torch's stacked one.  At the last time step, only the first layer has read the whole row.
    Shapes: `(batch, time, features) -> (batch, time, 2 hidden)`, or `(x, lengths) -> (y, lengths)`.  Children: `forward` and
    `backward`.  Fails: `ShapeMismatch` for a layer that changes the number of time steps; a carried layer cannot be inside.
    Reference: Schuster & Paliwal 1997.

    >>> bidirectional(nn.lstm(64)).init(key, jax.ShapeDtypeStruct((8, 5, 4), jnp.float32)).spec.shape
    (8, 5, 128)
    """
    forward = as_layer(layer, "bidirectional: layer")
    second = forward if backward is None else as_layer(backward, "bidirectional: backward")
    children = {"forward": forward, "backward": second}

    def init(key: Key, spec: Tree) -> Init:
        split(spec, "bidirectional")
        made = {name: init_child(name, child, key, spec) for name, child in children.items()}
        ys = (one.spec for one in made.values())
        return gather(children, made, spec_after(lambda x, *ys: _joined(split(x, "bidirectional"), *ys), spec, *ys))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        check_whole(mode, "bidirectional", "it reads sequences from their end")
        parts, new = split(x, "bidirectional"), {}
        ahead, new["forward"] = applied("forward", forward, params, state, x, mode)
        turned = parts.with_x(reverse(parts.x, parts.lengths))
        back, new["backward"] = applied("backward", second, params, state, turned, mode)
        return _joined(parts, ahead, back), without_empty(new)

    return Layer(init, apply, f"bidirectional({', '.join(str(one) for one in dict.fromkeys(children.values()))})")


def _joined(parts: Sequences, ahead: Tree, back: Tree) -> Tree:
    ahead, back = (y if parts.lengths is None else y[0] for y in (ahead, back))
    for y in (ahead, back):
        if not hasattr(y, "shape") or y.shape[:2] != parts.x.shape[:2]:
            expected = f"outputs of {parts.x.shape[0]} rows and {parts.x.shape[1]} time steps"
            raise FaultError(ShapeMismatch(expected, describe(y), where="bidirectional"))
    return parts.with_x(jnp.concatenate([ahead, reverse(back, parts.lengths)], axis=-1))


def _last_step(x: Tree) -> Array:
    parts = split(x, "last_step")
    if parts.lengths is None:
        if not parts.x.shape[1]:
            raise FaultError(ShapeMismatch("at least one time step", describe(parts.x), where="last_step"))
        last: Array = parts.x[:, -1]
        return last
    return at_length(parts.x, parts.lengths)


last_step = whole_only(fun(_last_step, "last_step"), "it takes the last of all time steps")
"""The features at the last time step of each row: `(batch, time, ...) -> (batch, ...)`, or from `(x, lengths)`, where a row of
length 0 has zeros, and one whose length is out of range NaN."""
