"""Shared weights: one parameter in several places."""

from __future__ import annotations

from dataclasses import replace

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, State, Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, text
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.mode import Mode

Parts = tuple[tuple[str, Layer, Init], ...]


@arguments('nn.share(layer, "out/weight", of="tokens/weight", transpose=True)')
def share(layer: Layer, target: str, *, of: str, transpose: bool = False) -> Layer:
    """The layer without the parameters at the path `target`: it uses those at `of` there too, and their gradients add up.

    A path leads to one array or to all of a child's.  With `transpose`, one matrix is transposed, as the weight of an output
    layer is an embedding's.  The shared parameters keep their own initialiser and tag.  Several: `share(share(...), ...)`.
    Fails: `ShapeMismatch` for parameters of other names or shapes.  Raises: `ValueError` for a path that does not exist.
    Reference: Press & Wolf 2017, section 3.

    >>> model = nn.sequence(tokens=nn.embedding(9, 4), act=nn.tanh, out=nn.linear(9))
    >>> tied = share(model, "out/weight", of="tokens/weight", transpose=True)
    >>> list(tree.paths(tied.init(key, jax.ShapeDtypeStruct((2, 5), jnp.int32)).params))
    ['out/bias', 'tokens/weight']
    """
    layer, transpose = as_layer(layer, "share"), flag("share: transpose", transpose)
    there, here = (tuple(text(f"share: {name}", path).split("/")) for name, path in (("target", target), ("of", of)))
    if there[: len(here)] == here or here[: len(there)] == there:
        raise ValueError(f"share: target and of are two places, neither inside the other, got {target!r} and {of!r}")

    def taken(params: Params) -> Tree:
        source = tree.at(params, here)
        return source.T if transpose else source

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, spec)
        for name, path in (("target", there), ("of", here)):
            _check_path(made.params, path, f"share: {name}")
        own, source = tree.at(made.params, there), tree.at(made.params, here)
        if transpose and not (hasattr(source, "ndim") and source.ndim == 2):
            raise FaultError(ShapeMismatch("one matrix to transpose", describe(source), where=f"share: {of}"))
        _check_like(own, taken(made.params), target)
        params, tags = (tree.without(part, there) for part in (made.params, made.tags))
        return Init(params, made.state, made.spec, tags, _pruned(made.parts, there))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        return layer.apply(tree.put(params, there, taken(params)), state, x, mode)

    return Layer(init, apply, f"share({layer}, {target}, of={of})")


def _check_path(params: Params, path: tuple[str, ...], where: str) -> None:
    try:
        tree.at(params, path)
    except KeyError:
        known = ", ".join(tree.paths(params)) or "none"
        raise ValueError(f"{where} {'/'.join(path)!r} is not a path of the parameters, which are {known}") from None


def _check_like(own: Tree, shared: Tree, target: str) -> None:
    same = jax.tree.structure(own) == jax.tree.structure(shared)  # type: ignore[operator]
    if not same or any(a.shape != b.shape for a, b in zip(tree.leaves(own), tree.leaves(shared), strict=True)):
        hint = "an output weight that is an embedding's needs transpose=True"
        raise FaultError(ShapeMismatch(describe(own), describe(shared), hint, where=f"share: {target}"))


def _pruned(parts: Parts, path: tuple[str, ...]) -> Parts:
    """The parts without the parameters at a path, so that a table counts them once."""
    name, *rest = path

    def one(part: Init) -> Init:
        if not rest:
            return replace(part, params={}, tags={}, parts=())
        params, tags = (tree.without(one, tuple(rest)) for one in (part.params, part.tags))
        return replace(part, params=params, tags=tags, parts=_pruned(part.parts, tuple(rest)))

    return tuple((known, layer, one(part) if known == name else part) for known, layer, part in parts)
