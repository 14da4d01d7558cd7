"""vit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from fnlamp import models, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
SMALL = {"size": (4, 6), "patch": (2, 3), "layers": 2, "width": 8, "heads": 2, "expansion": 1.5}
IMAGES = np.random.default_rng(1).standard_normal((3, 4, 6, 2)).astype(np.float32)


def drawn(layer):
    """Parameters far from their initial values, so that nothing is nearly zero."""
    made, rng = abstract_init(layer, array_spec(IMAGES.shape, jnp.float32)), np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.standard_normal(p.shape), p.dtype), made.params)


def by_hand(params, images, class_token, heads=2, eps=1e-6):
    """Equations 1 to 4 of the paper in NumPy and float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, at):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * at["scale"] + at["shift"]

    def linear(x, at):
        return x @ at["weight"] + at["bias"]

    def attention(x, at):
        batch, time, width = x.shape
        q, k, v = np.moveaxis(linear(x, at["input"]).reshape(batch, time, 3, heads, -1), 2, 0)
        e = np.exp(np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(width / heads))
        return linear(np.einsum("bhts,bshd->bthd", e / e.sum(-1, keepdims=True), v).reshape(x.shape), at["output"])

    high, wide = p["patches"]["weight"].shape[:2]
    rows = [
        images[:, i : i + high, j : j + wide] for i in range(0, images.shape[1], high) for j in range(0, images.shape[2], wide)
    ]
    x = np.stack([np.einsum("bijc,ijco->bo", row.astype(np.float64), p["patches"]["weight"]) for row in rows], 1)
    x = x + p["patches"]["bias"]
    if class_token:
        x = np.concatenate([np.broadcast_to(p["class"]["token"], (len(x), 1, x.shape[2])), x], 1)
    x = x + p["positions"]["weight"]
    for i in range(2):
        block = p[f"block_{i}"]
        x = x + attention(norm(x, block["attention_norm"]), block["attention"])
        u = linear(norm(x, block["feed_forward_norm"]), block["feed_forward"]["up"])
        x = x + linear(u * (1 + erf(u / np.sqrt(2))) / 2, block["feed_forward"]["out"])
    y = norm(x, p["norm"])
    return linear(y[:, 0] if class_token else y.mean(1), p["out"])


@pytest.mark.parametrize("class_token", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_numbers(class_token):
    layer = models.vit(3, **SMALL, class_token=class_token)
    params = drawn(layer)
    y, state = jax.jit(layer.apply)(params, {}, IMAGES, Eval())
    np.testing.assert_allclose(y, by_hand(params, IMAGES, class_token), rtol=1e-5, atol=1e-5)
    assert state == {}


def test_vit_b_16_and_its_tokens():
    layer = models.vit(1000, size=224, patch=16, layers=12, width=768, heads=12)
    made = abstract_init(layer, array_spec((2, 224, 224, 3), jnp.float32))
    assert tree.count(made.params) == 86_567_656  # timm's and torchvision's
    assert made.params["positions"]["weight"].shape == (197, 768)


def test_dropout_is_of_training_alone_and_half_precision_flows_through():
    layer = models.vit(3, **SMALL, drop_rate=0.5, depth_drop_rate=0.2)
    params = tree.cast(drawn(layer), jnp.bfloat16)
    images = jnp.asarray(IMAGES[:1], jnp.bfloat16)
    apply = jax.jit(layer.apply)
    y, one, other = (apply(params, {}, images, mode)[0] for mode in (Eval(), Train(KEY), Train(jax.random.key(1))))
    assert y.dtype == one.dtype == jnp.bfloat16
    assert len({str(found) for found in (y, one, other)}) == 3
    expected = by_hand(params, np.asarray(images, np.float64), True)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(3, 6, 4, 2), (3, 2, 12, 2), (4, 6, 2), (3, 4, 8, 2)])
def test_another_size_is_a_fault_even_of_as_many_patches(shape):
    layer = models.vit(3, **SMALL)
    for call in (lambda x: layer.init(KEY, x), lambda x: layer.apply(drawn(layer), {}, x, Eval())):
        with pytest.raises(FaultError, match=r"vit: expected images \(batch, 4, 6, channels\)") as caught:
            call(array_spec(shape, jnp.float32))
        assert isinstance(caught.value.fault, ShapeMismatch)


def test_bytes_are_a_fault():
    with pytest.raises(FaultError, match="rescale") as caught:
        models.vit(3, **SMALL).init(KEY, array_spec(IMAGES.shape, jnp.uint8))
    assert isinstance(caught.value.fault, DtypeMismatch)


@pytest.mark.parametrize("wrong", [{"patch": 4}, {"heads": 3}, {"layers": 0}, {"size": (4, 6, 2)}, {"drop_rate": 1}])
def test_wrong_sizes(wrong):
    with pytest.raises(ValueError, match="vit|transformer_block"):
        models.vit(3, **(SMALL | wrong))
