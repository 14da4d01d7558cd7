"""The state of a run as a tree of arrays and plain values, as a file holds it, and back."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.checkpoint import Loaded, Record, rebuilt
from fnlamp.checkpoint.record import recorded
from fnlamp.checkpoint.unread import read_whole
from fnlamp.fault import FaultError, FileCorrupt, NotStorable
from fnlamp.identity import digest, identity
from fnlamp.layer import Init
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.stream import BatchStream
from fnlamp.stream.transform import POSITIONS
from fnlamp.train.execute.programs import Kept
from fnlamp.train.fold import Verdict
from fnlamp.train.state import EpochReport, Slot, Trained, TrainState

LAYOUT = 1
"""The number of this layout of a run's state."""
ARRAYS = ("step", "params", "layer_state", "optimizer_state", "tally")
FACTORS: Final[Kept[str]] = Kept(32)
PLAIN = ("epoch", "stream_state", "stream", "folds", "figures", "kept")


def stored(trained: Trained, program: Mapping[str, str]) -> dict[str, Any]:
    """What a save of a run holds; `program` is its description in words."""
    state = {name: getattr(trained.state, name) for name in (*ARRAYS, *PLAIN)}
    curve = [{field.name: getattr(report, field.name) for field in fields(EpochReport)} for report in trained.curve]
    return {"layout": LAYOUT, **state, "curve": curve, "program": dict(program)}


def note_of(trained: Trained, parent: str | None) -> dict[str, Any]:
    """The figures by which saves are distinguished without reading them."""
    note: dict[str, Any] = {"epoch": trained.state.epoch, "parent": parent}
    if trained.curve:
        last = trained.curve[-1]
        training = {f"train_{name}": value for name, value in last.train_metrics.items()}
        losses = {"train_loss": last.train_loss, "validation_loss": last.validation_loss}
        figures = {**losses, **training, **last.validation_metrics}
        note |= {name: float(value) for name, value in figures.items() if value is not None and np.ndim(value) == 0}
    return note


def state_in(loaded: Loaded) -> TrainState:
    """The state of a run in a save; arrays of a sharded one are unread.  Fails: `FileCorrupt` if something else was saved."""
    found = _checked(loaded)
    parts = {name: found[name] for name in ARRAYS} | read_whole({name: found[name] for name in PLAIN})
    folds = {name: (acc, _verdict(verdict)) for name, (acc, verdict) in parts["folds"].items()}
    return TrainState(**parts | {"folds": folds, "kept": rebuilt(parts["kept"], _KINDS)})


def curve_in(loaded: Loaded) -> tuple[EpochReport, ...]:
    """The reports of the epochs before a save."""
    return tuple(EpochReport(**report) for report in _checked(loaded)["curve"])


def program_in(loaded: Loaded) -> dict[str, str]:
    """The description of the program that was saved."""
    words: dict[str, str] = _checked(loaded)["program"]
    return words


def _checked(loaded: Loaded) -> Mapping[str, Any]:
    found = loaded.tree
    layout = found.get("layout") if isinstance(found, dict) else None
    if layout != LAYOUT or not isinstance(found, dict) or not {*ARRAYS, *PLAIN, "curve", "program"} <= found.keys():
        actual = "something else" if layout is None else f"one of layout {layout}, which another version of fnlamp wrote"
        raise FaultError(FileCorrupt(loaded.path, "the save of a training run", actual))
    return found


def _verdict(found: Any) -> Verdict:
    """A verdict of a save; saves of earlier versions have no `alert`."""
    verdict: Verdict = rebuilt(Record("Verdict", {"alert": None, **recorded(found).fields}), _KINDS)
    return verdict


_KINDS: Mapping[str, type] = {"Slot": Slot, "Verdict": Verdict}


def kinds_in(value: Any) -> dict[str, type]:
    """The named tuples inside a plain value, by name."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    found = {name: kind for each in inside for name, kind in kinds_in(each).items()}
    return {**found, type(value).__name__: type(value)} if isinstance(value, tuple) and hasattr(value, "_fields") else found


def check_position(position: Any, stream: BatchStream[Any]) -> None:
    """Raise the fault of a position that `position_in` could not give back."""
    known = {*POSITIONS.values(), *kinds_in(stream.init).values(), tuple, list, dict}
    nodes = [position]
    while nodes:
        node = nodes.pop()
        if type(node) in known:
            nodes += node.values() if isinstance(node, dict) else node
        elif not jax.tree_util.all_leaves([node]) and node is not None:
            hint = "a position of a stream is made of numbers, tuples, lists and dicts, and of the kinds in its first position"
            raise FaultError(NotStorable(f"a {type(node).__name__}", hint, where="position"))


def position_in(state: TrainState, stream: BatchStream[Any]) -> Any:
    """The position in the stream, as its steps expect it."""
    return rebuilt(state.stream_state, {**POSITIONS, **kinds_in(stream.init)})


# ------------------------------------------------------------------------------- the program, in words


def in_words(fields_of: Mapping[str, Any], optimizer: Optimizer, made: Init, schedule: Schedule) -> dict[str, str]:
    """What a program is, in words that do not depend on the process: what must be the same in a run that resumes another."""
    words = {name: _plain(value) for name, value in fields_of.items()}
    return {**words, "optimizer": ", ".join([str(optimizer), *_numbers(optimizer, made)]), "schedule": _factors(schedule)}


def coded(functions: Mapping[str, Any]) -> dict[str, str]:
    """The code of functions and what they read, in a few letters; only processes of one version of Python can compare it."""
    version = ".".join(platform.python_version_tuple()[:2])
    return {f"functions of {name}, by Python {version}": digest(value) for name, value in functions.items()}


def _plain(value: Any) -> str:
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def _numbers(optimizer: Optimizer, made: Init) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(optimizer.numbers(made.params, made.tags))[0]:
        values = [f"{float(value):.6g}" for value in np.unique(np.asarray(leaf))]
        yield f"{jax.tree_util.keystr(path, simple=True, separator='/')} {', '.join(values[:8])}"


def _factors(schedule: Schedule) -> str:
    """A schedule as its factors at a few steps; programs that differ in numbers alone share what this compiles."""
    return FACTORS.get(identity(schedule), lambda: _computed(schedule))


def _computed(schedule: Schedule) -> str:
    """The factors, rounded: processors differ in the last digit."""
    steps = [0, 1, *(int(f"{first}{'0' * zeros}") for zeros in range(6) for first in (2, 5, 10))]
    factors = jax.jit(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32)))(jnp.asarray(steps, jnp.int32))
    return ", ".join(f"{float(factor):.4f}".rstrip("0").rstrip(".") for factor in np.asarray(factors))
