"""Detects items whose random numbers depend on which worker loads them, and when.

A worker process has its own copy of a generator in the data set, and of those of `random`, `numpy.random` and torch: all copies
draw the same numbers. Threads share a generator, and draw in arbitrary order. `augment` receives a generator for its row.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
from returns.result import Failure, Result, Success

from fnlamp.arrays import Tree
from fnlamp.data.loading.load import Load
from fnlamp.fault import Fault, HiddenRandomness

State: TypeAlias = Callable[[], Any]

_MOST: Final = 20_000  # objects to visit
_WIDEST: Final = 200  # items to visit in one collection


class Watched:
    """A load that fails if it draws from any generator but `augment`'s; `alone` says that no other code draws meanwhile.

    `last`, in a worker process, where nothing draws between two batches either, holds the states after the last batch.
    """

    def __init__(self, load: Load, alone: bool, last: dict[str, Any] | None = None) -> None:
        self.load, self.last = load, last
        self.own = dict(held(load))
        self.common = _globals() if alone else {}
        if last is not None:
            last.update(_now(self.common))

    def __call__(self, rows: Sequence[int], progress: MutableSequence[int] | memoryview | None = None) -> Result[Tree, Fault]:
        before = _now(self.own) | (_now(self.common) if self.last is None else self.last)
        outcome = self.load(rows, progress)
        after = _now(self.own) | _now(self.common)
        if self.last is not None:
            self.last.update({name: after[name] for name in self.common})
        drawn = [name for name, state in after.items() if name in before and state != before[name]]
        return Failure(HiddenRandomness(rows[0], drawn[0])) if drawn and isinstance(outcome, Success) else outcome


def _now(states: dict[str, State]) -> dict[str, Any]:
    return {name: state() for name, state in states.items()}


def held(load: Load) -> Iterator[tuple[str, State]]:
    """The generators that a data set or a function can reach: a name, and a function that returns the state."""
    pending: list[tuple[str, Any]] = [(name, getattr(load, name)) for name in ("collate", "augment", "transform", "dataset")]
    seen: set[int] = set()
    kept: list[Any] = []  # so that no `id` is used again
    while pending and len(seen) < _MOST:
        name, value = pending.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        kept.append(value)
        if (state := _state(value)) is not None:
            yield f"{type(value).__name__} of {name}", state
        else:
            pending += ((name, part) for part in _parts(value))


_PLAIN: Final = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic, ModuleType, BuiltinFunctionType, range)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from list(value.values())[:_WIDEST]
    elif isinstance(value, list | tuple):
        yield from value[:_WIDEST]
    elif isinstance(value, AbstractSet):
        yield from list(value)[:_WIDEST]
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _full(cell))
        yield from (value.__defaults__ or (), value.__kwdefaults__ or {})
        yield from (value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__)
    elif isinstance(value, type):
        if value.__module__.split(".")[0] not in _KNOWN:
            yield from vars(value).values()
    elif isinstance(value, property | staticmethod | classmethod):
        yield from (getattr(value, part, None) for part in ("fget", "__func__"))
    else:
        yield getattr(value, "__dict__", None)
        yield from (getattr(value, slot, None) for kind in type(value).__mro__ for slot in _slots(kind))
        yield from type(value).__mro__[:-1]


_KNOWN: Final = frozenset((*sys.stdlib_module_names, "builtins", "numpy", "fnlamp", "torch", "PIL", "jax", "pandas", "pyarrow"))


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return () if kind.__module__.split(".")[0] in _KNOWN - {"fnlamp"} else (slots,) if isinstance(slots, str) else tuple(slots)


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _state(value: Any) -> State | None:
    """A function that returns the state of a generator; `None` if `value` is not one."""
    if isinstance(value, np.random.Generator):
        return lambda: _plain(value.bit_generator.state)
    if isinstance(value, np.random.BitGenerator):
        return lambda: _plain(value.state)
    if isinstance(value, np.random.RandomState):
        return lambda: _plain(value.get_state(legacy=False))
    if isinstance(value, random.Random):
        return None if isinstance(value, random.SystemRandom) else value.getstate
    if type(value).__name__ in ("Generator", "RandomState") and callable(getattr(value, "get_state", None)):  # torch's, CuPy's
        return lambda: np.asarray(value.get_state()).tobytes()
    return None


def _plain(state: Any) -> Any:
    """A state with its arrays as bytes, which `==` compares."""
    if isinstance(state, dict):
        return {name: _plain(part) for name, part in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _numpys() -> bytes:
    """The state of NumPy's global generator, without the copies that dominate `get_state`."""
    state: Any = np.random.mtrand._rand._bit_generator
    if type(state) is not np.random.MT19937:
        return repr(_plain(state.state)).encode()
    return ctypes.string_at(state.ctypes.state_address, 4 * 624 + 4)


def _globals() -> dict[str, State]:
    states: dict[str, State] = {
        "random": random.getstate,
        "numpy.random": _numpys,
    }
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        states["torch"] = lambda: torch.get_rng_state().numpy().tobytes()
    return states
