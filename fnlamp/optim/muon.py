"""Muon: momentum of matrices, orthogonalized."""

from __future__ import annotations

from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import flag, instance, number, whole
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.matrices import from_matrices, to_matrices
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Tag, check_hyper

JORDAN = (3.4445, -4.7750, 2.0315)
"""Coefficients whose slope at zero is steep: after 5 steps singular values are about 0.7 to 1.2."""
CONVERGENT = (2.0, -1.5, 0.5)
"""Coefficients that converge: after 12 steps singular values of a usual matrix are 1."""


class UpdateScale(Enum):
    """What Muon's update of a matrix is multiplied by."""

    BY_SHAPE = "by shape"
    """`max(1, outputs / inputs)^(1/2)`: Jordan et al. 2024; torch's "original". For rates such as 0.02."""
    AS_ADAMW = "as adamw"
    """`0.2 max(inputs, outputs)^(1/2)`: Liu et al. 2025, eq. 4; torch's "match_rms_adamw". For AdamW's rates and decay."""


def muon(
    learning_rate: Hyper = 0.02,
    weight_decay: Hyper = 0.0,
    momentum: Hyper = 0.95,
    nesterov: bool = True,
    scale: UpdateScale = UpdateScale.BY_SHAPE,
    coefficients: tuple[float, float, float] = JORDAN,
    steps: int = 5,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Momentum whose singular values are brought near 1 (Jordan et al. 2024, "Muon", with its `zeropower_via_newtonschulz5`).

    With f the schedule's factor, a the learning rate, w the weight decay, b the momentum and s the `scale`:
    `M = b M + (1 - b) G`, `O = NewtonSchulz(b M + (1 - b) G)` (of M without `nesterov`), `P = P - f a s O - f a w P`.
    The tag says how a parameter is a matrix; each block of it (query, key and value in one weight) is a separate matrix.
    The default equals torch's `Muon`, which iterates in bfloat16 and decays by 0.1.  lamp has no such rule.
    Raises: `ValueError` in `init` for a parameter that is not a matrix; embeddings and the last layer, which are, do better
    with AdamW.  `by_tag` gives those another rule.

    >>> from fnlamp import Matrix, Role
    >>> optimizer = muon(learning_rate=0.1, coefficients=CONVERGENT, steps=12)
    >>> params, tags = {"weight": jnp.zeros((2, 2))}, {"weight": Tag("linear", Role.WEIGHT, matrix=Matrix())}
    >>> grads = {"weight": jnp.array([[0.0, 3.0], [4.0, 0.0]])}
    >>> params, state = optimizer.advance(grads, optimizer.init(params, tags), params, tags)
    >>> print(np.asarray(params["weight"]).round(3) + 0.0)
    [[ 0.  -0.1]
     [-0.1  0. ]]
    """
    if check_hyper("muon: momentum", momentum) >= 1:
        raise ValueError(f"muon: momentum is a number from 0 to below 1, got {momentum}")
    nesterov, steps, decay = flag("muon: nesterov", nesterov), whole("muon: steps", steps), check_decay("muon", decay)
    instance("muon: scale", scale, UpdateScale, "optim.UpdateScale.BY_SHAPE or optim.UpdateScale.AS_ADAMW")
    coefficients = check_coefficients(coefficients)

    def first(p: Array, tag: Tag) -> Slots:
        if tag is None or tag.matrix is None:
            hint = "give such parameters another rule: optim.by_tag({...}, lambda tag: ...), by tag.matrix and tag.role"
            raise ValueError(f"muon is for matrices, and {tag} of shape {list(p.shape)} is not one; {hint}")
        return {"m": jnp.zeros(p.shape, wide(p))}

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w, b = f * h["learning_rate"], h["weight_decay"], h["momentum"]
        m = b * slots["m"] + (1 - b) * g
        o = orthogonalized(to_matrices(b * m + (1 - b) * g if nesterov else m, tag.matrix), coefficients, steps)  # type: ignore[arg-type]
        update = size(scale, *o.shape[1:]) * from_matrices(o, tag.matrix, p.shape)  # type: ignore[arg-type]
        return p - a * update - decayed(decay, p, update, f, a, w), {"m": m}

    hypers = {"learning_rate": learning_rate, "weight_decay": weight_decay, "momentum": momentum}
    return lift("muon", first, rule, clip, hypers)


def orthogonalized(x: Array, coefficients: tuple[float, float, float], steps: int) -> Array:
    """Each matrix U S V' of a stack as U V', about: `X = a X + (b X X' + c (X X')^2) X`, from X of norm 1."""
    a, b, c = coefficients
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    largest = jnp.max(jnp.abs(x), (-2, -1), keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1.0)  # the squares neither overflow nor underflow
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(-2, -1), keepdims=True), 1e-7)

    def step(_: int, x: Array) -> Array:
        gram = x @ x.mT
        return a * x + (b * gram + c * gram @ gram) @ x

    # A loop, not its unrolled steps: XLA would fuse them with what made x, and rounding errors would double with each step.
    x = jax.lax.fori_loop(0, steps, step, x)
    return x.mT if tall else x


def size(scale: UpdateScale, inputs: int, outputs: int) -> float:
    if scale is UpdateScale.BY_SHAPE:
        return float(max(1.0, outputs / inputs) ** 0.5)
    return float(0.2 * max(inputs, outputs) ** 0.5)


def check_coefficients(given: Any) -> tuple[float, float, float]:
    if not isinstance(given, tuple | list) or len(given) != 3:
        raise TypeError(f"muon: coefficients are three numbers, got {given!r}")
    a, b, c = (number("muon: coefficients", each) for each in given)
    return a, b, c
