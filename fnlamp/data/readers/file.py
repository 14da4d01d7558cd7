"""The bytes of a file, unpacked if packed and never more than a limit, or a typed fault."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from stat import S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np

from fnlamp.effect import Effect, Outline, Unknown
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, OutOfMemory, TooLarge, printable

A = TypeVar("A")
File: TypeAlias = "io.BufferedReader[Any]"


class Bytes(Protocol):
    """A source of bytes that an array can be read from."""

    def read(self, size: int, /) -> bytes: ...
    def readinto(self, buffer: Any, /) -> int: ...


LIMIT: Final = 2**32
"""Bytes that a file may unpack to, by default."""

PIECE: Final = 2**17
"""Bytes per read: they fit a cache, and limit the part that one bad cell forces to be parsed cell by cell."""

QUOTED: Final = 2**19
"""Bytes in a header after which an open quote counts as never closed."""

DEFLATE: Final = 1032
"""The most bytes that one byte of deflate can unpack to: 258 for each two bits."""


LINE: Final = 2**23
"""The most bytes in a line of text: enough for many columns, and little enough to parse in memory."""


def reading(path: str, load: Callable[[], A]) -> Effect[A, Any]:
    """The program that loads from `path`; the faults that it raises become failures, as does running out of memory."""

    def loaded() -> A:
        try:
            return load()
        except MemoryError as error:
            raise FaultError(OutOfMemory(path)) from error

    def outline() -> Outline:
        return Outline((f"read {printable(path)}",), Unknown("the contents of the file are unknown until it is read"))

    return Effect.checked(loaded).named(f"read {path}").outlined(outline)


def read_all(path: str, limit: int | None = None) -> bytes:
    """The whole contents.  Fails: `FileMissing`, `FileCorrupt`, `TooLarge`."""
    with opened(path) as (file, _):
        return rest_of(path, file, limit)


def rest_of(path: str, file: File, limit: int | None) -> bytes:
    """The rest of a file, held in memory once.  Fails: `FileCorrupt`, `TooLarge`."""
    contents = io.BytesIO()
    while piece := file.read(PIECE):
        within(path, limit, contents.tell() + len(piece))
        contents.write(piece)
    return contents.getvalue()  # the same memory, not a copy


def text_size(raw: bytes | bytearray | memoryview) -> int:
    """An upper bound on the bytes that UTF-8 takes as a Python `str`: 1, 2 or 4 per character, by the widest one.

    >>> text_size("grün".encode()), text_size("🙂!".encode())
    (4, 8)
    """
    if not len(raw):
        return 0
    codes = np.frombuffer(raw, np.uint8)
    widest = max(int(codes[at : at + PIECE].max()) for at in range(0, len(codes), PIECE))
    if widest < 0x80:
        return len(raw)
    characters = len(raw) - sum(int(((codes[at : at + PIECE] & 0xC0) == 0x80).sum()) for at in range(0, len(codes), PIECE))
    return characters * (1 if widest < 0xC4 else 2 if widest < 0xF0 else 4)


def read_array(
    path: str, file: Bytes, most: int, dtype: np.dtype[Any], shape: tuple[int, ...], limit: int | None = None
) -> np.ndarray[Any, Any]:
    """The array whose numbers are the rest of the file, at most `most` bytes, in C order and native byte order.

    Nothing of the declared size is allocated before that size is known to be possible.  Fails: `FileCorrupt`, `TooLarge`.
    """
    wanted = math.prod(shape) * dtype.itemsize
    expected = f"{wanted:,} bytes of data for shape {list(shape)}"
    if wanted > most:
        raise FaultError(FileCorrupt(path, expected, f"{most:,} bytes at the most"))
    within(path, limit, wanted)
    # An axis of length 0 hides the others from `wanted`.
    if len(shape) > 64 or math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize:
        raise FaultError(FileCorrupt(path, "lengths that an array can have", f"{list(shape)}"))
    try:
        array = np.empty(shape, dtype)
    except MemoryError as error:
        raise FaultError(OutOfMemory(path, wanted)) from error
    room, received = array.reshape(-1).view(np.uint8).data, 0
    while received < wanted and (count := file.readinto(room[received : received + PIECE])):
        received += count
    if received < wanted or file.read(1):
        actual = f"{received:,} bytes" if received < wanted else f"{received + 1:,} bytes or more"
        raise FaultError(FileCorrupt(path, expected, actual))
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise FaultError(FileCorrupt(path, "booleans, bytes of 0 and 1", f"{array.view(np.uint8).max()}"))
    return array.astype(dtype.newbyteorder("="), copy=False)


def plain(dtype: np.dtype[Any]) -> bool:
    """Whether the bytes of an array are its values: numbers, times, strings of fixed length, and records of these."""
    if dtype.fields is not None:
        return not dtype.hasobject and all(plain(field[0]) for field in dtype.fields.values())
    return dtype.base.kind in "biufcmMSUV" and not dtype.hasobject and (dtype.subdtype is None or plain(dtype.base))


@contextlib.contextmanager
def decoding(path: str, expected: str) -> Iterator[None]:
    """Run third-party code on untrusted bytes; an exception in it means that they are not as `expected`."""
    try:
        yield
    except (FaultError, MemoryError):
        raise
    except Exception as error:  # parsers raise exceptions of any type for damaged bytes
        actual = str(error) or type(error).__name__
        raise FaultError(FileCorrupt(path, expected, actual if len(actual) <= 200 else actual[:197] + "...")) from error


def read_table(path: str, header: bool, count: int | None, limit: int | None = None) -> Generator[bytes, None, None]:
    """The header, if any, then the first `count` lines after it, or all, in blocks of whole lines.

    A BOM and blank lines at the end are dropped, and no more is read than needed. While one piece is parsed, the next one is
    unpacked. A header may span lines inside quotes; it ends where the number of quotes is even.
    Fails: `FileMissing`, `FileCorrupt`, `TooLarge`.
    """
    with opened(path) as (file, _), ThreadPoolExecutor(1) as aside:
        most = LINE + 1 if limit is None else min(LINE, limit) + 1
        first = bytearray(file.readline(most).removeprefix(b"\xef\xbb\xbf"))
        is_open = header and first.count(b'"') % 2
        quote = first.rfind(b'"')
        while is_open and (line := file.readline(most)):
            first += line
            within(path, limit, len(first))
            if more := line.count(b'"'):
                is_open, quote = (is_open + more) % 2, first.rfind(b'"')
            elif len(first) - quote > QUOTED:
                raise FaultError(FileCorrupt(path, "a header whose quotes are closed", f"one open for {QUOTED:,} bytes"))
        within(path, limit, size := len(first))
        _check_line(path, len(first))
        rest = bytes(first)
        if header:
            yield rest
            rest = b""
        left = sys.maxsize if count is None else count
        ahead = _soon(aside, file.read, PIECE)
        while left and (piece := ahead()):
            ahead = _soon(aside, file.read, max(PIECE, len(rest)))  # grows, so that a long line is not copied for each piece
            within(path, limit, size := size + len(piece))
            rest += piece
            stop = rest.rfind(b"\n", 0, len(rest.rstrip(b"\r\n"))) + 1
            if stop:
                whole, rest = _first(rest[:stop], left), rest[stop:]
                left -= whole.count(b"\n")
                yield whole
            _check_line(path, len(rest))
        if left and rest.rstrip(b"\r\n"):
            yield _first(rest.rstrip(b"\r\n") + b"\n", left)


def _soon(aside: ThreadPoolExecutor, read: Callable[[int], bytes], size: int) -> Callable[[], bytes]:
    """A function that returns the next piece, which another thread reads meanwhile, if the system has a thread left."""
    try:
        return aside.submit(read, size).result
    except RuntimeError:
        aside.shutdown(cancel_futures=True)  # else a queued read could take a piece once a thread starts
        return lambda: read(size)


def _check_line(path: str, length: int) -> None:
    if length > LINE:
        expected = f"lines of at most {LINE:,} bytes; an NPY or a Parquet file can be wider"
        raise FaultError(FileCorrupt(path, expected, "a longer one"))


def _first(lines: bytes, count: int) -> bytes:
    """The first `count` lines."""
    if count >= len(lines):
        return lines
    ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
    return lines[: ends[count - 1] + 1] if count <= len(ends) else lines


def within(path: str, limit: int | None, size: int) -> None:
    """Check the size against the limit.  Fails: `TooLarge`."""
    if limit is not None and size > limit:
        raise FaultError(TooLarge(path, limit, size))


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[File, int]]:
    """The file, unpacked if its first bytes are gzip's, and the most bytes that it can hold.

    Fails: `FileMissing`; `FileCorrupt` for a damaged stream, and for a file that changes meanwhile, which may mix two versions.
    """
    try:
        with open_file(path) as raw, _unchanged(path, raw):
            size = os.fstat(raw.fileno()).st_size
            if raw.peek(2)[:2] == _MAGIC:
                with io.BufferedReader(_Gzip(raw), PIECE) as file:
                    yield file, size * DEFLATE
            else:
                yield raw, size
    except zlib.error as error:
        raise FaultError(FileCorrupt(path, "an intact gzip stream", str(error))) from error
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error


@contextlib.contextmanager
def _unchanged(path: str, file: File) -> Iterator[None]:
    """If a file changes while it is read, report that as the cause of any other error."""
    before = os.fstat(file.fileno())
    try:
        yield
    except (FaultError, zlib.error, GeneratorExit) as error:  # GeneratorExit: the consumer met a fault
        _check_same(path, before, os.fstat(file.fileno()), error)
        raise
    _check_same(path, before, os.fstat(file.fileno()), None)


def _check_same(path: str, before: os.stat_result, after: os.stat_result, cause: BaseException | None) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        actual = f"one that was written to ({before.st_size:,} bytes, then {after.st_size:,}); read a copy"
        raise FaultError(FileCorrupt(path, "a file that does not change while it is read", actual)) from cause


def open_file(path: str) -> File:
    """A regular file, open for reading.  Fails: `FileMissing`, without waiting for pipes and devices."""
    openable(path)
    try:
        check_regular(path, os.stat(path).st_mode)  # first: opening some devices has an effect
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error
    try:
        check_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced
    except BaseException:  # an interruption too: the caller has no file to close
        file.close()
        raise
    return file


def check_regular(path: str, mode: int) -> None:
    """Check that this is a regular file.  Fails: `FileMissing`."""
    if S_ISREG(mode):
        return
    if S_ISDIR(mode):
        raise FaultError(FileMissing(path, os.strerror(errno.EISDIR)))
    kind = "a pipe" if S_ISFIFO(mode) else "a socket" if S_ISSOCK(mode) else "a device"
    raise FaultError(FileMissing(path, f"{kind}, not a file; write its contents to a file"))


def openable(path: str) -> None:
    """Check that a file can have this path.  Fails: `FileMissing`."""
    try:
        if "\0" not in path:
            os.fsencode(path)
            return
    except UnicodeEncodeError:
        pass
    raise FaultError(FileMissing(ascii(path)[1:-1], "a file name cannot have such a character"))


_MAGIC: Final = b"\x1f\x8b"


class _Gzip(io.RawIOBase):
    """The contents of a gzip file of one or more members; zlib verifies their checksums.  Reference: RFC 1952.

    Unlike `gzip.open`, this lets zlib verify checksums while it unpacks, and unpacks a cacheful at a time.
    """

    def __init__(self, raw: File) -> None:
        super().__init__()
        self._raw = raw
        self._member = zlib.decompressobj(wbits=31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = min(len(buffer), PIECE)
        while True:
            if self._member.eof:
                packed = self._next()
                if not packed:
                    return 0
                self._member = zlib.decompressobj(wbits=31)
            else:
                packed = self._member.unconsumed_tail or self._raw.read(2**16)
                if not packed:
                    raise zlib.error("the file ends before the stream does")
            if piece := self._member.decompress(packed, room):
                buffer[: len(piece)] = piece
                return len(piece)

    def _next(self) -> bytes:
        """The start of the next member; zeros may follow a member, as padding on tapes."""
        packed = self._member.unused_data.lstrip(b"\0")
        while not packed and (more := self._raw.read(2**16)):
            packed = more.lstrip(b"\0")
        return packed
