"""TensorBoard's files of events: records with checksums, in the wire format of protocol buffers.

Reference: tensorflow/core/lib/io/record_writer.h (length, its checksum, the event, its checksum) and
tensorflow/core/util/event.proto.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fnlamp.extra import need
from fnlamp.track.entry import Alert, Entry, Figure, Histogram, Image, Indexed, Progress, Resumed, Rows, Text, cancelled
from fnlamp.track.media import png
from fnlamp.track.place import removed

_number: Final = itertools.count()


class Events:
    """One file of events, which is created in the folder; a part of it is whole or missing after a kill."""

    def __init__(self, folder: str, hyper: Mapping[str, Any]) -> None:
        self._crc = need("crc32c", "tensorboard").crc32c
        self._folder, self._hyper = folder, hyper
        self._tags: dict[tuple[str, str], str] = {}
        self._scalar_tags: dict[str, bytes] = {}
        self._open()

    def _open(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self._file = io.FileIO(os.path.join(self._folder, name), "x")
        start = io.BytesIO()
        self._record(start, b"\x09" + struct.pack("<d", time.time()) + _field(3, b"brain.Event:2"))
        if self._hyper:
            for summary in need("tensorboardX.summary", "tensorboard").hparams(dict(self._hyper), {})[:2]:
                self._record(start, _event(time.time(), 0) + _field(5, summary.SerializeToString()))
        self.write(start.getvalue())

    def put(self, entry: Entry, into: io.BytesIO) -> None:
        """Append the records of an entry."""
        head = _event(entry.time, entry.step)
        if cancelled(entry) == "":  # TensorBoard leaves out the steps from this one on, of all tags
            started = _field(7, b"\x08\x01")  # SessionLog.START
            self._record(into, _event(entry.time, entry.step + 1) + started)
        parts = []
        for name, value in entry.values.items():
            if type(value) is float:
                parts.append(_field(1, self._scalar_tag(name) + b"\x15" + _float32(value)))
            elif not isinstance(value, Progress | Resumed):
                parts.append(_field(1, self._other(name, value)))
        if parts:
            self._record(into, head + _field(5, b"".join(parts)))

    def write(self, records: bytes) -> None:
        """Raises: `OSError`; the file then ends where it did."""
        if removed(self._file, str(self._file.name)):
            self._file.close()
            self._open()
        end = os.fstat(self._file.fileno()).st_size
        try:
            at = 0
            while at < len(records):
                at += self._file.write(records[at:]) or 0
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()

    def _record(self, into: io.BytesIO, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        into.write(length + struct.pack("<I", self._masked(length)) + event + struct.pack("<I", self._masked(event)))

    def _masked(self, content: bytes) -> int:
        """The checksum, rotated right by 15 bits and shifted by a constant."""
        crc: int = self._crc(content)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    def _scalar_tag(self, name: str) -> bytes:
        found = self._scalar_tags.get(name)
        if found is None:
            found = self._scalar_tags[name] = _field(1, self._tag(name, "scalar").encode())
        return found

    def _tag(self, name: str, kind: str) -> str:
        """The tag: dots as slashes, by which TensorBoard groups; another one if that is taken, by another name or kind."""
        if (name, kind) not in self._tags:
            wishes = name if "/" in name else name.replace(".", "/", 1), name, f"{name} ({kind})"
            self._tags[name, kind] = next(wish for wish in wishes if wish not in self._tags.values())
        return self._tags[name, kind]

    def _other(self, name: str, value: Any) -> bytes:
        """The value of a summary that is not a scalar."""
        summary = need("tensorboardX.summary", "tensorboard")
        match value:
            case Histogram():
                return _value(summary.histogram_raw(self._tag(name, "histogram"), *_moments(value)))
            case Indexed(_, values):
                finite = values[np.isfinite(values)]
                counts, edges = np.histogram(finite, 30)
                tag = self._tag(name, "histogram")
                return _value(summary.histogram_raw(tag, *_moments(Histogram(edges, counts))))
            case Image(pixels):
                height, width = pixels.shape[:2]
                return _field(1, self._tag(name, "image").encode()) + _image(height, width, png(pixels))
            case Figure(content, "image/png"):
                width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
                return _field(1, self._tag(name, "image").encode()) + _image(height, width, content)
        return _value(summary.text(self._tag(name, "text"), _text(value)))


def _text(value: Any) -> str:
    """The value in Markdown."""
    match value:
        case Text(text):
            return text
        case Alert(text, level):
            return f"**{level}**: {text}"
        case Rows(columns, rows):
            cells = [columns, ["---"] * len(columns), *rows]
            return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)
        case Figure(_, media_type):
            return f"a figure of the type {media_type}, which TensorBoard does not show"
    raise TypeError(f"no such value is written: {value!r}")


def _moments(histogram: Histogram) -> tuple[Any, ...]:
    """The least and the largest number, their count, sum and sum of squares, as far as bins tell, and the bins."""
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    total, squares = float((centres * counts).sum()), float((centres**2 * counts).sum())
    # TensorBoard has no left edge: an empty bin before the first one is it.
    return float(edges[0]), float(edges[-1]), counts.sum(), total, squares, edges.tolist(), [0.0, *counts.tolist()]


# ---- protocol buffers: a field is its number and type, then a length and bytes, or a number


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def _event(time: float, step: int) -> bytes:
    return b"\x09" + struct.pack("<d", time) + b"\x10" + _varint(step)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # finite, and beyond float32, which TensorBoard stores
        return struct.pack("<f", np.inf if value > 0 else -np.inf)


def _image(height: int, width: int, content: bytes) -> bytes:
    return _field(4, b"\x08" + _varint(height) + b"\x10" + _varint(width) + b"\x18\x03" + _field(4, content))


def _value(summary: Any) -> bytes:
    return bytes(summary.value[0].SerializeToString())
