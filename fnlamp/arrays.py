"""Types of arrays and their specs, and helpers for both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np

from fnlamp.fault import DtypeMismatch, FaultError

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.typing.ArrayLike
"""Anything that converts to an array: numbers, NumPy arrays, arrays."""
Key: TypeAlias = jax.Array
"""A typed key, as from `jax.random.key(seed)`."""
Spec: TypeAlias = jax.ShapeDtypeStruct
"""Shape and dtype of an array that need not exist; the batch axis is included, and is the first."""
Tree: TypeAlias = Any
"""A pytree: nested dicts, tuples and registered dataclasses of arrays."""
Params: TypeAlias = dict[str, Any]
"""Trainable arrays: nested dicts, `{}` without any."""
State: TypeAlias = dict[str, Any]
"""Arrays that a layer carries from batch to batch without training them: nested dicts, `{}` without any."""


def array_spec(shape: tuple[int, ...], dtype: Any) -> Spec:
    """The spec of one array."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def placed_spec(leaf: Any, place: jax.sharding.Sharding) -> Spec:
    """The spec of an array like this one that lies as the sharding says."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)  # type: ignore[no-untyped-call]


def spec_of(tree: Tree) -> Tree:
    """The spec of every array in `tree`, in the dtype on the device (where 64-bit numbers are narrowed)."""

    def one(x: Any) -> Spec:
        dtype = x.dtype if hasattr(x, "dtype") else np.result_type(x)
        dtype = dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype
        return array_spec(np.shape(x), jax.dtypes.canonicalize_dtype(dtype))

    return jax.tree.map(one, tree)


def spec_after(function: Callable[..., Tree], *specs: Tree) -> Tree:
    """The spec of the result of `function`; nothing is computed."""
    # A new function each time: JAX caches the result per function, which may read other values by now.
    return jax.eval_shape(lambda *given: function(*given), *specs)


def describe(tree: Tree) -> str:
    """Shapes and dtypes in short, such as `float32[32, 784]`.

    >>> describe((jnp.zeros((2, 3)), jnp.zeros(2, int)))
    '(float32[2, 3], int32[2])'
    """
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name}: {describe(leaf)}" for name, leaf in tree.items()) + "}"
    if isinstance(tree, tuple | list):
        return "(" + ", ".join(describe(leaf) for leaf in tree) + ")"
    return type(tree).__name__


def wide(x: Any) -> Any:
    """The dtype for sums: float64 for float64, else float32; half precision and integers would lose too much.

    >>> wide(jnp.zeros(2, jnp.bfloat16))
    dtype('float32')
    """
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def along_last(x: Array, ndim: int) -> Array:
    """A vector as an array of `ndim` axes, all others of length 1, because `jax_numpy_rank_promotion` may forbid promotion."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def is_float(x: Any) -> bool:
    """Whether the array or spec holds floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: Any) -> bool:
    """Whether the array or spec holds integers (booleans do not count)."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


_HINTS: Final = {
    "M": "count from a start: (x - start) / np.timedelta64(1, 'D')",
    "m": "count in a unit: x / np.timedelta64(1, 'D')",
    "V": "give a dict of its fields, each an array",
}


def check_numbers(array: Any, where: str, hint: str = "") -> None:
    """Fails: `DtypeMismatch` for arrays that a batch cannot hold: text, dates, records, objects, keys, and masked arrays."""
    if isinstance(array, np.ma.MaskedArray):
        hint = "a batch has no mask: give array.filled(value), and the mask as its own array"
        raise FaultError(DtypeMismatch("an array without a mask", "a masked array", hint, where=where))
    dtype = array.dtype
    if not isinstance(dtype, np.dtype) or dtype.kind in "OSUTMm" or issubclass(dtype.type, np.void):
        hint = hint or _HINTS.get(getattr(dtype, "kind", ""), "encode it as numbers, or keep it in a list")
        raise FaultError(DtypeMismatch("numbers", f"the dtype {dtype}", hint, where=where))


def native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in the machine's byte order, the only one that JAX supports; a copy if it was in the other.

    >>> native(np.array([1, 2], ">i4")).dtype.isnative
    True
    """
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class NotFinite(NamedTuple):
    """The place of a number that is not finite: path of the array, row, and index in the row (`None` if it is one number)."""

    path: str
    row: int
    column: int | tuple[int, ...] | None
    value: float

    def __str__(self) -> str:
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.value} in {self.path + ', ' if self.path else ''}row {self.row:,}{column}"


def first_not_finite(tree: Tree) -> NotFinite | None:
    """The first NaN or infinite number in a tree of arrays; only arrays in host memory are read, not mapped ones.

    >>> print(first_not_finite({"x": np.array([[0, 1], [2, np.nan]])}))
    nan in x, row 1, column 1
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, np.ndarray) and leaf.ndim and not _mapped(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            at = _first_not_finite(leaf)
            if at is not None:
                row, *column = map(int, at)
                place = tuple(column) if len(column) > 1 else column[0] if column else None
                return NotFinite(jax.tree_util.keystr(path, simple=True, separator="/"), row, place, leaf[at])
    return None


def _mapped(array: Any) -> bool:
    """Whether the array, or the one of which it is a view, is mapped from a file."""
    return isinstance(array, np.memmap) or (isinstance(array, np.ndarray) and _mapped(array.base))


def _first_not_finite(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | None:
    step = max(1, 2**16 // max(array[:1].size, 1))  # as many rows as fit a cache
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step])
        if not finite.all():
            row, *column = np.unravel_index(np.argmin(finite), finite.shape)
            return (start + row, *column)
    return None


def take_rows(array: Any, rows: Any) -> Any:
    """`array[rows]` for rows known to exist; on the device, no bounds check is compiled."""
    if isinstance(array, jax.Array):
        return array.at[rows].get(mode="promise_in_bounds")
    if type(array) is np.ndarray and isinstance(rows, np.ndarray) and array.flags.c_contiguous and array.flags.aligned:
        return array.take(rows, axis=0)  # faster than indexing, but it would first copy any other array
    return array[rows]


def to_device(x: Any, device: Any = None, *, share: bool = False) -> Array:
    """A copy of `x` on the device, in its own dtype; 64-bit numbers that 32 bits cannot hold are a fault.

    With `share`, the result may use the host array's memory, which then must not change while the result is in use.

    Fails: `DtypeMismatch`, where JAX would silently wrap large integers around, or make large numbers infinite.
    """
    if not isinstance(x, jax.Array):
        x = _narrowed(native(np.asarray(x)))
    if isinstance(device, jax.sharding.Sharding) and not device.is_fully_addressable:
        return over_processes(x, device)
    if share:
        shared: Array = jax.device_put(x, device)
        return shared
    # JAX may share a host array's memory, or read it after this returns: it gets a private copy.
    array: Array = jax.device_put(np.array(x) if isinstance(x, np.ndarray) else x, device, may_alias=False)
    return array


def over_processes(x: Any, place: jax.sharding.Sharding) -> Array:
    """A copy of `x`, which each process has, on devices of several processes: each gives its own devices their part."""
    if isinstance(x, jax.Array) and x.sharding.device_set == place.device_set:
        copied: Array = jax.jit(jnp.copy, out_shardings=place)(x)
        return copied
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        numbers = over_processes(jax.random.key_data(x), place)
        keys: Array = jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))
        return keys
    x = np.array(x)
    made: Array = jax.make_array_from_callback(x.shape, place, lambda part: x[part])
    return made


