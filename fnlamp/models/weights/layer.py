"""Any layer, by the kinds of the layers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fnlamp import tree
from fnlamp.arrays import Tree
from fnlamp.given import instance, text
from fnlamp.layer import Init, abstract_init, as_layer
from fnlamp.models.weights import kind
from fnlamp.models.weights.kind import Kind
from fnlamp.models.weights.names import Row, Table
from fnlamp.models.weights.state_dict import Weights
from fnlamp.nn.shape import flatten

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("linear", "logits", "conv1d", "conv2d", "conv3d", "depthwise_conv2d"), kind.linear),
    **dict.fromkeys(("embedding", "learned_positions"), kind.as_is),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm"), kind.norm),
    **dict.fromkeys(("lstm", "rnn"), kind.lstm),
    "batch_norm": kind.batch_norm,
    "gru": kind.gru,
    "prelu": kind.prelu,
}
RECURRENT = ("lstm", "gru", "rnn")
SEQUENCES = ("conv1d", "conv_transpose1d")


def of_layer(layer: Any, spec: Tree, names: Mapping[str, str] | None = None) -> Weights:
    """The weights of any layer, for torch modules of the same kinds: `sequence` has the names of `nn.Sequential`.

    `names` maps a child's path, or its beginning, to the name of torch's module; a `*` in it is where the name of the array
    goes, as in `"rnn.*_l1"` for the second layer of an LSTM, or `"attention.in_proj_*"`.  Others have their own path with
    points.  A recurrent layer is the first of its module, `*_l0`, and the second of `bidirectional` `*_l0_reverse`.
    The kinds: linear layers, convolutions also transposed, embeddings, norms, `prelu`, `lstm`, `gru`, `rnn`, and attention of
    linear layers.  torch flattens images channels first, so the layers after `nn.flatten` have their inputs in another order.
    `spec` is that of the input, as for `layer.init`.
    Raises: `ValueError` for a layer of another kind, and for a path that does not exist.

    >>> layer = nn.mlp(hidden=(4,), out=2, norm=None)
    >>> spec = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    >>> names = of_layer(layer, spec, {"linear_0": "0", "linear_1": "2"})
    >>> list(names.write(layer.init(key, spec).params))
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    layer = as_layer(layer, "of_layer: layer")
    names = dict(instance("of_layer: names", {} if names is None else names, Mapping, "a dict from paths to torch's names"))
    for old, new in names.items():
        text("of_layer: names", old), text("of_layer: names", new)
    made = abstract_init(layer, spec)
    modules = {"/".join(tag.path): tag for tag in tree.leaves(made.tags)}
    for old in names:
        if not any(path == old or path.startswith(f"{old}/") for path in modules):
            raise ValueError(f"of_layer: names has {old!r}, which is not a path; there are {', '.join(modules)}")
    order = _Order(spec)
    order.through(made, ())
    rows = []
    for path, tag in modules.items():
        of = _kind(tag, tree.at(made.params, tag.path), path, order.inputs.get(path, 1))
        of = kind.flattened(of, order.flattened[path]) if path in order.flattened else of
        rows.append(Row(path, (_theirs(path, tag.layer, names),), of))
    return Weights(Table(tuple(rows)), f"the weights of {layer}")


def _kind(tag: Any, params: Tree, path: str, inputs: int) -> Kind:
    if tag.layer.startswith("conv_transpose"):
        return kind.conv_transpose(inputs // params["weight"].shape[-2])
    if tag.layer not in KINDS:
        raise ValueError(f"of_layer: expected layers that torch has too, got {tag.layer} at {path!r}")
    return KINDS[tag.layer]


def _theirs(path: str, layer: str, names: Mapping[str, str]) -> str:
    """The name of torch's module, with a place for the names of arrays if they do not follow it."""
    ending = ""
    if layer in RECURRENT:
        parent, _, last = path.rpartition("/")
        ending = "*_l0_reverse" if last == "backward" else "*_l0"
        path = parent if last in ("forward", "backward") and path not in names else path
    old = max((old for old in names if path == old or path.startswith(f"{old}/")), key=len, default=None)
    theirs = path if old is None else names[old] + path[len(old) :]
    theirs = theirs.replace("/", ".")
    if not ending or "*" in theirs:
        return theirs
    return f"{theirs}.{ending}" if theirs else ending


@dataclass
class _Order:
    """A walk through a sequence: the input channels of each layer, and the shape that was flattened before it, by its path."""

    spec: Any
    channels_first: bool = False
    pending: tuple[int, ...] | None = None
    inputs: dict[str, int] = field(default_factory=dict)
    flattened: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def through(self, made: Init, path: tuple[str, ...]) -> None:
        if not made.parts and made.tags:
            self._at(tree.leaves(made.tags)[0].layer, tree.leaves(made.params), "/".join(path))
        for name, layer, part in made.parts:
            shape = tuple(getattr(self.spec, "shape", ())[1:])
            if layer is flatten and (len(shape) > 2 or (len(shape) == 2 and self.channels_first)):
                self.pending = shape
            self.through(part, (*path, name))
        self.spec = made.spec

    def _at(self, layer: str, params: list[Any], path: str) -> None:
        self.inputs[path] = getattr(self.spec, "shape", (1,))[-1]
        by_feature = layer.endswith("norm") or layer == "prelu"
        self.channels_first = layer in SEQUENCES or (self.channels_first and by_feature)
        if self.pending and params[0].shape != (1,):
            self.flattened[path] = self.pending
        self.pending = self.pending if by_feature else None
