"""Schedules against NumPy in float64: exact at their ends, monotonic between, over any number of steps."""

from __future__ import annotations

import importlib
import math
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import SCHEDULES

from fnlamp import optim
from fnlamp.identity import identity
from fnlamp.optim.schedule import checked, summary

LAST = 2**31 - 1


def straight(start, end, steps):
    return lambda n: start if n <= 0 else end if n >= steps else (start * (steps - n) + end * n) / steps


def curved(steps, end=0.0, start=1.0):
    def exact(n):
        left = math.sin(math.pi / 2 * (steps - min(n, steps)) / steps) ** 2
        done = math.sin(math.pi / 2 * min(n, steps) / steps) ** 2
        return end + (start - end) * left if abs(start) > abs(end) else start + (end - start) * done

    return exact


def raised(steps, power, end=0.0):
    return lambda n: end + (1 - end) * (max(steps - n, 0) / steps) ** power


def cooled(steps, power, end=0.0):
    """`1 - (1 - left)^power`, in decimals, because near the end it cancels."""

    def exact(n):
        done = Decimal(min(n, steps)) / steps
        return float(Decimal(end) + (1 - Decimal(end)) * (1 - done ** Decimal(power)))

    return exact


def grown(every, factor):
    return lambda n: float(Decimal(factor) ** (Decimal(n) / every))


