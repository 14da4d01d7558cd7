"""The structure of a tree as plain JSON: containers and plain values as they are, arrays by their number."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import numpy as np

from fnlamp.checkpoint.leaf import refused
from fnlamp.checkpoint.record import KEYS, Record, recorded
from fnlamp.given import shown

DEPTH: Final = 100
"""The most levels of a tree; a tree that contains itself has more."""

Path = tuple[str, ...]


def structured(tree: Any, keep: Callable[[Any, Path], int]) -> Any:
    """The structure of the tree; `keep` receives each array with its path, and numbers it.  Fails: `NotStorable`."""
    return _node(tree, (), keep)


def _node(x: Any, path: Path, keep: Callable[[Any, Path], int]) -> Any:
    if len(path) > DEPTH:
        raise refused("/".join(path[:3]) + "/...", f"a tree of more than {DEPTH} levels", "does it contain itself?")
    kind = type(x)
    if kind in _PLAIN:
        return _PLAIN[kind](x)
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return {"array": keep(x, path)}

    def several(items: Iterable[tuple[Any, Any]]) -> list[Any]:
        return [[_key(key, path), _node(child, (*path, str(key)), keep)] for key, child in items]

    if kind in (list, tuple):
        children = [_node(child, (*path, str(i)), keep) for i, child in enumerate(x)]
        return children if kind is list else {"tuple": children}
    if kind in (dict, OrderedDict):
        return {"dict" if kind is dict else "ordered": several(x.items())}
    if kind is Record or not jax.tree_util.all_leaves([x]):
        record = recorded(x)
        return {"record": _text(record.kind), "by": record.by, "fields": several(record.fields.items())}
    raise refused("/".join(path), shown(x), "store what it is made of: arrays, numbers, strings, lists, dicts")


def _key(key: Any, path: Path) -> Any:
    if type(key) not in (str, int):
        raise refused("/".join(path), f"a dict with the key {shown(key)}", "keys are strings or integers")
    return _PLAIN[type(key)](key)


def _int(x: int) -> Any:
    return x if -(2**63) <= x < 2**63 else {"int": hex(x)}  # decimal text of large numbers is limited, and slow


def _float(x: float) -> Any:
    return x if math.isfinite(x) else {"float": struct.pack(">d", x).hex()}  # a NaN has bits of its own


def _text(x: str) -> Any:
    if x.isascii():
        return x
    encoded = x.encode("utf-8", "surrogatepass")
    # JSON would join two lone surrogates to one character.
    return {"text": encoded.hex()} if any("\ud800" <= c <= "\udfff" for c in x) else x


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    type(None): lambda x: None,
    bool: lambda x: x,
    int: _int,
    float: _float,
    complex: lambda x: {"complex": [_float(x.real), _float(x.imag)]},
    str: _text,
    bytes: lambda x: {"bytes": x.hex()},
}


def restructured(node: Any, arrays: list[Any]) -> Any:
    """The tree of a structure.  Raises: `ValueError`, `KeyError`, `TypeError` or `IndexError` for anything else."""
    if isinstance(node, list):
        return [restructured(child, arrays) for child in node]
    if not isinstance(node, dict):
        return node
    if "record" in node:
        if node["by"] not in KEYS:
            raise ValueError(f"children by {node['by']!r}")
        return Record(_string(node["record"], arrays), _items(node["fields"], arrays), node["by"])
    ((tag, content),) = node.items()
    return _TAGGED[tag](content, arrays)


def _items(pairs: Any, arrays: list[Any]) -> dict[Any, Any]:
    found = {restructured(key, arrays): restructured(child, arrays) for key, child in pairs}
    if len(found) != len(pairs) or any(type(key) not in (str, int) for key in found):
        raise ValueError("a dict with other keys than strings and integers, or with one twice")
    return found


def _string(node: Any, arrays: list[Any]) -> str:
    found = restructured(node, arrays)
    if not isinstance(found, str):
        raise TypeError(f"a {type(found).__name__} for a name")
    return found


_TAGGED: Final[dict[str, Callable[[Any, list[Any]], Any]]] = {
    "array": lambda index, arrays: arrays[range(len(arrays))[index]],
    "tuple": lambda children, arrays: tuple(restructured(child, arrays) for child in children),
    "dict": _items,
    "ordered": lambda pairs, arrays: OrderedDict(_items(pairs, arrays)),
    "int": lambda text, _: int(text, 16),
    "float": lambda text, _: struct.unpack(">d", bytes.fromhex(text))[0],
    "complex": lambda parts, arrays: complex(*(restructured(part, arrays) for part in parts)),
    "text": lambda text, _: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "bytes": lambda text, _: bytes.fromhex(text),
}
