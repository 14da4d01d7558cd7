"""The type of optimizers: slots of any shape, hyperparameters with a schedule, projections."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Matrix, Role, Tag, optim, tree
from fnlamp.tag import Scheduled

PARAMS = {"bias": jnp.array([0.3, -1.0]), "weight": jnp.array([[1.0, -2.0], [0.5, 0.0]])}
TAGS = {"bias": Tag("linear", Role.BIAS), "weight": Tag("linear", Role.WEIGHT, matrix=Matrix())}
GRADS = {"bias": jnp.array([-1.0, 2.0]), "weight": jnp.array([[0.1, 0.2], [-0.3, 4.0]])}


def rows_of_matrices():
    """A rule that remembers a row vector and a pair for a matrix, a scalar for the rest."""

    def slots(param, tag):
        if tag.matrix is None:
            return {"norm": jnp.zeros(())}
        return {"row": jnp.zeros(param.shape[0]), "pair": {"left": jnp.eye(2), "right": jnp.eye(2)}}

    def rule(g, slots, p, step, f, tag):
        if tag.matrix is None:
            return p - f * g, {"norm": slots["norm"] + jnp.sum(g)}
        left, right = slots["pair"]["left"], slots["pair"]["right"]
        return p - f * left @ g @ right, {"row": slots["row"] + g.sum(1), "pair": {"left": 2 * left, "right": right}}

    return optim.lift("own", slots, rule)


def test_a_rule_brings_its_own_slots_and_their_paths_name_slot_and_parameter():
    optimizer = rows_of_matrices()
    state = optimizer.init(PARAMS, TAGS)
    names = ["norm/bias", "pair/weight/left", "pair/weight/right", "row/weight", "step"]
    assert sorted(tree.paths(state)) == names
    step = jax.jit(lambda params, state: optimizer.advance(GRADS, state, params, TAGS))
    params, state = step(*step(PARAMS, state))
    assert sorted(tree.paths(state)) == names
    np.testing.assert_allclose(params["weight"], PARAMS["weight"] - 3 * GRADS["weight"], rtol=1e-6)
    np.testing.assert_allclose(state["row"]["weight"], 2 * GRADS["weight"].sum(1), rtol=1e-6)
    assert float(state["norm"]["bias"]) == 2.0


def test_slots_that_a_rule_cannot_have():
    with pytest.raises(ValueError, match="own: step counts the updates"):
        optim.lift("own", ("step",), print).init(PARAMS, TAGS)
    forgetful = optim.lift("own", ("m", "v"), lambda g, slots, p, *_: (p - g, {"m": g}))
    with pytest.raises(ValueError, match=r"own: the rule returned slots \['m'\], expected \['m', 'v'\], for Tag"):
        forgetful.advance(GRADS, forgetful.init(PARAMS, TAGS), PARAMS, TAGS)


def test_a_hyperparameter_follows_its_own_schedule():
    """Momentum 0.5, 0.6, 0.7 with a decay that ends: by hand in float64."""
    schedule, off = optim.linear_ramp(0.5, 0.7, 2), optim.linear_ramp(1.0, 0.0, 1)
    optimizer = optim.sgdw(0.1, optim.scheduled(lambda tag: 0.2, off), momentum=optim.scheduled(1.0, schedule))
    params, state = PARAMS, optimizer.init(PARAMS, TAGS)
    p, v, g = np.float64(PARAMS["weight"]), 0.0, np.float64(GRADS["weight"])
    for b, w in ((0.5, 0.2), (0.6, 0.0), (0.7, 0.0)):
        params, state = optimizer.advance(GRADS, state, params, TAGS, 0.5)
        v = b * v + 0.05 * g
        p = p - v - 0.05 * w * p
    np.testing.assert_allclose(params["weight"], p, rtol=1e-6)


def test_the_momentum_of_adam_follows_a_schedule():
    """m is a weighted sum of the gradients, and the correction divides by the sum of the weights: written out in float64."""
    values, g = [0.9, 0.5, 0.7, 0.7], np.array([[0.5, -2.0], [1.0, 3.0], [-1.0, 0.2], [0.3, 0.4]])
    momentum = optim.scheduled(1.0, lambda step: jnp.asarray(values)[step])
    optimizer, params, tags = optim.adamw(0.1, b1=momentum), {"w": jnp.array([1.0, -1.0])}, {"w": None}
    state, p, v = optimizer.init(params, tags), np.array([1.0, -1.0]), 0.0
    for t in range(4):
        params, state = optimizer.advance({"w": jnp.asarray(g[t])}, state, params, tags)
        weights = [(1 - values[i]) * np.prod(values[i + 1 : t + 1]) for i in range(t + 1)]
        v = 0.999 * v + 0.001 * g[t] ** 2
        m_hat = np.average(g[: t + 1], axis=0, weights=weights)
        p = p - 0.1 * m_hat / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        np.testing.assert_allclose(params["w"], p, rtol=1e-5)


def test_a_schedule_of_a_hyperparameter_needs_no_schedule_in_it():
    with pytest.raises(TypeError, match="one that is scheduled"):
        optim.scheduled(optim.scheduled(0.1, optim.constant()), optim.constant())
    with pytest.raises(TypeError, match="scheduled: schedule is a function"):
        optim.scheduled(0.1, 0.5)
    with pytest.raises(ValueError, match="momentum is a finite number of 0 or more"):
        optim.lift("own", (), print, hypers={"momentum": Scheduled(-1.0, optim.constant())})


def test_an_optimizer_projects_to_the_parameters_unless_it_says_otherwise():
    optimizer = optim.adamw()
    state = optimizer.init(PARAMS, TAGS)
    assert optimizer.at(state, PARAMS) is PARAMS
    assert optimizer.evaluated(state, PARAMS) is PARAMS
    assert (optimizer.skipped, optimizer.loss_scale, optimizer.frozen(TAGS["bias"])) == (None, None, False)
    assert optim.Optimizer(optimizer.init, optimizer.update).numbers(PARAMS, TAGS) == ()
