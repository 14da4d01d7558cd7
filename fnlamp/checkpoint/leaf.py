"""Arrays as bytes and back: any dtype of NumPy or JAX whose values are its bytes, and typed keys."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import placed_on
from fnlamp.fault import FaultError, NotStorable

_EXTENDED_NAMES: Final = (
    *("bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int2", "int4", "uint2", "uint4"),
)
EXTENDED: Final = {name: np.dtype(getattr(jnp, name)) for name in _EXTENDED_NAMES if hasattr(jnp, name)}
"""JAX's own dtypes, which NumPy's files do not name: stored as unsigned integers of the same bits."""

KINDS: Final = ("array", "scalar", "key")


@dataclass(frozen=True)
class Leaf:
    """How an array is stored. A dtype is one of `EXTENDED` by its name, or NumPy's by its code, such as `<f4`.

    `kind` is "array"; "scalar" for NumPy's scalars; or "key", with the `impl` of JAX's typed keys.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    fortran: bool = False
    kind: str = "array"
    impl: str = ""

    @property
    def bits(self) -> np.dtype[Any]:
        """The dtype in the file."""
        return np.dtype(f"<u{EXTENDED[self.dtype].itemsize}" if self.dtype in EXTENDED else self.dtype)

    @property
    def size(self) -> int:
        """The bytes of its numbers."""
        return math.prod(self.shape) * self.bits.itemsize


def taken(x: Any, path: str, copied: bool) -> tuple[Leaf, np.ndarray[Any, Any]]:
    """The array in host memory and how it is stored; with `copied`, in memory that nobody else writes to.

    Fails: `NotStorable` for objects, records, masked arrays, deleted arrays, and arrays that other processes hold parts of.
    """
    if isinstance(x, jax.Array):
        return _on_host(x, path, copied)
    if type(x) not in (np.ndarray, np.memmap) and not isinstance(x, np.generic):
        raise refused(path, f"a {type(x).__name__}", "give np.asarray of it, and the mask of a masked array as its own array")
    array = np.asarray(x)
    dtype = array.dtype
    if dtype in EXTENDED.values():
        name = dtype.name
    elif is_plain(dtype):
        name = dtype.str
    else:
        raise refused(path, f"an array of the dtype {dtype}", "give arrays of numbers, and a dict of a record's fields")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    leaf = Leaf(path, name, array.shape, fortran, "scalar" if isinstance(x, np.generic) else "array")
    return leaf, np.array(array, order="F" if fortran else "C") if copied else array


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy's files have this dtype, and its bytes are its value: numbers, times, text of a fixed length."""
    return dtype.kind in "biufcSUMm" and dtype.itemsize > 0


def _on_host(x: jax.Array, path: str, copied: bool) -> tuple[Leaf, np.ndarray[Any, Any]]:
    if not isinstance(x, jax.core.Tracer):
        if x.is_deleted():
            raise refused(path, "an array that was deleted or donated", "save the state that replaced it")
        if not (x.is_fully_addressable or x.is_fully_replicated):
            raise refused(path, "an array of which other processes hold parts", "gather it first")
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        leaf, array = _on_host(jax.random.key_data(x), path, copied)
        return Leaf(path, leaf.dtype, leaf.shape, leaf.fortran, "key", str(jax.random.key_impl(x))), array
    # On a CPU this is a view of JAX's buffer, which may be donated; from another device it is already a copy.
    host = np.asarray(x)
    return taken(host, path, copied and any(device.platform == "cpu" for device in x.devices()))


def refused(path: str, actual: str, hint: str = "") -> FaultError:
    """The fault of a leaf that cannot be stored."""
    return FaultError(NotStorable(actual, hint, where=path))


def raw(array: np.ndarray[Any, Any], fortran: bool) -> memoryview:
    """The bytes of the array in the order of the file, without a copy if it is contiguous."""
    if not array.nbytes:
        return memoryview(b"")
    return np.ascontiguousarray(array.T if fortran else array).reshape(-1).view(np.uint8).data


def npy_header(leaf: Leaf) -> bytes:
    """The start of an NPY file; the same bytes whatever version of NumPy runs, since reading compares them.

    Reference: `numpy.lib.format`, version 1.0.
    """
    text = f"{{'descr': '{leaf.bits.str}', 'fortran_order': {leaf.fortran}, 'shape': {leaf.shape}, }}"
    padded = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("latin-1")


def empty(leaf: Leaf) -> tuple[np.ndarray[Any, Any], memoryview]:
    """An array to read into, which JAX uses without a copy on a CPU, and its bytes.  Raises: `ValueError`."""
    dtype = EXTENDED[leaf.dtype] if leaf.dtype in EXTENDED else np.dtype(leaf.dtype)
    # An axis of length 0 hides the others from `size`.
    if len(leaf.shape) > 64 or math.prod(max(n, 1) for n in leaf.shape) * dtype.itemsize > sys.maxsize:
        raise ValueError(f"the shape {list(leaf.shape)}")
    if not leaf.size:
        array = np.empty(leaf.shape, dtype, order="F" if leaf.fortran else "C")
        return array, memoryview(bytearray())
    # Large arrays begin on a huge page: the system hands out memory in fewer and larger parts.
    step = 2**21 if leaf.size > 2**23 else 64
    block = np.empty(leaf.size + step, np.uint8)
    start = -block.ctypes.data % step
    room = block[start : start + leaf.size]
    array = room.view(dtype).reshape(leaf.shape[::-1] if leaf.fortran else leaf.shape)
    return (array.T if leaf.fortran else array), room.data


def given_back(leaf: Leaf, array: np.ndarray[Any, Any]) -> Any:
    """What was stored: an array, a scalar, or typed keys on the default device.  Raises: `ValueError`."""
    if leaf.kind == "scalar":
        return array[()]
    if leaf.kind == "key":
        with placed_on(None):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.impl)
    return array
