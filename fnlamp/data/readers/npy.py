"""NumPy's files: NPY holds one array, NPZ several by name. Objects, which NumPy writes as pickles, are never read."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from os import PathLike
from typing import Any, Final, NamedTuple, TypeAlias, cast

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import DEFLATE, LIMIT, Bytes, File, decoding, opened, plain, read_array, reading, within
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileFault

Array: TypeAlias = np.ndarray[Any, Any]

_HEADER: Final = 10_000
"""The most bytes in a header; NumPy's own bound."""

_ESCAPES: Final = re.compile(rb"""(?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}))*""")
_LENGTHS: Final = re.compile(r"'shape': *\([0-9L, ]*\)")


def read_npy(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[Array, FileFault]:
    """The array in an NPY file, packed with gzip or not, in native byte order; nothing is opened before the program is run.

    `limit` is how many bytes the file may unpack to. Shapes and order in memory: as in the file. Records (structured dtypes)
    and strings are kept as they are. Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, an array of
    objects, or bytes after the end, such as a second array; `TooLarge`. Reference: `numpy.lib.format`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.npy")
    >>> np.save(path, np.array([[1, 2], [3, 4]]))
    >>> read_npy(path).map(lambda array: array.tolist()).run()
    <IOResult: <Success: [[1, 2], [3, 4]]>>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> Array:
        with opened(name) as (file, most):
            return _array(name, file, most, limit)

    return reading(name, load)


def read_npz(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[dict[str, Array], FileFault]:
    """All arrays of an NPZ file, by name, as `numpy.savez` and `savez_compressed` write it.

    `limit` is how many bytes they may unpack to together. Fails: `FileMissing`; `FileCorrupt` for anything but a zip archive of
    NPY files that `read_npy` takes, and for a wrong checksum, another compression, encryption or a repeated name; `TooLarge`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "digits.npz")
    >>> np.savez_compressed(path, x=np.zeros((2, 3), np.uint8), y=np.array([7, 8]))
    >>> read_npz(path).map(lambda arrays: {name: array.shape for name, array in arrays.items()}).run()
    <IOResult: <Success: {'x': (2, 3), 'y': (2,)}>>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        with opened(name) as (file, most):
            if file.peek(2)[:2] != b"PK":
                raise FaultError(FileCorrupt(name, "an NPZ file, a zip archive", file.read(4).hex(" ") or "an empty file"))
            left = limit
            with decoding(name, "an intact zip archive"), zipfile.ZipFile(cast(Any, Archive(name, file, limit))) as archive:
                for member in archive.infolist():
                    key = member.filename.removesuffix(".npy")
                    _acceptable(name, member, key in arrays)
                    inside = min(member.file_size, DEFLATE * min(member.compress_size, most))
                    with cast(zipfile.ZipExtFile, archive.open(member)) as part:
                        arrays[key] = _array(f"{name}, {member.filename}", part, inside, left)
                    left = None if left is None else left - arrays[key].nbytes
        return arrays

    return reading(name, load)


def map_npy(path: str | PathLike[str]) -> Effect[np.memmap[Any, Any], FileFault]:
    """The array in an NPY file as a read-only memory map: only the parts in use are read, so it may be larger than memory.

    Streams over arrays read it batch by batch. The file must not change while it is in use. Shapes: as in the file.
    Fails: `FileMissing`; `FileCorrupt` as for `read_npy`, for a packed file, and for numbers in another byte order than
    the machine's.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "large.npy")
    >>> np.save(path, np.arange(10.0))
    >>> map_npy(path).map(lambda array: (type(array).__name__, array[3:5].tolist())).run()
    <IOResult: <Success: ('memmap', [3.0, 4.0])>>
    """
    name = path_of(path)

    def load() -> np.memmap[Any, Any]:
        with opened(name) as (file, most):
            packed, began = not isinstance(file.raw, io.FileIO), file.peek(2)[:2]
            if packed or began != _MAGIC[:2]:
                what = "one packed with gzip" if packed else "another file" if began else "an empty file"
                raise FaultError(FileCorrupt(name, "an NPY file that is not packed, since a packed one cannot be mapped", what))
            header = _header(name, file)
            if not header.dtype.isnative:
                expected = "numbers in this machine's byte order, since mapped ones cannot be converted; use read_npy"
                raise FaultError(FileCorrupt(name, expected, str(header.dtype)))
            wanted, actual = math.prod(header.shape) * header.dtype.itemsize, most - file.tell()
            if wanted != actual:
                expected = f"{wanted:,} bytes of data for shape {list(header.shape)}"
                raise FaultError(FileCorrupt(name, expected, f"{actual:,} bytes"))
            with decoding(name, "an array that can be mapped"):
                order = "F" if header.fortran else "C"
                return np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)  # type: ignore[call-overload, no-any-return]

    return reading(name, load)


