"""Optimizers around an optimizer, against NumPy in float64 and torch, and what happens to gradients that are not finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import outcomes
import pytest

from fnlamp import Role, Tag, optim

RNG = np.random.default_rng(0)
START = RNG.standard_normal(5)
SLOPES = RNG.standard_normal((5, 5))
SLOPES = SLOPES @ SLOPES.T / 5 + 0.1 * np.eye(5)
NOISE = RNG.standard_normal((200, 5))
TAGS = {"w": Tag("linear", Role.WEIGHT)}
RATE = 0.05


def gradient(x, step):
    """Of a bowl, with noise."""
    return SLOPES @ x + 0.3 * NOISE[step]


def factor(step):
    """A warm-up and a slow fall."""
    return min(1.0, (step + 1) / 20) / (1 + step / 300)


def run(optimizer, steps=200, dtype=np.float64):
    """The parameters and what is evaluated, after each step."""
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(START, dtype)}
        state = optimizer.init(params, TAGS)
        update = jax.jit(lambda grads, state, params, scale: optimizer.advance(grads, state, params, TAGS, scale))
        reached = []
        for step in range(steps):
            grads = {"w": jnp.asarray(gradient(np.asarray(optimizer.at(state, params)["w"]), step), dtype)}
            params, state = update(grads, state, params, jnp.asarray(factor(step)))
            reached.append((np.asarray(params["w"]), np.asarray(optimizer.evaluated(state, params)["w"])))
        return [np.stack(each) for each in zip(*reached, strict=True)]


def exact(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


# ------------------------------------------------------------------------------- averages


@pytest.mark.broad
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_ema_is_the_mean_with_falling_weights(decay):
    params, average = run(optim.ema(optim.sgdw(RATE), decay))
    for step in (0, 1, 5, 50, 199):
        weights = (1 - decay) * decay ** np.arange(step, -1.0, -1) if decay else np.eye(step + 1)[-1]
        exact(average[step], weights @ params[: step + 1] / weights.sum())


def test_ema_is_adams_bias_corrected_recursion():
    params, average = run(optim.ema(optim.adamw(RATE), 0.97))
    moment = np.zeros(5)
    for step, p in enumerate(params):
        moment = 0.97 * moment + 0.03 * p
        exact(average[step], moment / (1 - 0.97 ** (step + 1)))


def test_an_average_of_what_stays_is_that_in_float32_too():
    optimizer = optim.ema(optim.sgdw(0.0), 0.9999)
    params = {"w": jnp.asarray([0.1, 1e-30, 3e7], jnp.float32)}
    step = jax.jit(lambda carry, _: (optimizer.advance(params, carry[1], carry[0], TAGS), None))
    (end, state), _ = jax.lax.scan(step, (params, optimizer.init(params, TAGS)), length=20_000)
    np.testing.assert_array_equal(optimizer.evaluated(state, end)["w"], params["w"])


def test_ema_counts_far():
    """After 2^24 steps the newest parameters still have the weight 1 - decay."""
    optimizer = optim.ema(optim.sgdw(1.0), 0.9999)
    params = {"w": jnp.zeros(1)}
    state = {**optimizer.init(params, TAGS), "steps": jnp.int32(2**24 + 1)}
    _, after = optimizer.advance({"w": jnp.array([-1.0])}, state, params, TAGS)
    np.testing.assert_allclose(after["average"]["w"], 1e-4, rtol=1e-6)
    assert int(after["steps"]) == 2**24 + 2


@pytest.mark.broad
@pytest.mark.parametrize(("start", "every"), [(1, 1), (1, 7), (50, 10), (150, 1), (200, 5)])
def test_swa_is_the_mean_of_the_parameters_at_its_steps(start, every):
    params, average = run(optim.swa(optim.sgdw(RATE, momentum=0.9), start, every))
    for step in range(1, 201):
        among = params[start - 1 : step : every]
        exact(average[step - 1], among.mean(axis=0) if len(among) else params[step - 1])


def test_swa_in_float32_is_near_the_mean_in_float64():
    params, average = run(optim.swa(optim.sgdw(RATE), 11), dtype=np.float32)
    np.testing.assert_allclose(average[-1], params[10:].astype(np.float64).mean(axis=0), rtol=2e-6, atol=1e-7)


@pytest.mark.broad
@pytest.mark.parametrize(("steps", "alpha"), [(5, 0.5), (1, 0.3), (7, 1.0), (1000, 0.5)])
def test_lookahead_by_hand(steps, alpha):
    params, slow = run(optim.lookahead(optim.sgdw(RATE, momentum=0.9), steps, alpha))
    fast, phi, velocity = START.copy(), START.copy(), np.zeros(5)
    for step in range(200):
        velocity = 0.9 * velocity + RATE * factor(step) * gradient(fast, step)
        fast = fast - velocity
        if (step + 1) % steps == 0:
            phi = phi + alpha * (fast - phi)
            fast = phi
        exact(params[step], fast)
        exact(slow[step], phi)


# ------------------------------------------------------------------------------- schedule-free


def largest(step):
    """The largest factor so far."""
    return max(map(factor, range(step + 1)))


@pytest.mark.broad
@pytest.mark.parametrize(("beta", "power"), [(0.9, 2.0), (0.0, 0.0), (1.0, 1.0), (0.6, 2.0)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_schedule_free_sgd_by_hand(beta, power, decay):
    params, evaluated = run(optim.schedule_free(optim.sgdw(RATE, decay), beta, power))
    z, x, total = START.copy(), START.copy(), 0.0
    for step in range(200):
        y = (1 - beta) * z + beta * x
        z = z - RATE * factor(step) * (gradient(y, step) + decay * y)
        total += largest(step) ** power
        c = largest(step) ** power / total
        x = (1 - c) * x + c * z
        exact(params[step], z)
        exact(evaluated[step], x)


@pytest.mark.broad
@pytest.mark.parametrize("decay", [0.3, 0.0])
def test_schedule_free_adamw_by_hand(decay):
    """Algorithm 1, with Adam's own bias correction: decay of y, weights by the square of the largest rate so far."""
    params, evaluated = run(optim.schedule_free(optim.adamw(RATE, decay, b1=0.0, b2=0.99)))
    z, x, v, total = START.copy(), START.copy(), np.zeros(5), 0.0
    for step in range(200):
        y, rate = 0.1 * z + 0.9 * x, RATE * factor(step)
        g = gradient(y, step)
        v = 0.99 * v + 0.01 * g * g
        z = z - rate * g / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8) - rate * decay * y
        total += largest(step) ** 2
        x = x + largest(step) ** 2 / total * (z - x)
        exact(params[step], z)
        exact(evaluated[step], x)


