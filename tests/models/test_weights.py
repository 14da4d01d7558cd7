"""Weights by torch's names: every map reversed has the same bits, and each array that does not fit is named."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fnlamp import models, nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError, StateMismatch
from fnlamp.layer import Layer, abstract_init
from fnlamp.models import weights
from fnlamp.models.weights import layout

RNG = np.random.default_rng(0)
TOKENS = array_spec((1, 5), jnp.int32)
IMAGES = array_spec((2, 9, 8, 3), jnp.float32)
STEPS = array_spec((2, 6, 4), jnp.float32)
SMALL = models.gpt(7, layers=2, width=8, heads=2, context=6)


def numbers(made, dtype=np.float32):
    """Random numbers, -0 and NaN among them, in the place of each array."""

    def one(leaf):
        x = RNG.standard_normal(leaf.shape).astype(dtype)
        x.ravel()[:2] = [-0.0, np.nan][: x.size]
        return x

    return jax.tree.map(one, made)


def bits(part):
    return {path: (x.shape, str(x.dtype), np.asarray(x).tobytes()) for path, x in tree.paths(part).items()}


CONVOLUTIONS = nn.sequence(
    nn.conv2d(6, 3, groups=3),
    nn.batch_norm(),
    nn.prelu(per_feature=True),
    nn.depthwise_conv2d(3, multiplier=2),
    nn.group_norm(2),
    nn.conv_transpose2d(4, (2, 3), groups=2),
    nn.max_pool2d(2),
    nn.flatten,
    nn.batch_norm(),
    nn.linear(3, bias=False),
)
LAYERS = {
    "perceptron": (nn.mlp(hidden=(4, 3), out=2), array_spec((5, 6), jnp.float32)),
    "convolutions": (CONVOLUTIONS, IMAGES),
    "sequences": (nn.sequence(nn.conv1d(4, 3), nn.relu, nn.flatten, nn.linear(2)), STEPS),
    "recurrent": (nn.sequence(nn.lstm(3), nn.gru(2), nn.rnn(2), nn.bidirectional(nn.lstm(3, bias=False))), STEPS),
    "attention": (nn.transformer_block(nn.self_attention(2, kv_heads=1), norm=nn.rms_norm()), STEPS),
    "one": (nn.lstm(3), STEPS),
}
LLAMA = {"layers": 2, "width": 8, "heads": 4, "context": 6, "norm": nn.rms_norm(), "activation": nn.silu, "gated": True}
NORMED = nn.sequence(nn.rms_norm(), nn.rotary_positions(halves=True))
GROUPED = models.gpt(7, **LLAMA, kv_heads=2, query_key=NORMED, bias=False, tied=False)
BERT = models.bert(7, layers=2, width=8, heads=2, context=6)
VIT = models.vit(3, size=(9, 8), patch=(3, 4), layers=2, width=8, heads=2)
RESNET = models.resnet(3, blocks=(1, 2), widths=(4, 6), bottleneck=True)
FAMILIES: dict[str, tuple[weights.Weights, Layer, object]] = {
    **{name: (weights.of_layer(layer, spec), layer, spec) for name, (layer, spec) in LAYERS.items()},
    "gpt2": (weights.gpt2(), SMALL, TOKENS),
    "llama": (weights.llama(), GROUPED, TOKENS),
    "llama in pairs": (weights.llama(pairs=(4, 4)), models.gpt(7, **LLAMA, query_key=nn.rotary_positions()), TOKENS),
    "bert": (weights.bert(), BERT, TOKENS),
    "masked_language_model": (weights.masked_language_model(), models.masked_language_model(BERT, 7), TOKENS),
    "sentence_classifier": (weights.sentence_classifier(), models.sentence_classifier(BERT, 3), TOKENS),
    "vit": (weights.vit(), VIT, IMAGES),
    "vit in memory": (weights.vit(files=False), VIT, IMAGES),
    "resnet": (weights.resnet(), RESNET, IMAGES),
    "torchvision_resnet": (weights.torchvision_resnet(), RESNET, IMAGES),
}
each_family = pytest.mark.parametrize(("names", "layer", "spec"), FAMILIES.values(), ids=FAMILIES)


@each_family
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_write_and_read_have_the_same_bits(names, layer, spec, dtype):
    made = abstract_init(layer, spec)
    params, state = numbers(made.params, dtype), numbers(made.state)
    theirs = names.write(params, state)
    assert all(x.flags.c_contiguous and x.flags.writeable for x in theirs.values())
    again = names.read(theirs, made)
    assert bits(again[0]) == bits(params) and bits(again[1]) == bits(state)
    assert tree.nbytes(list(theirs.values())) >= tree.nbytes((params, state))
    once_more = names.write(*names.read({f"module.{name}": x for name, x in theirs.items()}, made))
    assert bits(once_more) == bits(theirs)


@each_family
def test_every_array_is_needed_and_has_its_shape(names, layer, spec):
    made = abstract_init(layer, spec)
    theirs = names.write(numbers(made.params), numbers(made.state))
    for name, x in theirs.items():
        optional = name.endswith("num_batches_tracked") or (name in names.table.tied and "out" not in made.params)
        less = {other: x for other, x in theirs.items() if other != name}
        if optional:
            names.read(less, made)
            continue
        with pytest.raises(FaultError) as caught:
            names.read(less, made)
        assert caught.value.fault == StateMismatch((name,), hint=caught.value.fault.hint)
        with pytest.raises(FaultError) as caught:
            names.read({**theirs, name: x[None]}, made)
        fault = caught.value.fault
        assert f"{name}: expected float32{list(x.shape)}, got float32{[1, *x.shape]}" in fault.differing
        assert not fault.missing and not fault.extra


def test_layouts_are_those_of_torch():
    """Numbers that say where they are: `o` for outputs, `i` inputs, `g` groups, `k` positions."""

    def marked(*letters):
        grid = np.indices([len(each) for each in letters])
        return np.vectorize(lambda *at: "".join(each[i] for each, i in zip(letters, at, strict=True)))(*grid)

    (w,) = layout.outputs_last.read((marked("pq", "abc", "xy", "uvw"),))
    assert w.shape == (2, 3, 3, 2) and w[1, 2, 0, 1] == "qayw"
    (w,) = layout.transposed(2).read((marked("abcd", "pq", "xyz"),))
    assert w.shape == (3, 2, 4)
    # The second group has the inputs c and d, and the third and fourth outputs.
    assert w[0].tolist() == [["apx", "aqx", "cpx", "cqx"], ["bpx", "bqx", "dpx", "dqx"]]
    (w,) = layout.channels_last((2, 3, 4)).read((np.arange(24).reshape(4, 2, 3).reshape(24),))
    np.testing.assert_array_equal(w.reshape(2, 3, 4), np.moveaxis(np.arange(24).reshape(4, 2, 3), 0, -1))
    (w,) = layout.halves_to_pairs(2, 1).read((np.array([[0, 2, 1, 3, 4, 6, 5, 7, 8, 9, 10, 11]]),))
    assert w.tolist() == [[*range(12)]]
    (w,) = layout.joined(layout.outputs_last, 3).read(tuple(np.full((2, 4), i) for i in range(3)))
    assert w.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    (w,) = layout.leading(2).read((np.zeros((1, 1, 3, 2)),))
    assert w.shape == (3, 2)


def test_two_biases_are_summed():
    (b,) = layout.two_biases.read((np.array([1.0, -0.0, 2]), np.array([3.0, 0.0, 0])))
    assert b.tolist() == [4, 0, 2] and np.signbit(b[1])
    b, own = layout.gru_biases.read((np.arange(6.0), np.arange(10.0, 16)))
    assert b.tolist() == [10, 12, 14, 16, 4, 5] and own.tolist() == [14, 15]


def test_stacked_copies_are_modules_by_number():
    layer = nn.repeat(nn.linear(4), 3, scan=True)
    spec = array_spec((2, 4), jnp.float32)
    made = abstract_init(layer, spec)
    params = numbers(made.params)
    theirs = weights.of_layer(layer, spec, {"": "layers.#"}).write(params)
    assert list(theirs) == [f"layers.{i}.{name}" for name in ("weight", "bias") for i in range(3)]
    np.testing.assert_array_equal(theirs["layers.2.weight"], params["weight"][2].T)
    assert bits(weights.of_layer(layer, spec, {"": "layers.#"}).read(theirs, made)[0]) == bits(params)


def gpt2_file(**more):
    made = abstract_init(SMALL, TOKENS)
    return {**weights.gpt2().write(numbers(made.params)), **more}, made


def test_names_with_and_without_prefixes_and_buffers():
    theirs, made = gpt2_file()
    expected = bits(weights.gpt2().read(theirs, made)[0])
    bare = {name.removeprefix("transformer."): x for name, x in theirs.items() if name != "lm_head.weight"}
    buffers = {"h.0.attn.bias": np.ones((1, 1, 6, 6), bool), "h.1.attn.masked_bias": np.float32(-1e4)}
    for file in [bare, {**bare, **buffers}, *({start + name: x for name, x in theirs.items()} for start in WRAPPED)]:
        assert bits(weights.gpt2().read(file, made)[0]) == expected


def test_a_prefix_is_left_out_only_if_it_is_not_a_name():
    """`model.` is what a training loop puts before all names, and part of LLaMA's, and may be a module of one's own."""
    made = abstract_init(GROUPED, TOKENS)
    theirs = weights.llama().write(numbers(made.params))
    expected = bits(weights.llama().read(theirs, made)[0])
    assert bits(weights.llama().read({f"model.{name}": x for name, x in theirs.items()}, made)[0]) == expected
    tied = {name: x for name, x in theirs.items() if name != "lm_head.weight"}
    with pytest.raises(FaultError, match="missing: lm_head.weight; keep"):
        weights.llama().read({f"module.{name}": x for name, x in tied.items()}, made)
    layer, spec = nn.linear(2) >> nn.relu >> nn.linear(1), array_spec((1, 3), jnp.float32)
    names, made = weights.of_layer(layer, spec, {"0": "model.0", "2": "model.2"}), abstract_init(layer, spec)
    theirs = names.write(numbers(made.params))
    assert next(iter(theirs)) == "model.0.weight"
    again, _ = names.read({f"module.{name}": x for name, x in theirs.items()}, made)
    assert bits(names.write(again)) == bits(theirs)


WRAPPED = ("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model.")


def test_vit_is_read_by_either_of_its_names():
    made = abstract_init(VIT, IMAGES)
    theirs = weights.vit(files=False).write(numbers(made.params))
    files = weights.vit().write(weights.vit().read(theirs, made)[0])
    assert files.keys() != theirs.keys() and len(files) == len(theirs)
    assert bits(weights.vit(files=False).write(weights.vit(files=False).read(files, made)[0])) == bits(theirs)


def test_files_of_the_first_bert():
    """Norms have TensorFlow's names in them, and heads that `models.masked_language_model` lacks are ignored by name."""
    made, names = abstract_init(models.masked_language_model(BERT, 7), TOKENS), weights.masked_language_model()
    theirs = names.write(numbers(made.params))
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    first = {re.sub("|".join(older), lambda found: older[found[0]], name): x for name, x in theirs.items()}
    first |= {"bert.embeddings.position_ids": np.arange(6)[None]}
    first |= {"cls.seq_relationship.bias": np.ones(2), "bert.pooler.dense.bias": np.ones(8)}
    again, _ = names.read(first, made, ignore=["cls.seq_relationship", "bert.pooler"])
    assert bits(again) == bits(names.read(theirs, made)[0])
    alone, _ = weights.bert().read(theirs, abstract_init(BERT, TOKENS), ignore=["cls"])
    assert bits(alone) == bits(again["encoder"])


