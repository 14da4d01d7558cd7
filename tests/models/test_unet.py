"""unet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import value

from fnlamp import loss, models, optim, stream, train, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)


def by_torch(params, state, x, mode, resized):
    """The paper's figure 1, padded, in torch's functions and in float64; with batch statistics in `Train`."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    p, s = (jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64)), part) for part in (params, state))

    def conv(x, at, **options):
        return functional.conv2d(x, at["weight"].permute(3, 2, 0, 1), at.get("bias"), **options)

    def twice(x, at, s):
        for i in range(2):
            x = conv(x, at[f"conv_{i}"], padding=1)
            if f"norm_{i}" in at:
                norm, moments = at[f"norm_{i}"], (s[f"norm_{i}"]["mean"].clone(), s[f"norm_{i}"]["variance"].clone())
                x = functional.batch_norm(x, *moments, norm["scale"], norm["shift"], isinstance(mode, Train))
            x = torch.relu(x)
        return x

    def level(x, at, s):
        if "down" not in at:
            return twice(x, at, s)
        skip = twice(x, at["down"], s.get("down"))
        below = at["both"]["below"]
        y = level(functional.max_pool2d(skip, 2), below["net"], s.get("both", {}).get("below", {}).get("net", {}))
        if resized:
            y = functional.interpolate(y, scale_factor=2, mode="bilinear")
            y = conv(y, below["up"]["conv"])
        else:
            y = functional.conv_transpose2d(y, below["up"]["weight"].permute(2, 3, 0, 1), below["up"]["bias"], stride=2)
        return twice(torch.cat([skip, y], 1), at["again"], s.get("again"))

    y = level(torch.tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2), p["net"], s.get("net", {}))
    return conv(y, p["out"]).permute(0, 2, 3, 1).numpy()


FORMS = {
    "Eval": ({}, Eval()),
    "Train": ({}, Train(KEY)),
    "resized, without a norm": ({"resized": True, "norm": None}, Eval()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_it_is_the_papers_figure_in_torch(name):
    options, mode = FORMS[name]
    layer, rng = models.unet(2, widths=(3, 4, 5), **options), np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 8, 12, 2)), jnp.float32)
    made = abstract_init(layer, array_spec(x.shape, x.dtype))
    params = jax.tree.map(lambda p: jnp.asarray(0.5 * rng.standard_normal(p.shape), jnp.float32), made.params)
    state = jax.tree.map(lambda p: jnp.asarray(rng.uniform(0.5, 1.5, p.shape), jnp.float32), made.state)
    expected = by_torch(params, state, x, mode, options.get("resized", False))
    found = jax.jit(layer.apply)(params, state, x, mode)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_papers_widths_have_the_known_number_of_parameters():
    """31,037,633 are those of A. Milesi's form in torch, for three channels and one class."""
    made = abstract_init(models.unet(1), array_spec((1, 48, 32, 3), jnp.float32))
    assert tree.count(made.params) == 31_037_633
    assert made.spec.shape == (1, 48, 32, 1)


def test_images_that_it_cannot_take_are_faults():
    layer = models.unet(2, widths=(2, 3, 4))
    made = abstract_init(layer, array_spec((1, 8, 8, 1), jnp.float32))
    for shape in ((1, 8, 10, 1), (1, 7, 8, 1)):
        for call in (lambda x: layer.init(KEY, x), lambda x: layer.apply(made.params, made.state, x, Eval())):
            with pytest.raises(FaultError, match="whose height and width 4 divides.*pad them to 8 x ") as caught:
                call(array_spec(shape, jnp.float32))
            assert isinstance(caught.value.fault, ShapeMismatch)
    for spec, kind in (((8, 8, 1), jnp.float32), ShapeMismatch), (((1, 8, 8, 1), jnp.uint8), DtypeMismatch):
        with pytest.raises(FaultError) as caught:
            abstract_init(layer, array_spec(*spec))
        assert isinstance(caught.value.fault, kind)


@pytest.mark.slow
def test_it_overfits_a_tiny_segmentation():
    """Discs on noise: every pixel of eight images, 255 where the label is unknown."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    centres = rng.integers(4, 12, (8, 2, 1, 1))
    labels = (((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) < 10).astype(np.int32)
    images = (labels + 0.3 * rng.standard_normal(labels.shape)).astype(np.float32)[..., None]
    labels[:, 0] = 255
    program = train.epochs(
        model=train.supervised(models.unet(2, widths=(8, 16)), loss.cross_entropy(ignored=255)),
        optimizer=optim.adamw(0.01),
        train_batches=lambda context: stream.minibatches(images, labels, batch_size=4, seed=context.seed),
        epochs=40,
    )
    predicted = np.argmax(value(program).predict(images), -1)
    assert (predicted == labels)[:, 1:].all()
