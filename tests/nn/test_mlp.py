"""mlp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn, tree
from fnlamp.arrays import array_spec
from fnlamp.layer import Layer, abstract_init
from fnlamp.mode import Eval, Train

SPEC = array_spec((32, 784), jnp.float32)
KEY = jax.random.key(0)


def test_the_number_of_parameters_is_lamps() -> None:
    made = nn.mlp((64, 32), 10, drop_rate=0.2, norm_last=True).init(KEY, SPEC)
    assert tree.count(made.params) == 52_756
    assert tree.count(made.params) == 784 * 64 + 64 * 32 + 32 * 10 + 2 * (64 + 32 + 10)


def test_the_order_of_a_block() -> None:
    assert repr(nn.mlp((64,), 10, drop_rate=0.2)) == "linear(64) >> batch_norm >> relu >> dropout(0.2) >> linear(10)"
    assert repr(nn.mlp((), 10)) == "linear(10)"
    assert repr(nn.mlp((), 10, norm_last=True, activation_last=True)) == "linear(10) >> batch_norm >> relu"
    assert (
        repr(nn.mlp((8,), 4, norm=nn.layer_norm(), activation=nn.gelu, norm_last=True, activation_last=True, drop_rate=0.5))
        == "linear(8) >> layer_norm >> gelu >> dropout(0.5) >> linear(4) >> layer_norm >> gelu >> dropout(0.5)"
    )


def test_children_are_named() -> None:
    made = abstract_init(nn.mlp((64, 32), 10, drop_rate=0.2), SPEC)
    assert [name for name, _, _ in made.parts] == [
        *("linear_0", "norm_0", "activation_0", "dropout_0"),
        *("linear_1", "norm_1", "activation_1", "dropout_1"),
        "linear_2",
    ]


@pytest.mark.parametrize(
    ("layer", "biases"),
    [
        (nn.mlp((64, 32), 10), ["linear_2/bias"]),
        (nn.mlp((64,), 10, norm_last=True), []),
        (nn.mlp((64,), 10, norm=None), ["linear_0/bias", "linear_1/bias"]),
        (nn.mlp((64,), 10, norm=nn.layer_norm()), ["linear_1/bias"]),
        (nn.mlp((64,), 10, norm=nn.layer_norm(shift=False), norm_last=True), ["linear_0/bias", "linear_1/bias"]),
        (nn.mlp((64,), 10, norm=nn.sequence(nn.batch_norm())), ["linear_1/bias"]),
    ],
    ids=["batch_norm", "norm_last", "none", "layer_norm", "no shift", "nested norm"],
)
def test_a_bias_only_if_no_shift_follows(layer: Layer, biases: list[str]) -> None:
    params = abstract_init(layer, SPEC).params
    assert [path for path in tree.paths(params) if path.endswith("bias")] == biases


def test_initialisers_reach_every_linear_layer() -> None:
    ones, twos = jax.nn.initializers.constant(1.0), jax.nn.initializers.constant(2.0)
    params = nn.mlp((3,), 2, norm=None, weight_init=ones, bias_init=twos).init(KEY, array_spec((1, 4), jnp.float32)).params
    for leaf in (params["linear_0"], params["linear_1"]):
        assert (leaf["weight"] == 1).all()
        assert (leaf["bias"] == 2).all()


def test_it_runs_in_both_modes() -> None:
    layer = nn.mlp((16, 8), 3, drop_rate=0.5)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((20, 5), np.float32))
    made = layer.init(KEY, array_spec(x.shape, x.dtype))
    apply = jax.jit(layer.apply)
    trained, state = apply(made.params, made.state, x, Train(KEY))
    evaluated, same = apply(made.params, made.state, x, Eval())
    assert trained.shape == evaluated.shape == (20, 3)
    assert not jnp.allclose(trained, evaluated)
    assert sorted(state) == sorted(same) == ["norm_0", "norm_1"]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="dropout needs 0 <= rate < 1"):
        nn.mlp((3,), 2, drop_rate=1.0)
    with pytest.raises(ValueError, match="at least one output"):
        nn.mlp((0,), 2)


def test_other_norms_have_their_own_shift_or_none() -> None:
    for norm, bias in ((nn.group_norm(4), False), (nn.rms_norm(), True)):
        made = abstract_init(nn.mlp(hidden=(8,), out=2, norm=norm), array_spec((2, 3), jnp.float32))
        assert ("bias" in made.params["linear_0"]) is bias
