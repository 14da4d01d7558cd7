"""Memory shared by two processes, by which batches get from a worker to the program without a pipe.

It is an anonymous file in memory (an unlinked temporary file on systems without memfd), so it needs no space in /dev/shm, and
disappears when the last process that holds it ends, however it ends.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from typing import Any, TypeAlias

import numpy as np

Layout: TypeAlias = list[tuple[int, int]]
"""Offset and length of the parts of an object: its pickle, then the buffers of its arrays."""

_LINE = 64  # bytes: the alignment at which JAX uses an array without a copy


class Shared:
    """A block of memory to write objects into; it grows as needed."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _unnamed_file() if fd is None else fd
        self._map: mmap.mmap | None = None

    def write(self, *values: Any) -> list[Layout]:
        """Write objects over the previous contents."""
        layouts, parts, end = [], [], 0
        for value in values:
            buffers: list[pickle.PickleBuffer] = []
            text = io.BytesIO()
            _Pickler(text, protocol=5, buffer_callback=buffers.append).dump(value)
            layout = []
            for part in (text.getbuffer(), *(buffer.raw() for buffer in buffers)):
                layout.append((end, part.nbytes))
                parts.append((end, part))
                end += -(-part.nbytes // _LINE) * _LINE
            layouts.append(layout)
        target = self._mapped(end)
        for start, part in parts:
            target[start : start + part.nbytes] = part
        return layouts

    def read(self, layout: Layout) -> Any:
        """An object, copied to its own memory."""
        end = sum(layout[-1])
        room = np.empty(end + _LINE, np.uint8)
        first = -room.ctypes.data % _LINE
        room = room[first : first + end]
        room[:] = np.frombuffer(self._mapped(end), np.uint8, end)
        return _loaded(room.data, layout)

    def view(self, layout: Layout) -> Any:
        """An object in place, valid until the next write; changes to it are private to this process."""
        return _loaded(memoryview(mmap.mmap(self.fd, sum(layout[-1]), access=mmap.ACCESS_COPY)), layout)

    def counters(self) -> memoryview:
        """The block as 64-bit integers, initially 0; other processes see a write at once."""
        return memoryview(self._mapped(mmap.PAGESIZE)).cast("q")

    def close(self) -> None:
        """Release the memory; a second call does nothing."""
        fd, self.fd, self._map = self.fd, -1, None
        if fd >= 0:
            os.close(fd)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            there = os.fstat(self.fd).st_size
            if there < size:
                there = -(-size * 5 // 4 // mmap.PAGESIZE) * mmap.PAGESIZE  # so that batches of many sizes rarely grow it
                os.ftruncate(self.fd, there)
            self._map = mmap.mmap(self.fd, there)
        return self._map


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fnlamp")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _loaded(memory: memoryview, layout: Layout) -> Any:
    text, *buffers = [memory[start : start + length] for start, length in layout]
    return pickle.loads(text, buffers=buffers)


class _Pickler(pickle.Pickler):
    """Pickles the name of a mapped file instead of its contents."""

    def reducer_override(self, value: Any) -> Any:
        whole = _whole_map(value) if isinstance(value, np.ndarray) else None
        if whole is None:
            return NotImplemented
        reach = [(n - 1) * step for n, step in zip(value.shape, value.strides, strict=True)]
        before = -sum(min(step, 0) for step in reach)  # bytes of the view before its first element
        size = before + sum(max(step, 0) for step in reach) + value.itemsize
        start = _begin(whole) + value.ctypes.data - before - np.frombuffer(whole._mmap, np.uint8).ctypes.data
        view = value.shape, value.dtype, before, value.strides
        return _map_again, ((str(whole.filename), start, size), view, type(value) is np.memmap)


def _whole_map(array: np.ndarray[Any, Any]) -> Any:
    """The map of which an array is a view, if the file has the same contents: not for a copy-on-write map."""
    if type(array) not in (np.ndarray, np.memmap) or not array.size or array.dtype.hasobject:
        return None
    whole: Any = array
    while type(whole) is np.ndarray:
        whole = whole.base
    named = type(whole) is np.memmap and whole.filename is not None and whole.mode != "c"
    return whole if named and _same_file(whole) else None


def _same_file(whole: Any) -> bool:
    """Whether the file exists and was not replaced by another, which is detected from its first and last bytes."""
    ends = [(0, 4096), (max(len(whole._mmap) - 4096, 0), 4096)]
    try:
        with open(whole.filename, "rb") as file:
            return all(os.pread(file.fileno(), n, _begin(whole) + at) == whole._mmap[at : at + n] for at, n in ends)
    except OSError:
        return False


def _begin(whole: Any) -> int:
    """The offset in the file at which the memory of a map starts."""
    return int(whole.offset - whole.offset % mmap.ALLOCATIONGRANULARITY)


def _map_again(part: tuple[str, int, int], view: tuple[Any, ...], named: bool) -> Any:
    """The view of a part of a file; writes to it are private to this process."""
    filename, start, size = part
    shape, dtype, offset, strides = view
    array: Any = np.ndarray(shape, dtype, np.memmap(filename, np.uint8, "c", start, (size,)), offset, strides)
    return array.view(np.memmap) if named else array
