"""The step that broke a run, taken again: which arrays are not finite, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, is_float
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, NonFinite, NotRereadable
from fnlamp.given import instance
from fnlamp.train.execute import Body


@dataclass(frozen=True)
class Culprit:
    """An array with numbers that are not finite: how many, and the first one with its index."""

    path: str
    value: float
    index: tuple[int, ...]
    count: int
    size: int

    def __str__(self) -> str:
        place = f" at {list(self.index)}" if self.index else ""
        return f"{self.path}: {self.value}{place}" + (f", {self.count:,} of {self.size:,} numbers" if self.size > 1 else "")


@dataclass(frozen=True)
class BrokenStep:
    """The arrays of a step that are not finite, in the order in which they are computed: the first ones are the cause.

    `str(step)` has a line for each.
    """

    step: int
    culprits: tuple[Culprit, ...]

    def __str__(self) -> str:
        found = "\n".join(f"  {each}" for each in self.culprits)
        return f"step {self.step:,}:\n{found}" if found else f"step {self.step:,}: all numbers are finite"


def rerun(fault: NonFinite) -> Effect[BrokenStep, NotRereadable]:
    """Take the step of the fault again, from the state before it, and look into its batch, loss, gradient and new state.

    The paths are those of the trees: `batch/0` are the features, `gradient/0/weight` is the gradient of that parameter.
    Fails: `NotRereadable` if the batch could not be read again, or the fault comes from another process.

    >>> x = np.array([[1.0], [2.0], [np.inf], [4.0]], np.float32)
    >>> from fnlamp.train import epochs
    >>> program = epochs(
    ...     model=supervised(nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.minibatches(x, x, batch_size=2),
    ...     epochs=1,
    ... )
    >>> print(program.swap().bind(rerun).run_or_raise(Runtime(log=None)))
    step 2:
      batch/0: inf at [0, 0], 1 of 2 numbers
      batch/1: inf at [0, 0], 1 of 2 numbers
      loss: inf
      gradient/bias: -inf at [0]
      gradient/weight: -inf at [0, 0]
      params after/bias: inf at [0]
      params after/weight: inf at [0, 0]
    """
    instance("fault", fault, NonFinite, "the NonFinite that a run failed with")

    def look() -> BrokenStep:
        if fault.again is None:
            raise FaultError(NotRereadable(wanted=fault.step - 1, at=fault.step, where="rerun"))
        return BrokenStep(fault.step, tuple(culprits(fault.again())))

    return Effect.checked(look)


def looked_into(body: Body, shared: Any, carry: Any, batch: Tree) -> dict[str, Tree]:
    """What the step is given and what it computes, by name."""
    assert body.inside is not None
    before = {"params": carry.params, "layer_state": carry.layer_state, "optimizer_state": carry.optimizer_state}
    after, value, grads = jax.jit(body.inside)(shared, carry, batch)
    made = {f"{name} after": getattr(after, name) for name in before}
    return {"batch": batch, **before, "loss": value.mean, "gradient": grads, **made}


def culprits(parts: dict[str, Tree]) -> list[Culprit]:
    """The arrays that are not finite, part by part."""
    found = []
    for name, part in parts.items():
        for path, leaf in tree.paths(part).items():
            if hasattr(leaf, "dtype") and is_float(leaf) and not (sound := np.asarray(jnp.isfinite(leaf))).all():
                index = tuple(map(int, np.argwhere(~sound)[0]))
                place = f"{name}/{path}" if path else name
                found.append(Culprit(place, float(leaf[index]), index, int((~sound).sum()), sound.size))
    return found
