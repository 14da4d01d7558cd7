"""Plots of data, of schedules, and of the search for a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import ExtraMissing, FaultError, FileUnwritable, LabelOutOfRange, NoDisplay, ShapeMismatch
from fnlamp.given import instance, path_of, several, whole
from fnlamp.optim.schedule import Schedule, checked, table
from fnlamp.train.rates import RateRange

PlotFault = ShapeMismatch | LabelOutOfRange | FileUnwritable | NoDisplay | ExtraMissing
"""The faults of drawing."""


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
        return _drawn(lambda figure: _fill(figure, pixels, titles, rows, columns), file, figsize=(1.6 * columns, 1.8 * rows))

    return Effect.checked(draw)


def schedule(
    schedule: Schedule, steps: int, *, path: str | PathLike[str] | None = None
) -> Effect[Path | None, FileUnwritable | NoDisplay | ExtraMissing]:
    """Draw a schedule's factor at each of `steps` steps; to the file `path`, or on the display without a path.

    The ending of `path` determines the format. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay` if no window can be opened; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import optim
    >>> path = pathlib.Path(tempfile.mkdtemp(), "schedule.svg")
    >>> schedule(optim.warmup(10, optim.cosine(90)), 100, path=path).map(lambda path: path.name).run()
    <IOResult: <Success: schedule.svg>>
    """
    factor, total = checked(schedule), whole("schedule: steps", steps)
    file = None if path is None else Path(path_of(path, "schedule: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(*table(factor, total))
        axes.set(xlabel="step", ylabel="factor of the learning rate")

    return Effect.checked(lambda: _drawn(fill, file))


def rate_range(
    found: RateRange, *, path: str | PathLike[str] | None = None
) -> Effect[Path | None, FileUnwritable | NoDisplay | ExtraMissing]:
    """Draw what `train.learning_rate_range` found: losses over rates, also smoothed, and the suggested and steepest rates.

    It draws to the file `path`, or on the display without a path. The ending of `path` determines the format. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay` if no window can be opened; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import train
    >>> path = pathlib.Path(tempfile.mkdtemp(), "rates.svg")
    >>> rates, losses = np.geomspace(1e-3, 1, 4), np.array([2.0, 1.5, 1.0, 3.0])
    >>> found = train.RateRange(rates, losses, smoothed=losses, diverged=False)
    >>> rate_range(found, path=path).map(lambda path: path.name).run()
    <IOResult: <Success: rates.svg>>
    """
    instance("rate_range: found", found, RateRange, "what train.learning_rate_range found")
    file = None if path is None else Path(path_of(path, "rate_range: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(found.rates, found.losses, alpha=0.3, label="loss of the batch")
        axes.plot(found.rates, found.smoothed, label="smoothed")
        for name, rate, style in (("suggested", found.suggested, "--"), ("steepest", found.steepest, ":")):
            if rate is not None:
                axes.axvline(rate, color="black", linestyle=style, label=f"{name}: {rate:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()

    return Effect.checked(lambda: _drawn(fill, file))


def _drawn(fill: Callable[[Any], None], file: Path | None, **options: Any) -> Path | None:
    """Draw a figure with these options; to the file, or on the display without one."""
    if file is not None:
        figure = need("matplotlib.figure", "plots").Figure(layout="constrained", **options)
        fill(figure)
        _save(figure, file)
        return file
    pyplot = need("matplotlib.pyplot", "plots")
    backends = need("matplotlib.backends", "plots")
    backend = pyplot.get_backend()
    if backend.lower() in backends.backend_registry.list_builtin(backends.BackendFilter.NON_INTERACTIVE):
        raise FaultError(NoDisplay(backend))
    figure = pyplot.figure(layout="constrained", **options)
    try:
        fill(figure)
        pyplot.show()
    finally:
        pyplot.close(figure)
    return None


def _fill(figure: Any, pixels: np.ndarray[Any, Any], titles: list[str], rows: int, columns: int) -> None:
    for position, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if position < len(pixels):
            # Automatic limits would stretch every grey image to black and white.
            axes.imshow(pixels[position], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(titles[position], fontsize="medium", parse_math=False)


def _save(figure: Any, file: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        reason = f"expected an ending of {', '.join(sorted(known))}, got {file.suffix or 'none'}"
        raise FaultError(FileUnwritable(str(file), reason))
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        if isinstance(error, ValueError):
            raise FaultError(FileUnwritable(ascii(str(file))[1:-1], "a file cannot have such a name")) from error
        raise FaultError(FileUnwritable(str(file), error.strerror or type(error).__name__)) from error


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
