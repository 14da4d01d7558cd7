"""repeat(scan=True): the numbers of the unrolled form, by one compiled body."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Matrix, Train, nn, optim, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.summary import table

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
SPEC = array_spec(X.shape, jnp.float32)
LAYER = nn.linear(4) >> nn.batch_norm() >> nn.tanh >> nn.dropout(0.4)
BLOCK = nn.transformer_block(nn.self_attention(2), drop_rate=0.3)


def stacked(params):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[str(i)] for i in range(3)))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [LAYER, pytest.param(BLOCK, marks=pytest.mark.slow)], ids=["state", "block"])
def test_the_numbers_are_those_of_the_unrolled_form(layer):
    plain, scanned = nn.repeat(layer, 3), nn.repeat(layer, 3, scan=True)
    one, other = (form.init(KEY, SPEC) for form in (plain, scanned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stacked(one.params), other.params)
    assert str(other.spec) == str(one.spec)
    for mode in (Train(KEY), Eval()):

        def total(params, form, state, mode=mode):
            y, state = form.apply(params, state, X, mode)
            return jnp.sum(jnp.sin(y)), (y, state)

        run = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
        grads, (y, state) = run(one.params, plain, one.state)
        ours, (again, new) = run(other.params, scanned, other.state)
        np.testing.assert_allclose(again, y, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), stacked(grads), ours)
        if state:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stacked(state), new)


@pytest.mark.slow
def test_a_stack_is_a_matrix_for_each_layer():
    made = nn.repeat(nn.linear(4), 3, scan=True).init(KEY, SPEC)
    assert made.tags["weight"].matrix == Matrix((1,), (2,), each=(0,))
    assert table(nn.repeat(nn.linear(4), 3, scan=True), SPEC).splitlines()[-1].split()[1] == str(3 * 20)
    grads = jax.tree.map(lambda p: jnp.asarray(np.random.default_rng(1).standard_normal(p.shape), p.dtype), made.params)
    for rule in (optim.muon(0.1, steps=2), optim.shampoo(0.1), optim.soap(0.1)):

        def step(params, grads, tags, rule=rule):
            after, _ = rule.advance(grads, rule.init(params, tags), params, tags)
            return after

        weights, tags = {"weight": made.params["weight"]}, {"weight": made.tags["weight"]}
        together = step(weights, {"weight": grads["weight"]}, tags)["weight"]
        own = nn.linear(4).init(KEY, SPEC).tags["weight"]
        alone = [
            step({"weight": w}, {"weight": g}, {"weight": own})["weight"]
            for w, g in zip(weights["weight"], grads["weight"], strict=True)
        ]
        np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-5)


def test_it_takes_pairs_and_keeps_lengths():
    layer, lengths = nn.repeat(BLOCK, 2, scan=True), jnp.array([5, 0, 3])
    params = layer.init(KEY, (SPEC, array_spec((3,), jnp.int32))).params
    y, same = layer.apply(params, {}, (X, lengths), Eval())[0]
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(same, lengths)


def test_wrong_uses():
    with pytest.raises(FaultError, match="a repeated layer keeps its shape") as caught:
        nn.repeat(nn.linear(5), 2, scan=True).init(KEY, SPEC)
    assert isinstance(caught.value.fault, ShapeMismatch)
    layer = nn.repeat(nn.linear(4), 2, scan=True)
    with pytest.raises(FaultError, match="parameters of 2 layers"):
        layer.apply(tree.map(lambda p: p[:1], layer.init(KEY, SPEC).params), {}, X, Eval())
    with pytest.raises(ValueError, match="two ways to repeat"):
        nn.repeat(nn.linear(4), 2, shared=True, scan=True)
    with pytest.raises(ValueError, match="goes around the layer inside nn.repeat"):
        nn.weight_norm(layer).init(KEY, SPEC)
