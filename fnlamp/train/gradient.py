"""Gradients as values: `plain`, and values around it that cut or change the batch, move parameters, or trade memory.

Each is a function of an objective, so they nest: `adversarial(2.0, microbatches(4))` takes both halves four times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Params, Tree, describe, is_float, is_integer, wide
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import function, instance, number, shown, text, whole
from fnlamp.loss import LossValue
from fnlamp.mode import Train

Objective: TypeAlias = Callable[[Params, Tree, Tree, Train], tuple[LossValue, Tree]]
"""`(params, state, batch, mode) -> (loss, state)`: differentiated with respect to `params`.

`state` is what goes from one forward pass to the next: the layers' state, and the sums of training metrics.
"""


class Found(NamedTuple):
    """The loss of a batch, the gradient of its mean, and the state after it."""

    value: LossValue
    grads: Tree
    state: Tree


@dataclass(frozen=True)
class Gradient:
    """`apply(objective, params, state, batch, mode) -> Found`, and a name for it."""

    apply: Callable[[Objective, Params, Tree, Tree, Train], Found]
    name: str

    def __post_init__(self) -> None:
        function("Gradient: apply", self.apply, "a function (objective, params, state, batch, mode) -> Found")
        text("Gradient: name", self.name)

    def __call__(self, objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        return self.apply(objective, params, state, batch, mode)

    def __repr__(self) -> str:
        return self.name


def _plain(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
    def mean(params: Params) -> tuple[Array, tuple[LossValue, Tree]]:
        value, after = objective(params, state, batch, mode)
        return value.mean, (value, after)

    (_, (value, after)), grads = jax.value_and_grad(mean, has_aux=True)(params)
    return Found(value, grads, after)


plain = Gradient(_plain, "plain")
"""The gradient of the batch's mean loss, as reverse-mode differentiation gives it."""


def microbatches(count: int, inner: Gradient = plain) -> Gradient:
    """The gradient of the whole batch, taken in `count` parts one after the other: a `count`-th of the activations' memory.

    With w_i the weight and g_i the gradient of part i's mean: `g = sum(w_i g_i) / sum(w_i)`, exact for class weights, ignored
    rows and a last batch that `count` does not divide (its last part is shorter, or it has fewer parts). With `stream.chunk(k)`
    this is gradient accumulation. Batch normalisation sees one part at a time; dropout draws for each part. For a `loss.sum`,
    whose terms may ignore different rows, `epochs` gives the objective the weights of the whole batch, which are constants.
    Fails: `ShapeMismatch` for a batch whose arrays have different numbers of rows.
    """
    parts, within = whole("microbatches: count", count, None), _gradient("microbatches", inner)
    if parts < 1:
        raise ValueError(f"microbatches: count: a batch has at least one part, got {count}")

    def apply(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        rows = _rows(batch)
        size = max(1, -(-rows // parts))
        full = rows // size

        def part(state: Tree, at: Any, batch: Tree) -> Found:
            return within(objective, params, state, batch, Train(jax.random.fold_in(mode.key, at)))

        def take(carry: Found, given: tuple[Any, Tree]) -> tuple[Found, None]:
            sums, total, state = carry
            value, grads, state = part(state, *given)
            total = jax.tree.map(lambda t, g: t + value.weight.astype(t.dtype) * g.astype(t.dtype), total, grads)
            return Found(LossValue(sums.total + value.total, sums.weight + value.weight), total, state), None

        cut = tree.map(lambda x: x[: full * size].reshape(full, size, *x.shape[1:]), batch)
        one = jax.eval_shape(part, state, 0, tree.map(lambda x: x[0], cut))
        value, grads = (jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x)), made) for made in (one.value, one.grads))
        carry, _ = jax.lax.scan(take, Found(value, grads, state), (jnp.arange(full), cut))
        if full * size < rows:
            carry, _ = take(carry, (full, tree.map(lambda x: x[full * size :], batch)))
        value, total, state = carry
        weight = jnp.where(value.weight > 0, value.weight, 1)
        return Found(value, jax.tree.map(lambda t, g: (t / weight.astype(t.dtype)).astype(g.dtype), total, one.grads), state)

    return Gradient(apply, f"microbatches({parts}{_within(inner)})")


