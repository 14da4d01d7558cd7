"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import whole
from fnlamp.optim.decay import Decay, check_decay, decayed
from fnlamp.optim.matrices import from_matrices, to_matrices
from fnlamp.optim.moments import above_zero, one_minus_power, share
from fnlamp.optim.optimizer import Numbers, Optimizer, Slots, lift
from fnlamp.tag import Hyper, Matrix, Tag


def soap(
    learning_rate: Hyper = 3e-3,
    weight_decay: Hyper = 0.0,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    every: int = 10,
    largest: int = 1024,
    clip: float | None = None,
    decay: Decay = Decay.BY_LEARNING_RATE,
) -> Optimizer:
    """Adam in the eigenbasis of the gradient's second moments on both sides (Vyas et al. 2024, Algorithms 3 and 4).

    With f the schedule's factor, a the learning rate, w the weight decay, t the step from 0:
    `G* = Q' G S`, `M = b1 M + (1 - b1) G`, `M* = Q' M S`, `V = b2 V + (1 - b2) G*^2`, with Adam's corrections
    `m = M* / (1 - b1^t)`, `v = V / (1 - b2^t)`, and `P = P - f a Q (m / (sqrt(v) + eps)) S' - f a w P`;
    `L = b2 L + (1 - b2) G G'`, `R = b2 R + (1 - b2) G' G`.
    Step 0 moves nothing: Q and S become the eigenvectors of L and R of its gradient, which in that basis would be diagonal, and
    Adam would amplify the rounding errors off the diagonal.  Every `every` steps `Q = QR(L Q)`, `S = QR(R S)`.
    A side longer than `largest` keeps its basis.  The tag says how a parameter is a matrix, and each block has its own bases;
    any other parameter is updated by Adam.  All this is as the paper's code has it, the default decay too; torch and lamp have
    no such rule.

    >>> from fnlamp import Matrix, Role
    >>> optimizer = soap(learning_rate=0.1)
    >>> params, tags = {"weight": jnp.zeros((2, 2))}, {"weight": Tag("linear", Role.WEIGHT, matrix=Matrix())}
    >>> grads = {"weight": jnp.array([[0.0, 3.0], [4.0, 0.0]])}
    >>> state = optimizer.init(params, tags)
    >>> for _ in range(2):
    ...     params, state = optimizer.advance(grads, state, params, tags)
    >>> print(np.asarray(params["weight"]).round(3) + 0.0)  # the first update has singular values of the learning rate
    [[ 0.  -0.1]
     [-0.1  0. ]]
    """
    b1, b2, eps = share("soap: b1", b1), share("soap: b2", b2), above_zero("soap: eps", eps)
    every, largest, decay = whole("soap: every", every), whole("soap: largest", largest), check_decay("soap", decay)

    def first(p: Array, tag: Tag) -> Slots:
        dtype = wide(p)
        moments = {"m": jnp.zeros(p.shape, dtype), "v": jnp.zeros(p.shape, dtype)}
        if (matrix := matrix_of(tag)) is None:
            return moments
        blocks, *sizes = jax.eval_shape(lambda x: to_matrices(x, matrix), p).shape
        sides = {"left": sizes[0], "right": sizes[1]}
        return moments | {
            side: {"moment": jnp.zeros((blocks, n, n), dtype), "basis": jnp.tile(jnp.eye(n, dtype=dtype), (blocks, 1, 1))}
            for side, n in sides.items()
            if n <= largest
        }

    def rule(g: Array, slots: Slots, p: Array, step: Array, f: Array, tag: Tag, h: Numbers) -> tuple[Array, Slots]:
        a, w = f * h["learning_rate"], h["weight_decay"]
        t = jnp.maximum(step - 1, 1).astype(g.dtype)
        sides = with_gradient(g, tag, {side: slots[side] for side in ("left", "right") if side in slots}, step, b2)
        m = b1 * slots["m"] + (1 - b1) * g
        v = b2 * slots["v"] + (1 - b2) * jnp.square(rotated(g, tag, sides))
        m_hat, v_hat = rotated(m, tag, sides) / one_minus_power(b1, t), v / one_minus_power(b2, t)
        update = rotated(m_hat / (jnp.sqrt(v_hat) + eps), tag, sides, back=True)
        due = step % every == 0
        kept = {side: {"moment": of["moment"], "basis": refreshed(due, **of)} for side, of in sides.items()}
        moved = p - a * update - decayed(decay, p, update, f, a, w), {"m": m, "v": v}
        new, moments = jax.tree.map(lambda x, y: jnp.where(step > 1, x, y), moved, (p, {"m": slots["m"], "v": slots["v"]}))
        return new, moments | kept

    return lift("soap", first, rule, clip, {"learning_rate": learning_rate, "weight_decay": weight_decay})


def matrix_of(tag: Tag | None) -> Matrix | None:
    return tag.matrix if tag is not None else None


def with_gradient(g: Array, tag: Tag, sides: dict[str, Slots], step: Array, b2: float) -> dict[str, Slots]:
    """Both second moments with this gradient; at the first step, their eigenvectors."""
    if not sides:
        return {}
    grad = to_matrices(g, tag.matrix)  # type: ignore[arg-type]
    new = {}
    for side, x in (("left", grad), ("right", grad.mT)):
        if side in sides:
            moment = b2 * sides[side]["moment"] + (1 - b2) * x @ x.mT
            basis = sides[side]["basis"]
            basis = jax.lax.cond(step == 1, lambda of, old: jnp.linalg.eigh(of)[1], lambda of, old: old, moment, basis)
            new[side] = {"moment": moment, "basis": basis}
    return new


def rotated(x: Array, tag: Tag, sides: dict[str, Slots], *, back: bool = False) -> Array:
    """The parameter-shaped x in the eigenbases, `Q' x S`; or `back` from there, `Q x S'`."""
    if not sides:
        return x
    y = to_matrices(x, tag.matrix)  # type: ignore[arg-type]
    if "left" in sides:
        q = sides["left"]["basis"]
        y = (q if back else q.mT) @ y
    if "right" in sides:
        s = sides["right"]["basis"]
        y = y @ (s.mT if back else s)
    return from_matrices(y, tag.matrix, x.shape)  # type: ignore[arg-type]


def refreshed(due: Array, moment: Array, basis: Array) -> Array:
    """Algorithm 4: one step of power iteration, if it is due."""
    new: Array = jax.lax.cond(due, lambda: jnp.linalg.qr(moment @ basis)[0], lambda: basis)
    return new
