"""Names that the doctests of every room may use without importing them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import fault, loss, nn, optim, stream
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.layer import table
from fnlamp.mode import Eval, Train
from fnlamp.train import supervised


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(
        {"jax": jax, "jnp": jnp, "np": np, "nn": nn, "loss": loss, "optim": optim, "fault": fault, "stream": stream},
        Eval=Eval,
        Train=Train,
        table=table,
        Runtime=Runtime,
        supervised=supervised,
        key=jax.random.key(0),
        spec=array_spec((32, 784), jnp.float32),
    )
