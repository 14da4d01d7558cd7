"""Hundreds of Ctrl-C at random moments of a training run: what comes out is always a whole state of the very same run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import jax
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import Interrupted

X = np.random.default_rng(0).random((64, 16), np.float32)
Y = X[:, :10].argmax(axis=1)


def longer(context):
    s = stream.minibatches(X, Y, batch_size=16, seed=3)
    for _ in range(6):
        s = s.concat(s)
    return s


def whole_run(steps):
    return train.epochs(
        model=train.supervised(nn.linear(32) >> nn.batch_norm() >> nn.dropout(0.2) >> nn.linear(10), loss.cross_entropy()),
        optimizer=optim.adamw(1e-2),
        train_batches=lambda context: longer(context).take(steps),
        epochs=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("runs", [40, 200])
def test_no_interrupt_tears_the_state(runs):
    program = whole_run(256)
    runtime = Runtime(log=None, executor=train.Fused(chunk=2))
    assert is_successful(program.run(runtime))  # compiled
    started = time.monotonic()
    assert is_successful(program.run(runtime))
    seconds = time.monotonic() - started
    moments = random.Random(0)
    reached: dict[tuple[int, int], list[np.ndarray]] = {}
    for _ in range(runs):
        timer = threading.Timer(moments.uniform(0.0, 1.2 * seconds), os.kill, (os.getpid(), signal.SIGINT))
        try:
            outcome = Effect.suspend(timer.start).then(program).run(runtime)
            timer.join()
        except KeyboardInterrupt:  # raised after the run, whose handler was already put back
            timer.join()
            continue
        if is_successful(outcome):
            continue
        fault = unsafe_perform_io(outcome.failure())
        assert isinstance(fault, Interrupted)
        if fault.state is None:  # raised before there was a state
            continue
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(fault.state.state)]
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        # After its last step an epoch is open until its report is made: two states, each whole.
        at = int(fault.state.state.step), fault.state.state.epoch
        for a, b in zip(reached.setdefault(at, leaves), leaves, strict=True):
            np.testing.assert_array_equal(a, b)
    print(f"{runs} runs, stopped at {len(reached)} different steps")
    assert len(reached) > 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for step, epoch in moments.sample([at for at in reached if 0 < at[0] < 256], 4):
        expected = unsafe_perform_io(whole_run(step).run(Runtime(log=None)).unwrap())
        for a, b in zip(
            jax.tree.leaves(expected.params), jax.tree.leaves(reached_params(reached[step, epoch], expected)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def reached_params(leaves, like):
    """The parameters among the leaves of a `TrainState`, which begin with the step."""
    count = len(jax.tree.leaves(like.params))
    return leaves[1 : 1 + count]
