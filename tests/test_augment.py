"""Augmentations against NumPy, pixel by pixel, and against the distributions they draw from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fnlamp import augment
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BYTES = RNG.integers(1, 256, (40, 6, 7, 3), np.uint8)
FLOATS = RNG.normal(size=(40, 6, 7, 3)).astype(np.float32)
SMALLEST_P = 1e-6


def fault(function, *arguments):
    with pytest.raises(FaultError) as caught:
        function(*arguments)
    return caught.value.fault


def places(cropped, images, padding, fill=0):
    """The place of each window among all windows of the padded image; every image must have exactly one."""
    (height, width), pad = cropped.shape[1:3], (padding, padding)
    found = []
    for window, image in zip(np.asarray(cropped), images, strict=True):
        padded = np.empty((image.shape[0] + 2 * padding, image.shape[1] + 2 * padding, image.shape[2]), image.dtype)
        padded[:] = fill
        padded[padding : padding + image.shape[0], padding : padding + image.shape[1]] = image
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(0, 1))
        same = (windows.transpose(0, 1, 3, 4, 2) == window).all(axis=(2, 3, 4))
        assert same.sum() == 1, pad
        found.append(np.argwhere(same)[0])
    return np.array(found)


KINDS = [BYTES, FLOATS, BYTES.astype(np.int32), BYTES.astype(jnp.bfloat16)]
WINDOWS = [(2, None, 0), (1, (5, 4), 3), (0, (3, 7), 0), (4, (9, 8), (7, 8, 9))]
PAIRS = [  # each kind and each window; all pairs of them are slow
    pytest.param(images, *window, marks=() if i == j else pytest.mark.slow)
    for i, images in enumerate(KINDS)
    for j, window in enumerate(WINDOWS)
]


@pytest.mark.parametrize(("images", "padding", "size", "fill"), PAIRS)
def test_a_crop_is_a_window_of_the_padded_image(images, padding, size, fill):
    cropped = augment.random_crop(padding, size, fill=fill)(KEY, jnp.asarray(images))
    assert cropped.dtype == images.dtype
    assert cropped.shape == (40, *(size or (6, 7)), 3)
    assert len(np.unique(places(cropped, images, padding, fill), axis=0)) >= 4


def test_every_place_of_a_crop_is_equally_likely():
    images = np.repeat(np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4, 1), 3600, axis=0)
    cropped = augment.random_crop(1)(KEY, jnp.asarray(images))
    found, counts = np.unique(places(cropped, images, 1), axis=0, return_counts=True)
    assert found.tolist() == [[i, j] for i in range(3) for j in range(3)]
    assert scipy.stats.chisquare(counts).pvalue > SMALLEST_P


def test_a_crop_without_padding_is_the_image():
    np.testing.assert_array_equal(augment.random_crop(0)(KEY, BYTES), BYTES)


@pytest.mark.parametrize(("vertical", "axis"), [(False, 2), (True, 1)])
def test_a_flip_is_the_image_or_its_mirror_image(vertical, axis):
    flipped = np.asarray(augment.random_flip(vertical=vertical)(KEY, BYTES))
    mirrored = (flipped == np.flip(BYTES, axis)).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], BYTES[~mirrored])
    assert 5 < mirrored.sum() < 35
    np.testing.assert_array_equal(augment.random_flip(1.0, vertical=vertical)(KEY, BYTES), np.flip(BYTES, axis))
    np.testing.assert_array_equal(augment.random_flip(0.0, vertical=vertical)(KEY, BYTES), BYTES)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_the_rate_of_flips_and_their_independence(rate):
    images = jnp.tile(jnp.array([[[[0], [1]]]], jnp.uint8), (20_000, 1, 1, 1))
    flipped = np.asarray(augment.random_flip(rate)(KEY, images))[:, 0, 0, 0]
    assert scipy.stats.binomtest(int(flipped.sum()), 20_000, rate).pvalue > SMALLEST_P
    together = int((flipped[1:] & flipped[:-1])[::2].sum())  # pairs of neighbours
    assert scipy.stats.binomtest(together, 10_000, rate**2).pvalue > SMALLEST_P


SQUARES = [
    pytest.param(size, images, fill, marks=() if (size % 2 == 1) == (images is FLOATS) == (fill != 0) else pytest.mark.slow)
    for size in (1, 2, 3, 4, 20)
    for images in (BYTES, FLOATS)
    for fill in (0, (10, 20, 30))
]


@pytest.mark.parametrize(("size", "images", "fill"), SQUARES)
def test_cutout_paints_one_clipped_square(size, images, fill):
    cut = np.asarray(augment.cutout(size, fill=fill)(KEY, jnp.asarray(images)))
    assert cut.dtype == images.dtype
    centres = []
    for i in range(len(images)):
        candidates = []
        for row, column in np.ndindex(6, 7):  # the definition: a square around a pixel, cut at the border
            expected = images[i].copy()
            top, left = row - size // 2, column - size // 2
            expected[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = fill
            if (expected == cut[i]).all():
                candidates.append((row, column))
        assert candidates
        centres.append(candidates[0])
    assert size == 20 or len(set(centres)) > 5


def test_every_centre_of_a_cutout_is_equally_likely():
    cut = np.asarray(augment.cutout(1)(KEY, jnp.ones((12_000, 3, 4, 2), jnp.uint8)))
    assert (cut == 0).sum() == 24_000  # one pixel of two channels in each
    assert scipy.stats.chisquare((cut[..., 0] == 0).sum(axis=0).ravel()).pvalue > SMALLEST_P


EVERY = {
    "crop": augment.random_crop(2),
    "crop to a size": augment.random_crop(1, (4, 5)),
    "flip": augment.random_flip(),
    "flip vertical": augment.random_flip(vertical=True),
    "cutout": augment.cutout(3),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_key_alone_decides_and_jit_changes_nothing(name):
    function = EVERY[name]
    a, b, c = (np.asarray(function(jax.random.key(seed), BYTES)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_array_equal(a, jax.jit(function)(jax.random.key(1), BYTES))
    assert jax.eval_shape(function, KEY, BYTES).dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_equal_images_are_treated_differently(name):
    images = jnp.tile(jnp.asarray(BYTES[:1]), (30, 1, 1, 1))
    assert len(np.unique(EVERY[name](KEY, images), axis=0)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_follows_the_pixel(name):
    function = EVERY[name]
    weights = RNG.normal(size=jax.eval_shape(function, KEY, FLOATS).shape).astype(np.float32)
    gradient = jax.grad(lambda x: (weights * function(KEY, x)).sum())(jnp.asarray(FLOATS))
    # The function takes each pixel from one place, or from none, which the pixels' own numbers show.
    number = np.arange(1, FLOATS.size + 1, dtype=np.int32).reshape(FLOATS.shape)
    came_from = np.asarray(function(KEY, jnp.asarray(number)))
    expected = np.zeros(FLOATS.size + 1, np.float32)
    np.add.at(expected, came_from.ravel(), weights.ravel())
    np.testing.assert_allclose(np.asarray(gradient).ravel(), expected[1:], rtol=1e-6)


@pytest.mark.parametrize("mean", [0.25, (0.1, 0.2, 0.3)])
def test_standardize_is_numpys_and_normalize_of_data(mean):
    from fnlamp import data

    std = np.full(np.shape(mean), 0.5).tolist() if np.ndim(mean) else 0.5
    ours = augment.standardize(mean, std)(jnp.asarray(FLOATS))
    np.testing.assert_allclose(ours, (FLOATS.astype(np.float64) - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours, data.normalize(mean, std)(FLOATS))
    assert augment.standardize(mean, std)(jnp.asarray(FLOATS, jnp.bfloat16)).dtype == jnp.bfloat16


def test_standardized_bytes_are_a_fault_and_not_a_number():
    found = fault(augment.standardize(0.5, 0.5), jnp.asarray(BYTES))
    assert isinstance(found, DtypeMismatch) and "rescale" in str(found)
    assert isinstance(fault(augment.standardize((0.5, 0.5), (1, 1)), jnp.asarray(FLOATS)), ShapeMismatch)


@pytest.mark.parametrize("name", EVERY)
def test_images_must_have_four_axes(name):
    found = fault(EVERY[name], KEY, jnp.zeros((6, 7, 3)))
    assert isinstance(found, ShapeMismatch) and "float32[6, 7, 3]" in str(found)


def test_a_window_larger_than_the_padded_image_is_a_fault():
    found = fault(augment.random_crop(1, (9, 5)), KEY, BYTES)
    assert isinstance(found, ShapeMismatch) and found.where == "random_crop"
    assert augment.random_crop(1, (8, 9))(KEY, BYTES).shape == (40, 8, 9, 3)


@pytest.mark.parametrize("make", [lambda fill: augment.random_crop(1, fill=fill), lambda fill: augment.cutout(1, fill=fill)])
def test_a_fill_that_the_dtype_cannot_hold_is_a_fault(make):
    for fill in (0.5, 256, -1, (0, 0, 300), float("nan")):
        assert isinstance(fault(make(fill), KEY, jnp.asarray(BYTES)), DtypeMismatch)
    for fill in ((1, 2), ((1,),)):
        assert isinstance(fault(make(fill), KEY, jnp.asarray(BYTES)), ShapeMismatch)
    assert np.asarray(make(-0.5)(KEY, jnp.asarray(FLOATS))).min() <= -0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: augment.random_crop(-1),
        lambda: augment.random_crop(1, (0, 3)),
        lambda: augment.random_flip(1.5),
        lambda: augment.random_flip(float("nan")),
        lambda: augment.cutout(0),
        lambda: augment.standardize(0.5, 0),
        lambda: augment.standardize((1, 2), 1),
        lambda: augment.standardize(float("inf"), 1),
    ],
)
def test_wrong_arguments_are_bugs(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [(jnp.float32, 1e300), (jnp.float16, 1e6), (jnp.bfloat16, 1e39), (jnp.float32, float("nan")), (jnp.float32, np.inf)],
)
def test_a_fill_that_floats_cannot_hold_is_a_fault(dtype, fill):
    images = jnp.ones((1, 3, 3, 1), dtype)
    for function in (augment.cutout(1, fill=fill), augment.random_crop(1, fill=fill)):
        assert isinstance(fault(function, KEY, images), DtypeMismatch)
    assert augment.cutout(1, fill=6e4)(KEY, images).max() > 5e4
