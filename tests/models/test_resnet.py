"""resnet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import models, nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import BatchTooSmall, DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
SMALL = models.resnet(3, blocks=(1, 2), widths=(4, 8), small=True, project=False)
LARGE = models.resnet(3, blocks=(1, 1), widths=(4, 8), bottleneck=True)

COUNTS = {  # of torchvision's models, of K. Liu's ResNet-18 for CIFAR, and of the paper's networks of 6n + 2 layers
    "18": ({"blocks": (2, 2, 2, 2)}, 1000, 11_689_512),
    "34": ({"blocks": (3, 4, 6, 3)}, 1000, 21_797_672),
    "101": ({"blocks": (3, 4, 23, 3), "bottleneck": True}, 1000, 44_549_160),
    "152": ({"blocks": (3, 8, 36, 3), "bottleneck": True}, 1000, 60_192_808),
    "18 of CIFAR": ({"blocks": (2, 2, 2, 2), "small": True}, 10, 11_173_962),
    "20 of CIFAR": ({"blocks": (3,) * 3, "widths": (16, 32, 64), "small": True, "project": False}, 10, 269_722),
    "110 of CIFAR": ({"blocks": (18,) * 3, "widths": (16, 32, 64), "small": True, "project": False}, 10, 1_727_962),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if "CIFAR" in n[2:] and "110" not in n else pytest.mark.slow) for n in COUNTS]
)
def test_published_numbers_of_parameters(name):
    options, classes, count = COUNTS[name]
    size = 32 if "CIFAR" in name else 224
    made = abstract_init(models.resnet(classes, **options), array_spec((2, size, size, 3), jnp.float32))
    assert tree.count(made.params) == count
    assert made.spec.shape == (2, classes)


def drawn(layer, x):
    """Parameters far from their initial values, so that no part is nearly 0."""
    made = layer.init(KEY, array_spec(x.shape, x.dtype))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.standard_normal(p.shape), jnp.float32), made.params)
    return params, jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), jnp.float32), made.state)


def by_torch(params, state, x, mode, *, small, kernels, stages):
    """The paper's figure in torch's functions and in float64, with batch statistics in `Train`."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    p, s = (jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64)), part) for part in (params, state))

    def conv_norm(x, p, s, i, stride):
        weight = p[f"conv{i}"]["weight"].permute(3, 2, 0, 1)
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        moments = s[f"norm{i}"]["mean"].clone(), s[f"norm{i}"]["variance"].clone()
        return functional.batch_norm(x, *moments, p[f"norm{i}"]["scale"], p[f"norm{i}"]["shift"], isinstance(mode, Train))

    x = torch.tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2)
    x = torch.relu(conv_norm(x, p["stem"], s["stem"], "", 1 if small else 2))
    x = x if small else functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            at, moments = (part[f"stage_{stage}"][f"block_{block}"]["sum"] for part in (p, s))
            stride = 2 if stage and not block else 1
            y, strided = x, 1 if kernels == 3 else 0
            for i in range(kernels):
                y = conv_norm(y, at["layer"], moments["layer"], f"_{i}", stride if i == strided else 1)
                y = torch.relu(y) if i < kernels - 1 else y
            if "shortcut" in at:
                x = conv_norm(x, at["shortcut"], moments["shortcut"], "", stride)
            elif y.shape != x.shape:
                x = functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = torch.relu(x + y)
    return (x.mean((2, 3)) @ p["out"]["weight"] + p["out"]["bias"]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Eval(), Train(KEY)], ids=["eval", "train"])
@pytest.mark.parametrize(("layer", "form"), [(SMALL, (True, 2, (1, 2))), (LARGE, (False, 3, (1, 1)))], ids=["small", "large"])
def test_it_is_the_papers_figure_in_torch(layer, form, mode):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 17, 12, 2)), jnp.float32)  # odd sizes too
    params, state = drawn(layer, x)
    y = jax.jit(layer.apply)(params, state, x, mode)[0]
    expected = by_torch(params, state, x, mode, **dict(zip(("small", "kernels", "stages"), form, strict=True)))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_block_with_a_last_scale_of_zero_is_its_shortcut():
    x = jax.random.normal(KEY, (2, 6, 6, 2))
    spec = array_spec(x.shape, x.dtype)
    layer = models.resnet(3, blocks=(1, 1), widths=(4, 4), small=True, project=False, zero_last=True)
    made = abstract_init(layer, spec)

    @jax.jit
    def both(key):
        """The output, and what is left of the network: the second stage takes every other pixel of the stem."""
        at = layer.init(key, spec)
        stem, _ = dict(layer.chain)["stem"].apply(at.params["stem"], at.state["stem"], x, Eval())
        left = stem[:, ::2, ::2].mean((1, 2)) @ at.params["out"]["weight"] + at.params["out"]["bias"]
        return layer.apply(at.params, at.state, x, Eval())[0], left

    np.testing.assert_allclose(*both(KEY), rtol=1e-5, atol=1e-6)
    assert sum(path.endswith("layer/norm_1/scale") for path in tree.paths(made.params)) == 2
    with pytest.raises(ValueError, match="zero_last needs a norm with a scale"):
        abstract_init(models.resnet(3, blocks=(1,), widths=(4,), norm=nn.group_norm(2, scale=False), zero_last=True), spec)


def test_images_that_it_cannot_take_are_faults():
    bytes_ = array_spec((2, 8, 8, 3), jnp.uint8)
    for spec, kind in ((bytes_, DtypeMismatch), (array_spec((8, 8, 3), jnp.float32), ShapeMismatch)):
        with pytest.raises(FaultError, match="stem/conv") as caught:
            abstract_init(SMALL, spec)
        assert isinstance(caught.value.fault, kind)
    x = jnp.ones((1, 2, 2, 2))
    made = abstract_init(SMALL, array_spec(x.shape, x.dtype))
    assert jax.eval_shape(SMALL.apply, made.params, made.state, x, Eval())[0].shape == (1, 3)
    with pytest.raises(FaultError) as caught:  # one image, which the second stage makes one pixel
        jax.eval_shape(SMALL.apply, made.params, made.state, x, Train(KEY))
    assert isinstance(caught.value.fault, BatchTooSmall)


@pytest.mark.parametrize("wrong", [{"blocks": (1, 1)}, {"blocks": (0,)}, {"widths": ()}, {"blocks": 2}, {"widths": "64"}])
def test_wrong_sizes(wrong):
    with pytest.raises((TypeError, ValueError), match="resnet"):
        models.resnet(3, **({"blocks": (1,), "widths": (4,)} | wrong))
