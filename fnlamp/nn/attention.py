"""Attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.combine import sequence
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import in_blocks, linear
from fnlamp.nn.lowering.attend import attend
from fnlamp.nn.shape import fun


@arguments("the width is inferred: nn.self_attention(4) has 4 heads")
def self_attention(
    heads: int,
    *,
    causal: bool = False,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """Multi-head scaled dot-product attention: each time step attends to all, or if `causal` to itself and earlier ones.

    Shapes: `(batch, time, width) -> (batch, time, width)`, each head of `width / heads` features.
    Children: `input`, a linear layer to queries, keys and values, in this order, each ordered by head (as torch's
    `in_proj_weight`), and `output`, a linear layer of the heads' results; with biases unless `bias=False`.
    Fails: `DtypeMismatch` for integer input; `ShapeMismatch` for another rank, or a width that `heads` does not divide.
    The gradient is taken in reverse mode only.  Reference: Vaswani et al. 2017, eq. 1 and section 3.2.2.

    >>> layer = self_attention(4, causal=True)
    >>> made = layer.init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32))
    >>> made.params["input"]["weight"].shape, made.params["output"]["weight"].shape, made.spec.shape
    ((32, 96), (32, 32), (8, 16, 32))
    """
    heads, causal = whole("self_attention: heads", heads, None), flag("self_attention: causal", causal)
    if heads < 1:
        raise ValueError(f"self_attention needs at least one head, got {heads} heads")
    bias = flag("self_attention: bias", bias)
    check_initializers("self_attention", weight_init=weight_init, output_init=output_init)

    def of_width(width: int) -> Layer:
        return sequence(
            input=in_blocks(linear(3 * width, bias=bias, weight_init=weight_init), 3),  # queries, keys, values
            attend=fun(lambda x: attend(x, heads, causal), "attend"),
            output=linear(width, bias=bias, weight_init=output_init),
        )

    return for_width(of_width, heads, f"self_attention({heads}{', causal' if causal else ''})", "self_attention")


def for_width(of_width: Callable[[int], Layer], heads: int, name: str, where: str) -> Layer:
    """The layer `of_width(width)` for an input `(batch, time, width)` whose width `heads` divides."""

    def init(key: Key, spec: Spec) -> Init:
        return of_width(_width(spec, heads, where)).init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        y, state = of_width(_width(x, heads, where)).apply(params, state, x, mode)
        return y, state

    return Layer(init, apply, name)


def _width(x: Any, heads: int, where: str) -> int:
    expected = f"an array of shape (batch, time, width), the width divisible by {heads} heads"
    check_shape(x, lambda shape: len(shape) == 3 and shape[-1] > 0 and shape[-1] % heads == 0, expected, where)
    check_float(x, where)
    return int(x.shape[-1])
