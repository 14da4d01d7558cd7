"""A layer: a pair of pure functions over a parameter tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, Spec, State, Tree, array_spec, describe, spec_after
from fnlamp.elsewhere import MODEL, Elsewhere
from fnlamp.given import function, shown, text
from fnlamp.mode import Mode
from fnlamp.tag import Role, Tag


@dataclass(frozen=True)
class Init:
    """What a layer is made of for one input: parameters, state, the spec of its output, and a tag for each parameter.

    `parts` are the `Init`s of the layers inside, by name; `table` shows them.
    """

    params: Params
    state: State
    spec: Tree
    tags: Tree
    parts: tuple[tuple[str, Layer, Init], ...] = ()


@dataclass(frozen=True)
class Layer(Elsewhere):
    """`init(key, spec) -> Init` and `apply(params, state, x, mode) -> (y, state)`, both pure.

    Every layer has this signature, stateful or not. `init` sees the input's spec, so only output sizes are written.
    `name` is what tables and representations show; `chain` is set by `sequence` alone, so that `>>` can flatten.

    >>> from fnlamp import nn
    >>> nn.linear(128) >> nn.relu >> nn.linear(10)
    linear(128) >> relu >> linear(10)
    """

    init: Callable[[Key, Any], Init]
    apply: Callable[[Params, State, Any, Mode], tuple[Any, State]]
    name: str = "layer"
    chain: tuple[tuple[str | None, Layer], ...] | None = field(default=None, repr=False)

    _elsewhere = MODEL

    def __post_init__(self) -> None:
        function("Layer: init", self.init, "a function (key, spec) -> Init")
        function("Layer: apply", self.apply, "a function (params, state, x, mode) -> (y, state)")
        text("Layer: name", self.name)

    def __rshift__(self, other: Layer) -> Layer:
        """First this layer, then the other: `sequence` of both, flattened, hence associative."""
        from fnlamp.nn.combine import chain  # combinators are written on layers, and `>>` is one of them

        other = as_layer(other, f"the right of {self} >>")
        if self.chain == () or other.chain == ():  # `sequence()` is the identity
            return other if self.chain == () else self
        return chain(*(self.chain or ((None, self),)), *(other.chain or ((None, other),)))

    def __rrshift__(self, other: Any) -> Layer:
        """Raises: `TypeError` for what is no layer on the left of `>>`."""
        return as_layer(other, f"the left of >> {self}")

    if not TYPE_CHECKING:  # to a type checker a layer is nothing that can be called

        def __call__(self, *args, **kwargs):
            """Raises: `TypeError`, which says what to write."""
            if args or kwargs:
                raise TypeError(
                    f"{self} is a layer, a pair of pure functions, and is not called: make its parameters by "
                    "layer.init(key, spec) and use it by layer.apply(params, state, x, Eval()); "
                    "for an activation with another argument write nn.fun(partial(function, argument=...))"
                )
            raise TypeError(f"{self} is a layer already, not a function that makes one: write it without ()")

    def __repr__(self) -> str:
        return self.name


def as_layer(given: Any, where: str) -> Layer:
    """The layer that is given.  Raises: `TypeError` for anything else, which says what to write instead.

    >>> as_layer(jax.nn.soft_sign, "1")
    Traceback (most recent call last):
    TypeError: expected a Layer at 1, got the function soft_sign; nn.fun makes a layer of a function: nn.fun(jax.nn.soft_sign)
    """
    if isinstance(given, Layer):
        return given
    got, hint = _instead(given)
    raise TypeError(f"expected a Layer at {where}, got {got}; {hint}")


PEERS = {"torch", "keras", "tensorflow", "flax", "equinox", "haiku", "torchvision", "transformers"}
"""Libraries whose modules hold parameters of their own."""


def _instead(given: Any) -> tuple[str, str]:
    """What is given in place of a layer, and what to write."""
    from fnlamp import nn

    name, module = (str(getattr(given, of, None) or "") for of in ("__name__", "__module__"))
    library = (module or type(given).__module__).split(".")[0]
    ready = f"write nn.{name}; " if isinstance(getattr(nn, name or "-", None), Layer) else ""
    if isinstance(given, str):
        known = isinstance(getattr(nn, given, None), Layer)
        return shown(given), f"write nn.{given}" if known else "layers are values, such as nn.relu and nn.linear(10)"
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} of {len(given)}", "layers are given one by one: nn.sequence(*layers)"
    if library in PEERS:
        what = name or type(given).__name__
        return f"{what} of {library}", "layers of fnlamp are pure functions; nn has layers, and nn.fun takes functions of JAX"
    if module.startswith("fnlamp.nn") and callable(given):
        return f"the function {name}", f"call it, it makes a layer: nn.{name}(...)"
    if callable(given) and not isinstance(given, type) and (name or library != "fnlamp"):
        written = f"jax.nn.{name}" if hasattr(jax.nn, name or "-") else f"jnp.{name}" if library in {"jax", "numpy"} else name
        written = "lambda x: ..." if name in {"", "<lambda>"} else written
        what = f"the function {name}" if name else shown(given)
        return what, f"{ready}nn.fun makes a layer of a function: nn.fun({written})"
    if isinstance(given, int | float):
        return shown(given), f"write nn.linear({given}) for that many features"
    return shown(given), "nn has layers, and nn.fun makes a layer of a function"


def tag_all(layer: str, **roles: Role) -> dict[str, Tag]:
    """The tags of a layer's own parameters, by parameter name."""
    return {name: Tag(layer, role) for name, role in roles.items()}


