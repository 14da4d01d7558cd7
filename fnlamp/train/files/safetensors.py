"""Arrays in the safetensors format: written one by one without a copy of all, and verified."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from fnlamp import tree
from fnlamp.arrays import native
from fnlamp.data.readers.safetensors import DTYPES
from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileCorrupt, NotStorable

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
METADATA: Final = "__metadata__"
SHA256: Final = "sha256"


def write_safetensors(file: io.BufferedWriter, arrays: Any, metadata: Mapping[str, str]) -> None:
    """Write the leaves of a tree under their paths: the header's length, the header as JSON, then the numbers.

    The format has no checksum, so the metadata has the SHA-256 of the rest of the header and of the numbers.
    Reference: Hugging Face's description of the format.  Fails: `NotStorable` for a dtype that the format lacks.
    """
    named = {path: (leaf, _name(leaf, path)) for path, leaf in tree.paths(arrays).items()}
    order = sorted(named, key=lambda path: (-named[path][0].dtype.itemsize, path))  # large numbers first: all are aligned
    header: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for path in order:
        leaf, name = named[path]
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        header[path] = {"dtype": name, "shape": list(leaf.shape), "data_offsets": [start, end]}
    header[METADATA][SHA256] = _digest(header, (_bytes(named[path][0]) for path in order))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for path in order:
        polled.check()
        file.write(_bytes(named[path][0]))


def verify_safetensors(path: str, raw: bytes) -> None:
    """Compare a file of `write_safetensors` with its SHA-256.  Fails: `FileCorrupt`."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    expected = header[METADATA].pop(SHA256, "none")
    if (actual := _digest(header, [memoryview(raw)[end:]])) != expected:
        raise FaultError(FileCorrupt(path, f"bytes of the SHA-256 {expected[:16]}...", f"{actual[:16]}..."))


def _digest(header: dict[str, Any], pieces: Iterable[memoryview]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for piece in pieces:
        polled.check()
        digest.update(piece)
    return digest.hexdigest()


def _bytes(leaf: Any) -> memoryview:
    return np.asarray(native(np.asarray(leaf)), order="C").reshape(-1).view(np.uint8).data


def _name(leaf: Any, path: str) -> str:
    """The format's name of the array's dtype.  Fails: `NotStorable`."""
    dtype = leaf.dtype.newbyteorder("=") if isinstance(leaf.dtype, np.dtype) else leaf.dtype  # a key's is JAX's own
    if str(dtype) not in _NAMES:
        actual, hint = f"an array of the dtype {dtype}", "safetensors has no such dtype; write a file that ends in .npz"
        raise FaultError(NotStorable(actual, hint, where=path))
    return _NAMES[str(dtype)]
