"""A save in parts: each process writes those that it holds, by Orbax, and process 0 makes all of them one save at the end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Tree, placed_on
from fnlamp.checkpoint.archive import member_name
from fnlamp.checkpoint.file import Saved, stored
from fnlamp.checkpoint.folder import PART
from fnlamp.checkpoint.manifest import Packed, packed
from fnlamp.checkpoint.replace import flush_folder, replaced, writing
from fnlamp.checkpoint.structure import structured
from fnlamp.checkpoint.unread import ARRAYS, STATE, SUFFIX, first_line, hashed
from fnlamp.effect.runtime import GLANCE
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileUnwritable

DTYPES: Final = frozenset(
    np.dtype(each)
    for each in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
        *(jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2),
    )
)
"""The dtypes that Orbax gives back bit for bit; arrays of others are in the file, as in a save that is one file."""


class Parts(NamedTuple):
    """What one process writes: its parts of the arrays, which Orbax writes already, and in process 0 everything else."""

    handler: Any
    futures: list[Any]
    rest: Packed


@dataclass(frozen=True)
class Shards:
    """The form of one save that `processes` write together, in a folder whose temporary name has the `token`.

    `gone(process)` says why the part of a process will never come, or ""; `give_up` lets process 0 know of this one's.
    """

    token: str
    process: int = 0
    processes: int = 1
    gone: Callable[[int], str] = lambda process: ""
    give_up: Callable[[], object] = lambda: None

    def prepare(self, folder: str) -> None:
        """Make the temporary folder, before any process writes; process 0 calls this.  Fails: `FileUnwritable`."""
        with writing(folder):
            os.makedirs(os.path.join(self.part(folder), ARRAYS))

    def part(self, folder: str) -> str:
        """The temporary folder."""
        return os.path.join(folder, f"{PART}-{self.token}.part")

    def packed(self, folder: str, tree: Tree, note: Mapping[str, Any]) -> Parts:
        """Copy this process's parts to memory that no later step writes to, and have Orbax begin to write them.

        Fails: `NotStorable`; `FileUnwritable` in a process that does not see the folder that process 0 has made.
        """
        orbax, part = need("orbax.checkpoint", "orbax"), self.part(folder)
        if not os.path.isdir(part):
            self.give_up()
            reason = f"process {self.process} does not see what process 0 made there; give a folder that all processes share"
            raise FaultError(FileUnwritable(folder, reason))
        cut: dict[str, jax.Array] = {}
        kept: dict[str, Any] = {}
        used: set[str] = set()

        def keep(x: Any, path: tuple[str, ...]) -> int:
            name = member_name(path, used)
            if _is_cut(x):
                cut[name] = _copied(x)
                x = {"name": name, "dtype": str(x.dtype), "shape": list(x.shape)}
            kept[name] = x
            return len(kept) - 1

        with placed_on(None):
            structure = json.dumps(structured(tree, keep))
            rest = packed({"structure": structure, "arrays": kept if not self.process else {}}, note, copied=True)
            handler = orbax.PyTreeCheckpointHandler(use_compression=False)
            futures = []
            if cut:
                try:
                    with _by_orbax(folder):
                        futures = _begun(handler, os.path.join(part, ARRAYS), orbax.args.PyTreeSave(cut))
                except FaultError:
                    self.give_up()
                    raise
        return Parts(handler, futures, rest)

    def write(
        self,
        folder: str,
        content: Parts,
        step: int,
        serial: int,
        check: Callable[[], object],
        commit: Callable[[Callable[[], None]], None],
    ) -> Saved | None:
        """Wait until the parts are on the disk; in process 0, until those of all are, and make them one save.

        `check` and `commit` are as in `file.stored`.  Fails: `FileUnwritable`.
        """
        part = self.part(folder)
        try:
            self._written(folder, content, check)
            if self.process:
                return None
            files = self._gathered(folder, check)
            if content.futures:
                with _by_orbax(folder):
                    content.handler.finalize(need("etils.epath", "orbax").Path(os.path.join(part, ARRAYS)))
            names = [name for name in _files(part) if name not in files]
            files |= dict(zip(names, hashed(part, names, check, flush=True), strict=True))
            nodes = [*content.rest.structure["dict"], ["files", structured(files, _no_array)]]
            rest = content.rest._replace(structure={"dict": nodes})
            stored(os.path.join(part, STATE), rest, step, check=check, serial=serial)
            path = os.path.join(folder, f"{step:012d}-{serial}{SUFFIX}")
            with writing(path):
                for at, _, _ in os.walk(part):
                    flush_folder(at)
                commit(lambda: os.rename(part, path))
                flush_folder(folder)
            return Saved(path, step, content.rest.note, serial)
        except BaseException:  # a stop too: what is not whole has no name of a save
            if self.process:
                self.give_up()
            else:
                shutil.rmtree(part, ignore_errors=True)
            raise

    def _written(self, folder: str, content: Parts, check: Callable[[], object]) -> None:
        """Wait for this process's parts, and note the hashes of their files: the sign that they are whole."""
        for future in content.futures:
            waiting = True
            while waiting:
                check()
                try:
                    with _by_orbax(folder):
                        future.result(timeout=GLANCE)
                    waiting = False
                except TimeoutError:
                    pass
        part = self.part(folder)
        names = [name for name in _files(part) if name.startswith(f"{ARRAYS}/ocdbt.process_{self.process}/")]
        text = json.dumps(dict(zip(names, hashed(part, names, check, flush=True), strict=True))).encode()
        replaced(os.path.join(part, f"written.{self.process}"), lambda file: file.write(text), check=check)

    def _gathered(self, folder: str, check: Callable[[], object]) -> dict[str, list[Any]]:
        """Wait until all processes have written; the hashes of their files.  Fails: `FileUnwritable` if one cannot."""
        found: dict[str, list[Any]] = {}
        part = self.part(folder)
        for process in range(self.processes):
            mark = os.path.join(part, f"written.{process}")
            while not os.path.exists(mark):
                check()
                if process and (why := self.gone(process)) and not os.path.exists(mark):
                    raise FaultError(FileUnwritable(folder, f"process {process} {why}; the save before is whole"))
                time.sleep(GLANCE)
            with writing(mark):
                with open(mark, encoding="ascii") as file:
                    found |= json.load(file)
                os.remove(mark)
        return found


