"""What `Sharded` makes of programs on eight virtual devices, as JSON: run by test_sharded.py in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from dataclasses import replace

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnlamp import checkpoint, data, loss, models, nn, optim, stream, track, train, tree
from fnlamp.arrays import device_count
from fnlamp.effect import Runtime
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.execute.share import Share

RANDOM = np.random.default_rng(0)
DEVICES = np.array(jax.devices())
PIXELS = RANDOM.standard_normal((203, 8, 8, 3)).astype(np.float32)
ROWS = RANDOM.standard_normal((203, 16)).astype(np.float32)
LABELS = RANDOM.integers(0, 8, 203)
TEXT = RANDOM.integers(0, 32, (203, 16)).astype(np.int32)
LAYOUTS = {
    "data 2": train.Sharded(Mesh(DEVICES[:2], ("data",))),
    "data 8": train.Sharded(),
    "data 8, in chunks": train.Sharded(chunk=3),
    "fully sharded 8": train.Sharded(rules={"data": train.fully_sharded}),
    "tensor 4": train.Sharded(Mesh(DEVICES.reshape(2, 4), ("data", "model")), {"model": train.tensor_parallel}),
    "both": train.Sharded(
        Mesh(DEVICES.reshape(4, 2), ("data", "model")), {"model": train.tensor_parallel, "data": train.fully_sharded}
    ),
}
LAYERS = {
    "mlp": (nn.linear(32) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.2) >> nn.linear(8), ROWS, LABELS),
    "cnn": (
        nn.conv2d(16, 3) >> nn.batch_norm() >> nn.relu >> nn.fun(lambda x: x.mean((1, 2))) >> nn.dropout(0.2) >> nn.linear(8),
        PIXELS,
        LABELS,
    ),
    "gpt": (
        models.gpt(vocabulary=32, context=16, width=32, heads=4, layers=2, drop_rate=0.1),
        TEXT,
        np.roll(TEXT, -1, axis=1),
    ),
}


def describe(name="mlp", **options):
    layer, x, y = LAYERS[name]
    given = {
        "model": train.supervised(layer, loss.cross_entropy()),
        "optimizer": optim.sgdw(0.05, momentum=0.9, weight_decay=1e-3),
        "train_batches": lambda context: stream.minibatches(x, y, batch_size=32, seed=context.seed),  # the last has 11 rows
        "validation_batches": lambda context: stream.minibatches(x, y, batch_size=50),
        "metrics": {"accuracy": loss.accuracy},
        "train_metrics": {"accuracy": loss.accuracy},
        "epochs": 8,  # 56 steps
    }
    return train.epochs(**given | options)


def run(program, executor=None, **runtime):
    return program.run_or_raise(Runtime(log=None, executor=executor, **runtime))


def apart(a, b):
    """The distance of two trees of arrays by the length of the second."""
    a, b = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree.leaves(each)]) for each in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def curve(trained):
    return [
        [report.train_loss, report.validation_loss, report.samples, *map(float, report.train_metrics.values())]
        for report in trained.curve
    ]


def against(trained, one):
    weights = apart((trained.params, trained.layer_state), (one.params, one.layer_state))
    return [weights, float(np.abs(np.array(curve(trained)) / np.array(curve(one)) - 1).max())]


def equal(*names):
    """The relative distances of parameters and of curves to those of one device, by layout."""
    out = {}
    for name in names:
        one = run(describe(name))
        for title, executor in LAYOUTS.items():
            if name != "mlp" and title in ("data 8, in chunks", "both"):
                continue  # half a minute of compiling
            out[f"{name}, {title}"] = against(run(describe(name), executor), one)
    return out


def shares():
    """The largest part of parameters and moments on one device, what explain says of bytes, and what XLA does."""
    layer = nn.linear(512, bias=False) >> nn.relu >> nn.linear(64, bias=False)
    x, y = np.zeros((64, 256), np.float32), np.zeros(64, np.int32)
    program = describe(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.full_batch(x, y),
        validation_batches=None,
        metrics={},
        epochs=1,
    )
    executor = LAYOUTS["fully sharded 8"]
    state = run(program, executor).state
    arrays = tree.leaves((state.params, state.optimizer_state))
    held = [sum(s.data.nbytes for x in arrays for s in x.addressable_shards if s.device == d) for d in jax.devices()]
    runtime = Runtime(executor=executor)
    said = [line.split()[-1].replace(",", "") for line in program.explain(runtime).splitlines() if line.startswith("    ")]
    told = [line for line in program.explain(runtime).splitlines() if "bytes on each device" in line]
    memory = train.compiled_memory(program, runtime)
    found = {each.kind: each.uses for each in train.collectives(program, runtime)}
    apart_ = {each.kind: each.uses for each in train.collectives(program, Runtime(executor=LAYOUTS["data 8"]))}
    return {
        "share": max(held) / sum(x.nbytes for x in arrays),
        "explained": int(told[0].split(" bytes")[0].split()[-1].replace(",", "")),
        "lines": len(said),
        "arguments": memory.arguments,
        "sharded": found,
        "copies": apart_,
    }


def attention():
    """What devices exchange in a step of a GPT, data parallel, and the curve of one device and of eight."""
    texts = TEXT[:32]
    program = describe(
        model=train.supervised(models.gpt(vocabulary=32, context=16, width=16, heads=2, layers=1), loss.cross_entropy()),
        train_batches=lambda context: stream.minibatches(texts, texts, batch_size=16, seed=context.seed),
        validation_batches=None,
        epochs=2,
    )
    one = run(program)  # first: its trace of the step must not be that of eight devices
    eight = run(program, LAYOUTS["data 8"])
    found = train.collectives(program, Runtime(executor=LAYOUTS["data 8"]))
    return {
        "exchanged": {each.kind: each.nbytes for each in found},
        # The weight that the embedding shares with the logits has two gradients, added on each device.
        "gradients": sum(x.nbytes for x in tree.leaves(one.params)) + one.params["tokens"]["weight"].nbytes,
        "apart": [apart(eight.params, one.params), *(abs(a / b - 1) for a, b in zip(losses(eight), losses(one), strict=True))],
    }


def predicting():
    """The numbers of devices for which each way to predict traces a layer, and the distance from the predictions of one."""
    seen = []

    def noted(x):
        seen.append(device_count())
        return x

    x = TEXT[:16].astype(np.float32)
    program = describe(
        model=train.supervised(nn.linear(8) >> nn.fun(noted, "noted"), loss.mse()),
        train_batches=lambda context: stream.minibatches(x, x[:, :8], batch_size=16),
        validation_batches=None,
        metrics={},
        train_metrics={},
        epochs=1,
    )
    one, eight = run(program), run(program, LAYOUTS["data 8"])
    moved = replace(one, state=replace(one.state, params=jax.tree.map(jnp.asarray, jax.device_get(eight.params))))
    batches = train.predict_batches(stream.from_arrays(x, batch_size=8))
    calls = {
        "at once, on one": lambda: moved.predict(x),
        "at once, on eight": lambda: eight.predict(x),
        "at once, in batches": lambda: eight.predict(x, batch_size=8),
        "batches, on one": lambda: run(batches(moved)),
        "batches, on eight": lambda: run(batches(moved), LAYOUTS["data 8"]),
        "batches, of eight on one": lambda: run(batches(eight)),
    }
    PROGRAMS.clear()
    out, expected = {}, None
    for name, call in calls.items():
        seen.clear()
        made = np.asarray(call())
        expected = made if expected is None else expected
        out[name] = [sorted({*seen}), apart(made, expected)]
    return out


def sharing():
    """The threads of a stream made ahead, after each epoch and after predictions, if each pass reads a share of it."""
    items = [(row, row[:8]) for row in ROWS[:48]]
    counts = []

    def count(*_):
        counts.append(sum(thread.name == "fnlamp prefetch" for thread in threading.enumerate()))

    def program(s):
        training = describe(
            model=train.supervised(nn.linear(8), loss.mse()),
            train_batches=lambda context: s,
            validation_batches=lambda context: s.take(2),
            metrics={},
            train_metrics={},
            on_epoch=count,
            epochs=4,
        )
        return training.bind(train.predict_batches(s)).map(np.shape).map(lambda shape: (count(), shape))

    # One process has all parts of a batch here. Its share is made again each time, as in a cluster.
    whole, train.Sharded.share = train.Sharded.share, lambda self, s, mesh: Share(self.rows(mesh), 0, 8)
    try:
        ahead = data.loader(items, batch_size=16, transform=lambda item: item).bind(lambda s: s.prefetch(1))
        _, shape = run(ahead.use(program), LAYOUTS["data 8"])
    finally:
        train.Sharded.share = whole
    return [counts, list(shape)]


def losses(trained):
    return [report.train_loss for report in trained.curve]


def elsewhere():
    """Resumed on other devices, and from a file; evaluated, predicted, and recalibrated on many."""
    whole = run(describe(epochs=4))
    first = run(describe(epochs=2), LAYOUTS["fully sharded 8"])
    with tempfile.TemporaryDirectory() as folder:
        saving = describe(epochs=2, checkpoints=train.Checkpoints(folder))
        run(saving, LAYOUTS["both"])
        saved = checkpoint.latest(folder).run_or_raise(Runtime(log=None))
        from_file = run(describe(epochs=4, resume=saved), LAYOUTS["data 2"])
    eight, test = LAYOUTS["data 8"], stream.minibatches(ROWS, LABELS, batch_size=50)
    figures = [run(train.evaluate(test)(whole), each).loss for each in (None, eight, LAYOUTS["both"])]
    sharded = run(train.evaluate(test)(first), eight).loss
    rows = [run(train.predict_batches(stream.from_arrays(ROWS, batch_size=50))(whole), each) for each in (None, eight)]
    moments = [run(train.recalibrate(stream.from_arrays(ROWS, batch_size=50))(whole), each) for each in (None, eight)]
    return {
        "resumed on one": against(run(describe(epochs=4, resume=first)), whole),
        "resumed on two": against(run(describe(epochs=4, resume=first), LAYOUTS["data 2"]), whole),
        "resumed from a file": against(from_file, whole),
        "started from": apart(
            run(describe(epochs=1, initial=first), eight).params, run(describe(epochs=1, initial=first)).params
        ),
        "evaluated": max(abs(each / figures[0] - 1) for each in figures),
        "evaluated where it lies": abs(sharded / run(train.evaluate(test)(first)).loss - 1),
        "predicted": apart(rows[1], rows[0]),
        "predicted at once": apart(first.predict(ROWS), jax.device_get(first.predict(np.asarray(ROWS)))),
        "recalibrated": apart(moments[1].layer_state, moments[0].layer_state),
    }


def wrapped():
    """Everything that goes around a step: microbatches, averages, folds, precision, hooks, observers, streams of the host."""
    full = LAYOUTS["fully sharded 8"]

    def host(context):
        return replace(stream.minibatches(ROWS, LABELS, batch_size=32, seed=context.seed), view=None)

    many = {
        "microbatches": {"gradient": train.microbatches(4)},
        "averages": {"optimizer": optim.ema(optim.sgdw(0.05), 0.9)},
        "clipped": {"optimizer": optim.sgdw(0.05, clip=0.1)},
        "kept": {"folds": {"best": train.best()}},
        "host": {"train_batches": host},
    }
    out = {
        name: against(run(describe(epochs=3, **given), full), run(describe(epochs=3, **given))) for name, given in many.items()
    }
    events = []
    hooked = []
    watched = describe(
        epochs=2,
        indicators={"grad": train.gradient_norm()},
        measure_every=2,
        on_epoch=lambda report, trained: hooked.append(apart(trained.params, trained.params)),
    )
    run(watched, full, observers=(events.append,))
    told = []
    run(watched, observers=(told.append,))
    rows = [[e.values["grad"] for e in each if isinstance(e, track.Measured) and "grad" in e.values] for each in (events, told)]
    out["indicators"] = [apart(*map(np.array, rows)), abs(len(rows[0]) - len(rows[1]))]
    return out


def faults():
    """What a broken run and wrong rules end with."""
    bad = ROWS.copy()
    bad[130] = np.nan
    broken = describe(train_batches=lambda context: stream.minibatches(bad, LABELS, batch_size=32), validation_batches=None)
    quiet = {"log": None}
    out = {}
    for name, executor in (("one", None), ("eight", LAYOUTS["fully sharded 8"])):
        fault = broken.run(Runtime(executor=executor, **quiet)).failure()._inner_value
        out[name] = [
            type(fault).__name__,
            fault.step,
            int(fault.state.state.step),
            bool(np.isfinite(tree.global_norm(fault.state.params))),
        ]
    uneven = train.Sharded(rules={"data": lambda tag, shape, parts: 0})
    x = np.zeros((8, 3), np.float32)
    odd = describe(
        model=train.supervised(nn.linear(3), loss.mse()),
        train_batches=lambda c: stream.full_batch(x, x),
        validation_batches=None,
        metrics={},
        train_metrics={},
    )
    out["uneven"] = str(odd.run(Runtime(executor=uneven, **quiet)).failure()._inner_value)
    out["explained"] = type(odd.explain(Runtime(executor=uneven)).fault).__name__
    try:
        odd.run(Runtime(executor=train.Sharded(), device=jax.devices()[1], **quiet))
    except ValueError as error:
        out["device"] = str(error)
    return out


def limited():
    """A model whose state exceeds the memory of one device, by a limit, on one and on eight."""
    x = np.zeros((64, 256), np.float32)
    program = describe(
        model=train.supervised(nn.linear(1024, bias=False) >> nn.relu >> nn.linear(256, bias=False), loss.mse()),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.full_batch(x, x),
        validation_batches=None,
        metrics={},
        train_metrics={},
        epochs=1,
    )
    limit = 6 * 2**20  # parameters and moments are 6 MB, with their second copy 12
    alone = program.run(Runtime(log=None, memory=limit)).failure()._inner_value
    full = LAYOUTS["fully sharded 8"]
    return [type(alone).__name__, str(alone), int(run(program, full, memory=limit).state.step)]


def same_twice():
    """Whether the same layout gives the same bits again, and whether another chunk does."""
    first, again, chunk = (run(describe(epochs=2), LAYOUTS[name]) for name in ("data 8", "data 8", "data 8, in chunks"))
    return [tree.equal(first.params, again.params), tree.equal(first.params, chunk.params)]


if __name__ == "__main__":
    print(json.dumps({name: globals()[name.partition(":")[0]](*name.split(":")[1:]) for name in sys.argv[1:]}))
