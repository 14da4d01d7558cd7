"""Load what fits: by path, with the rest listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fnlamp.arrays import Tree, array_spec, describe
from fnlamp.checkpoint.file import NOTHING, Loaded
from fnlamp.checkpoint.unread import read_whole
from fnlamp.given import instance, text


@dataclass(frozen=True, eq=False)
class Partial:
    """A tree with the leaves that fitted, and the paths of all others.

    `loaded` were taken from the save; `missing` are not in it; `extra` are in the save and not in the tree, by their old paths;
    `differing` have another shape or dtype, which each text says. Missing and differing leaves are unchanged.
    """

    tree: Tree
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    differing: tuple[str, ...]


def partial(into: Tree, saved: Loaded | Tree, *, rename: Mapping[str, str] = NOTHING) -> Partial:
    """The tree `into` with the saved leaves of the same path, shape and dtype. A pure function.

    `rename` maps an old path, or the start of old paths up to a `/`, to a new one; the longest that matches counts, and "" is
    the start of all.
    Raises: `ValueError` for a `rename` that matches nothing, and for two leaves of one path.

    >>> import numpy as np
    >>> old = {"encoder": {"weight": np.ones(2)}, "head": np.ones(3)}
    >>> new = {"body": {"weight": np.zeros(2), "bias": np.zeros(2)}, "head": np.zeros(4)}
    >>> found = partial(new, old, rename={"encoder": "body"})
    >>> found.tree["body"]["weight"], found.loaded, found.missing
    (array([1., 1.]), ('body/weight',), ('body/bias',))
    >>> found.differing
    ('head: expected float64[4], got float64[3]',)
    """
    for old, new in instance("rename", rename, Mapping, "a dict from old paths to new ones").items():
        text("rename: an old path", old), text("rename: a new path", new)
    source = _by_path("saved", saved.tree if isinstance(saved, Loaded) else saved)
    unused = [old for old in rename if not any(_within(path, old) for path in source)]
    if unused:
        raise ValueError(f"rename: no saved leaf is at {unused[0]!r}; the paths are {', '.join(list(source)[:10])}")
    moved: dict[str, str] = {}
    for path in source:
        if (new := _renamed(path, rename)) in moved:
            raise ValueError(f"rename: both {moved[new]!r} and {path!r} become {new!r}")
        moved[new] = path
    target = _by_path("into", into)
    loaded, differing, leaves = [], [], []
    for path, leaf in target.items():
        found = source[moved[path]] if path in moved else None
        fits = path in moved and _spec(found) == _spec(leaf)
        leaves.append(found if fits else leaf)
        if fits:
            loaded.append(path)
        elif path in moved:
            differing.append(f"{path}: expected {_spec(leaf)}, got {_spec(found)}")
    return Partial(
        read_whole(jax.tree.unflatten(jax.tree.structure(into), leaves)),
        tuple(loaded),
        tuple(path for path in target if path not in moved),
        tuple(old for new, old in moved.items() if new not in target),
        tuple(differing),
    )


def _by_path(name: str, tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in found:
            raise ValueError(f"{name} has two leaves at {path!r}")
        found[path] = leaf
    return found


def _within(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(f"{prefix}/")


def _renamed(path: str, rename: Mapping[str, str]) -> str:
    matching = [old for old in rename if _within(path, old)]
    if not matching:
        return path
    old = max(matching, key=len)
    return "/".join(filter(None, (rename[old], path[len(old) :].removeprefix("/"))))


def _spec(leaf: Any) -> str:
    """Shape and dtype of an array, in either byte order; the type of a plain value."""
    if isinstance(leaf, np.ndarray | np.generic) and not leaf.dtype.isnative:
        leaf = array_spec(leaf.shape, leaf.dtype.newbyteorder("="))
    return describe(leaf)