def perturbed(noise: float, inner: Gradient = plain) -> Gradient:
    """The gradient at `params + noise * n`, with n drawn from a standard normal for each step; the loss at `params`.

    A second forward pass, without a gradient, computes that loss; the layers' state is the one after it.
    """
    size = number("perturbed: noise", noise, "a standard deviation of 0 or more", lambda n: n >= 0)
    within = _gradient("perturbed", inner)

    def apply(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        keys = iter(jax.random.split(mode.inside("perturbed").key, len(tree.leaves(params)) or 1))
        moved = jax.tree.map(lambda p: p + size * jax.random.normal(next(keys), p.shape, p.dtype), params)
        grads = within(objective, moved, state, batch, mode).grads
        value, state = objective(params, state, batch, mode)
        return Found(value, grads, state)

    return Gradient(apply, f"perturbed({size:g}{_within(inner)})")


def adversarial(eps: float, inner: Gradient = plain) -> Gradient:
    """The gradient of the mean of two losses: at the features x, and at `x + eps * sign(dL/dx)`, which is held constant.

    Integer features, such as pixels, are moved as floating-point numbers; token ids cannot be moved, and fail in their layer.
    Booleans, such as masks, stay as they are.
    Each half draws its own dropout; the layers' state is that of the first.
    Reference: Goodfellow, Shlens & Szegedy 2014, section 5 (alpha = 0.5).
    """
    size = number("adversarial: eps", eps, "a step of 0 or more, in the features' unit", lambda e: e >= 0)
    within = _gradient("adversarial", inner)

    def apply(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        def both(params: Params, state: Tree, batch: Tree, mode: Train) -> tuple[LossValue, Tree]:
            features, target = batch
            features = tree.map(lambda x: x.astype(jnp.float32) if is_integer(x) else x, features)

            def total(features: Tree) -> tuple[Array, tuple[LossValue, Tree]]:
                value, after = objective(params, state, (features, target), mode)
                return value.total, (value, after)

            slope, (value, after) = jax.grad(total, has_aux=True, allow_int=True)(features)
            moved = jax.tree.map(lambda x, s: x + size * jnp.sign(s).astype(x.dtype) if is_float(x) else x, features, slope)
            moved = jax.lax.stop_gradient(moved)
            other, _ = objective(params, state, (moved, target), mode.inside("adversarial"))
            return LossValue((value.total + other.total) / 2, (value.weight + other.weight) / 2), after

        return within(both, params, state, batch, mode)

    return Gradient(apply, f"adversarial({size:g}{_within(inner)})")


def rematerialised(inner: Gradient = plain) -> Gradient:
    """The same gradient with activations computed again in the backward pass instead of kept: less memory, more work.

    Reference: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; `jax.checkpoint`.
    """
    within = _gradient("rematerialised", inner)

    def apply(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        return within(jax.checkpoint(objective), params, state, batch, mode)

    return Gradient(apply, f"rematerialised({inner.name})" if inner is not plain else "rematerialised")


def augmented(augmentation: Callable[[Any, Tree], Tree], inner: Gradient = plain) -> Gradient:
    """The gradient of the batch that `augmentation(key, batch)` makes of each: of features and targets together, as mixup.

    It is part of the compiled step, with a key of the step, and validation leaves it out.  `augment.in_training` is for
    functions of the features alone.  Training metrics are given the new targets.
    """
    if not callable(augmentation) or isinstance(augmentation, Gradient):
        expected = "a function (key, batch) -> batch, such as fnlamp.augment.mixup(0.2, classes=10)"
        raise TypeError(f"augmented: augmentation is {expected}, got {shown(augmentation)}")
    within = _gradient("augmented", inner)

    def apply(objective: Objective, params: Params, state: Tree, batch: Tree, mode: Train) -> Found:
        return within(objective, params, state, augmentation(mode.inside("augmented").key, batch), mode)

    name = getattr(augmentation, "__name__", type(augmentation).__name__)
    return Gradient(apply, f"augmented({name}{_within(inner)})")


def _rows(batch: Tree) -> int:
    """The rows that each array of the batch has.  Fails: `ShapeMismatch` for arrays of different numbers of rows."""
    counts = {leaf.shape[:1] for leaf in tree.leaves(batch)}
    if len(counts) != 1 or () in counts:
        hint = "parts of a batch are rows, so each array needs one for each example"
        raise FaultError(ShapeMismatch("arrays with the same number of rows", describe(batch), hint, where="microbatches"))
    (rows,) = counts.pop()
    return int(rows)


def _gradient(name: str, inner: Any) -> Gradient:
    made: Gradient = instance(f"{name}: inner", inner, Gradient, "train.plain or a value around it")
    return made


def _within(inner: Gradient) -> str:
    return "" if inner is plain else f", {inner.name}"
