"""share: one parameter in several places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn, table, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.mode import Eval

KEY = jax.random.key(0)
TOKENS = jnp.array([[1, 0, 2], [2, 2, 1]])
MODEL = nn.sequence(tokens=nn.embedding(5, 3), act=nn.tanh, out=nn.linear(5, bias=False))


def test_tied_weights_and_their_gradients_add_up() -> None:
    tied = nn.share(MODEL, "out/weight", of="tokens/weight", transpose=True)
    made = tied.init(KEY, array_spec((2, 3), jnp.int32))
    assert list(tree.paths(made.params)) == ["tokens/weight"]
    weight = made.params["tokens"]["weight"]
    y, _ = tied.apply(made.params, {}, TOKENS, Eval())
    np.testing.assert_allclose(y, np.tanh(weight[TOKENS]) @ weight.T, atol=1e-5)

    def both(params):
        return jnp.sum(jnp.sin(MODEL.apply(params, {}, TOKENS, Eval())[0]))

    apart = jax.grad(both)({"tokens": {"weight": weight}, "out": {"weight": weight.T}})
    together = jax.grad(lambda p: jnp.sum(jnp.sin(tied.apply(p, {}, TOKENS, Eval())[0])))(made.params)
    np.testing.assert_allclose(together["tokens"]["weight"], apart["tokens"]["weight"] + apart["out"]["weight"].T, atol=1e-5)
    assert np.abs(together["tokens"]["weight"][0]).max() > 0  # token 0 learns


def test_a_whole_child_is_shared_and_counted_once() -> None:
    layer = nn.sequence(a=nn.linear(3) >> nn.tanh, b=nn.linear(3) >> nn.tanh, c=nn.linear(3))
    shared = nn.share(nn.share(layer, "b", of="a"), "c/bias", of="a/0/bias")
    spec = array_spec((2, 3), jnp.float32)
    made, plain = shared.init(KEY, spec), layer.init(KEY, spec)
    assert list(tree.paths(made.params)) == ["a/0/bias", "a/0/weight", "c/weight"]
    np.testing.assert_array_equal(made.params["a"]["0"]["weight"], plain.params["a"]["0"]["weight"])
    x = jnp.ones((2, 3))
    params = {**plain.params, "b": plain.params["a"], "c": {**plain.params["c"], "bias": plain.params["a"]["0"]["bias"]}}
    np.testing.assert_array_equal(shared.apply(made.params, {}, x, Eval())[0], layer.apply(params, {}, x, Eval())[0])
    rows = table(nn.sequence(body=shared), spec).splitlines()
    assert rows[-1].split()[1] == "21"
    assert [row.split()[-2] for row in rows if "linear" in row and "share" not in row] == ["12", "9"]


def test_what_cannot_be_shared() -> None:
    spec = array_spec((2, 3), jnp.int32)
    with pytest.raises(FaultError, match="transpose=True") as caught:
        nn.share(MODEL, "out/weight", of="tokens/weight").init(KEY, spec)
    assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(ValueError, match=r"share: target 'out/bias' is not a path.*out/weight, tokens/weight"):
        nn.share(MODEL, "out/bias", of="tokens/weight").init(KEY, spec)
    with pytest.raises(ValueError, match="neither inside the other"):
        nn.share(MODEL, "out", of="out/weight")
    with pytest.raises(FaultError, match="one matrix to transpose"):
        nn.share(MODEL, "out", of="tokens", transpose=True).init(KEY, spec)
