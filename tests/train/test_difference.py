"""The difference of two programs: ordinary situations, each with the lines that it gives, and no line where there is none."""

from __future__ import annotations

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime, do
from fnlamp.identity import MISSING, differences

X = np.random.default_rng(3).random((25, 6), np.float32)
Y = X[:, :4].argmax(axis=1)


def layer(rate=0.1, width=8):
    return nn.linear(width) >> nn.relu >> nn.dropout(rate) >> nn.linear(4)


def program(model=None, x=X, y=Y, batch_size=10, objective=None, precision=train.float32, **options):
    defaults = {
        "optimizer": optim.adamw(1e-2),
        "train_batches": lambda context: stream.minibatches(x, y, batch_size=batch_size, seed=context.seed),
        "epochs": 2,
    }
    made = train.supervised(model or layer(), objective or loss.cross_entropy(), precision=precision)
    return train.epochs(model=made, **{**defaults, **options})


def lines(one, other):
    return str(train.difference(one, other)).splitlines()


def changed(array, *at):
    other = array.copy()
    other[at] += 1
    return other


def weighted(weights):
    return nn.fun(lambda x: x * weights) >> nn.linear(4)


def from_file(text, **names):
    """A function of a user's own file, which reads its globals."""
    space = {"np": np, "jnp": jnp, **names}
    exec(compile(text, "own.py", "exec"), space)
    return space["function"]


SITUATIONS = {
    "only the learning rate": (
        lambda: program(optimizer=optim.adamw(0.02)),
        ["learning_rate of adamw: 0.01 -> 0.02"],
    ),
    "a number of the rule that is not a hyperparameter by tag": (
        lambda: program(optimizer=optim.adamw(1e-2, eps=1e-6)),
        ["adamw, update, rule.eps: 1e-08 -> 1e-06"],
    ),
    "weight decay of some parameters": (
        lambda: program(optimizer=optim.adamw(1e-2, weight_decay=lambda tag: 0.1 if tag.matrix else 0.0)),
        ["weight_decay of 0/weight: 0 -> 0.1", "weight_decay of 3/weight: 0 -> 0.1"],
    ),
    "another rule": (
        lambda: program(optimizer=optim.sgdw(1e-2)),
        ["optimizer: adamw -> sgdw", "state of the optimizer: m, step, v -> step"],
    ),
    "another order of layers": (
        lambda: program(nn.linear(8) >> nn.dropout(0.1) >> nn.relu >> nn.linear(4)),
        ["layer 1: relu -> dropout(0.1)", "layer 2: dropout(0.1) -> relu"],
    ),
    "one argument of a layer": (lambda: program(layer(0.2)), ["layer 2: dropout(0.1) -> dropout(0.2)"]),
    "another size of a layer": (
        lambda: program(layer(width=9)),
        [
            "layer 0: linear(8) -> linear(9)",
            "parameter 0/bias: float32[8] -> float32[9]",
            "parameter 0/weight: float32[6, 8] -> float32[6, 9]",
            "parameter 3/weight: float32[8, 4] -> float32[9, 4]",
        ],
    ),
    "the same weights in another dtype": (
        lambda: program(precision=train.Precision(params=jnp.bfloat16)),
        [
            "precision: float32 -> float32 over bfloat16",
            "parameter 0/bias: float32[8] -> bfloat16[8]",
            "parameter 0/weight: float32[6, 8] -> bfloat16[6, 8]",
            "parameter 3/bias: float32[4] -> bfloat16[4]",
            "parameter 3/weight: float32[8, 4] -> bfloat16[8, 4]",
        ],
    ),
    "a row of the data": (
        lambda: program(x=changed(X, 7, 2)),
        [f"data of train_batches, rows, 0, 1 of 150 numbers, the first at [7, 2]: {X[7, 2]!s} -> {X[7, 2] + np.float32(1)!s}"],
    ),
    "a label": (
        lambda: program(y=changed(Y, 4)),
        [f"data of train_batches, rows, 1, 1 of 25 numbers, the first at [4]: {Y[4]} -> {Y[4] + 1}"],
    ),
    "the batch size": (
        lambda: program(batch_size=5),
        [
            "train_batches, batch_size: 10 -> 5",
            "data of train_batches, a batch: (float32[10, 6], int32[10]) -> (float32[5, 6], int32[5])",
            "data of train_batches, batches: 3 -> 5",
        ],
    ),
    "an argument of the loss": (
        lambda: program(objective=loss.cross_entropy(label_smoothing=0.1)),
        # the function of logits that are held, and the one of those that are not
        ["loss, apply.plain.apply.each.smoothing: 0.0 -> 0.1", "loss, apply.smoothing: 0.0 -> 0.1"],
    ),
    "a schedule": (
        lambda: program(schedule=optim.then(optim.constant(1.0), 4, optim.constant(0.5))),
        ["schedule, 2 of 6 steps, the first is step 4: 1 -> 0.5"],
    ),
    "a gradient": (lambda: program(gradient=train.microbatches(2)), ["gradient: plain -> microbatches(2)"]),
    "folds": (
        lambda: program(folds={"best": train.best("train_loss")}),
        ["folds, best: nothing -> best(train_loss)"],
    ),
    "metrics and validation": (
        lambda: program(metrics={"accuracy": loss.accuracy}, validate_every=2),
        ["metrics, accuracy: nothing -> accuracy", "validate_every: 1 -> 2"],
    ),
    "epochs": (lambda: program(epochs=3), ["epochs: 2 -> 3"]),
    "given weights": (
        lambda: program(nn.linear(4), initial={"weight": np.ones((6, 4), np.float32), "bias": np.zeros(4, np.float32)}),
        ["initial: nothing -> {params: {weight: float32[6, 4], bias: float32[4]}, layer_state: {}}"],
    ),
}


