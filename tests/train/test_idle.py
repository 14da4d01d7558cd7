"""Arguments that have no effect: each is named in one line, and only then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.layer import Init, Layer
from fnlamp.train.explain.work import used

X = np.random.default_rng(0).random((24, 3), np.float32)
Y = np.arange(24) % 3
GIVEN = {"weight": np.ones((3, 3), np.float32), "bias": np.zeros(3, np.float32)}


def shuffled(context):
    return stream.minibatches(X, Y, batch_size=8, seed=context.seed)


def in_order(context):
    return stream.minibatches(X, Y, batch_size=8)


def program(layer=None, precision=train.float32, **options):
    model = train.supervised(layer or nn.linear(3), loss.cross_entropy(), precision=precision)
    return train.epochs(model=model, **{"optimizer": optim.sgdw(0.1), "train_batches": shuffled, "epochs": 4, **options})


def two_heads(first, second):
    """A layer that computes two heads and returns the first."""

    def init(key, spec):
        made = {"first": first.init(key, spec), "second": second.init(key, spec)}
        params, tags = ({name: getattr(one, part) for name, one in made.items()} for part in ("params", "tags"))
        return Init(params, {}, made["first"].spec, tags)

    def apply(params, state, x, mode):
        second.apply(params["second"], {}, x, mode)
        return first.apply(params["first"], {}, x, mode)

    return Layer(init, apply, "two heads")


def validated(**options):
    return program(validation_batches=lambda c: stream.full_batch(X, Y), **options)


def resumed(**options):
    done = program(epochs=2, folds={"keep": train.top_k(1, "train_loss")}).run_or_raise(Runtime(log=None))
    return program(resume=done, **options)


CASES = {
    "not computed: accuracy, which need validation_batches": (
        lambda: program(metrics={"accuracy": loss.accuracy}),
        lambda: validated(metrics={"accuracy": loss.accuracy}),
    ),
    "no effect: validate_every=2, which needs validation_batches": (
        lambda: program(validate_every=2),
        lambda: validated(validate_every=2),
    ),
    "never validated: validate_every=5, and the last epoch is 4": (
        lambda: validated(validate_every=5),
        lambda: validated(validate_every=4),
    ),
    "no effect: the fold best, best(validation_loss), reads validation_loss, and the run has no validation_batches": (
        lambda: program(folds={"best": train.best()}),
        lambda: program(folds={"best": train.best("train_loss")}),
    ),
    "no effect: the fold best, best(highest accuracy), reads accuracy, and the run is never validated": (
        lambda: validated(
            folds={"best": train.best("accuracy", highest=True)}, metrics={"accuracy": loss.accuracy}, validate_every=9
        ),
        lambda: validated(folds={"best": train.best("accuracy", highest=True)}, metrics={"accuracy": loss.accuracy}),
    ),
    "no effect: the fold stop, patience(4, train_loss), decides after epoch 4 at the earliest, of 4": (
        lambda: program(folds={"stop": train.patience(4, "train_loss")}),
        lambda: program(folds={"stop": train.patience(3, "train_loss")}),
    ),
    "no effect: the fold slow, smoothed(0.5, reduce_on_plateau(0.5 after 2, validation_loss)), decides after epoch 4": (
        lambda: validated(folds={"slow": train.smoothed(0.5, train.reduce_on_plateau(0.5, 2))}, validate_every=2),
        lambda: validated(folds={"slow": train.smoothed(0.5, train.reduce_on_plateau(0.5, 2))}),
    ),
    "never full: the fold many, top_k(5, train_loss), has 5 slots, and the run 4 figures": (
        lambda: program(folds={"many": train.top_k(5, "train_loss")}),
        lambda: program(folds={"many": train.top_k(4, "train_loss")}),
    ),
    "no effect: the schedule, whose factor is 1 at each step": (
        lambda: program(schedule=optim.step_decay(1000, 0.5)),
        lambda: program(schedule=optim.constant(1.0)),
    ),
    "nothing is learned: the schedule's factor is 0 at each step": (
        lambda: program(schedule=optim.constant(0.0)),
        lambda: program(schedule=optim.cosine(2)),
    ),
    "learning_rate of sgdw is 0 for each of its parameters": (
        lambda: program(optimizer=optim.sgdw(0.0)),
        lambda: program(optimizer=optim.sgdw(lambda tag: 0.1 if tag.matrix else 0.0)),
    ),
    "nothing is learned: by_tag(rest: frozen) leaves all parameters frozen": (
        lambda: program(optimizer=optim.by_tag({"rest": optim.frozen()}, lambda tag: "rest")),
        lambda: program(
            optimizer=optim.by_tag({"a": optim.sgdw(0.1), "b": optim.frozen()}, lambda tag: "a" if tag.matrix else "b")
        ),
    ),
    "no effect: a of by_tag(a: muon, b: sgdw), which has none of the parameters": (
        lambda: program(optimizer=optim.by_tag({"a": optim.muon(0.1), "b": optim.sgdw(0.1)}, lambda tag: "b")),
        lambda: program(
            optimizer=optim.by_tag({"a": optim.muon(0.1), "b": optim.sgdw(0.1)}, lambda tag: "a" if tag.matrix else "b")
        ),
    ),
    "no gradient: second/bias, second/weight, on which the loss does not depend": (
        lambda: program(two_heads(nn.linear(3), nn.linear(2))),
        lambda: program(nn.linear(4) >> nn.relu >> nn.linear(3)),
    ),
    "no effect: bfloat16 reaches no product of the model, each of which takes float32": (
        lambda: program(nn.fun(lambda x: x.astype(jnp.float32)) >> own_float32(), train.bfloat16),
        lambda: program(precision=train.bfloat16),
    ),
    "the same order in each epoch: train_batches does not read context.seed": (
        lambda: program(train_batches=lambda c: stream.minibatches(X, Y, batch_size=8, seed=3)),
        lambda: program(train_batches=lambda c: stream.minibatches(X, Y, batch_size=8, seed=3 + c.epoch)),
    ),
    "no effect: seed=7: the weights are given, no step draws numbers, no factory reads context.seed": (
        lambda: program(seed=7, initial=GIVEN, train_batches=in_order),
        lambda: program(nn.dropout(0.5) >> nn.linear(3), seed=7, initial={"1": GIVEN}, train_batches=in_order),
    ),
    "dropped: what the run to resume has of keep, as no fold has that name": (
        lambda: resumed(),
        lambda: resumed(folds={"keep": train.top_k(1, "train_loss")}),
    ),
    "no epoch is left: the run to resume is past epoch 2": (
        lambda: resumed(epochs=2, folds={"keep": train.top_k(1, "train_loss")}),
        lambda: resumed(epochs=3, folds={"keep": train.top_k(1, "train_loss")}),
    ),
}
WORDS = tuple({line.partition(":")[0] for line in CASES} | {"of sgdw is 0"})


def own_float32():
    """A linear layer whose product is in float32 whatever its parameters are in."""
    inner = nn.linear(3)
    return Layer(
        inner.init,
        lambda p, s, x, mode: (x @ p["weight"].astype(jnp.float32) + p["bias"].astype(jnp.float32), s),
        "own",
    )


def lines_of(described):
    return [line.strip() for line in described.explain().splitlines() if any(word in line for word in WORDS)]


@pytest.mark.broad
@pytest.mark.parametrize("line", CASES)
def test_a_line_names_what_has_no_effect(line):
    assert [said.startswith(line) for said in lines_of(CASES[line][0]())].count(True) == 1


@pytest.mark.broad
@pytest.mark.parametrize("line", CASES)
def test_nothing_is_said_where_it_has_one(line):
    assert lines_of(CASES[line][1]()) == []


@pytest.mark.broad
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"seed": 7, "initial": GIVEN},
        {"seed": 7, "train_batches": in_order},
        {"seed": 7, "initial": GIVEN, "train_batches": in_order, "gradient": train.perturbed(0.1)},
        {"seed": 7, "initial": GIVEN, "train_batches": in_order, "validation_batches": shuffled},
        {"epochs": 1, "train_batches": lambda c: stream.minibatches(X, Y, batch_size=8, seed=0)},
        {"train_batches": lambda c: stream.from_items([(X, Y.astype(np.int32))] * 3)},
        {"train_batches": lambda c: stream.minibatches(X, Y, batch_size=8, seed=np.random.randint(9))},
        {"epochs": 0, "metrics": {"accuracy": loss.accuracy}},
        {"folds": {"time": train.time_budget(60.0), "best": train.best(lambda report: report.train_loss)}},
        {"optimizer": optim.sgdw(0.1, weight_decay=0.0)},
        {"schedule": optim.warmup(5, optim.constant(1.0))},
    ],
    ids=str,
)
def test_ordinary_programs_are_left_alone(options):
    assert lines_of(program(**options)) == []


def test_a_run_logs_what_is_known_without_tracing():
    lines = []
    program(validate_every=2, folds={"best": train.best()}, epochs=1).run(Runtime(log=lines.append))
    text = "\n".join(lines)
    assert "no effect: validate_every=2" in text
    assert "no effect: the fold best" in text


def test_a_program_inside_counts_with_all_that_it_is_given():
    def function(x, y, z):
        return jax.jit(lambda a, b: a)(x, y), z

    jaxpr = jax.make_jaxpr(function)(1.0, 2.0, 3.0).jaxpr
    assert used(jaxpr, jaxpr.outvars[:1])[1] == [True, True, False]
