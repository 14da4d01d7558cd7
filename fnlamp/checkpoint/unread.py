"""Arrays that a sharded save keeps in its folder: each process reads its own parts of them, where a run places them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import numpy as np

from fnlamp.arrays import placed_on
from fnlamp.checkpoint.leaf import EXTENDED
from fnlamp.checkpoint.replace import reason_of
from fnlamp.checkpoint.structure import restructured
from fnlamp.checkpoint.verify import decoding, opened
from fnlamp.effect.runtime import polled
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, OutOfMemory

SUFFIX: Final = ".orbax"
"""The end of the name of a sharded save, which is a folder."""
STATE: Final = "state.npz"
"""Its file with the structure, the plain values, the small arrays, and the hashes of all other files."""
ARRAYS: Final = "arrays"
"""Its folder of arrays, in Orbax's format."""


def file_of(path: str) -> str:
    """The file of a save that has its trailer and manifest."""
    return os.path.join(path, STATE) if path.endswith(SUFFIX) else path


@contextlib.contextmanager
def opened_save(path: str) -> Iterator[tuple[Any, int]]:
    """That file and its size.  Fails: as `opened`; a folder without it is damaged, not missing."""
    try:
        with opened(file_of(path)) as found:
            yield found
    except FaultError as error:
        if not isinstance(error.fault, FileMissing):
            raise
        if path.endswith(SUFFIX) and os.path.isdir(path):
            raise FaultError(FileCorrupt(path, f"a whole save, with {STATE}", error.fault.reason)) from error
        raise FaultError(FileMissing(path, error.fault.reason)) from error


