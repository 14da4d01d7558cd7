"""Exported programs predict as their models do, for any number of rows; what cannot be exported or loaded is a typed fault."""

from __future__ import annotations

import builtins
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, models, nn, train
from fnlamp.arrays import exporting, platform
from fnlamp.effect import Runtime
from fnlamp.fault import (
    DtypeMismatch,
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileMissing,
    FileUnwritable,
    NotExportable,
    ShapeMismatch,
    StateMismatch,
    WrongPlatform,
)
from fnlamp.train.files.exported import MARK

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=(7, *shape)).astype(np.float32)


MODELS = {
    "mlp": (nn.mlp(hidden=(8, 4), out=3, drop_rate=0.2) >> nn.log_softmax, numbers(5)),
    "cnn": (
        nn.conv_pool(4, 3)
        >> nn.conv2d(6, 3, padding="same")
        >> nn.batch_norm()
        >> nn.gelu
        >> nn.max_pool2d(3, stride=2, padding=1)
        >> nn.avg_pool2d(2)
        >> nn.flatten
        >> nn.linear(3),
        numbers(14, 14, 1),
    ),
    "lstm": (nn.lstm(5) >> nn.fun(lambda h: h[:, -1]) >> nn.linear(2), numbers(6, 3)),
    "gpt": (models.gpt(20, layers=1, width=8, heads=2, context=6), RNG.integers(0, 20, (7, 6)).astype(np.int32)),
}
EACH = pytest.mark.parametrize("name", MODELS)


def kept(layer, x, precision=train.float32):
    """The layer as a model with random parameters: nothing is compiled for them."""
    model = train.supervised(layer, loss.mse(), precision=precision)
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    made = model.describe(spec)
    params, state = jax.tree.map(lambda leaf: jnp.asarray(RNG.random(leaf.shape) - 0.3, leaf.dtype), (made.params, made.state))
    return train.Kept(model, params, jax.tree.map(jnp.abs, state), 3, spec)


def made(name):
    layer, x = MODELS[name]
    return kept(layer, x), x


def outcome(program):
    found = program.run(Runtime(log=None))
    return unsafe_perform_io(found.unwrap() if is_successful(found) else found.failure())


def predicts_as(exported, trained, x, sizes=(1, 7)):
    for rows in sizes:
        some = jax.tree.map(lambda leaf, rows=rows: leaf[:rows], x)
        found, expected = exported.predict(some), trained.predict(some)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@EACH
def test_an_exported_model_predicts_as_before_for_any_number_of_rows(tmp_path, name):
    trained, x = made(name)
    written = outcome(train.export(trained, path := tmp_path / "model.stablehlo"))
    read = outcome(train.load_exported(path))
    assert repr(read) == repr(written)
    assert read.platforms == ("cpu",) and "batch" in repr(read)
    predicts_as(read, trained, x)
    assert [file.name for file in tmp_path.iterdir()] == ["model.stablehlo"]


@pytest.mark.broad
@EACH
def test_parameters_beside_come_from_a_model_file(tmp_path, name):
    trained, x = made(name)
    outcome(train.save_model(trained, weights := tmp_path / "model.npz"))
    written = outcome(train.export(trained, path := tmp_path / "model.stablehlo", with_parameters=False))
    read = outcome(train.load_exported(path, parameters=weights))
    predicts_as(read, trained, x, (7,))
    assert np.asarray(written.predict(x)).tobytes() == np.asarray(read.predict(x)).tobytes()
    other = replace(trained, params=jax.tree.map(lambda leaf: leaf * 0.5, trained.params))
    outcome(train.save_model(other, weights))  # another training of the same program
    predicts_as(outcome(train.load_exported(path, parameters=weights)), other, x, (7,))


