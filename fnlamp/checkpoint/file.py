"""One tree in one file: written to a temporary name, flushed and renamed; verified byte by byte when it is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import Any, Final

from fnlamp.arrays import Tree
from fnlamp.checkpoint.archive import MANIFEST, TRAILER, Member, Trailer, directory, local_header, parsed_trailer, trailer
from fnlamp.checkpoint.leaf import empty, given_back, npy_header, raw
from fnlamp.checkpoint.manifest import LIMIT, PIECE, VERSION, Manifest, Packed, Stored, decoded, encoded, packed
from fnlamp.checkpoint.structure import restructured
from fnlamp.effect import Effect
from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, FileTooNew, FileUnwritable, NotStorable, OutOfMemory
from fnlamp.given import instance, path_of, whole

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
    """The contents of a save. Arrays are NumPy's, typed keys JAX's, and nodes of other types are `Record`s."""

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

    return Effect.checked(run).named(f"write {name}")


def read(path: str | PathLike[str]) -> Effect[Loaded, FileMissing | FileCorrupt | FileTooNew | OutOfMemory]:
    """The contents of a file of `write` or `save`. Each byte is verified before anything is returned, and nothing is executed.

    Arrays keep their dtype, byte order and order in memory. No more is allocated than the file has bytes.
    Fails: `FileMissing`; `FileCorrupt` for any damage, or for another kind of file; `FileTooNew`; `OutOfMemory`.
    """
    name = expanded(path)
    return Effect.checked(lambda: loaded(name)).named(f"read {name}")


def expanded(path: str | PathLike[str], name: str = "path") -> str:
    """The path as text, with `~` as the home folder."""
    return os.path.expanduser(path_of(path, name))


# ------------------------------------------------------------------------------- write


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
    """Write a tree apart to its file.

    `check` is called between pieces, and may raise to stop; `commit` is given the renaming.  Fails: `FileUnwritable`.
    """
    replaced(path, lambda file: _write(file, content, step, serial, check), check=check, part=part, commit=commit)
    return Saved(path, step, content.note, serial)


def replaced(
    path: str,
    put: Callable[[io.BufferedWriter], object],
    *,
    check: Callable[[], object] = polled.check,
    part: str = ".write",
    commit: Callable[[Callable[[], None]], None] = lambda rename: rename(),
) -> None:
    """Give a file new contents, those that `put` writes: all of them, or after a crash or a fault none.

    They are written to a temporary file beside it, flushed and renamed, and the folder is flushed.  Fails: `FileUnwritable`.
    """
    with writing(path):
        target = _target(path)
        folder = os.path.dirname(target) or "."
        temporary = os.path.join(folder, f"{part}-{secrets.token_hex(8)}.part")
        with open(temporary, "xb") as file:  # "x" follows no link
            try:
                put(file)
                file.flush()
                os.fsync(file.fileno())
                check()
                commit(lambda: os.replace(temporary, target))
            except BaseException:  # a stop too: no part is left behind
                with contextlib.suppress(OSError):
                    os.remove(temporary)
                raise
        flush_folder(folder)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn the system's errors into a fault.  Fails: `FileUnwritable`."""
    try:
        check_name(path)
        yield
    except (OSError, MemoryError) as error:
        raise FaultError(FileUnwritable(path, reason_of(error))) from error


def check_name(path: str) -> None:
    """Raises: `OSError` for a path that no file can have, of which Python's own error is a `ValueError`."""
    try:
        if "\0" not in path:
            os.fsencode(path)
            return
    except UnicodeEncodeError:
        pass
    raise OSError(errno.EINVAL, "a file name cannot have such a character")


