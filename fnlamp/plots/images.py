"""Plots of images."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fnlamp.effect import Effect
from fnlamp.fault import FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.given import path_of, several, whole
from fnlamp.plots.draw import PlotFault, drawn


def show_images(
    images: Any,
    labels: Any = None,
    *,
    rows: int = 5,
    columns: int = 5,
    path: str | PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Effect[Path | None, PlotFault]:
    """Draw the first images as a grid, with labels above them; to the file `path`, or on the display without a path.

    Integers range from 0, black, to 255; other numbers from 0 to 1, or, if any is outside, as in normalised images, from the
    smallest to the largest drawn. Numbers that are not finite are black. One channel is grey. `labels` are numbers or text;
    with `classes`, numbers of classes, whose names are shown. The ending of `path` determines the format. Yields the path.
    Shapes: `images` `(n, height, width)` or `(n, height, width, channels)` with 1, 3 or 4 channels, `labels` `(n,)`.
    Fails: `ShapeMismatch`; `LabelOutOfRange`; `FileUnwritable`; `NoDisplay` if no window can be opened; `ExtraMissing`
    without the extra `plots`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "grid.png")
    >>> show_images(np.zeros((3, 8, 8), np.uint8), [4, 1, 7], path=path).map(lambda path: path.name).run()
    <IOResult: <Success: grid.png>>
    """
    rows, columns = whole("the grid's rows", rows), whole("the grid's columns", columns)
    file = None if path is None else Path(path_of(path, "show_images: path"))
    names = None if classes is None else several("show_images: classes", classes)

    def draw() -> Path | None:
        pixels = _pixels(images, rows * columns)
        titles = _titles(labels, len(images), len(pixels), names)
        return drawn(lambda figure: _fill(figure, pixels, titles, rows, columns), file, figsize=(1.6 * columns, 1.8 * rows))

    return Effect.checked(draw)


def _fill(figure: Any, pixels: np.ndarray[Any, Any], titles: list[str], rows: int, columns: int) -> None:
    for position, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if position < len(pixels):
            # Automatic limits would stretch every grey image to black and white.
            axes.imshow(pixels[position], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(titles[position], fontsize="medium", parse_math=False)


def _pixels(images: Any, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first `count` images as bytes. Shapes: `(n, height, width)` or `(n, height, width, 3 or 4)`."""
    array = _array(images, "images of one size")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3, 4)) or not all(array.shape[1:]):
        expected = "images (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels"
        raise FaultError(ShapeMismatch(expected, f"{array.dtype}{list(array.shape)}", where="show_images"))
    if array.dtype.kind not in "buif" and array.dtype.name != "bfloat16":
        raise FaultError(ShapeMismatch("images of numbers", f"{array.dtype}{list(array.shape)}", where="show_images"))
    array = array[:count, ..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array[:count]
    if array.dtype == np.uint8:
        return array
    numbers = array.astype(np.float64)
    finite = np.isfinite(numbers)
    low, high = numbers.min(initial=np.inf, where=finite), numbers.max(initial=-np.inf, where=finite)
    most = 255 if array.dtype.kind in "ui" else 1
    if low >= 0 and high <= most:
        low, high = 0.0, most
    scaled = (np.where(finite, numbers, low) - low) / (high - low) if high > low else np.zeros(array.shape)
    return np.asarray(np.rint(255 * scaled), np.uint8)


def _array(given: Any, expected: str) -> np.ndarray[Any, Any]:
    """The array, also from a torch tensor that requires a gradient.  Fails: `ShapeMismatch`."""
    try:
        return np.asarray(given.detach() if hasattr(given, "detach") else given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FaultError(ShapeMismatch(expected, "something else", "put them in one array", where="show_images")) from error


def _titles(labels: Any, rows: int, count: int, classes: Sequence[str] | None) -> list[str]:
    if labels is None:
        return [""] * count
    given = _array(labels, f"a label for each of {rows:,} images")
    if given.shape != (rows,):
        raise FaultError(ShapeMismatch(f"a label for each of {rows:,} images", f"{list(given.shape)}", where="show_images"))
    if classes is None:
        return [str(label) for label in given[:count].tolist()]
    if given.dtype.kind not in "ui":
        raise FaultError(ShapeMismatch("numbers of classes", f"labels of {given.dtype}", where="show_images"))
    for row, label in enumerate(given[:count].tolist()):
        if not 0 <= label < len(classes):
            raise FaultError(LabelOutOfRange(label, len(classes), row, where="show_images"))
    return [str(classes[label]) for label in given[:count].tolist()]
