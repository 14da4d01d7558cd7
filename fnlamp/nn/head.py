"""The output layer over a large vocabulary."""

from __future__ import annotations

from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, flag, number, whole
from fnlamp.layer import Init, Layer
from fnlamp.logits import Logits
from fnlamp.mode import Mode
from fnlamp.nn.check import check_features
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal, weight_and_bias


@arguments("the input's size is inferred, only the number of classes is written: nn.logits(50257)")
def logits(
    classes: int,
    *,
    bias: bool = True,
    soft_cap: float | None = None,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """A last linear layer whose product is left to the loss: its output is what `loss.cross_entropy` takes in parts.

    So the logits of a large vocabulary are never held: a loss over them needs the memory of a part, in both passes.  Other
    losses, metrics and predictions compute them all.  With a `soft_cap` c, logits x are `c tanh(x / c)`.
    An embedding's weight: `nn.share(model, "out/weight", of="tokens/weight", transpose=True)`.
    Shapes, params, faults and defaults as `linear`.  Reference: soft cap: Gemma 2 2024, section 2.

    >>> made = logits(50257).init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32))
    >>> y, _ = logits(50257).apply(made.params, {}, jnp.ones((8, 16, 32)), Eval())
    >>> y.shape, y.weight.shape, float(loss.cross_entropy()(y, jnp.zeros((8, 16), int)).weight)
    ((8, 16, 50257), (32, 50257), 128.0)
    """
    classes, bias = whole("logits: classes", classes), flag("logits: bias", bias)
    if soft_cap is not None:
        soft_cap = number("logits: soft_cap", soft_cap, "a number above 0", lambda cap: cap > 0)
    check_initializers("logits", weight_init=weight_init, bias_init=bias_init)

    def init(key: Key, spec: Spec) -> Init:
        check_features(spec, "logits")
        shape = spec.shape[-1], classes
        params, tags = weight_and_bias("logits", key, shape, spec.dtype, weight_init, bias_init if bias else None)
        return Init(params, {}, jax.eval_shape(lambda x: Logits(x, params["weight"], params.get("bias"), soft_cap), spec), tags)

    def apply(params: Params, state: State, x: Any, mode: Mode) -> tuple[Logits, State]:
        del mode
        weight: Array = params["weight"]
        check_features(x, "logits", weight.shape[0])
        return Logits(x, weight, params.get("bias"), soft_cap), state

    return Layer(init, apply, f"logits({classes})")
