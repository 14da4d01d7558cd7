"""Model files: what is saved loads bitwise, what does not fit is one fault that lists it, and no damage is a wrong number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import checkpoint, loss, models, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import FileCorrupt, FileMissing, FileUnwritable, NotStorable, ShapeMismatch, StateMismatch
from fnlamp.layer import Init, Layer
from fnlamp.tag import Role, Tag
from fnlamp.train.files.about import as_text, features_in, from_text

RNG = np.random.default_rng(0)
X = RNG.random((12, 6), np.float32)
IMAGES = RNG.random((6, 8, 8, 1), np.float32)
TEXTS = RNG.integers(0, 11, (6, 5)).astype(np.int32)
FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])


class Pair(NamedTuple):
    weight: Any
    shift: Any


def of_arrays(make):
    """A layer whose parameters are what `make` makes of a weight and a shift, with a count and a flag as state."""

    def init(key, spec):
        width = spec.shape[-1]
        params = make(jax.random.normal(key, (width, 2)), jnp.full(2, 0.5))
        tags = make(Tag("own", Role.WEIGHT), Tag("own", Role.BIAS))
        state = {"count": jnp.int32(7), "seen": (jnp.zeros((0, 3)), jnp.array([True, False]))}
        return Init(params, state, jax.ShapeDtypeStruct((*spec.shape[:-1], 2), spec.dtype), tags)

    def apply(params, state, x, mode):
        weight, shift = jax.tree.leaves(params)
        return x @ weight + shift, state

    return Layer(init, apply, "own")


MODELS = {
    "mlp": (nn.mlp(hidden=(4,), out=3, drop_rate=0.2), X),
    "named": (nn.sequence(scale=nn.rescale(2.0), hidden=nn.linear(3), norm=nn.layer_norm()), X),
    "tuple": (nn.linear(4) >> of_arrays(lambda weight, shift: (weight, [shift])), X),
    "named tuple": (of_arrays(Pair) >> nn.linear(2), X),
    "cnn": (nn.conv_pool(3, 3) >> nn.batch_norm() >> nn.residual(nn.conv2d(3, 1)) >> nn.flatten >> nn.linear(2), IMAGES),
    "lstm": (nn.lstm(3) >> nn.fun(lambda h: h[:, -1]) >> nn.linear(2), RNG.random((6, 4, 3), np.float32)),
    "gpt": (models.gpt(11, layers=1, width=8, heads=2, context=5), TEXTS),
    "dict of features": (nn.fun(lambda x: x["a"] + x["b"][0]) >> nn.linear(2), {"a": X, "b": (X[:, :1], TEXTS.repeat(2, 0))}),
    "no parameters": (nn.flatten, X),
}


def supervised(layer, precision=train.float32):
    return train.supervised(layer, loss.mse(), precision=precision)


def made(name, precision=train.float32):
    """The model of that name as if trained for three epochs, and features for it."""
    layer, x = MODELS[name]
    return kept(supervised(layer, precision), x), x


def kept(model, x, epoch=3):
    """The model with random numbers for parameters and state: nothing is compiled for them."""
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    made = model.describe(spec)

    def numbers(leaf):
        return jnp.asarray(RNG.random(leaf.shape) if leaf.dtype != bool else RNG.random(leaf.shape) < 0.5, leaf.dtype)

    return train.Kept(model, *jax.tree.map(numbers, (made.params, made.state)), epoch, spec)


def outcome(program, log=None):
    found = program.run(Runtime(log=log))
    return unsafe_perform_io(found.unwrap() if is_successful(found) else found.failure())


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@FORMATS
@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_loads_bitwise(tmp_path, name, suffix):
    before, x = made(name)
    path = tmp_path / f"model{suffix}"
    assert outcome(train.save_model(before, path)) is None
    after = outcome(train.load_model(path, before.model))
    identical((before.params, before.layer_state), (after.params, after.layer_state))
    assert (after.model, after.epoch) == (before.model, 3)
    one_row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), before.features)
    assert after.features == one_row
    identical(before.predict(x), after.predict(x))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@FORMATS
def test_half_precision_loads_bitwise(tmp_path, suffix):
    precision = train.Precision(params=jnp.bfloat16, compute=jnp.bfloat16)
    before, x = made("mlp", precision)
    assert {leaf.dtype for leaf in jax.tree.leaves(before.params)} == {jnp.dtype("bfloat16")}
    outcome(train.save_model(before, path := tmp_path / f"model{suffix}"))
    after = outcome(train.load_model(path, before.model))
    identical(before.params, after.params)
    identical(before.predict(x), after.predict(x))
    found = outcome(train.load_model(path, supervised(MODELS["mlp"][0])))
    assert isinstance(found, StateMismatch)
    assert "params/linear_0/weight: expected float32[6, 4], got bfloat16[6, 4]" in found.differing


@pytest.mark.broad
@FORMATS
def test_a_trained_model_is_saved_with_its_average_and_starts_another_run(tmp_path, suffix):
    def describe(**options):
        return train.epochs(
            **{
                "model": supervised(nn.linear(3) >> nn.batch_norm() >> nn.linear(1)),
                "optimizer": optim.ema(optim.adamw(0.1), 0.9),
                "train_batches": lambda context: stream.minibatches(X, X[:, :1], batch_size=4, seed=context.seed),
                "epochs": 2,
                "folds": {"best": train.best("train_loss")},
                **options,
            }
        )

    trained = outcome(describe())
    for each, epoch in ((trained, 2), (trained.last, 2), (trained.kept["best"], trained.kept["best"].epoch)):
        outcome(train.save_model(each, path := tmp_path / f"model{suffix}"))
        found = outcome(train.load_model(path, trained.model))
        assert found.epoch == epoch
        identical(found.predict(X), each.predict(X))
        identical(outcome(describe(initial=found, epochs=0, folds={})).predict(X), each.predict(X))


def test_other_libraries_read_the_arrays_under_their_paths(tmp_path):
    before, _ = made("cnn")
    for suffix in (".safetensors", ".npz"):
        outcome(train.save_model(before, tmp_path / f"model{suffix}"))
    theirs = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    with np.load(tmp_path / "model.npz") as archive:
        assert {name for name in archive.files if name != "manifest.json"} == set(theirs)
        np.testing.assert_array_equal(archive["params/4/weight"], theirs["params/4/weight"])
    assert set(theirs) >= {"params/0/weight", "params/1/scale", "state/1/mean", "state/1/variance"}
    np.testing.assert_array_equal(theirs["params/0/weight"], before.params["0"]["weight"])
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        texts = file.metadata()
    assert texts["model"] == str(before.model.layer) and texts["epoch"] == "3"
    assert texts["features"] == '"float32[batch, 8, 8, 1]"' and "total" in texts["summary"]
    note = outcome(checkpoint.read(tmp_path / "model.npz")).note
    assert note["features"] == "float32[batch, 8, 8, 1]" and note["model"] == texts["model"]


# ------------------------------------------------------------------------------- what does not fit


def gpt(layers):
    return supervised(models.gpt(11, layers=layers, width=8, heads=2, context=5))


@pytest.mark.slow
@FORMATS
def test_twelve_layers_are_not_loaded_into_sixteen_and_all_arrays_are_listed(tmp_path, suffix):
    twelve = kept(gpt(12), TEXTS)
    outcome(train.save_model(twelve, path := tmp_path / f"model{suffix}"))
    found = outcome(train.load_model(path, gpt(16)))
    assert isinstance(found, StateMismatch) and not found.extra and not found.differing
    blocks = {path.split("/")[1] for path in found.missing}
    assert blocks == {"block_12", "block_13", "block_14", "block_15"}
    a_block = len(jax.tree.leaves(twelve.params["block_0"]))
    assert len(found.missing) == 4 * a_block
    assert "strict=False" in str(found) and str(path) in str(found)
    outcome(train.save_model(kept(gpt(16), TEXTS), path))
    found = outcome(train.load_model(path, gpt(12)))
    assert isinstance(found, StateMismatch) and len(found.extra) == 4 * a_block and not found.missing


@FORMATS
def test_everything_that_does_not_fit_is_one_fault(tmp_path, suffix):
    one = kept(supervised(nn.sequence(a=nn.linear(4), b=nn.linear(3), c=nn.linear(2))), X)
    other = supervised(nn.sequence(a=nn.linear(4), b=nn.linear(5), d=nn.linear(2)))
    outcome(train.save_model(one, path := tmp_path / f"model{suffix}"))
    found = outcome(train.load_model(path, other))
    assert found.missing == ("params/d/bias", "params/d/weight")
    assert found.extra == ("params/c/bias", "params/c/weight")
    assert found.differing == (
        "params/b/bias: expected float32[5], got float32[3]",
        "params/b/weight: expected float32[4, 5], got float32[4, 3]",
    )


@FORMATS
def test_partial_loading_takes_what_fits_and_logs_the_rest(tmp_path, suffix):
    one = kept(supervised(nn.sequence(a=nn.linear(4), b=nn.linear(3), c=nn.linear(2))), X)
    other = supervised(nn.sequence(a=nn.linear(4), b=nn.linear(5), d=nn.linear(2)))
    outcome(train.save_model(one, path := tmp_path / f"model{suffix}"))
    lines = []
    found = outcome(train.load_model(path, other, strict=False, seed=5), lines.append)
    identical(found.params["a"], one.params["a"])
    program = train.epochs(
        model=other, optimizer=optim.sgdw(0.1), train_batches=lambda context: stream.full_batch(X, X[:, :2]), epochs=0, seed=5
    )
    fresh = outcome(program).params  # the same seed initialises the same numbers
    identical({name: found.params[name] for name in "bd"}, {name: fresh[name] for name in "bd"})
    assert any("not in the file, initialised: params/d/bias, params/d/weight" in line for line in lines)
    assert any("without a place in the model, not loaded: params/c/bias" in line for line in lines)
    assert any("another shape or dtype, initialised: params/b/bias: expected float32[5]" in line for line in lines)
    assert any("was saved from the model linear(4) >> linear(3)" in line for line in lines)
    moved = outcome(train.load_model(path, other, strict=False, rename={"params/c": "params/e"}))
    assert set(moved.params) == {"a", "b", "d"}
    nothing = outcome(train.load_model(path, supervised(nn.conv2d(1, 1)), strict=False, features=IMAGES))
    assert isinstance(nothing, StateMismatch) and "no array fits" in str(nothing)


@FORMATS
def test_renaming_moves_arrays(tmp_path, suffix):
    one = kept(supervised(nn.sequence(a=nn.linear(4), b=nn.linear(3))), X)
    outcome(train.save_model(one, path := tmp_path / f"model{suffix}"))
    other = supervised(nn.sequence(c=nn.sequence(a=nn.linear(4)), b=nn.linear(3)))
    found = outcome(train.load_model(path, other, rename={"params/a": "params/c/a"}))
    identical(found.params["c"]["a"], one.params["a"])
    with pytest.raises(ValueError, match="no saved leaf is at 'params/z'"):
        outcome(train.load_model(path, other, rename={"params/z": "params/c"}))


@FORMATS
def test_other_features_are_a_fault(tmp_path, suffix):
    one = kept(supervised(nn.linear(2)), X)
    outcome(train.save_model(one, path := tmp_path / f"model{suffix}"))
    wider = outcome(train.load_model(path, one.model, features=X[:, :4]))
    assert isinstance(wider, StateMismatch)
    assert wider.differing == ("params/weight: expected float32[4, 2], got float32[6, 2]",)
    other = outcome(train.load_model(path, supervised(nn.conv2d(2, 1))))
    assert isinstance(other, ShapeMismatch) and other.where.startswith("model")
    given = outcome(train.load_model(path, one.model, features=jax.ShapeDtypeStruct((9, 6), jnp.float32)))
    assert given.features.shape == (9, 6)


def test_a_file_of_another_library_loads_for_given_features(tmp_path):
    weight, bias = RNG.random((6, 2), np.float32), RNG.random(2, np.float32)
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file({"fc.weight": weight, "fc.bias": bias}, path)
    model = supervised(nn.linear(2))
    found = outcome(train.load_model(path, model))
    assert isinstance(found, FileCorrupt) and "features=" in str(found)
    rename = {"fc.weight": "params/weight", "fc.bias": "params/bias"}
    found = outcome(train.load_model(path, model, features=X, rename=rename))
    np.testing.assert_allclose(found.predict(X), X @ weight + bias, rtol=1e-6)
    assert found.epoch == 0
    safetensors.numpy.save_file({"weight": weight, "bias": bias}, path)
    found = outcome(train.load_model(path, model, features=X[:1], rename={"": "params"}))
    np.testing.assert_allclose(found.predict(X), X @ weight + bias, rtol=1e-6)


@FORMATS
def test_features_of_another_type_are_given_again(tmp_path, suffix):
    x = Pair(X, X[:, :1])
    before = kept(supervised(nn.fun(lambda x: x.weight + x.shift) >> nn.linear(2)), x)
    outcome(train.save_model(before, path := tmp_path / f"model{suffix}"))
    found = outcome(train.load_model(path, before.model))
    assert isinstance(found, FileCorrupt) and "features=" in str(found)
    identical(outcome(train.load_model(path, before.model, features=x)).predict(x), before.predict(x))


# ------------------------------------------------------------------------------- damage, and files that cannot be written


@FORMATS
def test_a_cut_file_is_a_fault(tmp_path, suffix):
    before, _ = made("cnn")
    outcome(train.save_model(before, path := tmp_path / f"model{suffix}"))
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 100, *range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert isinstance(outcome(train.load_model(path, before.model)), FileCorrupt), length
    path.write_bytes(whole)
    identical(outcome(train.load_model(path, before.model)).params, before.params)


@FORMATS
def test_a_flipped_bit_is_a_fault(tmp_path, suffix):
    before, _ = made("mlp")
    outcome(train.save_model(before, path := tmp_path / f"model{suffix}"))
    whole = path.read_bytes()
    for at in RNG.integers(0, 8 * len(whole), 100):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(flipped))
        assert isinstance(outcome(train.load_model(path, before.model)), FileCorrupt), at


@FORMATS
def test_what_cannot_be_written_or_read_is_a_fault(tmp_path, suffix):
    before, _ = made("mlp")
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("missing/model", "file/model", "folder", "nul\0"):
        found = outcome(train.save_model(before, f"{tmp_path}/{name}{suffix}"))
        assert isinstance(found, FileUnwritable), name
    assert isinstance(outcome(train.load_model(tmp_path / f"none{suffix}", before.model)), FileMissing)
    assert isinstance(outcome(train.load_model(tmp_path / f"folder{suffix}", before.model)), FileMissing)
    (tmp_path / f"other{suffix}").write_bytes(b"something else")
    assert isinstance(outcome(train.load_model(tmp_path / f"other{suffix}", before.model)), FileCorrupt)
    for path in ("model", "model.pt", f"model{suffix}.bak"):
        with pytest.raises(ValueError, match=r"\.safetensors or \.npz"):
            train.save_model(before, path)
        with pytest.raises(ValueError, match=r"\.safetensors or \.npz"):
            train.load_model(path, before.model)


def test_what_a_format_cannot_hold_is_a_fault_that_names_it(tmp_path):
    before, _ = made("mlp")
    keyed = replace(before, layer_state={"key": jax.random.key(3)})
    found = outcome(train.save_model(keyed, tmp_path / "model.safetensors"))
    assert isinstance(found, NotStorable) and found.where == "state/key" and ".npz" in str(found)
    assert list(tmp_path.iterdir()) == []
    clash = replace(before, params={"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}})
    with pytest.raises(ValueError, match="same path"):
        train.save_model(clash, tmp_path / "model.npz")


def test_a_key_in_the_state_is_stored_in_npz(tmp_path):
    def init(key, spec):
        return Init({}, {"key": jax.random.key(3)}, spec, {})

    model = supervised(Layer(init, lambda params, state, x, mode: (x, state)) >> nn.linear(2))
    before = train.Kept(model, *model.init(jax.random.key(0), X), 1, jax.ShapeDtypeStruct((12, 6), jnp.float32))
    outcome(train.save_model(before, path := tmp_path / "model.npz"))
    after = outcome(train.load_model(path, before.model))
    assert (jax.random.key_data(after.layer_state["0"]["key"]) == jax.random.key_data(jax.random.key(3))).all()


def test_nothing_is_read_or_written_before_the_run(tmp_path):
    before, _ = made("mlp")
    train.save_model(before, path := tmp_path / "model.npz")
    assert not path.exists()
    program = train.load_model(path, before.model)
    assert f"load the model {path}" in program.explain()
    assert isinstance(outcome(program), FileMissing)
    outcome(train.save_model(before, path))
    identical(outcome(program).params, before.params)


@pytest.mark.parametrize(
    "texts",
    [
        {"features": "["},
        {"features": '"float[batch]"'},
        {"features": '["int32[-1]"]'},
        {"features": '{"no": 1}'},
        {"features": "3"},
    ],
)
def test_damaged_descriptions_are_faults(texts):
    with pytest.raises(Exception, match="FileCorrupt"):
        features_in("f", from_text("f", {"fnlamp": "0.1.0", **texts}))


def test_a_description_as_text_is_the_description():
    given = {"fnlamp": "1", "model": "null", "epoch": 2, "features": {"a": ("float32[batch, 2]", None), 3: ["int8[]"]}}
    assert from_text("f", as_text(given)) == given


@pytest.mark.slow
@FORMATS
def test_another_process_predicts_the_same_bits(tmp_path, suffix):
    before, x = made("cnn")
    outcome(train.save_model(before, tmp_path / f"model{suffix}"))
    np.save(tmp_path / "x.npy", x)
    script = f"""
import numpy as np
from fnlamp import loss, nn, train
model = train.supervised(
    nn.conv_pool(3, 3) >> nn.batch_norm() >> nn.residual(nn.conv2d(3, 1)) >> nn.flatten >> nn.linear(2), loss.mse()
)
loaded = train.load_model("model{suffix}", model).run_or_raise()
np.save("y.npy", loaded.predict(np.load("x.npy")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert np.load(tmp_path / "y.npy").tobytes() == np.asarray(before.predict(x)).tobytes()
