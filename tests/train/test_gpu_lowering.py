"""Training lowered for CUDA, on a machine without a GPU: which operations reach XLA, and that none has the CPU's form."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import jax
import jax._src.cudnn.fused_attention_stablehlo as of_jax
import numpy as np
import pytest

from fnlamp import loss, models, nn, optim, stream, train
from fnlamp.nn.lowering import flash
from fnlamp.train.execute.fused import chunk_program
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.explain.explained import plan_of
from fnlamp.train.explain.inside import programs_of

PIXELS = np.zeros((8, 784), np.uint8)
TEXT = np.zeros((4, 16), np.int32)
IMAGE = nn.fun(lambda x: x.reshape(x.shape[0], 28, 28, 1), "image")
SCALE = nn.rescale(1 / 255)
HEAD = nn.flatten >> nn.linear(10)
MODELS = {
    "logistic": (SCALE >> nn.linear(10), PIXELS),
    "lamp": (SCALE >> nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2), PIXELS),
    "wide": (SCALE >> nn.linear(64) >> nn.relu >> nn.linear(10), PIXELS),
    "cnn": (SCALE >> IMAGE >> nn.conv_pool(20, 5) >> nn.conv_pool(50, 5) >> HEAD, PIXELS),
    "lstm": (nn.embedding(64, 16) >> nn.lstm(16) >> nn.linear(64), TEXT),
    "gpt": (models.gpt(vocabulary=64, layers=2, width=16, heads=2, context=16), TEXT),
}


def lowered(name, monkeypatch, precision=train.float32, platform="gpu"):
    """The chunk of steps that `Fused` compiles, as StableHLO for CUDA."""
    layer, x = MODELS[name]
    y = np.zeros(len(x), np.int32) if x is PIXELS else x
    program = train.epochs(
        model=train.supervised(layer, loss.cross_entropy(), precision=precision),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=4, seed=context.seed),
        epochs=1,
    )
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    BODIES.clear()  # JAX keeps what was traced for the other platform: a default device, but not this patch, is in its key
    (found,) = programs_of("program", program)
    plan, _ = plan_of(found)
    (segment,) = plan.train.view.segments
    rows, at = segment.rows(), np.int32(0)
    arrays = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), segment.arrays)
    chunk = chunk_program(plan.body, segment.recipe, arrays, rows)
    given = segment.recipe.arguments, plan.shared, arrays, rows, plan.carry, plan.carry, at, at
    return chunk.trace(*given).lower(lowering_platforms=("cuda" if platform == "gpu" else platform,)).as_text()


def operations(text):
    return Counter(re.findall(r"stablehlo\.(\w+)", text))


def custom_calls(text):
    return set(re.findall(r"custom_call @([\w$]+)", text))


def types(text, operation):
    """The dtypes of the operands and the result of each such operation."""
    kinds = re.findall(rf"stablehlo\.{operation}\W.* : (\(.*)", text)
    return Counter(re.sub(r"tensor<[\dx]*x?(\w+)>", r"\1", kind) for kind in kinds)


@pytest.mark.parametrize("name", MODELS)
def test_a_chunk_of_each_model_is_one_program_for_cuda(name, monkeypatch):
    """XLA is left free to choose its libraries; the condition around a step, which the CPU needs, is not there."""
    text = lowered(name, monkeypatch)
    assert not custom_calls(text)
    found = operations(text)
    assert found["while"] == (3 if name == "lstm" else 1) and not found["case"]
    assert found["convolution"] == (5 if name == "cnn" else 0)  # of two layers, without the gradient of the pixels


def test_on_the_cpu_the_forms_differ(monkeypatch):
    """So the test above would fail if a branch by platform were lost."""
    on_cpu, on_gpu = (lowered("cnn", monkeypatch, platform=platform) for platform in ("cpu", "gpu"))
    assert operations(on_cpu)["case"] and not operations(on_gpu)["case"]
    assert operations(on_cpu)["convolution"] < operations(on_gpu)["convolution"]  # gradients are products there


@pytest.mark.slow
def test_products_of_a_transformer_in_bfloat16_use_tensor_cores(monkeypatch):
    """Except the two gradients of the logits, whose upstream is float32, as the loss is."""
    found = types(lowered("gpt", monkeypatch, train.bfloat16), "dot_general")
    assert found.pop("(f32, f32) -> f32") == 2
    assert all(kind.startswith("(bf16, bf16)") for kind in found)
    (kind,) = types(lowered("cnn", monkeypatch, train.bfloat16), "convolution")
    assert kind == "(bf16, bf16) -> bf16"


@pytest.mark.slow
def test_a_transformer_in_bfloat16_has_cudnns_attention(monkeypatch):
    """In each layer, forward and backward; in float32 it has products, as in the tests above."""
    monkeypatch.setattr(flash, "capability", lambda: (9, 0))
    monkeypatch.setattr(of_jax, "cuda_versions", SimpleNamespace(cudnn_get_version=lambda: 91002))
    long = models.gpt(vocabulary=64, layers=2, width=16, heads=2, context=64), np.zeros((4, 64), np.int32)
    monkeypatch.setitem(MODELS, "gpt", long)
    text = lowered("gpt", monkeypatch, train.bfloat16)
    assert custom_calls(text) == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert len(re.findall(r"custom_call @__cudnn\$fmhaSoftmaxBackward", text)) == 2
    assert not custom_calls(lowered("gpt", monkeypatch))
