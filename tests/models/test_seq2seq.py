"""seq2seq, teacher_forcing, transformer, recurrent_seq2seq; tests/parity compares the two with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, models, nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.generate import generate
from fnlamp.layer import Layer, abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
SOURCE, TARGET = jnp.array([[1, 6, 0, 2, 2], [3, 3, 5, 4, 6]]), jnp.array([[4, 0, 2, 1], [1, 3, 3, 0]])
LENGTHS = jnp.array([3, 5])
SPEC = (array_spec((2, 5), jnp.int32), array_spec((2,), jnp.int32)), array_spec((2, 4), jnp.int32)
MODELS = {
    "transformer": models.transformer(7, 5, layers=2, width=8, heads=2),
    "transformer after norms": models.transformer(7, 7, layers=1, width=8, heads=2, pre_norm=False, context=9, shared=True),
    "gru": models.recurrent_seq2seq(7, 5, cell=nn.gru_cell(6), layers=2, width=8),
    "lstm": models.recurrent_seq2seq(7, 5, cell=nn.lstm_cell(6), layers=1, width=8),
}
SLOW = {"transformer", "lstm"}
each_model = pytest.mark.parametrize(
    "model", [pytest.param(m, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, m in MODELS.items()]
)


def drawn(model: Layer) -> dict:
    """Parameters far from their initial values."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), abstract_init(model, SPEC).params)


@pytest.mark.slow
@each_model
def test_only_tokens_within_the_lengths_and_no_later_ones_count(model: Layer) -> None:
    params = drawn(model)
    apply = jax.jit(lambda source, target: model.apply(params, {}, (source, target), Eval())[0])
    y = apply((SOURCE, LENGTHS), TARGET)
    assert y.shape == (2, 4, 7 if "after" in model.name else y.shape[-1]) and np.isfinite(y).all()
    more = jnp.pad(SOURCE, ((0, 0), (0, 4)), constant_values=3).at[0, 3:].set(-1)  # not even a token
    np.testing.assert_allclose(apply((more, LENGTHS), TARGET), y, atol=1e-5)
    np.testing.assert_allclose(apply(SOURCE[:1, :3], TARGET[:1]), y[:1], atol=1e-5)  # a batch of one, without padding
    padded = apply((SOURCE, LENGTHS), (TARGET.at[0, 2:].set(-1), jnp.array([2, 4])))
    np.testing.assert_allclose(padded[0, :2], y[0, :2], atol=1e-5)
    np.testing.assert_allclose(padded[1], y[1], atol=1e-5)
    later = apply((SOURCE, LENGTHS), TARGET.at[:, 2].set(0))
    np.testing.assert_allclose(later[:, :2], y[:, :2], atol=1e-5)
    assert (abs(later[:, 2] - y[:, 2]).max(-1) > 1e-3).tolist() == [True, True]
    assert np.isfinite(apply((SOURCE, jnp.array([0, 5])), TARGET)).all()  # an empty source
    assert np.isnan(apply((SOURCE, jnp.array([6, 5])), TARGET)[0]).all()
    assert np.isnan(apply((SOURCE.at[0, 1].set(7), LENGTHS), TARGET)[0]).all()


@pytest.mark.slow
@each_model
def test_half_precision_flows_through(model: Layer) -> None:
    params = drawn(model)
    x = (SOURCE, LENGTHS), TARGET
    y = model.apply(params, {}, x, Eval())[0]
    half = model.apply(tree.cast(params, jnp.bfloat16), {}, x, Eval())[0]
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), y, atol=0.1 * float(abs(y).max()))


@pytest.mark.slow
def test_dropout_is_for_training() -> None:
    for model in (
        models.transformer(7, layers=1, width=8, heads=2, drop_rate=0.5),
        models.recurrent_seq2seq(7, cell=nn.gru_cell(6), layers=1, width=8, drop_rate=0.5),
    ):
        params = drawn(model)
        x = (SOURCE, LENGTHS), TARGET
        one, same, other, final = (
            model.apply(params, {}, x, mode)[0] for mode in (Train(KEY), Train(KEY), Train(jax.random.key(1)), Eval())
        )
        np.testing.assert_array_equal(one, same)
        assert (one != other).any() and (one != final).any()