def from_parts(x: Any, place: jax.sharding.Sharding, rows: int, first: int) -> Array:
    """An array on devices of several processes, cut along its second axis of so many rows; `x` has this process's from `first`.

    It may use the memory of `x`.
    """
    x = _narrowed(native(np.asarray(x)))

    def at(index: Any) -> Any:
        return x[:, index[1].start - first : index[1].stop - first]

    made: Array = jax.make_array_from_callback((len(x), rows, *x.shape[2:]), place, at)
    return made


def _narrowed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """64-bit numbers in the 32 bits of the device.  Fails: `DtypeMismatch` for one that is too large."""
    narrow = jax.dtypes.canonicalize_dtype(x.dtype)
    if narrow == x.dtype or not x.size:
        return x
    if x.dtype.kind in "iu":
        bounds = np.iinfo(narrow)
        if x.max() > bounds.max or x.min() < bounds.min:
            got, hint = f"{x.dtype} from {x.min()} to {x.max()}", "enable jax_enable_x64 or renumber"
            raise FaultError(DtypeMismatch(f"integers that fit {narrow}", got, hint))
        return x
    with np.errstate(over="ignore"):
        made = x.astype(narrow)
    lost = np.isfinite(x[np.isinf(made)]) if np.isinf(made).any() else np.zeros(0, bool)
    if lost.any():
        got = str(x[np.isinf(made)][lost][0])
        raise FaultError(DtypeMismatch(f"numbers that fit {narrow}", got, "enable jax_enable_x64 or scale them"))
    return made


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Zeros to be filled, in memory aligned so that JAX's CPU device uses it without a copy.

    >>> aligned((3, 5), np.float32).__array_interface__["data"][0] % 64
    0
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + 64, np.uint8)
    start = -int(room.__array_interface__["data"][0]) % 64
    array: np.ndarray[Any, Any] = room[start : start + size].view(dtype).reshape(shape)
    return array


def one_of(place: jax.sharding.Sharding) -> Any:
    """The first of this process's devices that a sharding has."""
    here: Any = place.addressable_devices
    return min(here, key=lambda each: int(each.id))


@contextlib.contextmanager
def placed_on(device: Any) -> Iterator[None]:
    """Create arrays on the device, or on the caller's default device if it is `None`; of a sharding, on its first device.

    The caller's transfer guard does not apply inside: transfers there are intended.
    """
    if isinstance(device, jax.sharding.Sharding):
        device = one_of(device)
    with jax.transfer_guard("allow"), contextlib.nullcontext() if device is None else jax.default_device(device):
        yield


_EXPORTING: Final = ContextVar("exporting", default=False)


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Inside, `platform()` is "any": layers take forms that work on each platform, and for a batch of symbolic size."""
    token = _EXPORTING.set(True)
    try:
        yield
    finally:
        _EXPORTING.reset(token)


_DEVICES: Final = ContextVar("devices", default=1)


@contextlib.contextmanager
def over_devices(count: int) -> Iterator[None]:
    """Inside, what is traced is a program that XLA divides among so many devices."""
    token = _DEVICES.set(count)
    try:
        yield
    finally:
        _DEVICES.reset(token)


def devices_of(arrays: Tree) -> int:
    """The number of devices that a program on these arrays is divided among."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(arrays))  # an array of NumPy has none
    return max((len(sharding.device_set) for sharding in shardings if sharding is not None), default=1)


def device_count() -> int:
    """The number of devices that the traced program is divided among."""
    return _DEVICES.get()


def platform() -> str:
    """The target platform of programs, such as "cpu" or "gpu": the default device's if one is set, else JAX's first.

    It is "any" for a program that is being exported.
    """
    if _EXPORTING.get():
        return "any"
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else str(device.platform)


def tracing() -> bool:
    """Whether the caller runs inside `jax.jit`, `grad` or `vmap`."""
    try:
        from jax._src.core import trace_state_clean
    except ImportError:  # a private name: without it, only this check is off
        return False
    return not trace_state_clean()
