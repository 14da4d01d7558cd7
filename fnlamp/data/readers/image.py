"""Images in files: one by one, or by a table of names and labels; decoded on access."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from operator import index
from os import PathLike
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from fnlamp.data.option import column_of, path_of, several
from fnlamp.data.readers.csv import records_of
from fnlamp.data.readers.file import LIMIT, open_file, read_all, reading
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import (
    BadCell,
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileFault,
    FileMissing,
    OutOfMemory,
    TooLarge,
    printable,
)
from fnlamp.given import flag, text, whole

Image: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Mode: TypeAlias = Literal["L", "RGB", "RGBA"]
Size: TypeAlias = tuple[int, int]
ImageFault: TypeAlias = FileFault | ExtraMissing

PIXELS: Final = 2**28
_CHANNELS: Final = {"L": 1, "RGB": 3, "RGBA": 4}
_CLASSES: Final = 2**16
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""The formats to decode; Pillow knows more, and starts another program for one of them."""
ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_TURNS: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's `Transpose` for each orientation of EXIF."""


def read_image(
    path: str | PathLike[str], *, mode: Mode = "RGB", size: Size | None = None, limit: int = PIXELS
) -> Effect[Image, ImageFault]:
    """The image in a JPEG, PNG, BMP, GIF, WebP, TIFF or PPM file; the format is detected from the contents, not the name.

    Every image is converted to `mode`: "L" is grey (ITU-R 601's luma), "RGB", or "RGBA". Palettes are looked up; alpha is
    dropped, not blended; of 16 bits per channel the upper 8 are kept, of an animation the first frame; channels of 32 bits,
    whose range is unknown, are a fault. The image is rotated by its EXIF orientation, as viewers show it. With `size`,
    `(height, width)`, it is resized by area-aware bilinear interpolation; a JPEG of more than twice that size is decoded at a
    half, a quarter or an eighth, never below twice the size. The array may be read-only.

    Shapes: `(height, width, channels)` uint8, with 1, 3 or 4 channels. Fails: `FileMissing`; `FileCorrupt`; `TooLarge` for
    more than `limit` bytes of pixels; `ExtraMissing` without the extra `images`. Pillow decodes at most twice
    `PIL.Image.MAX_IMAGE_PIXELS` pixels, whatever the limit; its warnings about files are suppressed.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "two.pgm")
    >>> _ = path.write_bytes(b"P5 2 1 255 " + bytes([7, 255]))
    >>> read_image(path, mode="L").map(lambda image: image[..., 0].tolist()).run()
    <IOResult: <Success: [[7, 255]]>>
    """
    name, shape = path_of(path), checked(mode, size, limit)
    return reading(name, lambda: _decoded(name, mode, shape, limit))


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files, with labels: a data set whose item is `(image, label)`; the image is decoded on access.

    Only names and labels are in memory, so it is small and quick to send to another process. A missing or damaged image
    raises a `FaultError` with `FileMissing`, `FileCorrupt` or `TooLarge`, which names the file. Shapes: `names` `(rows,)`
    bytes, below `root`; `labels` `(rows,)` int32, indices into `classes`; an image `(height, width, channels)` uint8.
    """

    root: str
    names: np.ndarray[Any, Any]
    labels: np.ndarray[Any, np.dtype[np.int32]]
    classes: tuple[str, ...]
    mode: Mode = "RGB"
    size: Size | None = None
    limit: int = PIXELS

    def path(self, position: int) -> str:
        """The path of an image."""
        return os.path.join(self.root, os.fsdecode(self.names[index(position)]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[Image, int]:
        path = self.path(position)
        return _decoded(path, self.mode, self.size, self.limit), int(self.labels[position])

    def __repr__(self) -> str:
        return printable(f"<ImageFiles: {len(self):,} images in {len(self.classes)} classes in {self.root}>")


def image_table(
    table: str | PathLike[str],
    root: str | PathLike[str],
    *,
    file: int | str = 0,
    label: int | str = 1,
    header: bool = True,
    separator: str = ",",
    classes: Sequence[str] | None = None,
    mode: Mode = "RGB",
    size: Size | None = None,
    limit: int = PIXELS,
) -> Effect[ImageFiles, ImageFault]:
    """The images that a CSV file names, each with its label; the files are below `root`, and opened on access.

    `file` and `label` are columns, by position from 0 or by name in the `header`. Labels that are all whole numbers of 0 or
    more, written as 2 or as 2.0, are used as they are; their classes are named "0", "1", ... If any label is not a number, the
    labels are names of classes, numbered in sorted order. Numbers of which any is negative or a fraction are a fault, since
    the number of each class would be a guess. With `classes`, every label must be one of those names. Other options:
    `read_image`.
    Fails: `FileMissing` and `FileCorrupt` for the table; `BadCell` for a row of another width, a name that leads out of
    `root`, and a label that is empty or not one of the classes; `ExtraMissing`. Reference: RFC 4180.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.csv")
    >>> _ = path.write_text("file,kind\\na.png,dog\\nb.png,cat\\n")
    >>> image_table(path, path.parent).map(lambda images: (images.classes, images.labels.tolist())).run()
    <IOResult: <Success: (('cat', 'dog'), [1, 0])>>
    """
    name, top, shape = path_of(table, "table"), path_of(root, "root"), checked(mode, size, limit)
    wanted = (column_of("file", file), column_of("label", label))
    given = None if classes is None else several("classes", classes)
    if given is not None and len(set(given)) < len(given):
        raise ValueError(f"classes have distinct names, got {', '.join(given)}")
    header = flag("header", header)
    if len(text("separator", separator)) != 1 or separator in '"\r\n\0':
        raise ValueError(f"a separator is one character, not a quote or a line end, got {separator!r}")

    def load() -> ImageFiles:
        need("PIL.Image", "images")
        raw = read_all(name, LIMIT).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").rstrip(b"\n")
        records = records_of(name, raw, separator, 1)  # lazily: rows of strings take many times their bytes
        head = next(records, [])
        columns = [_column(name, head, one, header) for one in wanted]
        shown = [head[column] if header else column + 1 for column in columns]
        files, cells, first = [], [], 1 + header
        for number, row in enumerate(records if header else chain([head] if head else [], records), start=first):
            if len(row) != len(head):
                raise FaultError(BadCell(name, number, None, f"{len(head)} cells", f"{len(row)}"))
            files.append(os.fsencode(_inside(name, number, shown[0], row[columns[0]])))
            cells.append(sys.intern(row[columns[1]].strip()))
        if not cells:
            raise FaultError(FileCorrupt(name, "a table with at least one row of a file and its label", f"{int(header)} rows"))
        labels, known = _labels(name, cells, shown[1], first, given)
        return ImageFiles(top, np.array(files), labels, known, mode, shape, limit)

    return reading(name, load)


# ------------------------------------------------------------------------------- one image


def checked(mode: str, size: Size | None, limit: int) -> Size | None:
    """The size as two `int`s.  Raises: for wrong options."""
    whole("limit", limit, 0)
    if not isinstance(mode, str) or mode not in _CHANNELS:
        raise ValueError(f'a mode is "L", "RGB" or "RGBA", got {mode!r}')
    if size is None:
        return None
    try:
        lengths = tuple(map(index, size))
    except TypeError:
        raise TypeError(f"a size is two integers, (height, width), got {size!r}") from None
    if len(lengths) != 2 or min(lengths) < 1:
        raise ValueError(f"a size is (height, width), both 1 or more, got {size!r}")
    return lengths


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings: their subject is in the fault, or harmless.

    `warnings.catch_warnings` would restore the filters of another thread; here the last thread to leave removes one filter.
    """
    global _quiet_threads
    with _QUIET:
        _quiet_threads += 1
        warnings.filterwarnings("ignore", module=_PILLOW)
    try:
        yield
    finally:
        with _QUIET:
            _quiet_threads -= 1
            if not _quiet_threads:
                with suppress(ValueError):
                    warnings.filters.remove(("ignore", None, Warning, re.compile(_PILLOW), 0))  # type: ignore[attr-defined]