def _target(path: str) -> str:
    """The file to replace: a link's target, so that the link stays.  Raises: `OSError` for anything but a regular file."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a file")
    return target


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


def cut(numbers: memoryview) -> list[memoryview]:
    """The pieces that are hashed apart, and between which a stop is possible."""
    return [numbers[at : at + PIECE] for at in range(0, len(numbers), PIECE)]


def sha256(piece: memoryview | bytes) -> str:
    """The hash of a piece, in hexadecimal; other threads run meanwhile."""
    return hashlib.sha256(piece).hexdigest()


def flush_folder(folder: str) -> None:
    """Make the names in a folder durable, if the file system can."""
    with contextlib.suppress(PermissionError):  # a folder that can be written to, but not listed
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems without it
                raise
        finally:
            os.close(descriptor)


def reason_of(error: BaseException) -> str:
    """The reason in words."""
    return getattr(error, "strerror", None) or ("out of memory" if isinstance(error, MemoryError) else str(error))


# ------------------------------------------------------------------------------- read


def loaded(path: str) -> Loaded:
    """The contents of a file.  Fails: as `read`."""
    with opened(path) as (file, size):
        place = trailer_of(path, file, size)
        manifest = manifest_of(path, file, place, size)
        arrays = _arrays(path, file, manifest, place)
        with decoding(path):
            return Loaded(path, manifest.step, manifest.note_value(), restructured(manifest.structure, arrays))


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[io.BufferedReader, int]]:
    """A regular file and its size; errors while it is read are damage.  Fails: `FileMissing`, `FileCorrupt`, `OutOfMemory`."""
    try:
        check_name(path)
        if not stat.S_ISREG(os.stat(path).st_mode):  # first: opening a device may have an effect, or wait
            raise OSError(errno.EISDIR, "a folder, a pipe or a device, not a file")
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise FaultError(FileMissing(path, reason_of(error))) from error
    with file:
        try:
            yield file, os.fstat(file.fileno()).st_size
        except OSError as error:
            raise FaultError(FileCorrupt(path, "bytes that can be read", reason_of(error))) from error
        except MemoryError as error:
            raise FaultError(OutOfMemory(path)) from error


@contextlib.contextmanager
def decoding(path: str) -> Iterator[None]:
    """Interpret the manifest; an exception in it means that it is not as fnlamp writes it."""
    try:
        yield
    except (FaultError, MemoryError):
        raise
    except Exception as error:  # a manifest with a right hash and wrong contents can break any line
        actual = f"{type(error).__name__}: {error}"
        raise FaultError(FileCorrupt(path, "a manifest that fnlamp wrote", actual[:200])) from error


def trailer_of(path: str, file: io.BufferedReader, size: int) -> Trailer:
    """The trailer at the end of the file.  Fails: `FileCorrupt`, `FileTooNew`."""
    file.seek(max(0, size - TRAILER))
    place = parsed_trailer(file.read(TRAILER))
    if place is None:
        raise FaultError(FileCorrupt(path, "a whole checkpoint of fnlamp", f"{size:,} bytes without its end"))
    if place.version > VERSION:
        raise FaultError(FileTooNew(path, place.version, VERSION))
    return place


def manifest_of(path: str, file: io.BufferedReader, place: Trailer, size: int) -> Manifest:
    """The verified manifest.  Fails: `FileCorrupt`."""
    if place.size > LIMIT or place.start + place.size + TRAILER > size:
        raise FaultError(FileCorrupt(path, f"a manifest within the {size:,} bytes of the file", f"{place.size:,} bytes"))
    file.seek(place.start)
    text = file.read(place.size)
    _verify(f"{path}, {MANIFEST}", place.sha256, sha256(text))
    with decoding(path):
        return decoded(text)


def _verify(where: str, expected: str, actual: str) -> None:
    if actual != expected:
        raise FaultError(FileCorrupt(where, f"bytes of the SHA-256 {expected[:16]}...", f"{actual[:16]}..."))


def _arrays(path: str, file: io.BufferedReader, manifest: Manifest, place: Trailer) -> list[Any]:
    """The verified arrays, and every byte between them compared. They are hashed in a thread while the next ones are read."""
    with decoding(path):
        members = manifest.members()
        rest = members[-1].start + len(local_header(members[-1])) + members[-1].size if members else 0
        last = Member(MANIFEST, 0, place.size, rest)
    if rest + len(local_header(last)) != place.start:  # so no array is larger than the file
        raise FaultError(FileCorrupt(path, f"arrays that end at byte {place.start:,}", f"{rest:,}"))
    file.seek(0)
    hashes: list[tuple[str, str, Callable[[], str]]] = []
    with ThreadPoolExecutor(2, "fnlamp hash") as aside:
        try:
            arrays = [_array(path, file, *each, aside, hashes) for each in zip(manifest.stored, members, strict=True)]
            header, text = file.read(len(local_header(last))), file.read(place.size)
            last = last._replace(crc=zlib.crc32(text))
            end = directory([*members, last], trailer(place))
            same = header == local_header(last) and file.read(len(end) + 1) == end
            for name, expected, found in hashes:
                _verify(f"{path}, {name}", expected, found())
        except BaseException:  # a stop too: what is not hashed yet is not needed
            aside.shutdown(cancel_futures=True)
            raise
    if not same:
        raise FaultError(FileCorrupt(path, "the list of members that fnlamp writes", "other bytes"))
    with decoding(path):
        return [given_back(each.leaf, array) for each, array in zip(manifest.stored, arrays, strict=True)]


def _array(
    path: str,
    file: io.BufferedReader,
    each: Stored,
    member: Member,
    aside: ThreadPoolExecutor,
    hashes: list[tuple[str, str, Callable[[], str]]],
) -> Any:
    """The array, whose hashes are added with what is expected of them."""
    head = local_header(member) + npy_header(each.leaf)
    if file.read(len(head)) != head:
        raise FaultError(FileCorrupt(f"{path}, {each.name}", "the header that fnlamp writes", "other bytes"))
    with decoding(path):
        array, room = empty(each.leaf)
    for piece, expected in zip(cut(room), each.sha256, strict=True):
        polled.check()
        if file.readinto(piece) < len(piece):
            raise FaultError(FileCorrupt(f"{path}, {each.name}", f"{len(room):,} bytes", "fewer"))
        hashes.append((each.name, expected, _soon(aside, piece)))
    return array


def _soon(aside: ThreadPoolExecutor, piece: memoryview) -> Callable[[], str]:
    """A function that returns the hash, which a thread computes meanwhile, if that is worth it and the system has one left."""
    if len(piece) > 2**15:
        with contextlib.suppress(RuntimeError):
            return aside.submit(sha256, piece).result
    return lambda: sha256(piece)