def test_parameters_that_do_not_fit_are_listed(tmp_path):
    trained, _ = made("mlp")
    outcome(train.export(trained, path := tmp_path / "model.stablehlo", with_parameters=False))
    found = outcome(train.load_exported(path))
    assert isinstance(found, StateMismatch) and "give parameters=" in str(found)
    assert len(found.missing) == len(jax.tree.leaves((trained.params, trained.layer_state)))
    other = kept(nn.mlp(hidden=(9, 4), out=3), MODELS["mlp"][1])
    outcome(train.save_model(other, weights := tmp_path / "other.safetensors"))
    found = outcome(train.load_exported(path, parameters=weights))
    assert isinstance(found, StateMismatch)
    assert "params/linear_0/weight: expected float32[5, 8], got float32[5, 9]" in found.differing
    outcome(train.export(trained, path))
    with pytest.raises(ValueError, match="its own parameters"):
        outcome(train.load_exported(path, parameters=weights))
    with pytest.raises(ValueError, match="parameters ends in"):
        train.load_exported(path, parameters="weights")


def test_a_fixed_number_of_rows():
    trained, x = made("cnn")
    exported = outcome(train.export(trained, batch_size=7))
    predicts_as(exported, trained, x, (7,))
    with pytest.raises(FaultError, match=r"expected float32\[7, 14, 14, 1\], got float32\[3, 14, 14, 1\]"):
        exported.predict(x[:3])


def test_features_and_predictions_in_dicts_tuples_and_lists(tmp_path):
    def of(x):
        return {"sum": x["a"] + x["b"][0], "parts": [x["b"][1], (x["a"],)]}

    x = {"a": numbers(3), "b": (numbers(3), RNG.integers(0, 9, (7, 2)).astype(np.int32))}
    trained = kept(nn.fun(of), x)
    outcome(train.export(trained, path := tmp_path / "model.stablehlo"))
    read = outcome(train.load_exported(path))
    predicts_as(read, trained, x)
    with pytest.raises(FaultError, match="ShapeMismatch"):
        read.predict({**x, "a": x["a"][:3]})
    with pytest.raises(FaultError, match="ShapeMismatch"):
        read.predict((x["a"], x["b"]))


def test_half_precision():
    trained = kept(MODELS["mlp"][0], MODELS["mlp"][1], train.Precision(params=jnp.bfloat16, compute=jnp.bfloat16))
    exported = outcome(train.export(trained))
    assert "bfloat16[batch, 3]" in repr(exported)
    found, expected = (np.asarray(each.predict(MODELS["mlp"][1]), np.float32) for each in (exported, trained))
    np.testing.assert_allclose(found, expected, rtol=2**-7)


@pytest.mark.parametrize("platforms", [("cpu", "cuda"), ("cuda",)])
def test_other_platforms(tmp_path, platforms):
    trained, x = made("cnn")
    exported = outcome(train.export(trained, path := tmp_path / "model.stablehlo", platforms=platforms))
    assert exported.platforms == platforms
    found = outcome(train.load_exported(path))
    if "cpu" in platforms:
        predicts_as(found, trained, x)
    elif jax.default_backend() == "cpu":
        assert found == WrongPlatform(("cuda",), ("cpu",))
        with pytest.raises(FaultError, match="WrongPlatform"):
            exported.predict(x)


# ------------------------------------------------------------------------------- faults


def test_other_features_are_faults():
    trained, x = made("mlp")
    exported = outcome(train.export(trained))
    for wrong in (x[0], x[:, :4], x[:0], [x, x], x[:, None]):
        with pytest.raises(FaultError, match="expected float32") as caught:
            exported.predict(wrong)
        assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(FaultError, match=r"expected float32\[batch, 5\], got int32\[7, 5\]") as caught:
        exported.predict(x.astype(np.int32))
    assert isinstance(caught.value.fault, DtypeMismatch)
    np.testing.assert_array_equal(exported.predict(x.tolist()), exported.predict(x))


def test_a_layer_that_needs_the_number_of_rows():
    x = numbers(4)
    trained = kept(nn.fun(lambda x: x * (2 if int(x.shape[0]) > 3 else 1)), x)
    found = outcome(train.export(trained))
    assert isinstance(found, NotExportable)
    assert "depends on the number of rows" in str(found) and "batch_size=" in str(found)
    predicts_as(outcome(train.export(trained, batch_size=7)), trained, x, (7,))


class Pair(NamedTuple):
    mean: jax.Array
    variance: jax.Array


