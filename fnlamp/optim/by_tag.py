"""One rule for some parameters and another for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import function, instance, number
from fnlamp.optim.clip import clip_by_global_norm
from fnlamp.optim.optimizer import Optimizer, unchanged
from fnlamp.tag import Tag


def by_tag(optimizers: Mapping[str, Optimizer], choose: Callable[[Tag], str], clip: float | None = None) -> Optimizer:
    """Each parameter is updated by the optimizer whose name `choose` gives for its tag.

    The state is `{name: state of that optimizer}`, over its parameters by path.  `clip` bounds the norm of the gradient of all
    parameters together, without the frozen ones; the clip of each optimizer is that of its own.
    What wraps an optimizer goes around `by_tag`, not inside.
    Raises: `ValueError` for a name that is not one of the optimizers'.

    >>> from fnlamp import Role, optim
    >>> def choose(tag):
    ...     return "matrices" if tag.matrix and tag.role is Role.WEIGHT and "out" not in tag.path else "rest"
    >>> by_tag({"matrices": optim.muon(0.02), "rest": optim.adamw(3e-4)}, choose)
    by_tag(matrices: muon, rest: adamw)
    """
    function("by_tag: choose", choose, "a function from a Tag to a name of the optimizers")
    if not instance("by_tag: optimizers", optimizers, Mapping, 'a dict, as {"matrices": optim.muon(), "rest": optim.adamw()}'):
        raise ValueError("by_tag: optimizers is a dict of at least one, got none")
    for name, one in optimizers.items():
        instance("by_tag: optimizers", one, Optimizer, f"a dict of optimizers by name; {name!r} is")
        if one.at is not unchanged or one.evaluated is not unchanged or one.skipped or one.loss_scale:
            raise ValueError(f"by_tag: optimizers are rules, and {name!r} is {one}, which goes around by_tag(...)")
    clip = clip if clip is None else number("by_tag: clip", clip, "a norm above 0", lambda n: n > 0)
    named = partial(_named, tuple(optimizers), choose)

    def init(params: Params, tags: Tree) -> Tree:
        _, parts = _parts(optimizers, named, params, tags)
        return {name: one.init(*parts[name]) for name, one in optimizers.items()}

    def numbers(params: Params, tags: Tree) -> Tree:
        _, parts = _parts(optimizers, named, params, tags)
        return {name: one.numbers(*parts[name]) for name, one in optimizers.items()}

    # Only the updates, so that the optimizers' numbers are not part of what a compiled step is a function of.
    updates, stays = ({name: getattr(one, of) for name, one in optimizers.items()} for of in ("update", "frozen"))
    of_rules = {name: one.rates for name, one in optimizers.items()}
    text = f"by_tag({', '.join(f'{name}: {one}' for name, one in optimizers.items())})"

    def rates(state: Tree, numbers: Tree, scale: Array) -> dict[str, Array]:
        found = ((name, of(state[name], numbers[name], scale)) for name, of in of_rules.items())
        return {".".join(filter(None, (name, rule))): vector for name, inner in found for rule, vector in inner.items()}

    update = partial(_update, updates, stays, named, clip)
    return Optimizer(init, update, text, numbers, frozen=lambda tag: stays[named(tag)](tag), rates=rates)


def frozen() -> Optimizer:
    """No update, no decay, no state: for parameters that stay as they are, inside `by_tag`.

    >>> from fnlamp import optim
    >>> by_tag({"head": optim.adamw(), "rest": frozen()}, lambda tag: "head" if tag.path[0] == "head" else "rest")
    by_tag(head: adamw, rest: frozen)
    """
    return Optimizer(
        lambda params, tags: {}, lambda grads, state, params, *_: (params, state), "frozen", frozen=lambda tag: True
    )


def _named(names: tuple[str, ...], choose: Callable[[Tag], Any], tag: Tag) -> str:
    name = choose(tag)
    if name not in names:
        raise ValueError(f"by_tag: choose returned {name!r} for {tag}, expected one of {', '.join(map(repr, names))}")
    return str(name)


def _parts(names: Mapping[str, Any], named: Callable[[Tag], str], *trees: Tree) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    """For each name its part of all trees by path, and how to put one tree together again; the first is params, then tags."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(trees[0])
    structure: Any = jax.tree.structure(trees[0])
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
    if len(set(paths)) < len(paths):  # as of {"a": {"b": ...}, "a/b": ...}
        paths = [jax.tree_util.keystr(path) for path, _ in pairs]
    params, tags, *others = (structure.flatten_up_to(tree) for tree in trees)
    chosen = [named(tag) for tag in tags]

    def part(name: str, leaves: list[Any]) -> dict[str, Any]:
        return {path: leaf for path, leaf, of in zip(paths, leaves, chosen, strict=True) if of == name}

    def whole(parts: dict[str, Any]) -> Tree:
        return structure.unflatten([parts[path] for path in paths])

    return whole, {name: [part(name, leaves) for leaves in (params, tags, *others)] for name in names}


def _update(
    updates: Mapping[str, Callable[..., Any]],
    stays: Mapping[str, Callable[[Tag], bool]],
    named: Callable[[Tag], str],
    clip: float | None,
    grads: Tree,
    state: Tree,
    params: Params,
    tags: Tree,
    scale: Array | float,
    numbers: Tree,
) -> tuple[Params, Tree]:
    whole, parts = _parts(updates, named, params, tags, grads)
    if clip is not None:
        moved = {path: g for name, (_, t, gs) in parts.items() for path, g in gs.items() if not stays[name](t[path])}
        clipped = clip_by_global_norm(moved, clip)
        parts = {name: [p, t, {path: clipped.get(path, g) for path, g in gs.items()}] for name, (p, t, gs) in parts.items()}
    new: dict[str, Any] = {}
    states = {}
    for name, (p, t, g) in parts.items():
        made, states[name] = updates[name](g, state[name], p, t, scale, numbers[name])
        new |= made
    return whole(new), states
