"""Update rules against torch.optim over 200 steps, both in float64, in closed loop and with a learning rate that changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Matrix, Role, Tag, optim
from fnlamp.optim import UpdateScale

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((40, 5)), RNG.standard_normal((40, 3))
START = {
    "w1": RNG.standard_normal((5, 8)) / 2,
    "w2": RNG.standard_normal((8, 6)) / 3,
    "w3": RNG.standard_normal((6, 3)) / 2,
    "b1": RNG.standard_normal(8) / 5,
    "b2": RNG.standard_normal(6) / 5,
    "b3": RNG.standard_normal(3) / 5,
}
MATRICES = {name: w for name, w in START.items() if name[0] == "w"}
BANANA = {"w": np.array([[-1.2], [1.0]])}
RATE, DECAY = 0.01, 0.02
BOTH = {"lr": RATE, "weight_decay": DECAY}

CASES = {
    "adamw": (optim.adamw(RATE, DECAY), lambda p: torch.optim.AdamW(p, **BOTH)),
    "nadamw": (optim.nadamw(RATE, DECAY), lambda p: torch.optim.NAdam(p, **BOTH, decoupled_weight_decay=True)),
    "radam": (optim.radam(RATE, DECAY), lambda p: torch.optim.RAdam(p, **BOTH, decoupled_weight_decay=True)),
    "adafactor": (optim.adafactor(RATE, DECAY), lambda p: torch.optim.Adafactor(p, **BOTH)),
    "muon": (optim.muon(RATE, DECAY), lambda p: torch.optim.Muon(p, **BOTH)),
    "muon as adamw": (
        optim.muon(RATE, DECAY, 0.8, False, UpdateScale.AS_ADAMW),
        lambda p: torch.optim.Muon(p, **BOTH, momentum=0.8, nesterov=False, adjust_lr_fn="match_rms_adamw"),
    ),
}


def network(p):
    h = jnp.tanh(X @ p["w1"] + p.get("b1", 0))
    h = jnp.tanh(h @ p["w2"] + p.get("b2", 0))
    return jnp.mean(jnp.square(h @ p["w3"] + p.get("b3", 0) - Y))


def banana(p):
    x, y = p["w"][:, 0]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def follow(name, loss, start, rate=1.0):
    """200 steps of both, the gradient at the parameters of torch, whose matrices are outputs by inputs."""
    optimizer, make = CASES[name]
    theirs = {n: torch.nn.Parameter(torch.tensor(p.T if p.ndim == 2 else p).contiguous()) for n, p in start.items()}
    stepper = make(list(theirs.values()))
    base = stepper.param_groups[0]["lr"]
    tags = {n: Tag("linear", Role.WEIGHT, matrix=Matrix()) if n[0] == "w" else Tag("linear", Role.BIAS) for n in start}
    with jax.enable_x64(True):
        ours = jax.tree.map(jnp.asarray, start)
        state, gradient = optimizer.init(ours, tags), jax.jit(jax.grad(loss))
        step = jax.jit(lambda g, state, params, scale: optimizer.advance(g, state, params, tags, scale))
        for t in range(200):
            scale = rate * (1 - t / 250)
            now = {n: np.asarray(p.detach().numpy().T) for n, p in theirs.items()}
            grads = {n: np.asarray(g) for n, g in gradient(now).items()}
            for n, p in theirs.items():
                p.grad = torch.tensor(grads[n].T).contiguous()
            stepper.param_groups[0]["lr"] = base * scale
            stepper.step()
            ours, state = step(grads, state, ours, scale)
        for n, p in theirs.items():
            np.testing.assert_allclose(np.asarray(ours[n]), p.detach().numpy().T, rtol=0, atol=1e-9)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Muon iterates in bfloat16; here in float64, as its parameters."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())


@pytest.mark.broad
@pytest.mark.parametrize("name", CASES)
def test_on_a_network_of_three_layers(name):
    follow(name, network, MATRICES if name.startswith("muon") else START)


@pytest.mark.broad
@pytest.mark.parametrize("name", CASES)
def test_in_the_valley_of_rosenbrock(name):
    follow(name, banana, BANANA, rate=0.01 if name == "radam" else 1.0)
