"""The caller's default device, and JAX's own switches: right, in every executor.  One process with two devices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, json, os, sys
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
X, Y = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32), np.arange(24) % 3
FIRST, SECOND = jax.devices()

def program(**options):
    return train.epochs(**{**dict(
        model=train.supervised(
            nn.linear(4) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.1) >> nn.linear(3), loss.cross_entropy()),
        optimizer=optim.adamw(1e-2, weight_decay=1e-3, clip=1.0), epochs=2, schedule=optim.warmup(3, optim.cosine(9)),
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=8, seed=c.seed),
        validation_batches=lambda c: stream.full_batch(X, Y), metrics={"accuracy": loss.accuracy}), **options})

def look(**runtime):
    quiet = Runtime(log=None, **runtime)
    trained = program().run(quiet).unwrap()._inner_value
    again = program(epochs=3, resume=trained).run(quiet).unwrap()._inner_value
    warm = program(epochs=1, initial=trained).run(quiet).unwrap()._inner_value
    evaluated = train.evaluate(stream.full_batch(X, Y))(trained).run(quiet).unwrap()._inner_value
    arrays = jax.tree.leaves((trained.state, again.state, warm.state))
    found = {d.id for a in arrays if isinstance(a, jax.Array) for d in a.devices()}
    return sorted(found), round(trained.curve[-1].train_loss, 4), round(evaluated.loss, 4), trained.predict(X).shape

CASES = {
    "plain": (contextlib.nullcontext, {}),
    "default device": (lambda: jax.default_device(SECOND), {}),
    "default platform": (lambda: jax.default_device("cpu"), {}),
    "runtime device": (contextlib.nullcontext, {"device": SECOND}),
    "runtime device inside another default": (lambda: jax.default_device(SECOND), {"device": FIRST}),
    "runtime platform": (contextlib.nullcontext, {"device": "cpu"}),
    "strict promotion": (lambda: jax.numpy_dtype_promotion("strict"), {}),
    "rank promotion": (lambda: jax.numpy_rank_promotion("raise"), {}),
    "transfer guard": (lambda: jax.transfer_guard("disallow"), {}),
    "debug nans": (lambda: jax.debug_nans(True), {}),
    "debug infs": (lambda: jax.debug_infs(True), {}),
    "checks": (lambda: jax.enable_checks(True), {}),
}
out = {}
for name, (switch, runtime) in CASES.items():
    for executor in (train.Fused(), train.Stepwise()):
        with switch():
            out[f"{name}, {executor}"] = look(executor=executor, **runtime)
print(json.dumps(out))
"""

SECOND = {"default device", "runtime device"}


@pytest.mark.slow
def test_numbers_and_places_are_right_under_every_switch():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    _, *figures = found["plain, fused in chunks of 0.2 s"]
    for case, (devices, *same) in found.items():
        assert devices == [int(case.split(", ")[0] in SECOND)], case
        assert same == figures, case