def test_what_does_not_fit_is_listed():
    theirs, made = gpt2_file()
    more = models.gpt(7, layers=3, width=8, heads=2, context=6)
    fewer = models.gpt(7, layers=1, width=8, heads=2, context=6)
    wider = models.gpt(7, layers=2, width=12, heads=2, context=6)

    def fault(layer, file=theirs):
        with pytest.raises(FaultError) as caught:
            weights.gpt2().read(file, abstract_init(layer, TOKENS))
        return caught.value.fault

    assert len(fault(more).missing) == 12 and fault(more).missing[0].startswith("transformer.h.2.")
    assert len(fault(fewer).extra) == 12 and all(name.startswith("transformer.h.1.") for name in fault(fewer).extra)
    assert "transformer.h.0.attn.c_attn.weight: expected float32[12, 36], got float32[8, 24]" in fault(wider).differing
    untied = {**theirs, "lm_head.weight": theirs["lm_head.weight"] + 1}
    assert fault(SMALL, untied).differing[0].startswith("lm_head.weight: expected the numbers of transformer.wte.weight")
    quantized = {**theirs, "transformer.ln_f.bias": np.zeros(8, np.int8)}
    assert fault(SMALL, quantized).differing == ("transformer.ln_f.bias: expected float32[8], got int8[8]",)
    twice = {**theirs, "wpe.weight": theirs["transformer.wpe.weight"]}
    assert fault(SMALL, twice).extra == ("wpe.weight",)
    unnamed = fault(nn.sequence(tokens=nn.embedding(7, 8), head=nn.linear(2))).missing
    assert unnamed == ("gpt2 has no name for head/bias", "gpt2 has no name for head/weight")
    with pytest.raises(FaultError, match=r"head/weight, head/bias|head/bias, head/weight"):
        weights.gpt2().write({**numbers(made.params), "head": {"weight": np.ones(2), "bias": np.ones(2)}})


