"""The sizes that Parquet and Arrow files declare, read before pyarrow allocates: a limit must hold whatever they claim."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from fnlamp.data.readers.file import within

_OBJECT: Final = 512
"""Bytes that a part of a file's metadata takes in memory, however few it takes in the file."""
_FREE: Final = 2**24
"""Bytes of metadata in memory that do not count."""


@dataclass
class Budget:
    """The memory that a file's metadata may take; spending more fails with `TooLarge`."""

    path: str
    limit: int | None
    spent: int = -_FREE

    def spend(self, size: int) -> None:
        """Count these bytes.  Fails: `TooLarge`."""
        self.spent += size
        within(self.path, self.limit, self.spent)


# ------------------------------------------------------------------------------- Parquet

Fields: TypeAlias = Mapping[int, "Fields | None"]
"""The wanted fields of a struct, by number, each with the wanted fields of its own struct."""

_CHUNK: Final[Fields] = {3: {3: None, 5: None, 7: None, 9: None, 11: None}}
_FOOTER: Final[Fields] = {3: None, 4: {1: _CHUNK, 2: None, 3: None}, 5: {1: None, 2: None}}
_PAGE: Final[Fields] = {1: None, 2: None, 3: None, 5: {1: None}, 7: {1: None}, 8: {1: None}}
_DATA, _INDEX, _DICTIONARY = 0, 1, 2


class Chunk(NamedTuple):
    """A column of a row group: its place, and how many values it declares."""

    column: str
    start: int
    length: int
    values: int


class Footer(NamedTuple):
    """The declarations at the end of a Parquet file."""

    rows: int
    size: int
    chunks: list[Chunk]


@contextlib.contextmanager
def _complete() -> Iterator[None]:
    """Turn an access out of range, the sign of cut or incomplete metadata, into a `ValueError`."""
    try:
        yield
    except (LookupError, TypeError, struct.error, OverflowError) as error:
        raise ValueError("metadata that are cut, or lack a part") from error


@_complete()
def parquet_footer(raw: bytes, budget: Budget) -> Footer:
    """The footer, without the length and the mark at its end.  Fails: `TooLarge`.  Reference: parquet.thrift."""
    budget.spend(8 * len(raw))
    found = _Compact(raw, 0, budget).struct(_FOOTER)
    for pair in found.get(5, ()):
        if pair.get(1) == b"ARROW:schema":  # pyarrow builds a schema from this too
            message = base64.b64decode(pair.get(2, b""))
            schema_size(message[8:] if message[:4] == b"\xff\xff\xff\xff" else message[4:], budget)
    groups = found.get(4, [])
    chunks = [_chunk(chunk[3]) for group in groups for chunk in group.get(1, ())]
    rows = max(found.get(3, 0), sum(group.get(3, 0) for group in groups))
    return Footer(rows, sum(group.get(2, 0) for group in groups), chunks)


def _chunk(found: dict[int, Any]) -> Chunk:
    data, dictionary = found[9], found.get(11, 0)
    start = min(data, dictionary) if dictionary > 0 else data
    path = found[3]
    if start < 0 or found[7] < 0 or found[5] < 0:
        raise ValueError("a column at an impossible place")
    # Nested columns are not numbers and never read.
    return Chunk(path[0].decode() if len(path) == 1 else "", start, found[7], found[5])


@_complete()
def pages_size(raw: Any, chunk: Chunk, budget: Budget) -> int:
    """The bytes that the pages of a chunk unpack to, by their own headers, which pyarrow follows."""
    at, values, total = chunk.start, 0, 0
    while values < chunk.values and at < chunk.start + chunk.length:
        reader = _Compact(raw, at, budget)
        header = reader.struct(_PAGE)
        kind, unpacked, packed = header[1], header[2], header[3]
        if unpacked < 0 or packed < 0:
            raise ValueError("a page of negative length")
        if kind == _DICTIONARY and header[7][1] > unpacked:
            raise ValueError("a dictionary of more numbers than bytes")
        values += max((header.get(5) or header.get(8) or {}).get(1, 0), 0)
        total += unpacked
        at = reader.at + packed
    return total


