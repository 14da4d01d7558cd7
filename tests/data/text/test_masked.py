"""BERT's batches: every row decoded back, and the shares of the recipe, counted."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, LabelOutOfRange
from fnlamp.stream.sink import steps

CLS, SEP, MASK, PAD, UNKNOWN = 0, 1, 2, 3, 4
IDS = {"cls": CLS, "sep": SEP, "mask": MASK, "pad": PAD, "special": [UNKNOWN]}
FIRST = 5  # the first ordinary token


def made(paragraphs, size=4, *, maximum=16, vocabulary=10_000, seed=0, **options):
    return data.masked_batches(paragraphs, size, maximum=maximum, vocabulary=vocabulary, seed=seed, **IDS, **options)


def told_apart(shape):
    """Paragraphs of sentences of these lengths, in which every token occurs once."""
    at, paragraphs = FIRST, []
    for lengths in shape:
        paragraphs.append([])
        for length in lengths:
            paragraphs[-1].append(list(range(at, at + length)))
            at += length
    return paragraphs


SHAPES = st.lists(st.lists(st.integers(1, 12), max_size=4), max_size=5)


def rows(s, state=None):
    for features, targets in stream.items(s, state):
        for i in range(len(features["ids"])):
            yield {name: leaf[i] for name, leaf in (features | targets).items()}


def original(row):
    """The row before masking, restored from its own positions and targets."""
    ids = row["ids"].copy()
    for position, token, weight in zip(row["positions"], row["tokens"], row["weights"], strict=True):
        if weight:
            ids[position] = token
    return ids


@given(SHAPES, st.integers(1, 4), st.integers(5, 20), st.integers(0, 2**63), st.floats(0.05, 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_row_is_two_windows_of_sentences_with_some_tokens_masked(shape, size, maximum, seed, share, drop_last):
    paragraphs = told_apart(shape)
    sentences = [(p, i) for p, paragraph in enumerate(paragraphs) for i in range(len(paragraph))]
    place = {token: (p, i) for p, i in sentences for token in paragraphs[p][i]}
    pairs = [(p, i) for p, i in sentences if i + 1 < len(paragraphs[p])]
    s = made(paragraphs, size, maximum=maximum, seed=seed, share=share, drop_last=drop_last)
    assert s.length == (len(pairs) // size if drop_last else -(-len(pairs) // size))
    most = max(round(share * (maximum - 3)), 1)
    firsts = []
    for row in rows(s):
        length, ids = int(row["lengths"]), original(row)
        # the position of each token
        assert row["ids"].shape == row["segments"].shape == (maximum,)
        assert (row["ids"][length:] == PAD).all()
        assert not (row["ids"][:length] == PAD).any()
        seps = np.flatnonzero(ids[:length] == SEP)
        assert ids[0] == CLS
        assert len(seps) == 2
        assert seps[1] == length - 1
        assert np.flatnonzero(row["segments"]).tolist() == list(range(seps[0] + 1, length))
        a, b = ids[1 : seps[0]].tolist(), ids[seps[0] + 1 : length - 1].tolist()
        # the sentences, and their windows
        first, second = place[a[0]], place[b[0]]
        sentence_a, sentence_b = (paragraphs[p][i] for p, i in (first, second))
        for window, sentence in ((a, sentence_a), (b, sentence_b)):
            assert window == list(range(window[0], window[0] + len(window)))
            assert set(window) <= set(sentence)
        room = maximum - 3
        if len(sentence_a) + len(sentence_b) <= room:
            assert (a, b) == (sentence_a, sentence_b)
        else:
            assert len(a) + len(b) == room
            assert all(len(w) == len(t) or len(w) >= room // 2 for w, t in ((a, sentence_a), (b, sentence_b)))
        follows = second == (first[0], first[1] + 1)
        assert row["next"] == follows
        if not follows and len({p for p, _ in sentences}) > 1:
            assert second[0] != first[0]
        firsts.append(first)
        # the masked tokens
        count = int(row["weights"].sum())
        assert count == max(1, round(share * (length - 3))) <= most
        assert row["weights"].tolist() == [1.0] * count + [0.0] * (most - count)
        positions = row["positions"][:count].tolist()
        assert positions == sorted(set(positions))
        assert not set(positions) & {0, *seps.tolist()}
        assert max(positions) < length
        assert row["positions"][count:].tolist() == [0] * (most - count)
        assert row["tokens"][count:].tolist() == [-100] * (most - count)
        assert not set(row["ids"][positions].tolist()) & {CLS, SEP, PAD, UNKNOWN}
    assert len(set(firsts)) == len(firsts)
    assert set(firsts) == set(pairs) or drop_last


@given(SHAPES.filter(lambda shape: any(len(p) > 1 for p in shape)), st.integers(1, 4), st.integers(0, 99), st.data())
@settings(max_examples=60, deadline=None)
def test_the_same_batches_are_made_again_and_from_any_position(shape, size, seed, draw):
    s, again = (made(told_apart(shape), size, seed=seed) for _ in range(2))
    batches = list(stream.items(s))
    states = [s.init, *(state for _, state in steps(s, s.init))]
    at = draw.draw(st.integers(0, len(batches)))
    jax.tree.map(np.testing.assert_array_equal, list(stream.items(again, states[at])), batches[at:])
    for i, batch in enumerate(batches):
        for spec, leaf in zip(jax.tree.leaves(s.spec), jax.tree.leaves(batch), strict=True):
            assert (leaf.shape[1:], leaf.dtype) == (spec.shape[1:], spec.dtype)
            assert leaf.shape[0] == spec.shape[0] or i == s.length - 1


def test_another_seed_or_batch_masks_other_tokens():
    paragraphs = [[list(range(FIRST, FIRST + 12))] * 9]
    hidden = [tuple(row["positions"].tolist()) for row in rows(made(paragraphs, 4, maximum=27))]
    assert len(set(hidden)) == 8
    other = [tuple(row["positions"].tolist()) for row in rows(made(paragraphs, 4, maximum=27, seed=1))]
    assert not set(hidden) & set(other)


# ------------------------------------------------------------------------------- the shares


def within(count, trials, share):
    """Five deviations of the binomial distribution: a false alarm once in 1.7 million."""
    assert abs(count - trials * share) < 5 * sqrt(trials * share * (1 - share)), (count, trials, share)


@pytest.fixture(scope="module")
def many():
    """The vocabulary, and all rows of six seeds."""
    shape = np.random.default_rng(0).integers(5, 40, (120, 12)).tolist()
    vocabulary = sum(map(sum, shape)) + FIRST
    make = partial(made, told_apart(shape), 32, maximum=64, vocabulary=vocabulary)
    return vocabulary, [row for seed in range(7, 13) for row in rows(make(seed=seed))]


def test_half_of_the_second_sentences_are_the_next(many):
    _, got = many
    assert len(got) == 6 * 120 * 11
    within(sum(int(row["next"]) for row in got), len(got), 0.5)


def test_15_percent_are_chosen_and_every_position_as_often(many):
    _, got = many
    candidates = sum(int(row["lengths"]) - 3 for row in got)
    chosen = sum(int(row["weights"].sum()) for row in got)
    assert abs(chosen / candidates - 0.15) < 0.002  # each row is rounded by itself
    for position in (1, 2, 3, 4, 5):  # always within the first sentence
        share = [row["weights"].sum() / (row["lengths"] - 3) for row in got]
        found = sum(position in row["positions"][row["weights"] > 0] for row in got)
        within(found, len(got), float(np.mean(share)))


def test_of_the_chosen_80_percent_are_masked_10_replaced_10_kept(many):
    vocabulary, got = many
    fates, drawn = Counter(), []
    for row in got:
        for position, token, weight in zip(row["positions"], row["tokens"], row["weights"], strict=True):
            now = row["ids"][position]
            if weight:
                fates["masked" if now == MASK else "kept" if now == token else "replaced"] += 1
                drawn += [now] if now not in (MASK, token) else []
    total = sum(fates.values())
    assert total > 15_000
    within(fates["masked"], total, 0.8)
    within(fates["replaced"], total, 0.1 * (1 - 1 / (vocabulary - FIRST)))
    within(fates["kept"], total, 0.1 * (1 + 1 / (vocabulary - FIRST)))
    assert FIRST <= min(drawn)
    assert max(drawn) < vocabulary
    quarters = np.bincount(np.array(drawn) * 4 // vocabulary, minlength=4)
    for count in quarters:
        within(count, len(drawn), 0.25)


def test_the_other_sentence_is_any_of_the_other_paragraphs():
    shape = [[1, 1], [1], [1, 1, 1], [1]]
    paragraphs = told_apart(shape)
    seconds = Counter()
    for seed in range(1500):
        for row in rows(made(paragraphs, 8, seed=seed, share=0.01)):
            ids = original(row)
            if not row["next"] and ids[1] == FIRST:
                seconds[int(ids[3])] += 1
    assert set(seconds) == set(range(FIRST + 2, FIRST + 7))
    for count in seconds.values():
        within(count, seconds.total(), 0.2)


def test_within_one_paragraph_the_other_sentence_is_never_the_next():
    paragraphs = told_apart([[1, 1, 1]])
    seconds = Counter()
    for seed in range(600):
        for row in rows(made(paragraphs, 8, seed=seed)):
            ids = original(row)
            if ids[1] == FIRST and not row["next"]:
                seconds[int(ids[3])] += 1
    assert set(seconds) == {FIRST, FIRST + 2}
    assert min(seconds.values()) > 80


def test_windows_start_at_random_places():
    paragraphs = told_apart([[20, 20], [20]])
    begins = Counter()
    for seed in range(400):
        (row,) = rows(made(paragraphs, 1, maximum=23, seed=seed))
        begins[int(original(row)[1]) - FIRST] += 1
    assert set(begins) == set(range(11))
    for count in begins.values():
        within(count, 400, 1 / 11)


# ------------------------------------------------------------------------------- positions of every row


def test_positions_are_those_of_each_row():
    """Positions are per row, not indices into the flattened batch."""
    generator = np.random.default_rng(1)
    paragraphs = told_apart(generator.integers(3, 30, (8, 4)).tolist())
    for features, targets in stream.items(made(paragraphs, 6, maximum=48)):
        shown = np.asarray(nn.gather_positions(jnp.asarray(features["ids"], jnp.float32), jnp.asarray(features["positions"])))
        counted = targets["weights"] > 0
        kept = counted & (shown != MASK) & (shown == targets["tokens"])
        assert ((shown == MASK) | kept)[counted].mean() > 0.6
        whole = features["ids"].copy()
        for i, (at, token) in enumerate(zip(features["positions"], targets["tokens"], strict=True)):
            whole[i, at[counted[i]]] = token[counted[i]]
        found = np.asarray(nn.gather_positions(jnp.asarray(whole, jnp.float32), jnp.asarray(features["positions"])))
        np.testing.assert_array_equal(found[counted], targets["tokens"][counted])
        if len(whole) > 1:
            of_the_first = whole[0][features["positions"]]
            assert (of_the_first[1:] != targets["tokens"][1:])[counted[1:]].mean() > 0.9


def bert_loss(prediction, target):
    tokens = loss.cross_entropy()(prediction["tokens"], target["tokens"])
    follows = loss.cross_entropy()(prediction["next"], target["next"])
    return loss.LossValue(tokens.total + follows.total, tokens.weight)


def test_padding_has_no_weight_in_the_loss():
    _, targets = next(stream.items(made(told_apart([[2, 3, 9]] * 3), 6)))
    prediction = jnp.zeros((*targets["tokens"].shape, 500))
    value = loss.cross_entropy()(prediction, jnp.asarray(targets["tokens"]))
    assert float(value.weight) == targets["weights"].sum() < targets["weights"].size


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2)], ids=str)
def test_a_small_model_trains_on_them(executor):
    generator = np.random.default_rng(0)
    # The second half of a sentence repeats the first, so that a masked token can be inferred.
    paragraphs = [[[*half, *half] for half in generator.integers(FIRST, 13, (4, 3)).tolist()] for _ in range(20)]

    def heads(both):
        hidden, positions = both
        return {"tokens": nn.gather_positions(hidden, positions)[..., :13], "next": hidden[:, 0, 13:]}

    body = nn.fun(lambda x: x["ids"]) >> nn.embedding(13, 16) >> nn.lstm(16) >> nn.linear(15)
    layer = nn.branch(body, nn.fun(lambda x: x["positions"])) >> nn.fun(heads)
    program = train.epochs(
        model=train.supervised(layer, bert_loss),
        optimizer=optim.adamw(1e-2),
        train_batches=lambda c: made(paragraphs, 10, maximum=15, vocabulary=13, seed=c.seed),
        epochs=3,
    )
    outcome = program.run(Runtime(log=None, executor=executor))
    assert is_successful(outcome), outcome
    curve = [report.train_loss for report in unsafe_perform_io(outcome.unwrap()).curve]
    assert curve[-1] < curve[0]


# ------------------------------------------------------------------------------- what cannot be


def test_special_tokens_in_the_text_are_neither_chosen_nor_changed():
    paragraphs = [[[UNKNOWN, 9, UNKNOWN], [SEP, UNKNOWN, MASK]], [[UNKNOWN] * 3] * 2]
    for seed in range(30):
        for row in rows(made(paragraphs, 2, seed=seed, share=1.0)):
            ids = original(row)
            assert ((row["ids"] == ids) | (ids == 9)).all()
            assert set(row["tokens"][row["weights"] > 0].tolist()) <= {9}


def test_sentences_without_tokens_are_left_out():
    assert [row["next"] >= 0 for row in rows(made([[[7], [], [8]], [[]], []], 8))] == [True]


def test_no_pair_is_an_empty_epoch():
    for paragraphs in ([], [[]], [[[7]], [[8]]]):
        s = made(paragraphs)
        assert s.length == 0
        assert s.why_empty == EmptyEpoch(0, 4, False, where="masked_batches")
    assert made([[[7], [8]]], drop_last=True).length == 0


def test_tokens_outside_the_vocabulary_are_a_fault():
    with pytest.raises(FaultError) as caught:
        made([[[7], [8, 9]], [[5, 6, 10]]], vocabulary=10)
    assert caught.value.fault == LabelOutOfRange(10, 10, 2, where="masked_batches")
    for wrong in ([[[7], [-1]]], [[[7], [2**40]]]):
        with pytest.raises(FaultError, match="expected labels from 0"):
            made(wrong)
    for wrong in ([[[7], [0.5]]], [[["a"], ["b"]]], [[[[7]], [[8]]]]):
        with pytest.raises(FaultError) as caught:
            made(wrong)
        assert isinstance(caught.value.fault, DtypeMismatch)


def test_wrong_arguments_are_bugs():
    make = partial(data.masked_batches, [[[7], [8]]], seed=0, **IDS)
    for options in ({"batch_size": 0}, {"maximum": 4}, {"share": 0.0}, {"vocabulary": 5}, {"vocabulary": 3}, {"special": [-1]}):
        with pytest.raises(ValueError, match=r"needs|special ids"):
            make(**{"batch_size": 2, "maximum": 9, "vocabulary": 10, **options})
    with pytest.raises(ValueError, match="special ids are distinct"):
        make(batch_size=2, maximum=9, vocabulary=10, sep=CLS)
