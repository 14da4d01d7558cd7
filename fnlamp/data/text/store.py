"""Texts from files; codecs to files and back, as JSON that is checked when read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from os import PathLike
from typing import Any, Final

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, read_all, reading, text_size, within
from fnlamp.data.text.bpe import BpeCodec, working
from fnlamp.data.text.codec import ByteCodec, CharacterCodec, Codec, WordCodec
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import CodecFailed, ExtraMissing, FaultError, FileCorrupt, FileFault, FileUnwritable, TooLarge
from fnlamp.given import shown

KEY = "fnlamp codec"


def save_codec(codec: Codec, path: str | PathLike[str]) -> Effect[None, FileUnwritable]:
    """Write a codec to a file, atomically.

    A `BpeCodec` is written in the format of Hugging Face's `tokenizers`, which other programs can read.
    Fails: `FileUnwritable`.
    """
    name, text = path_of(path), _text(codec)

    def write() -> None:
        if "\0" in name:
            raise OSError(errno.EINVAL, "a file name cannot contain NUL")
        part = f"{name}.{secrets.token_hex(8)}.part"
        with open(part, "x", encoding="utf-8", newline="\n") as file:  # "x" follows no link
            try:
                file.write(text)
                file.flush()
                os.replace(part, name)
            except BaseException:  # an interruption too: no part is left behind
                with contextlib.suppress(OSError):
                    os.remove(part)
                raise

    def fault(error: OSError) -> FileUnwritable:
        return FileUnwritable(name, error.strerror or type(error).__name__)

    return Effect.attempt(write, OSError, fault)


def read_codec(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[Codec, FileFault | ExtraMissing]:
    """The codec in a file of `save_codec`, or the tokenizer in a file of Hugging Face's `tokenizers` (tokenizer.json).

    Nothing is opened before the program is run, and nothing in the file is executed; `limit` is how many bytes the file may
    have, unpacked, with 64 more for each value. A tokenizer of another kind than `train_bpe`'s is a `BpeCodec` too, and its own
    rules decide what decoding restores of a text.  Fails: `FileMissing`, `FileCorrupt`, `TooLarge`; `ExtraMissing` for a
    tokenizer without the extra `text`.

    >>> import pathlib, tempfile
    >>> from fnlamp import data
    >>> path = pathlib.Path(tempfile.mkdtemp(), "codec.json")
    >>> save_codec(data.character_codec("hello"), path).then(read_codec(path)).run()
    <IOResult: <Success: <CharacterCodec: 4 characters>>>
    """
    name, limit = path_of(path), limit_of(limit)
    return reading(name, lambda: _codec(name, read_all(name, limit), limit))


def read_text(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[str, FileFault]:
    """The text of a file in UTF-8, packed with gzip or not, without a byte order mark; line ends are unchanged.

    Nothing is opened before the program is run; `limit` is how many bytes the file may have, unpacked.
    Fails: `FileMissing`; `TooLarge`; `FileCorrupt` for bytes that are not UTF-8.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "greeting.txt")
    >>> _ = path.write_bytes("Grüße".encode())
    >>> read_text(path).run()
    <IOResult: <Success: Grüße>>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> str:
        raw = read_all(name, limit)
        _check_text(name, raw, limit)
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            actual = f"the byte {error.object[error.start]:#04x} at {error.start:,}"
            raise FaultError(FileCorrupt(name, "UTF-8 text", actual)) from error

    return reading(name, load)


def _text(codec: Codec) -> str:
    fields: dict[str, Any]
    match codec:
        case BpeCodec():
            return codec.serialized
        case CharacterCodec():
            fields = {KEY: "characters", "characters": codec.characters, "special": codec.special, "unknown": codec.unknown}
        case WordCodec():
            names = {"special": codec.special, "unknown": codec.unknown}
            fields = {KEY: "words", "words": codec.words, "lower": codec.lower, **names}
        case ByteCodec():
            fields = {KEY: "bytes", "special": codec.special}
        case _:
            raise TypeError(f"save_codec: codec is one of fnlamp.data, such as byte_codec(), got {shown(codec)}")
    return json.dumps(fields) + "\n"


def _check_text(path: str, raw: bytes, limit: int | None) -> None:
    """Check that a text and its bytes together take at most four times the limit.  Fails: `TooLarge`."""
    if limit is not None and len(raw) + text_size(raw) > 4 * limit:
        raise FaultError(TooLarge(path, limit, len(raw)))


_OBJECT: Final = 64
"""Bytes counted for each value in a JSON file, whatever its size there."""


def _codec(path: str, raw: bytes, limit: int | None) -> Codec:
    within(path, limit, len(raw) + _OBJECT * sum(map(raw.count, (b",", b"[", b"{"))))
    _check_text(path, raw, limit)
    try:
        fields = json.loads(raw.decode("utf-8-sig"))  # from bytes, `json` would accept UTF-16 and 32 too
    except (ValueError, RecursionError) as error:
        raise FaultError(FileCorrupt(path, "JSON", _not_json(raw, error))) from error
    if isinstance(fields, dict) and KEY not in fields and "model" in fields:
        return _tokenizer(path, raw)
    try:
        return _of_fields(fields)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FaultError(FileCorrupt(path, "a codec that save_codec wrote, or a tokenizer.json", what)) from error


def _not_json(raw: bytes, error: Exception) -> str:
    if not raw:
        return "an empty file"
    if isinstance(error, json.JSONDecodeError):
        return f"something else from line {error.lineno:,}, column {error.colno:,} on"
    return "thousands of nested brackets" if isinstance(error, RecursionError) else "bytes that are not text"


def _of_fields(fields: Any) -> Codec:
    if not isinstance(fields, dict):
        raise TypeError(f"a {type(fields).__name__}")
    kind = fields[KEY]
    if kind == "bytes":
        return ByteCodec(_strings(fields, "special"))
    unknown = fields["unknown"]
    if not isinstance(unknown, str | None):
        raise TypeError(f"{unknown!r} for the unknown token")
    if kind == "characters" and isinstance(fields["characters"], str):
        return CharacterCodec(fields["characters"], _strings(fields, "special"), unknown)
    if kind == "words" and isinstance(fields["lower"], bool):
        return WordCodec(_strings(fields, "words"), _strings(fields, "special"), unknown, fields["lower"])
    raise TypeError(f"a codec of the kind {kind!r} with other fields")


def _strings(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    strings = fields[name]
    if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
        raise TypeError(f"{name} that are not a list of strings")
    return tuple(strings)


def _tokenizer(path: str, raw: bytes) -> BpeCodec:
    need("tokenizers", "text")
    try:
        with working("read_codec"):
            codec = BpeCodec(raw.decode())
            size = codec.size
    except FaultError as error:
        actual = error.fault.reason if isinstance(error.fault, CodecFailed) else str(error.fault)
        raise FaultError(FileCorrupt(path, "a tokenizer of Hugging Face's tokenizers", actual)) from error
    if size > 2**31:
        raise FaultError(FileCorrupt(path, "ids of 31 bits", f"{size - 1}"))
    return codec
