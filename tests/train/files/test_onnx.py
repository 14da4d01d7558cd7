"""ONNX files predict in ONNX Runtime as their models do, for any number of rows; what is not converted is a typed fault."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LAYERS
from outcomes import fault, value

from fnlamp import loss, models, nn, train
from fnlamp.fault import ExtraMissing, FileUnwritable, NotExportable
from fnlamp.layer import abstract_init

RNG = np.random.default_rng(0)
installed = pytest.mark.skipif(find_spec("jax2onnx") is None, reason="jax2onnx comes with the extra onnx")


def kept(layer, spec):
    """The layer as a model with random parameters: nothing is compiled for them."""
    made = abstract_init(layer, spec)
    params, state = jax.tree.map(numbers, made.params), jax.tree.map(lambda leaf: abs(numbers(leaf)), made.state)
    return train.Kept(train.supervised(layer, loss.mse()), params, state, 1, spec)


def numbers(spec):
    drawn = RNG.normal(size=spec.shape) if jnp.issubdtype(spec.dtype, jnp.floating) else RNG.integers(0, 7, spec.shape)
    return jnp.asarray(drawn, spec.dtype)


def predicts_as(path, trained, rows=(1, 7)):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    for count in rows:
        x = jax.tree.map(lambda s, count=count: numbers(jax.ShapeDtypeStruct((count, *s.shape[1:]), s.dtype)), trained.features)
        found = session.run(None, {name: np.asarray(leaf) for name, leaf in zip(names, jax.tree.leaves(x), strict=True)})
        for one, other in zip(found, jax.tree.leaves(trained.predict(x)), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            # Rounding is relative to the largest numbers of a sum, and some outputs are small differences of large ones.
            largest = max(1.0, float(np.abs(np.asarray(other, np.float64)).max(initial=0)))
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)
    return names, [each.name for each in session.get_outputs()]


def floats(*shape):
    return jax.ShapeDtypeStruct((2, *shape), jnp.float32)


TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
MODELS = {
    "mlp": (nn.mlp(hidden=(8, 4), out=3, drop_rate=0.2) >> nn.log_softmax, floats(5)),
    "cnn": (
        nn.conv_pool(4, 3)
        >> nn.conv2d(6, 3, padding="same")
        >> nn.batch_norm()
        >> nn.gelu
        >> nn.max_pool2d(3, stride=2, padding=1)
        >> nn.avg_pool2d(2)
        >> nn.flatten
        >> nn.linear(3),
        floats(14, 14, 1),
    ),
    "lstm": (nn.lstm(5) >> nn.fun(lambda h: h[:, -1]) >> nn.linear(2), floats(6, 3)),
    "bert": (models.sentence_classifier(models.bert(7, layers=1, width=8, heads=2, context=6), 3), TOKENS),
    "llama": (
        models.gpt(
            7, layers=1, width=8, heads=2, kv_heads=1, context=6, query_key=nn.rotary_positions(halves=True), gated=True
        ),
        TOKENS,
    ),
    "gpt": (models.gpt(7, layers=2, width=8, heads=2, context=6), TOKENS),
}


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    def without(name):
        raise ModuleNotFoundError(f"no {name}", name=name)

    monkeypatch.setattr("importlib.import_module", without)
    found = fault(train.export_onnx(kept(*MODELS["mlp"]), tmp_path / "model.onnx"))
    assert found == ExtraMissing("jax2onnx", "onnx")


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_predicts_as_the_model(tmp_path, name):
    trained, before = kept(*MODELS[name]), list(logging.getLogger().handlers)
    value(train.export_onnx(trained, path := tmp_path / "model.onnx"))
    assert predicts_as(path, trained) == (["features"], ["prediction"])
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert logging.getLogger().handlers == before


NOTHING = {
    "dropout",
    "channel_dropout",
    "in_training",
    "sequence of nothing",
}  # no operation in `Eval`: jax2onnx has no name for such an output
UNCONVERTED = {
    "sparse_linear",
    "unet",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
}  # jax2onnx has no form for their operations, or none for any number of rows
CONVERTED = {
    name: case
    for name, case in LAYERS.items()
    if "tokens" not in str(case.layer) and case.any_rows and name not in NOTHING | UNCONVERTED
}


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_every_layer_is_converted(tmp_path, name):
    trained = kept(CONVERTED[name].layer, CONVERTED[name].spec)
    value(train.export_onnx(trained, path := tmp_path / "model.onnx"))
    predicts_as(path, trained)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(UNCONVERTED))
def test_a_layer_that_is_not_converted_is_a_typed_fault(tmp_path, name):
    trained = kept(LAYERS[name].layer, LAYERS[name].spec)
    assert isinstance(fault(train.export_onnx(trained, path := tmp_path / "model.onnx")), NotExportable)
    assert not path.exists()


@installed
@pytest.mark.slow
def test_several_inputs_and_outputs_are_named_by_their_paths(tmp_path):
    layer = nn.fun(lambda x: {"sum": x["a"] + x["b"][0], "twice": 2 * x["b"][1]})
    features = {"a": floats(3), "b": (floats(3), floats(2))}
    trained = train.Kept(train.supervised(layer, loss.mse()), {}, {}, 1, features)
    value(train.export_onnx(trained, path := tmp_path / "model.onnx"))
    names = ["features/a", "features/b/0", "features/b/1"], ["prediction/sum", "prediction/twice"]
    assert predicts_as(path, trained) == names


@installed
@pytest.mark.slow
def test_what_cannot_be_converted_or_written(tmp_path):
    looking = kept(nn.fun(lambda x: x * (2 if int(x.shape[0]) > 3 else 1)), floats(3))
    found = fault(train.export_onnx(looking, path := tmp_path / "model.onnx"))
    assert isinstance(found, NotExportable) and "batch_size=" in str(found)
    value(train.export_onnx(looking, path, batch_size=5, opset=21))
    predicts_as(path, looking, (5,))
    found = fault(train.export_onnx(kept(nn.fun(lambda x: jnp.fft.rfft(x).real), floats(8)), path))
    assert isinstance(found, NotExportable)
    assert isinstance(fault(train.export_onnx(kept(*MODELS["mlp"]), tmp_path / "none" / "model.onnx")), FileUnwritable)


@installed
@pytest.mark.slow
def test_a_wrong_conversion_is_found(tmp_path, monkeypatch):
    import jax2onnx

    real = jax2onnx.to_onnx

    def wrong(function, *args, **options):
        return real(lambda x: [y * 1.01 for y in function(x)], *args, **options)

    monkeypatch.setattr(jax2onnx, "to_onnx", wrong)
    found = fault(train.export_onnx(kept(*MODELS["mlp"]), tmp_path / "model.onnx"))
    assert isinstance(found, NotExportable) and "converts an operation wrongly" in str(found)
    assert list(tmp_path.iterdir()) == []