@pytest.mark.broad
@pytest.mark.parametrize("situation", SITUATIONS)
def test_an_ordinary_difference_has_its_lines(situation):
    make, expected = SITUATIONS[situation]
    base = program(nn.linear(4)) if situation == "given weights" else program()
    found = lines(base, make())
    assert [line for line in found if line not in expected] == []
    assert [line for line in expected if line not in found] == []


def test_another_seed_is_another_order():
    first, *others = lines(program(), program(seed=1))
    assert first == "seed: 0 -> 1"
    assert len(others) == 1
    assert others[0].startswith("data of train_batches, order of rows: ")


def twice(text, **names):
    return from_file(text, **names), from_file("\n\n# moved\n" + text, **names)


@pytest.mark.broad
@pytest.mark.parametrize(
    "make",
    [
        program,
        lambda: program(x=X.copy(), y=Y.copy()),
        lambda: program(weighted(np.arange(6, dtype=np.float32))),
        lambda: program(weighted(jnp.arange(6.0))),
        lambda: program(nn.fun(lambda x: x * jnp.zeros((50, 50)).sum()) >> nn.linear(4)),
        lambda: program(schedule=optim.warmup(3, optim.cosine(10)), folds={"best": train.best()}),
        lambda: program(gradient=train.perturbed(0.1)),
        lambda: program(on_epoch=lambda report: print(report), metrics={"own": lambda p, t: (p - t) ** 2}),
        lambda: program(optimizer=optim.by_tag({"w": optim.muon(), "r": optim.adamw()}, lambda t: "w" if t.matrix else "r")),
        lambda: program(train_batches=lambda c: stream.from_items([(X, Y)] * 2).map(lambda b: (2 * b[0], b[1]))),
        lambda: program(train_batches=lambda c: Resource.make(Effect.from_value(1), lambda s, o: Effect.from_value(None))),
    ],
    ids=range(11),
)
def test_the_same_described_twice_has_no_difference(make):
    found = train.difference(make(), make())
    assert (list(found), str(found), bool(found)) == ([], "no difference", False)


def test_a_captured_array_that_changed_in_one_element_is_named():
    w = np.arange(6, dtype=np.float32)
    (line,) = lines(program(weighted(w)), program(weighted(changed(w, 3))))
    assert line == "layer 0, <lambda>, function.weights, 1 of 6 numbers, the first at [3]: 3.0 -> 4.0"
    big = jnp.arange(6.0) + jnp.zeros((2000, 1))  # JAX arrays of this size compare by object identity elsewhere
    assert lines(program(weighted(big[0])), program(weighted(big[0] + 0))) == ["no difference"]


def test_code_is_compared_without_its_place():
    one, other = twice("def function(x):\n    return 2 * x\n")
    assert lines(program(nn.fun(one) >> nn.linear(4)), program(nn.fun(other) >> nn.linear(4))) == ["no difference"]
    third = from_file("def function(x):\n    return 3 * x\n")
    assert lines(program(nn.fun(one) >> nn.linear(4)), program(nn.fun(third) >> nn.linear(4))) == [
        "layer 0, function, function, in function: 2 -> 3"
    ]
    fourth = from_file("def function(x):\n\n    return jnp.sin(x)\n")
    assert lines(program(nn.fun(one) >> nn.linear(4)), program(nn.fun(fourth) >> nn.linear(4))) == [
        "layer 0, function, function: function at line 1 -> another function at line 1"
    ]


