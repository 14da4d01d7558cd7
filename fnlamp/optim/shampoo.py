"""Shampoo: gradients between the inverse roots of their second moments on both sides."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import whole
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.matrices import first_by_rest, from_matrices, to_matrices
from fnlamp.optim.moments import above_zero, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Matrix, Tag


def shampoo(
    learning_rate: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    momentum: float = 0.0,
    eps: float = 1e-4,
    every: int = 10,
    largest: int = 1024,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Preconditioned gradient descent on matrices (Gupta, Koren & Singer 2018, Algorithm 1).

    With f the schedule's factor, a the learning rate, w the weight decay, `L = R = eps I` at first and b the momentum:
    `L = L + G G'`, `R = R + G' G`, `M = b M + (1 - b) G`, `P = P - f a L^(-1/4) M R^(-1/4) - f a w P`.
    The roots are true ones, of the eigenvalues; they are computed in each of the first `every` steps, then every `every`-th.
    A side longer than `largest` has a diagonal L or R.  The tag says how a parameter is a matrix, and each block has its own L
    and R; any other parameter is its first axis by the rest, a vector one column.
    The paper and lamp have no decay, torch has no such rule; lamp's roots are wrong, and it ignores the schedule.

    >>> optimizer = shampoo(learning_rate=0.1)
    >>> params, tags = {"bias": jnp.ones(2)}, {"bias": None}
    >>> params, state = optimizer.advance({"bias": jnp.array([0.5, 0.75])}, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["bias"]).round(4))
    [0.9445 0.9168]
    """
    b, eps, decay = share("shampoo: momentum", momentum), above_zero("shampoo: eps", eps), check_decay("shampoo", decay)
    every, largest = whole("shampoo: every", every), whole("shampoo: largest", largest)

    def first(p: Array, tag: Tag) -> Slots:
        dtype = wide(p)
        blocks, rows, columns = jax.eval_shape(lambda x: to_matrices(x, matrix_of(p, tag)), p).shape
        left, right = (jnp.eye(n, dtype=dtype) if n <= largest else jnp.ones(n, dtype) for n in (rows, columns))
        slots = {"left": left, "right": right, "left_root": left, "right_root": right}
        slots = {name: eps * jnp.tile(side, (blocks, *[1] * side.ndim)) for name, side in slots.items()}
        return slots | ({"m": jnp.zeros(p.shape, dtype)} if b else {})

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        matrix = matrix_of(p, tag)
        grad = to_matrices(g, matrix)
        left, right = (
            slots["left"] + second_moment(grad, slots["left"]),
            slots["right"] + second_moment(grad.mT, slots["right"]),
        )
        m = b * slots["m"] + (1 - b) * g if b else g
        due = (step <= every) | (step % every == 0)
        old = slots["left_root"], slots["right_root"]
        left_root, right_root = jax.lax.cond(due, lambda: (inverse_root(left, eps), inverse_root(right, eps)), lambda: old)
        scaled = times(left_root, times(right_root, to_matrices(m, matrix).mT).mT)
        update = from_matrices(scaled, matrix, p.shape)
        kept = {"left": left, "right": right, "left_root": left_root, "right_root": right_root, **({"m": m} if b else {})}
        return p - a * update - decayed(decay, p, update, f, a, w), kept

    return lift("shampoo", first, rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})


def matrix_of(p: Array, tag: Tag | None) -> Matrix:
    return tag.matrix if tag is not None and tag.matrix is not None else first_by_rest(p.shape)


def second_moment(x: Array, like: Array) -> Array:
    """`x x'`, or its diagonal if `like` is one."""
    return x @ x.mT if like.ndim == 3 else jnp.sum(jnp.square(x), -1)


def inverse_root(moment: Array, eps: float) -> Array:
    """`moment^(-1/4)`; eigenvalues are at least eps, which rounding may have taken from them."""
    if moment.ndim == 2:
        return moment**-0.25
    values, vectors = jnp.linalg.eigh(moment)
    root: Array = (vectors * jnp.maximum(values, eps)[:, None, :] ** -0.25) @ vectors.mT
    return root


def times(root: Array, x: Array) -> Array:
    """`root x`, of a root or its diagonal."""
    return root @ x if root.ndim == 3 else root[:, :, None] * x
