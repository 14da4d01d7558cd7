"""The cost of a step as batch, depth, width, rows of the data set, and arrays of parameters grow."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

import handwritten
import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import Layer, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.mode import Eval, name_key

EPOCHS = 6


def growth(scale: float = 1.0) -> dict[str, list[dict[str, float]]]:
    """A table for each quantity that grows: time per step of fnlamp and by hand, compile seconds, memory."""
    found: dict[str, list[dict[str, float]]] = {}
    for what, points in axes(scale):
        print(f"\n{what:>10}    us/step  by hand  over by us    ratio  first epoch s  by hand  live MiB")
        found[what] = []
        for size, layer, rows, batch in points:
            point = {what: size, **measure(layer, rows, batch)}
            found[what].append(point)
            print(
                f"{size:>10,}  {point['us']:9.1f}  {point['us_by_hand']:7.1f}  {point['us'] - point['us_by_hand']:10.1f}  "
                f"{point['us'] / point['us_by_hand']:7.2f}  {point['first']:13.2f}  {point['first_by_hand']:7.2f}  "
                f"{point['live_mib']:8.1f}",
                flush=True,
            )
    return found


def axes(scale: float) -> Iterator[tuple[str, list[tuple[int, Layer, int, int]]]]:
    """The quantities that grow, and for each size the layer, the rows and the batch."""
    small = nn.linear(128) >> nn.relu >> nn.linear(10)
    rows = max(512, int(16_384 * scale))
    batches = [b for b in (8, 32, 128, 512, 2048, 8192) if b <= max(rows, 512)]
    yield "batch", [(b, small, max(rows, 2 * b), b) for b in batches]
    yield "depth", [(d, perceptron(d, 64), rows // 8, 32) for d in (2, 8, 32, 64)]
    yield "width", [(w, perceptron(3, w), max(rows // 8, 128), 128) for w in (64, 256, 1024, int(4096 * min(scale, 1)))]
    yield "rows", [(n, small, n, 100) for n in (1_000, 10_000, 100_000, int(1_000_000 * min(scale, 1)))]
    # Narrow layers in parallel: the number of arrays grows, the arithmetic hardly does.
    yield "leaves", [(2 * n, wide_tree(n), rows // 16, 32) for n in (2, 20, 200, 1000)]


def perceptron(depth: int, width: int) -> Layer:
    layers = [layer for _ in range(depth - 1) for layer in (nn.linear(width), nn.relu)]
    return nn.sequence(*layers, nn.linear(10))


def wide_tree(branches: int) -> Layer:
    """The sum of linear maps of 8 features each."""
    take = nn.fun(lambda x: x[:, :8], "take")
    total = nn.fun(lambda ys: sum(ys[1:], ys[0]), "total")
    return take >> nn.branch(*(nn.linear(10) for _ in range(branches))) >> total


def measure(layer: Layer, rows: int, batch: int) -> dict[str, float]:
    """Seconds of the epochs after the first, alternating with the same model in a hand-written loop."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (rows, 784), dtype=np.uint8), rng.integers(0, 10, rows).astype(np.int32)
    model = train.supervised(nn.rescale(1 / 255) >> layer, loss.cross_entropy())
    spec = jax.ShapeDtypeStruct((batch, 784), jnp.uint8)
    params, state = model.init(name_key(jax.random.key(0), "init"), spec)

    def by_hand(params: Any, state: Any, x: Any, y: Any, key: Any) -> Any:
        logits, state = model.layer.apply(params, state, x, Eval())
        return handwritten.cross_entropy(logits, y), state

    run = handwritten.trainer(by_hand, handwritten.adamw)
    slots = (handwritten.zeros(params), handwritten.zeros(params))
    carry = [(jax.tree.map(jnp.copy, params), state, slots, jnp.zeros((), jnp.int32))]
    arrays, steps = jax.device_put((x, y)), rows // batch
    seconds: list[tuple[float, float]] = []

    def other(report: train.EpochReport) -> None:
        order = stream.Order(rows, report.epoch)[:][: steps * batch].reshape(steps, batch)
        started = time.perf_counter()
        carry[0], value = run(carry[0], *arrays, order, jax.random.key(0))
        float(value)
        seconds.append((report.seconds, time.perf_counter() - started))

    program = train.epochs(
        model=model,
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=batch, seed=context.seed, drop_last=True),
        epochs=EPOCHS,
        on_epoch=lambda report: Effect.suspend(lambda: other(report)),
    )
    program.run(Runtime(log=None)).unwrap()
    mine, theirs = (statistics.median(s) for s in zip(*seconds[1:], strict=True))
    live = sum(a.nbytes for a in jax.live_arrays()) / 2**20
    return {
        "us": 1e6 * mine / steps,
        "us_by_hand": 1e6 * theirs / steps,
        "first": seconds[0][0],
        "first_by_hand": seconds[0][1],
        "live_mib": live,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