class _Compact:
    """A reader of Thrift's compact protocol.  Reference: Apache Thrift, "Thrift Compact protocol encoding"."""

    def __init__(self, raw: Any, at: int, budget: Budget) -> None:
        self.raw, self.at, self.budget = raw, at, budget

    def struct(self, wanted: Fields, depth: int = 0) -> dict[int, Any]:
        """The wanted fields; others are skipped."""
        self.budget.spend(_OBJECT)
        if depth > 20:
            raise ValueError("structs nested deeper than in any footer")
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else self._number()
            value = self._value(kind, wanted.get(field), depth)
            if field in wanted:
                found[field] = value
        return found

    def _value(self, kind: int, wanted: Fields | None, depth: int) -> Any:
        match kind:
            case 1 | 2:  # in a struct, the kind is the value
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._number()
            case 7:
                self.at += 8
            case 8:
                length = self._varint()
                self.at += length
                if self.at > len(self.raw):
                    raise ValueError("a text longer than its file")
                return bytes(self.raw[self.at - length : self.at])
            case 9 | 10:
                return self._list(wanted, depth)
            case 12:
                return self.struct(wanted or {}, depth + 1)
            case _:
                raise ValueError(f"a field of the unknown kind {kind}")
        return None

    def _list(self, wanted: Fields | None, depth: int) -> list[Any]:
        head = self._byte()
        kind, count = head & 15, head >> 4
        count = self._varint() if count == 15 else count
        if count > len(self.raw) - self.at:
            raise ValueError("a list longer than its file")
        if kind in (1, 2):  # in a list, booleans are bytes
            kind = 3
        if kind == 8:
            self.budget.spend(_OBJECT // 8 * count)
        return [self._value(kind, wanted, depth) for _ in range(count)]

    def _byte(self) -> int:
        value: int = self.raw[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
        return value | byte << shift

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


# ------------------------------------------------------------------------------- Arrow


class Batch(NamedTuple):
    """The declarations of a record batch or a dictionary: rows, bytes of its unpacked buffers, and place."""

    rows: int
    size: int
    dictionary: bool
    place: tuple[int, int]
    """Its offset, and the bytes of its numbers."""


@_complete()
def arrow_batches(raw: memoryview, at: int, budget: Budget) -> list[Batch]:
    """The declarations of a stream's messages.  Fails: `TooLarge`.  Reference: Arrow's Message.fbs, IPC format."""
    return list(_messages(raw, at, budget))


def _messages(raw: memoryview, at: int, budget: Budget) -> Iterator[Batch]:
    while at + 8 <= len(raw):
        mark, length = struct.unpack_from("<Ii", raw, at)
        if mark != 0xFFFFFFFF or length < 0:
            raise ValueError("a message without its mark, as before version 0.15")
        if not length:
            return
        message = Flat.root(raw[at + 8 : at + 8 + length])
        kind, body, size = message.number(1, "<B"), at + 8 + length, message.number(3, "<q")
        if size < 0:
            raise ValueError("a message of negative length")
        budget.spend(_OBJECT)
        if kind == 1:
            schema_size(message.raw, budget)
        _spend_pairs(message, 4, budget)
        if kind in (2, 3):
            found = message.table(2)
            batch = found.table(1) if kind == 2 else found
            packed, total = batch.at(3) is not None, 0
            for offset, room in batch.pairs(2):
                if packed and room >= 8:
                    (unpacked,) = struct.unpack_from("<q", raw, body + offset)
                    room = max(room, unpacked)  # -1 means that this buffer is not packed
                total += max(room, 0)
            yield Batch(batch.number(0, "<q"), total, kind == 2, (at, size))
        at = body + size


@_complete()
def check_list(raw: memoryview, batches: list[Batch], budget: Budget) -> None:
    """Check the list of batches at the end of an Arrow file, which a cut file lacks.  Raises: `ValueError`."""
    (length,) = struct.unpack_from("<i", raw, len(raw) - 10)
    if bytes(raw[-6:]) != b"ARROW1" or not 0 < length <= len(raw) - 10:
        raise ValueError("a file that ends without its list of batches")
    footer = Flat.root(raw[len(raw) - 10 - length : len(raw) - 10])
    _spend_schema(footer.table(1), budget)
    for field, dictionary in ((2, True), (3, False)):
        listed = [struct.unpack_from("<q8xq", footer.raw, at) for at in range(*footer.span(field, 24))]
        if sorted(listed) != [batch.place for batch in batches if batch.dictionary is dictionary]:
            raise ValueError(f"{len(batches)} batches, where its end lists {len(listed)} others")


def schema_size(message: bytes | memoryview, budget: Budget) -> None:
    """Count the memory that the schema in a message takes."""
    _spend_schema(Flat.root(memoryview(message)).table(2), budget)


def _spend_schema(schema: Flat, budget: Budget) -> None:
    """Count the parts of a schema: a FlatBuffer may share them, but pyarrow builds one for each reference."""
    left = 8 * len(schema.raw)
    _spend_pairs(schema, 2, budget)
    waiting = [schema]
    while waiting:
        table = waiting.pop()
        inner = table.span(1 if table is schema else 5, 4)
        left -= len(range(*inner))
        if left < 0:  # pyarrow's own bound
            raise ValueError("a schema that repeats parts of itself")
        budget.spend(2 * _OBJECT * len(range(*inner)))
        for field in table.tables(inner):
            budget.spend(field.length(0))
            _spend_pairs(field, 6, budget)
            waiting.append(field)


def _spend_pairs(table: Flat, field: int, budget: Budget) -> None:
    """Count keys and values."""
    pairs = table.span(field, 4)
    budget.spend(_OBJECT // 4 * len(range(*pairs)))
    for pair in table.tables(pairs):
        budget.spend(pair.length(0) + pair.length(1))


class Flat(NamedTuple):
    """A table of a FlatBuffer.  Reference: FlatBuffers' internals, "Tables"."""

    raw: memoryview
    start: int

    @classmethod
    def root(cls, raw: memoryview) -> Flat:
        return cls(raw, *struct.unpack_from("<I", raw))

    def at(self, field: int) -> int | None:
        """The offset of a field, or `None` if it is absent."""
        entries = self.start - struct.unpack_from("<i", self.raw, self.start)[0]
        if entries < 0:
            raise ValueError("a table outside its message")
        if 4 + 2 * field >= struct.unpack_from("<H", self.raw, entries)[0]:
            return None
        (offset,) = struct.unpack_from("<H", self.raw, entries + 4 + 2 * field)
        return self.start + offset if offset else None

    def number(self, field: int, form: str) -> int:
        at = self.at(field)
        value: int = 0 if at is None else struct.unpack_from(form, self.raw, at)[0]
        return value

    def _followed(self, field: int) -> int:
        at = self.at(field)
        if at is None:
            raise ValueError("a message that lacks a part")
        to: int = at + struct.unpack_from("<I", self.raw, at)[0]
        return to

    def table(self, field: int) -> Flat:
        return Flat(self.raw, self._followed(field))

    def length(self, field: int) -> int:
        """The bytes of a text."""
        if self.at(field) is None:
            return 0
        size: int = struct.unpack_from("<I", self.raw, self._followed(field))[0]
        return size

    def span(self, field: int, size: int) -> tuple[int, int, int]:
        """The offsets of a vector's items, as the arguments of `range`."""
        if self.at(field) is None:
            return 0, 0, size
        start = self._followed(field)
        (count,) = struct.unpack_from("<I", self.raw, start)
        if start + 4 + size * count > len(self.raw):
            raise ValueError("a list longer than its message")
        return start + 4, start + 4 + size * count, size

    def tables(self, span: tuple[int, int, int]) -> Iterator[Flat]:
        """The tables that a vector refers to."""
        return (Flat(self.raw, at + struct.unpack_from("<I", self.raw, at)[0]) for at in range(*span))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of pairs of 64-bit numbers."""
        return (struct.unpack_from("<qq", self.raw, at) for at in range(*self.span(field, 16)))
