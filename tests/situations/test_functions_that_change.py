"""A function that reads changing values uses their current ones: in maps, losses, metrics and layers, in every executor.

The expected values are NumPy's in float64 for the current scale.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import weakref
from array import array
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial, partialmethod
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import needs

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.identity import draws, identity
from fnlamp.identity.code import is_library
from fnlamp.loss import LossValue

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)).astype(np.float32), RNG.standard_normal((6, 1)).astype(np.float32)
WEIGHTS = {"weight": np.array([[0.5], [-1.0], [2.0]], np.float32), "bias": np.array([0.25], np.float32)}
SCALE = 1.0
TABLE = {"scales": {"x": [1.0]}}
ARRAY = np.ones(1, np.float32)
MODULE = types.ModuleType("settings_of_a_user")
MODULE.SCALE = 1.0
sys.modules[MODULE.__name__] = MODULE


@dataclass
class Config:
    scale: float = 1.0


class Holder:
    shared = 1.0

    def __init__(self) -> None:
        self.scale = 1.0
        self.unread = 0

    def read(self):
        return self.inner()

    def inner(self):
        return self.scale

    @property
    def computed(self):
        return self.scale

    def __call__(self):
        return self.scale


class Slotted:
    __slots__ = ("scale",)


CONFIG, HOLDER, SLOTTED, SPACE = Config(), Holder(), Slotted(), types.SimpleNamespace(scale=1.0)
SLOTTED.scale = 1.0


def helper():
    return SCALE


def by_import():
    from settings_of_a_user import SCALE

    return SCALE


def nested():
    def inner():
        return next(SCALE for _ in range(1))

    return inner()


def cell():
    value = 1.0

    def read():
        return value

    def write(new):
        nonlocal value
        value = new

    return read, write


READ_CELL, WRITE_CELL = cell()
REDEFINED = lambda: 1.0  # noqa: E731


def set_global(value):
    global SCALE
    SCALE = value


def redefine(value):
    global REDEFINED
    REDEFINED = {1.0: lambda: 1.0, 2.0: lambda: 2.0, 5.0: lambda: 5.0}[value]


class Looked:
    def __getattr__(self, name):
        if name == "scale":
            return SCALE
        raise AttributeError(name)

    def __getitem__(self, index):
        return SCALE

    def __enter__(self):
        return SCALE

    def __exit__(self, *error):
        pass


class Descriptor:
    def __get__(self, instance, owner):
        return SCALE


class Parent:
    described = Descriptor()

    def read(self):
        return SCALE

    def times(self, factor):
        return factor * SCALE

    twice = partialmethod(times, 2)


class Child(Parent):
    def read(self):
        return super().read()


class Constructed:
    def __init__(self):
        self.scale = SCALE


@dataclass
class Defaulted:
    scale: float = field(default_factory=lambda: SCALE)


class Scale(Enum):
    ONE = 1.0
    TWO = 2.0
    FIVE = 5.0


class Point(NamedTuple):
    scale: float


class Items(dict):
    scale = 1.0


def within():
    with LOOKED as value:
        return value


def by_local_import():
    import os as system

    return float(system.environ["SCALE_OF_A_USER"])


def replaces(name, make):
    return lambda value: globals().__setitem__(name, make(value))


LOOKED, CHILD, MEMBER, POINT, ITEMS = Looked(), Child(), Scale.ONE, Point(1.0), Items()
if importlib.util.find_spec("pandas"):
    pandas = importlib.import_module("pandas")
    SERIES, FRAME = pandas.Series([1.0]), pandas.DataFrame({"scale": [1.0]})
if importlib.util.find_spec("torch"):
    TENSOR = importlib.import_module("torch").ones(1)
NUMBERS, OBJECTS, VARIABLE = array("d", [1.0]), np.array([SPACE, None]), ContextVar("variable", default=1.0)
WEAK = weakref.ref(CONFIG)


GRADIENT = jax.custom_vjp(lambda x: x)
GRADIENT.defvjp(lambda x: (x, None), lambda _, g: (g * SCALE,))


def set_environment(value):
    os.environ["SCALE_OF_A_USER"] = str(value)


WAYS = {
    "a global": (lambda: SCALE, set_global),
    "a function that reads a global": (lambda: helper(), set_global),
    "a nested function": (nested, set_global),
    "an item of dicts and lists": (
        lambda: TABLE["scales"]["x"][0],
        lambda value: TABLE["scales"]["x"].__setitem__(0, value),
    ),
    "a field of a dataclass": (lambda: CONFIG.scale, lambda value: setattr(CONFIG, "scale", value)),
    "a field, by getattr": (lambda: getattr(CONFIG, "scale"), lambda value: setattr(CONFIG, "scale", value)),  # noqa: B009
    "a bound method": (HOLDER.read, lambda value: setattr(HOLDER, "scale", value)),
    "a property": (lambda: HOLDER.computed, lambda value: setattr(HOLDER, "scale", value)),
    "an object that is called": (HOLDER, lambda value: setattr(HOLDER, "scale", value)),
    "an attribute of a class": (lambda: Holder.shared, lambda value: setattr(Holder, "shared", value)),
    "an attribute of a class, of an object": (lambda: HOLDER.shared, lambda value: setattr(Holder, "shared", value)),
    "a slot": (lambda: SLOTTED.scale, lambda value: setattr(SLOTTED, "scale", value)),
    "a namespace": (lambda: SPACE.scale, lambda value: setattr(SPACE, "scale", value)),
    "a module": (lambda: MODULE.SCALE, lambda value: setattr(MODULE, "SCALE", value)),
    "an import inside": (by_import, lambda value: setattr(MODULE, "SCALE", value)),
    "an array filled in place": (lambda: jnp.asarray(ARRAY[0]), lambda value: ARRAY.fill(value)),
    "a variable of a closure": (READ_CELL, WRITE_CELL),
    "a function defined again": (lambda: REDEFINED(), redefine),
    "a default that is a dict": ((lambda held=TABLE: held["scales"]["x"][0]), lambda v: TABLE["scales"]["x"].__setitem__(0, v)),
    "a partial": (partial(lambda config: config.scale, CONFIG), lambda value: setattr(CONFIG, "scale", value)),
    "__getattr__": (lambda: LOOKED.scale, set_global),
    "__getitem__": (lambda: LOOKED[0], set_global),
    "__enter__": (within, set_global),
    "a descriptor": (lambda: CHILD.described, set_global),
    "a method of super": (CHILD.read, set_global),
    "a partialmethod": (lambda: CHILD.twice(), set_global),
    "a constructor": (lambda: Constructed().scale, set_global),
    "a default factory": (lambda: Defaulted().scale, set_global),
    "a member of an enum": (lambda: MEMBER.value, replaces("MEMBER", Scale)),
    "a named tuple": (lambda: POINT.scale, replaces("POINT", Point)),
    "an attribute of a dict's subclass": (lambda: ITEMS.scale, lambda value: setattr(ITEMS, "scale", value)),
    "a series": (lambda: SERIES.iloc[0], lambda value: SERIES.__setitem__(0, value)),
    "a table": (lambda: FRAME["scale"].iloc[0], lambda value: FRAME.__setitem__("scale", value)),
    "a tensor": (lambda: TENSOR.item(), lambda value: TENSOR.fill_(value)),
    "an array of Python's": (lambda: NUMBERS[0], lambda value: NUMBERS.__setitem__(0, value)),
    "an array of objects": (lambda: OBJECTS[0].scale, lambda value: setattr(SPACE, "scale", value)),
    "a context variable": (lambda: VARIABLE.get(), lambda value: VARIABLE.set(value)),
    "a weak reference": (lambda: WEAK().scale, lambda value: setattr(CONFIG, "scale", value)),
    "the environment": (lambda: float(os.getenv("SCALE_OF_A_USER")), set_environment),
    "the environment, imported inside": (by_local_import, set_environment),
    "globals()": (lambda: globals()["SCALE"], set_global),
    "eval": (lambda: eval("1 * SCALE"), set_global),
    "a module by its name": (
        lambda: importlib.import_module("settings_of_a_user").SCALE,
        lambda value: setattr(MODULE, "SCALE", value),
    ),
    "a cached function": (lambda: lru_cache(helper)(), set_global),
    "a compiled function": (jax.jit(lambda: SCALE * jnp.ones(())), set_global),
    "a custom gradient": (GRADIENT, set_global),
    "a vmapped function": (lambda: jax.vmap(lambda x: x * SCALE)(jnp.ones(1))[0], set_global),
}


def expected(scale):
    """The mean squared error of the fixed model on scaled features, in float64."""
    prediction = (scale * X.astype(np.float64)) @ WEIGHTS["weight"].astype(np.float64) + 0.25
    return float(((prediction - Y) ** 2).mean())


def scaled_loss(read):
    def squared(prediction, target):
        # The loss of the model on scaled features: w (s x) + b = s (w x + b) - (s - 1) b.
        moved = read() * prediction - (read() - 1) * 0.25
        return LossValue(jnp.sum((moved - target) ** 2), jnp.float32(target.size))

    return squared


def outcomes(read, executor):
    """The same number from a function in every place: a map, a loss, a metric, a layer."""
    quiet = Runtime(log=None, executor=executor)

    def of(layer, objective, batches, metrics=()):
        program = train.epochs(
            model=train.supervised(layer, objective),
            optimizer=optim.sgdw(0.0),
            train_batches=lambda context: batches(),
            validation_batches=lambda context: batches(),
            epochs=1,
            initial=WEIGHTS,
            metrics=dict(metrics),
        )
        trained = program.run(quiet).unwrap()._inner_value
        evaluation = train.evaluate(batches(), dict(metrics))(trained).run(quiet).unwrap()._inner_value
        return trained, evaluation

    def plain():
        return stream.minibatches(X, Y, batch_size=4)

    def mapped():
        return plain().map(lambda batch: (batch[0] * read(), batch[1]))

    yield (
        "plain iteration",
        sum(float(loss.mse()(x @ WEIGHTS["weight"] + 0.25, y).total) for x, y in stream.items(mapped())) / 6,
    )
    trained, evaluation = of(nn.linear(1), loss.mse(), mapped)
    yield "map: training", trained.curve[0].train_loss
    yield "map: validation", trained.curve[0].validation_loss
    yield "map: evaluate", evaluation.loss
    trained, evaluation = of(nn.linear(1), scaled_loss(read), plain, {"metric": scaled_loss(read)})
    yield "loss: training", trained.curve[0].train_loss
    yield "loss: validation", trained.curve[0].validation_loss
    yield "metric: validation", trained.curve[0].validation_metrics["metric"]
    yield "metric: evaluate", evaluation.metrics["metric"]
    layer = nn.fun(lambda x: x * read()) >> nn.linear(1)
    program = train.epochs(
        model=train.supervised(layer, loss.mse()),
        optimizer=optim.sgdw(0.0),
        train_batches=lambda c: plain(),
        epochs=1,
        initial={"0": {}, "1": WEIGHTS},
    )
    trained = program.run(quiet).unwrap()._inner_value
    yield "layer: training", trained.curve[0].train_loss
    yield "layer: predict", float(((np.asarray(trained.predict(X), np.float64) - Y) ** 2).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "executor"),
    [
        ("a global", train.Fused()),
        pytest.param("a bound method", train.Stepwise(), marks=pytest.mark.slow),
        pytest.param("an array filled in place", train.Fused(), marks=pytest.mark.slow),
    ],
)
def test_a_function_uses_current_values(way, executor):
    read, write = WAYS[way]
    for scale in (1.0, 5.0):
        write(scale)
        for place, found in outcomes(read, executor):
            assert found == pytest.approx(expected(scale), rel=1e-5), (place, scale)
    write(1.0)


NEEDED = {"a series": "pandas", "a table": "pandas", "a tensor": "torch"}


@pytest.mark.parametrize("way", [pytest.param(way, marks=needs(NEEDED[way]) if way in NEEDED else ()) for way in WAYS])
def test_the_identity_changes_with_the_value_and_back(way):
    read, write = WAYS[way]
    write(1.0)
    first = identity(read)
    write(2.0)
    second = identity(read)
    write(1.0)
    assert first != second
    assert identity(read) == first
    assert hash(identity(read)) == hash(first)


def test_values_that_a_function_does_not_read_do_not_matter():
    before = identity(HOLDER.read)
    HOLDER.unread += 1
    assert identity(HOLDER.read) == before


def test_a_value_that_changes_between_two_epochs_counts_from_the_next_epoch():
    lines, seen = [], []

    def hook(report):
        seen.append(report.train_loss)
        set_global(SCALE + 1)

    set_global(1.0)
    program = train.epochs(
        model=train.supervised(nn.linear(1), loss.mse()),
        optimizer=optim.sgdw(0.0),
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=4).map(lambda b: (b[0] * SCALE, b[1])),
        epochs=3,
        initial=WEIGHTS,
        on_epoch=hook,
    )
    program.run(Runtime(log=lines.append))
    assert seen == pytest.approx([expected(1.0), expected(2.0), expected(3.0)], rel=1e-5)
    assert sum("compiling again" in line and "map(function, value)" in line for line in lines) == 2
    set_global(1.0)


def test_arguments_of_map_have_current_values_without_compiling_again(caplog):
    lines = []
    scales = {1: 1.0, 2: 2.0, 3: np.float32(5.0), 4: jnp.float32(3.0)}
    program = train.epochs(
        model=train.supervised(nn.linear(1), loss.mse()),
        optimizer=optim.sgdw(0.0),
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=4).map(lambda b, s: (b[0] * s, b[1]), scales[c.epoch]),
        epochs=4,
        initial=WEIGHTS,
    )
    for executor in (train.Fused(), train.Stepwise()):
        trained = program.run(Runtime(log=lines.append, executor=executor)).unwrap()._inner_value
        found = [report.train_loss for report in trained.curve]
        assert found == pytest.approx([expected(scale) for scale in (1.0, 2.0, 5.0, 3.0)], rel=1e-5)
    assert not any("compiling again" in line for line in lines)


@pytest.mark.parametrize(
    "choose", [lambda s: s, lambda s: s.take(2), lambda s: s.drop(1).concat(s.take(1)), lambda s: s.every_nth(1)]
)
def test_arguments_stay_with_their_function_in_every_stream(choose):
    items = stream.from_items([(X[:4], Y[:4]), (X[4:], Y[4:])])
    for source in (stream.minibatches(X, Y, batch_size=4), items):
        mapped = choose(source.map(lambda b, k, key: (b[0] * k + jax.random.uniform(key), b[1]), 2.0, jax.random.key(3)))
        mapped = mapped.map(lambda b: (b[0] + 1, b[1])).map(lambda b, k: (b[0] * k, b[1]), np.float32(3.0))
        for (x, _), (raw, _) in zip(stream.items(mapped), stream.items(choose(source)), strict=True):
            np.testing.assert_allclose(x, (raw * 2.0 + float(jax.random.uniform(jax.random.key(3))) + 1) * 3.0, rtol=1e-5)


def test_numbers_drawn_while_compiling_are_named():
    generator = np.random.default_rng(0)
    assert draws(lambda batch: batch + np.random.normal()) == "numpy.random.normal"
    assert draws(lambda batch: batch + generator.normal()) == "a Generator"
    assert draws(lambda batch: batch + jnp.asarray(np.random.default_rng(0).normal())) is None
    assert draws(lambda batch, key: batch + jax.random.normal(key)) is None


def test_a_function_that_records_its_calls_keeps_its_identity():
    calls = []

    def noting(x):
        calls.append(1)
        return x

    before = identity(noting)
    noting(1)
    assert identity(noting) == before


def test_large_containers_and_cycles_have_an_identity():
    numbers = [0.0] * 100_000
    ring: dict = {}
    ring["self"] = ring
    before = identity(lambda: (numbers[0], ring))
    numbers[50_000] = 1.0
    assert identity(lambda: (numbers[0], ring)) != before


def test_fnlamp_is_a_library_wherever_it_is_installed():
    # A checkout and an installed package have the same identities: of fnlamp's own functions only closures are inspected.
    assert is_library(train.__file__) and is_library(nn.linear.__code__.co_filename)
    assert not is_library(__file__) and not is_library(f"{Path(train.__file__).parents[1]}_of_a_user/layer.py")
