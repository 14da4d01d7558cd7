"""Documents packed into rows."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from fnlamp import Eval, data, loss, models, stream
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, ShapeMismatch

SEEDS = st.sampled_from([None, 0, 1, 2**40])


def rows_of(s: stream.BatchStream) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [row for (tokens, numbers), targets in stream.items(s) for row in zip(tokens, numbers, targets, strict=True)]


@given(st.lists(st.integers(0, 14), max_size=9), st.integers(1, 6), st.integers(1, 4), SEEDS)
def test_each_token_but_the_first_is_predicted_once_from_those_before_it(lengths, block, size, seed):
    """Tokens are distinct, so that each shows where it is from."""
    ends = np.cumsum(lengths)
    documents = [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]
    s = data.packed_batches(documents, block, size, seed=seed)
    if not any(n > 1 for n in lengths):
        assert s.length == 0
        return
    pairs = []
    for tokens, numbers, targets in rows_of(s):
        used = numbers > 0
        assert len(tokens) == block and used.any()
        assert (np.diff(numbers[used]) >= 0).all() and used[: used.sum()].all()
        assert (targets[~used] == -100).all() and (tokens[~used] == 0).all()
        for number in range(1, numbers.max() + 1):
            own = numbers == number
            piece = tokens[own]
            assert piece.size and (np.diff(piece) == 1).all() and (targets[own] == piece + 1).all()
            document = documents[int(np.searchsorted(ends, piece[0], "right"))]
            assert {*piece, *targets[own]} <= {*document.tolist()}
            # Whole, unless the document is longer than a row; then it is cut at multiples of a row.
            assert (piece[0] - document[0]) % block == 0 and (piece.size == block or targets[own][-1] == document[-1])
        pairs += zip(tokens[used].tolist(), targets[used].tolist(), strict=True)
    assert sorted(pairs) == [(t, t + 1) for document in documents for t in document[:-1].tolist()]


@given(st.lists(st.integers(2, 14), min_size=1, max_size=9), st.integers(1, 6))
def test_every_seed_gives_as_many_rows_of_which_at_most_one_is_half_empty(lengths, block):
    documents = [np.arange(n) for n in lengths]
    made = [rows_of(data.packed_batches(documents, block, 2, seed=seed)) for seed in (None, 0, 1)]
    assert len({len(rows) for rows in made}) == 1
    assert sum(2 * (numbers > 0).sum() <= block for _, numbers, _ in made[0]) <= 1


def test_a_seed_shuffles():
    documents = [np.arange(10 * i, 10 * i + 4) for i in range(20)]
    orders = [[row[0][0] for row in rows_of(data.packed_batches(documents, 3, 4, seed=seed))] for seed in (None, 3, 3, 4)]
    assert orders[0] == [10 * i for i in range(20)]
    assert orders[1] == orders[2] != orders[3] and sorted(orders[1]) == orders[0]


def test_batches_are_short_at_the_end_or_dropped():
    documents = [np.arange(4)] * 5
    shapes = [tokens.shape for (tokens, _), _ in stream.items(data.packed_batches(documents, 3, 2))]
    assert shapes == [(2, 3), (2, 3), (1, 3)]
    assert data.packed_batches(documents, 3, 2, drop_last=True).length == 2


def test_nothing_to_predict_is_an_empty_epoch():
    for documents in ([], [[1], []]):
        found = data.packed_batches(documents, 4, 2).why_empty
        assert isinstance(found, EmptyEpoch) and f"{len(documents)} documents" in str(found)


@pytest.mark.parametrize(
    ("wrong", "kind"), [([1.5, 2.0], DtypeMismatch), ([[1, 2]] * 2, ShapeMismatch), ([2**40, 1], DtypeMismatch)], ids=str
)
def test_a_wrong_document_is_named(wrong, kind):
    with pytest.raises(FaultError, match="packed_batches/document 1") as caught:
        rows_of(data.packed_batches([[1, 2], wrong], 2, 1))
    assert isinstance(caught.value.fault, kind)


@pytest.mark.slow
def test_the_loss_of_packed_rows_is_that_of_each_document_alone():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 7, n) for n in rng.integers(2, 8, 12)]
    ((tokens, numbers), targets), *rest = stream.items(data.packed_batches(documents, 8, 99, seed=0))
    assert not rest and len(tokens) < len(documents) and numbers.max() > 1
    alone, following = np.zeros((12, 8), int), np.full((12, 8), -100)
    for row, document in enumerate(documents):
        alone[row, : len(document) - 1], following[row, : len(document) - 1] = document[:-1], document[1:]
    model = models.gpt(7, layers=2, width=8, heads=2, context=8)
    made = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8), np.int32)).params
    params = jax.tree.map(lambda p: p + 0.5 * rng.standard_normal(p.shape).astype(p.dtype), made)
    run = jax.jit(lambda x, y: loss.cross_entropy()(model.apply(params, {}, x, Eval())[0], y))
    packed, separate = run((tokens, numbers), targets), run(alone, following)
    assert packed.weight == separate.weight == sum(map(len, documents)) - 12
    np.testing.assert_allclose(packed.total, separate.total, rtol=1e-5)
