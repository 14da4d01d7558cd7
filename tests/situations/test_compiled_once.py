"""The same training, described again, compiles nothing; programs that are not used any more are dropped."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import jax
import numpy as np
import outcomes
import pytest

from fnlamp import Role, Tag, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.train.execute.programs import PROGRAMS, Kept

X, Y = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32), np.arange(40) % 3


@pytest.fixture
def compiled():
    """The names of the programs that XLA compiled while the test ran."""
    with outcomes.compiling(outcomes.compiled) as names:
        yield names


def model():
    layer = nn.sequence(hidden=nn.linear(7), norm=nn.batch_norm(), act=nn.relu, drop=nn.dropout(0.1), out=nn.linear(3))
    return train.supervised(layer, loss.cross_entropy(class_weights=np.array([1.0, 2.0, 3.0]), label_smoothing=0.1))


def describe(rate=1e-3, decay=0.0, optimizer=None, schedule=None, **options):
    return train.epochs(
        model=model(),
        optimizer=optimizer or optim.adamw(learning_rate=rate, weight_decay=decay, clip=1.0),
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=16, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(X, Y, batch_size=16),
        metrics={"accuracy": loss.accuracy},
        schedule=schedule or optim.warmup(3, optim.cosine(9)),
        **{"epochs": 2, **options},
    )


AGAIN = {
    "the same": {},
    "another rate": {"rate": 0.1},
    "another decay": {"decay": 0.3},
    "rates by parameter": {"rate": lambda tag: 0.1 if tag.path[0] == "out" else 0.01},
    "a number of NumPy's": {"rate": np.float64(0.02), "decay": np.float32(0.1)},
    "another seed": {"seed": 5},
    "more epochs": {"epochs": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Fused(), pytest.param(train.Stepwise(), marks=pytest.mark.slow)], ids=str)
def test_a_second_description_of_the_same_parts_compiles_nothing(compiled, executor):
    runtime = Runtime(log=None, executor=executor)
    first = describe().run(runtime).unwrap()._inner_value
    first.predict(X)
    assert compiled
    for name, options in AGAIN.items():
        compiled.clear()
        trained = describe(**options).run(runtime).unwrap()._inner_value
        trained.predict(X)
        train.evaluate(stream.minibatches(X, Y, batch_size=16), {"accuracy": loss.accuracy})(trained).run(runtime)
        assert compiled == [], name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda rate: optim.sgdw(rate), [0.1, 0.5]),
        (lambda rate: optim.sgdw(rate, momentum=rate), [0.1, 0.5]),
        (lambda rate: optim.sgdw(rate, weight_decay=rate, decay=optim.Decay.INDEPENDENT), [0.1, 0.5]),
        (lambda rate: optim.adamw(rate, weight_decay=rate), [1e-3, 1e-1]),
    ],
)
def test_a_rate_as_an_argument_gives_the_numbers_of_a_separate_program(one, other):
    """By the rule itself, outside a compiled step, with a constant rate."""
    for rate in other:
        optimizer = one(rate)
        params, tags = {"w": jax.numpy.asarray(X[0])}, {"w": Tag("linear", Role.WEIGHT)}
        state, given = optimizer.init(params, tags), optimizer.numbers(params, tags)
        for g in X[1:6]:
            expected, after = optimizer.advance({"w": g}, state, params, tags, 0.5)
            step = jax.jit(lambda *a, o=optimizer, t=tags: o.update(*a[:3], t, 0.5, a[3]))
            found, _ = step({"w": g}, state, params, given)
            np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)
            params, state = expected, after


@pytest.mark.slow
def test_other_parts_are_other_programs():
    def loss_of(**options):
        return describe(**options).run(Runtime(log=None)).unwrap()._inner_value.curve[-1].train_loss

    same = loss_of()
    assert loss_of() == same
    assert loss_of(schedule=optim.constant(1.0)) != same
    assert loss_of(optimizer=optim.adamw(1e-3, b1=0.5)) != same
    assert loss_of(optimizer=optim.sgdw(1e-3)) != same


@pytest.mark.slow
def test_a_grid_of_rates_compiles_as_often_as_one(compiled):
    describe(rate=0.5).run(Runtime(log=None))
    once = len(compiled)
    for rate in np.geomspace(1e-4, 1e-1, 8):
        describe(rate=float(rate)).run(Runtime(log=None))
    assert len(compiled) == once


def two_rules(rate):
    def choose(tag):
        return "matrices" if tag.matrix else "rest"

    momentum = optim.scheduled(1.0, optim.linear_ramp(0.8, 0.9, 5))
    rules = {"matrices": optim.muon(rate, rate, momentum), "rest": optim.adamw(optim.scheduled(rate, optim.cosine(9)))}
    return optim.by_tag(rules, choose, clip=1.0)


@pytest.mark.slow
def test_rates_of_rules_by_tag_and_with_a_schedule_compile_as_often_as_one(compiled):
    losses = set()
    for rate in (0.5, 0.1, 0.01):
        trained = describe(optimizer=two_rules(rate)).run(Runtime(log=None)).unwrap()._inner_value
        losses.add(trained.curve[-1].train_loss)
        if rate == 0.5:
            once = len(compiled)
    assert (len(compiled), len(losses)) == (once, 3)


def test_muon_says_before_training_which_parameter_is_not_a_matrix():
    with pytest.raises(ValueError, match=r"muon is for matrices, and Tag\(layer='linear', .*BIAS.*by_tag"):
        describe(optimizer=optim.muon()).run(Runtime(log=None))


def test_old_programs_are_dropped():
    kept: Kept = Kept(3)
    made = []

    class Program:
        pass

    for key in (1, 2, 3, 1, 4, 1):
        kept.get(key, lambda: made.append(1) or Program())
    assert len(made) == 4  # 1 was used again and again, and never made a second time
    kept.get(2, lambda: made.append(1) or Program())
    assert len(made) == 5
    with pytest.raises(ZeroDivisionError):
        kept.get(9, lambda: 1 / 0)
    assert kept.get(9, lambda: "made") == "made"


@pytest.mark.slow
def test_programs_of_a_map_that_captures_something_new_each_epoch_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(PROGRAMS, "most", 3)
    alive = []

    def batches(context):
        def changed(batch, by=context.epoch):
            return batch[0] + by, batch[1]

        alive.append(weakref.ref(changed))
        return stream.minibatches(X, Y, batch_size=20).map(changed)

    PROGRAMS.clear()
    program = train.epochs(
        model=train.supervised(nn.linear(3), loss.cross_entropy()), optimizer=optim.sgdw(0.1), train_batches=batches, epochs=10
    )
    program.run(Runtime(log=None)).unwrap()
    gc.collect()
    assert len(PROGRAMS) <= PROGRAMS.most
    assert sum(ref() is not None for ref in alive) <= PROGRAMS.most + 3


MEMORY = """
import sys, numpy as np
from fnlamp import nn, loss, optim, stream, train
from fnlamp.effect import Runtime
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
X, Y = np.ones((32, 4), np.float32), np.arange(32) % 3
def run(i):
    train.epochs(
        model=train.supervised(nn.linear(8) >> nn.relu >> nn.linear(3), loss.cross_entropy()),
        optimizer=optim.adamw(1e-3 * (i + 1)), epochs=2, seed=i,
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=8, seed=c.seed),
        validation_batches=lambda c: stream.full_batch(X, Y),
    ).run(Runtime(log=None)).unwrap()._inner_value.predict(X)
def mapped(epochs, marks):
    train.epochs(
        model=train.supervised(nn.linear(3), loss.cross_entropy()), optimizer=optim.sgdw(0.1), epochs=epochs,
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=32).map(lambda b: (b[0] + c.epoch, b[1])),
        on_epoch=lambda report: marks.append(resident()),
    ).run(Runtime(log=None, executor=train.Stepwise()))
if sys.argv[1] == "runs":
    marks = [run(i) or resident() for i in range(80)]
    print((marks[79] / marks[9] - 1) / 70)
else:
    marks = []
    mapped(400, marks)
    print((marks[399] / marks[99] - 1) / 300)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "share"), [("runs", 2.6e-4), ("map", 5.5e-5)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_memory_is_flat(what, share):
    """A run, or an epoch with a new function, leaves less than this share of the process behind."""
    done = subprocess.run([sys.executable, "-c", MEMORY, what], check=True, capture_output=True, text=True)
    assert float(done.stdout) < share
