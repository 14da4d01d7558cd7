"""Executors: one carry comes out of all of them, and little is compiled or kept on the device."""

from __future__ import annotations

import gc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import compiling, lowered
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import FaultError, NonFinite
from fnlamp.train.execute.programs import BODIES, PROGRAMS
from fnlamp.train.execute.workspace import Workspace

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (47, 6)).astype(np.uint8)
LABELS = PIXELS[:, :4].argmax(axis=1)
FLOATS = nn.linear(8) >> nn.relu >> nn.linear(4)
SIMPLE = nn.rescale(1 / 255) >> FLOATS
LAMP = nn.rescale(1.0) >> nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2, norm_last=True) >> nn.log_softmax
OTHERS = [train.Fused(chunk=1), train.Fused(chunk=7), train.Fused(chunk=50), train.Fused()]


def batches(context, **options):
    return stream.minibatches(PIXELS, LABELS, batch_size=10, seed=context.seed, **options)


def describe(layer=SIMPLE, objective=None, **options):
    defaults = {"optimizer": optim.adamw(1e-2), "train_batches": batches, "epochs": 2}
    return train.epochs(model=train.supervised(layer, objective or loss.cross_entropy()), **{**defaults, **options})


def run(program, executor=None, **options):
    outcome = program.run(Runtime(**{"log": None, "executor": executor, **options}))
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def broken(program, executor):
    fault = unsafe_perform_io(program.run(Runtime(log=None, executor=executor)).failure())
    assert isinstance(fault, NonFinite)
    return fault


def same(a, b):
    """Bit for bit: parameters, states, and curves but for the seconds."""
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert [replace(r, seconds=0.0) for r in a.curve] == [replace(r, seconds=0.0) for r in b.curve]


@pytest.mark.slow
def test_drop_last_gives_the_same_bits_in_every_executor():
    program = describe(
        LAMP,
        loss.nll(),
        optimizer=optim.sgdw(0.1, 1e-3, momentum=0.9),
        train_batches=lambda c: batches(c, drop_last=True),
    )
    first = run(program, train.Stepwise())
    assert [(r.steps, r.samples) for r in first.curve] == [(4, 40), (4, 40)]
    for executor in OTHERS:
        same(first, run(program, executor))


@pytest.mark.slow
@pytest.mark.parametrize("others", [OTHERS[::3], OTHERS[1:3]], ids=["1 and all", "7 and 50"])
def test_a_large_carry_gives_the_same_bits_in_every_executor(monkeypatch, others):
    monkeypatch.setattr("fnlamp.train.execute.fused.LARGE", 0)  # the first step of a chunk comes before the loop
    image = nn.rescale(1 / 255) >> nn.fun(lambda x: x.reshape(-1, 2, 3, 1), "image")
    program = describe(image >> nn.conv2d(4, 3, padding=1) >> nn.batch_norm() >> nn.dropout(0.2) >> nn.flatten >> FLOATS)
    first = run(program, train.Stepwise())
    for executor in others:
        same(first, run(program, executor))


@pytest.mark.slow
def test_what_breaks_a_large_carry_is_the_same_in_every_executor(monkeypatch):
    monkeypatch.setattr("fnlamp.train.execute.fused.LARGE", 0)
    program = describe(optimizer=optim.sgdw(1e30), epochs=3)
    first, *others = [broken(program, executor) for executor in (train.Stepwise(), *OTHERS)]
    for fault in others:
        assert fault == first
        same(fault.state, first.state)


@pytest.mark.slow
def test_a_mapped_stream_gives_the_same_bits_in_every_executor():
    # NumPy would promote uint8 * 0.1 to float64, and a function that is its own program would be rounded at its end.
    function = lambda batch: (jnp.sin(batch[0] * 0.1) / 3 + 1, batch[1])  # noqa: E731
    mapped = lambda c: stream.minibatches(PIXELS[:40], LABELS[:40], batch_size=10, seed=c.seed).map(function)  # noqa: E731
    program = describe(FLOATS, train_batches=mapped, validation_batches=mapped)
    first = run(program, train.Stepwise())
    for executor in OTHERS:
        same(first, run(program, executor))


