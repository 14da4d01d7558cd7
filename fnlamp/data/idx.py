"""The IDX format of MNIST: a magic number, the lengths of the axes, the numbers, all big-endian; packed with gzip or not."""

from __future__ import annotations

import math
import struct
import sys
from os import PathLike, fspath
from typing import Any, Final

import numpy as np

from fnlamp.data.file import read_all
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileFault

_DTYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | PathLike[str]) -> Effect[np.ndarray[Any, Any], FileFault]:
    """The array in an IDX file, in its own dtype and native byte order; nothing is opened before the program is run.

    Whether the file is packed is told by its first bytes. Shapes: as the file says.
    Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, or bytes after the end.
    Source: the format's description on LeCun, Cortes & Burges' page of MNIST.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels-idx1-ubyte")
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> read_idx(path).run()
    <IOResult: <Success: [7 8 9]>>
    """
    name = fspath(path)

    def fault(error: FaultError) -> FileFault:
        return error.fault  # type: ignore[return-value]  # reading raises no other

    return Effect.attempt(lambda: _parse(name, read_all(name)), FaultError, fault)


def _parse(path: str, raw: bytes) -> np.ndarray[Any, Any]:
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _DTYPES:
        came = raw[:4].hex(" ") or "an empty file"
        raise FaultError(
            FileCorrupt(path, "an IDX file's magic number: 00 00, a dtype from 08 to 0e, the number of axes", came)
        )
    dtype, axes = np.dtype(_DTYPES[raw[2]]), raw[3]
    if len(raw) < 4 + 4 * axes:
        raise FaultError(FileCorrupt(path, f"a header with {axes} lengths", f"a file of {len(raw)} bytes"))
    if not 1 <= axes <= 64:
        raise FaultError(FileCorrupt(path, "1 to 64 axes, which is what an array can have", f"{axes}"))
    shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes])
    wanted, left = math.prod(shape) * dtype.itemsize, len(raw) - 4 - 4 * axes
    if left != wanted:  # before anything of the declared size is allocated
        raise FaultError(FileCorrupt(path, f"{wanted:,} bytes of data for shape {list(shape)}", f"{left:,} bytes"))
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize:  # which an axis of length 0 hides from `wanted`
        raise FaultError(FileCorrupt(path, "lengths that an array can have", f"{list(shape)}"))
    array = np.frombuffer(raw, dtype, offset=4 + 4 * axes).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