def stairs(every, factor):
    return lambda n: float(Decimal(factor) ** (n // every))


def triangles(low, high, rise, fall):
    def exact(n):
        n %= rise + fall
        return straight(low, high, rise)(n) if n < rise else straight(high, low, fall)(n - rise)

    return exact


def joined(first, steps, second):
    return lambda n: first(n) if n < steps else second(n - steps)


def warm(steps, then):
    return lambda n: (min(n, steps - 1) + 1) / steps * then(max(n - steps, 0))


CASES = {
    "linear": (optim.linear_ramp(1.0, 0.2, 10), straight(1.0, 0.2, 10), 10),
    "linear to 1e-7": (optim.linear_ramp(1.0, 1e-7, 1000), straight(1.0, 1e-7, 1000), 1000),
    "linear from 1e-7": (optim.linear_ramp(1e-7, 1.0, 1000), straight(1e-7, 1.0, 1000), 1000),
    "linear to 1e-12": (optim.linear_ramp(3e-4, 1e-12, 777), straight(3e-4, 1e-12, 777), 777),
    "linear, nearly flat": (optim.linear_ramp(1.0, 0.999, 1000), straight(1.0, 0.999, 1000), 1000),
    "linear, flat": (optim.linear_ramp(0.3, 0.3, 5), straight(0.3, 0.3, 5), 5),
    "linear through zero": (optim.linear_ramp(-1.0, 1.0, 8), straight(-1.0, 1.0, 8), 8),
    "linear over a million steps": (optim.linear_ramp(1.0, 1e-6, 10**6), straight(1.0, 1e-6, 10**6), 10**6),
    "linear beyond 2^24": (optim.linear_ramp(1.0, 0.0, 2**25 + 7), straight(1.0, 0.0, 2**25 + 7), 2**25 + 7),
    "linear to 2^31": (optim.linear_ramp(1.0, 1e-5, LAST), straight(1.0, 1e-5, LAST), LAST),
    "linear beyond 2^31": (optim.linear_ramp(1.0, 0.5, 10**10), straight(1.0, 0.5, 10**10), LAST),
    "cosine": (optim.cosine(10), curved(10), 10),
    "cosine to 0.1": (optim.cosine(10, 0.1), curved(10, 0.1), 10),
    "cosine to 1e-7": (optim.cosine(1000, 1e-7), curved(1000, 1e-7), 1000),
    "cosine upwards": (optim.cosine(1000, 3.0), curved(1000, 3.0), 1000),
    "cosine over a million steps": (optim.cosine(10**6), curved(10**6), 10**6),
    "cosine beyond 2^24": (optim.cosine(2**25 + 7), curved(2**25 + 7), 2**25 + 7),
    "cosine ramp upwards": (optim.cosine_ramp(1e-3, 1.0, 1000), curved(1000, 1.0, 1e-3), 1000),
    "cosine ramp downwards": (optim.cosine_ramp(2.0, 1e-3, 1000), curved(1000, 1e-3, 2.0), 1000),
    "polynomial": (optim.polynomial(10, 2.0), raised(10, 2.0), 10),
    "polynomial, cubic to 0.1": (optim.polynomial(1000, 3.0, 0.1), raised(1000, 3.0, 0.1), 1000),
    "polynomial, root": (optim.polynomial(1000, 0.5), raised(1000, 0.5), 1000),
    "polynomial upwards": (optim.polynomial(1000, 1.5, 3.0), raised(1000, 1.5, 3.0), 1000),
    "polynomial beyond 2^24": (optim.polynomial(2**25 + 7, 2.0), raised(2**25 + 7, 2.0), 2**25 + 7),
    "1-sqrt": (optim.power_cooldown(10), cooled(10, 0.5), 10),
    "1-sqrt over a million steps": (optim.power_cooldown(10**6), cooled(10**6, 0.5), 10**6),
    "1-sqrt beyond 2^24": (optim.power_cooldown(2**25 + 7), cooled(2**25 + 7, 0.5), 2**25 + 7),
    "1-square to 0.1": (optim.power_cooldown(1000, 2.0, 0.1), cooled(1000, 2.0, 0.1), 1000),
    "1-linear": (optim.power_cooldown(1000, 1.0), cooled(1000, 1.0), 1000),
    "step decay": (optim.step_decay(3, 0.1), stairs(3, 0.1), 30),
    "step decay beyond 2^24": (optim.step_decay(2**24 + 1, 0.8), stairs(2**24 + 1, 0.8), 2**24 + 1),
    "step decay, each step": (optim.step_decay(1, 0.999999999), stairs(1, 0.999999999), LAST),
    "step decay beyond 2^31": (optim.step_decay(10**10, 0.5), lambda n: 1.0, LAST),
    "exponential": (optim.exponential(3, 0.1), grown(3, 0.1), 30),
    "exponential, slowly": (optim.exponential(1, 0.999999999), grown(1, 0.999999999), LAST),
    "exponential over 2^25": (optim.exponential(2**25, 0.8), grown(2**25, 0.8), 2**25),
    "exponential beyond 2^31": (optim.exponential(10**10, 0.5), grown(10**10, 0.5), LAST),
    "cyclic": (optim.cyclic(1.0, 10.0, 9), triangles(1.0, 10.0, 9, 9), 18),
    "cyclic, uneven": (optim.cyclic(0.1, 1.0, 3, 5), triangles(0.1, 1.0, 3, 5), 16),
    "cyclic beyond 2^24": (optim.cyclic(0.0, 1.0, 2**24 + 1, 3), triangles(0.0, 1.0, 2**24 + 1, 3), 2**24 + 4),
    "cyclic beyond 2^31": (optim.cyclic(0.0, 1.0, 10**10), straight(0.0, 1.0, 10**10), LAST),
    "one cycle": (
        optim.one_cycle(1000, 300),
        joined(curved(300, 1.0, 1 / 25), 300, curved(700, 1 / 25e4)),
        1000,
    ),
    "one cycle, linear": (
        optim.one_cycle(1000, 450, 0.1, 0.01, ramp=optim.linear_ramp),
        joined(straight(0.1, 1.0, 450), 450, straight(1.0, 0.01, 550)),
        1000,
    ),
    "warm-up, stable, decay": (
        optim.warmup_stable_decay(1000, 100, 200),
        warm(100, joined(lambda n: 1.0, 700, cooled(200, 0.5))),
        1000,
    ),
    "stable and decay alone": (
        optim.warmup_stable_decay(20, 0, 20, power=1.0, end=0.1),
        straight(1.0, 0.1, 20),
        20,
    ),
    "then": (optim.then(optim.cosine(10), 5, optim.constant(2.0)), joined(curved(10), 5, lambda n: 2.0), 5),
    "then at once": (optim.then(optim.constant(1.0), 0, optim.cosine(10)), curved(10), 10),
    "then beyond 2^24": (
        optim.then(optim.constant(1.0), 2**25 + 1, optim.linear_ramp(1, 0, 9)),
        joined(lambda n: 1.0, 2**25 + 1, straight(1, 0, 9)),
        2**25 + 10,
    ),
    "then beyond 2^31": (optim.then(optim.cosine(10), 10**10, optim.constant(2.0)), curved(10), LAST),
    "times": (optim.times(optim.cosine(10), optim.step_decay(4, 0.5)), lambda n: curved(10)(n) * stairs(4, 0.5)(n), 10),
    "by epoch": (optim.by_epoch(optim.cosine(10), 7), lambda n: curved(10)(n // 7), 70),
    "by epoch beyond 2^24": (optim.by_epoch(optim.cosine(10), 2**24 + 1), lambda n: curved(10)(n // (2**24 + 1)), 2**24),
    "by epoch beyond 2^31": (optim.by_epoch(optim.cosine(10), 10**10), lambda n: 1.0, LAST),
    "warmup": (optim.warmup(10, optim.constant(2.0)), warm(10, lambda n: 2.0), 10),
    "warmup, then cosine": (optim.warmup(5, optim.cosine(20)), warm(5, curved(20)), 25),
    "warmup beyond 2^24": (optim.warmup(2**25, optim.linear_ramp(1, 0, 9)), warm(2**25, straight(1, 0, 9)), 2**25 + 9),
    "warmup beyond 2^31": (optim.warmup(10**10, optim.constant(1.0)), lambda n: (n + 1) / 10**10, LAST - 1),
    "warmup to 2^31": (optim.warmup(LAST, optim.constant(1.0)), warm(LAST, lambda n: 1.0), LAST),
}
each = pytest.mark.parametrize(("schedule", "exact", "last"), CASES.values(), ids=CASES)


def steps_of(last):
    some = {
        0,
        1,
        2,
        3,
        4,
        last // 7,
        last // 3,
        last // 2,
        last // 2 + 1,
        last - 3,
        last - 2,
        last - 1,
        last,
        last + 1,
        LAST - 1,
        LAST,
    }
    return sorted(n for n in some if 0 <= n <= LAST)


@pytest.mark.broad
@each
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(jnp.int32, id="traced"),
        *(pytest.param(kind, id=kind.__name__, marks=pytest.mark.slow) for kind in (np.int32, np.uint32, int)),
    ],
)
def test_the_factor_at_every_kind_of_step(schedule, exact, last, kind):
    schedule = jax.jit(schedule) if kind is jnp.int32 else schedule
    for n in steps_of(last):
        np.testing.assert_allclose(float(schedule(kind(n))), exact(n), rtol=5e-7, err_msg=str(n))


@pytest.mark.broad
@each
def test_in_float64_no_digit_is_lost(schedule, exact, last):
    with jax.enable_x64(True):
        for n in steps_of(last):
            got = schedule(np.int64(n))
            assert jnp.asarray(got).dtype == jnp.float64
            np.testing.assert_allclose(float(got), exact(n), rtol=1e-14, err_msg=str(n))
        assert np.isfinite(float(schedule(np.int64(2**40))))


@pytest.mark.broad
@pytest.mark.parametrize("ends", [(1.0, 1e-7), (1e-7, 1.0), (1.0, 0.1), (0.1, 0.3), (-0.1, 0.7), (3e-4, 1e-9)])
@pytest.mark.parametrize("steps", [1, 3, 1000, 10**6])
def test_both_ends_are_met_exactly_and_it_is_monotonic(ends, steps):
    start, end = np.float32(ends)
    straight, curved = optim.linear_ramp(*ends, steps), optim.cosine(steps, ends[1])
    for schedule, first, last in ((straight, start, end), (curved, np.float32(1), end)):
        factors = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps + 3, dtype=np.int32)))
        assert (factors[0], *factors[steps:]) == (first, last, last, last)
        slopes = np.diff(factors)
        assert (slopes * np.sign(last - first) >= 0).all()


# ------------------------------------------------------------------------------- anything but a schedule


def with_if(step):
    return 1.0 if step < 10 else 0.1


def with_python(step):
    return 0.5 ** (int(step) // 10)


def with_math(step):
    return math.cos(step)


def with_numpy(step):
    return np.cos(step)


@pytest.mark.parametrize("schedule", [with_if, with_python, with_math, with_numpy, lambda step: float(step)])
def test_a_schedule_that_needs_a_python_number_is_named(schedule):
    with pytest.raises(TypeError, match=rf"schedule: {schedule.__name__} treats the step as a Python number.*jnp.where"):
        jax.jit(checked(schedule))(3)
    with pytest.raises(TypeError, match=r"warmup: then: .*jnp.where"):
        jax.jit(optim.warmup(2, schedule))(3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (0.1, r"0.1 \(float\); write optim.constant\(0.1\)"),
        (np.float32(0.5), r"write optim.constant\(0.5\)"),
        ("cosine", r"'cosine' \(str\); schedules are optim.constant"),
        (None, r"None \(NoneType\); schedules are"),
        ([0.1, 0.01], "schedules are optim.constant"),
        (optim.cosine, "cosine; schedules are"),
        (optim.constant, "constant; schedules are"),
        (optim.warmup, "warmup; schedules are"),
        (optim.one_cycle, "one_cycle; schedules are"),
        (dict, "dict; schedules are"),
        (optim.adamw(), "schedules are"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_anything_but_a_schedule_raises_at_once(wrong, said):
    with pytest.raises(TypeError, match=f"schedule is a function from the step to a factor, got .*{said}"):
        checked(wrong)
    with pytest.raises(TypeError, match="warmup: then is a function"):
        optim.warmup(3, wrong)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, TypeError), ("1", TypeError), (jnp.ones(2), ValueError), ([1.0], ValueError), (1j, TypeError), (True, TypeError)],
)
def test_a_factor_is_one_number(value, kind):
    with pytest.raises(kind, match="expected (a|one) number"):
        checked(lambda step: value)(3)


@pytest.mark.parametrize("value", [1, 0.25, np.float64(2), np.int64(3), jnp.bfloat16(0.5)], ids=str)
def test_any_number_is_one(value):
    factor = checked(lambda step: value)(3)
    assert (factor.dtype, float(factor)) == (jnp.float32, float(value))
    with jax.enable_x64(True):
        assert checked(lambda step: value)(3).dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: optim.linear_ramp(1.0, 0.0, 0), "at least one step, got 0"),
        (lambda: optim.linear_ramp(1.0, 0.0, -5), "at least one step, got -5"),
        (lambda: optim.linear_ramp(1.0, 0.0, 10.5), "steps is a whole number"),
        (lambda: optim.linear_ramp(1.0, 0.0, 1e5), "write 100000"),
        (lambda: optim.linear_ramp("1", 0.0, 5), "linear_ramp: start is a number"),
        (lambda: optim.linear_ramp(1.0, np.nan, 5), "linear_ramp: end is a number"),
        (lambda: optim.linear_ramp(1.0, 0.0), "missing a required argument: 'steps'"),
        (lambda: optim.cosine("10"), "steps is a whole number"),
        (lambda: optim.cosine(10, end=np.inf), "cosine: end is a number"),
        (lambda: optim.cosine(T_max=10), "expected cosine\\(steps"),
        (lambda: optim.constant("1"), "constant: factor is a number"),
        (lambda: optim.cosine(10)(2**40), "a step is a whole number below 2\\^31, got 1099511627776"),
        (lambda: optim.warmup(optim.cosine(3), 5), "steps is a whole number"),
        (lambda: optim.warmup(5), "missing a required argument: 'then'"),
        (lambda: optim.one_cycle(5, 5), "peak is a step before the end, got peak=5 of 5 steps"),
        (lambda: optim.one_cycle(5, 2, ramp=optim.constant), "ramp is a function .*too many positional arguments"),
        (lambda: optim.warmup_stable_decay(5, 3, 3), "3 warmup_steps and 3 decay_steps are more than 5 steps"),
        (lambda: optim.step_decay(0, 0.5), "at least one step, got 0 every"),
        (lambda: optim.step_decay(3, 0.0), "factor is a factor above 0"),
        (lambda: optim.then(0.1, 3, optim.constant()), r"then: first is a function .*write optim.constant\(0.1\)"),
        (lambda: optim.times(optim.cosine(3), 2), r"times: b is a function .*write optim.constant\(2.0\)"),
        (lambda: optim.by_epoch(3, optim.cosine(3)), "by_epoch: schedule is a function"),
        (lambda: summary(optim.cosine(3), 0), "steps must be at least 1"),
        (lambda: summary(optim.cosine(3), 2**31 + 1), "steps must be at most 2,147,483,648"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.asarray, jnp.asarray])
