"""Nodes of other types, as a checkpoint holds them: the kind's name and the children by key. No code is stored or run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from fnlamp.arrays import Tree
from fnlamp.fault import FaultError, StateMismatch
from fnlamp.given import instance, shown

KEYS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {"name": GetAttrKey, "key": DictKey, "index": SequenceKey, "position": FlattenedIndexKey}
)
"""How a node's children are addressed, with JAX's type for such a key."""


@dataclass(frozen=True, eq=False)
class Record:
    """A named tuple, a registered dataclass or another custom node of a pytree, as it comes back from a file.

    `kind` is the name of its type, and `fields` are its children; a pytree with the same paths as the original. What the type
    keeps beside its children, such as static fields, is not stored. `by` is how the children are addressed: by attribute
    `name`, `key`, `index`, or `position`.

    >>> from fnlamp import tree
    >>> list(tree.paths(Record("Moments", {"mean": 1.0, "variance": 2.0})))
    ['mean', 'variance']
    """

    kind: str
    fields: Mapping[str | int, Any]
    by: str = "name"


def _flatten(record: Record) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    key = KEYS[record.by]
    return [(key(name), child) for name, child in record.fields.items()], (record.kind, tuple(record.fields), record.by)


def _unflatten(static: tuple[Any, ...], children: Any) -> Record:
    kind, names, by = static
    return Record(kind, dict(zip(names, children, strict=True)), by)


jax.tree_util.register_pytree_with_keys(Record, _flatten, _unflatten)


def recorded(node: Any) -> Record:
    """The record of a node of any type that JAX knows."""
    if isinstance(node, Record):
        return node
    kind = type(node).__name__
    pairs = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    keys, children = [path[0] for path, _ in pairs], [child for _, child in pairs]
    for by, key in KEYS.items():
        names = [_name(each) for each in keys if type(each) is key]
        if len(names) == len(keys) == len(set(names)) and all(type(name) in (str, int) for name in names):
            return Record(kind, dict(zip(names, children, strict=True)), by)
    spelled = [jax.tree_util.keystr((each,), simple=True) for each in keys]
    if len(set(spelled)) == len(spelled):
        return Record(kind, dict(zip(spelled, children, strict=True)))
    return Record(kind, dict(enumerate(children)), "position")


def _name(key: Any) -> Any:
    return next(getattr(key, field) for field in ("name", "key", "idx") if hasattr(key, field))


def rebuilt(tree: Tree, types: Mapping[str, type]) -> Tree:
    """A loaded tree with its records of the given kinds as named tuples of these types.

    Fails: `StateMismatch`, if a record does not have the fields of its type.

    >>> from typing import NamedTuple
    >>> class Moments(NamedTuple):
    ...     mean: float
    ...     variance: float
    >>> rebuilt({"all": Record("Moments", {"mean": 1.0, "variance": 2.0})}, {"Moments": Moments})
    {'all': Moments(mean=1.0, variance=2.0)}
    """
    for kind, each in instance("types", types, Mapping, "a dict from names of kinds to types").items():
        if not (isinstance(each, type) and issubclass(each, tuple) and hasattr(each, "_fields")):
            raise TypeError(f"types: {kind} is a NamedTuple type, got {shown(each)}")

    return _rebuilt(tree, types)


def _rebuilt(node: Any, types: Mapping[str, type]) -> Any:
    """By hand: JAX would sort the keys of dicts."""
    kind = type(node)
    if kind in (list, tuple):
        return kind(_rebuilt(child, types) for child in node)
    if kind in (dict, OrderedDict):
        return kind((key, _rebuilt(child, types)) for key, child in node.items())
    if kind is not Record:
        return node
    fields = {name: _rebuilt(child, types) for name, child in node.fields.items()}
    if node.kind not in types:
        return Record(node.kind, fields, node.by)
    wanted = types[node.kind]._fields  # type: ignore[attr-defined]
    if set(wanted) != set(fields):
        missing, extra = (tuple(str(n) for n in one if n not in other) for one, other in ((wanted, fields), (fields, wanted)))
        raise FaultError(StateMismatch(missing, extra, where=node.kind))
    return types[node.kind](*(fields[name] for name in wanted))
