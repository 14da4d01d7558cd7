"""Steps that are skipped because their gradient is not finite."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import whole
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, guarded, optimizer


def skip_non_finite(inner: Optimizer, at_most: int = 5) -> Optimizer:
    """An optimizer that skips a step whose gradient has a number that is not finite; at most so many in a row.

    A skipped step leaves the parameters and the inner optimizer's state as they are; `skipped(state)` counts them. After
    `at_most` skipped steps in a row the next is made, so that the run ends with the fault `NonFinite`. Averages outside do not
    count skipped steps. Gradients of frozen parameters do not count. Around `loss_scaled`, which must see each gradient
    to lower its scale, it is a `ValueError`; inside it is right.

    >>> from fnlamp import optim
    >>> optim.skip_non_finite(optim.adamw(1e-3), at_most=3)
    skip_non_finite(adamw)
    """
    inner = optimizer("skip_non_finite", inner)
    bound = whole("skip_non_finite: at_most", at_most, 0)
    if inner.loss_scale is not None:
        raise ValueError("skip_non_finite: inner has a loss scale, which would stay; write loss_scaled(skip_non_finite(...))")

    def own(params: Params, tags: Tree) -> Fields:
        return {"in_a_row": jnp.zeros((), jnp.int32)}

    def judge(state: Tree, good: Array) -> tuple[Array, Fields]:
        in_a_row = state["in_a_row"]
        return good | (in_a_row >= bound), {"in_a_row": jnp.where(good, 0, jnp.minimum(in_a_row + 1, bound))}

    return guarded(inner, "skip_non_finite", own, judge)
