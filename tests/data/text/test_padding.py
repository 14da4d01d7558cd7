"""Sequences of different lengths in batches."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.stream.sink import steps

SEQUENCES = st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=14)


def rows(s, state=None):
    """Each batch as the sequences in it."""
    return [[ids[:n].tolist() for ids, n in zip(*batch, strict=True)] for batch in stream.items(s, state)]


def fault(call):
    with pytest.raises(FaultError) as caught:
        call()
    return caught.value.fault


def test_rows_are_padded_to_the_longest_of_the_batch():
    (ids, lengths), (last, _) = stream.items(data.padded_batches([[5, 6, 7], [8], [9, 9]], 2, pad=-1))
    assert ids.tolist() == [[5, 6, 7], [8, -1, -1]]
    assert (ids.dtype, lengths.dtype, lengths.tolist()) == (np.int32, np.int32, [3, 1])
    assert last.tolist() == [[9, 9]]


def test_one_maximum_is_one_shape():
    s = data.padded_batches([[5, 6, 7], [8], [9, 9], []], 2, pad=0, maximum=4)
    assert [ids.tolist() for ids, _ in stream.items(s)] == [[[5, 6, 7, 0], [8, 0, 0, 0]], [[9, 9, 0, 0], [0, 0, 0, 0]]]
    assert [spec.shape for spec in s.spec] == [(2, 4), (2,)]


def test_a_longer_sequence_is_a_fault_or_cut():
    make = partial(data.padded_batches, [[1], [5, 6, 7]], 2, pad=0, maximum=2)
    found = fault(make)
    assert isinstance(found, ShapeMismatch)
    assert str(found) == ("padded_batches/sequence 1: expected sequences of at most 2 ids, got 3; cut=True keeps the first 2")
    assert [(i.tolist(), n.tolist()) for i, n in stream.items(make(cut=True))] == [([[1, 0], [5, 6]], [1, 2])]


@pytest.mark.slow
@given(
    SEQUENCES,
    st.integers(1, 4),
    st.none() | st.integers(0, 99),
    st.integers(0, 3),
    st.integers(1, 4),
    st.none() | st.integers(1, 9),
    st.booleans(),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_every_sequence_occurs_once_and_padding_is_pad(sequences, size, seed, among, multiple, maximum, drop_last, draw):
    sequences = [[i, *sequence] for i, sequence in enumerate(sequences)]  # all different
    s = data.padded_batches(
        sequences,
        size,
        pad=-7,
        maximum=maximum,
        cut=True,
        multiple=multiple,
        seed=seed,
        drop_last=drop_last,
        among=among,
        targets=np.arange(len(sequences)),
    )
    got = list(stream.items(s))
    seen = []
    for (ids, lengths), targets in got:
        width = ids.shape[1]
        assert width == maximum if maximum else width % multiple == 0 and width < max(lengths.max(), 1) + multiple
        assert width <= s.spec[0][0].shape[1]
        assert (ids[np.arange(width) >= lengths[:, None]] == -7).all()
        for row, length, target in zip(ids, lengths, targets, strict=True):
            assert row[:length].tolist() == sequences[target][:maximum]
        seen += targets.tolist()
    assert len(set(seen)) == len(seen) == (len(sequences) // size * size if drop_last else len(sequences))
    assert [len(lengths) for (_, lengths), _ in got[:-1]] == [size] * (len(got) - 1)
    if seed is None and not among:
        assert seen == list(range(len(seen)))
    states = [s.init, *(state for _, state in steps(s, s.init))]
    at = draw.draw(st.integers(0, len(got)))
    assert [y.tolist() for _, y in stream.items(s, states[at])] == [y.tolist() for _, y in got[at:]]


def test_sorting_among_batches_pads_less_and_shuffles_all_the_same():
    generator = np.random.default_rng(0)
    sequences = [np.ones(n, np.int32) for n in generator.integers(1, 100, 640)]

    def padded(**options):
        batches = list(stream.items(data.padded_batches(sequences, 16, pad=0, seed=3, **options)))
        return sum(ids.size for ids, _ in batches), [int(lengths.max()) for _, lengths in batches]

    tokens = sum(map(len, sequences))
    plain, _ = padded()
    sorted_, longest = padded(among=40)
    assert tokens <= sorted_ < 1.05 * tokens < 1.7 * tokens < plain
    assert longest != sorted(longest)


def test_dropping_the_last_batch_does_not_drop_the_longest():
    sequences = [[0] * n for n in range(1, 8)]
    dropped = set()
    for seed in range(40):
        s = data.padded_batches(sequences, 3, pad=0, among=5, seed=seed, drop_last=True)
        dropped |= set(range(1, 8)) - {int(n) for _, lengths in stream.items(s) for n in lengths}
    assert dropped == set(range(1, 8))


def test_sequences_may_be_arrays_of_any_integers_and_are_read_on_access():
    s = data.padded_batches([np.array([1, 2], np.uint8), np.array([3], np.int64), np.zeros(0)], 3, pad=0)
    assert rows(s) == [[[1, 2], [3], []]]
    for wrong, kind in ([[0.5]], DtypeMismatch), ([[[1], [2]]], ShapeMismatch), ([np.array([2**31])], DtypeMismatch):
        s = data.padded_batches([[1], *wrong], 1, pad=0)
        assert rows(s.take(1)) == [[[1]]]
        found = fault(lambda s=s: list(stream.items(s)))
        assert isinstance(found, kind)
        assert found.where == "padded_batches/sequence 1"


def test_targets_are_as_many_as_sequences():
    assert isinstance(fault(lambda: data.padded_batches([[1], [2]], 1, pad=0, targets=[1])), ShapeMismatch)
    s = data.padded_batches([[1], [2]], 2, pad=0, targets={"label": [1, 2], "weight": np.ones(2, np.float32)})
    assert next(stream.items(s))[1]["label"].tolist() == [1, 2]
    assert str(s) == "<BatchStream: 1 batches of ((int32[2, 1], int32[2]), {label: int32[2], weight: float32[2]})>"


def test_no_sequences_are_an_empty_epoch_and_wrong_sizes_are_bugs():
    assert data.padded_batches([], 2, pad=0).length == 0
    assert isinstance(data.padded_batches([], 2, pad=0).why_empty, EmptyEpoch)
    assert data.padded_batches([[1]], 2, pad=0, drop_last=True).length == 0
    for options in ({"batch_size": 0}, {"multiple": 0}, {"maximum": 0}, {"among": -1}):
        with pytest.raises(ValueError, match="at least 1"):
            data.padded_batches([[1]], **{"batch_size": 1, **options}, pad=0)


def masked_mean(batch):
    vectors, lengths = batch
    inside = jnp.arange(vectors.shape[1]) < lengths[:, None]
    return jnp.sum(vectors * inside[..., None], axis=1) / lengths[:, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"maximum": 12}, {"multiple": 4}, {"multiple": 2, "among": 4}],
)
def test_a_model_trains_on_them_to_the_same_bits_in_every_executor(options):
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 9, n) for n in generator.integers(1, 13, 60)]
    labels = np.array([int(np.mean(s) > 4) for s in sequences])
    layer = nn.parallel(nn.embedding(9, 4), nn.fun(lambda n: n)) >> nn.fun(masked_mean) >> nn.linear(2)
    program = train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(5e-2),
        train_batches=lambda c: data.padded_batches(sequences, 8, pad=0, targets=labels, seed=c.seed, **options),
        epochs=3,
    )
    losses = []
    for executor in (train.Stepwise(), train.Fused(chunk=3)):
        outcome = program.run(Runtime(log=None, executor=executor))
        assert is_successful(outcome), outcome
        losses.append([report.train_loss for report in unsafe_perform_io(outcome.unwrap()).curve])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
