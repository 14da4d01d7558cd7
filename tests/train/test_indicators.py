"""Indicators: their numbers against NumPy, exact steps with each executor, and training with the same bits."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, same_bytes, value

from fnlamp import Role, loss, nn, optim, stream, track, train
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import NonFinite
from fnlamp.mode import Train, name_key, seed_key
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.indicators.indicator import counted
from fnlamp.train.indicators.summary import NAMES, summaries, summary

RNG = np.random.default_rng(0)
X = RNG.standard_normal((46, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
EVERYTHING = {
    "loss": train.step_loss(),
    "rate": train.learning_rate(),
    "norm": train.gradient_norm(),
    "parameters": train.statistics("parameters"),
    "gradients": train.statistics("gradients"),
    "updates": train.statistics("updates", by=lambda tag: tag.role.name.lower()),
    "activations": train.activations(),
    "counts": train.histogram("gradients", 4),
    "last": train.every(2, train.queue(train.step_loss(), 3)),
}
FEW = {name: EVERYTHING[name] for name in ("loss", "norm", "last")}
MODEL = nn.sequence(hidden=nn.linear(6), act=nn.relu, drop=nn.dropout(0.2), out=nn.linear(2))


def described(**options):
    given = {
        "model": train.supervised(MODEL, loss.cross_entropy()),
        "optimizer": optim.adamw(0.05),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=4, seed=context.seed),
        "epochs": 2,
        "indicators": FEW,
        "measure_every": 5,
    }
    return train.epochs(**{**given, **options})


def watched(program, executor=None, ending=value, **settings):
    """How a run ends, and the values of its steps by name and step."""
    told = []
    found = ending(program, Runtime(log=None, executor=executor, observers=(told.append,), **settings))
    values = {}
    for event in told:
        if isinstance(event, track.Measured) and "train.loss" not in event.values:
            for name, each in event.values.items():
                values.setdefault(name, {})[event.step] = each
    return found, values


# ------------------------------------------------------------------------------- numbers


@pytest.mark.slow
def test_the_values_of_a_step_are_those_that_numpy_and_plain_gradients_give():
    x, y = X[:8], Y[:8]
    schedule = optim.linear_ramp(1.0, 0.5, 4)
    model = train.supervised(MODEL, loss.cross_entropy())
    batches = lambda context: stream.full_batch(x, y)  # noqa: E731
    given = {"train_batches": batches, "schedule": schedule, "optimizer": optim.sgdw(0.1)}
    trained, found = watched(described(epochs=3, measure_every=1, indicators=EVERYTHING, **given))
    before = value(described(epochs=2, **given), Runtime(log=None))
    mode = Train(jax.random.fold_in(name_key(seed_key(0), "step"), 2))

    def mean(params):
        return model.evaluate(params, {}, (x, y), mode)[0].mean

    expected, grads = jax.value_and_grad(mean)(before.params)
    flat = np.concatenate([np.ravel(np.asarray(g, np.float64)) for g in jax.tree.leaves(grads)])
    assert found["loss"][3] == pytest.approx(float(expected), rel=1e-6)
    assert found["norm"][3] == pytest.approx(np.linalg.norm(flat), rel=1e-6)
    assert found["rate"] == {step: pytest.approx(0.1 * float(schedule(step - 1)), rel=1e-6) for step in (1, 2, 3)}
    for layer in ("hidden", "out"):
        for name in ("weight", "bias"):
            for prefix, tree in (("gradients", grads), ("parameters", trained.params)):
                numbers = np.asarray(tree[layer][name], np.float64)
                figures = numbers.mean(), numbers.std(), np.abs(numbers).max(), np.linalg.norm(numbers)
                for statistic, figure in zip(NAMES, figures, strict=False):
                    assert found[f"{prefix}.{layer}.{name}.{statistic}"][3] == pytest.approx(figure, rel=1e-5, abs=1e-8)
    moved = [
        np.ravel(np.asarray(trained.params[n]["weight"], np.float64) - before.params[n]["weight"]) for n in ("hidden", "out")
    ]
    assert found["updates.weight.norm"][3] == pytest.approx(np.linalg.norm(np.concatenate(moved)), rel=1e-4)
    hidden = x @ np.asarray(before.params["hidden"]["weight"]) + np.asarray(before.params["hidden"]["bias"])
    assert found["activations.hidden.mean"][3] == pytest.approx(hidden.mean(), abs=1e-6)
    assert found["activations.act.zeros"][3] == pytest.approx(np.mean(hidden <= 0))
    counts = found["counts.hidden.weight"][3]
    assert np.array_equal(counts.counts, np.histogram(np.ravel(grads["hidden"]["weight"]), counts.edges.astype(np.float32))[0])


HARD = {
    "many": RNG.standard_normal(100_003),
    "far from zero": 1000 + RNG.standard_normal(5000),
    "tiny": 1e-25 * RNG.standard_normal(5000),
    "huge": 1e25 * RNG.standard_normal(5000),
    "zero": np.zeros(10),
    "one": np.array([3.0]),
    "half zero": np.where(np.arange(9000) % 2, 0, RNG.standard_normal(9000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_statistics_agree_with_float64(name):
    numbers = HARD[name].astype(np.float32)
    wide = numbers.astype(np.float64)
    parts = [jnp.asarray(part) for part in np.split(numbers, [len(numbers) // 3]) if part.size]
    found = summary(parts, zeros=True)
    expected = [wide.mean(), wide.std(), np.abs(wide).max(), np.linalg.norm(wide), np.mean(wide == 0)]
    scale = np.abs(wide).max()
    assert np.asarray(found, np.float64) == pytest.approx(expected, rel=1e-4, abs=2e-6 * scale)


def test_statistics_of_numbers_that_are_not_finite_show_it():
    for bad in (np.nan, np.inf, -np.inf):
        found = np.asarray(summaries({"x": [jnp.array([1.0, bad, 2.0])]})["x"])
        assert not np.isfinite(found).any()
    half = summaries({"x": [jnp.array([1.0, 3.0], jnp.bfloat16), jnp.array([2.0])]})["x"]
    assert half[0] == pytest.approx(2.0)


def test_each_number_is_in_one_bin_or_not_finite():
    numbers = np.concatenate([RNG.standard_normal(9999), [np.nan, np.inf, -np.inf, 50.0, -50.0]]).astype(np.float32)
    view = train.StepView(*([None] * 3), {"a": jnp.asarray(numbers)}, *([None] * 9))
    for indicator, ends in (
        (train.histogram("parameters", 7), (-50, 50)),
        (train.histogram("parameters", 7, (-1, 2)), (-1, 2)),
    ):
        found = indicator.told("h", jax.tree.map(np.asarray, indicator.measure(view)))["h.a"]
        assert (found.edges[0], found.edges[-1]) == ends
        inside = np.clip(numbers[np.isfinite(numbers)], *ends)
        assert found.counts.tolist() == np.histogram(inside, found.edges.astype(np.float32))[0].tolist()
        assert found.not_finite == 3
    for numbers in (np.full(3, np.nan), np.full(3, 1e30), np.array([1e30, np.nan]), np.array([])):
        found = counted(numbers, 5)
        assert found.counts.sum() == np.isfinite(numbers).sum()


@pytest.mark.slow
def test_the_loss_of_each_example_by_its_number_in_batches_of_two_sizes():
    numbered = {"x": X, "row": np.arange(len(X), dtype=np.int32)}
    model = train.supervised(nn.fun(lambda x: x["x"]) >> nn.linear(2), loss.cross_entropy())
    seen = train.indexed(lambda batch: batch[0]["row"])
    program = described(
        model=model,
        train_batches=lambda context: stream.minibatches(numbered, Y, batch_size=8, seed=context.seed, drop_last=False),
        optimizer=optim.sgdw(0.0),
        epochs=1,
        indicators={"each": seen, "last": train.queue(seen, 100)},
        measure_every=1,
    )
    for executor in (train.Fused(chunk=4), train.Stepwise()):
        trained, found = watched(program, executor)
        indices = np.concatenate([each.indices for each in found["each"].values()])
        losses = np.concatenate([each.values for each in found["each"].values()])
        assert sorted(indices) == list(range(len(X)))
        weight, bias = (np.asarray(trained.params["1"][name], np.float64) for name in ("weight", "bias"))
        logits = X.astype(np.float64) @ weight + bias
        expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(X)), Y]
        assert losses == pytest.approx(expected[indices], rel=1e-5)
        assert found["last"][6].counts.sum() == 2 * len(X)


@pytest.mark.slow
def test_the_learning_rates_of_several_rules_with_their_own_schedules():
    rules = {
        "heads": optim.sgdw(lambda tag: 0.1 if tag.role is Role.BIAS else 0.2),
        "rest": optim.adamw(optim.scheduled(0.3, optim.linear_ramp(1.0, 0.0, 20))),
    }
    optimizer = optim.ema(optim.by_tag(rules, lambda tag: "heads" if tag.path[0] == "out" else "rest"), 0.9)
    rate = {"rate": train.learning_rate()}
    _, found = watched(described(optimizer=optimizer, indicators=rate, schedule=optim.constant(0.5)))
    assert found["rate.heads.lowest"][10] == pytest.approx(0.05)
    assert found["rate.heads.highest"][10] == pytest.approx(0.1)
    assert found["rate.rest"][10] == pytest.approx(0.15 * (1 - 9 / 20), rel=1e-5)
    own = optim.Optimizer(lambda p, t: {}, lambda g, s, p, t, scale, n: (jax.tree.map(lambda a, b: a - scale * b, p, g), s))
    _, found = watched(described(optimizer=own, indicators=rate, schedule=optim.constant(0.5)))
    assert found["rate.factor"][10] == 0.5


# ------------------------------------------------------------------------------- steps and bits


def whole(trained):
    state = trained.state
    return [state.params, state.layer_state, state.optimizer_state, state.tally, state.step]


EXECUTORS = [train.Fused(chunk=4), train.Fused(chunk=1), train.Fused(), train.Stepwise()]


def viewed(context):
    return stream.minibatches(X, Y, batch_size=4, seed=context.seed)


def sent(context):
    return replace(viewed(context), view=None)


def check_bits(indicators, cases):
    plain, expected = value(described(indicators={}), Runtime(log=None)), None
    for executor, batches in cases:
        trained, found = watched(described(train_batches=batches, indicators=indicators), executor)
        same_bytes(whole(trained), whole(plain))
        assert list(found["loss"]) == [5, 10, 15, 20]
        assert list(found["last"]) == list(range(2, 25, 2))
        scalars = {name: each for name, each in found.items() if isinstance(each[max(each)], float)}
        expected = expected or scalars
        assert scalars.keys() == expected.keys()
        for name, each in scalars.items():  # each executor's program adds up in its own order
            assert each == pytest.approx(expected[name], rel=1e-6, abs=1e-7, nan_ok=True), name


@pytest.mark.slow
def test_training_has_the_same_bits_and_tells_the_same_values_at_the_same_steps_with_each_executor():
    check_bits(FEW, [(EXECUTORS[0], viewed), (train.Fused(), sent), (EXECUTORS[-1], viewed)])


@pytest.mark.slow
def test_training_has_the_same_bits_with_all_indicators():
    check_bits(EVERYTHING, [(executor, batches) for executor in EXECUTORS for batches in (viewed, sent)])


BITS = {
    "microbatches": {"gradient": train.microbatches(3)},
    "adversarial": {"gradient": train.adversarial(0.1)},
    "tied": {"model": train.supervised(nn.repeat(nn.linear(5), 3, shared=True) >> nn.linear(2), loss.cross_entropy())},
    "float16": {"model": train.supervised(MODEL, loss.cross_entropy(), precision=train.float16)},
    "momentum": {"optimizer": optim.clipped(optim.sgdw(0.05, 1e-3, momentum=0.9), norm=0.1)},
    "schedule free": {"optimizer": optim.schedule_free(optim.adamw(0.05))},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("executor", [train.Fused(chunk=4), train.Stepwise()], ids=str)
def test_training_has_the_same_bits_whatever_is_measured(name, executor):
    trained, found = watched(described(indicators=EVERYTHING, **BITS[name]), executor)
    same_bytes(whole(trained), whole(value(described(indicators={}, **BITS[name]), Runtime(log=None))))
    assert list(found["loss"]) == [5, 10, 15, 20]


@pytest.mark.slow
def test_a_run_resumed_within_an_epoch_has_other_indicators_and_the_same_bits():
    stop = CancelToken()
    halt = {"halt": train.every(7, train.Indicator(lambda view: view.step, values=lambda step: stop.cancel() or float(step)))}
    interrupted, found = watched(described(indicators=halt), train.Fused(chunk=3), ending=fault, cancel=stop)
    assert found == {"halt": {7: 7.0}}
    resumed, found = watched(described(resume=interrupted.state), train.Fused(chunk=4))
    same_bytes(whole(resumed), whole(value(described(indicators={}), Runtime(log=None))))
    assert list(found["loss"]) == [10, 15, 20]


def test_a_save_is_resumed_by_a_program_with_other_indicators(tmp_path):
    policy = train.Checkpoints(tmp_path, steps=4)
    value(described(epochs=1, checkpoints=policy), Runtime(log=None))
    resumed = train.resumable(tmp_path, lambda saved: described(indicators={}, resume=saved, checkpoints=policy))
    assert value(resumed, Runtime(log=None)).state.epoch == 3


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS[::3], ids=str)
def test_the_values_before_a_step_that_breaks_are_told_and_its_own(executor):
    bad = np.array(X)
    bad[26] = np.nan  # in step 7
    batches = lambda context: stream.minibatches(bad, Y, batch_size=4)  # noqa: E731
    found, told = watched(described(train_batches=batches, measure_every=1), executor, ending=fault)
    assert isinstance(found, NonFinite)
    assert list(told["loss"]) == list(range(1, 8))
    assert [math.isnan(each) for each in told["loss"].values()] == [False] * 6 + [True]
    assert told["last"][6].not_finite == 0


@pytest.mark.slow
def test_a_step_that_the_optimizer_skips_is_told_as_what_it_is():
    bad = np.array(X)
    bad[26] = np.nan
    skipping = {
        "train_batches": lambda context: stream.minibatches(bad, Y, batch_size=4),
        "optimizer": optim.skip_non_finite(optim.adamw(0.05)),
        "epochs": 1,
    }
    kinds = {**FEW, **{name: EVERYTHING[name] for name in ("gradients", "updates")}}
    trained, told = watched(described(measure_every=1, indicators=kinds, **skipping))
    assert [math.isnan(each) for each in told["loss"].values()] == [step == 7 for step in range(1, 13)]
    assert math.isnan(told["gradients.hidden.weight.mean"][7])
    assert told["updates.weight.norm"][7] == 0
    same_bytes(whole(trained), whole(value(described(indicators={}, **skipping), Runtime(log=None))))


@pytest.mark.slow
def test_a_dispatch_has_no_more_steps_than_its_buffers_have_rows(monkeypatch):
    from fnlamp.train.execute import record

    monkeypatch.setattr(record, "ROOM", (2, 2**20))
    PROGRAMS.clear()
    events = []
    runtime = Runtime(log=None, executor=train.Fused(chunk=100), observers=(events.append,))
    value(described(indicators={"loss": train.step_loss()}, measure_every=2, epochs=1), runtime)
    PROGRAMS.clear()
    reached = [event.step for event in events if isinstance(event, track.Advanced) and event.name == "train"]
    assert reached == [4, 8, 11, 12]  # the last batch is shorter, and in another program
    assert [event.step for event in events if isinstance(event, track.Measured)][:-1] == [2, 4, 6, 8, 10, 12]


# ------------------------------------------------------------------------------- no cost


def test_without_observers_or_indicators_the_program_is_the_same():
    runs = []
    for indicators, observers in (({}, ()), (FEW, ()), ({}, (lambda event: None,))):
        PROGRAMS.clear()
        value(described(indicators=indicators, epochs=1), Runtime(log=None, observers=observers))
        runs.append([key[:2] for key in PROGRAMS._values])
    assert runs[0] == runs[1] == runs[2]
    assert all(body.recorder is None for _, body in runs[0])


def test_explain_says_what_is_measured_and_its_bytes():
    text = str(described(indicators={"loss": train.step_loss(), "each": train.every(1, train.gradient_norm())}).explain())
    assert "measured every 5 steps, if the runtime has observers: loss (loss); 4 bytes, 4,096 for 1,024 of them" in text
    assert "measured each step, if the runtime has observers: each (gradient norm); 4 bytes" in text


def test_wrong_indicators_are_refused_when_the_program_is_described():
    with pytest.raises(TypeError, match="call it, as train.step_loss"):
        described(indicators={"loss": train.step_loss})
    with pytest.raises(TypeError, match="named by strings"):
        described(indicators={1: train.step_loss()})
    for name in ("train.loss", "validation.accuracy", "epoch.seconds"):
        with pytest.raises(ValueError, match="the name of a figure of an epoch"):
            described(indicators={name: train.step_loss()}, metrics={"accuracy": loss.accuracy})
    with pytest.raises(ValueError, match=r"'a.b.c'\] may have the name of a value of indicators\['a'\]"):
        described(indicators={"a.b.c": train.step_loss(), "a": train.statistics("gradients")})
    with pytest.raises(ValueError, match="measure_every"):
        described(measure_every=0)
    with pytest.raises(ValueError, match="of is one of"):
        train.statistics("weights")
    with pytest.raises(ValueError, match="goes from a number to a higher one"):
        train.histogram("parameters", range=(1, 0))
    wrong = {"each": train.indexed(lambda batch: batch[1][:2])}
    with pytest.raises(TypeError, match="one for each row"):
        watched(described(indicators=wrong))
