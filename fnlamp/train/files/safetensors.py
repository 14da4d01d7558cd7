"""Arrays in the safetensors format: written one by one without a copy of all, and verified."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fnlamp import tree
from fnlamp.arrays import native
from fnlamp.data.readers.safetensors import DTYPES
from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileCorrupt, NotStorable

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
SHA256: Final = "sha256"


def write_safetensors(file: io.BufferedWriter, arrays: Any, metadata: Mapping[str, str]) -> None:
    """Write the leaves of a tree under their paths: the header's length, the header as JSON, then the numbers.

    The format has no checksum, so the metadata has the numbers' SHA-256.
    Reference: Hugging Face's description of the format.  Fails: `NotStorable` for a dtype that the format lacks.
    """
    named = {path: (leaf, _name(leaf, path)) for path, leaf in tree.paths(arrays).items()}
    order = sorted(named, key=lambda path: (-named[path][0].dtype.itemsize, path))  # large numbers first: all are aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    digest, end = hashlib.sha256(), 0
    for path in order:
        leaf, name = named[path]
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        header[path] = {"dtype": name, "shape": list(leaf.shape), "data_offsets": [start, end]}
        polled.check()
        digest.update(_bytes(leaf))
    header["__metadata__"] = {**metadata, SHA256: digest.hexdigest()}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for path in order:
        polled.check()
        file.write(_bytes(named[path][0]))


def verify_safetensors(path: str, raw: bytes, metadata: Mapping[str, str]) -> None:
    """Compare the numbers with their SHA-256, if the file has one.  Fails: `FileCorrupt`."""
    numbers = memoryview(raw)[8 + int.from_bytes(raw[:8], "little") :]
    expected = metadata.get(SHA256)
    if expected is not None and (actual := hashlib.sha256(numbers).hexdigest()) != expected:
        raise FaultError(FileCorrupt(path, f"bytes of the SHA-256 {expected[:16]}...", f"{actual[:16]}..."))


def _bytes(leaf: Any) -> memoryview:
    return np.asarray(native(np.asarray(leaf)), order="C").reshape(-1).view(np.uint8).data


def _name(leaf: Any, path: str) -> str:
    """The format's name of the array's dtype.  Fails: `NotStorable`."""
    dtype = leaf.dtype.newbyteorder("=") if isinstance(leaf.dtype, np.dtype) else leaf.dtype  # a key's is JAX's own
    if str(dtype) not in _NAMES:
        actual, hint = f"an array of the dtype {dtype}", "safetensors has no such dtype; write a file that ends in .npz"
        raise FaultError(NotStorable(actual, hint, where=path))
    return _NAMES[str(dtype)]