class Store:
    """The arrays of one save, and what their files should be: the size and the SHA-256 of each, by name."""

    def __init__(self, path: str, files: Mapping[str, Sequence[Any]]) -> None:
        self.path, self.files = path, files
        self._verified: set[str] = set()

    def check(self) -> None:
        """Check that no file is missing or has another size.  Fails: `FileCorrupt`."""
        for name, (size, _) in self.files.items():
            where = os.path.join(self.path, name)
            try:
                found = os.stat(where).st_size
            except OSError as error:
                raise FaultError(FileCorrupt(where, f"a file of {size:,} bytes", reason_of(error))) from error
            if found != size:
                raise FaultError(FileCorrupt(where, f"a file of {size:,} bytes", f"{found:,} bytes"))

    def verify(self, part: int, parts: int) -> None:
        """Compare the bytes of every `parts`-th file with their hash, once.  Fails: `FileCorrupt`."""
        names = [name for name in sorted(self.files)[part::parts] if name not in self._verified]
        for name, found in zip(names, hashed(self.path, names, polled.check), strict=True):
            size, expected = self.files[name]
            if [size, expected] != found:
                where = os.path.join(self.path, name)
                raise FaultError(FileCorrupt(where, f"bytes of the SHA-256 {expected[:16]}...", f"{found[1][:16]}..."))
            self._verified.add(name)

    def read(self, wanted: Mapping[str, Unread], where: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by name: laid out as `where` says, or whole in NumPy's memory.  Fails: `FileCorrupt`, `ExtraMissing`."""
        orbax = need("orbax.checkpoint", "orbax")
        everywhere = all(place is None or place.is_fully_addressable for place in where.values())
        # Processes that read together divide the files; each would otherwise read the whole save.
        self.verify(*((0, 1) if everywhere else (jax.process_index(), jax.process_count())))

        def asked(name: str, leaf: Unread) -> Any:
            if where[name] is None:
                return orbax.RestoreArgs(restore_type=np.ndarray)
            given = {"sharding": where[name], "global_shape": leaf.shape, "dtype": leaf.dtype}
            return orbax.ArrayRestoreArgs(restore_type=jax.Array, **given)

        args = {name: asked(name, leaf) for name, leaf in wanted.items()}
        request = orbax.args.PyTreeRestore(item=dict.fromkeys(wanted, 0), restore_args=args, partial_restore=True)
        folder = need("etils.epath", "orbax").Path(os.path.join(self.path, ARRAYS))
        with reading(self.path), placed_on(None):
            found: dict[str, Any] = orbax.PyTreeCheckpointHandler().restore(folder, args=request)
        for name, leaf in wanted.items():
            actual = found[name]
            if tuple(actual.shape) != leaf.shape or actual.dtype != leaf.dtype:
                raise FaultError(FileCorrupt(self.path, f"{name}: {leaf}", f"{actual.dtype}{list(actual.shape)}"))
        return found


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn the errors of Orbax and TensorStore into faults."""
    try:
        yield
    except FaultError:
        raise
    except MemoryError as error:
        raise FaultError(OutOfMemory(path)) from error
    except Exception as error:  # TensorStore's have no type of their own
        raise FaultError(FileCorrupt(path, "arrays that Orbax reads", first_line(error))) from error


def first_line(error: BaseException) -> str:
    """An error in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


@dataclass(frozen=True, eq=False)
class Unread:
    """An array of a sharded save, not read yet. A run that resumes reads its parts; `numpy.asarray(x)` reads it whole.

    Fails, when it is read: `FileCorrupt` for damaged bytes, `ExtraMissing` without the extra `orbax`, `OutOfMemory`.
    """

    store: Store = field(repr=False)
    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = read_all([self], [None])[0]
        return found if dtype is None else found.astype(dtype)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def read_all(leaves: Sequence[Any], places: Sequence[Any]) -> dict[int, Any]:
    """Those that are unread, by index: laid out as a sharding among `places` says, else in NumPy's memory.

    Fails: as `Unread`.
    """
    stores: dict[Store, dict[str, int]] = {}
    for at, leaf in enumerate(leaves):
        if isinstance(leaf, Unread):
            stores.setdefault(leaf.store, {})[leaf.name] = at
    found: dict[int, Any] = {}
    for store, names in stores.items():
        where = {name: places[at] if isinstance(places[at], jax.sharding.Sharding) else None for name, at in names.items()}
        read = store.read({name: leaves[at] for name, at in names.items()}, where)
        found |= {at: read[name] for name, at in names.items()}
    return found


def read_whole(tree: Any) -> Any:
    """The tree with its unread arrays in NumPy's memory.  Fails: as `Unread`."""
    leaves, structure = jax.tree.flatten(tree)
    found = read_all(leaves, [None] * len(leaves))
    return jax.tree.unflatten(structure, [found.get(at, leaf) for at, leaf in enumerate(leaves)])


def attached(path: str, content: Any) -> Any:
    """The tree of a sharded save, from the contents of its file.  Fails: `FileCorrupt`."""
    with decoding(path):
        store = Store(path, {name: (int(size), str(hash)) for name, (size, hash) in content["files"].items()})
        arrays = [_unread(store, each) if isinstance(each, dict) else each for each in content["arrays"].values()]
        tree = restructured(json.loads(content["structure"]), arrays)
    store.check()
    return tree


def _unread(store: Store, each: Mapping[str, Any]) -> Unread:
    dtype = EXTENDED[each["dtype"]] if each["dtype"] in EXTENDED else np.dtype(each["dtype"])
    return Unread(store, each["name"], tuple(each["shape"]), dtype)


def hashed(path: str, names: Iterable[str], check: Callable[[], object], *, flush: bool = False) -> list[list[Any]]:
    """The size and the SHA-256 of each file; threads hash several at once.  Fails: `FileCorrupt`; raises what `check` does.

    `flush`: and wait until the file is on the disk, which Orbax does not.
    """

    def one(name: str) -> list[Any]:
        with opened(os.path.join(path, name)) as (file, size):
            if flush:
                os.fsync(file.fileno())
            return [size, hashlib.file_digest(file, "sha256").hexdigest()]

    with ThreadPoolExecutor(4, "fnlamp hash") as aside:
        jobs = [aside.submit(one, name) for name in names]
        try:
            found = []
            for job in jobs:
                check()
                found.append(job.result())
            return found
        except BaseException:  # a stop too
            aside.shutdown(cancel_futures=True)
            raise
