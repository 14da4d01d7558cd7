"""Pickles of arrays, such as `mnist.pkl.gz`; nothing that a pickle names is imported or called."""

from __future__ import annotations

from os import PathLike
from typing import Any

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, read_all, reading
from fnlamp.data.readers.machine import Machine, contents
from fnlamp.effect import Effect
from fnlamp.fault import FileFault


def read_pickle(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[Any, FileFault]:
    """The contents of a pickle of arrays, numbers, strings, tuples, lists and dicts, of Python 2 or 3, packed with gzip or not.

    `mnist.pkl.gz` gives `((images, labels), (images, labels), (images, labels))`: training, validation, test. Arrays are
    read-only and in native byte order. No code of the pickle runs: the few functions with which NumPy writes an array are
    recognized and replaced by fnlamp's own; any other name is a fault. `limit` is how many bytes the file may unpack to, each
    object counted as 64. Fails: `FileMissing`; `FileCorrupt` for a damaged or cut file, and for any other object; `TooLarge`.
    Reference: Python's `pickletools`, protocols 0 to 5.

    >>> import pathlib, pickle, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.pkl")
    >>> _ = path.write_bytes(pickle.dumps({"x": np.eye(2), "names": ["a", "b"]}))
    >>> read_pickle(path).map(lambda found: (found["x"].tolist(), found["names"])).run()
    <IOResult: <Success: ([[1.0, 0.0], [0.0, 1.0]], ['a', 'b'])>>
    >>> _ = path.write_bytes(pickle.dumps(print))
    >>> print(read_pickle(path).run().failure())
    failed: ...
    <IO: ...small.pkl: expected a pickle of NumPy arrays, ... and dicts, got builtins.print>
    """
    name, limit = path_of(path), limit_of(limit)
    return reading(name, lambda: contents(Machine(name), read_all(name, limit), limit))
