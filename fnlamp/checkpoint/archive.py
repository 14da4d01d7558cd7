"""The zip archive of a checkpoint: one fixed layout, of which a reader knows every byte beforehand.

Members are stored, sizes are 64-bit, and the archive ends with a comment that says where the manifest is. A reader makes the
same headers from the manifest and compares, so it interprets no header that a damaged file declares.
Reference: PKWARE's APPNOTE 6.3.10.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

MANIFEST: Final = "manifest.json"
_WIDE: Final = 0xFFFFFFFF
"""A size that is in the extra field, in 64 bits."""
_DATE: Final = 0x21  # 1980-01-01, the first: the same tree is the same bytes
_NEEDED: Final = 45  # the version of zip with 64-bit sizes


class Member(NamedTuple):
    """A file in the archive, and the place of its header."""

    name: str
    crc: int
    size: int
    start: int


def local_header(member: Member) -> bytes:
    """The bytes before the contents of a member."""
    name = member.name.encode("ascii")
    fields = (0x04034B50, _NEEDED, 0, 0, 0, _DATE, member.crc, _WIDE, _WIDE, len(name), 20)
    return struct.pack("<I5H3I2H", *fields) + name + struct.pack("<2H2Q", 1, 16, member.size, member.size)


def directory(members: Iterable[Member], comment: bytes) -> bytes:
    """The bytes after the last member: the list of members, and the comment."""
    entries = [_entry(member) for member in members]
    (last,) = [member for member in members if member.name == MANIFEST]
    start = last.start + len(local_header(last)) + last.size
    size, count = sum(map(len, entries)), len(entries)
    end64 = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, _NEEDED, _NEEDED, 0, 0, count, count, size, start)
    locator = struct.pack("<IIQI", 0x07064B50, 0, start + size, 1)
    end = struct.pack("<I4H2IH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, _WIDE, _WIDE, len(comment))
    return b"".join([*entries, end64, locator, end, comment])


def _entry(member: Member) -> bytes:
    name = member.name.encode("ascii")
    unix, mode = 3 << 8 | _NEEDED, 0o100644 << 16
    fields = (0x02014B50, unix, _NEEDED, 0, 0, 0, _DATE, member.crc, _WIDE, _WIDE, len(name), 28, 0, 0, 0, mode, _WIDE)
    return struct.pack("<I6H3I5H2I", *fields) + name + struct.pack("<2H3Q", 1, 24, member.size, member.size, member.start)


def member_name(path: tuple[str, ...], used: set[str]) -> str:
    """A new file name for a leaf: its path, with what is not a letter, digit, `_`, `.` or `-` as percent and hexadecimal.

    >>> member_name(("layer/1", "größe"), set())
    'layer%2F1/gr%C3%B6%C3%9Fe'
    """
    name = "/".join(map(_escaped, path)) or "leaf"
    if len(name) > 200:
        name = name[:200] + f"~{len(used)}"
    if name.endswith(".npy"):
        name = name[:-4] + "%2Enpy"  # NumPy takes `a.npy` for `a`
    if name in used:
        name += f"~{len(used)}"
    used.add(name)
    return name


def _escaped(part: str) -> str:
    found = quote_from_bytes(part.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    return found.replace(".", "%2E") if found in (".", "..") else found or "%"


# ------------------------------------------------------------------------------- the comment


class Trailer(NamedTuple):
    """The archive's comment: the format's version, the save's place in the order of saves, the manifest's place and hash."""

    version: int
    serial: int
    start: int
    size: int
    sha256: str


def trailer(found: Trailer) -> bytes:
    """The trailer as text of `TRAILER` bytes, with a checksum."""
    text = b"fnlamp checkpoint %06d %020d %020d %020d %s" % (*found[:4], found.sha256.encode())
    return text + b" %08x" % zlib.crc32(text)


TRAILER: Final = len(trailer(Trailer(0, 0, 0, 0, "0" * 64)))
_TRAILER: Final = re.compile(rb"(fnlamp checkpoint (\d{6}) (\d{20}) (\d{20}) (\d{20}) ([0-9a-f]{64})) ([0-9a-f]{8})")


def parsed_trailer(raw: bytes) -> Trailer | None:
    """The trailer in the last bytes of a file; `None` if they are not an intact one."""
    found = _TRAILER.fullmatch(raw)
    if found is None or int(found[7], 16) != zlib.crc32(found[1]):
        return None
    return Trailer(int(found[2]), int(found[3]), int(found[4]), int(found[5]), found[6].decode())