def test_arguments_of_any_numeric_type(kind):
    for schedule in (
        optim.constant(kind(0.5)),
        optim.linear_ramp(kind(0.5), kind(0.5), np.int64(3)),
        optim.cosine(jnp.int32(3), kind(0.5)),
    ):
        assert float(schedule(jnp.int32(5))) == 0.5
    with jax.enable_x64(True):
        grads, tags = {"w": jnp.ones(2, jnp.float32)}, {"w": None}
        rule = optim.sgdw(0.1)
        new, _ = rule.advance(grads, rule.init(grads, tags), grads, tags, optim.linear_ramp(kind(1.0), kind(0.5), 3)(2))
        assert new["w"].dtype == jnp.float32


# ------------------------------------------------------------------------------- of schedules as values


def test_a_triangle_is_right_on_both_legs():
    schedule = optim.cyclic(1.0, 10.0, 9)
    assert [float(schedule(n)) for n in range(20)] == [*range(1, 11), *range(9, 0, -1), 2]


def test_then_and_times_are_associative():
    a, b, c = optim.cosine(7), optim.step_decay(2, 0.5), optim.linear_ramp(1, 0.1, 5)
    pairs = [
        (optim.then(a, 4, optim.then(b, 5, c)), optim.then(optim.then(a, 4, b), 9, c)),
        (optim.times(a, optim.times(b, c)), optim.times(optim.times(a, b), c)),
    ]
    for left, right in pairs:
        np.testing.assert_allclose([left(n) for n in range(20)], [right(n) for n in range(20)], rtol=2e-7)


