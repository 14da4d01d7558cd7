"""Parameters by their tags: split, joined, counted, cast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fnlamp import tree
from fnlamp.arrays import Params, Tree, is_float
from fnlamp.given import dtype_of, flag, function, text
from fnlamp.surgery.named import called, leaves_of, tags_of
from fnlamp.tag import Tag


def split(params: Params, tags: Tree, choose: Callable[[Tag], bool]) -> tuple[Params, Params]:
    """The parameters whose tag is chosen, and the others; `join` puts them together again.

    >>> from fnlamp import Role
    >>> made = nn.linear(2).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> chosen, others = split(made.params, made.tags, lambda tag: tag.role is Role.BIAS)
    >>> list(chosen), list(others)
    (['bias'], ['weight'])
    """
    function("split: choose", choose, "a function from a Tag to True or False")
    leaves = leaves_of("split: params", params)
    of = tags_of("split: tags", tags, leaves)
    parts: tuple[Params, Params] = {}, {}
    for path, leaf in leaves.items():
        at = 0 if flag("the result of split: choose", called("choose", choose, of[path])) else 1
        parts = (tree.put(parts[0], path, leaf), parts[1]) if at == 0 else (parts[0], tree.put(parts[1], path, leaf))
    return parts


def join(some: Params, others: Params) -> Params:
    """Two parts of a tree of parameters as one.  Raises: `ValueError` for a path that is in both.

    >>> sorted(join({"weight": jnp.ones(1)}, {"bias": jnp.ones(2)}))
    ['bias', 'weight']
    """
    known = leaves_of("join: others", others)
    joined = others
    for path, leaf in leaves_of("join: some", some).items():
        if path in known:
            raise ValueError(f"join: some and others both have {'/'.join(path)}")
        joined = tree.put(joined, path, leaf)
    return joined


def count(params: Params, tags: Tree, by: Callable[[Tag], str] = lambda tag: tag.layer) -> dict[str, int]:
    """How many numbers the parameters have, for each name that `by` gives for a tag: the kind of its layer, unless given.

    >>> layer = nn.linear(2) >> nn.batch_norm()
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    >>> count(made.params, made.tags), count(made.params, made.tags, lambda tag: tag.role.value)
    ({'batch_norm': 4, 'linear': 8}, {'bias': 2, 'scale': 2, 'shift': 2, 'weight': 6})
    """
    function("count: by", by, "a function from a Tag to a name")
    leaves = leaves_of("count: params", params)
    of = tags_of("count: tags", tags, leaves)
    sums: dict[str, int] = {}
    for path, leaf in leaves.items():
        name = text("the result of count: by", called("by", by, of[path]))
        sums[name] = sums.get(name, 0) + math.prod(leaf.shape)
    return dict(sorted(sums.items()))


def cast(params: Params, dtype: Any, tags: Tree | None = None, choose: Callable[[Tag], bool] | None = None) -> Params:
    """Floating-point parameters in another dtype: all, or those whose tag is chosen; integers are unchanged.

    >>> cast({"weight": jnp.ones(2)}, jnp.bfloat16)
    {'weight': Array([1, 1], dtype=bfloat16)}
    """
    dtype = dtype_of("cast: dtype", dtype)
    leaves = leaves_of("cast: params", params)
    if choose is None:
        if tags is not None:
            raise TypeError("cast: tags are given with choose, a function from a Tag to True or False, got no choose")
        cast_all: Params = tree.cast(params, dtype)
        return cast_all
    function("cast: choose", choose, "a function from a Tag to True or False")
    of = tags_of("cast: tags", tags, leaves)
    for path, leaf in leaves.items():
        if flag("the result of cast: choose", called("choose", choose, of[path])) and is_float(leaf):
            params = tree.put(params, path, leaf.astype(dtype))
    return params