def test_keep_and_ignore():
    layer = nn.sequence(body=nn.linear(3), head=nn.linear(5))
    spec = array_spec((2, 4), jnp.float32)
    made, names = abstract_init(layer, spec), weights.of_layer(layer, spec)
    kept = numbers(made.params)
    other = nn.sequence(body=nn.linear(3), head=nn.linear(9))
    theirs = weights.of_layer(other, spec).write(numbers(abstract_init(other, spec).params))
    params, _ = names.read(theirs, (kept, {}), keep=["head"], ignore=["head"])
    assert bits(params["head"]) == bits(kept["head"])
    np.testing.assert_array_equal(params["body"]["bias"], theirs["body.bias"])
    with pytest.raises(ValueError, match=r"read: keep has 'hea', which is not there; there are body/bias, body/weight, head"):
        names.read(theirs, made, keep=["hea"])
    with pytest.raises(ValueError, match="read: ignore has 'tail'"):
        names.read(theirs, made, ignore=["tail"])


def test_dtypes():
    layer = nn.linear(3) >> nn.batch_norm()
    spec = array_spec((2, 4), jnp.float32)
    made, names = abstract_init(layer, spec), weights.of_layer(layer, spec)
    theirs = names.write(numbers(made.params), numbers(made.state))
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in theirs.items() if x.dtype == np.float32}
    params, state = names.read(half, made)
    assert {x.dtype for x in tree.leaves(params)} == {np.dtype(ml_dtypes.bfloat16)}
    assert {x.dtype for x in tree.leaves(state)} == {np.dtype(np.float32)}, "moments move in float32"
    params, _ = names.read(half, made, dtype=jnp.float32)
    np.testing.assert_array_equal(params["0"]["weight"], half["0.weight"].T.astype(np.float32))


def test_wrong_arguments_say_what_to_give():
    theirs, made = gpt2_file()
    names = weights.gpt2()
    with pytest.raises(TypeError, match=r"got {.* at 'model'; the weights may be at 'model' in it"):
        names.read({"model": theirs, "epoch": 3}, made)
    with pytest.raises(TypeError, match="arrays is a dict of arrays by name"):
        names.read("gpt2.safetensors", made)
    with pytest.raises(TypeError, match=r"like is what layer\.init gives, or a pair"):
        names.read(theirs, made.params)
    with pytest.raises(ValueError, match="expected layers that torch has too, got einsum at ''"):
        weights.of_layer(nn.einsum("bi,io->bo", o=2), array_spec((2, 4), jnp.float32))
    with pytest.raises(ValueError, match="of_layer: names has 'linear_1', which is not a path; there are 0, 2"):
        weights.of_layer(nn.linear(2) >> nn.relu >> nn.linear(1), array_spec((2, 4), jnp.float32), {"linear_1": "0"})
