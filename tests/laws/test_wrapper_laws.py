"""What holds for every optimizer around an optimizer."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import WRAPPERS, form, twenty_steps
from outcomes import same_bytes

from fnlamp import Role, Tag, optim
from fnlamp.identity import identity

PARAMS = {"b": jnp.array([0.3]), "w": jnp.array([[1.0, -2.0], [0.5, 0.1]])}
TAGS = {"b": Tag("linear", Role.BIAS), "w": Tag("linear", Role.WEIGHT)}
TARGET = {"b": jnp.array([0.1]), "w": jnp.array([[0.2, 0.4], [-0.3, 0.8]])}


def bias_or_rest(tag):
    return "bias" if tag.role is Role.BIAS else "rest"


FROZEN = optim.by_tag({"rest": optim.sgdw(0.1), "bias": optim.frozen()}, bias_or_rest)
INNER = {
    "adamw": optim.adamw(0.03, 1e-2),
    "sgdw": optim.sgdw(0.1, 1e-2, momentum=0.9),
    "soap": optim.soap(0.03, every=3),
    "by_tag": optim.by_tag({"rest": optim.lion(0.01), "bias": optim.sgdw(0.1)}, bias_or_rest),
}
NOT_FINITE = jax.tree.map(lambda p: p.at[0].set(jnp.nan), PARAMS)

each = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
each_inner = pytest.mark.parametrize(
    "inner", [pytest.param(INNER[name], id=name, marks=[] if name == "adamw" else pytest.mark.slow) for name in INNER]
)


def slope(params, step):
    """A gradient that depends on where it is taken, and on the step."""
    return jax.tree.map(lambda p, t: (1 + 0.1 * jnp.cos(step + p)) * (p - t), params, TARGET)


def run(optimizer, steps, begin=None, broken=(), first=0, params=PARAMS):
    """Parameters and state after each step; the gradient is not finite in the steps `broken`."""
    update = jax.jit(lambda grads, state, params, scale: optimizer.advance(grads, state, params, TAGS, scale))
    params, state = begin or (params, optimizer.init(params, TAGS))
    reached = []
    for step in range(first, first + steps):
        grads = NOT_FINITE if step in broken else slope(optimizer.at(state, params), step)
        params, state = update(grads, state, params, 1 / (1 + 0.1 * step))
        reached.append((params, state))
    return reached


def views(optimizer, reached):
    """What the loop sees of an optimizer after each step."""
    counters = [count for count in (optimizer.skipped, optimizer.loss_scale) if count is not None]
    return [
        (params, optimizer.at(state, params), optimizer.evaluated(state, params), [count(state) for count in counters])
        for params, state in reached
    ]


@pytest.mark.broad
@each
@each_inner
def test_twenty_steps_are_one_program_and_keep_structure_and_dtype(wrap, inner):
    optimizer, traces = wrap(inner), []

    @jax.jit
    def step(params, state, scale):
        traces.append(1)
        return optimizer.advance(slope(optimizer.at(state, params), 0), state, params, TAGS, scale)

    for params, state in twenty_steps(optimizer, step, PARAMS, TAGS):
        for projection in (optimizer.at, optimizer.evaluated):
            assert jax.tree.map(form, projection(state, params)) == jax.tree.map(form, params)
    assert len(traces) == 2


@each
def test_another_learning_rate_is_the_same_program_and_another_wrapper_another(wrap):
    def parts(optimizer):
        return identity((optimizer.update, optimizer.at, optimizer.evaluated, optimizer.skipped, optimizer.loss_scale))

    one, other = wrap(optim.adamw(1e-3, 1e-2)), wrap(optim.adamw(1e-2, 0.0))
    assert parts(one) == parts(other)
    numbers = other.numbers(PARAMS, TAGS)
    np.testing.assert_array_equal(numbers.get("inner", numbers)["learning_rate"], [1e-2, 1e-2])
    assert parts(wrap(optim.sgdw(1e-3))) != parts(one)
    assert sum(parts(again(optim.adamw(1e-3))) == parts(one) for again in WRAPPERS.values()) == 1


@pytest.mark.broad
@each
@each_inner
def test_a_run_resumed_from_the_bytes_of_its_state_is_the_same_bytewise(wrap, inner):
    optimizer = wrap(inner)
    whole = run(optimizer, 17, broken=(9,))
    stored = jax.tree.map(lambda x: (x.tobytes(), x.dtype, x.shape), whole[7], is_leaf=lambda x: isinstance(x, jax.Array))
    read = jax.tree.map(
        lambda s: jnp.asarray(np.frombuffer(s[0], s[1]).reshape(s[2])),
        stored,
        is_leaf=lambda s: isinstance(s, tuple) and isinstance(s[0], bytes),
    )
    same_bytes(run(optimizer, 9, begin=read, broken=(9,), first=8), whole[8:])


@pytest.mark.broad
@each
def test_an_update_leaves_its_inputs_as_they_are(wrap):
    optimizer = wrap(INNER["adamw"])
    given = (slope(PARAMS, 0), optimizer.init(PARAMS, TAGS), PARAMS)
    kept = jax.tree.map(np.array, given)
    results = [optimizer.advance(*given, TAGS, 0.5) for _ in range(2)]
    same_bytes(given, kept)
    same_bytes(*results)


@pytest.mark.broad
@each
@each_inner
def test_its_state_can_be_donated_with_the_parameters(wrap, inner):
    optimizer = wrap(inner)
    params = jax.tree.map(jnp.copy, PARAMS)
    step = jax.jit(lambda params, state: optimizer.advance(slope(params, 0), state, params, TAGS), donate_argnums=(0, 1))
    step(params, optimizer.init(params, TAGS))


@pytest.mark.broad
@each
@each_inner
def test_a_bowl_goes_down(wrap, inner):
    def bowl(p):
        return jnp.square(p["x"]) + 5 * jnp.square(p["y"] - p["x"])

    optimizer, tags = wrap(inner), {"x": Tag("test", Role.WEIGHT), "y": Tag("test", Role.WEIGHT)}

    def step(carry, _):
        params, state = carry
        return optimizer.advance(jax.grad(bowl)(optimizer.at(state, params)), state, params, tags), None

    start = {"x": jnp.array(-1.2), "y": jnp.array(1.0)}
    (end, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=1000))((start, optimizer.init(start, tags)))
    assert float(bowl(optimizer.evaluated(state, end))) < 1e-2 * float(bowl(start))


# ------------------------------------------------------------------------------- wrapping with nothing to do

NEUTRAL = {
    "ema of decay 0": lambda inner: optim.ema(inner, decay=0.0),
    "swa that has not started": lambda inner: optim.swa(inner, start=100),
    "lookahead of one step": lambda inner: optim.lookahead(inner, steps=1, alpha=1.0),
    "skipping, of finite gradients": lambda inner: optim.skip_non_finite(inner, at_most=3),
    "loss scaling, of finite gradients": lambda inner: optim.loss_scaled(inner),
    "a bound above the norm": lambda inner: optim.clipped(inner, norm=1e30),
    "a bound above the norm of groups": lambda inner: optim.clipped(inner, norm=1e30, group=lambda tag: tag.role),
    "a bound above the values": lambda inner: optim.clipped(inner, value=1e30),
}


@pytest.mark.broad
@pytest.mark.parametrize("wrap", NEUTRAL.values(), ids=NEUTRAL)
@each_inner
def test_wrapping_with_nothing_to_do_is_not_wrapping(wrap, inner):
    wrapped = wrap(inner)
    plain = [(params, params, params) for params, _ in run(inner, 12)]
    around = [view[:3] for view in views(wrapped, run(wrapped, 12))]
    if inner is not INNER["soap"]:
        same_bytes(around, plain)
    for x, y in zip(jax.tree.leaves(around), jax.tree.leaves(plain), strict=True):  # XLA sums soap's products in another order
        np.testing.assert_allclose(x, y, rtol=1e-5)


@each_inner
def test_averages_do_not_change_training(inner):
    plain = [params for params, _ in run(inner, 12)]
    for wrapped in (optim.ema(inner, 0.9), optim.swa(inner, 2, 3), optim.schedule_free(inner, beta=0.0)):
        same_bytes([params for params, _ in run(wrapped, 12)], plain)
    for alpha, steps in ((1.0, 5), (0.3, 100)):
        same_bytes([params for params, _ in run(optim.lookahead(inner, steps, alpha), 12)], plain)


@each_inner
def test_a_bound_of_zero_skips_is_not_wrapping(inner):
    same_bytes(
        [p for p, _ in run(optim.skip_non_finite(inner, at_most=0), 6, broken=(3,))], [p for p, _ in run(inner, 6, broken=(3,))]
    )


# ------------------------------------------------------------------------------- order

SKIP, SCALED, NORM = (WRAPPERS[name] for name in ("skip_non_finite", "loss_scaled", "clipped"))
AVERAGES, CLIPS = ("ema", "swa", "lookahead", "schedule_free"), ("clipped", "clipped by value", "clipped by group")
GUARDS = ("skip_non_finite", "loss_scaled")
PAIRS = (*itertools.product(AVERAGES, (*CLIPS, *GUARDS)), *itertools.product(CLIPS, GUARDS))


@pytest.mark.broad
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@each_inner
def test_the_order_of_independent_wrappers_does_not_matter(pair, inner):
    a, b = (WRAPPERS[name] for name in pair)
    one, other = a(b(inner)), b(a(inner))
    broken = (1, 2, 6) if one.skipped is not None else ()
    for x, y in zip(
        jax.tree.leaves(views(one, run(one, 12, broken=broken))),
        jax.tree.leaves(views(other, run(other, 12, broken=broken))),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-6)
        assert np.isfinite(x).all()


def test_five_wrappers_nest():
    optimizer = SCALED(optim.ema(SKIP(optim.lookahead(NORM(INNER["adamw"]), 3)), 0.5))
    reached = run(optimizer, 12, broken=(4, 5))
    assert str(optimizer) == "loss_scaled(ema(skip_non_finite(lookahead(clipped(adamw)))))"
    assert int(optimizer.skipped(reached[-1][1])) == 2
    assert [float(optimizer.loss_scale(state)) for _, state in reached] == [4, 4, 8, 8, 4, 2, 2, 2, 4, 4, 4, 8]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(reached))


# ------------------------------------------------------------------------------- parameters that stay


@pytest.mark.broad
@each
def test_a_frozen_parameter_has_no_average_and_no_part_in_norms_and_checks(wrap):
    optimizer, alone = wrap(FROZEN), wrap(optim.sgdw(0.1))
    big = {"b": jnp.array([jnp.inf]), "w": jnp.full((2, 2), 2.0)}
    params, state = PARAMS, optimizer.init(PARAMS, TAGS)
    other, tag = {"w": PARAMS["w"]}, {"w": TAGS["w"]}
    without = alone.init(other, tag)
    for _ in range(7):
        params, state = optimizer.advance(big, state, params, TAGS)
        other, without = alone.advance({"w": big["w"]}, without, other, tag)
    same_bytes((params["b"], optimizer.evaluated(state, params)["b"], optimizer.at(state, params)["b"]), (PARAMS["b"],) * 3)
    np.testing.assert_allclose(params["w"], other["w"], rtol=1e-6)
    np.testing.assert_allclose(optimizer.evaluated(state, params)["w"], alone.evaluated(without, other)["w"], rtol=1e-6)
    assert all(leaf.shape != (1,) for leaf in jax.tree.leaves(state))


def test_what_has_no_projection_may_be_one_of_by_tag():
    part = optim.clipped(optim.adamw(0.1), norm=0.1)
    optim.by_tag({"a": part, "b": optim.sgdw(0.1)}, lambda tag: "a")
    with pytest.raises(ValueError, match="goes around by_tag"):
        optim.by_tag({"a": optim.ema(part), "b": optim.sgdw(0.1)}, lambda tag: "a")
