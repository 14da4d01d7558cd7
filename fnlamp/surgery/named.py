"""Checks of trees of parameters, which are nested dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnlamp import tree
from fnlamp.arrays import Tree
from fnlamp.given import shown

Path = tuple[str, ...]


def leaves_of(name: str, given: Tree) -> dict[Path, Any]:
    """The leaves of nested dicts by path.  Raises: `TypeError` for anything else, which it names."""
    if not isinstance(given, dict):
        raise TypeError(f"{name} is a tree of arrays: nested dicts, got {shown(given)}")
    found = tree.named(given)
    for path, leaf in found.items():
        if any(not isinstance(part, str) for part in path) or not hasattr(leaf, "shape"):
            raise TypeError(f"{name} is a tree of arrays: nested dicts, got {shown(leaf)} at {'/'.join(map(str, path))}")
    return found


def tags_of(name: str, given: Tree, leaves: dict[Path, Any]) -> dict[Path, Any]:
    """The tags of the leaves by path.  Raises: `TypeError`, `ValueError` for those of other leaves."""
    if not isinstance(given, dict):
        raise TypeError(f"{name} are those of the parameters: nested dicts, got {shown(given)}")
    found = tree.named(given)
    if found.keys() != leaves.keys():
        raise ValueError(f"{name} are those of the parameters, one for each of {listed(leaves)}, got {listed(found)}")
    return found


def listed(leaves: dict[Path, Any]) -> str:
    """The paths, for a message."""
    return ", ".join("/".join(map(str, path)) for path in leaves) or "none"


def called(name: str, function: Callable[[Any], Any], argument: Any) -> Any:
    """The result of the caller's function; what it raises has a note that says which function it is."""
    try:
        return function(argument)
    except Exception as error:  # the caller's function may raise anything: it is raised again with a note
        error.add_note(f"in the function given as {name}, called with {argument!r}")
        raise
