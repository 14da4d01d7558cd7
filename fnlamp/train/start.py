"""What a run starts from: parameters, a trained model, or the state of a run to resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, to_device
from fnlamp.checkpoint import Loaded
from fnlamp.checkpoint.unread import read_whole
from fnlamp.convert import as_array
from fnlamp.fault import DtypeMismatch, FaultError, ProgramDiffers, ResumedElsewhere, ShapeMismatch, StateMismatch, located
from fnlamp.layer import Init
from fnlamp.stream import BatchStream
from fnlamp.stream.memory import checksum
from fnlamp.stream.nested import same
from fnlamp.train.checkpoints import Fork
from fnlamp.train.state import Carry, EpochReport, Kept, Trained, TrainState
from fnlamp.train.stored import curve_in, position_in, program_in, state_in


def weights_of(initial: Any) -> tuple[Params, State | None]:
    """Parameters and layer state to start from; the state is `None` if it is to be fresh."""
    if isinstance(initial, Loaded):
        initial = state_in(initial)
    if isinstance(initial, Trained | TrainState | Kept):
        found: tuple[Params, State] = read_whole((initial.params, initial.layer_state))
        return found
    if isinstance(initial, Init):
        return initial.params, initial.state
    if isinstance(initial, tuple) and len(initial) == 2:
        return initial[0], initial[1]
    return initial, {}


Resumed: TypeAlias = Trained | TrainState | Loaded | Fork
"""A run to resume: what it yielded, its state, or its save."""


def state_of(start: Resumed) -> TrainState:
    """The state of a run to resume.  Fails: `FileCorrupt` for the save of something else."""
    if isinstance(start, Loaded | Fork):
        return state_in(start if isinstance(start, Loaded) else start.saved)
    return start.state if isinstance(start, Trained) else start


def curve_of(start: Resumed) -> tuple[EpochReport, ...]:
    """The reports of its epochs; a `TrainState` has none."""
    if isinstance(start, Loaded | Fork):
        return curve_in(start if isinstance(start, Loaded) else start.saved)
    return start.curve if isinstance(start, Trained) else ()


def check_same_program(saved: Loaded, words: Mapping[str, str]) -> None:
    """Raise the fault of a save of another program, with all parts in which it differs."""
    before, words = program_in(saved), dict(words)
    names = [name for name in before | words if not name.startswith("functions") or (name in before and name in words)]
    differing = tuple((name, before.get(name, "nothing"), words.get(name, "nothing")) for name in names)
    differing = tuple(each for each in differing if each[1] != each[2])
    if differing:
        raise FaultError(ProgramDiffers(saved.path, differing, where="resume"))


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
    parts = ("params", "layer_state", "optimizer_state")
    wanted, given = ({name: getattr(each, name) for name in parts} for each in (carry, resumed))
    _check_like("resume", wanted, given, cast=False)
    if resumed.stream_state is not None and resumed.tally.shape != carry.tally.shape:  # within an epoch
        expected, actual = (f"sums of {made.tally.shape[-1] - 5} numbers of train_metrics" for made in (carry, resumed))
        raise FaultError(ShapeMismatch(expected, actual, "give the train_metrics of the run to resume", where="resume/tally"))


def resumed_carry(resumed: TrainState, carry: Carry, sums: Any) -> Carry:
    """The arrays of the state in the structure of `carry`."""
    made: Carry = as_in(carry, Carry(resumed.step, resumed.params, resumed.layer_state, resumed.optimizer_state, sums))
    return made


def as_in(wanted: Tree, given: Tree) -> Tree:
    """The leaves of `given` in the structure of `wanted`, which has the same paths: in a file, nodes have lost their types."""
    leaves = tree.paths(given)
    return jax.tree.unflatten(jax.tree.structure(wanted), [leaves[path] for path in tree.paths(wanted)])


def _check_like(name: str, wanted: Tree, given: Tree, *, cast: bool) -> None:
    ours, theirs = tree.paths(wanted), tree.paths(given)
    if cast:
        theirs = {at: x if isinstance(x, jax.Array) else as_array(x, f"{name}/{at}") for at, x in theirs.items()}
    expected, actual = ({at: _seen(leaf, cast) for at, leaf in each.items()} for each in (ours, theirs))
    if expected != actual:
        missing, extra = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
        differing = [
            f"{at}: expected {seen}, got {actual[at]}" for at, seen in expected.items() if actual.get(at, seen) != seen
        ]
        hint = "to load what fits, give initial=checkpoint.partial(...).tree" if cast else _OTHER
        raise FaultError(StateMismatch(tuple(missing), tuple(extra), tuple(differing), hint, where=name))
    for path, leaf in ours.items() if cast else ():
        ours_in, theirs_in = jnp.result_type(leaf), jnp.result_type(theirs[path])
        if _rank(theirs_in) > _rank(ours_in):
            hint = "a cast would drop a part of the numbers"
            raise FaultError(DtypeMismatch(f"numbers that {ours_in} holds", str(theirs_in), hint, where=f"{name}/{path}"))


_OTHER = "it was made with another model or optimizer; to start again from its weights, give it as initial="


def _seen(leaf: Any, cast: bool) -> str:
    """The shape, and the dtype where it must be the same."""
    return str(list(np.shape(leaf))) if cast else f"{_dtype(leaf)}{list(np.shape(leaf))}"


def _dtype(leaf: Any) -> Any:
    """The dtype as it is: `jnp.result_type` calls a float64 of a file float32 where JAX has no 64-bit numbers."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


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
    """The properties by which two streams are distinguished: those that a stream declares, and the rows of one in memory."""
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
    at = position_in(resumed, stream)
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
