"""What a run starts from: parameters, a trained model, or the state of a run to resume."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, to_device
from fnlamp.convert import as_array
from fnlamp.fault import DtypeMismatch, FaultError, ResumedElsewhere, ShapeMismatch, located
from fnlamp.layer import Init
from fnlamp.stream import BatchStream
from fnlamp.stream.memory import checksum
from fnlamp.stream.nested import same
from fnlamp.train.state import Carry, Kept, Trained, TrainState


def weights_of(initial: Any) -> tuple[Params, State | None]:
    """Parameters and layer state to start from; the state is `None` where it is to be fresh."""
    if isinstance(initial, Trained | TrainState | Kept):
        return initial.params, initial.layer_state
    if isinstance(initial, Init):
        return initial.params, initial.state
    if isinstance(initial, tuple) and len(initial) == 2:
        return initial[0], initial[1]
    return initial, {}


def state_of(start: Trained | TrainState) -> TrainState:
    """The state of a run to resume."""
    return start.state if isinstance(start, Trained) else start


def check_initial(initial: Any, carry: Carry) -> None:
    """Raise the fault of weights that do not fit; `carry` is that of the program, abstract."""
    params, state = weights_of(initial)
    _check_like("initial", carry.params, params, cast=True)
    if state is None:
        return
    if not tree.leaves(state) and tree.leaves(carry.layer_state):
        hint = "give the Trained that they are of, or (params, layer_state); (params, None) starts with a fresh state"
        places = ", ".join(tree.paths(carry.layer_state))
        raise FaultError(
            ShapeMismatch(f"parameters and the layers' state ({places})", "parameters alone", hint, where="initial")
        )
    _check_like("initial/layer_state", carry.layer_state, state, cast=True)


def check_resumed(resumed: TrainState, carry: Carry) -> None:
    """Raise the fault of a state that is of another model or optimizer."""
    for part in ("params", "layer_state", "optimizer_state"):
        _check_like(f"resume/{part}", getattr(carry, part), getattr(resumed, part), cast=False)
    if resumed.stream_state is not None and resumed.tally.shape != carry.tally.shape:  # within an epoch
        expected, actual = (f"sums of {made.tally.shape[-1] - 5} numbers of train_metrics" for made in (carry, resumed))
        raise FaultError(ShapeMismatch(expected, actual, "give the train_metrics of the run to resume", where="resume/tally"))


def _check_like(name: str, wanted: Tree, given: Tree, *, cast: bool) -> None:
    ours, theirs = tree.paths(wanted), tree.paths(given)
    for path in ours | theirs:
        if cast and path in theirs and not isinstance(theirs[path], jax.Array):
            theirs[path] = as_array(theirs[path], f"{name}/{path}")
        both = [leaves.get(path) for leaves in (ours, theirs)]
        place, hint = f"{name}/{path}", "it was made with another model or optimizer"
        expected, actual = ("no such array" if leaf is None else str(list(np.shape(leaf))) for leaf in both)
        if expected != actual:
            raise FaultError(ShapeMismatch(expected, actual, hint, where=place))
        ours_in, theirs_in = (jnp.result_type(leaf) for leaf in both)
        if cast and _rank(theirs_in) > _rank(ours_in):
            hint = "a cast would drop a part of the numbers"
            raise FaultError(DtypeMismatch(f"numbers that {ours_in} holds", str(theirs_in), hint, where=place))
        if not cast and ours_in != theirs_in:
            raise FaultError(DtypeMismatch(str(ours_in), str(theirs_in), hint, where=place))


def _rank(dtype: Any) -> int:
    """The place of a dtype among those of which each holds the numbers of the ones before, up to rounding."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((at for at, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), len(kinds))


def filled(wanted: Tree, given: Tree) -> Tree:
    """The tree `wanted` with the numbers that `given` has at the same paths, in the dtypes wanted."""
    numbers = tree.paths(given)
    leaves = []
    for path, leaf in tree.paths(wanted).items():
        with located(f"initial/{path}"):
            found = numbers[path]
            leaves.append(jnp.asarray(found if isinstance(found, jax.Array) else to_device(as_array(found)), leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def print_of(stream: BatchStream[Any], seed: int) -> tuple[tuple[str, Any], ...]:
    """The properties by which two streams are told apart: those that a stream declares, and the rows of one in memory."""
    batch = tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[1:])}", stream.spec)
    sizes = tuple(leaf.shape[0] for leaf in tree.leaves(stream.spec)[:1])
    found: dict[str, Any] = {"seed": seed, "arrays": str(batch), "batch size": sizes, "batches": stream.length}
    if stream.view is not None:
        segments = stream.view.segments
        arrays = {id(leaf): leaf for segment in segments for leaf in tree.leaves(segment.arrays)}  # most segments share them
        found["data"] = tuple(map(checksum, arrays.values()))
        found["order of rows"] = tuple(checksum(segment.rows()) for segment in segments)
    return tuple(found.items())


def check_same_stream(resumed: TrainState, stream: BatchStream[Any], seed: int) -> None:
    """Raise the fault of resuming within an epoch with a different stream."""
    at = resumed.stream_state
    if at is None or not resumed.stream or same(at, stream.init):  # nothing of the epoch was taken
        return
    before, now = dict(resumed.stream), dict(print_of(stream, seed))
    for name in before:
        if before[name] != now.get(name):
            raise FaultError(ResumedElsewhere(name, _short(before[name]), _short(now.get(name)), where="resume"))


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_short, value))
    return str(value)