def test_globals_that_functions_read_are_named():
    text = "def function(x):\n    return SCALE['factor'] * x\n"
    one, other = from_file(text, SCALE={"factor": 1.0}), from_file(text, SCALE={"factor": 2.0})
    assert lines(program(nn.fun(one) >> nn.linear(4)), program(nn.fun(other) >> nn.linear(4))) == [
        "layer 0, function, function.SCALE.factor: 1.0 -> 2.0"
    ]


def test_a_schedule_of_other_code_with_the_same_factors_says_so():
    (line,) = lines(program(), program(schedule=optim.step_decay(100, 0.5)))
    assert line.startswith("schedule, with the same factors at all 6 steps")


@pytest.mark.slow
def test_programs_around_epochs_are_compared_too():
    def saved(trained):
        return Effect.from_value(trained)

    assert lines(program().named("a"), program().named("b")) == ["no difference"]
    assert lines(program().bind(saved), program().bind(saved)) == ["no difference"]
    assert lines(program().bind(saved), program()) == ["step 2 of the program: saved -> nothing"]
    first, second = lines(program().map(lambda t: t.params), program(epochs=3).map(lambda t: t.state))
    assert first == "epochs: 2 -> 3"
    assert second.startswith("step 2 of the program, <lambda>, func: <lambda> at line ")
    evaluated = [program().bind(train.evaluate(stream.full_batch(x, Y))) for x in (X, changed(X, 0, 0))]
    (line,) = lines(*evaluated)
    assert line.startswith("step 2 of the program, evaluate, batches")
    assert "1 of 150 numbers, the first at [0, 0]" in line
    both = program().then(program(epochs=3)), program().then(program(epochs=4))
    assert lines(*both) == ["epochs: 3 -> 4"]
    assert lines(program().retry(2), program().retry(3)) != ["no difference"]


def test_what_is_not_a_training_program_is_refused():
    @do
    def block():
        return (yield from program())

    for given in (Effect.from_value(1), block()):
        with pytest.raises(TypeError, match="other is a program with train.epochs"):
            train.difference(program(), given)
    with pytest.raises(TypeError, match="one is a program, as train.epochs"):
        train.difference(train.supervised(layer(), loss.mse()), program())


def test_a_program_that_cannot_be_described_says_why():
    found = lines(program(), program(nn.linear(4) >> nn.conv2d(3, (2, 2))))
    assert found[0].startswith("cannot be described: no fault -> ShapeMismatch: ")


@pytest.mark.slow
def test_a_resumed_run_differs_by_what_it_resumes():
    done = program(epochs=1).run_or_raise(Runtime(log=None))
    assert lines(program(resume=done), program(resume=done)) == ["no difference"]
    assert any(line.startswith("resume") for line in lines(program(resume=done), program()))


def test_nothing_is_run_or_allocated_and_each_factory_is_called_once():
    calls = []

    def counted(name):
        def batches(context):
            calls.append(name)
            return stream.minibatches(X, Y, batch_size=10, seed=context.seed)

        return batches

    one, other = (program(train_batches=counted(name)) for name in "ab")
    gc.collect()  # arrays of earlier tests, which would go in between
    before = len(jax.live_arrays())
    assert lines(one, other) == ["train_batches, name: a -> b"]
    assert calls == ["a", "b"]
    assert len(jax.live_arrays()) == before


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1, []),
        (1, True, [((), 1, True)]),
        (np.nan, np.nan, []),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), []),
        (np.zeros(2, np.float32), np.zeros(2), "one"),
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, [(("b", "1"), 2, 3)]),
        ({"a": 1}, {"b": 1}, [(("a",), 1, MISSING), (("b",), MISSING, 1)]),
        (functools.partial(max, 1, key=abs), functools.partial(max, 2, key=abs), [(("0",), 1, 2)]),
        (Slotted(1), Slotted(2), [(("size",), 1, 2)]),
        (Slotted(1), Slotted(1), []),
        ((1, 2), [1, 2], "one"),
        (jnp.zeros(5000), jnp.zeros(5000), []),
        (jax.random.key(0), jax.random.key(0), []),
        (jax.random.key(0), jax.random.key(1), "one"),
        (list(range(30_000)), list(range(30_000)), []),
        (stream.full_batch(X, Y), stream.full_batch(X.copy(), Y), []),
    ],
    ids=range(16),
)
def test_where_values_differ(one, other, expected):
    found = [tuple(pair) for pair in differences(one, other)]
    if expected == "one":
        assert len(found) == 1
    else:
        assert found == expected


def test_a_value_that_holds_itself_ends():
    one, other = [1], [2]
    one.append(one)
    other.append(other)
    assert [tuple(pair) for pair in differences(one, other)] == [(("0",), 1, 2)]
