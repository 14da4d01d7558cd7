"""Beam search: the most probable texts, several of them at a time, in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree, array_spec, spec_after, spec_of
from fnlamp.generate.loop import Asked, Rows, Why, last_logits, read, started
from fnlamp.generate.rules import Past, Rule, applied, as_rules
from fnlamp.given import arguments, number, whole
from fnlamp.layer import Layer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beam:
    """A search for the most probable text.  Made by `beam`."""

    width: int = field(metadata={"static": True})
    length_penalty: Any
    rules: tuple[Rule, ...] = ()


@arguments("the number of texts that are extended at a time: beam(4)")
def beam(width: int, *rules: Rule | Callable[[Array, Past], Array], length_penalty: float = 1.0) -> Beam:
    """The best text that a search finds which extends the `width` most probable ones, token by token.

    The score of an ended text is the sum of its log-probabilities, after the rules, divided by `length^length_penalty`, the
    length in new tokens: at 0 the sum, at 1 the mean.  A text ends at a stop token or at the length; the search ends when no
    text that it extends can become better than the `width` best ended ones.  With `width=1` it is greedy.
    Reference: Sutskever, Vinyals & Le 2014, section 3.2; the penalty as in transformers, after Wu et al. 2016, eq. 14.

    >>> generate.beam(4, length_penalty=0.6).width
    4
    """
    penalty = number("beam: length_penalty", length_penalty)
    return Beam(whole("beam: width", width), penalty, as_rules("beam", rules))


class Ended(NamedTuple):
    """The best ended texts of each prompt; the score is `-inf` where there is none.  Shapes: `(prompts, width, ...)`."""

    tokens: Array
    log_probs: Array
    length: Array
    score: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The texts that are extended, `width` rows for each prompt, their scores `(prompts, width)`, and those that ended."""

    rows: Rows
    score: Array
    ended: Ended


class _Found(NamedTuple):
    """Texts with a token more.  Shapes: `(prompts, texts, ...)`; `row` is the row of each before."""

    row: Array
    tokens: Array
    log_probs: Array
    score: Array


def begun(rows: Rows, width: int) -> Beams:
    """All rows of a prompt are alike, so only the first is extended."""
    prompts, room = rows.tokens.shape[0] // width, rows.tokens.shape[1]
    none = jnp.full((prompts, width), -jnp.inf)
    places = jnp.zeros((prompts, width, room))
    ended = Ended(places.astype(jnp.int32), places, jnp.ones((prompts, width), jnp.int32), none)
    return Beams(rows, none.at[:, 0].set(0), ended)


def extended(
    layer: Layer,
    piece: int,
    params: Params,
    state: State,
    given: Tree,
    search: Beam,
    asked: Asked,
    beams: Beams,
    steps: Array,
) -> Beams:
    """At most so many tokens more for the prompts whose search has not ended; `state` is the layer's before the first."""
    axes = _batch_axes(layer, piece, params, state, given, beams.rows) if piece else []

    def running(at: tuple[Array, Beams]) -> Array:
        return (at[0] < steps) & jnp.any(at[1].rows.why == Why.RUNNING)

    def step(at: tuple[Array, Beams]) -> tuple[Array, Beams]:
        logits, state = last_logits(layer, piece, params, given, at[1].rows)
        return at[0] + 1, _step(search, asked, axes, at[1], logits, state)

    beams = replace(beams, rows=read(layer, piece, params, given, asked, beams.rows))
    return jax.lax.while_loop(running, step, (jnp.zeros((), jnp.int32), beams))[1]


def _batch_axes(layer: Layer, piece: int, params: Params, state: State, given: Tree, rows: Rows) -> list[int | None]:
    """The axis of rows in each array of the state, which several layers in one body have not as their first."""

    def of(count: int) -> Tree:
        def several(x: Any) -> Any:
            return array_spec((count, *x.shape[1:]), x.dtype)

        tokens = array_spec((count, rows.tokens.shape[1]), jnp.int32)
        parts = *map(spec_of, (params, state)), tokens, tree.map(several, given)
        return spec_after(lambda *parts: started(layer, piece, *parts), *parts)

    pairs = zip(tree.leaves(of(2)), tree.leaves(of(3)), strict=True)
    return [next((i for i, n in enumerate(a.shape) if n != b.shape[i]), None) for a, b in pairs]


