"""MNIST's IDX format: a magic number, the lengths of the axes, the numbers, all big-endian; packed with gzip or not."""

from __future__ import annotations

import struct
from os import PathLike
from typing import Any, Final

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, File, opened, read_array, reading
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileFault

_DTYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[np.ndarray[Any, Any], FileFault]:
    """The array in an IDX file, in its own dtype and native byte order; nothing is opened before the program is run.

    Gzip is detected from the first bytes; `limit` is how many bytes the file may unpack to. Shapes: as in the file.
    Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, or bytes after the end; `TooLarge`.
    Source: the description of the format on LeCun, Cortes & Burges' MNIST page.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels-idx1-ubyte")
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> read_idx(path).run()
    <IOResult: <Success: [7 8 9]>>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> np.ndarray[Any, Any]:
        with opened(name) as (file, most):
            return _parse(name, file, most, limit)

    return reading(name, load)


def _parse(path: str, file: File, most: int, limit: int | None) -> np.ndarray[Any, Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        actual = magic.hex(" ") or "an empty file"
        raise FaultError(
            FileCorrupt(path, "an IDX file's magic number: 00 00, a dtype from 08 to 0e, the number of axes", actual)
        )
    dtype, axes = np.dtype(_DTYPES[magic[2]]), magic[3]
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise FaultError(FileCorrupt(path, f"a header with {axes} lengths", f"a file of {4 + len(lengths)} bytes"))
    if not 1 <= axes <= 64:
        raise FaultError(FileCorrupt(path, "1 to 64 axes, as an array can have", f"{axes}"))
    shape = struct.unpack(f">{axes}I", lengths)
    return read_array(path, file, most - 4 - len(lengths), dtype, shape, limit)