@pytest.mark.slow
@pytest.mark.parametrize(
    "combined",
    [
        lambda s: s.concat(s),
        lambda s: s.every_nth(2, 1),
        lambda s: s.take(2).concat(s.every_nth(2)),
    ],
    ids=["concat", "every_nth", "take and concat"],
)
def test_a_combined_stream_gives_the_same_bits_in_every_executor(combined):
    program = describe(train_batches=lambda c: combined(batches(c)), epochs=1)
    first = run(program, train.Stepwise())
    assert first.curve[0].steps == combined(stream.minibatches(PIXELS, LABELS, batch_size=10)).length
    for executor in OTHERS:
        same(first, run(program, executor))


@pytest.mark.slow
def test_a_stream_without_a_view_and_arrays_on_the_device_give_the_bits_of_arrays_on_the_host():
    in_order = stream.minibatches(PIXELS, LABELS, batch_size=10)
    first = run(describe(train_batches=lambda c: in_order))
    one_by_one = stream.from_items(list(stream.items(in_order)))
    on_device = stream.minibatches(jnp.asarray(PIXELS), jnp.asarray(LABELS), batch_size=10)
    for s in (one_by_one, on_device):
        for executor in (train.Stepwise(), train.Fused(chunk=3)):
            same(first, run(describe(train_batches=lambda c, s=s: s), executor))


@pytest.mark.slow
def test_features_may_be_a_tree():
    layer = nn.fun(lambda x: jnp.concatenate([x["a"], x["b"]], axis=-1) / 255.0, "join") >> FLOATS
    tree = {"a": PIXELS[:, :2], "b": PIXELS[:, 2:]}
    program = describe(layer, train_batches=lambda c: stream.minibatches(tree, LABELS, batch_size=10, seed=c.seed))
    same(run(program, train.Stepwise()), run(program, train.Fused(chunk=3)))


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2), train.Fused()], ids=str)
def test_folding_from_any_position_gives_the_rest(executor):
    from fnlamp.train.execute import Body

    s = stream.minibatches(np.arange(23)[:, None], np.arange(23), batch_size=5, seed=4)
    body = Body(lambda shared, carry, batch: carry + shared * jnp.sum(batch[1]), lambda carry: jnp.int32(0))
    sums = [int(y.sum()) for _, y in stream.items(s)]
    for begin in range(6):
        pairs = list(executor.fold(body, jnp.int32(2), jnp.int32(0), s, begin, Workspace()))
        assert pairs == [] if begin == 5 else int(pairs[-1][0]) == 2 * sum(sums[begin:])
        if pairs:
            assert pairs[-1][1] == 5


def test_a_chunk_is_at_least_one_step_and_executors_have_names():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        train.Fused(chunk=0)
    assert [str(e) for e in (train.Stepwise(), train.Fused(), train.Fused(chunk=7))] == [
        "step by step",
        "fused in chunks of 0.2 s",
        "fused in chunks of 7",
    ]


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=1), train.Fused(chunk=50), train.Fused()], ids=str)
@pytest.mark.parametrize("limit", [0, 1, 7, 9])
@pytest.mark.parametrize("view", [True, False])
def test_the_step_that_breaks_the_carry_is_found_and_undone(executor, limit, view):
    from fnlamp.train.execute import Body

    s = stream.minibatches(np.arange(40)[:, None], np.arange(40), batch_size=4)
    s = s if view else replace(s, view=None)
    body = Body(lambda shared, carry, batch: carry + 1, lambda carry: jnp.where(carry > limit, 7, 0))
    *_, last = executor.fold(body, jnp.int32(0), jnp.int32(0), s, 0, Workspace())
    assert (int(last.carry), last.position, last.broken) == (limit, limit, 7)


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=3), train.Fused()], ids=str)
def test_what_came_before_a_failure_of_the_stream_is_trained_on(executor):
    from fnlamp.train.execute import Body

    whole = replace(stream.minibatches(np.arange(40)[:, None], np.arange(40), batch_size=4), view=None)
    failing = replace(whole, source=lambda position: whole.step(position) if position < 5 else stream.Fail("disk on fire"))
    body, seen = Body(lambda shared, carry, batch: carry + 1, lambda carry: jnp.int32(0)), []
    with pytest.raises(FaultError, match="disk on fire"):
        for item in executor.fold(body, jnp.int32(0), jnp.int32(0), failing, 0, Workspace()):
            seen.append(item)
    assert int(seen[-1][0]) == seen[-1][1] == 5


