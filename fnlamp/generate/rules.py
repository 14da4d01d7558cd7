"""Rules of sampling: pure functions from the logits of a row to logits, as values that compose in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import arguments, function, number, shown, whole


class Past(NamedTuple):
    """What a row has so far: `tokens`, integers `(room,)`, of which the first `length` are the prompt's and the new ones."""

    tokens: Array
    length: Array

    def contains(self, vocabulary: int) -> Array:
        """Which tokens occur.  Shapes: booleans `(vocabulary,)`."""
        known = jnp.arange(self.tokens.shape[0]) < self.length
        return jnp.zeros(vocabulary, bool).at[jnp.where(known, self.tokens, vocabulary)].set(True, mode="drop")


class Rule(ABC):
    """A pure function `(logits, past) -> logits` of one row; `-inf` excludes a token.  Its numbers are leaves of a pytree.

    >>> rule = generate.top_k(2)
    >>> rule(jnp.array([1.0, 3.0, 2.0]), generate.Past(jnp.zeros(4, int), jnp.array(0)))
    Array([-inf,   3.,   2.], dtype=float32)
    """

    @abstractmethod
    def __call__(self, logits: Array, past: Past) -> Array:
        """The logits after the rule.  Shapes: `(vocabulary,)`, float32."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Temperature(Rule):
    value: Any

    def __call__(self, logits: Array, past: Past) -> Array:
        del past
        first = jnp.arange(logits.shape[0]) == jnp.argmax(logits)
        cold = jnp.where(first, logits, -jnp.inf)
        return jnp.where(self.value == 0, cold, logits / jnp.where(self.value == 0, 1, self.value))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _TopK(Rule):
    count: int = field(metadata={"static": True})

    def __call__(self, logits: Array, past: Past) -> Array:
        del past
        least = jax.lax.top_k(logits, min(self.count, logits.shape[0]))[0][-1]
        return jnp.where(logits < least, -jnp.inf, logits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _TopP(Rule):
    mass: Any

    def __call__(self, logits: Array, past: Past) -> Array:
        del past
        order = jnp.argsort(-logits, stable=True)
        probabilities = jax.nn.softmax(logits[order])
        before = jnp.cumsum(probabilities) - probabilities
        # The first token stays for any mass; rounding of the sum must not exclude the last one if the mass is 1.
        kept = (before < self.mass) | (jnp.arange(order.shape[0]) == 0) | (self.mass >= 1)
        return jnp.where(jnp.zeros_like(kept).at[order].set(kept), logits, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _MinP(Rule):
    share: Any

    def __call__(self, logits: Array, past: Past) -> Array:
        del past
        return jnp.where(logits < jnp.max(logits) + jnp.log(self.share), -jnp.inf, logits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _RepetitionPenalty(Rule):
    penalty: Any

    def __call__(self, logits: Array, past: Past) -> Array:
        lowered = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return jnp.where(past.contains(logits.shape[0]), lowered, logits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Below(Rule):
    count: int = field(metadata={"static": True})

    def __call__(self, logits: Array, past: Past) -> Array:
        del past
        return jnp.where(jnp.arange(logits.shape[0]) < self.count, logits, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Own(Rule):
    function: Callable[[Array, Past], Array] = field(metadata={"static": True})

    def __call__(self, logits: Array, past: Past) -> Array:
        return self.function(logits, past)


@arguments("the logits are divided by it: temperature(0.8)")
def temperature(value: float) -> Rule:
    """Logits divided by the temperature; at 0 only the first largest one stays.

    >>> generate.temperature(0.5)(jnp.array([1.0, 2.0]), generate.Past(jnp.zeros(4, int), jnp.array(0)))
    Array([2., 4.], dtype=float32)
    """
    return _Temperature(number("temperature: value", value, "a number of 0 or more", lambda t: t >= 0))


@arguments("the number of tokens that stay: top_k(40)")
def top_k(count: int) -> Rule:
    """Only the `count` largest logits, and those equal to the least of them; all if the vocabulary is smaller.

    Reference: Fan, Lewis & Dauphin 2018, section 5.4.
    """
    return _TopK(whole("top_k: count", count))


@arguments("the probability of the tokens that stay: top_p(0.9)")
def top_p(mass: float) -> Rule:
    """Nucleus sampling: the fewest most probable tokens whose probabilities reach `mass`; ties by token.

    Reference: Holtzman et al. 2020, eq. 2 and 3.

    >>> generate.top_p(0.6)(jnp.log(jnp.array([0.3, 0.5, 0.2])), generate.Past(jnp.zeros(4, int), jnp.array(0))) > -jnp.inf
    Array([ True,  True, False], dtype=bool)
    """
    return _TopP(number("top_p: mass", mass, "a probability above 0", lambda p: 0 < p <= 1))


@arguments("the share of the largest probability: min_p(0.05)")
def min_p(share: float) -> Rule:
    """Only tokens with at least `share` of the largest probability.  Reference: Nguyen et al. 2024, section 3.

    >>> generate.min_p(0.5)(jnp.log(jnp.array([0.1, 0.6, 0.3])), generate.Past(jnp.zeros(4, int), jnp.array(0))) > -jnp.inf
    Array([False,  True,  True], dtype=bool)
    """
    return _MinP(number("min_p: share", share, "a probability above 0", lambda p: 0 < p <= 1))


@arguments("logits of tokens that occurred are lowered by this factor: repetition_penalty(1.2)")
def repetition_penalty(penalty: float) -> Rule:
    """Logits of tokens of the row so far, its prompt included: those above 0 divided by the penalty, the others times it.

    Reference: Keskar et al. 2019, section 4.1, for logits of both signs as in transformers.

    >>> past = generate.Past(jnp.array([1, 1, 0, 0]), jnp.array(2))
    >>> generate.repetition_penalty(2.0)(jnp.array([3.0, 4.0, -1.0]), past)
    Array([ 3.,  2., -1.], dtype=float32)
    """
    return _RepetitionPenalty(number("repetition_penalty: penalty", penalty, "a number above 0", lambda p: p > 0))


@arguments("the number of tokens that exist: below(codec.size)")
def below(count: int) -> Rule:
    """Only tokens below `count`: for a vocabulary that was padded to a rounder size.

    >>> generate.below(2)(jnp.array([1.0, 2.0, 9.0]), generate.Past(jnp.zeros(4, int), jnp.array(0)))
    Array([  1.,   2., -inf], dtype=float32)
    """
    return _Below(whole("below: count", count))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: `greedy`, or at random after `rules`, in their order.  Made by `sampled`."""

    rules: tuple[Rule, ...] = ()
    random: bool = field(default=False, metadata={"static": True})


