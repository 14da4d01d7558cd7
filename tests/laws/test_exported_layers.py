"""The law of exports: in `Eval` each layer predicts the same as a program for any number of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LAYERS
from outcomes import value

from fnlamp import loss, train
from fnlamp.layer import abstract_init

RNG = np.random.default_rng(0)


def numbers(spec):
    made = RNG.normal(size=spec.shape)
    return jnp.asarray(made if jnp.issubdtype(spec.dtype, jnp.floating) else 3 * abs(made), spec.dtype)


@pytest.mark.broad
@pytest.mark.parametrize("name", [name for name, case in LAYERS.items() if case.any_rows])
def test_a_layer_is_exported_for_any_number_of_rows(name):
    case = LAYERS[name]
    made = abstract_init(case.layer, case.spec)
    params = jax.tree.map(numbers, made.params)
    state = jax.tree.map(lambda spec: abs(numbers(spec)), made.state)
    kept = train.Kept(train.supervised(case.layer, loss.mse()), params, state, 1, case.spec)
    exported = value(train.export(kept))
    for rows in (1, 7):
        x = numbers(replace_rows(case.spec, rows))
        np.testing.assert_allclose(exported.predict(x), kept.predict(x), rtol=1e-5, atol=1e-5)


def replace_rows(spec, rows):
    return jax.ShapeDtypeStruct((rows, *spec.shape[1:]), spec.dtype)
