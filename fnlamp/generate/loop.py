"""The compiled loop: the prompt in pieces, then token by token, with what layers keep in their state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, State, Tree
from fnlamp.generate.rules import Sampling, applied
from fnlamp.layer import Layer
from fnlamp.logits import computed
from fnlamp.mode import Decode, Eval

PIECE = 64
"""Time steps of a prompt that are read at once, unless the model's context is shorter."""


class Why(IntEnum):
    """Why a row has ended."""

    RUNNING = 0
    STOP = 1
    LENGTH = 2
    NOT_FINITE = 3
    EXCLUDED = 4
    STOP_TEXT = 5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Where the rows are, between two calls of the program.

    `tokens` `(batch, room)` are prompts and new tokens, `length` how many a row has, `log_probs` those of the new tokens at
    their places, `why` a number of `Why`.
    """

    state: State
    tokens: Array
    length: Array
    log_probs: Array
    why: Array


class Asked(NamedTuple):
    """What is asked for: where each row ends, tokens that end it, the key of each row, and the length of its prompt."""

    end: Array
    stop: Array
    keys: Array
    prompt: Array


class Next(NamedTuple):
    """The token that each row has chosen: `why` says if there was none to choose."""

    token: Array
    log_prob: Array
    why: Array


def forward(layer: Layer, params: Params, state: State, x: Array, given: Tree, mode: Any) -> tuple[Array, State]:
    """The logits, and the state; `given` is the rest of the input of a decoder, such as its memory."""
    y, state = layer.apply(params, state, x if given is None else (x, given), mode)
    return computed(y), state


def started(layer: Layer, piece: int, params: Params, state: State, tokens: Array, given: Tree) -> State:
    """The state before the first token: a call without time steps.  Without a piece, no state is kept."""
    if not piece:
        return state
    none = jnp.zeros(tokens.shape[0], jnp.int32)
    return forward(layer, params, state, tokens[:, :0], given, Decode(none, none, tokens.shape[1]))[1]


def continued(
    layer: Layer, piece: int, params: Params, given: Tree, sampling: Sampling, asked: Asked, rows: Rows, steps: Array
) -> Rows:
    """At most so many tokens more for the rows that have not ended; what is not read of the prompts is read first."""

    def running(at: tuple[Array, Rows]) -> Array:
        return (at[0] < steps) & jnp.any(at[1].why == Why.RUNNING)

    def step(at: tuple[Array, Rows]) -> tuple[Array, Rows]:
        logits, state = last_logits(layer, piece, params, given, at[1])
        chosen = choose(logits, sampling, asked, at[1])
        return at[0] + 1, _appended(at[1], state, chosen, asked)

    rows = read(layer, piece, params, given, asked, rows)
    return jax.lax.while_loop(running, step, (jnp.zeros((), jnp.int32), rows))[1]


def read(layer: Layer, size: int, params: Params, given: Tree, asked: Asked, rows: Rows) -> Rows:
    """The rows with all but the last token of their prompts in their state, if no row has a new token."""
    if not size:
        return rows
    room = rows.tokens.shape[1]
    unread = jnp.where(jnp.all(rows.length == asked.prompt), asked.prompt - 1, 0)

    def piece(i: Array, state: State) -> State:
        lengths = jnp.clip(unread - i * size, 0, size)
        tokens = jax.lax.dynamic_slice_in_dim(rows.tokens, i * size, size, axis=1)
        mode = Decode(jnp.full_like(lengths, i * size), lengths, room)
        return forward(layer, params, state, tokens, given, mode)[1]

    count = -(-jnp.max(unread) // size)
    return Rows(jax.lax.fori_loop(0, count, piece, rows.state), rows.tokens, rows.length, rows.log_probs, rows.why)


def last_logits(layer: Layer, piece: int, params: Params, given: Tree, rows: Rows) -> tuple[Array, State]:
    """The logits after the last token of each row, in at least float32.  Shapes: `(batch, vocabulary)`."""
    last, room = (rows.length - 1)[:, None], rows.tokens.shape[1]
    if piece:
        mode = Decode(rows.length - 1, (rows.why == Why.RUNNING).astype(jnp.int32), room)
        y, state = forward(layer, params, rows.state, jnp.take_along_axis(rows.tokens, last, 1), given, mode)
        y = y[:, 0]
    else:
        y, state = forward(layer, params, rows.state, rows.tokens[:, : max(room - 1, 1)], given, Eval())
        y = jnp.take_along_axis(y, last[..., None], 1)[:, 0]
    return y.astype(jnp.promote_types(y.dtype, jnp.float32)), state


def choose(logits: Array, sampling: Sampling, asked: Asked, rows: Rows) -> Next:
    """The next token of each row: the largest logit, if it is random after adding noise of its own to each.

    A row's noise is a function of its key and of how many new tokens it has, so other rows do not matter.
    Reference: Gumbel 1954; Maddison, Tarlow & Minka 2014, section 2.
    """
    left = applied(sampling.rules, logits, rows.tokens, rows.length)
    scores = left
    if sampling.random:
        keys = jax.vmap(jax.random.fold_in)(asked.keys, rows.length - asked.prompt)
        scores = left + jax.vmap(partial(jax.random.gumbel, shape=left.shape[1:], dtype=left.dtype))(keys)
    token = jnp.argmax(scores, axis=1).astype(jnp.int32)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], 1)[:, 0]
    broken = jnp.any(jnp.isnan(left) | (left == jnp.inf), axis=1)
    nothing = jnp.all(left == -jnp.inf, axis=1)
    why = jnp.where(broken, Why.NOT_FINITE, jnp.where(nothing, Why.EXCLUDED, Why.RUNNING))
    return Next(token, log_prob, why.astype(jnp.int32))


def _appended(rows: Rows, state: State, chosen: Next, asked: Asked) -> Rows:
    added = (rows.why == Why.RUNNING) & (chosen.why == Why.RUNNING)
    at = jnp.arange(added.shape[0]), jnp.where(added, rows.length, rows.tokens.shape[1])
    length = rows.length + added
    stops = jnp.any(chosen.token[:, None] == asked.stop, axis=1)
    why = jnp.where(stops, Why.STOP, jnp.where(length >= asked.end, Why.LENGTH, Why.RUNNING))
    why = jnp.where(rows.why == Why.RUNNING, jnp.where(added, why, chosen.why), rows.why).astype(jnp.int32)
    return Rows(
        state,
        rows.tokens.at[at].set(chosen.token, mode="drop"),
        length,
        rows.log_probs.at[at].set(chosen.log_prob.astype(rows.log_probs.dtype), mode="drop"),
        why,
    )