def test_schedule_free_rounds_parameters_in_half_precision_once_a_step():
    half, step = {"w": jnp.asarray(START, jnp.bfloat16)}, 0.01
    optimizer = optim.schedule_free(optim.sgdw(1.0), beta=0.5)
    state = optimizer.init(half, TAGS)
    state = {**state, "x": {"w": state["x"]["w"] + 0.003}}  # y is not a bfloat16
    after, _ = optimizer.advance({"w": jnp.full(5, step, jnp.bfloat16)}, state, half, TAGS)
    moved = half["w"].astype(jnp.float32) - jnp.bfloat16(step).astype(jnp.float32)
    np.testing.assert_array_equal(after["w"], moved.astype(jnp.bfloat16))


@pytest.mark.parametrize("wrap", [optim.schedule_free, optim.lookahead], ids=["schedule_free", "lookahead"])
def test_an_average_inside_of_what_changes_training_is_refused(wrap):
    """It would be evaluated in place of the outer one's parameters."""
    for inner in (optim.ema(optim.sgdw(0.1)), optim.clipped(optim.swa(optim.sgdw(0.1), 3), norm=1.0), wrap(optim.sgdw(0.1))):
        with pytest.raises(ValueError, match=r"which evaluates an average; averages go outside, as ema\("):
            wrap(inner)


def test_schedule_free_with_a_constant_factor_is_a_plain_mean_also_past_2_to_24():
    optimizer = optim.schedule_free(optim.sgdw(1.0))
    params = {"w": jnp.zeros(1)}
    state = {**optimizer.init(params, TAGS), "steps": jnp.int32(2**26 - 1), "weight": jnp.float32(1.0)}
    _, after = optimizer.advance({"w": jnp.array([-1.0])}, state, params, TAGS)
    assert float(after["x"]["w"][0]) == 2.0**-26


def test_a_factor_of_zero_at_the_start_averages_nothing():
    optimizer = optim.schedule_free(optim.sgdw(0.1))
    params = {"w": jnp.ones(1)}
    _, state = optimizer.advance(params, optimizer.init(params, TAGS), params, TAGS, 0.0)
    assert float(state["x"]["w"][0]) == 1.0
    after, state = optimizer.advance(params, state, params, TAGS, 0.5)
    np.testing.assert_array_equal(state["x"]["w"], after["w"])


# ------------------------------------------------------------------------------- steps that are skipped

ONE = {"w": jnp.array([1.0, 2.0])}
BROKEN = [{"w": jnp.array([1.0, bad])} for bad in (jnp.nan, jnp.inf, -jnp.inf)]


