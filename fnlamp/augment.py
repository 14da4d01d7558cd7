"""Augmentation on the device: pure functions of a key and a batch of images, each image by itself, and the layer of them.

Images are `(batch, height, width, channels)` of any dtype, which is kept: bytes stay bytes until the model casts them. The
layer `in_training` makes the functions part of the model, and so of the compiled step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, describe, is_float, spec_after
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import flag, number, shown, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode, Train

Augmentation: TypeAlias = Callable[[Key, Array], Array]
"""`(key, images) -> images`, pure."""
Pixel: TypeAlias = float | Sequence[float]
"""One number for all channels, or one for each."""


def in_training(*functions: Callable[[Key, Any], Any]) -> Layer:
    """A layer that applies functions of a key and a batch, such as those of this module, one after the other in training.

    `Train` derives a key for each function from its position; `Eval` is the identity. `standardize`, which both modes need, is
    a separate layer. Shapes: unchanged.
    Fails: `ShapeMismatch` for a function that changes shape or dtype, which `Eval` would not do.

    >>> in_training(random_crop(4), random_flip()) >> nn.rescale(1 / 255)
    in_training(crop, flip) >> rescale(0.00392157)
    """
    for position, function in enumerate(functions):
        # A public function of this module makes an augmentation; the augmentation is defined inside of it.
        maker = getattr(function, "__module__", "") == __name__ and "<locals>" not in function.__qualname__
        if maker or not callable(function):
            expected = "functions (key, images) -> images, such as fnlamp.augment.random_flip()"
            hint = "; call it, it makes one" if maker else ""
            raise TypeError(f"in_training: functions: expected {expected}, got {shown(function)} at {position}{hint}")

    def all_of(mode: Train, x: Any) -> Any:
        for position, one in enumerate(functions):
            x = one(mode.inside(str(position)).key, x)
        return x

    def init(key: Key, spec: Spec) -> Init:
        after = spec_after(lambda key, x: all_of(Train(key), x), key, spec)
        if describe(after) != describe(spec):
            hint = "an augmentation keeps shape and dtype: evaluating leaves it out"
            raise FaultError(ShapeMismatch(describe(spec), describe(after), hint, where="in_training"))
        return Init({}, {}, spec, {})

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del params
        return (all_of(mode, x) if isinstance(mode, Train) else x), state

    names = [getattr(one, "__name__", type(one).__name__) for one in functions]
    return Layer(init, apply, f"in_training({', '.join(names)})")


def random_crop(padding: int, size: tuple[int, int] | None = None, *, fill: Pixel = 0) -> Augmentation:
    """A window of each image, padded on all sides by `padding` pixels of `fill`; every place is equally likely.

    `size` is the window's `(height, width)`, the image's own if not given. Shapes: `(batch, height, width, channels)`, with
    the window's height and width after it. Fails: `ShapeMismatch` for a window larger than the padded image;
    `DtypeMismatch` for a `fill` that the dtype does not hold. Reference: Krizhevsky 2009; He et al. 2015, section 4.2.

    >>> random_crop(1)(jax.random.key(0), jnp.ones((2, 3, 3, 1), jnp.uint8)).shape
    (2, 3, 3, 1)
    """
    padding = whole("random_crop: padding", padding, None)
    if size is not None:
        size = _height_and_width("random_crop: size", size)
    _checked_pixel("random_crop: fill", fill, 2)
    if padding < 0 or (size is not None and (len(size) != 2 or min(size) < 1)):
        raise ValueError(f"random_crop needs padding >= 0 and a size of 1 or more, got padding {padding} and size {size}")

    def crop(key: Key, images: Array) -> Array:
        batch, height, width, channels = _shape("random_crop", images)
        window = (height, width) if size is None else size
        room = (height + 2 * padding - window[0], width + 2 * padding - window[1])
        if min(room) < 0:
            expected = f"images of at least {list(window)} with the padding of {padding}"
            raise FaultError(ShapeMismatch(expected, f"{[height, width]}", where="random_crop"))
        space = (batch, height + 2 * padding, width + 2 * padding, channels)
        around = jnp.broadcast_to(_pixel("random_crop", fill, images), space)
        padded = jax.lax.dynamic_update_slice(around, images, (0, padding, padding, 0))
        corners = _places(key, batch, (room[0] + 1, room[1] + 1))
        # The fastest of a dozen ways on a CPU: gathers by index, products and selections take up to thirty times as long.
        return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), (*window, channels)))(padded, corners)

    return crop


def random_flip(rate: float = 0.5, *, vertical: bool = False) -> Augmentation:
    """Each image mirrored with probability `rate`, left to right, or upside down if `vertical`.

    Shapes: `(batch, height, width, channels)`, kept.

    >>> random_flip(1.0)(jax.random.key(0), jnp.array([[[[1], [2]]]]))[0, 0, :, 0]
    Array([2, 1], dtype=int32)
    """
    rate = number("random_flip: rate", rate, "a probability", lambda rate: 0 <= rate <= 1)
    vertical = flag("random_flip: vertical", vertical)

    def flip(key: Key, images: Array) -> Array:
        batch = _shape("random_flip", images)[0]
        flipped = jax.random.bernoulli(key, rate, (batch,))
        return jnp.where(flipped[:, None, None, None], jnp.flip(images, 1 if vertical else 2), images)

    return flip


def cutout(size: int, *, fill: Pixel = 0) -> Augmentation:
    """A square of `size` pixels painted over with `fill` in each image.

    Its centre is any pixel of the image, equally likely, so that at the border less than a square is painted over.
    Shapes: `(batch, height, width, channels)`, kept. Fails: `DtypeMismatch` for a `fill` that the dtype does not hold.
    Reference: DeVries & Taylor 2017, section 3.2.

    >>> cutout(1)(jax.random.key(0), jnp.ones((1, 2, 2, 1), jnp.uint8)).sum()
    Array(3, dtype=uint32)
    """
    size = whole("cutout: size", size)
    _checked_pixel("cutout: fill", fill, 2)

    def cut(key: Key, images: Array) -> Array:
        batch, height, width, channels = _shape("cutout", images)
        row, column = jnp.split(_places(key, batch, (height, width)) - size // 2, 2, axis=1)
        # Pixels and channels as one axis, which XLA takes in whole registers: half the time on a CPU.
        rows, columns = jnp.arange(height)[None] - row, (jnp.arange(width * channels) // channels)[None] - column
        inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
        paint = jnp.broadcast_to(_pixel("cutout", fill, images), (width, channels)).reshape(width * channels)
        return jnp.where(inside, paint[None, None], images.reshape(batch, height, width * channels)).reshape(images.shape)

    return cut


def standardize(mean: Pixel, std: Pixel) -> Callable[[Array], Array]:
    """`(images - mean) / std`, channel by channel. It is not random and takes no key: as a layer, `nn.fun(standardize(...))`.

    `fnlamp.data.normalize` does the same to single images on the host. Shapes: `(..., channels)`, kept.
    Fails: `DtypeMismatch` for integers; `ShapeMismatch` for another number of channels.

    >>> standardize(mean=0.5, std=0.25)(jnp.array([[0.0, 0.5, 1.0]]))
    Array([[-2.,  0.,  2.]], dtype=float32)
    """
    means, stds = _checked_pixel("standardize: mean", mean), _checked_pixel("standardize: std", std)
    if len(means) != len(stds) or not np.isfinite(means + stds).all() or min(stds) <= 0:
        raise ValueError(f"standardize needs as many finite means as deviations above 0, got mean={mean} and std={std}")

    def standardize(images: Array) -> Array:
        if not is_float(images):
            hint = "put nn.rescale(1 / 255) before it"
            raise FaultError(DtypeMismatch("floating-point pixels", str(images.dtype), hint, where="standardize"))
        if len(means) > 1 and (not images.ndim or images.shape[-1] != len(means)):
            raise FaultError(ShapeMismatch(f"{len(means)} channels on the last axis", describe(images), where="standardize"))
        mean, deviation = (along_last(jnp.array(x, images.dtype), max(images.ndim, 1)) for x in (means, stds))
        return ((images - mean) / deviation).reshape(images.shape)

    return standardize


def _places(key: Key, batch: int, below: tuple[int, int]) -> Array:
    return jax.random.randint(key, (batch, 2), 0, jnp.broadcast_to(jnp.array([below]), (batch, 2)))


def _shape(name: str, images: Array) -> tuple[int, int, int, int]:
    if images.ndim != 4:
        raise FaultError(ShapeMismatch("images (batch, height, width, channels)", describe(images), where=name))
    batch, height, width, channels = images.shape
    return batch, height, width, channels


def _checked_pixel(name: str, pixel: Any, axes: int = 1) -> tuple[float, ...]:
    """One number, or one for each channel, as floats.  Raises: `TypeError` for anything else."""
    given = np.asarray(pixel) if isinstance(pixel, int | float | tuple | list) or hasattr(pixel, "shape") else np.array(None)
    if given.ndim > axes or given.dtype.kind not in "iuf" or isinstance(pixel, bool):
        raise TypeError(f"{name} is a number, or a list of one for each channel, got {shown(pixel)}")
    return tuple(given.astype(np.float64).reshape(-1).tolist())


def _height_and_width(name: str, size: Any) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise TypeError(f"{name} is (height, width), got {shown(size)}")
    return whole(f"{name}[0]", size[0]), whole(f"{name}[1]", size[1])


def _pixel(name: str, fill: Pixel, images: Array) -> Array:
    """The pixel in the images' dtype, which must hold it."""
    given = np.asarray(fill)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != images.shape[-1]):
        expected = f"one number to fill with, or {images.shape[-1]}"
        raise FaultError(ShapeMismatch(expected, f"{list(given.shape)}", "one for each channel", where=name))
    if not is_float(images):
        bounds = np.iinfo(images.dtype) if images.dtype != bool else None
        low, high = (0, 1) if bounds is None else (bounds.min, bounds.max)
        if (given != np.round(given)).any() or (given < low).any() or (given > high).any():
            raise FaultError(DtypeMismatch(f"whole numbers to fill with, from {low} to {high}", f"{fill}", where=name))
    elif not (np.abs(given) <= float(jnp.finfo(images.dtype).max)).all():  # type: ignore[no-untyped-call]
        expected = f"finite numbers to fill with, that {images.dtype} holds"
        raise FaultError(DtypeMismatch(expected, f"{fill}", where=name))
    return jnp.asarray(given, images.dtype)
