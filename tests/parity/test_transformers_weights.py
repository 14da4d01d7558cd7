"""Models of transformers with random weights: the logits are those of fnlamp's architecture, with weights moved either way."""

from __future__ import annotations

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, models, nn, tree
from fnlamp.arrays import spec_of
from fnlamp.layer import abstract_init
from fnlamp.models import weights

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
numpy = pytest.importorskip("safetensors.numpy")
transformers = pytest.importorskip("transformers", reason="transformers comes with the extra parity")

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)


def numbers(shape, inputs):
    """Weights of the size that keeps activations as they are, and vectors about 1, so that each one shows in the logits."""
    return RNG.standard_normal(shape) / np.sqrt(inputs) if len(shape) > 1 else 1 + 0.5 * RNG.standard_normal(shape)


def random(module):
    """The model in evaluation, with random weights; what is a vector is above 0, as a variance has to be."""
    with torch.no_grad():
        for x in module.state_dict().values():
            if x.is_floating_point():
                made = numbers(x.shape, prod(x.shape[1:]))
                x.copy_(torch.tensor(made if x.ndim > 1 else np.abs(made) + 0.1))
    return module.eval()


def logits(module, x):
    with torch.no_grad():
        return module(torch.tensor(x)).logits.numpy()


def pixels(module, x):
    return logits(module, np.moveaxis(x, -1, 1))


def check(layer, names, module, x, *, predict=logits, writes=None, of=np.asarray):
    """The logits, to 1e-4, with torch's weights in fnlamp, and with other weights of fnlamp's in torch; `of` selects some."""
    given = tree.map(jnp.asarray, x)
    spec = spec_of(given)
    apply = jax.jit(lambda params, state: layer.apply(params, state, given, Eval())[0])
    made = jax.eval_shape(lambda key: (lambda made: (made.params, made.state))(layer.init(key, spec)), jax.random.key(0))
    theirs = {name: x.numpy() for name, x in random(module).state_dict().items()}
    params, state = names.read(theirs, made)
    expected = of(predict(module, x))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(of(apply(params, state)), expected, atol=1e-4)
    params = tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape, prod(leaf.shape[:-1])), leaf.dtype), params)
    written = (writes or names).write(params, state)
    module.load_state_dict({name: torch.tensor(x) for name, x in written.items()}, strict=True)
    np.testing.assert_allclose(of(apply(params, state)), of(predict(module, x)), atol=1e-4)


def ids(count=53):
    return RNG.integers(0, count, (2, 11))


def images(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_gpt2():
    config = transformers.GPT2Config(vocab_size=53, n_positions=16, n_embd=24, n_layer=3, n_head=4)
    layer = models.gpt(53, layers=3, width=24, heads=4, context=16)
    check(layer, weights.gpt2(), transformers.GPT2LMHeadModel(config), ids())


LLAMA = {"norm": nn.rms_norm(1e-5), "activation": nn.silu, "gated": True, "bias": False, "context": 16}


@pytest.mark.parametrize(("heads", "kv_heads", "tied"), [(4, 2, False), (4, 4, True)])
@pytest.mark.parametrize("halves", [True, False])
def test_llama(heads, kv_heads, tied, halves):
    """Fused or grouped, with a tied output weight or its own, and with the rotary pairs of transformers or of the paper."""
    config = transformers.LlamaConfig(
        vocab_size=53,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    rotary = nn.rotary_positions(halves=halves)
    layer = models.gpt(53, layers=2, width=24, heads=heads, kv_heads=kv_heads, hidden=40, query_key=rotary, tied=tied, **LLAMA)
    names = weights.llama(pairs=None if halves else (heads, kv_heads))
    check(layer, names, transformers.LlamaForCausalLM(config), ids())


def test_qwen3():
    config = transformers.Qwen3Config(
        vocab_size=53,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        rms_norm_eps=1e-5,
    )
    query_key = nn.sequence(nn.rms_norm(1e-5), nn.rotary_positions(halves=True))
    layer = models.gpt(53, layers=2, width=24, heads=4, kv_heads=2, hidden=40, query_key=query_key, tied=False, **LLAMA)
    check(layer, weights.llama(), transformers.Qwen3ForCausalLM(config), ids())


@pytest.mark.parametrize("bottleneck", [True, False])
def test_resnet(bottleneck):
    widths = (4, 6, 8)
    config = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4 * width for width in widths] if bottleneck else list(widths),
        depths=[1, 2, 2],
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=5,
    )
    layer = models.resnet(5, blocks=(1, 2, 2), widths=widths, bottleneck=bottleneck)
    module = transformers.ResNetForImageClassification(config)
    check(layer, weights.resnet(), module, images(2, 40, 33, 3), predict=pixels)


