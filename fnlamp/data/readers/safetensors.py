"""The safetensors format of weights: a header of names, dtypes and shapes, then the numbers; it contains no code."""

from __future__ import annotations

import json
import os
from os import PathLike
from typing import Any, Final

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, decoding, read_all, reading, within
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import ExtraMissing, FaultError, FileCorrupt, FileFault

SUFFIX: Final = ".safetensors"
INDEX: Final = f"{SUFFIX}.index.json"
_ENTRY: Final = 512
_FEW: Final = 2**14
"""Arrays beyond this number count as `_ENTRY` bytes each: the memory that even a small one takes."""
DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""The format's names of dtypes, and NumPy's or JAX's."""


def read_safetensors(
    path: str | PathLike[str], *, limit: int | None = LIMIT
) -> Effect[dict[str, np.ndarray[Any, Any]], FileFault | ExtraMissing]:
    """All arrays of a safetensors file, by name; needs the extra `safetensors`. Nothing is opened before the program is run.

    Of a model in several files, `path` is that of their index, `model.safetensors.index.json`; they are in its folder.
    `bfloat16` and `float8_*` are JAX's (from `ml_dtypes`). `limit` is how many bytes the file, or all of them, may have,
    unpacked if packed with gzip. Shapes: as in the file.
    Fails: `FileMissing`; `FileCorrupt` for a cut or damaged file, another format, numbers smaller than a byte, and files that
    do not have what the index lists; `TooLarge`; `ExtraMissing`. Reference: Hugging Face's description of the format.

    >>> import pathlib, safetensors.numpy, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> safetensors.numpy.save_file({"weight": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}, path)
    >>> read_safetensors(path).map(lambda arrays: {name: array.shape for name, array in sorted(arrays.items())}).run()
    <IOResult: <Success: {'bias': (2,), 'weight': (2, 2)}>>
    """
    name, limit = path_of(path), limit_of(limit)
    if name.endswith(INDEX):
        return reading(name, lambda: _of_several(name, limit))
    return reading(name, lambda: arrays_in(name, read_all(name, limit), limit))


def _of_several(index: str, limit: int | None) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of the files that an index lists, each of the names that it lists for it."""
    raw = read_all(index, limit)
    with decoding(index, "an index of safetensors files: JSON with a weight_map"):
        listed: dict[str, str] = json.loads(raw)["weight_map"]
        files: dict[str, set[str]] = {}
        for name, file in listed.items():
            files.setdefault(file, set()).add(name)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    taken = len(raw)
    for file, names in files.items():
        if not isinstance(file, str) or not file.endswith(SUFFIX) or set(file) & {"/", "\\", "\0"}:  # not outside the folder
            raise FaultError(FileCorrupt(index, f"names of files in its folder that end in {SUFFIX}", repr(file)[:100]))
        path = os.path.join(os.path.dirname(index), file)
        part = read_all(path, None if limit is None else limit - taken)
        found = arrays_in(path, part, None if limit is None else limit - taken)
        taken += len(part)
        if found.keys() != names:
            odd = min(found.keys() ^ names)[:100]
            actual = f"one without {odd!r}" if odd in names else f"{odd!r} too"
            raise FaultError(FileCorrupt(path, "a file of the arrays that the index lists for it", actual))
        arrays |= found
    return arrays


def arrays_in(path: str, raw: bytes, limit: int | None) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in the contents of a file.  Fails: as `read_safetensors`."""
    library = need("safetensors", "safetensors")
    if not raw:
        raise FaultError(FileCorrupt(path, "a safetensors file", "an empty file"))
    within(path, limit, len(raw) + _ENTRY * max(0, _header(raw).count(b"{") - _FEW))
    with decoding(path, "a safetensors file"):  # the library checks every size against the file's before it allocates
        return {key: _array(f"{path}, {key}", **entry) for key, entry in library.deserialize(raw)}


def metadata_in(path: str, raw: bytes) -> dict[str, str]:
    """The texts beside the arrays, of a file that `arrays_in` has read."""
    with decoding(path, "a safetensors file"):
        return dict(json.loads(_header(raw)).get("__metadata__", {}))


def _header(raw: bytes) -> bytes:
    return raw[8 : 8 + int.from_bytes(raw[:8], "little")]


def _array(path: str, dtype: str, shape: list[int], data: bytearray) -> np.ndarray[Any, Any]:
    if dtype not in DTYPES:
        raise FaultError(FileCorrupt(path, "a dtype of whole bytes that NumPy or ml_dtypes has", dtype))
    known = DTYPES[dtype]
    kind = np.dtype(getattr(np, known) if hasattr(np, known) else getattr(need("ml_dtypes", "safetensors"), known))
    array = np.frombuffer(data, kind) if len(data) else np.zeros(0, kind)
    if kind.kind == "b" and len(data) and array.view(np.uint8).max() > 1:
        raise FaultError(FileCorrupt(path, "booleans, bytes of 0 and 1", f"{array.view(np.uint8).max()}"))
    return array.reshape(shape)
