"""Layers as pairs of functions: abstract_init and table. The laws of all layers are in laws/."""

import jax
import jax.numpy as jnp
import pytest

from fnlamp import nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import READY, Init, Layer, abstract_init, tag_all
from fnlamp.mode import Eval
from fnlamp.summary import table
from fnlamp.tag import Role, Tag

SPEC = array_spec((32, 784), jnp.float32)


def test_a_layer_is_written_with_two_functions() -> None:
    def init(key: jax.Array, spec: jax.ShapeDtypeStruct) -> Init:
        return Init({"scale": jnp.full(spec.shape[-1:], 2.0)}, {}, spec, tag_all("scale", scale=Role.SCALE))

    scale = Layer(init, lambda params, state, x, mode: (x * params["scale"], state), "scale")
    made = (scale >> scale).init(jax.random.key(0), array_spec((1, 3), jnp.float32))
    y, state = (scale >> scale).apply(made.params, made.state, jnp.ones((1, 3)), Eval())
    assert y.tolist() == [[4, 4, 4]]
    assert state == {}
    assert made.tags["1"]["scale"] == Tag("scale", Role.SCALE, ("1",))


def test_the_representation_is_the_name() -> None:
    assert str(nn.linear(3)) == repr(nn.linear(3)) == "linear(3)"
    assert repr(nn.dropout(0.25) >> nn.batch_norm()) == "dropout(0.25) >> batch_norm"
    assert repr(nn.sequence()) == "identity"


def test_abstract_init_allocates_nothing() -> None:
    made = abstract_init(nn.linear(10**6), array_spec((1, 10**6), jnp.float32))
    assert made.params["weight"] == array_spec((10**6, 10**6), jnp.float32)
    assert tree.count(made.params) == 10**12 + 10**6


def test_abstract_init_finds_faults_with_their_place() -> None:
    layers = nn.sequence(first=nn.linear(3), both=nn.branch(nn.linear(1)), last=nn.linear(2))
    with pytest.raises(FaultError) as caught:
        abstract_init(layers, SPEC)
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.where == "last/linear"
    with pytest.raises(FaultError) as caught:
        abstract_init(nn.sequence(hidden=nn.sequence(nn.relu, nn.linear(3))), array_spec((2, 3), jnp.uint8))
    assert isinstance(caught.value.fault, DtypeMismatch)
    assert caught.value.fault.where == "hidden/1/linear"


def test_table_shows_names_and_nested_layers() -> None:
    layers = nn.sequence(
        body=nn.residual(nn.sequence(nn.linear(784), nn.relu)),
        norm=nn.batch_norm(),
        head=nn.linear(10, bias=False),
    )
    assert table(layers, SPEC).splitlines() == [
        "layer                                output            parameters      bytes",
        "input                                float32[32, 784]",
        "body: residual(linear(784) >> relu)  float32[32, 784]     615,440  2,461,760",
        "  layer: sequence                    float32[32, 784]     615,440  2,461,760",
        "    linear(784)                      float32[32, 784]     615,440  2,461,760",
        "    relu                             float32[32, 784]           0          0",
        "norm: batch_norm                     float32[32, 784]       1,568      6,272",
        "head: linear(10)                     float32[32, 10]        7,840     31,360",
        "total                                                     624,848  2,499,392",
    ]


def test_table_of_a_single_layer_and_of_a_tuple() -> None:
    assert table(nn.linear(10), SPEC).splitlines()[2:] == [
        "linear(10)  float32[32, 10]        7,850  31,400",
        "total                              7,850  31,400",
    ]
    assert "(float32[32, 784], float32[32, 784])" in table(nn.branch(nn.relu, nn.tanh), SPEC)


def test_the_list_of_ready_layers_is_complete() -> None:
    assert {name for name in dir(nn) if isinstance(getattr(nn, name), Layer)} == READY
