"""The manifest: all of a checkpoint but the numbers of its arrays, as JSON, which holds no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from fnlamp.arrays import placed_on
from fnlamp.checkpoint.archive import Member, local_header, member_name
from fnlamp.checkpoint.leaf import EXTENDED, KINDS, Leaf, is_plain, npy_header, refused, taken
from fnlamp.checkpoint.structure import Path, restructured, structured

VERSION: Final = 1
"""The version of the format that is written; a reader knows this one and all before it."""

PIECE: Final = 2**24
"""Bytes of an array per hash: threads hash several pieces at once, while they are in the cache."""

LIMIT: Final = 2**26
"""The most bytes of a manifest: enough for 200,000 arrays."""


class Packed(NamedTuple):
    """A tree taken apart: its structure, and its arrays in host memory with how and under which name each is stored."""

    structure: Any
    leaves: list[Leaf]
    names: list[str]
    arrays: list[np.ndarray[Any, Any]]
    note: dict[str, Any]
    note_structure: Any


def packed(tree: Any, note: Mapping[str, Any], *, copied: bool) -> Packed:
    """Take a tree apart; with `copied`, later changes to its arrays change nothing.  Fails: `NotStorable`."""
    leaves: list[Leaf] = []
    arrays: list[np.ndarray[Any, Any]] = []
    names: list[str] = []
    used: set[str] = set()

    def keep(x: Any, path: Path) -> int:
        leaf, array = taken(x, "/".join(path), copied)
        leaves.append(leaf)
        arrays.append(array)
        names.append(member_name(path, used) + ".npy")
        return len(leaves) - 1

    plain = _plain(note)
    with placed_on(None):  # the caller's transfer guard does not apply
        structure = structured(tree, keep)
    return Packed(structure, leaves, names, arrays, plain, structured(plain, _no_array))


def _plain(note: Any) -> Any:
    """A copy of the note, with NumPy's scalars as Python's numbers."""
    if isinstance(note, np.generic):
        return note.item()
    if isinstance(note, Mapping):
        return {key: _plain(value) for key, value in note.items()}
    return type(note)(map(_plain, note)) if type(note) in (list, tuple) else note


def _no_array(x: Any, path: Path) -> int:
    raise refused("/".join(("note", *path)), f"a {type(x).__name__}", "a note has no arrays: put them into the tree")


class Stored(NamedTuple):
    """A leaf in the file: its member, and the hash of each `PIECE` of its numbers."""

    leaf: Leaf
    name: str
    crc: int
    sha256: tuple[str, ...]

    def member(self, start: int) -> Member:
        """The member of the archive, if its header is at `start`."""
        return Member(self.name, self.crc, len(npy_header(self.leaf)) + self.leaf.size, start)


@dataclass(frozen=True)
class Manifest:
    """The contents of a manifest, with structures still apart."""

    step: int
    note: Any
    structure: Any
    stored: tuple[Stored, ...]

    def members(self) -> list[Member]:
        """The members of the leaves, one after the other from the start of the file."""
        found: list[Member] = []
        start = 0
        for each in self.stored:
            found.append(member := each.member(start))
            start += len(local_header(member)) + member.size
        return found

    def note_value(self) -> dict[str, Any]:
        """The note.  Raises: as `restructured`."""
        return dict(restructured(self.note, []))


def cut(numbers: memoryview) -> list[memoryview]:
    """The pieces that are hashed apart, and between which a stop is possible."""
    return [numbers[at : at + PIECE] for at in range(0, len(numbers), PIECE)]


def sha256(piece: memoryview | bytes) -> str:
    """The hash of a piece, in hexadecimal; other threads run meanwhile."""
    return hashlib.sha256(piece).hexdigest()


def encoded(manifest: Manifest) -> bytes:
    """The JSON text, in ASCII.  Fails: `NotStorable`, if it is too long."""
    content = {
        "format": "fnlamp checkpoint",
        "version": VERSION,
        "step": manifest.step,
        "note": manifest.note,
        "tree": manifest.structure,
        "arrays": [_encoded(each) for each in manifest.stored],
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    if len(text) > LIMIT:
        actual = f"{len(text):,} bytes of structure and plain values, more than {LIMIT:,}"
        raise refused("", actual, "give long strings and lists as arrays")
    return text


def _encoded(each: Stored) -> dict[str, Any]:
    leaf = each.leaf
    key = {"impl": leaf.impl} if leaf.kind == "key" else {}
    return {
        "name": each.name,
        "path": leaf.path,
        "dtype": leaf.dtype,
        "shape": leaf.shape,
        "fortran": leaf.fortran,
        "kind": leaf.kind,
        **key,
        "crc32": each.crc,
        "sha256": each.sha256,
    }


def decoded(raw: bytes) -> Manifest:
    """The manifest in a text.  Raises: `ValueError`, `KeyError`, `TypeError`, `RecursionError` for another text."""
    content = json.loads(raw.decode("ascii"))
    step, stored = content["step"], tuple(_stored(**each) for each in content["arrays"])
    if type(step) is not int or step < 0 or content["version"] != VERSION:
        raise ValueError(f"the step {step!r} and the version {content['version']!r}")
    return Manifest(step, content["note"], content["tree"], stored)


def _stored(
    name: Any, path: Any, dtype: Any, shape: Any, fortran: Any, kind: Any, crc32: Any, sha256: Any, impl: Any = ""
) -> Stored:
    if not all(isinstance(text, str) for text in (name, path, dtype, kind, impl, *sha256)) or not name.isascii():
        raise TypeError("a text that is not one")
    if type(fortran) is not bool or type(crc32) is not int or not 0 <= crc32 < 2**32 or kind not in KINDS:
        raise ValueError(f"an array of the kind {kind!r}")
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape) or (kind == "scalar" and shape):
        raise ValueError(f"the shape {shape!r}")
    if dtype not in EXTENDED and not (is_plain(known := np.dtype(dtype)) and known.str == dtype):
        raise ValueError(f"the dtype {dtype!r}")
    leaf = Leaf(path, dtype, tuple(shape), fortran, kind, impl)
    if len(sha256) != -(-leaf.size // PIECE):
        raise ValueError(f"{len(sha256):,} hashes for {leaf.size:,} bytes")
    return Stored(leaf, name, crc32, tuple(sha256))
