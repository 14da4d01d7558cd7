"""Windows of a corpus: their contents, the laws of streams, and training on them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.data.text.language_model import windows_of
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.stream.sink import steps

few = partial(settings, max_examples=80, deadline=None)
CORPUS = np.random.default_rng(0).integers(0, 20, 1000).astype(np.uint8)


def batches(s, state=None):
    return [(np.asarray(x).tolist(), np.asarray(y).tolist()) for x, y in stream.items(s, state)]


def fault(corpus, **options):
    with pytest.raises(FaultError) as caught:
        data.language_model_batches(corpus, **{"block": 3, "batch_size": 2, **options})
    return caught.value.fault


def test_targets_are_the_tokens_after_the_inputs():
    s = data.language_model_batches(np.arange(10, 21), block=3, batch_size=2)
    assert batches(s) == [
        ([[10, 11, 12], [13, 14, 15]], [[11, 12, 13], [14, 15, 16]]),
        ([[16, 17, 18]], [[17, 18, 19]]),
    ]
    assert batches(data.language_model_batches(np.arange(10, 21), 3, 2, drop_last=True)) == batches(s)[:1]


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5), st.none() | st.integers(0, 2**63), st.booleans())
@few(max_examples=200)
def test_each_token_is_predicted_at_most_once_from_the_one_before_it(tokens, block, size, seed, drop_last):
    corpus = np.arange(tokens)  # each token is its position
    s = data.language_model_batches(corpus, block, size, seed=seed, drop_last=drop_last)
    got = list(stream.items(s))
    assert len(got) == s.length
    predicted, begins = [], []
    for i, (inputs, targets) in enumerate(got):
        inputs, targets = np.asarray(inputs), np.asarray(targets)
        assert inputs.dtype == targets.dtype == np.int32
        assert inputs.shape == targets.shape == (len(inputs), block)
        assert len(inputs) == size or (i == s.length - 1 and not drop_last)
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(block))
        predicted += targets.ravel().tolist()
        begins += inputs[:, 0].tolist()
    assert len(set(predicted)) == len(predicted)
    assert len({begin % block for begin in begins}) <= 1  # one offset for all
    windows = max(tokens - 1, 0) // block
    if seed is None:
        assert sorted(begins) == begins == [i * block for i in range(windows if not drop_last else windows - windows % size)]
    else:
        assert min(begins, default=0) // block <= windows
        whole = windows if windows < 2 else tokens // block - 1
        assert len(begins) == (whole - whole % size if drop_last else whole)
        assert windows - 1 <= whole <= windows
    if tokens > block and not drop_last:
        assert got


def test_a_seed_is_an_order_and_an_offset_and_the_number_of_windows_is_the_same_for_all():
    corpus, block = np.arange(8 * 40 + 3), 8
    offsets, lengths = [], set()
    for seed in range(800):
        s = data.language_model_batches(corpus, block, 4, seed=seed)
        lengths.add(s.length)
        inputs, _ = next(stream.items(s))
        offsets.append(int(inputs[0, 0]) % block)
    assert len(lengths) == 1
    counts = np.bincount(offsets, minlength=block)
    # 800 draws of 8 offsets: 100 each, with a deviation of 9.4; five of them.
    assert len(counts) == block
    assert (abs(counts - 100) < 47).all(), counts
    first = [batches(data.language_model_batches(corpus, block, 4, seed=seed)) for seed in (3, 3, 4)]
    assert first[0] == first[1] != first[2]


def test_the_order_of_windows_is_a_random_permutation():
    corpus, seen = np.arange(4 * 4), []
    for seed in range(600):
        (inputs, _) = next(stream.items(data.language_model_batches(corpus, 4, 3, seed=seed)))
        seen.append(tuple((np.asarray(inputs)[:, 0] // 4).tolist()))
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 6
    assert min(counts) > 60


# ------------------------------------------------------------------------------- the laws of streams


def kinds(tmp_path):
    path = tmp_path / "corpus.npy"
    np.save(path, CORPUS)
    return {"memory": CORPUS, "device": jnp.asarray(CORPUS), "file": np.load(path, mmap_mode="r"), "list": CORPUS.tolist()}


@pytest.mark.parametrize("seed", [None, 5])
def test_the_same_batches_come_from_memory_the_device_and_a_mapped_file(tmp_path, seed):
    made = {k: data.language_model_batches(c, 7, 4, seed=seed) for k, c in kinds(tmp_path).items()}
    assert len({str(batches(s)) for s in made.values()}) == 1
    assert {kind: s.view is None for kind, s in made.items()} == {"memory": False, "device": False, "file": True, "list": False}
    assert len({str(s.spec) for s in made.values()}) == 1


def test_a_corpus_too_long_for_32_bit_indices_is_read_on_the_host(monkeypatch):
    model = data.language_model_batches(CORPUS, 7, 4, seed=5)
    monkeypatch.setattr("fnlamp.data.text.language_model.MOST", 999)
    s = data.language_model_batches(CORPUS, 7, 4, seed=5)
    assert s.view is None
    assert batches(s) == batches(model)

    class Places:
        """A corpus too long for memory, whose tokens are their positions."""

        def __getitem__(self, places):
            return places % 1000

    window = 2**31 // 7 + 3
    inputs, targets = windows_of(7, (np.int64(5), Places()), np.array([window], np.int32))
    assert inputs.tolist() == [[(window * 7 + 5 + i) % 1000 for i in range(7)]]
    assert targets.tolist() == [[(window * 7 + 6 + i) % 1000 for i in range(7)]]


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.none() | st.integers(0, 99), st.data())
@few()
def test_resuming_from_any_position_and_combinators_behave_as_for_lists(tokens, block, size, seed, draw):
    s = data.language_model_batches(np.arange(tokens), block, size, seed=seed)
    if draw.draw(st.booleans()):
        s = stream.from_function(s.length, s.view.batch, spec=s.spec)
    model = batches(s)
    states = [s.init, *(state for _, state in steps(s, s.init))]
    at = draw.draw(st.integers(0, len(model)))
    assert batches(s, states[at]) == model[at:]
    n = draw.draw(st.integers(1, 3))
    assert batches(s.take(at).concat(s).every_nth(n)) == (model[:at] + model)[::n]


@given(st.integers(8, 60), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
@few(max_examples=15)
def test_the_recipe_on_the_device_makes_the_hosts_batches(tokens, block, size, seed):
    s = data.language_model_batches(np.arange(tokens, dtype=np.uint16), block, size, seed=seed)
    on_device = []
    for segment in s.view.segments:
        arrays = jax.tree.map(jnp.asarray, segment.arrays)
        assert arrays[1].dtype == np.uint16
        made = jax.jit(segment.recipe.__call__)
        on_device += [made(arrays, rows) for rows in segment.rows()]
    assert [(x.tolist(), y.tolist()) for x, y in on_device] == batches(s)
    assert {leaf.dtype for leaf in jax.tree.leaves(on_device)} <= {np.dtype(np.int32)}


def test_recipes_are_equal_unless_the_block_differs():
    recipes = [data.language_model_batches(CORPUS, b, 4, seed=s).view.segments[0].recipe for b, s in ((7, 1), (7, 2), (8, 1))]
    assert recipes[0] == recipes[1] != recipes[2]


# ------------------------------------------------------------------------------- training


def describe(corpus=CORPUS, vocabulary=20, **options):
    layer = nn.embedding(vocabulary, 6) >> nn.linear(vocabulary)
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(1e-2),
        train_batches=lambda c: data.language_model_batches(corpus, 12, 8, seed=c.seed, **options),
        validation_batches=lambda c: data.language_model_batches(corpus, 12, 8),
        epochs=2,
    )


def run(program, executor=None):
    outcome = program.run(Runtime(log=None, executor=executor))
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def leaves(trained):
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(trained.state)]


@pytest.mark.slow
def test_every_executor_and_a_mapped_file_train_to_the_same_bits(tmp_path):
    program = describe()
    first = run(program, train.Stepwise())
    assert [report.steps for report in first.curve] == [11, 11]  # 82 windows
    for executor in (train.Fused(chunk=1), train.Fused(chunk=7), train.Fused()):
        assert leaves(run(program, executor)) == leaves(first)
    mapped = describe(kinds(tmp_path)["file"])
    for executor in (train.Stepwise(), train.Fused(chunk=3)):
        assert leaves(run(mapped, executor)) == leaves(first)


def test_other_seeds_and_offsets_compile_nothing_again():
    def traced(epochs):
        traces = []
        program = train.epochs(
            model=train.supervised(
                nn.fun(lambda x: traces.append(x.shape) or x, "counted") >> nn.embedding(20, 20), loss.cross_entropy()
            ),
            optimizer=optim.sgdw(0.1),
            train_batches=lambda c: data.language_model_batches(CORPUS, 12, 8, seed=c.seed),
            epochs=epochs,
        )
        run(program)
        return traces

    traced(1)  # compiles what the next runs use
    assert traced(6) == traced(1)


@pytest.mark.slow
def test_a_small_model_learns_the_next_token():
    corpus = np.tile(np.array([0, 1, 2, 0, 3, 4, 0], np.int32), 100)
    layer = nn.embedding(5, 8) >> nn.lstm(16) >> nn.linear(5)
    program = train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(3e-2),
        train_batches=lambda c: data.language_model_batches(corpus, 14, 8, seed=c.seed),
        epochs=20,
    )
    # 1, 3 or another 0 may follow a 0; the history determines which, except at the start of a window.
    assert run(program).curve[-1].train_loss < 0.2


# ------------------------------------------------------------------------------- what cannot be


def test_a_corpus_without_a_window_is_an_empty_epoch():
    for tokens, options in ((0, {}), (12, {}), (12, {"drop_last": True}), (90, {"drop_last": True})):
        program = describe(CORPUS[:tokens], **options)
        found = unsafe_perform_io(program.run(Runtime(log=None)).failure())
        assert isinstance(found, EmptyEpoch)
    assert "12 tokens, of which a block of 12 needs one more" in str(
        data.language_model_batches(CORPUS[:12], 12, 8, seed=1).why_empty
    )
    assert str(data.language_model_batches(CORPUS[:90], 12, 8, drop_last=True).why_empty).endswith("keep the last batch")
    assert data.language_model_batches(CORPUS[:13], 12, 8).length == 1


def test_only_integers_on_one_axis_are_tokens():
    assert isinstance(fault(CORPUS.reshape(10, 100)), ShapeMismatch)
    assert isinstance(fault(np.int32(3)), ShapeMismatch)
    assert isinstance(fault(CORPUS.astype(np.float32)), DtypeMismatch)
    assert isinstance(fault(CORPUS > 3), DtypeMismatch)
    for block, size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            data.language_model_batches(CORPUS, block, size)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32])
def test_ids_that_32_bits_cannot_hold_are_a_fault(tmp_path, dtype):
    corpus = np.arange(40).astype(dtype)
    assert batches(data.language_model_batches(corpus, 3, 2)) == batches(data.language_model_batches(np.arange(40), 3, 2))
    corpus[20] = 2**31
    assert isinstance(fault(corpus), DtypeMismatch)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = data.language_model_batches(np.load(tmp_path / "corpus.npy", mmap_mode="r"), 3, 2)
    got = []
    with pytest.raises(FaultError, match="ids that fit int32"):
        got.extend(stream.items(mapped))


@pytest.mark.slow
def test_a_token_that_is_not_a_class_is_found_before_the_first_step():
    found = unsafe_perform_io(describe(vocabulary=19).run(Runtime(log=None)).failure())
    assert isinstance(found, LabelOutOfRange)
    assert (found.label, found.classes) == (19, 19)
    # Tokens before the offset, up to 11, are not targets.
    assert run(describe(CORPUS % 2, vocabulary=2)).curve