_PILLOW: Final = r"PIL\."
_QUIET: Final = threading.Lock()
_quiet_threads = 0


def _decoded(path: str, mode: str, size: Size | None, limit: int) -> Image:
    pillow = need("PIL.Image", "images")
    try:
        with _Clamped(open_file(path).detach()) as file, _quiet():
            _check_length(path, file, limit)
            try:
                with pillow.open(file, formats=_FORMATS) as image:
                    return _pixels(path, image, mode, size, limit, pillow)
            except FaultError:
                raise
            except MemoryError as error:
                raise FaultError(OutOfMemory(path)) from error
            except pillow.DecompressionBombError as error:
                declared = re.search(r"\((\d+) pixels\)", str(error))
                pixels = int(declared[1]) if declared else 2 * pillow.MAX_IMAGE_PIXELS
                if pixels * _CHANNELS[mode] > limit:
                    raise FaultError(TooLarge(path, limit, pixels * _CHANNELS[mode])) from error
                most = f"at most {2 * pillow.MAX_IMAGE_PIXELS:,} pixels, twice Pillow's PIL.Image.MAX_IMAGE_PIXELS"
                raise FaultError(FileCorrupt(path, f"an image of {most}, which can be raised", f"{pixels:,}")) from error
            except Exception as error:  # decoders raise exceptions of any type for a damaged file
                if isinstance(error, OSError) and error.errno in _LOST:
                    raise
                actual = f"one that is damaged ({type(error).__name__}: {_plain(str(error))})"
                if isinstance(error, pillow.UnidentifiedImageError):
                    actual = "something else, or one damaged at its head" if file.seek(0, os.SEEK_END) else "an empty file"
                raise FaultError(FileCorrupt(path, f"an image, {', '.join(_FORMATS)}", actual)) from error
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error


