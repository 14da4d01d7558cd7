"""PyTorch's files of weights: a zip archive of a pickle and of the storages that its tensors view. PyTorch is not needed."""

from __future__ import annotations

import math
import sys
import zipfile
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, Final, cast

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, decoding, opened, read_array, reading, within
from fnlamp.data.readers.machine import Machine, contents
from fnlamp.data.readers.npy import Archive
from fnlamp.data.readers.pickled import KNOWN, Global, lengths
from fnlamp.data.readers.safetensors import DTYPES
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import ExtraMissing, FaultError, FileCorrupt, FileFault

EXPECTED: Final = (
    "a file of torch.save(model.state_dict(), path), or of dense tensors, numbers, strings, tuples, lists and dicts of these"
)
ARCHIVE: Final = "a file that torch.save of PyTorch 1.6 or later wrote; load it in PyTorch and save it again, or as safetensors"


def read_torch(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[Any, FileFault | ExtraMissing]:
    """The contents of a file that `torch.save` wrote: a state dict of arrays by name, or a checkpoint with such dicts in it.

    Tensors and parameters are read-only arrays in native byte order. They share memory, and have strides, as in the file. An
    `OrderedDict` is a dict, a `torch.Size` a tuple. `bfloat16` and `float8_*` are JAX's (from `ml_dtypes`). PyTorch is not
    imported and no code runs: the few functions with which it writes a tensor are recognized and replaced by fnlamp's own; any
    other name is a fault. `limit` is how many bytes the storages may have together, and each array; the pickle counts as for
    `read_pickle`. Shapes: as in the file. Fails: `FileMissing`; `FileCorrupt` for a damaged or cut file, a file of PyTorch
    before 1.6, a TorchScript archive, and any other object, such as a whole model or a sparse or quantized tensor;
    `TooLarge`; `ExtraMissing`. Reference: the notes on serialization semantics in PyTorch's documentation.

    >>> import pathlib, pickle, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.pt")
    >>> with zipfile.ZipFile(path, "w") as archive:  # torch.save({"epoch": 3}, path)
    ...     archive.writestr("model/data.pkl", pickle.dumps({"epoch": 3}, protocol=2))
    >>> read_torch(path).run()
    <IOResult: <Success: {'epoch': 3}>>
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("model/data.pkl", pickle.dumps(print, protocol=2))
    >>> print(read_torch(path).run().failure())
    failed: ...
    <IO: ...model.pt: expected a file of torch.save(model.state_dict(), path), ..., got builtins.print>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> Any:
        with opened(name) as (file, most):
            if (start := file.peek(len(_OLD))[: len(_OLD)])[:2] != b"PK":
                actual = "one of an earlier PyTorch" if start == _OLD else start[:4].hex(" ") or "an empty file"
                raise FaultError(FileCorrupt(name, ARCHIVE, actual))
            with decoding(name, "an intact zip archive"), zipfile.ZipFile(cast(Any, Archive(name, file, limit))) as archive:
                parts = _Parts(name, archive, _members(name, archive, most), limit)
                parts.ordered()
                return contents(_Machine(name, parts=parts), parts.read("data.pkl").tobytes(), limit)

    return reading(name, load)


_OLD: Final = bytes.fromhex("80 02 8a 0a 6c fc 9c 46 f9 20 6a a8 50 19")
"""The first bytes of the format before 1.6: its magic number, pickled."""
_VERSION: Final = 10
"""The newest version of the format that PyTorch 2.13 reads; it writes 3."""


def _members(path: str, archive: zipfile.ZipFile, most: int) -> dict[str, zipfile.ZipInfo]:
    """The members of the archive by their names inside its one folder."""
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise FaultError(FileCorrupt(path, EXPECTED, "a TorchScript archive; save the state_dict of torch.jit.load(path)"))
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        root, _, name = member.filename.partition("/")
        shown = repr(member.filename[:100])
        if {"", ".", ".."} & {root, *name.split("/")} or root != archive.infolist()[0].filename.partition("/")[0]:
            raise FaultError(FileCorrupt(path, "members inside one folder", shown))
        if name in members:
            raise FaultError(FileCorrupt(path, "every member once", f"{shown} twice"))
        if member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise FaultError(FileCorrupt(path, "members that are stored, neither packed nor encrypted", shown))
        members[name] = member
        most -= member.file_size
    if most < 0:
        raise FaultError(FileCorrupt(path, "members with bytes of their own", "members that overlap, or a cut file"))
    if "data.pkl" not in members:
        raise FaultError(FileCorrupt(path, f"{ARCHIVE}: an archive with a data.pkl", "one without"))
    return members


@dataclass(frozen=True, slots=True)
class Storage:
    """What the pickle says of a storage; without a dtype each tensor says its own."""

    key: str
    dtype: str | None
    size: int


@dataclass(slots=True)
class _Parts:
    """The members of the archive, each read once."""

    path: str
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    limit: int | None
    taken: int = 0
    order: str = "little"
    numbers: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """All bytes of a member.  Fails: `FileCorrupt`, `TooLarge`."""
        member = self.members[name]
        within(self.path, self.limit, self.taken + member.file_size)
        self.taken += member.file_size
        with cast(zipfile.ZipExtFile, self.archive.open(member)) as part:
            place, shape = f"{self.path}, {member.filename[:100]}", (member.file_size,)
            return read_array(place, part, member.file_size, np.dtype(np.uint8), shape, self.limit)

    def ordered(self) -> None:
        """Read the version and the byte order.  Fails: `FileCorrupt`."""
        version, order = (self.read(name).tobytes() if name in self.members else b"" for name in ("version", "byteorder"))
        if version and not (version.strip().isdigit() and len(version) < 10 and int(version) <= _VERSION):
            raise FaultError(FileCorrupt(self.path, f"version {_VERSION} or earlier of the format", repr(version[:20])))
        if order not in (b"", b"little", b"big"):
            raise FaultError(FileCorrupt(self.path, "the byte order little or big", repr(order[:20])))
        self.order = order.decode() or self.order

    def storage(self, storage: Storage, name: str) -> np.ndarray[Any, Any]:
        """The numbers of a storage, in native byte order and read-only.  Fails: `FileCorrupt`, `TooLarge`, `ExtraMissing`."""
        kind = np.dtype(getattr(np, name) if hasattr(np, name) else getattr(need("ml_dtypes", "safetensors"), name))
        member, place = f"data/{storage.key}", f"{self.path}, data/{storage.key[:100]}"
        size = storage.size * (kind.itemsize if storage.dtype else 1)
        actual = self.members[member].file_size if member in self.members else None
        if actual is None or not size <= actual < size + kind.itemsize:
            found = "none" if actual is None else f"{actual:,} bytes"
            raise FaultError(FileCorrupt(place, f"a storage of {size:,} bytes", found))
        if storage.key not in self.numbers:
            numbers = self.read(member)[: size - size % kind.itemsize].view(kind)
            if self.order != sys.byteorder:
                # by parts: a complex number has two, and NumPy cannot swap the types of ml_dtypes
                numbers.view(f"u{kind.itemsize // (2 if kind.kind == 'c' else 1)}").byteswap(inplace=True)
            if name == "bool" and size and numbers.view(np.uint8).max() > 1:
                raise FaultError(FileCorrupt(place, "booleans, bytes of 0 and 1", f"{numbers.view(np.uint8).max()}"))
            numbers.flags.writeable = False
            self.numbers[storage.key] = numbers
        if self.numbers[storage.key].dtype != kind:
            raise FaultError(FileCorrupt(place, f"numbers of one dtype, {self.numbers[storage.key].dtype}", f"{kind} too"))
        return self.numbers[storage.key]


_STORAGES: Final = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": None,
}
_NEWER: Final = ("uint16", "uint32", "uint64", *(name for name in DTYPES.values() if name.startswith("float8")))
"""The dtypes without a class of storage."""
_CALLED: Final = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state")


@dataclass(slots=True, kw_only=True)
class _Machine(Machine):
    """The machine that knows tensors too."""

    expected: ClassVar[str] = EXPECTED
    known: ClassVar[frozenset[str]] = frozenset(
        [*KNOWN, *_STORAGES, "collections.OrderedDict", "torch.Size"]
        + [f"torch.{name}" for name in _NEWER]
        + [f"torch._utils.{name}" for name in _CALLED]
    )
    parts: _Parts

    def stored(self, key: Any) -> Storage:
        match key:
            case ("storage", Global(name), str(key), str(), int(size)) if name in _STORAGES and 0 <= size < 2**60:
                return Storage(key, _STORAGES[name], size)
        raise ValueError("a storage without its type, key and size")

    def called(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        match function.name.removeprefix("torch._utils."), arguments:
            case "_rebuild_tensor_v2", (Storage(dtype=str(name)) as storage, offset, tuple(shape), tuple(strides), _, _, *more):
                return self._tensor(self.parts.storage(storage, name), offset, lengths(shape), strides, more)
            case "_rebuild_tensor_v3", (
                Storage(dtype=None) as storage, offset, tuple(shape), tuple(strides), _, _, Global(name), *more
            ) if name.removeprefix("torch.") in _NEWER:  # fmt: skip
                numbers = self.parts.storage(storage, name.removeprefix("torch."))
                return self._tensor(numbers, offset, lengths(shape), strides, more)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (np.ndarray() as tensor, bool(), *_):
                return tensor
            case "collections.OrderedDict", ():
                return {}
            case "torch.Size", (tuple(shape),):
                return lengths(shape)
        return Machine.called(self, function, arguments)

    def build(self, target: Any, state: Any) -> None:
        # `_metadata` of a state dict: the versions of the modules that wrote it.
        if type(target) is not dict or type(state) is not dict or state.keys() != {"_metadata"}:
            Machine.build(self, target, state)

    def _tensor(
        self, numbers: np.ndarray[Any, Any], offset: Any, shape: tuple[int, ...], strides: tuple[Any, ...], more: list[Any]
    ) -> np.ndarray[Any, Any]:
        """The view of a storage that a tensor is; what it addresses is checked first."""
        if any(more):
            what = ", ".join(map(str, more[0])) if type(more[0]) is dict else "metadata"
            raise FaultError(FileCorrupt(self.path, self.expected, f"a tensor with {what[:100]}; save tensor.clone()"))
        if len(strides) != len(shape) or not all(type(n) is int and n >= 0 for n in (offset, *strides)):
            raise ValueError("strides or an offset that a tensor cannot have")
        size = numbers.itemsize
        if math.prod(max(n, 1) for n in shape) * size > sys.maxsize:
            raise ValueError(f"lengths {list(shape)}")
        self.spent += 128 + 16 * len(shape)
        if not math.prod(shape):
            empty = np.zeros(shape, numbers.dtype)
            empty.flags.writeable = False
            return empty
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= len(numbers):
            raise ValueError(f"a tensor of {last + 1:,} numbers in a storage of {len(numbers):,}")
        within(self.path, self.parts.limit, math.prod(shape) * size)  # larger than its storage, if it repeats numbers
        steps = tuple(step * size if n > 1 else size for n, step in zip(shape, strides, strict=True))
        return np.ndarray(shape, numbers.dtype, numbers, offset * size, steps)
