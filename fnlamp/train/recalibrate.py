"""The running moments of a trained model, computed again for its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree, is_float, placed_on, to_device
from fnlamp.effect import Effect, Interrupted, Resource, Runtime
from fnlamp.fault import Broken, NonFinite, PlanFault
from fnlamp.identity import identity
from fnlamp.mode import Train, name_key, seed_key
from fnlamp.stream import BatchStream
from fnlamp.train import tally
from fnlamp.train.after import Pass, epoch_of, features_of
from fnlamp.train.execute import Body, Fused
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.factory import LoopContext
from fnlamp.train.state import Kept, Trained
from fnlamp.train.step import STATE_BROKE
from fnlamp.train.supervised import Supervised, rows_of

E = TypeVar("E")
A = TypeVar("A", Trained, Kept)


def recalibrate(
    batches: BatchStream[E]
    | Resource[BatchStream[E], E]
    | Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]],
) -> Callable[[A], Effect[A, PlanFault | NonFinite | E]]:
    """The program that computes batch norm's running moments again, for a model's parameters as they are.

    For averaged parameters, whose moments no step has seen: `training.bind(recalibrate(batches))`. The new moments are the mean
    over the batches of each batch's moments in `Train`, weighted by rows; nothing else of the model, nor of its `state` to
    resume from, changes. Without batch norm the model is returned as it is. Batches are those of training, `(features,
    target)` or features alone; see `predict_batches`. Dropout, if there is any, is drawn with its own keys.

    A running moment is an array m of the layers' state that a step in `Train` moves to `d m + (1 - d) b`, with one number
    0 <= d < 1 and the batch's b, as your own layer may do. From two derivatives of the step it is known which are:
    other state is left as it is, and the log names it.
    Fails: as `predict_batches`, `BatchTooSmall`, and `NonFinite` for moments that are not finite.
    Reference: Izmailov et al. 2018, section 3.2; `torch.optim.swa_utils.update_bn`, in which a short batch has the weight of a
    full one.

    >>> from fnlamp import train
    >>> x = np.random.default_rng(0).normal(3, 1, (64, 2)).astype(np.float32)
    >>> training = train.epochs(
    ...     model=supervised(nn.batch_norm() >> nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.minibatches(x, x[:, :1], batch_size=32),
    ...     epochs=1,
    ... )
    >>> found = training.bind(recalibrate(stream.from_arrays(x, batch_size=32))).run(Runtime(log=None))
    >>> found.map(lambda trained: np.allclose(trained.layer_state["0"]["mean"], x.mean(0)))
    <IOResult: <Success: True>>
    """
    return Pass("recalibrate", batches, _work, "recalibrate", "running moments")


class Sums(NamedTuple):
    """What goes from batch to batch: their number, the sums of `rows * (1 - d) b`, and d, NaN where it is not constant."""

    step: Any
    tally: Any
    slope: Any


def _work(trained: A, stream: BatchStream[Any], runtime: Runtime, workspace: Workspace) -> Result[A, Any] | Interrupted:
    moving = [leaf for leaf in tree.leaves(trained.layer_state) if is_float(leaf)]
    if not moving:
        return Success(trained)
    with placed_on(workspace.device):
        root = name_key(seed_key(0), "recalibrate")
        shared = workspace.put((trained.params, trained.layer_state, root))
        slope = [np.full(np.shape(leaf), np.nan, leaf.dtype) for leaf in moving]
        first = Sums(np.zeros((), np.int32), tally.empty(tree.count(slope)), slope)
        carry = jax.tree.map(lambda x: to_device(x, workspace.device), first)
        executor = runtime.executor or Fused()
        for reached in executor.fold(_body(trained.model), shared, carry, stream, stream.init, workspace):
            carry = reached.carry
            if reached.broken:
                return Failure(NonFinite(Broken.STATE, epoch_of(trained), int(carry.step) + 1, trained))
            if workspace.cancelled(runtime):
                return Interrupted()
    if not int(carry.step):
        return Failure(stream.why_empty)
    state, left = _moments(trained.layer_state, tally.sums(carry.tally), carry.slope)
    if left:
        runtime.say(f"recalibrate: left as they are, since they are not running means of batches: {', '.join(left)}")
    return Success(replace(trained, layer_state=state))


def _body(model: Supervised) -> Body:
    body: Body = BODIES.get(("recalibrate", identity(model)), lambda: _moments_body(model))
    return body


def _moments_body(model: Supervised) -> Body:
    def step(shared: tuple[Params, State, Any], carry: Sums, batch: Tree) -> Sums:
        params, state, root = shared
        features, mode = features_of(batch), Train(jax.random.fold_in(root, carry.step))
        leaves: list[Array] = tree.leaves(state)
        structure: Any = jax.tree.structure(state)
        floats = [leaf for leaf in leaves if is_float(leaf)]
        kept = _passed_on(lambda given: model.forward(params, given, features, mode)[1], state)
        fixed = [same for same, leaf in zip(kept, leaves, strict=True) if is_float(leaf)]

        def after(moving: list[Array]) -> list[Array]:
            given = iter(moving)
            # Frozen parameters are state too: the moments are those of a step with their real values.
            full = [next(given) if is_float(leaf) else leaf for leaf in leaves]
            full = [leaf if same else moved for leaf, moved, same in zip(leaves, full, kept, strict=True)]
            new = model.forward(params, structure.unflatten(full), features, mode)[1]
            return [leaf for leaf in tree.leaves(new) if is_float(leaf)]

        # XLA computes the two forward passes, which differ in the state alone, as one.
        ones = [jnp.ones_like(leaf) for leaf in floats]
        parts, slope = jax.jvp(after, ([jnp.zeros_like(leaf) for leaf in floats],), (ones,))
        _, there = jax.jvp(after, (floats,), (ones,))
        slope, there = (
            [jnp.ones_like(s) if same else s for s, same in zip(part, fixed, strict=True)] for part in (slope, there)
        )

        def constant(now: Array, there: Array, before: Array) -> Array:
            return jnp.where((now == there) & ((now == before) | (carry.step == 0)), now, jnp.nan)

        rows, zero = rows_of(features), jnp.zeros(())
        sums = tally.add(carry.tally, rows, [zero, zero, zero, *(rows * part for part in parts)])
        return Sums(carry.step + 1, sums, jax.tree.map(constant, slope, there, carry.slope))

    def broken(carry: Sums) -> Array:
        numbers = carry.tally[0, len(tally.Sums._fields) - 1 :]
        mean = jnp.concatenate([leaf.reshape(-1) for leaf in carry.slope]) < 1
        return jnp.where((mean & ~jnp.isfinite(numbers)).any(), jnp.int32(STATE_BROKE), jnp.int32(0))

    return Body(step, broken)


def _passed_on(step: Callable[[State], State], state: State) -> list[bool]:
    """For each array of the state, whether the step passes it on as it is, as it does with frozen parameters."""
    found: list[bool] = []

    def look(given: State) -> None:
        found.extend(a is b for a, b in zip(tree.leaves(given), tree.leaves(step(given)), strict=True))

    jax.eval_shape(look, state)
    return found


def _moments(state: State, sums: tally.Sums, slopes: list[Array]) -> tuple[State, list[str]]:
    """The state with its running means, and the paths of the other arrays."""
    given, at, left, new = iter(slopes), 0, [], []
    for path, leaf in tree.paths(state).items():
        if not is_float(leaf):
            left.append(path)
            new.append(leaf)
            continue
        slope, total = np.asarray(next(given)), sums.metrics[at : at + leaf.size].reshape(leaf.shape)
        at += leaf.size
        if not (slope.size and (slope == slope.flat[0]).all() and 0 <= slope.flat[0] < 1):
            left.append(path)
            new.append(leaf)
            continue
        # 1 - d of the number that the layer was given, 0.999, and not of the float32 next to it: that would lose four digits.
        share = 1 - float(str(slope.flat[0]))
        new.append(jnp.asarray((total / sums.rows / share).astype(leaf.dtype)))
    return jax.tree.unflatten(jax.tree.structure(state), new), left
