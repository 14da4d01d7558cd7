"""Activations, most of them without parameters; another argument: `nn.fun(partial(jax.nn.leaky_relu, negative_slope=0.2))`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last
from fnlamp.given import arguments, flag, number
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode, Train
from fnlamp.nn.check import check_features, check_float
from fnlamp.nn.shape import fun
from fnlamp.tag import Role

relu = fun(jax.nn.relu, "relu")
"""max(x, 0); its gradient at 0 is 0 (Nair & Hinton 2010)."""
gelu = fun(partial(jax.nn.gelu, approximate=False), "gelu")
"""x Phi(x), Phi the normal distribution function, by erf (Hendrycks & Gimpel 2016, eq. 1)."""
gelu_tanh = fun(partial(jax.nn.gelu, approximate=True), "gelu_tanh")
"""The tanh approximation of `gelu` (Hendrycks & Gimpel 2016, section 2)."""
silu = fun(jax.nn.silu, "silu")
"""x sigmoid(x), also called swish (Elfwing et al. 2017, eq. 5)."""
hard_swish = fun(jax.nn.hard_swish, "hard_swish")
"""x relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
sigmoid = fun(jax.nn.sigmoid, "sigmoid")
"""1 / (1 + exp(-x))."""
tanh = fun(jnp.tanh, "tanh")
"""The hyperbolic tangent."""
leaky_relu = fun(jax.nn.leaky_relu, "leaky_relu")
"""x where positive, else 0.01 x (Maas et al. 2013)."""
elu = fun(jax.nn.elu, "elu")
"""x where positive, else exp(x) - 1 (Clevert et al. 2015, eq. 16)."""
softplus = fun(jax.nn.softplus, "softplus")
"""log(1 + exp(x)), without overflow."""
softmax = fun(jax.nn.softmax, "softmax")
"""exp(x) / sum(exp(x)) over the last axis."""
log_softmax = fun(jax.nn.log_softmax, "log_softmax")
"""x - logsumexp(x) over the last axis, without overflow."""
relu6 = fun(jax.nn.relu6, "relu6")
"""min(max(x, 0), 6) (Krizhevsky 2010; Howard et al. 2017)."""
relu_squared = fun(lambda x: jnp.square(jax.nn.relu(x)), "relu_squared")
"""max(x, 0)^2 (So et al. 2021, section 4)."""
selu = fun(jax.nn.selu, "selu")
"""1.0507 x where positive, else 1.0507 * 1.6733 (exp(x) - 1) (Klambauer et al. 2017, eq. 2)."""
celu = fun(jax.nn.celu, "celu")
"""max(x, 0) + min(a (exp(x / a) - 1), 0) with a = 1, where it is `elu` (Barron 2017, eq. 2)."""
mish = fun(jax.nn.mish, "mish")
"""x tanh(softplus(x)) (Misra 2019, eq. 1)."""
hard_sigmoid = fun(jax.nn.hard_sigmoid, "hard_sigmoid")
"""relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
hard_tanh = fun(jax.nn.hard_tanh, "hard_tanh")
"""x between -1 and 1, which it does not leave (Collobert 2004)."""
log_sigmoid = fun(jax.nn.log_sigmoid, "log_sigmoid")
"""log(1 / (1 + exp(-x))), without overflow."""
soft_sign = fun(jax.nn.soft_sign, "soft_sign")
"""x / (1 + |x|) (Bergstra et al. 2009)."""
hard_shrink = fun(lambda x: jnp.where(jnp.abs(x) > 0.5, x, jnp.zeros_like(x)), "hard_shrink")
"""x, but 0 from -0.5 to 0.5."""
soft_shrink = fun(lambda x: x - jnp.clip(x, -0.5, 0.5), "soft_shrink")
"""x moved towards 0 by 0.5, and 0 from -0.5 to 0.5."""
tanh_shrink = fun(lambda x: x - jnp.tanh(x), "tanh_shrink")
"""x - tanh(x)."""
softmin = fun(lambda x: jax.nn.softmax(-x), "softmin")
"""exp(-x) / sum(exp(-x)) over the last axis."""


@arguments("one slope for all features: nn.prelu(); one for each: nn.prelu(per_feature=True)")
def prelu(*, per_feature: bool = False, start: float = 0.25) -> Layer:
    """x where positive, else a x with a learned slope a, which starts at `start`: one for all, or one for each feature.

    Shapes: unchanged; features are the last axis.  Params: `slope`, of role `SCALE`: weight decay would make it a relu.
    Fails: `DtypeMismatch` for integers; `ShapeMismatch` for another number of features.
    Reference: He et al. 2015 (rectifiers), eq. 1.

    >>> layer = prelu()
    >>> layer.apply({"slope": jnp.array([0.25])}, {}, jnp.array([[-4.0, 2.0]]), Eval())[0]
    Array([[-1.,  2.]], dtype=float32)
    """
    per_feature, start = flag("prelu: per_feature", per_feature), number("prelu: start", start)

    def init(key: Key, spec: Spec) -> Init:
        del key
        check_features(spec, "prelu")
        params = {"slope": jnp.full(spec.shape[-1:] if per_feature else (1,), start, spec.dtype)}
        return Init(params, {}, spec, tag_all("prelu", slope=Role.SCALE))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        slope = params["slope"]
        check_features(x, "prelu", slope.shape[0] if per_feature else None)
        return jnp.where(x >= 0, x, along_last(slope, x.ndim).astype(x.dtype) * x), state

    return Layer(init, apply, "prelu")


@arguments("the bounds of the random slope: nn.rrelu(1 / 8, 1 / 3)")
def rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> Layer:
    """x where positive, else a x: in `Train` with a random slope for each number, in `Eval` with the mean slope.

    The slope is uniform from `lower` to `upper`.  Shapes: unchanged.  Fails: `DtypeMismatch` for integers.
    Raises: `ValueError` unless lower <= upper.  Reference: Xu et al. 2015, section 3.4.

    >>> rrelu(0.2, 0.4).apply({}, {}, jnp.array([-1.0, 1.0]), Eval())[0]
    Array([-0.3,  1. ], dtype=float32)
    """
    lower, upper = number("rrelu: lower", lower), number("rrelu: upper", upper)
    if lower > upper:
        raise ValueError(f"rrelu: lower is at most upper, got lower={lower:g} and upper={upper:g}")

    def init(key: Key, spec: Spec) -> Init:
        del key
        check_float(spec, "rrelu")
        return Init({}, {}, spec, {})

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del params
        check_float(x, "rrelu")
        if isinstance(mode, Train):
            return jnp.where(x >= 0, x, jax.random.uniform(mode.key, x.shape, x.dtype, lower, upper) * x), state
        return jnp.where(x >= 0, x, (lower + upper) / 2 * x), state

    return Layer(init, apply, f"rrelu({lower:.6g}, {upper:.6g})")
