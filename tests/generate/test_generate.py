"""Generation: with and without the cache, alone and together, its ends, texts and pieces, and ordinary situations."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from returns.unsafe import unsafe_perform_io

from fnlamp import Eval, Layer, data, loss, models, nn, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import DtypeMismatch, Interrupted, NotDecodable, NothingToSample, ShapeMismatch, UnknownToken
from fnlamp.generate import Reason, beam, below, generate, greedy, min_p, repetition_penalty, sampled, temperature, top_k, top_p
from fnlamp.generate.run import programs

QUIET = Runtime(log=None)
SAMPLED = sampled(temperature(1.5), top_k(9), top_p(0.95))
PROMPTS = [[1, 2, 3], [4], [5] * 7, [6, 1] * 5, [7, 0], [8, 3, 5, 2], [9] * 3, [10, 10, 1, 2, 6]]


def decoder(attention: Any) -> Layer:
    block = nn.transformer_block(attention)
    return nn.sequence(tokens=nn.embedding(11, 16), blocks=nn.repeat(block, 2, scan=True), out=nn.linear(11))


MODELS = {
    "rnn": lambda: nn.embedding(11, 8) >> nn.rnn(16) >> nn.dropout(0.5) >> nn.linear(11),
    "gpt": lambda: models.gpt(11, layers=2, width=16, heads=2, context=64, drop_rate=0.3),
    "short context": lambda: models.gpt(11, layers=1, width=16, heads=2, context=40),
    "llama": lambda: models.gpt(
        11, layers=2, width=16, heads=4, context=64, kv_heads=2, query_key=nn.rotary_positions(), gated=True, tied=False
    ),
    "rotary, groups, window, scanned": lambda: decoder(
        nn.self_attention(4, kv_heads=2, mask=nn.window(5), query_key=nn.rotary_positions())
    ),
    "lstm": lambda: models.lstm_lm(11, layers=2, width=16, drop_rate=0.5),
}


@cache
def made(name: str = "rnn") -> tuple[Any, Any]:
    """A model, and parameters large enough for texts that vary; larger ones magnify rounding until near ties differ."""
    model = MODELS[name]()
    params = jax.jit(lambda key: model.init(key, array_spec((1, 8), jnp.int32)).params)(jax.random.key(0))
    return model, jax.tree.map(lambda leaf: leaf * (3 if name in ("rnn", "lstm") or "scanned" in name else 5), params)


def run(prompts: Any = PROMPTS, *, of: str = "rnn", **options: Any) -> Any:
    return generate(*made(of), prompts, **{"tokens": 24, **options}).run_or_raise(QUIET)


def fault_of(*args: Any, **options: Any) -> Any:
    return unsafe_perform_io(generate(*args, **options).run(QUIET).failure())


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [greedy, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", MODELS)
def test_with_the_cache_as_without_it_and_together_as_alone(name, sampling):
    whole = run(of=name, sampling=sampling, seed=5)
    plain = run(of=name, sampling=sampling, seed=5, cached=False)
    np.testing.assert_array_equal(whole.tokens, plain.tokens)
    np.testing.assert_allclose(whole.log_probs, plain.log_probs, atol=2e-4)
    assert len({tuple(row) for row in whole.tokens.tolist()}) > 4  # the texts are not all alike
    for row, prompt in enumerate(PROMPTS):
        alone = run([prompt], of=name, sampling=sampling, seed=5)
        np.testing.assert_array_equal(alone.row(0), whole.row(row))
        np.testing.assert_allclose(alone.log_probs[0], whole.log_probs[row], atol=2e-4)


@pytest.mark.slow
def test_with_the_cache_as_a_loop_in_numpy():
    model, params = made("gpt")
    text = [4]
    scores = []
    for _ in range(6):
        logits = np.asarray(model.apply(params, {}, jnp.array([text + [0] * (8 - len(text))]), Eval())[0], np.float64)
        logits = logits[0, len(text) - 1]
        scores.append(logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
        text.append(int(logits.argmax()))
    whole = run([[4]], of="gpt", tokens=6)
    assert whole.row(0).tolist() == text[1:]
    np.testing.assert_allclose(whole.log_probs[0], scores, atol=1e-4)
    assert whole.reasons == (Reason.LENGTH,)


def test_the_seed_decides_and_equal_prompts_differ():
    first, again, other = (run([[1], [2], [1]], sampling=SAMPLED, seed=seed).tokens.tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] != first[2]
    turned = run([[2], [1], [1]], sampling=SAMPLED, seed=1).tokens.tolist()
    assert turned == [first[1], first[0], first[2]]  # the order of rows does not matter


def test_prompts_of_different_lengths_and_numbers_of_rules_share_a_program():
    model, _ = made()
    loop = programs(model, 64, {}).continued
    run([[1, 2]], sampling=sampled(temperature(1.0), top_p(0.9)), tokens=9)
    before = loop._cache_size()
    for length, count in ((1, 9), (5, 30), (40, 20)):
        run([[3] * length], sampling=sampled(temperature(0.5 + length), top_p(0.5)), tokens=count, seed=length)
    assert loop._cache_size() == before


@pytest.mark.slow
def test_a_row_ends_at_a_stop_token_and_the_others_continue():
    free = run(tokens=20)
    token = int(free.tokens[0, 5])
    ended = run(tokens=20, stop=[token, 300])
    for row in range(8):
        own = free.row(row).tolist()
        expected = own[: own.index(token) + 1] if token in own else own
        assert ended.row(row).tolist() == expected
        assert ended.reasons[row] is (Reason.STOP_TOKEN if token in own else Reason.LENGTH)
        assert (ended.tokens[row, len(expected) :] == -1).all()
        assert not ended.log_probs[row, len(expected) :].any()
    assert run([[token, 1]], tokens=3, stop=[token]).lengths[0] >= 1  # one in the prompt does not count


CODEC = data.character_codec("abcdefghijk")


def test_a_row_ends_at_a_stop_text_whatever_is_computed_at_once():
    free = run(["abc", "d"], codec=CODEC, tokens=30)
    stop = free.texts[0][7:10]
    texts = set()
    for every in (1, 4, 30):
        ended = run(["abc", "d"], codec=CODEC, tokens=30, stop=[stop], every=every)
        at = free.texts[0].index(stop)
        assert ended.texts[0] == free.texts[0][:at]
        assert ended.lengths[0] == at + 3
        assert ended.reasons[0] is Reason.STOP_TEXT
        texts.add(ended.texts)
    assert len(texts) == 1


def test_pieces_add_up_and_hold_back_what_may_become_a_stop_text():
    stop = run(["abc"], codec=CODEC, tokens=30).texts[0][7:10]
    said: list[Any] = []
    each = lambda piece: Effect.suspend(lambda: said.append(piece))  # noqa: E731
    whole = run(["abc", "d"], codec=CODEC, tokens=30, stop=[stop], each=each, every=1)
    for row in (0, 1):
        own = [piece for piece in said if piece.row == row]
        assert "".join(piece.text for piece in own) == whole.texts[row]
        assert np.concatenate([piece.tokens for piece in own]).tolist() == whole.row(row).tolist()
    assert len(said) > 10


def fixed(text: bytes) -> Any:
    """A model that says these bytes, whatever it is given."""
    following = np.zeros((256, 256), np.float32)
    positions = nn.fun(lambda x: x, "tokens") >> nn.embedding(256, 256)
    for a, b in zip(b"\0" + text, text + b"\0", strict=False):
        following[a, b] = 9
    return positions, {"1": {"weight": jnp.asarray(following)}}


def test_a_character_of_several_bytes_is_one_piece():
    said: list[str] = []
    text = "aé€😀b"
    model, params = fixed(text.encode())
    codec = data.byte_codec()
    each = lambda piece: Effect.suspend(lambda: said.append(piece.text))  # noqa: E731
    program = generate(model, params, ["\0"], codec=codec, tokens=len(text.encode()), each=each, every=1)
    assert program.run_or_raise(QUIET).texts == (text,)
    assert [piece for piece in said if piece] == list(text)
    cut = generate(model, params, ["\0"], codec=codec, tokens=2).run_or_raise(QUIET)
    assert cut.texts == ("a\ufffd",)  # half a character at the end is said to be one


@pytest.mark.slow
def test_rules_that_leave_one_token_are_greedy():
    expected = run().tokens.tolist()
    for rule in (temperature(0.0), top_k(1), top_p(1e-6), min_p(1.0)):
        assert run(sampling=sampled(rule)).tokens.tolist() == expected
    assert run(sampling=sampled(top_k(500), below(11)), tokens=3).lengths.tolist() == [3] * 8


@pytest.mark.slow
def test_a_memory_is_given_to_a_decoder_and_projected_once():
    memory = jax.random.normal(jax.random.key(2), (2, 3, 6))
    block = nn.transformer_block(nn.self_attention(2, mask=nn.causal), cross=nn.cross_attention(2))
    model = nn.parallel(nn.embedding(11, 8), nn.sequence()) >> block >> nn.fun(lambda both: both[0]) >> nn.linear(11)
    params = model.init(jax.random.key(0), (array_spec((2, 4), jnp.int32), memory)).params
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    options = {"tokens": 12, "sampling": SAMPLED}
    whole = generate(model, params, [[1], [1, 2]], given=memory, **options).run_or_raise(QUIET)
    plain = generate(model, params, [[1], [1, 2]], given=memory, cached=False, **options).run_or_raise(QUIET)
    assert whole.tokens.tolist() == plain.tokens.tolist()
    alone = generate(model, params, [[1, 2]], given=memory[1:], **options).run_or_raise(QUIET)
    assert alone.tokens[0].tolist() == whole.tokens[1].tolist()


SEQ2SEQ = {
    "transformer": lambda: models.transformer(11, layers=2, width=8, heads=2, shared=True),
    "recurrent": lambda: models.recurrent_seq2seq(11, cell=nn.lstm_cell(8), layers=2, width=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_source_is_read_once_and_its_padding_has_no_effect(name):
    model, tokens = SEQ2SEQ[name](), array_spec((2, 4), jnp.int32)
    params = jax.jit(lambda key: model.init(key, (tokens, tokens)).params)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    source = jnp.array([[3, 4, 5, 0, 9], [6, 7, 8, 3, 4]]), jnp.array([3, 5])
    for sampling in (SAMPLED, beam(3)):
        options: Any = {"tokens": 9, "sampling": sampling, "stop": [2], "source": source}
        whole, plain = (generate(model, params, [[1], [1, 4]], cached=c, **options).run_or_raise(QUIET) for c in (True, False))
        assert whole.tokens.tolist() == plain.tokens.tolist()
    alone = generate(model, params, [[1]], **{**options, "source": source[0][:1, :3]}).run_or_raise(QUIET)
    assert alone.row(0).tolist() == whole.row(0).tolist()


@pytest.mark.slow
def test_half_precision_and_a_trained_model():
    model, params = made()
    half = train.supervised(model, loss.cross_entropy(), precision=train.bfloat16)
    whole = generate(half, params, PROMPTS, tokens=5).run_or_raise(QUIET)
    assert whole.lengths.tolist() == [5] * 8
    assert np.isfinite(whole.log_probs).all()


@pytest.mark.parametrize(
    ("prompts", "options", "expected"),
    [
        ([], {}, ShapeMismatch),
        ([[]], {}, ShapeMismatch),
        ([[[1, 2]]], {}, ShapeMismatch),
        ([[1.5, 2.0]], {}, DtypeMismatch),
        ([[1, 11]], {}, UnknownToken),
        ([[1], [-1]], {}, UnknownToken),
        ([[1] * 65], {"tokens": 0}, ShapeMismatch),
        ([[1] * 60], {"tokens": 6}, ShapeMismatch),
        (["aX"], {"codec": CODEC}, UnknownToken),
        ([""], {"codec": CODEC}, ShapeMismatch),
    ],
)
def test_what_cannot_be_continued_is_a_fault(prompts, options, expected):
    assert isinstance(fault_of(*made("gpt"), prompts, **{"tokens": 2, **options}), expected)


@pytest.mark.slow
def test_nothing_new_and_a_text_that_fills_the_context():
    nothing = run([[1], [2, 3]], of="gpt", tokens=0)
    assert (nothing.tokens.shape, nothing.lengths.tolist(), nothing.reasons) == ((2, 0), [0, 0], (Reason.LENGTH,) * 2)
    assert run([[1] * 60], of="gpt", tokens=5).lengths.tolist() == [5]  # the last token is not read again


def test_logits_that_say_nothing_are_a_fault_with_what_was_generated():
    model, params = made()
    broken = nn.sequence(model=model, nan=nn.fun(lambda y: jnp.where(jnp.arange(11) == 2, jnp.nan, y)))
    fault = fault_of(broken, {"model": params}, PROMPTS, tokens=5)
    assert isinstance(fault, NothingToSample)
    assert fault.state.lengths.tolist() == [0] * 8
    none = lambda logits, past: jnp.where(past.length > 4, -jnp.inf, logits)  # noqa: E731
    fault = fault_of(model, params, [[1], [1, 2, 3]], tokens=5, sampling=sampled(none))
    assert (fault.row, fault.step) == (1, 2)
    assert "exclude every token" in str(fault)


def test_layers_that_look_ahead_need_no_cache():
    model = nn.embedding(11, 8) >> nn.bidirectional(nn.gru(4)) >> nn.linear(11)
    params = model.init(jax.random.key(0), array_spec((1, 4), jnp.int32)).params
    assert isinstance(fault_of(model, params, [[1]], tokens=3), NotDecodable)
    assert generate(model, params, [[1]], tokens=3, cached=False).run_or_raise(QUIET).lengths.tolist() == [3]


def test_an_interruption_has_what_was_generated():
    runtime = Runtime(log=None)
    each = lambda piece: Effect.suspend(runtime.cancel.cancel)  # noqa: E731
    match generate(*made(), [[1]], tokens=30, each=each, every=3).run(runtime):
        case IOFailure(Failure(Interrupted() as stopped)):
            assert stopped.state.lengths.tolist() == [3]
        case other:
            raise AssertionError(other)


def test_a_program_runs_twice_alike():
    program = generate(*made(), [[1]], tokens=4, sampling=SAMPLED)
    match program.run(QUIET), program.run(QUIET):
        case IOSuccess(Success(a)), IOSuccess(Success(b)):
            assert a.tokens.tolist() == b.tokens.tolist()
        case other:
            raise AssertionError(other)


def test_a_penalty_is_of_the_row_alone():
    rows = run([[1, 2, 3], [4]], sampling=sampled(repetition_penalty(5.0), temperature(0.0)), tokens=10)
    assert (
        rows.row(1).tolist()
        == run([[4]], sampling=sampled(repetition_penalty(5.0), temperature(0.0)), tokens=10).row(0).tolist()
    )