class Archive:
    """The file of a zip archive; its list of members, many times larger in memory, counts against the limit too."""

    def __init__(self, path: str, file: File, limit: int | None) -> None:
        self.path, self.file, self.limit = path, file, limit
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        within(self.path, self.limit, 4 * size - _MEMBERS)
        return self.file.read(size)


_MEMBERS: Final = 2**20
"""Bytes of an archive's list of members, each counted as four, that are free."""


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int


_MAGIC: Final = b"\x93NUMPY"


def _array(path: str, file: Bytes, most: int, limit: int | None) -> Array:
    dtype, shape, fortran, size = _header(path, file)
    array = read_array(path, file, most - size, dtype, shape[::-1] if fortran else shape, limit)
    return array.T if fortran else array


def _header(path: str, file: Bytes) -> _Header:
    """The header, by NumPy's own reader, which evaluates literals only; checked before it is used."""
    magic = file.read(8)
    version = tuple(magic[6:])
    if magic[:6] != _MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        actual = magic.hex(" ") or "an empty file"
        raise FaultError(FileCorrupt(path, "an NPY file's magic number: 93 4e 55 4d 50 59, version 1.0, 2.0 or 3.0", actual))
    wide = "<H" if version == (1, 0) else "<I"
    packed = file.read(struct.calcsize(wide))
    with decoding(path, "an NPY header of a dtype, an order and a shape"):
        (length,) = struct.unpack(wide, packed)
        if length > _HEADER:
            raise ValueError(f"one of {length:,} bytes")
        text = file.read(length)
        if len(text) < length:
            raise ValueError(f"{len(text)} of its {length} bytes")
        # In version 3.0, names of fields are UTF-8; escaped, they are the same literals. Python 2 wrote 3L.
        spelled = text.decode("utf-8" if version == (3, 0) else "latin-1")
        literal = _LENGTHS.sub(lambda found: found[0].replace("L", ""), spelled)
        ascii = literal.encode("ascii", "backslashreplace")
        whole = io.BytesIO(struct.pack("<I", len(ascii)) + ascii)
        if b"\\" in ascii and not _ESCAPES.fullmatch(ascii):
            raise ValueError("one with an escape that Python does not have")
        try:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(whole, max_header_size=10 * _HEADER)
        except Exception as error:  # NumPy's reader raises several types for a malformed literal
            shown = literal.strip()
            raise ValueError(repr(shown if len(shown) <= 100 else shown[:97] + "...")) from error
    if not plain(dtype):
        raise FaultError(FileCorrupt(path, "numbers, strings or records; objects are pickles and not read", f"{dtype}"))
    if dtype.itemsize == 0 or dtype.subdtype is not None or any(type(n) is not int or n < 0 for n in shape) or len(shape) > 64:
        raise FaultError(FileCorrupt(path, "a dtype and lengths that an array can have", f"{dtype} and {shape}"))
    return _Header(dtype, shape, fortran, len(magic) + len(packed) + length)


def _acceptable(path: str, member: zipfile.ZipInfo, again: bool) -> None:
    shown = repr(member.filename)
    if not member.filename.endswith(".npy"):
        raise FaultError(FileCorrupt(path, "an archive of NPY files only", shown))
    if again:
        raise FaultError(FileCorrupt(path, "every array once", f"{shown} twice"))
    if member.flag_bits & 1:
        raise FaultError(FileCorrupt(path, "arrays that are not encrypted", shown))
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FaultError(FileCorrupt(path, "arrays that are stored or deflated", f"{shown} of packing {member.compress_type}"))
