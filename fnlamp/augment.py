"""Augmentation on the device: pure functions of a key and a batch of images, and the layer of those for each image by itself.

Images are `(batch, height, width, channels)` of any dtype, which is kept: bytes stay bytes until the model casts them. The
layer `in_training` makes the functions part of the model, and so of the compiled step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, describe, is_float, is_integer, spec_after, wide
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, number, shown, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode, Train

Augmentation: TypeAlias = Callable[[Key, Array], Array]
"""`(key, images) -> images`, pure."""
Mixing: TypeAlias = Callable[[Key, Any], tuple[Array, Array]]
"""`(key, (features, target)) -> (features, target)`, pure."""
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
        centre = _places(key, batch, (height, width))
        # Pixels and channels as one axis, which XLA takes in whole registers: half the time on a CPU.
        columns = jnp.arange(width * channels) // channels
        inside = _within(jnp.arange(height), centre[:, 0], size)[:, :, None] & _within(columns, centre[:, 1], size)[:, None, :]
        paint = jnp.broadcast_to(_pixel("cutout", fill, images), (width, channels)).reshape(width * channels)
        return jnp.where(inside, paint[None, None], images.reshape(batch, height, width * channels)).reshape(images.shape)

    return cut


@arguments("the numbers of the distribution and of the classes: augment.mixup(0.2, classes=10)")
def mixup(alpha: float, *, classes: int | None = None) -> Mixing:
    """Each row of a batch `(features, target)` mixed with another, its target likewise: `w row + (1 - w) other`.

    w is drawn from Beta(alpha, alpha) for each row, and the others are the rows in a random order; a row may meet itself, as
    that of a batch of one does.  `classes` is the number of them for integer targets, which become probabilities, as
    `loss.cross_entropy` takes; a label that is not a class makes the row NaN.  Other targets are mixed as they are.
    `train.augmented` makes it part of the step.  Training metrics are given the mixed targets.
    Shapes: features `(batch, ...)`, kept, integers as float32; target `(batch,)` to `(batch, classes)`, or `(batch, ...)`.
    Fails: `ShapeMismatch` for other batches; `DtypeMismatch` for integer targets without `classes`.
    Reference: Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2.

    >>> x, y = mixup(0.2, classes=3)(jax.random.key(0), (jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])))
    >>> x.shape, y.shape, bool((abs(y.sum(-1) - 1) < 1e-6).all())
    ((4, 2), (4, 3), True)
    """
    share, known = _mixing("mixup", alpha, classes)

    def mixup(key: Key, batch: Any) -> tuple[Array, Array]:
        x, target = _features_and_target("mixup", batch, known)
        weight, other = _chances(key, x.shape[0], share)
        return _mixed(x, other, weight), _mixed(target, other, weight)

    return mixup


@arguments("the numbers of the distribution and of the classes: augment.cutmix(1.0, classes=10)")
def cutmix(alpha: float = 1.0, *, classes: int | None = None) -> Mixing:
    """A rectangle of each image from another image of the batch; the target is mixed by the area that it covers.

    With v from Beta(alpha, alpha) the rectangle has `sqrt(1 - v)` of the height and of the width, rounded down, around any
    pixel, equally likely; it is cut at the border, and w is the share of the image that stays.  Others, targets and faults as
    `mixup`.
    Shapes: images `(batch, height, width, channels)` of any dtype, kept; target `(batch,)` to `(batch, classes)`.
    Reference: Yun et al. 2019, "CutMix", eq. 1 and 2.

    >>> x, y = cutmix(classes=2)(jax.random.key(0), (jnp.zeros((3, 4, 4, 1), jnp.uint8), jnp.array([0, 1, 1])))
    >>> x.dtype, y.shape
    (dtype('uint8'), (3, 2))
    """
    share, known = _mixing("cutmix", alpha, classes)

    def cutmix(key: Key, batch: Any) -> tuple[Array, Array]:
        images, target = _features_and_target("cutmix", batch, known)
        count, height, width, _ = _shape("cutmix", images)
        chances, places = jax.random.split(key)
        value, other = _chances(chances, count, share)
        side, centre = jnp.sqrt(1 - value)[:, None], _places(places, count, (height, width))
        rows = _within(jnp.arange(height), centre[:, 0], (height * side).astype(centre.dtype))
        columns = _within(jnp.arange(width), centre[:, 1], (width * side).astype(centre.dtype))
        covered, mask = rows.sum(1) * columns.sum(1), rows[:, :, None, None] & columns[:, None, :, None]
        weight = 1 - covered.astype(np.float32) / (height * width)
        return jnp.where(mask, images[other], images), _mixed(target, other, weight)

    return cutmix


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


def _mixing(name: str, alpha: float, classes: int | None) -> tuple[float, int | None]:
    return number(f"{name}: alpha", alpha, "a number above 0", lambda a: a > 0), (
        None if classes is None else whole(f"{name}: classes", classes, 2)
    )


def _features_and_target(name: str, batch: Any, classes: int | None) -> tuple[Array, Array]:
    """Both as arrays with the same rows; integer targets as probabilities, NaN for a label that is not a class."""
    parts = batch if isinstance(batch, tuple | list) else ()
    if len(parts) != 2 or not all(getattr(x, "shape", ()) for x in parts) or parts[0].shape[0] != parts[1].shape[0]:
        hint = "give the function to train.augmented, as the gradient of epochs"
        raise FaultError(ShapeMismatch("a batch (features, target) of arrays", describe(batch), hint, where=name))
    x, target = map(jnp.asarray, parts)
    if is_integer(target) and classes is not None and target.ndim == 1:
        label = target[:, None] == jnp.arange(classes, dtype=target.dtype)[None]
        return x, jnp.where(label.any(1, keepdims=True), label.astype(np.float32), np.float32(np.nan))
    if not is_float(target):
        hint = f"write {name}(alpha, classes=10) for labels of shape (batch,)"
        raise FaultError(
            DtypeMismatch("floating-point targets, or labels and their classes", describe(target), hint, where=name)
        )
    return x, target


def _chances(key: Key, rows: int, alpha: float) -> tuple[Array, Array]:
    """A number from Beta(alpha, alpha) and another row, for each row."""
    value, order = jax.random.split(key)
    return jax.random.beta(value, alpha, alpha, (rows,), np.float32), jax.random.permutation(order, rows)


def _mixed(x: Array, other: Array, weight: Array) -> Array:
    """`w x + (1 - w) x[other]`, exactly x where both are the same."""
    dtype = wide(x)
    one, two = x.astype(dtype), x[other].astype(dtype)
    y = two + weight.astype(dtype).reshape(-1, *(1,) * (x.ndim - 1)) * (one - two)
    return y.astype(x.dtype) if is_float(x) else y


def _within(places: Array, centre: Array, size: Any) -> Array:
    """Which places of an axis lie in a window of that size around each centre.  Shapes: `(batch, places)`."""
    at = places[None] - (centre[:, None] - size // 2)
    inside: Array = (at >= 0) & (at < size)
    return inside


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
