"""Parameters by their paths: replaced, renamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fnlamp import tree
from fnlamp.arrays import Params, Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import flag, function, text
from fnlamp.surgery.named import Path, called, leaves_of, listed


def put(params: Params, path: str, part: Tree, *, same: bool = True) -> Params:
    """The tree with `part` at a path, in place of what is there: a whole child or one array; of `params`, or of state.

    With `same=False`, other names and shapes are allowed, as for a head with other classes.
    Fails: `ShapeMismatch` for other names or shapes.  Raises: `ValueError` for a path that does not exist.

    >>> put({"body": {"weight": jnp.ones(2)}, "head": {"weight": jnp.zeros(2)}}, "head", {"weight": jnp.ones(2)})["head"]
    {'weight': Array([1., 1.], dtype=float32)}
    """
    same, known = flag("put: same", same), leaves_of("put: params", params)
    names = tuple(text("put: path", path).split("/"))
    leaves_of("put: part", {path: part})
    try:
        old = tree.at(params, names)
    except KeyError:
        raise ValueError(f"put: path {path!r} does not exist, there are {listed(known)}") from None
    if same and _shapes(old) != _shapes(part):
        raise FaultError(ShapeMismatch(describe(old), describe(part), "same=False allows it", where=f"put: part for {path}"))
    return dict(tree.put(params, names, part))


def rename(params: Params, names: Mapping[str, str] | Callable[[str], str]) -> Params:
    """The parameters under other paths: of a dict from old paths, or their beginnings, to new ones, or of a function.

    Raises: `ValueError` for a path that does not exist, and for two parameters of one path.

    >>> theirs = {"fc": {"w": jnp.ones(1), "b": jnp.ones(1)}, "norm": {"g": jnp.ones(1)}}
    >>> list(tree.paths(rename(theirs, {"fc": "out", "norm/g": "norm/scale"})))
    ['norm/scale', 'out/b', 'out/w']
    """
    leaves = leaves_of("rename: params", params)
    if isinstance(names, Mapping):
        of = _by_beginning({text("rename: names", old): text("rename: names", new) for old, new in names.items()}, leaves)
    else:
        of = function("rename: names", names, "a dict from paths to paths, or a function of a path")
    renamed: dict[Path, Any] = {}
    for path, leaf in leaves.items():
        new = tuple(text("the result of rename: names", called("names", of, "/".join(path))).split("/"))
        for known in renamed:
            if known[: len(new)] == new or new[: len(known)] == known:
                raise ValueError(f"rename: names give {'/'.join(new)!r} twice, or inside of another parameter's path")
        renamed[new] = leaf
    made: Params = {}
    for path, leaf in renamed.items():
        made = tree.put(made, path, leaf)
    return made


def _by_beginning(names: dict[str, str], leaves: dict[Path, Any]) -> Callable[[str], str]:
    paths = ["/".join(path) for path in leaves]
    for old in names:
        if not any(path == old or path.startswith(f"{old}/") for path in paths):
            raise ValueError(f"rename: names has {old!r}, which is not a path; there are {listed(leaves)}")

    def of(path: str) -> str:
        found = [old for old in names if path == old or path.startswith(f"{old}/")]
        longest = max(found, key=len, default="")
        return names[longest] + path[len(longest) :] if found else path

    return of


def _shapes(part: Tree) -> dict[Path, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in tree.named(part).items()}
