"""A layer: a pair of pure functions over a parameter tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, Spec, State, Tree, array_spec, spec_after
from fnlamp.elsewhere import MODEL, Elsewhere
from fnlamp.fault import located
from fnlamp.given import function, shown, text
from fnlamp.mode import Mode, name_key
from fnlamp.tag import Matrix, Role, Tag


@dataclass(frozen=True)
class Init:
    """The parts of a layer for one input: parameters, state, the spec of its output, and a tag for each parameter.

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
        other = as_layer(other, f"the right of {self} >>")
        if self.chain == () or other.chain == ():  # `sequence()` is the identity
            return other if self.chain == () else self
        return chain(*(self.chain or ((None, self),)), *(other.chain or ((None, other),)))

    def __rrshift__(self, other: Any) -> Layer:
        """Raises: `TypeError` for anything but a layer on the left of `>>`."""
        return as_layer(other, f"the left of >> {self}")

    if not TYPE_CHECKING:  # to a type checker a layer is not callable

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

    >>> as_layer(jax.nn.logsumexp, "1")
    Traceback (most recent call last):
    TypeError: expected a Layer at 1, got the function logsumexp; nn.fun makes a layer of a function: nn.fun(jax.nn.logsumexp)
    """
    if isinstance(given, Layer):
        return given
    got, hint = _instead(given)
    raise TypeError(f"expected a Layer at {where}, got {got}; {hint}")


READY = frozenset(
    (
        *("celu", "elu", "geglu", "gelu", "gelu_tanh", "glu", "hard_shrink", "hard_sigmoid", "hard_swish", "hard_tanh"),
        *("leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "relu_squared", "selu", "sigmoid", "silu"),
        *("soft_shrink", "soft_sign", "softmax", "softmin", "softplus", "swiglu", "tanh", "tanh_shrink"),
        *("flatten", "global_avg_pool", "global_max_pool", "last_step"),
    )
)
"""Names of `nn` that are layers, and not functions that make one."""

PEERS = {"torch", "keras", "tensorflow", "flax", "equinox", "haiku", "torchvision", "transformers"}
"""Libraries whose modules hold their own parameters."""


def _instead(given: Any) -> tuple[str, str]:
    """A description of an argument that is not a layer, and what to write instead."""
    name, module = (str(getattr(given, of, None) or "") for of in ("__name__", "__module__"))
    library = (module or type(given).__module__).split(".")[0]
    ready = f"write nn.{name}; " if name in READY else ""
    if isinstance(given, str):
        return shown(given), f"write nn.{given}" if given in READY else "layers are values, such as nn.relu and nn.linear(10)"
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} of {len(given)}", "layers are given one by one: nn.sequence(*layers)"
    if library in PEERS:
        what = name or type(given).__name__
        return f"{what} of {library}", "layers of fnlamp are pure functions; nn has layers, and nn.fun takes functions of JAX"
    if module == "fnlamp.augment" and name != "in_training":
        maker = str(getattr(given, "__qualname__", "")).partition(".")[0]
        if maker in ("mixup", "cutmix"):
            return f"the function {name}", f"it changes targets too: give epochs gradient=train.augmented(augment.{maker}(...))"
        wrapper = "nn.fun" if maker == "standardize" else "augment.in_training"
        return f"the function {name}", f"{wrapper} makes a layer of it: {wrapper}(augment.{maker}(...))"
    if module.startswith(("fnlamp.nn", "fnlamp.models", "fnlamp.augment")) and callable(given):
        return f"the function {name}", f"call it, it makes a layer: {module.split('.')[1]}.{name}(...)"
    if callable(given) and not isinstance(given, type) and (name or library != "fnlamp"):
        written = f"jax.nn.{name}" if hasattr(jax.nn, name or "-") else f"jnp.{name}" if library in {"jax", "numpy"} else name
        written = "lambda x: ..." if name in {"", "<lambda>"} else written
        what = f"the function {name}" if name else shown(given)
        return what, f"{ready}nn.fun makes a layer of a function: nn.fun({written})"
    if isinstance(given, int | float):
        return shown(given), f"write nn.linear({given}) for that many features"
    return shown(given), "nn has layers, and nn.fun makes a layer of a function"


def tag_all(layer: str, matrix: Matrix | None = None, /, **roles: Role) -> dict[str, Tag]:
    """The tags of a layer's own parameters, by parameter name; `matrix` is for those that are a weight or an embedding."""
    matrices = (Role.WEIGHT, Role.EMBEDDING)
    return {name: Tag(layer, role, matrix=matrix if role in matrices else None) for name, role in roles.items()}


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


def chain(*parts: tuple[str | None, Layer]) -> Layer:
    """`sequence` with optional names; what `>>` calls."""
    children = named_children(parts)

    def init(key: Key, spec: Tree) -> Init:
        made: dict[str, Init] = {}
        for name, layer in children.items():
            made[name] = init_child(name, layer, key, spec)
            spec = made[name].spec
        return gather(children, made, spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = {}
        for name, layer in children.items():
            x, new[name] = apply_child(name, layer, params, state, x, mode)
        return x, without_empty(new)

    return Layer(init, apply, " >> ".join(map(str, children.values())) or "identity", chain=parts)


def named_children(parts: Sequence[tuple[str | None, Layer]]) -> dict[str, Layer]:
    children: dict[str, Layer] = {}
    for position, (name, layer) in enumerate(parts):
        layer = as_layer(layer, str(position) if name is None else name)
        key = str(position) if name is None else name
        if key in children:
            raise ValueError(f"two layers are called {key!r}; give one of them another name")
        children[key] = layer
    return children


def init_child(name: str, layer: Layer, key: Key, spec: Tree) -> Init:
    with located(name):
        return layer.init(name_key(key, name), spec)


def apply_child(name: str, layer: Layer, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
    with located(name):
        return layer.apply(params.get(name, {}), state.get(name, {}), x, mode.inside(name))


def gather(children: dict[str, Layer], made: dict[str, Init], spec: Tree) -> Init:
    return Init(
        params=without_empty({name: one.params for name, one in made.items()}),
        state=without_empty({name: one.state for name, one in made.items()}),
        spec=spec,
        tags=without_empty({name: tree.map(lambda tag, n=name: tag.inside(n), one.tags) for name, one in made.items()}),
        parts=tuple((name, children[name], one) for name, one in made.items()),
    )


def without_empty(parts: Mapping[str, Tree]) -> dict[str, Tree]:
    return {name: part for name, part in parts.items() if part}