def _is_cut(x: Any) -> bool:
    """Whether Orbax writes it: numbers are small, and other arrays may belong to this process alone."""
    if not isinstance(x, jax.Array) or x.is_deleted() or (jax.process_count() > 1 and x.is_fully_addressable):
        return False
    return x.ndim > 0 and x.size > 0 and x.dtype in DTYPES


def _copied(x: jax.Array) -> jax.Array:
    """The parts that this process holds, in new memory on a CPU; from other devices Orbax copies before it returns."""
    held = x.addressable_shards
    if any(shard.device.platform != "cpu" for shard in held):
        return x
    parts = [jax.device_put(shard.data, shard.device, may_alias=False) for shard in held]
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)


def _begun(handler: Any, folder: str, args: Any) -> list[Any]:
    """What Orbax returns when the arrays are copied: futures of their writing."""
    path = need("etils.epath", "orbax").Path(folder)

    def call() -> list[Any]:
        return asyncio.run(handler.async_save(path, args=args)) or []

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1) as aside:  # in a notebook, this thread has a loop of its own that runs
        return aside.submit(call).result()


class _by_orbax:
    """Turn Orbax's and TensorStore's errors, which have no type of their own, into a fault; time limits pass."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FaultError | TimeoutError):
            raise FaultError(FileUnwritable(self.folder, first_line(error))) from error


def _files(part: str) -> Iterator[str]:
    """The files of arrays, by their names in the save."""
    for at, _, names in sorted(os.walk(os.path.join(part, ARRAYS))):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(at, name), part)


def _no_array(x: Any, path: tuple[str, ...]) -> int:
    raise TypeError(f"an array at {path}")
