"""Pixels from the bytes of an image file, by Pillow, within a limit of memory."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import index
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from fnlamp.data.readers.file import open_file
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, OutOfMemory, TooLarge
from fnlamp.given import whole

Image: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Mode: TypeAlias = Literal["L", "RGB", "RGBA"]
Size: TypeAlias = tuple[int, int]

PIXELS: Final = 2**28
_CHANNELS: Final = {"L": 1, "RGB": 3, "RGBA": 4}
_FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""The formats to decode; Pillow knows more, and starts another program for one of them."""
_TRANSPOSES: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's `Transpose` for each orientation of EXIF."""


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


def decoded(path: str, mode: str, size: Size | None, limit: int) -> Image:
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
    orientation = _orientation(image)  # only now: Pillow itself rotates a TIFF on load
    image = _converted(path, image, mode, pillow)
    if orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[orientation])
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
        orientation = image.getexif().get(0x0112, 1)
        return orientation if orientation in _TRANSPOSES else 1
    except Exception:  # Pillow's readers of EXIF raise errors of every kind
        return 1


def _converted(path: str, image: Any, mode: str, pillow: Any) -> Any:
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise FaultError(FileCorrupt(path, "pixels of 8 or 16 bits per channel", f"pixels of 32 bits (mode {image.mode})"))
    if image.mode.startswith("I"):  # Pillow would cut at 255
        image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