def test_the_next_super_batch_is_sent_before_the_last_one_is_waited_for(monkeypatch):
    """Sent while its predecessor is computed, and in the same order: the bits are those of steps taken one by one."""
    from fnlamp.train.execute import supply

    events, put = [], supply.to_device

    def sent(x, *given, **options):
        if np.shape(x) == (2, 10, 6):  # the pixels of two batches
            events.append("send")
        return put(x, *given, **options)

    def logged(name, method):
        return lambda self, given: (events.append(name), method(self, given))[1]

    def host(context):
        return replace(batches(context, drop_last=True), view=None)  # 4 batches

    expected = run(describe(train_batches=host, epochs=3), train.Stepwise())
    monkeypatch.setattr(supply, "MEASURED", 0)  # otherwise the first dispatches are waited for, to know the time of a step
    monkeypatch.setattr(supply, "to_device", sent)
    monkeypatch.setattr(Workspace, "called", logged("dispatch", Workspace.called))
    monkeypatch.setattr(Workspace, "awaited", logged("wait", Workspace.awaited))
    found = run(describe(train_batches=host, epochs=3), train.Fused(chunk=2))
    assert events == 3 * ["send", "dispatch", "send", "wait", "dispatch", "wait"]
    same(found, expected)


# ------------------------------------------------------------------------------- what is compiled


@pytest.fixture
def compiled():
    """The names of the programs that JAX lowered while the test ran."""
    with compiling(lowered) as names:
        yield names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "name"), [(train.Stepwise(), "step"), (train.Fused(chunk=2), "chunk"), (train.Fused(), "chunk")]
)
def test_running_again_compiles_nothing_whatever_the_executor(compiled, executor, name):
    program = describe(
        validation_batches=lambda c: stream.minibatches(PIXELS, LABELS, batch_size=20), metrics={"top": loss.accuracy}
    )
    run(program, executor)
    # A full and a short batch, in training and in evaluation.
    assert sum(name in each for each in compiled) == 4, compiled
    compiled.clear()
    run(program, executor)
    assert compiled == []


def test_a_longer_run_of_the_same_description_traces_the_layer_no_more_often():
    traces = []

    def traced(epochs):
        PROGRAMS.clear()
        BODIES.clear()
        traces.clear()
        layer = nn.rescale(1 / 255) >> nn.fun(lambda x: traces.append(x.shape) or x, "counted") >> nn.linear(4)
        run(describe(layer, epochs=epochs))
        return len(traces)

    assert traced(1) == traced(5)


# ------------------------------------------------------------------------------- what is on the device


def workspace_of(body="any body"):
    workspace = Workspace()
    workspace.begin(body)
    return workspace, lambda tree: workspace.place(body, tree)


def test_an_array_is_placed_once_in_its_own_dtype():
    workspace, place = workspace_of()
    placed = place({"x": PIXELS, "y": PIXELS})
    assert placed["x"] is placed["y"]
    assert (placed["x"].dtype, placed["x"].shape) == (np.uint8, (47, 6))
    assert place(PIXELS.copy()) is not placed["x"]
    workspace.begin("another body")
    assert workspace.place("another body", PIXELS) is placed["x"]
    for _ in range(3):
        workspace.begin("any body")
        assert place(PIXELS) is placed["x"]


def test_a_data_set_is_not_copied_where_the_device_can_read_it():
    buffer = np.zeros(4096 + 64, np.uint8)
    aligned = -buffer.ctypes.data % 64  # memory that JAX can share
    array = buffer[aligned : aligned + 4096].view(np.float32)
    placed = workspace_of()[1](array)
    if placed.device.platform == "cpu":
        assert placed.unsafe_buffer_pointer() == array.ctypes.data


def test_data_made_anew_each_epoch_does_not_pile_up_on_the_device():
    sizes = []

    def anew(context):
        sizes.append(sum(array.nbytes for array in jax.live_arrays()))
        return stream.minibatches(PIXELS.copy(), LABELS.copy(), batch_size=10)

    run(describe(train_batches=anew, epochs=6))
    assert max(sizes[2:]) == min(sizes[2:])


def test_nothing_but_the_result_stays_on_the_device():
    program = describe()
    run(program)
    gc.collect()  # arrays of earlier tests, which would go in between
    before = sum(array.nbytes for array in jax.live_arrays())
    trained = run(program)
    kept = sum(array.nbytes for array in jax.live_arrays()) - before
    assert 0 < kept <= sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state) if isinstance(leaf, jax.Array))


# ------------------------------------------------------------------------------- when a super-batch is sent
