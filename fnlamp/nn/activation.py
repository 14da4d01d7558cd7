"""Activations: layers without parameters. For another argument, `nn.fun(partial(jax.nn.leaky_relu, negative_slope=0.2))`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fnlamp.nn.shape import fun

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
