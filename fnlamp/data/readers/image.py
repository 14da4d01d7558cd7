"""Images in files: one by one, or by a table of names and labels; decoded on access."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from os import PathLike
from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.data.option import column_of, path_of, several
from fnlamp.data.readers.csv import records_of
from fnlamp.data.readers.decode import PIXELS, Image, Mode, Size, checked, decoded
from fnlamp.data.readers.file import LIMIT, read_all, reading
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import (
    BadCell,
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileFault,
    printable,
)
from fnlamp.given import flag, text

ImageFault: TypeAlias = FileFault | ExtraMissing

_CLASSES: Final = 2**16
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


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
    return reading(name, lambda: decoded(name, mode, shape, limit))


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
        return decoded(path, self.mode, self.size, self.limit), int(self.labels[position])

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
