"""The IDX format of MNIST: a magic number, the lengths of the axes, the numbers, all big-endian; packed with gzip or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

import numpy as np

from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileFault, FileMissing

_DTYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | PathLike[str]) -> Effect[np.ndarray[Any, Any], FileFault]:
    """The array in an IDX file, in its own dtype and native byte order; nothing is opened before the program is run.

    Whether the file is packed is told by its first bytes. Shapes: as the file says.
    Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, or bytes after the end.
    Source: the format's description on LeCun, Cortes & Burges' page of MNIST.
    """
    name = fspath(path)
    return Effect.attempt(lambda: _parse(name, read_bytes(name)), FaultError, lambda error: error.fault)  # type: ignore[arg-type, return-value]


def read_bytes(path: str) -> bytes:
    """The contents of a file, unpacked if it begins as gzip does.  Fails: `FileMissing`, `FileCorrupt`."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise FaultError(FileCorrupt(path, "an intact gzip stream", str(error))) from error


def _parse(path: str, raw: bytes) -> np.ndarray[Any, Any]:
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _DTYPES:
        raise FaultError(FileCorrupt(path, "the magic number of an IDX file, 00 00 08..0e 01..", f"{raw[:4].hex(' ') or 'no bytes'}"))
    dtype, axes = np.dtype(_DTYPES[raw[2]]), raw[3]
    if len(raw) < 4 + 4 * axes:
        raise FaultError(FileCorrupt(path, f"a header with {axes} lengths", f"a file of {len(raw)} bytes"))
    shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes])
    wanted, came = math.prod(shape) * dtype.itemsize, len(raw) - 4 - 4 * axes
    if came != wanted:  # before anything of the declared size is allocated
        raise FaultError(FileCorrupt(path, f"{wanted:,} bytes of data for shape {list(shape)}", f"{came:,} bytes"))
    array = np.frombuffer(raw, dtype, offset=4 + 4 * axes).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
