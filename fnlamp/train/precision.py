"""The dtypes of a model as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnlamp.given import dtype_of, flag


@dataclass(frozen=True)
class Precision:
    """Parameters are stored and updated in `params` and used in `compute`; losses are summed in at least float32.

    With `scaled` the loss is multiplied by a factor that follows the gradients, so that small ones do not become zero in
    float16: `epochs` puts `optim.loss_scaled` around the optimizer.  Reference: Micikevicius et al. 2017, section 3.
    """

    params: Any = jnp.float32
    compute: Any = jnp.float32
    scaled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", dtype_of("Precision: params", self.params))
        object.__setattr__(self, "compute", dtype_of("Precision: compute", self.compute))
        flag("Precision: scaled", self.scaled)

    def __str__(self) -> str:
        both = str(self.params) if self.params == self.compute else f"{self.compute} over {self.params}"
        return f"{both}, the loss scaled" if self.scaled else both


float32 = Precision()
"""Everything in float32."""
bfloat16 = Precision(compute=jnp.bfloat16)
"""Layers compute in bfloat16, over parameters in float32."""
float16 = Precision(compute=jnp.float16, scaled=True)
"""Layers compute in float16, over parameters in float32, with dynamic loss scaling."""
