"""Statistics of parameters, gradients, updates and activations, and histograms of them, in one compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Tree, wide
from fnlamp.given import function, number, shown, whole
from fnlamp.tag import Tag
from fnlamp.track import Histogram
from fnlamp.train.indicators.indicator import Indicator
from fnlamp.train.indicators.summary import NAMES, all_of, by_path, summaries
from fnlamp.train.indicators.view import StepView

WHAT: Mapping[str, Callable[[StepView], Tree]] = {
    "parameters": lambda view: view.params,
    "gradients": lambda view: view.grads,
    "updates": lambda view: view.updates,
}

What: TypeAlias = str | Callable[[StepView], Tree]


def statistics(of: What, by: Callable[[Tag], str] | None = None) -> Indicator:
    """Mean, standard deviation, largest size and Euclidean norm of each parameter, gradient or update.

    `of` is "parameters", "gradients" or "updates", or a function from a `StepView` to a tree of arrays. The values are named by
    the path of the array and the statistic, as `hidden.weight.std`, or by the name of a group that `by`, a function of a `Tag`,
    gives: `lambda tag: tag.role.name.lower()` makes `weight.std`. The variance is divided by the count.
    NaN and infinity stay visible: each statistic of such numbers is NaN or infinite.
    """
    read = _what("statistics", of)
    if by is not None:
        function("statistics: by", by, "a function from a Tag to a name")

    def measure(view: StepView) -> dict[str, Array]:
        return summaries(_groups(read(view), None if by is None else [by(tag) for tag in tree.leaves(view.tags)]))

    return Indicator(measure, _named, f"statistics of {_said(of)}")


def activations() -> Indicator:
    """The same statistics of each layer's output, and its share of `zeros`, by the layer's path: see `StepView.outputs`.

    They are those before the step, in `Train`: with dropout, over the batch. One more forward pass in measured steps.
    """

    def measure(view: StepView) -> dict[str, Array]:
        outputs = {path: [x for x in tree.leaves(found) if x.size] for path, found in view.outputs().items()}
        return summaries({path.replace("/", "."): found for path, found in outputs.items() if found}, zeros=True)

    return Indicator(measure, _named, "statistics of activations")


def _named(found: Mapping[str, Any]) -> dict[str, float]:
    return {f"{group}.{name}": float(x) for group, row in found.items() for name, x in zip(NAMES, row, strict=False)}


def _what(name: str, of: Any) -> Callable[[StepView], Tree]:
    if isinstance(of, str):
        if of not in WHAT:
            raise ValueError(f"{name}: of is one of {', '.join(map(repr, WHAT))}, got {of!r}")
        return WHAT[of]
    made: Callable[[StepView], Tree] = function(f"{name}: of", of, "the name of a tree, or a function from a StepView to one")
    return made


def _said(of: What) -> str:
    return of if isinstance(of, str) else getattr(of, "__name__", "a function of the step")


def _groups(arrays: Tree, names: list[str] | None) -> dict[str, list[Array]]:
    """The arrays of each group, or each by its path."""
    if names is None:
        return by_path(arrays)
    leaves, found = tree.leaves(arrays), dict[str, list[Array]]()
    if len(names) != len(leaves):
        raise ValueError(f"statistics: by groups parameters, of which there are {len(names)}, got {len(leaves)} arrays")
    for name, leaf in zip(names, leaves, strict=True):
        if leaf.size:
            found.setdefault(str(name), []).append(leaf)
    return found


def histogram(of: What, bins: int = 20, range: tuple[float, float] | None = None) -> Indicator:
    """How many of the numbers are in each of `bins` equal bins: a `track.Histogram` for each parameter, gradient or update.

    `of` is as in `statistics`. The bins go from the least finite number to the largest, or over `range`; numbers beyond the
    range are in the first and the last bin. NaN and infinite numbers are counted by themselves. Each number is compared with
    each edge, so that this costs `bins` times what a mean does.
    """
    read, count = _what("histogram", of), whole("histogram: bins", bins)
    ends = None if range is None else _range(range)

    def one(x: Array) -> dict[str, Array]:
        x = x.astype(wide(x)).reshape(-1)
        finite = jnp.isfinite(x)
        some = finite.any()
        low, high = (jnp.asarray(end, x.dtype) for end in ends or (0, 0))
        if ends is None:
            low = jnp.where(some, jnp.min(x, where=finite, initial=jnp.inf), 0)
            high = jnp.where(some, jnp.max(x, where=finite, initial=-jnp.inf), 1)
        edges = low + (high - low) * (jnp.arange(count + 1, dtype=x.dtype) / count)
        edges = edges.at[-1].set(high)
        # One program for all edges: written out for each of them, XLA would compile for seconds.
        above = jax.lax.map(lambda edge: all_of(jnp.sum, partial(_reached, edge), x), edges[1:-1])
        total = finite.astype(jnp.int32).sum()
        reached = jnp.concatenate([total[None], above, jnp.zeros_like(total)[None]])
        return {"edges": edges, "counts": reached[:-1] - reached[1:], "not_finite": x.size - total}

    def measure(view: StepView) -> dict[str, Any]:
        return {path: one(x) for path, (x,) in by_path(read(view)).items()}

    def values(found: Mapping[str, Any]) -> dict[str, Histogram]:
        return {path: Histogram(x["edges"], x["counts"], int(x["not_finite"])) for path, x in found.items()}

    return Indicator(measure, values, f"histogram of {_said(of)}")


def _reached(edge: Array, x: Array) -> Array:
    return ((x >= edge) & jnp.isfinite(x)).astype(jnp.int32)


def _range(given: Any) -> tuple[float, float]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"histogram: range is two numbers, the lowest and the highest, got {shown(given)}")
    low, high = (number("histogram: range", end) for end in given)
    if not low < high:
        raise ValueError(f"histogram: range goes from a number to a higher one, got {low:g} and {high:g}")
    return low, high
