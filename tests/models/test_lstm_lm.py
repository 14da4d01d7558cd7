"""lstm_lm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import models, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
TOKENS = jnp.array([[1, 6, 0, 2, 2], [3, 3, 5, 4, 6]])
SPEC = array_spec((2, 5), jnp.int32)


def drawn(layer: object, spec: object = SPEC) -> dict:
    """Parameters far from their initial values."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), abstract_init(layer, spec).params)


def by_hand(params: dict, tokens: np.ndarray) -> np.ndarray:
    """The network in NumPy and float64, one time step after the other."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["tokens"]["weight"][tokens]
    for name in sorted(name for name in p if name.startswith("lstm")):
        one, ys = p[name], []
        h = c = np.zeros((len(x), one["recurrent_weight"].shape[0]))
        for t in range(x.shape[1]):
            i, f, g, o = np.split(x[:, t] @ one["input_weight"] + h @ one["recurrent_weight"] + one["bias"], 4, axis=-1)
            i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            ys.append(h)
        x = np.stack(ys, 1)
    return x @ p["out"].get("weight", p["tokens"]["weight"].T) + p["out"]["bias"]


@pytest.mark.parametrize("tied", [False, True])
def test_numbers(tied: bool) -> None:
    layer = models.lstm_lm(7, layers=2, width=6, hidden=6 if tied else 4, tied=tied, drop_rate=0.3)
    params = drawn(layer)
    y, state = jax.jit(layer.apply)(params, {}, TOKENS, Eval())
    np.testing.assert_allclose(y, by_hand(params, np.asarray(TOKENS)), atol=1e-5)
    assert state == {}
    assert ("out/weight" in tree.paths(params)) is not tied
    assert (jax.jit(layer.apply)(params, {}, TOKENS, Train(KEY))[0] != y).any()


def test_a_text_in_pieces_has_the_logits_of_the_whole_one() -> None:
    layer = models.lstm_lm(7, layers=2, width=6, carried=True)
    spec = array_spec((2, 2), jnp.int32), array_spec((2,), bool)
    params, state, ys = drawn(layer, spec), layer.init(KEY, spec).state, []
    for start in (0, 2):
        piece = TOKENS[:, start : start + 2], jnp.full(2, start == 0)
        y, state = layer.apply(params, state, piece, Train(KEY))
        ys.append(y)
    np.testing.assert_allclose(np.concatenate(ys, 1), by_hand(params, np.asarray(TOKENS))[:, :4], atol=1e-5)


def test_padding_has_no_effect() -> None:
    layer = models.lstm_lm(7, layers=1, width=6)
    params = drawn(layer)
    y, _ = layer.apply(params, {}, (TOKENS.at[0, 2:].set(-1), jnp.array([2, 5])), Eval())
    expected = by_hand(params, np.asarray(TOKENS))
    np.testing.assert_allclose(y[0, :2], expected[0, :2], atol=1e-5)
    np.testing.assert_allclose(y[1], expected[1], atol=1e-5)
    assert np.isfinite(y).all()
    y, _ = layer.apply(params, {}, (TOKENS, jnp.array([6, 5])), Eval())
    assert np.isnan(y[0]).all() and not np.isnan(y[1]).any()
    y, _ = layer.apply(params, {}, TOKENS.at[0, 3].set(7), Eval())
    assert np.isnan(y[0, 3:]).all() and not np.isnan(y[0, :3]).any()


def test_half_precision_flows_through() -> None:
    layer = models.lstm_lm(7, layers=1, width=6, tied=True)
    params = drawn(layer)
    y, _ = layer.apply(tree.cast(params, jnp.bfloat16), {}, TOKENS, Eval())
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), by_hand(params, np.asarray(TOKENS)), atol=0.1)


def test_wrong_input_and_sizes() -> None:
    layer = models.lstm_lm(7, layers=1, width=6)
    for shape in [(5,), (2, 5, 1)]:
        with pytest.raises(FaultError, match=r"expected tokens of shape \(batch, time\)") as caught:
            layer.init(KEY, array_spec(shape, jnp.int32))
        assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(FaultError, match="tokens/embedding: expected integer tokens") as caught:
        layer.init(KEY, array_spec((2, 5), jnp.float32))
    assert isinstance(caught.value.fault, DtypeMismatch)
    with pytest.raises(FaultError, match=r"expected \(x, starts\)"):
        models.lstm_lm(7, layers=1, width=6, carried=True).init(KEY, SPEC)
    with pytest.raises(ValueError, match="a tied weight needs hidden and width to be the same, got 5 and 4"):
        models.lstm_lm(7, layers=1, width=4, hidden=5, tied=True)