class _Clamped(io.BufferedReader):
    """A file that limits each read to the bytes it has: a read of a damaged length would first allocate all of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _SLACK // 32:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


_LOST: Final = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EMFILE, errno.ENFILE)
"""Errors of the disk or the system; all others are those of a damaged file that makes its decoder seek out of range."""
_SLACK: Final = 2**25
"""Bytes that an image may take beyond four times its limit, for the decoder itself."""


def _check_length(path: str, file: Any, limit: int) -> None:
    """Check the size of a file that Pillow holds in memory against what its pixels may take.  Fails: `TooLarge`."""
    start, length = file.peek(12)[:12], os.fstat(file.fileno()).st_size
    if start[:2] == b"\xff\xd8" or start[8:] == b"WEBP":  # Pillow holds a JPEG's metadata, and all of a WebP
        if length > limit + _SLACK // 4:
            raise FaultError(TooLarge(path, limit, length))
    elif start[:4] == b"\x89PNG" and length > 4 * limit + _SLACK:
        raise FaultError(TooLarge(path, limit, length // 4))


def _plain(message: str) -> str:
    """The first line, without addresses of objects, which differ from run to run."""
    return re.sub(r"<[^>]*>", "the file", message).partition("\n")[0]


def _pixels(path: str, image: Any, mode: str, size: Size | None, limit: int, pillow: Any) -> Image:
    wanted = image.width * image.height * _CHANNELS[mode]
    if wanted > limit:
        raise FaultError(TooLarge(path, limit, wanted))
    held = image.width * image.height * _held(image, _CHANNELS[mode]) + _tile(image)
    if held > 4 * limit + _SLACK:
        raise FaultError(TooLarge(path, limit, held // 4))
    if size is not None and image.format == "JPEG":
        height, width = size[::-1] if _orientation(image) >= 5 else size
        image.draft(None, (2 * width, 2 * height))
    image.load()
    turn = _orientation(image)  # only now: Pillow itself rotates a TIFF on load
    image = _converted(path, image, mode, pillow)
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], pillow.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _held(image: Any, channels: int) -> int:
    """Bytes per pixel while an image is decoded, converted and copied into an array."""
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    converted = 3 * stored if image.mode.startswith("I") else 4 if "transparency" in image.info else 0
    coefficients = 8 if image.info.get("progressive") else 0
    return stored + max(converted + 2 * channels, coefficients)


def _tile(image: Any) -> int:
    """Bytes of a TIFF's tile, which may be larger than the image."""
    tags = getattr(image, "tag_v2", None) or {}
    sides = [tags.get(tag, 0) for tag in (322, 323)]
    return 4 * math.prod(side if isinstance(side, int) else 0 for side in sides)


