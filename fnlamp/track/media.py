"""Images and figures as files beside the lines, under the digest of their contents."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from typing import Any, Final

import numpy as np

from fnlamp.track.entry import SUFFIXES, Figure, Image
from fnlamp.track.place import replacing

FOLDER: Final = "media"
_PATH: Final = re.compile(r"media/[0-9a-f]{64}\.(png|svg)")


def kept(folder: str, value: Image | Figure) -> str:
    """Write the picture into `media/` of the folder, unless it is there; return its path from the folder.  Raises: `OSError`.

    The file gets its name when it is whole.
    """
    content, suffix = (png(value.pixels), ".png") if isinstance(value, Image) else (value.content, SUFFIXES[value.media_type])
    name = f"{FOLDER}/{hashlib.sha256(content).hexdigest()}{suffix}"
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with replacing(path) as part, open(part, "xb") as file:
            file.write(content)
    return name


def is_kept(name: Any) -> bool:
    """Whether this is a path that `kept` returns: nothing outside the folder is."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """The pixels, uint8 `(height, width)` or `(height, width, 3)`, as a PNG file.  Reference: RFC 2083, sections 3, 4.1.

    >>> png(np.zeros((2, 2), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    colour = 0 if pixels.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
