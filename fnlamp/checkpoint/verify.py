"""The contents of a checkpoint's file, every byte of which is verified before anything is returned."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fnlamp.checkpoint.archive import MANIFEST, TRAILER, Member, Trailer, directory, local_header, parsed_trailer, trailer
from fnlamp.checkpoint.leaf import empty, given_back, npy_header
from fnlamp.checkpoint.manifest import LIMIT, VERSION, Manifest, Stored, cut, decoded, sha256
from fnlamp.checkpoint.replace import check_name, reason_of
from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, FileTooNew, OutOfMemory


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


def arrays_of(path: str, file: io.BufferedReader, manifest: Manifest, place: Trailer) -> list[Any]:
    """The verified arrays, and every byte between them compared. Threads hash them while the next ones are read."""
    with decoding(path):
        members = manifest.members()
        arrays_end = members[-1].start + len(local_header(members[-1])) + members[-1].size if members else 0
        last = Member(MANIFEST, 0, place.size, arrays_end)
    if arrays_end + len(local_header(last)) != place.start:  # so no array is larger than the file
        raise FaultError(FileCorrupt(path, f"arrays up to the manifest at byte {place.start:,}", f"up to byte {arrays_end:,}"))
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
