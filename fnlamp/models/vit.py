"""The vision transformer."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.activation import gelu
from fnlamp.nn.check import check_shape, per_axis
from fnlamp.nn.combine import sequence
from fnlamp.nn.conv import conv2d
from fnlamp.nn.dropout import dropout
from fnlamp.nn.linear import linear
from fnlamp.nn.lowering.window import Size
from fnlamp.nn.multihead import self_attention
from fnlamp.nn.norm import layer_norm
from fnlamp.nn.positions import learned_positions
from fnlamp.nn.shape import fun
from fnlamp.nn.transformer import feed_forward, transformer_block
from fnlamp.tag import Role


@arguments("models.vit(1000, size=224, patch=16, layers=12, width=768, heads=12) is ViT-B/16")
def vit(
    classes: int,
    *,
    size: Size,
    patch: Size,
    layers: int,
    width: int,
    heads: int,
    expansion: float = 4,
    class_token: bool = True,
    drop_rate: float = 0.0,
    depth_drop_rate: float = 0.0,
    eps: float = 1e-6,
) -> Layer:
    """The vision transformer: patches of the image as tokens, plus a learned vector for each, blocks, a norm, and logits.

    The patches, which do not overlap, go through one linear map: a convolution whose stride is its kernel.  A learned class
    token is put before them, and the logits are those of its output; without `class_token` those of the mean of all outputs.
    Blocks have their norms first, an exact GELU and `expansion` times the width inside; norms have `eps`.  Dropout, if there
    is a rate, after the positions and before each sum; `depth_drop_rate` drops whole rows of a branch.
    Shapes: `(batch, height, width, channels) -> (batch, classes)`; `size` and `patch` are integers or `(height, width)`.
    Children: `patches`, `tokens`, `class` if there is one, `positions`, `drop`, `block_0`, ..., `norm`, `pool`, `out`.
    Fails: `ShapeMismatch` for images of another size, whose positions are not learned; `DtypeMismatch` for bytes.
    Raises: `ValueError` for a size that `patch` does not divide, or a width that `heads` does not divide.
    Reference: Dosovitskiy et al. 2020, eq. 1 to 4 and table 1; `eps` is that of its code, transformers' is 1e-12.

    >>> layer = vit(1000, size=224, patch=16, layers=12, width=768, heads=12)
    >>> print(table(layer, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)).splitlines()[-1])
    total                                                               86,567,656  346,270,624
    """
    sizes = {"classes": classes, "layers": layers, "width": width, "heads": heads}
    classes, layers, width, heads = (whole(f"vit: {name}", n) for name, n in sizes.items())
    (high, wide), each = per_axis(size, 2, "vit: size"), per_axis(patch, 2, "vit: patch")
    rows, columns = each
    if high % rows or wide % columns or width % heads:
        got = f"size={(high, wide)}, patch={each}, width={width}, heads={heads}"
        raise ValueError(f"vit needs a size that patch divides, and a width that heads divides, got {got}")
    class_token = flag("vit: class_token", class_token)
    count = (high // rows) * (wide // columns)
    norm, mlp = layer_norm(eps), feed_forward(expansion, gelu)
    attention = self_attention(heads)
    block = transformer_block(attention, mlp, norm=norm, drop_rate=drop_rate, depth_drop_rate=depth_drop_rate)
    parts = {"patches": _of_size((high, wide), conv2d(width, (rows, columns), stride=(rows, columns))), "tokens": _tokens}
    parts |= {"class": _class_token} if class_token else {}
    parts |= {"positions": learned_positions(count + class_token)} | ({"drop": dropout(drop_rate)} if drop_rate else {})
    parts |= {f"block_{i}": block for i in range(layers)}
    return sequence(**parts, norm=norm, pool=_first if class_token else _mean, out=linear(classes))


def _of_size(size: tuple[int, ...], layer: Layer) -> Layer:
    """The layer, for images of that size alone."""

    def check(x: Any) -> None:
        expected = f"images (batch, {size[0]}, {size[1]}, channels)"
        hint = "each patch has a learned position: give vit the size of the images, or resize them, as nn.resize does"
        check_shape(x, lambda shape: len(shape) == 4 and shape[1:3] == size, expected, "vit", hint)

    def init(key: Key, spec: Spec) -> Init:
        check(spec)
        return layer.init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        check(x)
        y, state = layer.apply(params, state, x, mode)
        return y, state

    return Layer(init, apply, layer.name)


def _class_init(key: Key, spec: Spec) -> Init:
    del key
    batch, time, width = spec.shape
    params = {"token": jnp.zeros((width,), spec.dtype)}
    return Init(params, {}, array_spec((batch, time + 1, width), spec.dtype), tag_all("class_token", token=Role.EMBEDDING))


def _with_class(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
    del mode
    token = jnp.broadcast_to(params["token"].astype(x.dtype)[None, None], (x.shape[0], 1, x.shape[2]))
    return jnp.concatenate([token, x], axis=1), state


_class_token = Layer(_class_init, _with_class, "class_token")
_tokens = fun(lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3]), "tokens")
_first = fun(lambda x: x[:, 0], "first")
_mean = fun(lambda x: jnp.mean(x, axis=1), "mean")
