"""One tree in one file: a description to write it, and one to read it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fnlamp.arrays import Tree
from fnlamp.checkpoint.archive import MANIFEST, Member, Trailer, directory, local_header, trailer
from fnlamp.checkpoint.leaf import npy_header, raw
from fnlamp.checkpoint.manifest import VERSION, Manifest, Packed, Stored, cut, encoded, packed, sha256
from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.checkpoint.structure import restructured
from fnlamp.checkpoint.unread import SUFFIX, attached, opened_save
from fnlamp.checkpoint.verify import arrays_of, decoding, manifest_of, trailer_of
from fnlamp.effect import Effect, Outline, Unknown
from fnlamp.effect.runtime import polled
from fnlamp.fault import FileCorrupt, FileMissing, FileTooNew, FileUnwritable, NotStorable, OutOfMemory, printable
from fnlamp.given import instance, whole

A = TypeVar("A")
E = TypeVar("E")

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Saved:
    """A finished save: its file, its step, and the note that was given to it.

    `serial` is its place in the order in which a folder's saves were written, which steps need not follow: a run that resumed
    from an earlier save writes smaller steps again.
    """

    path: str
    step: int
    note: Mapping[str, Any]
    serial: int = field(default=0, repr=False)


@dataclass(frozen=True, eq=False)
class Loaded:
    """The contents of a save. Arrays are NumPy's, typed keys JAX's, and nodes of other types are `Record`s.

    In a sharded save, the arrays that were JAX's are `Unread`.
    """

    path: str
    step: int
    note: Mapping[str, Any]
    tree: Tree


def write(
    path: str | PathLike[str], tree: Tree, *, step: int = 0, note: Mapping[str, Any] = NOTHING
) -> Effect[Saved, FileUnwritable | NotStorable]:
    """Write a tree to an NPZ file, atomically: after a crash the file is either the new one or the one before.

    The tree has arrays, of NumPy or JAX, and plain values: `None`, bool, int, float, complex, str, bytes, tuple, list, and dict
    with keys of str or int. A named tuple or another node that JAX knows is stored as a `Record`. `note` is a dict of plain
    values. `~` is the home folder. `numpy.load` reads the arrays too, by their paths. Nothing is written before the program is
    run.  Fails: `FileUnwritable`, such as for a full disk; `NotStorable`, which names the leaf.

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp(), "state.npz")
    >>> program = write(path, {"weight": np.eye(2), "epoch": 3}, step=12).then(read(path))
    >>> program.map(lambda loaded: (loaded.step, loaded.tree["epoch"], loaded.tree["weight"].shape)).run()
    <IOResult: <Success: (12, 3, (2, 2))>>
    """
    name, step = expanded(path), whole("step", step, 0)
    instance("note", note, Mapping, "a dict of plain values")

    def run() -> Saved:
        return stored(name, packed(tree, note, copied=False), step, check=polled.check)

    return described(Effect.checked(run), f"write {printable(name)}")


def read(path: str | PathLike[str]) -> Effect[Loaded, FileMissing | FileCorrupt | FileTooNew | OutOfMemory]:
    """The contents of a file of `write` or `save`. Each byte is verified before anything is returned, and nothing is executed.

    Arrays keep their dtype, byte order and order in memory. No more is allocated than the file has bytes. Of a sharded save,
    which is a folder, the large arrays are `Unread`: their bytes are verified when they are read.
    Fails: `FileMissing`; `FileCorrupt` for any damage, or for another kind of file; `FileTooNew`; `OutOfMemory`.
    """
    name = expanded(path)
    return described(Effect.checked(lambda: loaded(name)), f"read {printable(name)}")


def described(program: Effect[A, E], line: str) -> Effect[A, E]:
    """The program, which `explain` shows as this line."""
    return program.named(line).outlined(
        lambda: Outline((line,), Unknown("the outcome of reading or writing a file is unknown"))
    )


def loaded(path: str) -> Loaded:
    """The contents of a file.  Fails: as `read`."""
    with opened_save(path) as (file, size):
        place = trailer_of(path, file, size)
        manifest = manifest_of(path, file, place, size)
        arrays = arrays_of(path, file, manifest, place)
        with decoding(path):
            tree = restructured(manifest.structure, arrays)
            return Loaded(path, manifest.step, manifest.note_value(), attached(path, tree) if path.endswith(SUFFIX) else tree)


def stored(
    path: str,
    content: Packed,
    step: int,
    *,
    check: Callable[[], object],
    serial: int = 0,
    part: str = ".write",
    commit: Callable[[Callable[[], None]], None] = lambda rename: rename(),
) -> Saved:
    """Write a packed tree to its file.

    `check` is called between pieces, and may raise to stop; `commit` is given the renaming.  Fails: `FileUnwritable`.
    """
    replaced(path, lambda file: _write(file, content, step, serial, check), check=check, part=part, commit=commit)
    return Saved(path, step, content.note, serial)


def _write(file: io.BufferedWriter, content: Packed, step: int, serial: int, check: Callable[[], object]) -> None:
    members: list[Member] = []
    entries: list[Stored] = []
    start = 0

    def put(member: Member, *pieces: memoryview | bytes) -> int:
        members.append(member)
        file.write(local_header(member))
        for piece in pieces:
            check()
            file.write(piece)
        return start + len(local_header(member)) + member.size

    for leaf, name, array in zip(content.leaves, content.names, content.arrays, strict=True):
        header, pieces = npy_header(leaf), cut(raw(array, leaf.fortran))
        crc, hashes = zlib.crc32(header), []
        for piece in pieces:
            check()
            crc = zlib.crc32(piece, crc)
            hashes.append(sha256(piece))
        entries.append(Stored(leaf, name, crc, tuple(hashes)))
        start = put(entries[-1].member(start), header, *pieces)
    text = encoded(Manifest(step, content.note_structure, content.structure, tuple(entries)))
    last = Member(MANIFEST, zlib.crc32(text), len(text), start)
    put(last, text)
    place = Trailer(VERSION, serial, start + len(local_header(last)), len(text), sha256(text))
    file.write(directory(members, trailer(place)))