@pytest.mark.broad
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_compare_by_what_they_were_made_of(name):
    again = importlib.reload(importlib.import_module("catalogue")).SCHEDULES[name]
    others = [identity(other) for key, other in SCHEDULES.items() if key != name]
    assert again is not SCHEDULES[name]
    assert identity(again) == identity(SCHEDULES[name])
    assert identity(again) not in others


@pytest.mark.broad
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_one_trace_and_maps_over_steps(name):
    traces = []
    factor = jax.jit(lambda step: traces.append(1) or SCHEDULES[name](step))
    one_by_one = [float(factor(jnp.int32(n))) for n in range(30)]
    assert len(traces) == 1
    together = jax.jit(jax.vmap(checked(SCHEDULES[name])))(jnp.arange(30))
    np.testing.assert_allclose(together, one_by_one, rtol=2e-7)


def test_the_first_part_is_never_asked_about_what_is_after_it():
    with jax.debug_nans(True):
        schedule = optim.then(lambda step: jnp.log(3.0 - step), 3, optim.constant(1.0))
        assert [round(float(schedule(jnp.int32(n))), 3) for n in range(5)] == [1.099, 0.693, 0.0, 1.0, 1.0]


def test_a_summary_is_the_first_the_highest_and_the_last():
    assert summary(optim.warmup(4, optim.linear_ramp(2.0, 0.0, 4)), 8) == (0.5, 2.0, 0.5)
    assert summary(optim.constant(), 1) == (1, 1, 1)
    first, highest, last = summary(optim.cyclic(0.0, 1.0, 2**20), 2**24)  # each sixteenth step
    assert (first, highest, last) == (0, 1, 2**-20)
    assert str(summary(optim.cosine(10), 10)) == "1 at first, 1 at most, 0.02447 at last"


def test_a_factor_above_1_grows_without_a_warning():
    # Warnings are errors: the powers of steps that are never reached overflow.
    schedule = optim.exponential(9, 10.0)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 9, 50)], [1.0, 10.0, 10.0 ** (50 / 9)], rtol=1e-6)
