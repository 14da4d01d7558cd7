"""Mistakes with layers, whose errors say what to write; and empty arrays, which are valid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, augment, loss, models, nn
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.nn.check import channels_first

NO_LAYER = {
    "a lambda": (
        lambda: nn.linear(3) >> (lambda x: x + 1),
        r"right of linear\(3\) >>, got the function <lambda>.*nn.fun\(lambda x: ...\)",
    ),
    "a function of JAX": (lambda: nn.linear(3) >> jax.nn.relu, r"the function relu; write nn.relu; .*nn.fun\(jax.nn.relu\)"),
    "another": (lambda: nn.linear(3) >> jax.nn.soft_sign, r"nn.fun\(jax.nn.soft_sign\)"),
    "of jnp": (lambda: nn.linear(3) >> jnp.sin, r"nn.fun\(jnp.sin\)"),
    "of NumPy": (lambda: nn.linear(3) >> np.cos, r"the function cos; .*nn.fun\(jnp.cos\)"),
    "a partial function": (lambda: nn.linear(3) >> partial(jax.nn.leaky_relu, negative_slope=0.2), "nn.fun makes a layer"),
    "on the left": (lambda: jax.nn.relu >> nn.linear(3), r"left of >> linear\(3\), got the function relu; write nn.relu"),
    "a lambda on the left": (lambda: (lambda x: x) >> nn.linear(3), r"left of >> linear\(3\).*nn.fun"),
    "in a sequence": (lambda: nn.sequence(nn.relu, jax.nn.relu), "a Layer at 1, got the function relu; write nn.relu"),
    "by name": (lambda: nn.sequence(act=jnp.tanh), "a Layer at act, got the function tanh; write nn.tanh"),
    "an uncalled maker": (lambda: nn.sequence(nn.linear(3), nn.batch_norm), r"call it, it makes a layer: nn.batch_norm\("),
    "an uncalled network": (lambda: nn.linear(3) >> models.gpt, r"models.gpt\("),
    "an uncalled combinator": (lambda: nn.linear(3) >> nn.residual, r"nn.residual\("),
    "an augmentation": (
        lambda: nn.sequence(augment.random_flip(), nn.relu),
        r"the function flip; augment.in_training makes a layer of it: augment.in_training\(augment.random_flip\(",
    ),
    "an uncalled augmentation": (lambda: nn.relu >> augment.cutout, r"augment.in_training\(augment.cutout\("),
    "standardize": (lambda: nn.relu >> augment.standardize(0.5, 0.5), r"nn.fun\(augment.standardize\("),
    "in_training uncalled": (lambda: nn.relu >> augment.in_training, r"call it, it makes a layer: augment.in_training\("),
    "a list": (
        lambda: nn.sequence([nn.linear(3), nn.relu]),
        r"a list of 2; layers are given one by one: nn.sequence\(\*layers\)",
    ),
    "a tuple": (lambda: nn.linear(3) >> (nn.relu, nn.relu), r"a tuple of 2; layers are given one by one"),
    "a word": (lambda: nn.sequence(nn.linear(3), "relu"), "'relu' .*write nn.relu"),
    "another word": (lambda: nn.sequence(nn.linear(3), "dense"), "'dense' .*layers are values"),
    "a number": (lambda: nn.sequence(784, 10), r"784 \(int\); write nn.linear\(784\)"),
    "nothing": (lambda: nn.sequence(nn.relu, None), "NoneType"),
    "a loss": (lambda: nn.linear(3) >> loss.mse(), "nn has layers"),
    "residual": (lambda: nn.residual(jax.nn.relu), "a Layer at residual, got the function relu"),
    "shortcut": (lambda: nn.residual(nn.relu, jax.nn.relu), "a Layer at residual: shortcut"),
    "branch": (lambda: nn.branch(nn.relu, jnp.sin), "a Layer at 1"),
    "parallel": (lambda: nn.parallel(nn.relu, jnp.sin), "a Layer at 1"),
    "repeat": (lambda: nn.repeat(jnp.sin, 3), "a Layer at repeat"),
    "repeat the wrong way around": (lambda: nn.repeat(3, nn.relu), "a Layer at repeat, got 3"),
    "mlp's activation": (lambda: nn.mlp((3,), 2, activation="relu"), "a Layer at mlp: activation, got 'relu' .*write nn.relu"),
    "mlp's norm": (lambda: nn.mlp((3,), 2, norm=nn.layer_norm), r"a Layer at mlp: norm.*nn.layer_norm\("),
    "fun of a layer": (lambda: nn.fun(nn.relu), "relu is a layer already: leave out nn.fun"),
    "fun of no function": (lambda: nn.fun("relu"), "makes a layer of a function of one batch, got 'relu'"),
    "a layer that is called": (lambda: nn.relu(), r"relu is a layer already.*write it without \(\)"),
    "called on data": (lambda: nn.linear(3)(np.zeros((2, 4))), r"layer.apply\(params, state, x, Eval\(\)\)"),
    "flatten of torch": (lambda: nn.flatten(start_dim=1), "flatten is a layer"),
}


@pytest.mark.parametrize(("write", "said"), NO_LAYER.values(), ids=NO_LAYER)
def test_the_error_for_anything_but_a_layer_says_what_to_write(write, said):
    with pytest.raises(TypeError, match=said):
        write()


def test_modules_of_torch_are_named():
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
    for module in (torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.functional.relu, torch.nn.Linear):
        with pytest.raises(TypeError, match="of torch; layers of fnlamp are pure functions"):
            nn.sequence(nn.relu, module)


ARGUMENTS = {
    "linear of a word": (lambda: nn.linear("10"), r"linear: out is a whole number, got '10' \(str\)"),
    "linear of a float": (lambda: nn.linear(10.0), r"linear: out is a whole number, got 10.0 \(float\); write 10"),
    "linear of a boolean": (lambda: nn.linear(True), "linear: out is a whole number"),
    "linear as torch's": (
        lambda: nn.linear(784, 10),
        r"got linear\(784, 10\): too many positional.*only the output's is written",
    ),
    "linear by torch's names": (lambda: nn.linear(in_features=3, out_features=4), "only the output's is written"),
    "linear without": (lambda: nn.linear(), "missing a required argument: 'out'"),
    "linear as Keras'": (lambda: nn.linear(10, activation="relu"), "unexpected keyword argument 'activation'"),
    "bias": (lambda: nn.linear(3, bias="no"), "linear: bias is True or False"),
    "conv2d as torch's": (lambda: nn.conv2d(3, 64, 3), r"input channels are inferred: nn.conv2d\(64, 3\)"),
    "conv2d by torch's names": (lambda: nn.conv2d(64, kernel_size=3), "input channels are inferred"),
    "conv2d of a word": (lambda: nn.conv2d("64", 3), "conv2d: channels is a whole number"),
    "conv2d's kernel": (lambda: nn.conv2d(64, 3.0), "conv2d: kernel is an integer from 1"),
    "conv2d's list": (lambda: nn.conv2d(64, [3, 3]), "conv2d: kernel is an integer from 1"),
    "conv2d's padding": (lambda: nn.conv2d(64, 3, padding="SAME"), 'padding is .*"same" or "valid"'),
    "conv_pool": (lambda: nn.conv_pool(1, 20, 5), "conv_pool"),
    "max_pool2d": (lambda: nn.max_pool2d(kernel_size=2), r"nn.max_pool2d\(2\)"),
    "avg_pool2d": (lambda: nn.avg_pool2d(2, 2), "avg_pool2d"),
    "dropout in per cent": (lambda: nn.dropout(50), "0 <= rate < 1, got 50; write 0.5 for 50 %"),
    "dropout of a word": (lambda: nn.dropout("0.5"), "dropout: rate is a probability"),
    "dropout by torch's name": (lambda: nn.dropout(p=0.5), r"nn.dropout\(0.5\)"),
    "batch_norm as torch's": (lambda: nn.batch_norm(64), "batch_norm: decay is .*got 64; the number of features is inferred"),
    "batch_norm by torch's name": (lambda: nn.batch_norm(momentum=0.1), "1 - torch's momentum"),
    "layer_norm as torch's": (lambda: nn.layer_norm(64), "layer_norm: eps is .*got 64; the number of features is inferred"),
    "layer_norm of a shape": (lambda: nn.layer_norm((8, 8)), "layer_norm: eps"),
    "embedding": (lambda: nn.embedding(100.0, 8), "embedding: vocabulary is a whole number, got 100.0 .*write 100"),
    "embedding without": (lambda: nn.embedding(100), "missing a required argument: 'width'"),
    "lstm as torch's": (lambda: nn.lstm(10, 20), "the number of features is inferred"),
    "attention as torch's": (lambda: nn.self_attention(64, 4), r"the width is inferred: nn.self_attention\(4\)"),
    "transformer_block": (lambda: nn.transformer_block(4), r"write nn.self_attention\(4\)"),
    "gpt": (lambda: models.gpt(50257, 12, 768), "layers=12, width=768"),
    "gpt of a word": (lambda: models.gpt(10, layers="2", width=4, heads=2, context=3), "gpt: layers is a whole number"),
    "mlp of one width": (
        lambda: nn.mlp(hidden=64, out=10),
        r"hidden is a sequence of widths, got 64 \(int\); write hidden=\(64,\)",
    ),
    "mlp of a word": (lambda: nn.mlp("64", 10), "hidden is a sequence of widths"),
    "mlp of words": (lambda: nn.mlp(("64",), 10), r"mlp: hidden\[0\] is a whole number"),
    "mlp's out": (lambda: nn.mlp((64,), 10.0), "mlp: out is a whole number, got 10.0"),
    "mlp as a list of sizes": (lambda: nn.mlp(784, 64, 10), r"nn.mlp\(hidden=\(64, 32\), out=10\)"),
    "mlp without out": (lambda: nn.mlp(hidden=(64,)), "missing a required argument: 'out'"),
    "rescale": (lambda: nn.rescale("1/255"), "rescale: scale is a number"),
    "repeat": (lambda: nn.repeat(nn.relu, 2.5), "repeat: times is a whole number"),
}


@pytest.mark.parametrize(("write", "said"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments_are_named(write, said):
    with pytest.raises((TypeError, ValueError), match=said):
        write()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.asarray, jnp.asarray])
def test_sizes_of_any_integer_type(kind):
    assert str(nn.linear(kind(10))) == "linear(10)"
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    layer = nn.conv2d(kind(4), kind(3), stride=kind(2), padding=kind(1)) >> nn.max_pool2d(kind(2)) >> nn.flatten
    assert abstract_init(layer, image).spec.shape == (2, 16)
    assert abstract_init(nn.mlp((kind(3),), kind(2)), jax.ShapeDtypeStruct((2, 4), jnp.float32)).spec.shape == (2, 2)
    assert abstract_init(nn.lstm(kind(5)), jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)).spec.shape == (2, 3, 5)
    assert abstract_init(nn.self_attention(kind(2)), jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)).spec.shape == (2, 3, 4)


def test_channels_first_are_detected():
    with pytest.raises(FaultError, match=r"transpose\(0, 2, 3, 1\)"):
        abstract_init(nn.conv2d(8, 5), jax.ShapeDtypeStruct((32, 1, 28, 28), jnp.float32))
    with pytest.raises(FaultError, match="channels are the last axis"):
        abstract_init(nn.max_pool2d(4), jax.ShapeDtypeStruct((32, 3, 64, 64), jnp.float32))
    for shape, first in {(8, 3, 32, 32): True, (8, 1, 28, 28): True, (8, 28, 28, 1): False, (8, 4, 4, 512): False}.items():
        assert channels_first(shape) == first


# ------------------------------------------------------------------------------- empty arrays

NO_ROWS = {
    "linear": (nn.linear(3), (0, 4), (0, 3)),
    "linear of no times": (nn.linear(3), (2, 0, 4), (2, 0, 3)),
    "mlp": (nn.mlp((3,), 2, norm=None), (0, 4), (0, 2)),
    "layer_norm": (nn.layer_norm(), (0, 4), (0, 4)),
    "dropout": (nn.dropout(0.5), (0, 4), (0, 4)),
    "flatten": (nn.flatten, (0, 2, 3), (0, 6)),
    "lstm": (nn.lstm(3), (0, 5, 4), (0, 5, 3)),
    "lstm of no times": (nn.lstm(3), (2, 0, 4), (2, 0, 3)),
    "self_attention": (nn.self_attention(2), (0, 5, 4), (0, 5, 4)),
    "self_attention of no times": (nn.self_attention(2, mask=nn.causal), (2, 0, 4), (2, 0, 4)),
    "transformer_block of no times": (nn.transformer_block(nn.self_attention(2)), (2, 0, 4), (2, 0, 4)),
    "conv2d": (nn.conv2d(3, 3), (0, 5, 5, 2), (0, 3, 3, 3)),
    "conv_pool": (nn.conv_pool(3, 3), (0, 6, 6, 2), (0, 2, 2, 3)),
    "max_pool2d": (nn.max_pool2d(2), (0, 4, 4, 2), (0, 2, 2, 2)),
    "avg_pool2d": (nn.avg_pool2d(2), (0, 4, 4, 2), (0, 2, 2, 2)),
    "global_avg_pool": (nn.global_avg_pool, (0, 4, 4, 2), (0, 2)),
}


@pytest.mark.parametrize(("layer", "shape", "after"), NO_ROWS.values(), ids=NO_ROWS)
def test_no_rows_and_no_time_steps_give_empty_outputs(layer, shape, after):
    made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert made.spec.shape == after

    def total(at):
        y, _ = layer.apply(at[0], made.state, at[1], Train(jax.random.key(1)))
        return jnp.sum(y), y

    slopes, y = jax.jit(jax.grad(total, has_aux=True))((made.params, jnp.zeros(shape)))
    assert y.shape == after
    for slope in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(slope, 0)


NO_FEATURES = {
    "linear": (nn.linear(3), (2, 0)),
    "mlp": (nn.mlp((3,), 2), (2, 0)),
    "lstm": (nn.lstm(3), (2, 5, 0)),
    "self_attention": (nn.self_attention(2), (2, 5, 0)),
    "transformer_block": (nn.transformer_block(nn.self_attention(2)), (2, 5, 0)),
    "conv2d": (nn.conv2d(3, 3), (2, 5, 5, 0)),
    "conv_pool": (nn.conv_pool(3, 3), (2, 6, 6, 0)),
    "conv2d of no pixels": (nn.conv2d(3, 3), (2, 0, 0, 3)),
    "max_pool2d of no pixels": (nn.max_pool2d(2), (2, 0, 4, 3)),
    "global_avg_pool of no pixels": (nn.global_avg_pool, (2, 0, 4, 3)),
}


@pytest.mark.parametrize(("layer", "shape"), NO_FEATURES.values(), ids=NO_FEATURES)
def test_no_features_are_a_fault(layer, shape):
    with pytest.raises(FaultError) as caught:
        layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert isinstance(caught.value.fault, ShapeMismatch)


@pytest.mark.parametrize("made", [loss.mse(), loss.smooth_l1(), loss.bce_with_logits(), loss.cross_entropy(), loss.accuracy])
def test_no_rows_weigh_nothing(made):
    target = np.zeros(0, np.int32) if made.name in {"cross_entropy", "accuracy"} else np.zeros((0, 3))
    value = made(jnp.zeros((0, 3)), target)
    assert (float(value.total), float(value.weight), float(value.mean)) == (0, 0, 0)


# ------------------------------------------------------------------------------- hyperparameters


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.asarray, jnp.asarray, float])
def test_hyperparameters_of_any_numeric_type_widen_nothing(kind):
    x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with jax.enable_x64(True):
        layers = [
            nn.dropout(kind(0.5)),
            nn.batch_norm(kind(0.5), kind(0.25)),
            nn.layer_norm(kind(0.25)),
            nn.rescale(kind(0.5), kind(1)),
        ]
        for layer in layers:
            made = abstract_init(layer, x)
            for mode in (Eval(), Train(jax.random.key(0))):
                y, state = jax.eval_shape(layer.apply, made.params, made.state, x, mode)
                assert {leaf.dtype for leaf in jax.tree.leaves((y, state))} == {np.dtype(np.float32)}


# ------------------------------------------------------------------------------- augmentation

AUGMENTATIONS = {
    "crop of a float": (lambda: augment.random_crop(2.0), "random_crop: padding is a whole number, got 2.0 .*write 2"),
    "crop of a word": (lambda: augment.random_crop(2, ("4", 4)), "random_crop: size"),
    "crop below zero": (lambda: augment.random_crop(-1), "random_crop"),
    "flip in per cent": (lambda: augment.random_flip(50), "rate is a probability"),
    "flip of a word": (lambda: augment.random_flip("half"), "random_flip: rate is a probability"),
    "flip's direction": (lambda: augment.random_flip(vertical="yes"), "vertical is True or False"),
    "cutout of a share": (lambda: augment.cutout(0.5), "cutout: size is a whole number"),
    "standardize of words": (
        lambda: augment.standardize("mean", "std"),
        "standardize: mean is a number, or a list of one for each channel",
    ),
    "standardize of nothing": (lambda: augment.standardize([0.5, None], 1.0), "standardize: mean is a number"),
    "an uncalled maker": (lambda: augment.in_training(augment.random_flip), "random_flip .*at 0; call it, it makes one"),
    "no function": (lambda: augment.in_training(augment.random_flip(), "flip"), "got 'flip' .*at 1"),
}


@pytest.mark.parametrize(("write", "said"), AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_wrong_augmentations_are_named(write, said):
    with pytest.raises((TypeError, ValueError), match=said):
        write()


def test_sizes_of_windows_of_any_integer_type():
    images = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.uint8)
    for size in ((4, 4), [np.int64(4), jnp.int32(4)]):
        assert jax.eval_shape(augment.random_crop(0, size), jax.random.key(0), images).shape == (2, 4, 4, 3)
