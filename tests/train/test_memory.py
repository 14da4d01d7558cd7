"""Memory by part, against the bytes of real states and data, and XLA's analysis of a compiled step."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import FaultError
from fnlamp.train.explain.memory import slots_of

X = np.random.default_rng(0).random((50, 6), np.float32)
Y = np.arange(50) % 4
LAYER = nn.linear(8) >> nn.batch_norm() >> nn.linear(4)


def describe(**options):
    defaults = {"optimizer": optim.adamw(1e-2), "epochs": 1}
    batches = lambda c: stream.minibatches(X, Y, batch_size=16, seed=c.seed)  # noqa: E731
    model = train.supervised(options.pop("layer", LAYER), loss.cross_entropy())
    return train.epochs(model=model, **{"train_batches": batches, **defaults, **options})


def parts_of(program):
    """The table of memory in a plan."""
    lines = program.explain().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("  memory: "))
    rows = [line for line in lines[start + 1 :] if line.startswith("    ")]
    pairs = [row.strip().rsplit("  ", 1) for row in rows]
    return lines[start], {name.strip(): int(size.replace(",", "")) for name, size in pairs}


def nbytes(tree):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


RULES = {
    "sgdw": optim.sgdw(0.1, momentum=0.9),
    "adamw": optim.adamw(1e-2),
    "shampoo": optim.shampoo(1e-2),
    "by_tag": optim.by_tag({"w": optim.muon(1e-2), "rest": optim.adamw(1e-2)}, lambda t: "w" if t.matrix else "rest"),
}


@pytest.mark.broad
@pytest.mark.parametrize("name", [*RULES][:2] + [pytest.param(name, marks=pytest.mark.slow) for name in [*RULES][2:]])
def test_parts_are_the_bytes_of_a_real_state(name):
    program = describe(optimizer=RULES[name])
    title, parts = parts_of(program)
    state = program.run_or_raise(Runtime(log=None)).state
    slots = {part: size for part, size in parts.items() if part.startswith(f"{RULES[name]}, ")}
    assert parts["parameters"] == nbytes(state.params)
    assert parts["layer state"] == nbytes(state.layer_state)
    assert sum(slots.values()) == nbytes(state.optimizer_state)
    assert parts["a second copy of these"] == nbytes((state.params, state.layer_state, state.optimizer_state))
    assert parts["training data"] == X.nbytes + Y.nbytes // 2 + 50 * 4  # labels in 32 bits; the number of each row
    assert f"{sum(parts.values()):,} bytes" in title


def test_each_slot_has_a_line():
    _, parts = parts_of(describe(layer=nn.linear(4)))
    assert {name: parts[name] for name in parts if "adamw" in name} == {
        "adamw, m": 4 * 28,
        "adamw, v": 4 * 28,
        "adamw, step": 4,
    }
    assert "layer state" not in parts


def test_slots_are_grouped_where_the_parameters_begin():
    a, b = np.zeros(3, np.float32), np.zeros(5, np.float32)
    params = {"0": {"weight": a, "bias": b}, "m": {"weight": a}}
    state = {"rest": {"m": {"m/weight": a}, "step": np.int32(0)}, "w": {"left": {"0/weight": {"q": b}}}}
    assert slots_of(state, params) == {"rest/m": 12, "rest/step": 4, "w/left": 20}


def test_data_that_validation_shares_is_on_the_device_once():
    same = describe(validation_batches=lambda c: stream.minibatches(X, Y, batch_size=25))
    _, parts = parts_of(same)
    assert parts["validation data"] == 50 * 4
    _, parts = parts_of(describe(validation_batches=lambda c: stream.full_batch(X[:10], Y[:10])))
    assert parts["validation data"] == 10 * (6 * 4 + 4 + 4)


def test_a_stream_without_a_view_takes_two_super_batches():
    batches = [(X[:10], Y[:10].astype(np.int32))] * 3
    _, parts = parts_of(describe(train_batches=lambda c: stream.from_items(batches)))
    assert parts["training data"] == 2 * 64 * 10 * (6 * 4 + 4)
    mapped = describe(train_batches=lambda c: stream.from_items(batches).map(lambda batch: (batch[0][:, :2], batch[1])))
    assert "training data" not in parts_of(mapped)[1]


def test_what_folds_keep_is_on_the_host():
    plan = describe(
        validation_batches=lambda c: stream.full_batch(X, Y),
        epochs=9,
        folds={"best": train.best(), "three": train.top_k(3), "stop": train.patience(2)},
    ).explain()
    one = 4 * (6 * 8 + 8 + 8 + 8 + 8 * 4 + 4) + 4 * (8 + 8)
    assert f"the fold best: best(validation_loss) keeps weights, at most {one:,} bytes on the host" in plan
    assert f"keeps weights, at most {3 * one:,} bytes on the host" in plan
    assert "the fold stop: patience(2, validation_loss) stops the run\n" in plan + "\n"


def test_a_compiled_step_takes_its_arguments_and_more():
    found = train.compiled_memory(describe())
    state = describe(epochs=0).run_or_raise(Runtime(log=None)).state
    carry = nbytes((state.params, state.layer_state, state.optimizer_state, state.tally)) + 4
    batch, shared = 16 * (6 * 4 + 4), 4 * 6 * 2 + 2 * 4 + 4  # two numbers for each of six arrays, a key, the folds' factor
    assert 2 * carry + batch <= found.arguments <= 2 * carry + batch + shared + 64
    assert found.outputs >= carry
    assert found.aliased <= found.outputs
    assert found.temporaries > 0
    assert str(found).startswith(f"one compiled step, in bytes: arguments {found.arguments:,}, outputs")


def test_what_has_no_step_to_compile_is_refused():
    acquired = Resource.make(Effect.from_value(None), lambda made, outcome: Effect.from_value(None))
    with pytest.raises(ValueError, match="acquired when it is run"):
        train.compiled_memory(describe(train_batches=lambda c: acquired))
    with pytest.raises(TypeError, match="program is a program, as train.epochs"):
        train.compiled_memory(LAYER)
    with pytest.raises(TypeError, match="in which none can be seen"):
        train.compiled_memory(Effect.from_value(1))
    with pytest.raises(TypeError, match="got 2: give one of them"):
        train.compiled_memory(describe().then(describe()))
    with pytest.raises(FaultError, match="LabelOutOfRange"):
        train.compiled_memory(describe(layer=nn.linear(2)))
