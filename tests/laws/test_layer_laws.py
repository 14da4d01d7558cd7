"""The laws of every layer."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import KEY, LAYERS

from fnlamp import Eval, Role, Train, nn, tree
from fnlamp.layer import abstract_init
from fnlamp.summary import table

MODES = {"train": Train(KEY), "eval": Eval()}
each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@functools.cache
def made(case):
    x = np.random.default_rng(1).standard_normal(case.spec.shape)
    return case.layer.init(KEY, case.spec), jnp.asarray(x, case.spec.dtype)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def specs(tree_):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree_)


@pytest.mark.broad
@each_layer
@each_mode
def test_the_spec_describes_the_output_and_the_state_keeps_its_shape(case, mode):
    init, _ = made(case)
    y, state = jax.eval_shape(case.layer.apply, init.params, init.state, case.spec, mode)
    assert specs(y) == specs(init.spec)
    assert specs(state) == specs(init.state)


@each_layer
def test_every_parameter_has_a_tag(case):
    init, _ = made(case)
    assert jax.tree.structure(init.params) == jax.tree.structure(init.tags)
    paths = {path.rsplit("/", 1)[0] if "/" in path else "" for path in tree.paths(init.params)}
    assert paths == {"/".join(tag.path) for tag in jax.tree.leaves(init.tags)}


@pytest.mark.slow
@each_layer
def test_eval_is_deterministic_and_leaves_the_state(case):
    init, x = made(case)
    first, second = (case.layer.apply(init.params, init.state, x, Eval()) for _ in range(2))
    equal(first, second)
    equal(first[1], init.state)


@pytest.mark.broad
@each_layer
@each_mode
def test_compiled_and_eager_give_the_same_numbers(case, mode):
    init, x = made(case)
    eager, compiled = (f(init.params, init.state, x, mode) for f in (case.layer.apply, jax.jit(case.layer.apply)))
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.broad
@each_layer
def test_one_trace_per_mode(case):
    init, x = made(case)
    traces = []

    def apply(params, state, x, mode):
        traces.append(type(mode))
        return case.layer.apply(params, state, x, mode)

    compiled = jax.jit(apply)
    for i in range(3):
        compiled(init.params, init.state, x + i, Train(jax.random.key(i)))
        compiled(init.params, init.state, x + i, Eval())
    assert sorted(t.__name__ for t in traces) == ["Eval", "Train"]


@each_layer
def test_the_abstract_init_is_the_shape_of_the_real_one(case):
    init, _ = made(case)
    abstract = abstract_init(case.layer, case.spec)
    assert specs(abstract.params) == specs(init.params)
    assert specs(abstract.state) == specs(init.state)
    assert abstract.tags == init.tags
    assert f"{tree.count(init.params):,}" in table(case.layer, case.spec).splitlines()[-1]


@pytest.mark.slow
@each_layer
@each_mode
def test_gradients_are_finite_differences(case, mode):
    if not case.smooth:
        return
    init, x = made(case)
    with jax.enable_x64(True):
        params, state, x = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (init.params, init.state, x))
        weights = np.random.default_rng(2).standard_normal(init.spec.shape)

        @jax.jit
        def objective(at):
            return jnp.sum(weights * case.layer.apply(at[0], state, at[1], mode)[0])

        direction = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(a.size).standard_normal(a.shape)), (params, x))
        gradient = jax.jit(jax.grad(objective))((params, x))
        along = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        shifted = [objective(jax.tree.map(lambda a, d, e=eps: a + e * d, (params, x), direction)) for eps in (1e-5, -1e-5)]
        difference = (shifted[0] - shifted[1]) / 2e-5
        np.testing.assert_allclose(float(along), float(difference), rtol=1e-6, atol=1e-6)
        if case.forward:
            _, slope = jax.jit(lambda at, along: jax.jvp(objective, (at,), (along,)))((params, x), direction)
            np.testing.assert_allclose(float(slope), float(difference), rtol=1e-6, atol=1e-6)


@each_layer
def test_a_tag_says_how_its_parameter_is_a_matrix(case):
    """All axes of a matrix are its inputs, outputs or copies; blocks divide the outputs. Any other weight has few channels."""
    init, _ = made(case)
    for param, tag in zip(jax.tree.leaves(init.params), jax.tree.leaves(init.tags), strict=True):
        matrix = tag.matrix
        if matrix is None:
            assert param.ndim == 1 or tag.role is not Role.WEIGHT or 1 in param.shape[2:], tag
            continue
        assert tag.role in (Role.WEIGHT, Role.EMBEDDING)
        assert sorted(matrix.each + matrix.inputs + matrix.outputs) == list(range(param.ndim))
        assert math.prod(param.shape[axis] for axis in matrix.outputs) % matrix.blocks == 0


@pytest.mark.broad
@each_layer
def test_composition_with_any_layer_is_lawful(case):
    init, x = made(case)
    layer, nothing = case.layer, nn.sequence()
    for same in (nothing >> layer, layer >> nothing):
        again = same.init(KEY, case.spec)
        equal((again.params, again.state), (init.params, init.state))
        equal(same.apply(init.params, init.state, x, MODES["train"]), layer.apply(init.params, init.state, x, MODES["train"]))
    before, after = nn.fun(jnp.positive), nn.fun(jnp.square)
    left, right = (before >> layer) >> after, before >> (layer >> after)
    assert repr(left) == repr(right)
    ours, theirs = left.init(KEY, case.spec), right.init(KEY, case.spec)
    equal((ours.params, ours.state), (theirs.params, theirs.state))
    equal(*(one.apply(ours.params, ours.state, x, MODES["train"]) for one in (left, right)))


def test_composition_is_associative_and_sequence_of_nothing_its_identity():
    a, b, c = nn.linear(5), nn.tanh, nn.linear(2)
    x = jax.random.normal(KEY, (3, 4))
    left, right = (a >> b) >> c, a >> (b >> c)
    for one, other in ((left, right), (left, nn.sequence(a, b, c)), (a >> nn.sequence(), a), (nn.sequence() >> a, a)):
        assert repr(one) == repr(other)
    ours, theirs = (layer.init(KEY, jax.ShapeDtypeStruct((3, 4), jnp.float32)) for layer in (left, right))
    equal(ours.params, theirs.params)
    equal(left.apply(ours.params, {}, x, Eval()), right.apply(theirs.params, {}, x, Eval()))


def test_a_new_named_child_does_not_reshuffle_the_others():
    spec = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    before = nn.sequence(hidden=nn.linear(4), out=nn.linear(2)).init(KEY, spec).params
    after = nn.sequence(hidden=nn.linear(4), more=nn.linear(4), out=nn.linear(2)).init(KEY, spec).params
    equal(before, {name: after[name] for name in before})
