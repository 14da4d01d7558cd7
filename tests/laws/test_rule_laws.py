"""What holds for every update rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import RULES

from fnlamp import Role, Tag

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
PARAMS = {"b": jnp.array([0.3]), "w": jnp.array([[1.0, -2.0], [0.5, 0.0]])}
TAGS = {"b": Tag("linear", Role.BIAS), "w": Tag("linear", Role.WEIGHT)}
GRADS = {"b": jnp.array([-1.0]), "w": jnp.array([[0.1, 0.2], [-0.3, 4.0]])}


@each_rule
def test_twenty_steps_are_one_program_and_keep_structure_and_dtype(rule):
    optimizer = rule()
    traces = []

    @jax.jit
    def step(params, state, scale):
        traces.append(1)
        return optimizer.advance(GRADS, state, params, TAGS, scale)

    for dtype in (jnp.float32, jnp.bfloat16):
        params = jax.tree.map(lambda p, d=dtype: p.astype(d), PARAMS)
        state = optimizer.init(params, TAGS)
        before = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
        for i in range(20):
            params, state = step(params, state, 1.0 / (i + 1))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), (params, state)) == before
    assert len(traces) == 2
    assert int(state["step"]) == 20


@each_rule
def test_the_valley_of_rosenbrock_goes_down(rule):
    optimizer = rule()

    def banana(p):
        return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2

    tags = {"x": Tag("test", Role.WEIGHT), "y": Tag("test", Role.WEIGHT)}

    def step(carry, _):
        params, state = carry
        return optimizer.advance(jax.grad(banana)(params), state, params, tags, 1.0), None

    start = {"x": jnp.array(-1.2), "y": jnp.array(1.0)}
    (end, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=3000))((start, optimizer.init(start, tags)))
    assert float(banana(end)) < 0.05 * float(banana(start))


@each_rule
def test_a_scale_of_zero_moves_nothing_at_the_first_step(rule):
    optimizer = rule()
    params, _ = optimizer.advance(GRADS, optimizer.init(PARAMS, TAGS), PARAMS, TAGS, 0.0)
    for name in PARAMS:
        np.testing.assert_array_equal(params[name], PARAMS[name])


@each_rule
def test_arrays_do_not_see_each_other_below_the_clip(rule):
    optimizer = rule()
    alone = {"w": PARAMS["w"]}
    grads = {"w": 0.1 * GRADS["w"], "b": 0.1 * GRADS["b"]}
    both, _ = optimizer.advance(grads, optimizer.init(PARAMS, TAGS), PARAMS, TAGS, 1.0)
    one, _ = optimizer.advance({"w": grads["w"]}, optimizer.init(alone, {"w": TAGS["w"]}), alone, {"w": TAGS["w"]}, 1.0)
    np.testing.assert_array_equal(both["w"], one["w"])


@each_rule
def test_an_update_leaves_its_inputs_as_they_are(rule):
    optimizer = rule()
    state = optimizer.init(PARAMS, TAGS)
    _, state = optimizer.advance(GRADS, state, PARAMS, TAGS, 1.0)
    given = (GRADS, state, PARAMS)
    kept = jax.tree.map(np.array, given)  # copies, in dicts of their own
    first, second = (optimizer.advance(GRADS, state, PARAMS, TAGS, 0.5) for _ in range(2))
    for a, b in ((given, kept), (first, second)):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)