greedy = Sampling()
"""The most probable token, the first of equal ones."""


def sampled(*rules: Rule | Callable[[Array, Past], Array]) -> Sampling:
    """A random token, with the probabilities that the rules, applied in order, leave.

    A rule of your own is a function `(logits, past) -> logits` of one row, in JAX.

    >>> sampling = generate.sampled(generate.temperature(0.8), generate.top_k(40), generate.top_p(0.9))
    >>> len(sampling.rules)
    3
    """
    return Sampling(as_rules("sampled", rules), random=True)


def as_rules(where: str, rules: tuple[Any, ...]) -> tuple[Rule, ...]:
    """The rules.  Raises: `TypeError` for anything but rules and functions."""
    for rule in rules:
        if isinstance(rule, type) or (getattr(rule, "__module__", "") == __name__ and not isinstance(rule, Rule)):
            raise TypeError(f"{where}: a rule is a value such as temperature(0.8), got {shown(rule)}; call it")
    what = "rules such as temperature(0.8) and top_k(40), or functions (logits, past) -> logits"
    return tuple(rule if isinstance(rule, Rule) else _Own(function(where, rule, what)) for rule in rules)


def applied(rules: tuple[Rule, ...], logits: Array, tokens: Array, length: Array) -> Array:
    """The logits of each row after the rules.  Shapes: logits `(batch, vocabulary)`."""

    def of_row(logits: Array, tokens: Array, length: Array) -> Array:
        for rule in rules:
            logits = rule(logits, Past(tokens, length))
        return logits

    return jax.vmap(of_row)(logits, tokens, length) if rules else logits
