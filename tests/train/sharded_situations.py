"""Situations in which training on many devices may go wrong, on eight virtual ones, as JSON: run by test_sharded_situations.py.

Each compares a run with NumPy in float64, and has beside it the result of the mistake, made in NumPy.
"""

from __future__ import annotations

import json
import sys
import tempfile

import jax
import numpy as np
from sharded_run import DEVICES, LABELS, LAYOUTS, ROWS, apart, describe, run

from fnlamp import checkpoint, loss, nn, optim, stream, train, tree

EIGHT, FULL = LAYOUTS["data 8"], LAYOUTS["fully sharded 8"]
BOTH = {"data 8": EIGHT, "fully sharded 8": FULL}
X = ROWS[:43].astype(np.float64)
Y = LABELS[:43] % 7
START = {"bias": np.linspace(-0.5, 0.5, 7), "weight": np.cos(np.arange(112.0)).reshape(16, 7)}
PARTS = [slice(first, first + 6) for first in range(0, 43, 6)]  # eight: seven of 6 rows, one of 1
IGNORED = np.where(np.arange(43) % 6 < np.arange(43) // 6, Y, -100)  # none counts on the first device, five on the sixth


def given(x, y, layer=None, rate=1.0, **options):
    """A program of full batches from `START`: plain gradient descent, one step, unless told otherwise."""
    return describe(
        **{
            "model": train.supervised(nn.linear(7) if layer is None else layer, loss.cross_entropy()),
            "optimizer": optim.sgdw(rate),
            "train_batches": lambda context: stream.full_batch(np.float32(x), y),
            "validation_batches": None,
            "metrics": {},
            "train_metrics": {},
            "initial": jax.tree.map(np.float32, START) if layer is None else None,
            "epochs": 1,
        }
        | options
    )


def terms(params, x, y):
    """The losses of the rows, and the gradient with respect to their logits; those of ignored rows are 0."""
    logits = x @ params["weight"] + params["bias"]
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    counts = y >= 0
    target = np.eye(7)[np.where(counts, y, 0)]
    return -(logits * target).sum(-1) * counts, (np.exp(logits) - target) * counts[:, None]


def gradient(x, y, params=START):
    """The gradient of the mean cross-entropy of the rows that count."""
    slope = terms(params, x, y)[1] / max((y >= 0).sum(), 1)
    return {"bias": slope.sum(0), "weight": x.T @ slope}


def mean_of(gradients):
    return jax.tree.map(lambda *each: np.mean(each, axis=0), *gradients)


def down(slope, params=START, rate=1.0):
    return jax.tree.map(lambda p, g: p - rate * g, params, slope)


def compared(program, right, *wrong, of=lambda trained: trained.params, executors=BOTH):
    """The largest distance of the runs from the right result, and the smallest of the mistakes."""
    return [max(apart(of(run(program, each)), right) for each in executors.values()), min(apart(each, right) for each in wrong)]


def uneven_rows():
    """43 rows on eight devices: in the mean of the devices' means, the last row counts six times."""
    wrong = mean_of([gradient(X[part], Y[part]) for part in PARTS])
    return compared(given(X, Y), down(gradient(X, Y)), down(wrong))


def ignored_rows():
    """Rows that do not count are mostly on some of the devices: the mean of their means, with and without the empty one."""
    each = [gradient(X[part], IGNORED[part]) for part in PARTS]
    wrong = mean_of(each), mean_of([one for one, part in zip(each, PARTS, strict=True) if (IGNORED[part] >= 0).any()])
    return compared(given(X, IGNORED), down(gradient(X, IGNORED)), *map(down, wrong))


def accumulated():
    """Microbatches, each over the devices, with unequal weights: the mean of their means."""
    x, y = np.concatenate([X, X[:5]]), np.concatenate([IGNORED, Y[:5]])
    wrong = mean_of([gradient(x[first : first + 12], y[first : first + 12]) for first in range(0, 48, 12)])
    return compared(given(x, y, gradient=train.microbatches(4)), down(gradient(x, y)), down(wrong))


def clipped():
    """The norm is that of all parts, each counted once: not of a device's part, nor with a whole bias counted eight times."""
    slope = gradient(X, Y)

    def by(norm):
        return down(jax.tree.map(lambda g: 0.1 * g / norm, slope))

    parts = [np.sqrt((part**2).sum() + (slope["bias"] ** 2).sum()) for part in np.split(slope["weight"], 8)]
    local = {
        "bias": slope["bias"] / parts[0],
        "weight": np.concatenate([part / norm for part, norm in zip(np.split(slope["weight"], 8), parts, strict=True)]),
    }
    counted = np.sqrt((slope["weight"] ** 2).sum() + 8 * (slope["bias"] ** 2).sum())
    right = by(np.sqrt((slope["weight"] ** 2).sum() + (slope["bias"] ** 2).sum()))
    return compared(
        given(X, Y, optimizer=optim.sgdw(1.0, clip=0.1)), right, by(counted), down(jax.tree.map(lambda g: 0.1 * g, local))
    )


def batch_norm():
    """The moments are those of all rows: not of the first device's, nor the mean of the devices' moments."""
    x = X + np.arange(43)[:, None] / 4

    def moved(mean, variance):
        return [0.1 * mean, 0.9 + 0.1 * variance]

    each = [x[part] for part in PARTS[:7]]
    mean = moved(np.mean([one.mean(0) for one in each], 0), np.mean([one.var(0, ddof=1) for one in each], 0))
    program = given(x, Y, nn.batch_norm() >> nn.linear(7))
    first = moved(x[:6].mean(0), x[:6].var(0, ddof=1))
    return compared(
        program, moved(x.mean(0), x.var(0, ddof=1)), first, mean, of=lambda trained: tree.leaves(trained.layer_state)
    )


def metrics():
    """Loss and accuracy over 43 rows in batches of 32 and 11: not the mean over devices, nor with rows twice to fill them."""
    trained = run(given(X, Y, rate=0.0), EIGHT)
    batches = stream.minibatches(np.float32(X), Y, batch_size=32)
    found = [run(train.evaluate(batches, {"accuracy": loss.accuracy})(trained), each) for each in (EIGHT, FULL)]
    losses = terms(START, X, Y)[0]
    hits = np.argmax(X @ START["weight"] + START["bias"], -1) == Y
    filled = np.concatenate([np.arange(43), np.arange(5)])
    right = np.array([losses.mean(), hits.mean()])
    wrong = (
        np.mean([[losses[part].mean(), hits[part].mean()] for part in PARTS], 0),
        [losses[filled].mean(), hits[filled].mean()],
    )
    reported = [np.array([one.loss, one.metrics["accuracy"]]) for one in found]
    return [max(apart(one, right) for one in reported), min(apart(np.array(one), right) for one in wrong)]


def dropout():
    """How often an entry that eight devices have at the same place is kept: with one mask for all, 8 times or never."""
    x, y = np.tile(np.eye(8, dtype=np.float32), (8, 1)), np.full((64, 1), 100.0, np.float32)

    def kept(rate, executor):
        layer = nn.dropout(rate) >> nn.linear(1, bias=False, weight_init=jax.nn.initializers.zeros)
        program = given(x, y, layer, model=train.supervised(layer, loss.mse()))
        return np.ravel(tree.leaves(run(program, executor).params)[0])

    whole = kept(0.0, EIGHT) / 8
    return [(kept(0.5, executor) / (2 * whole)).tolist() for executor in (EIGHT, FULL, None)]


def averaged():
    """The average of sharded parameters over three steps, and what `predict` makes of it: not the parameters themselves."""
    params, steps = START, []
    for _ in range(3):
        params = down(gradient(X, Y, params), params)
        steps.append(params)
    average = jax.tree.map(lambda *each: sum(w * one for w, one in zip((1, 2, 4), each, strict=True)) / 7, *steps)
    program = given(X, Y, optimizer=optim.ema(optim.sgdw(1.0), 0.5), epochs=3)

    def rows(params):
        return X @ params["weight"] + params["bias"]

    return compared(program, rows(average), rows(params), of=lambda trained: trained.predict(np.float32(X)))


def resumed():
    """How often each of 48 shuffled rows is seen by a run that begins on eight devices and continues on two, or on one."""
    x, y = np.eye(48, dtype=np.float32), np.ones((48, 1), np.float32)
    layer = nn.linear(1, bias=False, weight_init=jax.nn.initializers.zeros)

    def program(**options):
        shuffled = {"train_batches": lambda context: stream.minibatches(x, y, batch_size=16, seed=context.seed)}
        return given(x, y, layer, model=train.supervised(layer, loss.mse()), **shuffled, **options)

    with tempfile.TemporaryDirectory() as folder:
        saving = train.Checkpoints(folder, steps=1, keep=checkpoint.keep_all)
        on_eight = run(program(checkpoints=saving), train.Sharded(rules={"data": train.fully_sharded}, chunk=1))
        first = run(checkpoint.saves(folder))[0]
        saved = run(checkpoint.read(first.path))
    two, one = (run(program(resume=saved), executor) for executor in (LAYOUTS["data 2"], None))
    visits = [(np.ravel(tree.leaves(each.params)[0]) * 8).tolist() for each in (on_eight, two, one)]  # 2/16 for the first visit
    return {"step": first.step, "visits": visits}


def scheduled():
    """Half a cosine over six steps of a constant gradient: not stepped once for each device, nor scaled by their number."""
    x, y = np.ones((8, 1), np.float32), np.full((8, 1), 100.0, np.float32)
    layer = nn.linear(1, bias=False, weight_init=jax.nn.initializers.zeros)
    factors = 0.5 * (1 + np.cos(np.pi * np.arange(6) / 6))
    model = {"model": train.supervised(layer, loss.mae())}
    program = given(x, y, layer, **model, schedule=optim.cosine(6), epochs=6)
    return compared(program, {"weight": factors.sum()}, {"weight": factors[0]}, {"weight": 8 * factors.sum()})


def stopped():
    """Early stopping by the validation loss of all rows: the epochs of a run, of NumPy, and of each device's own rows."""
    random = np.random.default_rng(1)
    teacher = random.standard_normal((16, 7))
    x = ROWS[43:86].astype(np.float64)
    y, other = (np.argmax(rows @ teacher + 4 * random.standard_normal((43, 7)), -1) for rows in (X, x))
    params = jax.tree.map(np.zeros_like, START)
    curve = []
    for _ in range(40):
        params = down(gradient(X, y, params), params, 0.3)
        losses = terms(params, x, other)[0]
        curve.append([losses.mean(), *(losses[part].mean() for part in PARTS)])
    ends = [1 + next((epoch for epoch in range(1, 40) if one[epoch] >= one[:epoch].min()), 39) for one in np.array(curve).T]
    program = given(
        X,
        y,
        rate=0.3,
        initial=jax.tree.map(np.zeros_like, jax.tree.map(np.float32, START)),
        epochs=40,
        folds={"stop": train.patience(1)},
        validation_batches=lambda context: stream.minibatches(np.float32(x), other, batch_size=32),
    )
    return {"runs": [len(run(program, each).curve) for each in BOTH.values()], "right": ends[0], "by device": ends[1:]}


if __name__ == "__main__":
    assert len(DEVICES) == 8
    print(json.dumps({name: globals()[name]() for name in sys.argv[1:]}))