def _orientation(image: Any) -> int:
    """The EXIF orientation; 1, unrotated, if the EXIF data is damaged, which does not affect the pixels."""
    try:
        turn = image.getexif().get(0x0112, 1)
        return turn if turn in _TURNS else 1
    except Exception:  # Pillow's readers of EXIF raise errors of every kind
        return 1


def _converted(path: str, image: Any, mode: str, pillow: Any) -> Any:
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise FaultError(FileCorrupt(path, "pixels of 8 or 16 bits a channel", f"pixels of 32 bits (mode {image.mode})"))
    if image.mode.startswith("I"):  # Pillow would cut at 255
        image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


# ------------------------------------------------------------------------------- many images


def packed(names: list[str]) -> np.ndarray[Any, Any]:
    """Names as one array of bytes, which takes a fraction of the memory of strings, and is one object to send."""
    return np.array([os.fsencode(name) for name in names])


def _column(path: str, head: list[str], column: int | str, header: bool) -> int:
    if isinstance(column, int) and 0 <= column < len(head):
        return column
    if isinstance(column, str) and header and head.count(column) == 1:
        return head.index(column)
    actual = f"the columns {', '.join(head)}" if header else f"{len(head)} columns without names"
    raise FaultError(FileCorrupt(path, f"one column {column!r}", actual))


def _inside(path: str, row: int, column: str | int, name: str) -> str:
    """The normalized name of a file below the root.  Fails: `BadCell`."""
    plain = os.path.normpath(name)
    leads_out = os.path.isabs(plain) or plain == os.pardir or plain.startswith(os.pardir + os.sep)
    if not name.strip() or "\0" in name or plain == os.curdir or leads_out:
        raise FaultError(BadCell(path, row, column, "the name of a file below the root", repr(name)))
    return plain


def _labels(
    path: str, cells: list[str], column: str | int, first: int, classes: Sequence[str] | None
) -> tuple[np.ndarray[Any, np.dtype[np.int32]], tuple[str, ...]]:
    if classes is None and all(_NUMBER.fullmatch(cell) for cell in cells):
        numbers = np.array([float(cell) for cell in cells])
        # Renumbering would be silently wrong. A large identifier is not a class: a model's output would have to be that wide.
        bad = np.flatnonzero(~((numbers >= 0) & (numbers < _CLASSES) & (numbers % 1 == 0)))
        if len(bad):
            expected = f"a class, a whole number from 0 to {_CLASSES - 1:,} (or give classes=[...], the names of all)"
            raise FaultError(BadCell(path, first + int(bad[0]), column, expected, repr(cells[bad[0]])))
        labels = numbers.astype(np.int32)
        return labels, tuple(str(i) for i in range(int(labels.max()) + 1))
    known = tuple(sorted(set(cells))) if classes is None else tuple(classes)
    number = {name: i for i, name in enumerate(known)}
    for row, cell in enumerate(cells, start=first):
        if not cell or cell not in number:
            expected = "a label" if classes is None else f"one of {', '.join(known)}"
            raise FaultError(BadCell(path, row, column, expected, repr(cell) if cell else "an empty cell"))
    return np.array([number[cell] for cell in cells], np.int32), known