def test_what_no_file_can_hold():
    x = numbers(4)
    found = outcome(train.export(kept(nn.fun(lambda x: Pair(x, x)), x)))
    assert isinstance(found, NotExportable) and "a prediction in a Pair" in str(found)

    def printing(x):
        jax.debug.print("{}", x[0, 0])
        return x

    found = outcome(train.export(kept(nn.fun(printing), x)))
    assert isinstance(found, NotExportable) and "batch_size" not in str(found)


def test_damaged_files_are_faults(tmp_path):
    trained, x = made("mlp")
    outcome(train.export(trained, path := tmp_path / "model.stablehlo"))
    whole = path.read_bytes()
    for length in {0, 1, 50, *range(0, len(whole), len(whole) // 30), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert isinstance(outcome(train.load_exported(path)), FileCorrupt), length
    for at in RNG.integers(0, 8 * len(whole), 60):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(flipped))
        assert isinstance(outcome(train.load_exported(path)), FileCorrupt), at
    path.write_bytes(whole)
    predicts_as(outcome(train.load_exported(path)), trained, x, (7,))


def test_files_that_cannot_be_read_or_written(tmp_path):
    trained, _ = made("mlp")
    assert isinstance(outcome(train.load_exported(tmp_path / "none")), FileMissing)
    for path in (tmp_path, tmp_path / "none" / "model"):
        assert isinstance(outcome(train.export(trained, path)), FileUnwritable)
    with pytest.raises(ValueError, match="features"):
        train.export(replace(trained, features=None))
    for platforms in ((), ("gpu",)):
        with pytest.raises(ValueError, match="platforms are some of cpu, cuda"):
            train.export(trained, platforms=platforms)


def test_a_program_that_would_call_python_is_refused(tmp_path):
    def calling(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    found = outcome(train.export(kept(nn.fun(calling), numbers(4))))
    assert isinstance(found, NotExportable)
    name, spec = "xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct((2,), jnp.float32)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name)]
    program = jax.export.export(jax.jit(jax.ffi.ffi_call(name, spec)), disabled_checks=checks)(spec)
    hostile = replace(outcome(train.export(made("mlp")[0])), program=program)
    (tmp_path / "hostile").write_bytes(train.files.exported.serialized(hostile))
    found = outcome(train.load_exported(tmp_path / "hostile"))
    assert isinstance(found, FileCorrupt) and "calls Python" in str(found)


def test_a_program_of_other_arguments_is_refused(tmp_path):
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    program = jax.export.export(jax.jit(lambda a, b, c: a + b + c))(spec, spec, spec)
    other = replace(outcome(train.export(made("mlp")[0])), program=program)
    (tmp_path / "other").write_bytes(train.files.exported.serialized(other))
    found = outcome(train.load_exported(tmp_path / "other"))
    assert isinstance(found, FileCorrupt) and "3 arguments" in str(found)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    trained, _ = made("mlp")
    outcome(train.export(trained, path := tmp_path / "model.stablehlo"))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "flatbuffers":
            raise ModuleNotFoundError("no flatbuffers", name="flatbuffers")
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    for program in (train.export(trained, path), train.load_exported(path)):
        assert outcome(program) == ExtraMissing("flatbuffers", "export")


# ------------------------------------------------------------------------------- other readers, all layers


def test_the_file_is_what_jax_reads(tmp_path):
    trained, x = made("cnn")
    outcome(train.export(trained, path := tmp_path / "model.stablehlo"))
    assert path.read_bytes()[-64 - len(MARK) : -64] == MARK
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(x)
    np.testing.assert_allclose(found, trained.predict(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@EACH
def test_another_process_predicts_without_the_models_code(tmp_path, name):
    trained, x = made(name)
    outcome(train.export(trained, tmp_path / "model.stablehlo"))
    np.save(tmp_path / "x.npy", x)
    script = """
import numpy as np
from fnlamp import train
exported = train.load_exported("model.stablehlo").run_or_raise()
x = np.load("x.npy")
np.savez("y.npz", one=exported.predict(x[:1]), seven=exported.predict(x))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_allclose(found["one"], trained.predict(x[:1]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["seven"], trained.predict(x), rtol=1e-5, atol=1e-5)


def test_the_platform_of_an_export_ends_with_it():
    with pytest.raises(KeyError), exporting():
        assert platform() == "any"
        raise KeyError
    assert platform() == "cpu"
