"""Schedules beside NumPy in float64: exact at their ends, without a turn between, over any number of steps."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import optim
from fnlamp.optim.schedule import checked

LAST = 2**31 - 1


def straight(start, end, steps):
    return lambda n: start if n <= 0 else end if n >= steps else (start * (steps - n) + end * n) / steps


def curved(steps, end=0.0):
    return lambda n: end if n >= steps else end + (1 - end) * math.sin(math.pi / 2 * (steps - n) / steps) ** 2


def warm(steps, then):
    return lambda n: (min(n, steps - 1) + 1) / steps * then(max(n - steps, 0))


CASES = {
    "linear": (optim.linear(1.0, 0.2, 10), straight(1.0, 0.2, 10), 10),
    "linear to 1e-7": (optim.linear(1.0, 1e-7, 1000), straight(1.0, 1e-7, 1000), 1000),
    "linear from 1e-7": (optim.linear(1e-7, 1.0, 1000), straight(1e-7, 1.0, 1000), 1000),
    "linear to 1e-12": (optim.linear(3e-4, 1e-12, 777), straight(3e-4, 1e-12, 777), 777),
    "linear, nearly flat": (optim.linear(1.0, 0.999, 1000), straight(1.0, 0.999, 1000), 1000),
    "linear, flat": (optim.linear(0.3, 0.3, 5), straight(0.3, 0.3, 5), 5),
    "linear through zero": (optim.linear(-1.0, 1.0, 8), straight(-1.0, 1.0, 8), 8),
    "linear over a million steps": (optim.linear(1.0, 1e-6, 10**6), straight(1.0, 1e-6, 10**6), 10**6),
    "linear beyond 2^24": (optim.linear(1.0, 0.0, 2**25 + 7), straight(1.0, 0.0, 2**25 + 7), 2**25 + 7),
    "linear to 2^31": (optim.linear(1.0, 1e-5, LAST), straight(1.0, 1e-5, LAST), LAST),
    "linear beyond 2^31": (optim.linear(1.0, 0.5, 10**10), straight(1.0, 0.5, 10**10), LAST),
    "cosine": (optim.cosine(10), curved(10), 10),
    "cosine to 0.1": (optim.cosine(10, 0.1), curved(10, 0.1), 10),
    "cosine to 1e-7": (optim.cosine(1000, 1e-7), curved(1000, 1e-7), 1000),
    "cosine upwards": (optim.cosine(1000, 3.0), curved(1000, 3.0), 1000),
    "cosine over a million steps": (optim.cosine(10**6), curved(10**6), 10**6),
    "cosine beyond 2^24": (optim.cosine(2**25 + 7), curved(2**25 + 7), 2**25 + 7),
    "warmup": (optim.warmup(10, optim.constant(2.0)), warm(10, lambda n: 2.0), 10),
    "warmup, then cosine": (optim.warmup(5, optim.cosine(20)), warm(5, curved(20)), 25),
    "warmup beyond 2^24": (optim.warmup(2**25, optim.linear(1, 0, 9)), warm(2**25, straight(1, 0, 9)), 2**25 + 9),
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


@each
@pytest.mark.parametrize("kind", [np.int32, np.uint32, jnp.int32, int], ids=["int32", "uint32", "traced", "Python"])
def test_the_factor_at_every_kind_of_step(schedule, exact, last, kind):
    schedule = jax.jit(schedule) if kind is jnp.int32 else schedule
    for n in steps_of(last):
        np.testing.assert_allclose(float(schedule(kind(n))), exact(n), rtol=5e-7, err_msg=str(n))


@each
def test_in_float64_no_digit_is_lost(schedule, exact, last):
    with jax.enable_x64(True):
        for n in steps_of(last):
            got = schedule(np.int64(n))
            assert jnp.asarray(got).dtype == jnp.float64
            np.testing.assert_allclose(float(got), exact(n), rtol=1e-14, err_msg=str(n))
        assert np.isfinite(float(schedule(np.int64(2**40))))


@pytest.mark.parametrize("ends", [(1.0, 1e-7), (1e-7, 1.0), (1.0, 0.1), (0.1, 0.3), (-0.1, 0.7), (3e-4, 1e-9)])
@pytest.mark.parametrize("steps", [1, 3, 1000, 10**6])
def test_both_ends_are_met_exactly_and_it_never_turns_back(ends, steps):
    start, end = np.float32(ends)
    for schedule, first, last in ((optim.linear(*ends, steps), start, end), (optim.cosine(steps, ends[1]), np.float32(1), end)):
        factors = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps + 3, dtype=np.int32)))
        assert (factors[0], *factors[steps:]) == (first, last, last, last)
        slopes = np.diff(factors)
        assert (slopes * np.sign(last - first) >= 0).all()


# ------------------------------------------------------------------------------- what is no schedule


def with_if(step):
    return 1.0 if step < 10 else 0.1


def with_python(step):
    return 0.5 ** (int(step) // 10)


def with_math(step):
    return math.cos(step)


def with_numpy(step):
    return np.cos(step)


@pytest.mark.parametrize("schedule", [with_if, with_python, with_math, with_numpy, lambda step: float(step)])
def test_what_needs_a_python_number_is_told(schedule):
    with pytest.raises(TypeError, match=rf"schedule: {schedule.__name__} treats the step as a Python number.*jnp.where"):
        jax.jit(checked(schedule))(3)
    with pytest.raises(TypeError, match=r"warmup: then: .*jnp.where"):
        jax.jit(optim.warmup(2, schedule))(3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (0.1, r"0.1 \(float\); write optim.constant\(0.1\)"),
        (np.float32(0.5), r"write optim.constant\(0.5\)"),
        ("cosine", r"'cosine' \(str\); schedules are optim.constant"),
        (None, r"None \(NoneType\); schedules are"),
        ([0.1, 0.01], "schedules are optim.constant"),
        (optim.cosine, "cosine; schedules are"),
        (optim.constant, "constant; schedules are"),
        (optim.warmup, "warmup; schedules are"),
        (dict, "dict; schedules are"),
        (optim.adamw(), "schedules are"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_no_schedule_is_told_at_once(wrong, told):
    with pytest.raises(TypeError, match=f"schedule is a function from the step to a factor, got .*{told}"):
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
    ("make", "told"),
    [
        (lambda: optim.linear(1.0, 0.0, 0), "at least one step, got 0"),
        (lambda: optim.linear(1.0, 0.0, -5), "at least one step, got -5"),
        (lambda: optim.linear(1.0, 0.0, 10.5), "steps is a whole number"),
        (lambda: optim.linear(1.0, 0.0, 1e5), "write 100000"),
        (lambda: optim.linear("1", 0.0, 5), "linear: start is a number"),
        (lambda: optim.linear(1.0, np.nan, 5), "linear: end is a number"),
        (lambda: optim.linear(1.0, 0.0), "missing a required argument: 'steps'"),
        (lambda: optim.cosine("10"), "steps is a whole number"),
        (lambda: optim.cosine(10, end=np.inf), "cosine: end is a number"),
        (lambda: optim.cosine(T_max=10), "expected cosine\\(steps"),
        (lambda: optim.constant("1"), "constant: factor is a number"),
        (lambda: optim.cosine(10)(2**40), "a step is a whole number below 2\\^31, got 1099511627776"),
        (lambda: optim.warmup(optim.cosine(3), 5), "steps is a whole number"),
        (lambda: optim.warmup(5), "missing a required argument: 'then'"),
    ],
)
def test_wrong_arguments_are_named(make, told):
    with pytest.raises((TypeError, ValueError), match=told):
        make()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.asarray, jnp.asarray])
def test_arguments_of_any_numeric_type(kind):
    for schedule in (
        optim.constant(kind(0.5)),
        optim.linear(kind(0.5), kind(0.5), np.int64(3)),
        optim.cosine(jnp.int32(3), kind(0.5)),
    ):
        assert float(schedule(jnp.int32(5))) == 0.5
    with jax.enable_x64(True):
        grads, tags = {"w": jnp.ones(2, jnp.float32)}, {"w": None}
        rule = optim.sgdw(0.1)
        new, _ = rule.advance(grads, rule.init(grads, tags), grads, tags, optim.linear(kind(1.0), kind(0.5), 3)(2))
        assert new["w"].dtype == jnp.float32