def test_one_weight_embeds_both_and_is_the_last() -> None:
    own, shared = (
        tree.paths(abstract_init(models.transformer(7, layers=1, width=8, heads=2, shared=shared), SPEC).params)
        for shared in (False, True)
    )
    assert set(own) - set(shared) == {"decoder/tokens/weight", "decoder/out/weight", "decoder/out/bias"}
    assert shared["encoder/tokens/weight"].shape == (7, 8)


def test_teacher_forcing_predicts_the_next_token_and_ignores_padding() -> None:
    target = np.array([[5, 6, 7, 9], [8, 9, 0, 0], [4, 4, 4, 4]], np.uint8)
    inputs, targets = models.teacher_forcing(target, np.array([4, 2, 0], np.int8), start=300, ignored=-1)
    np.testing.assert_array_equal(inputs, [[300, 5, 6, 7], [300, 8, 9, 0], [300, 4, 4, 4]])
    np.testing.assert_array_equal(targets, [[5, 6, 7, 9], [8, 9, -1, -1], [-1] * 4])
    whole = models.teacher_forcing(jnp.asarray(target), start=1)
    np.testing.assert_array_equal(whole[1], target)
    logits = jax.random.normal(KEY, (3, 4, 10))
    _, targets = models.teacher_forcing(target, jnp.array([4, 2, 0]), start=1)
    found = loss.cross_entropy()(logits, targets)
    logp = np.asarray(jax.nn.log_softmax(logits))
    by_hand = -np.mean([logp[row, t, target[row, t]] for row, t in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]])
    np.testing.assert_allclose(found.mean, by_hand, rtol=1e-6)
    _, targets = jax.jit(lambda n: models.teacher_forcing(target, n, start=1))(jnp.array([4, 5, -1]))
    assert targets[1:].tolist() == [[-1] * 4] * 2
    assert np.isnan(jax.jit(lambda y: loss.cross_entropy()(y, targets).total)(logits))


def test_wrong_input() -> None:
    transformer, gru = MODELS["transformer after norms"], MODELS["gru"]
    tokens = array_spec((2, 5), jnp.int32)
    for model in (transformer, gru):
        for wrong, kind, expected in (
            (tokens, ShapeMismatch, r"a pair \(source, target\)"),
            ((tokens,) * 3, ShapeMismatch, r"a pair \(source, target\)"),
            ((tokens, array_spec((2,), jnp.int32)), ShapeMismatch, r"decoder/tokens.*tokens of shape \(batch, time\)"),
            ((array_spec((2, 5), jnp.float32), tokens), DtypeMismatch, "encoder/tokens.*expected integer tokens"),
            ((tokens, array_spec((3, 5), jnp.int32)), ShapeMismatch, "decoder"),
            (((tokens, array_spec((3,), jnp.int32)), tokens), ShapeMismatch, "lengths of shape"),
            (((tokens, array_spec((2,), jnp.float32)), tokens), DtypeMismatch, "integer lengths"),
        ):
            with pytest.raises(FaultError, match=expected) as caught:
                model.init(KEY, wrong)
            assert isinstance(caught.value.fault, kind)
    with pytest.raises(FaultError, match="encoder/positions.*time at most 9"):
        transformer.init(KEY, (array_spec((2, 10), jnp.int32), tokens))


@pytest.mark.parametrize(
    ("options", "message"), [({"heads": 3}, "a width that heads divides"), ({"target": 8, "shared": True}, "one vocabulary")]
)
def test_wrong_sizes(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.transformer(7, **({"layers": 1, "width": 8, "heads": 2} | options))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "whole"])
@pytest.mark.parametrize("name", ["gru", "transformer after norms"])
def test_decoding_writes_what_the_whole_model_predicts(name: str, lengths: jax.Array | None) -> None:
    model, source = MODELS[name], SOURCE if lengths is None else (SOURCE, lengths)
    params = jax.tree.map(lambda p: 0.5 * p, drawn(model))
    found = generate(model, params, [[1], [2]], source=source, tokens=4).run_or_raise()
    written = jnp.array([[1], [2]])
    for _ in range(4):
        logits = model.apply(params, {}, (source, written), Eval())[0]
        written = jnp.concatenate([written, logits[:, -1:].argmax(-1).astype(written.dtype)], 1)
    np.testing.assert_array_equal(found.tokens, written[:, 1:])
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), found.tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-5)