@pytest.mark.parametrize("files", [True, False])
def test_vit(files):
    """The names of files are those of transformers 4; `load_state_dict` takes those of its version."""
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=12,
        patch_size=4,
        num_labels=5,
    )
    layer = models.vit(5, size=12, patch=4, layers=2, width=24, heads=4, expansion=2, eps=1e-12)
    module = transformers.ViTForImageClassification(config)
    check(layer, weights.vit(files=files), module, images(2, 12, 12, 3), predict=pixels, writes=weights.vit(files=False))


@pytest.mark.parametrize("family", ["gpt2", "vit", "bert"])
def test_files_of_transformers(family, tmp_path):
    """What `save_pretrained` writes is read, and `from_pretrained` reads what `write` gives, with the same logits."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    kind, config, layer, names, x = {
        "gpt2": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(vocab_size=53, n_positions=16, n_embd=8, n_layer=1, n_head=2),
            models.gpt(53, layers=1, width=8, heads=2, context=16),
            weights.gpt2(),
            ids(),
        ),
        "vit": (
            transformers.ViTForImageClassification,
            transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3),
            models.vit(3, size=8, patch=4, layers=1, width=8, heads=2, expansion=2, eps=1e-12),
            weights.vit(),
            images(2, 8, 8, 3),
        ),
        "bert": (
            transformers.BertForMaskedLM,
            transformers.BertConfig(**sizes, vocab_size=53, max_position_embeddings=16),
            models.masked_language_model(models.bert(53, layers=1, width=8, heads=2, context=16, hidden=16), 53),
            weights.masked_language_model(),
            ids(),
        ),
    }[family]
    predict = pixels if family == "vit" else logits
    module, made = random(kind(config)), abstract_init(layer, spec_of(x))
    module.save_pretrained(tmp_path)
    written = names.write(*names.read(numpy.load_file(tmp_path / "model.safetensors"), made))
    numpy.save_file(written, tmp_path / "model.safetensors", {"format": "pt"})
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    np.testing.assert_array_equal(predict(again.eval(), x), predict(module, x))


BERT = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ENCODER = {"layers": 2, "width": 24, "heads": 4, "context": 16, "hidden": 48}


def of_dict(module, x):
    """The logits of a padded batch with segments."""
    mask = np.arange(x["ids"].shape[1]) < x["lengths"][:, None]
    given = {"input_ids": x["ids"], "attention_mask": mask.astype(np.int64), "token_type_ids": x["segments"]}
    with torch.no_grad():
        made = module(**{name: torch.tensor(each) for name, each in given.items()})
        return np.asarray(made["logits"] if "logits" in made else made["last_hidden_state"])


@pytest.mark.parametrize("model", ["bert", "masked_language_model", "sentence_classifier"])
def test_bert(model):
    config = transformers.BertConfig(**BERT, max_position_embeddings=16, num_labels=3)
    encoder = models.bert(53, **ENCODER)
    layer, module = {
        "bert": (encoder, lambda: transformers.BertModel(config, add_pooling_layer=False)),
        "masked_language_model": (
            models.masked_language_model(encoder, 53),
            lambda: transformers.BertForMaskedLM(config),
        ),
        "sentence_classifier": (
            models.sentence_classifier(encoder, 3),
            lambda: transformers.BertForSequenceClassification(config),
        ),
    }[model]
    x = {"ids": ids(), "lengths": np.array([11, 6]), "segments": RNG.integers(0, 2, (2, 11))}
    seen = np.arange(11) < x["lengths"][:, None] if model != "sentence_classifier" else slice(None)
    check(layer, getattr(weights, model)(), module(), x, predict=of_dict, of=lambda y: np.asarray(y)[seen])
