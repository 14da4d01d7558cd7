"""The laws of every update rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import RULES, twenty_steps
from outcomes import same_bytes

from fnlamp import Matrix, Role, Tag, optim, tree

VARIANTS = {"sgdw nesterov", "sgdw independent", "adamw independent", "adamw cautious", "shampoo diagonal", "soap one-sided"}
ALL = [pytest.param(rule, id=name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name, rule in RULES.items()]
each_rule = pytest.mark.parametrize("rule", ALL)
PARAMS = {"b": jnp.array([0.3]), "w": jnp.array([[1.0, -2.0], [0.5, 0.0]])}
TAGS = {"b": Tag("linear", Role.BIAS), "w": Tag("linear", Role.WEIGHT, matrix=Matrix())}
GRADS = {"b": jnp.array([-1.0]), "w": jnp.array([[0.1, 0.2], [-0.3, 4.0]])}


def many_steps(optimizer, params, state, first, last):
    """Steps `first` to `last`, each with its own gradient and scale, in one program."""
    tags = {name: TAGS[name] for name in params}

    def step(carry, i):
        params, state = carry
        grads = {name: jnp.sin(3 * i + GRADS[name]).astype(p.dtype) for name, p in params.items()}
        return optimizer.advance(grads, state, params, tags, 1 / (1 + i)), None

    return jax.jit(lambda carry, at: jax.lax.scan(step, carry, at))((params, state), jnp.arange(first, last, dtype=float))[0]


@pytest.mark.broad
@each_rule
def test_twenty_steps_are_one_program_and_keep_structure_and_dtype(rule):
    optimizer = rule()
    traces = []

    @jax.jit
    def step(params, state, scale):
        traces.append(1)
        return optimizer.advance(GRADS, state, params, TAGS, scale)

    for params, state in twenty_steps(optimizer, step, PARAMS, TAGS):
        assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves((params, state)))
    assert len(traces) == 2
    assert {int(leaf) for path, leaf in tree.paths(state).items() if path.split("/")[-1] == "step"} == {20}


@pytest.mark.broad
@each_rule
def test_the_valley_of_rosenbrock_goes_down(rule):
    optimizer = rule()

    def banana(p):
        x, y = p["w"][0]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    tags = {"w": TAGS["w"]}

    def step(carry, _):
        params, state = carry
        return optimizer.advance(jax.grad(banana)(params), state, params, tags), None

    start = {"w": jnp.array([[-1.2, 1.0]])}
    (end, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=3000))((start, optimizer.init(start, tags)))
    assert float(banana(end)) < 0.05 * float(banana(start))


@pytest.mark.broad
@each_rule
def test_a_scale_of_zero_moves_nothing_at_the_first_step(rule):
    optimizer = rule()
    params, _ = optimizer.advance(GRADS, optimizer.init(PARAMS, TAGS), PARAMS, TAGS, 0.0)
    for name in PARAMS:
        np.testing.assert_array_equal(params[name], PARAMS[name])


@each_rule
def test_arrays_do_not_see_each_other_below_the_clip(rule):
    optimizer = rule()
    alone, tags = {"w": PARAMS["w"]}, {"w": TAGS["w"]}
    grads = {"w": 0.1 * GRADS["w"], "b": 0.1 * GRADS["b"]}
    both, _ = optimizer.advance(grads, optimizer.init(PARAMS, TAGS), PARAMS, TAGS)
    one, _ = optimizer.advance({"w": grads["w"]}, optimizer.init(alone, tags), alone, tags)
    np.testing.assert_array_equal(both["w"], one["w"])


@pytest.mark.broad
@each_rule
def test_an_update_leaves_its_inputs_as_they_are(rule):
    optimizer = rule()
    state = optimizer.init(PARAMS, TAGS)
    _, state = optimizer.advance(GRADS, state, PARAMS, TAGS)
    given = (GRADS, state, PARAMS)
    kept = jax.tree.map(np.array, given)  # copies, in their own dicts
    first, second = (optimizer.advance(GRADS, state, PARAMS, TAGS, 0.5) for _ in range(2))
    for a, b in ((given, kept), (first, second)):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.broad
@each_rule
def test_a_state_that_was_stored_resumes_to_the_same_bytes(rule):
    optimizer = rule()
    once = many_steps(optimizer, PARAMS, optimizer.init(PARAMS, TAGS), 0, 12)
    params, state = many_steps(optimizer, PARAMS, optimizer.init(PARAMS, TAGS), 0, 7)
    stored = {path: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for path, leaf in tree.paths((params, state)).items()}
    _, structure = jax.tree.flatten(jax.eval_shape(lambda: (PARAMS, optimizer.init(PARAMS, TAGS))))
    read = structure.unflatten([np.frombuffer(data, dtype).reshape(shape) for dtype, shape, data in stored.values()])
    same_bytes(many_steps(optimizer, *read, 7, 12), once)


@pytest.mark.broad
@each_rule
def test_numbers_that_are_arguments_are_those_of_their_own_program(rule):
    optimizer = rule()
    state = optimizer.init(PARAMS, TAGS)
    given = jax.jit(lambda numbers: optimizer.update(GRADS, state, PARAMS, TAGS, 0.5, numbers))(optimizer.numbers(PARAMS, TAGS))
    own = optimizer.advance(GRADS, state, PARAMS, TAGS, 0.5)
    for x, y in zip(jax.tree.leaves(given), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7)


@each_rule
def test_a_spec_of_the_state_needs_no_arrays(rule):
    """As a plan makes it: what `init` gives depends on shapes, dtypes and tags only."""
    optimizer = rule()
    spec = jax.eval_shape(lambda params: optimizer.init(params, TAGS), PARAMS)
    made = optimizer.init(PARAMS, TAGS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(lambda x: (x.shape, x.dtype), spec)


@pytest.mark.broad
@each_rule
def test_by_tag_with_one_rule_everywhere_is_the_rule(rule):
    optimizer = rule()
    wrapped = optim.by_tag({"all": optimizer}, lambda tag: "all")
    own, _ = many_steps(optimizer, PARAMS, optimizer.init(PARAMS, TAGS), 0, 8)
    same_bytes(many_steps(wrapped, PARAMS, wrapped.init(PARAMS, TAGS), 0, 8)[0], own)


@pytest.mark.broad
@each_rule
def test_frozen_leaves_stay_and_the_others_do_not_see_them(rule):
    optimizer = rule()
    wrapped = optim.by_tag({"moving": optimizer, "still": optim.frozen()}, lambda tag: "moving" if tag.matrix else "still")
    state = wrapped.init(PARAMS, TAGS)
    assert not [path for path in tree.paths(state) if path.startswith("still") or path.split("/")[-1] == "b"]
    params, _ = many_steps(wrapped, PARAMS, state, 0, 8)
    same_bytes(params["b"], PARAMS["b"])
    alone = {"w": PARAMS["w"]}
    same_bytes(params["w"], many_steps(optimizer, alone, optimizer.init(alone, {"w": TAGS["w"]}), 0, 8)[0]["w"])
    assert (wrapped.frozen(TAGS["b"]), wrapped.frozen(TAGS["w"])) == (True, False)


@pytest.mark.broad
@each_rule
def test_parameters_in_half_precision_are_rounded_once_a_step(rule):
    optimizer = rule()
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    full = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16).astype(jnp.float32), GRADS)
    rounded, kept = optimizer.advance(grads, optimizer.init(half, TAGS), half, TAGS)
    params, state = optimizer.advance(grads, optimizer.init(full, TAGS), full, TAGS)
    same_bytes((rounded, kept), (jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), state))


@pytest.mark.broad
@each_rule
def test_gradients_of_zero_leave_everything_finite(rule):
    optimizer = rule()
    params, state = PARAMS, optimizer.init(PARAMS, TAGS)
    for _ in range(4):
        params, state = optimizer.advance(jax.tree.map(jnp.zeros_like, GRADS), state, params, TAGS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, state)))
    for name, p in PARAMS.items():
        np.testing.assert_allclose(params[name], p, rtol=0.025)  # but for the decay, which LAMB scales up to 0.5 % of the norm


@each_rule
def test_a_model_without_parameters_has_nothing_to_update(rule):
    optimizer = rule()
    assert optimizer.advance({}, optimizer.init({}, {}), {}, {})[0] == {}


CLIPPED = [name for name in RULES if " " not in name and name != "by_tag"]


@pytest.mark.broad
@pytest.mark.parametrize("name", CLIPPED)
def test_the_clip_of_a_rule_acts_before_it(name):
    rate = 0.01
    clipped, plain = getattr(optim, name)(rate, clip=0.5), getattr(optim, name)(rate)
    state = plain.init(PARAMS, TAGS)
    _, state = plain.advance(GRADS, state, PARAMS, TAGS)
    within = optim.clip_by_global_norm(GRADS, 0.5)
    same_bytes(clipped.advance(GRADS, state, PARAMS, TAGS), plain.advance(within, state, PARAMS, TAGS))


def test_frozen_is_not_in_the_norm_of_by_tag():
    huge = {"b": jnp.array([1e30]), "w": jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    rules = {"w": optim.sgdw(1.0), "b": optim.frozen()}
    optimizer = optim.by_tag(rules, lambda tag: "w" if tag.matrix else "b", clip=1.0)
    params, _ = optimizer.advance(huge, optimizer.init(PARAMS, TAGS), PARAMS, TAGS)
    np.testing.assert_allclose(params["w"], PARAMS["w"] - np.array([[0.6, 0.0], [0.0, 0.8]]), rtol=1e-6)
    both = optim.by_tag({**rules, "b": optim.sgdw(1.0)}, lambda tag: "w" if tag.matrix else "b", clip=1.0)
    params, _ = both.advance(huge, both.init(PARAMS, TAGS), PARAMS, TAGS)
    np.testing.assert_allclose(params["w"], PARAMS["w"], rtol=1e-6, atol=1e-20)  # the norm is that of all groups


def test_what_by_tag_refuses():
    with pytest.raises(ValueError, match="choose returned 'other' for Tag.*expected one of 'one'"):
        optim.by_tag({"one": optim.adamw()}, lambda tag: "other").init(PARAMS, TAGS)
    for wrapped in (optim.ema(optim.adamw()), optim.skip_non_finite(optim.adamw(), at_most=3)):
        with pytest.raises(ValueError, match=r"'one' is .*\(adamw\), which goes around by_tag"):
            optim.by_tag({"one": wrapped}, lambda tag: "one")
    optim.by_tag({"one": optim.clipped(optim.adamw(), norm=1.0)}, lambda tag: "one")  # it needs no projection
    with pytest.raises(ValueError, match="at least one"):
        optim.by_tag({}, lambda tag: "one")
