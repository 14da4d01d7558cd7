"""Schedules against torch's, which compute in Python's float64."""

from __future__ import annotations

import numpy as np
import pytest

from fnlamp import optim

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
schedulers = torch.optim.lr_scheduler
RATE = 0.5


def theirs(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        scheduler.step()
    return rates


def sequence(*parts, milestones):
    return lambda o: schedulers.SequentialLR(o, [part(o) for part in parts], milestones)


CASES = {
    "constant": (optim.constant(), lambda o: schedulers.ConstantLR(o, factor=1.0), 9),
    "linear_ramp": (optim.linear_ramp(0.2, 0.9, 9), lambda o: schedulers.LinearLR(o, 0.2, 0.9, 9), 15),
    "cosine": (optim.cosine(9, 0.1), lambda o: schedulers.CosineAnnealingLR(o, 9, eta_min=0.1 * RATE), 10),
    "polynomial": (optim.polynomial(9, 2.5), lambda o: schedulers.PolynomialLR(o, 9, 2.5), 15),
    "step_decay": (optim.step_decay(4, 0.3), lambda o: schedulers.StepLR(o, 4, 0.3), 50),
    "exponential": (optim.exponential(1, 0.9), lambda o: schedulers.ExponentialLR(o, 0.9), 50),
    "cyclic": (
        optim.cyclic(0.1, 3.0, 4),
        lambda o: schedulers.CyclicLR(o, 0.1 * RATE, 3.0 * RATE, 4, cycle_momentum=False),
        30,
    ),
    "cyclic, uneven": (
        optim.cyclic(0.1, 3.0, 4, 7),
        lambda o: schedulers.CyclicLR(o, 0.1 * RATE, 3.0 * RATE, 4, 7, cycle_momentum=False),
        40,
    ),
    "one_cycle": (
        optim.one_cycle(99, 29),
        lambda o: schedulers.OneCycleLR(o, RATE, total_steps=100, cycle_momentum=False),
        99,
    ),
    "one_cycle, linear": (
        optim.one_cycle(99, 39, 0.1, 0.001, ramp=optim.linear_ramp),
        lambda o: schedulers.OneCycleLR(
            o, RATE, total_steps=100, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=100,
            cycle_momentum=False,
        ),
        99,
    ),
    "then": (
        optim.then(optim.linear_ramp(0.1, 1.0, 5), 5, optim.exponential(1, 0.8)),
        sequence(
            lambda o: schedulers.LinearLR(o, 0.1, 1.0, 5), lambda o: schedulers.ExponentialLR(o, 0.8), milestones=[5]
        ),
        20,
    ),
    "times": (
        optim.times(optim.step_decay(4, 0.3), optim.exponential(1, 0.9)),
        lambda o: schedulers.ChainedScheduler([schedulers.StepLR(o, 4, 0.3), schedulers.ExponentialLR(o, 0.9)]),
        30,
    ),
}  # fmt: skip


@pytest.mark.broad
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("schedule", "make", "steps"), CASES.values(), ids=CASES)
def test_a_schedule_is_torchs(schedule, make, steps):
    np.testing.assert_allclose([float(schedule(n)) for n in range(steps)], theirs(make, steps), rtol=1e-6)