def abstract_init(layer: Layer, spec: Spec) -> Init:
    """The `Init` with specs instead of arrays; nothing is computed."""
    seen: list[Init] = []

    def run(key: Key) -> tuple[Params, State]:
        init = layer.init(key, spec)
        seen.append(_specs_only(init))
        return init.params, init.state

    spec_after(run, spec_after(jax.random.key, 0))
    return seen[0]


def _specs_only(init: Init) -> Init:
    parts = tuple((name, layer, _specs_only(part)) for name, layer, part in init.parts)
    params, state = (tree.map(lambda x: array_spec(x.shape, x.dtype), t) for t in (init.params, init.state))
    return Init(params, state, init.spec, init.tags, parts)


def table(layer: Layer, spec: Spec) -> str:
    """The model as a table: layer, output shape, parameters, bytes; nothing is computed.

    >>> import jax, jax.numpy as jnp
    >>> from fnlamp import nn
    >>> print(table(nn.linear(128) >> nn.relu >> nn.linear(10), jax.ShapeDtypeStruct((32, 784), jnp.float32)))
    layer        output            parameters    bytes
    input        float32[32, 784]
    linear(128)  float32[32, 128]     100,480  401,920
    relu         float32[32, 128]           0        0
    linear(10)   float32[32, 10]        1,290    5,160
    total                             101,770  407,080
    """
    init = abstract_init(as_layer(layer, "table: layer"), spec)
    rows = [("layer", "output", "parameters", "bytes"), ("input", describe(spec), "", "")]
    rows += _rows(layer, init, "", "")
    rows.append(("total", "", f"{tree.count(init.params):,}", f"{tree.nbytes(init.params):,}"))
    left, middle, right, last = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(f"{a:<{left}}  {b:<{middle}}  {c:>{right}}  {d:>{last}}".rstrip() for a, b, c, d in rows)


def _rows(layer: Layer, init: Init, name: str, indent: str) -> list[tuple[str, str, str, str]]:
    inner = [row for part in init.parts for row in _rows(part[1], part[2], part[0], indent + "  " * bool(name))]
    if layer.chain is not None and not name:  # the outermost sequence needs no line of its own
        return inner
    kind = "sequence" if layer.chain is not None else layer.name
    label = kind if not name or name.isdigit() else f"{name}: {kind}"
    own = (indent + label, describe(init.spec), f"{tree.count(init.params):,}", f"{tree.nbytes(init.params):,}")
    return [own, *inner]