@pytest.mark.broad
@pytest.mark.parametrize(
    "inner", [optim.adamw(0.1, 0.01), optim.ema(optim.sgdw(0.1, momentum=0.9)), optim.lookahead(optim.adamw(), 2)]
)
@pytest.mark.parametrize("wrap", [optim.skip_non_finite, optim.loss_scaled])
def test_a_skipped_step_leaves_parameters_slots_and_the_inner_step(wrap, inner):
    optimizer = wrap(inner)
    state, plain = optimizer.init(ONE, TAGS), inner.init(ONE, TAGS)
    params, other, skipped = ONE, ONE, 0
    for step in range(9):
        if step % 3 == 1:
            before = params, state["inner"]
            params, state = optimizer.advance(BROKEN[step // 3], state, params, TAGS)
            outcomes.same_bytes((params, state["inner"]), before)
            skipped += 1
        else:
            params, state = optimizer.advance(params, state, params, TAGS)
            other, plain = inner.advance(other, plain, other, TAGS)
        assert int(optimizer.skipped(state)) == skipped
    # The branch is compiled, the plain steps are not, so their last digits may differ.
    for x, y in zip(jax.tree.leaves((params, state["inner"])), jax.tree.leaves((other, plain)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_after_at_most_skipped_steps_in_a_row_the_next_is_made():
    optimizer = optim.skip_non_finite(optim.sgdw(0.1), at_most=2)
    params, state = ONE, optimizer.init(ONE, TAGS)
    for grads in (BROKEN[0], ONE, BROKEN[0], BROKEN[1]):
        params, state = optimizer.advance(grads, state, params, TAGS)
    assert np.isfinite(params["w"]).all()
    params, state = optimizer.advance(BROKEN[0], state, params, TAGS)
    assert np.isnan(params["w"]).any()
    assert int(optimizer.skipped(state)) == 3


@pytest.mark.parametrize("around", [lambda o: optim.ema(o, 0.5), lambda o: optim.swa(o, 1), optim.schedule_free])
def test_a_step_that_is_made_with_nan_is_not_hidden_in_an_average(around):
    optimizer = around(optim.skip_non_finite(optim.sgdw(0.1), at_most=1))
    params, state = ONE, optimizer.init(ONE, TAGS)
    for _ in range(2):
        params, state = optimizer.advance(BROKEN[0], state, params, TAGS)
    assert np.isnan(params["w"]).any()
    assert np.isnan(optimizer.evaluated(state, params)["w"]).any()


def test_skipping_holds_no_loss_scale_and_one_loss_scale_is_enough():
    scaled = optim.ema(optim.loss_scaled(optim.sgdw(0.1)))
    with pytest.raises(ValueError, match=r"loss_scaled\(skip_non_finite\(...\)\)"):
        optim.skip_non_finite(scaled)
    with pytest.raises(ValueError, match=r"has a loss scale already: ema\(loss_scaled\(sgdw\)\)"):
        optim.loss_scaled(scaled)
    both = optim.loss_scaled(optim.skip_non_finite(optim.sgdw(0.1), at_most=1), start=1.0)
    state = both.init(ONE, TAGS)
    params, state = both.advance(BROKEN[0], state, ONE, TAGS)  # at a scale of 1 the inner one decides
    assert int(both.skipped(state)) == 1 and np.isfinite(params["w"]).all()


def test_a_loss_that_is_not_finite_at_all_ends_at_a_scale_of_one():
    optimizer = optim.loss_scaled(optim.sgdw(0.1), start=8.0)
    params, state = ONE, optimizer.init(ONE, TAGS)
    for expected in (4.0, 2.0, 1.0):
        params, state = optimizer.advance(BROKEN[1], state, params, TAGS)
        assert float(optimizer.loss_scale(state)) == expected
    assert np.isfinite(params["w"]).all()
    params, state = optimizer.advance(BROKEN[1], state, params, TAGS)
    assert not np.isfinite(params["w"]).all()
    assert (float(optimizer.loss_scale(state)), int(optimizer.skipped(state))) == (1.0, 3)


@pytest.mark.slow
@outcomes.needs("torch")
def test_the_loss_scale_is_that_of_torchs_scaler():
    import torch

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    theirs = torch.optim.SGD([weight], lr=0.1)
    ours = optim.loss_scaled(optim.sgdw(0.1), start=2.0**16, every=4)
    params, state = ONE, ours.init(ONE, TAGS)
    for step in range(56):
        good = step % 7 not in (2, 3)
        grads = jnp.array([0.5, -0.25]) if good else BROKEN[step % 3]["w"]
        scaler.scale(torch.zeros(1))
        weight.grad = torch.tensor(np.asarray(grads)) * scaler.get_scale()
        scaler.step(theirs)
        scaler.update()
        params, state = ours.advance({"w": grads}, state, params, TAGS)
        assert float(ours.loss_scale(state)) == scaler.get_scale()
        np.testing.assert_allclose(params["w"], weight.detach().numpy(), rtol=1e-6)
    assert int(ours.skipped(state)) == 16


def test_the_loss_scale_stays_a_power_of_two_that_float32_holds():
    optimizer = optim.loss_scaled(optim.sgdw(0.0), start=2.0**23, every=1)
    params, state = ONE, optimizer.init(ONE, TAGS)
    for _ in range(5):
        params, state = optimizer.advance(ONE, state, params, TAGS)
    assert float(optimizer.loss_scale(state)) == 2.0**24
    for wrong in (3.0, 0.5, 2.0**25):
        with pytest.raises(ValueError, match="start is a power of two from 1 to 2"):
            optim.loss_scaled(optim.sgdw(0.1), start=wrong)


# ------------------------------------------------------------------------------- clipping

MANY = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[6.0], [-8.0]]), "c": jnp.array(5.0)}
WHERE = {name: Tag("linear", Role.WEIGHT, ("x" if name == "c" else name,)) for name in MANY}


def clipped(grads=MANY, **bounds):
    """The gradient that an inner optimizer gets."""
    inner = optim.Optimizer(lambda params, tags: {}, lambda grads, state, params, tags, scale, numbers: (grads, state))
    optimizer = optim.clipped(inner, **bounds)
    return optimizer.advance(grads, optimizer.init(MANY, WHERE), MANY, WHERE)[0]


@pytest.mark.broad
@outcomes.needs("torch")
@pytest.mark.parametrize("bound", [0.1, 2.5, 11.0, 100.0])
def test_bounds_are_torchs(bound):
    import torch

    def theirs(names, clip):
        tensors = [torch.nn.Parameter(torch.tensor(np.asarray(MANY[name]))) for name in names]
        for tensor in tensors:
            tensor.grad = tensor.detach().clone()
        clip(tensors, bound)
        return {name: tensor.grad.numpy() for name, tensor in zip(names, tensors, strict=True)}

    norm, value = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_
    for ours, expected in (
        (clipped(norm=bound), theirs("abc", norm)),
        (clipped(value=bound), theirs("abc", value)),
        (clipped(norm=bound, group=lambda tag: tag.path), {n: theirs(n, norm)[n] for n in "abc"}),
        (clipped(norm=bound, group=lambda tag: tag.path == ("x",)), {**theirs("ab", norm), **theirs("c", norm)}),
    ):
        for name in MANY:
            np.testing.assert_allclose(ours[name], expected[name], rtol=2e-6)


def test_a_norm_that_overflows_is_a_norm_also_of_a_group():
    huge = {"a": jnp.array([3e19, 0.0]), "b": jnp.array([[4e19], [0.0]]), "c": jnp.array(0.5)}
    ours = clipped(huge, norm=1.0, group=lambda tag: tag.path == ("x",))
    np.testing.assert_allclose(ours["a"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(ours["b"], [[0.8], [0.0]], rtol=1e-6)
    assert float(ours["c"]) == 0.5


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_not_hidden_by_a_bound(bad):
    grads = {**MANY, "a": jnp.array([3.0, bad])}
    assert np.isnan(clipped(grads, value=1.0)["a"]).tolist() == [False, True]
    by_group = clipped(grads, norm=1.0, group=lambda tag: tag.path)
    assert np.isnan(by_group["a"]).all() and np.isfinite(by_group["b"]).all()
    assert all(np.isnan(leaf).all() for leaf in clipped(grads, norm=1.0).values())


def test_a_rules_own_bound_is_the_same():
    inside, outside = optim.adamw(0.1, clip=2.5), optim.clipped(optim.adamw(0.1), norm=2.5)
    (a, _), (b, _) = (o.advance(MANY, o.init(MANY, WHERE), MANY, WHERE) for o in (inside, outside))
    outcomes.same_bytes(a, b)


def test_bounds_are_one_of_two():
    for wrong in ({}, {"norm": 1.0, "value": 1.0}):
        with pytest.raises(TypeError, match="give norm or value, and not both"):
            optim.clipped(optim.sgdw(0.1), **wrong)
    with pytest.raises(TypeError, match="group is for norm"):
        optim.clipped(optim.sgdw(0.1), value=1.0, group=lambda tag: tag.path)