def _step(search: Beam, asked: Asked, axes: list[int | None], beams: Beams, logits: Array, state: State) -> Beams:
    rows, (prompts, width) = beams.rows, beams.score.shape
    left = applied(search.rules, logits, rows.tokens, rows.length)
    added = jax.nn.log_softmax(jnp.where(jnp.all(left == -jnp.inf, axis=1, keepdims=True), 0, left))
    added = jnp.where(left == -jnp.inf, -jnp.inf, added).reshape(prompts, width, -1)
    count = min(width * (1 + asked.stop.shape[0]), width * added.shape[2])  # enough that `width` of them do not stop
    score, index = jax.lax.top_k((beams.score[..., None] + added).reshape(prompts, -1), count)
    found, token = _found(rows, score, index, jax.nn.log_softmax(logits), width)
    stops = jnp.any(token[..., None] == asked.stop, axis=-1)
    running = rows.why.reshape(prompts, width)[:, 0] == Why.RUNNING
    new = (rows.length - asked.prompt).reshape(prompts, width)[:, :1] + 1
    penalty = new.astype(score.dtype) ** search.length_penalty
    ends = stops & (jnp.arange(count) < width) & running[:, None]
    ended = _merged(
        beams.ended, found, jnp.where(ends, score / penalty, -jnp.inf), rows.length.reshape(prompts, width)[:, :1] + 1
    )
    kept, best = jax.lax.top_k(jnp.where(stops, -jnp.inf, score), width)
    most = (asked.end - asked.prompt).reshape(prompts, width)[:, :1].astype(score.dtype)
    hope = jnp.maximum(kept[:, 0] / penalty[:, 0], kept[:, 0] / most[:, 0] ** search.length_penalty)
    alive = jnp.where(kept[:, 0] == -jnp.inf, Why.EXCLUDED, jnp.where(new[:, 0] >= most[:, 0], Why.LENGTH, Why.RUNNING))
    settled = hope <= ended.score[:, -1]
    settled |= (kept[:, 0] == -jnp.inf) & (ended.score[:, 0] > -jnp.inf)
    broken = jnp.isnan(left) | (left == jnp.inf)
    broken = jnp.any(broken.reshape(prompts, width, -1).any(-1) & (beams.score > -jnp.inf), axis=1)
    why = jnp.where(broken, Why.NOT_FINITE, jnp.where(settled, Why.STOP, alive))
    chosen = _Found(*(jnp.take_along_axis(x, best.reshape(best.shape + (1,) * (x.ndim - 2)), 1) for x in found))
    return Beams(_moved(rows, axes, chosen, state, why, running, width), jnp.where(running[:, None], kept, beams.score), ended)


def _found(rows: Rows, score: Array, index: Array, log_probs: Array, width: int) -> tuple[_Found, Array]:
    vocabulary = log_probs.shape[1]
    row = jnp.arange(score.shape[0])[:, None] * width + index // vocabulary
    token = (index % vocabulary).astype(jnp.int32)
    last = jnp.arange(rows.tokens.shape[1]) == rows.length[row][..., None]
    tokens = jnp.where(last, token[..., None], rows.tokens[row])
    return _Found(row, tokens, jnp.where(last, log_probs[row, token][..., None], rows.log_probs[row]), score), token


def _merged(ended: Ended, found: _Found, score: Array, length: Array) -> Ended:
    """The best of those that had ended and those that end now, the best first."""
    width = ended.score.shape[1]
    best, at = jax.lax.top_k(jnp.concatenate([ended.score, score], axis=1), width)

    def taken(before: Array, now: Array) -> Array:
        both = jnp.concatenate([before, now.astype(before.dtype)], axis=1)
        return jnp.take_along_axis(both, at.reshape(at.shape + (1,) * (both.ndim - 2)), axis=1)

    lengths = taken(ended.length, jnp.broadcast_to(length, score.shape))
    return Ended(taken(ended.tokens, found.tokens), taken(ended.log_probs, found.log_probs), lengths, best)


def _moved(rows: Rows, axes: list[int | None], chosen: _Found, state: State, why: Array, running: Array, width: int) -> Rows:
    """The rows with the chosen texts, and the state of those that they extend."""
    going = jnp.repeat(running, width)
    source = jnp.where(going, chosen.row.reshape(-1), jnp.arange(going.shape[0]))
    leaves, form = jax.tree.flatten(state)
    if axes:
        leaves = [x if axis is None else jnp.take(x, source, axis=axis) for x, axis in zip(leaves, axes, strict=True)]
    room = rows.tokens.shape[1]
    tokens, log_probs = chosen.tokens.reshape(-1, room), chosen.log_probs.reshape(-1, room).astype(rows.log_probs.dtype)
    return Rows(
        jax.tree.unflatten(form, leaves),
        jnp.where(going[:, None], tokens, rows.tokens),
        rows.length + going,
        jnp.where(going[:, None], log_probs, rows.log_probs),
        jnp.where(going, jnp.repeat(why, width), rows.why).astype(jnp.int32),
    )


def best(search: Beam, asked: Asked, beams: Beams) -> Rows:
    """The best text of each prompt: one that ended, or that has reached the length."""
    rows, (prompts, width) = beams.rows, beams.score.shape
    new = (rows.length - asked.prompt).reshape(prompts, width)
    full = rows.why.reshape(prompts, width) == Why.LENGTH
    score = jnp.where(full, beams.score / new.astype(beams.score.dtype) ** search.length_penalty, -jnp.inf)
    room = rows.tokens.shape[1]
    texts = _Found(full, rows.tokens.reshape(prompts, width, room), rows.log_probs.reshape(prompts, width, room), score)
    ended = _merged(beams.ended, texts, score, rows.length.reshape(prompts, width)[:, :1])
    first = rows.why.reshape(prompts, width)[:, 0]
    why = jnp.where((first == Why.LENGTH) & (ended.score[:, 0] > beams.ended.score[:, 0]), Why.LENGTH, Why.STOP)
    why = jnp.where((first == Why.NOT_FINITE) | (first == Why.EXCLUDED) | (first == Why.RUNNING), first, why)
    known = ended.score[:, 0] > -jnp.inf
    length = jnp.where(known, ended.length[:, 0], asked.prompt[::width])
    return Rows(rows.state, ended.tokens[:, 0], length, ended.log_probs[:, 0], why.astype(jnp.int32))
