"""Files over HTTP: checked by SHA-256, resumed after a broken download, from the first mirror that works."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, cast

from returns.result import Result, Success

from fnlamp.data.option import path_of, seconds_of, several
from fnlamp.data.readers.file import open_file, openable
from fnlamp.data.sets.arriving import Arriving, BrokenError
from fnlamp.data.sets.part import locked, publish
from fnlamp.effect import Effect, Interrupted, Runtime
from fnlamp.extra import need
from fnlamp.fault import ChecksumMismatch, DownloadFailed, ExtraMissing, FaultError
from fnlamp.given import text, whole

_TRIES: Final = 3
"""Attempts at a mirror in a row without a single new byte."""
_MOST: Final = 100
"""Attempts at a mirror in all: one that breaks after a few bytes each time would be tried forever."""
_WAIT: Final = 0.5
"""Seconds before the second attempt; doubled for each further attempt without new bytes."""


def fetch(
    urls: str | Sequence[str],
    path: str | PathLike[str],
    *,
    sha256: str,
    size: int | None = None,
    timeout: float = 20.0,
    deadline: float = 3600.0,
) -> Effect[Path, DownloadFailed | ChecksumMismatch | ExtraMissing]:
    """The file at `path`, downloaded unless it exists with that SHA-256; a file with other contents is replaced.

    `urls` are mirrors, tried in order, each again as long as it sends new bytes. A broken download leaves `path` + ".part",
    which this program or a later one resumes; the file appears under its own name when it is complete and checked. Nothing is
    written through a link or into another user's file: if one has the part's name, the part gets another. Of two processes
    that fetch one file, one downloads and the other waits. `size`, in bytes, rejects a wrong answer early. A server that is
    silent for `timeout` seconds, or sends next to nothing in them, is given up, and all of it after `deadline` seconds.
    Progress goes to standard error, in percent, unless `Runtime.log` is `None`. Fails: `DownloadFailed`; `ChecksumMismatch` if
    every mirror has another file; `ExtraMissing` without the extra `datasets`. Reference: RFC 9110, section 14, on ranges.

    >>> program = fetch("https://example.org/numbers.gz", "numbers.gz", sha256=64 * "0")  # nothing is downloaded yet
    """
    mirrors = (urls,) if isinstance(urls, str) else several("urls", urls)
    if not mirrors:
        raise ValueError("fetch needs at least one URL")
    timeout, deadline = seconds_of(timeout), seconds_of(deadline, "deadline")
    size = None if size is None else whole("size", size, 0)
    if not re.fullmatch("[0-9a-f]{64}", text("sha256", sha256)):
        raise ValueError(f"sha256: a SHA-256 is 64 lower-case hexadecimal digits, got {sha256!r}")
    target = Path(path_of(path))

    def run(runtime: Runtime) -> Result[Path, Any] | Interrupted:
        try:
            return Success(_fetched(mirrors, target, sha256, size, timeout, _Watch(runtime, deadline)))
        except _StopError:
            return Interrupted()

    return Effect.call(run)


class _Watch:
    """Stops a download: at an interruption of the program, and at the deadline."""

    def __init__(self, runtime: Runtime, deadline: float) -> None:
        self.runtime, self.deadline = runtime, deadline
        self.began = runtime.clock.now()

    def check(self) -> None:
        """Raises: `_StopError`, `_LateError`."""
        if self.runtime.cancel.requested:
            raise _StopError
        if self.runtime.clock.now() - self.began > self.deadline:
            raise _LateError(f"not done within {self.deadline:g} seconds")

    def sleep(self, seconds: float) -> None:
        self.runtime.sleep(seconds)
        self.check()


class _LateError(Exception):
    """The deadline has passed; the bytes received so far are kept."""


class _StopError(Exception):
    """The program was interrupted; the bytes received so far are kept."""


def _fetched(mirrors: tuple[str, ...], target: Path, sha256: str, size: int | None, timeout: float, watch: _Watch) -> Path:
    try:
        openable(str(target))
    except FaultError as error:
        raise FaultError(DownloadFailed(mirrors[0], str(error.fault), ascii(str(target))[1:-1], again=False)) from error
    tried: list[str] = []
    again = False
    mismatches: list[ChecksumMismatch] = []
    try:
        if _is_there(target, sha256, mirrors[0]):
            return target
        need("requests", "datasets"), need("tqdm", "datasets")
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(target.name + ".part"), watch.sleep) as part:
            if _is_there(target, sha256, mirrors[0]):  # by the process that held the lock
                return target
            for url in mirrors:
                download = _Download(part, sha256, size, timeout, watch)
                try:
                    download.complete(url)
                    publish(part, target)
                    return target
                except BrokenError as error:
                    tried.append(f"{url}: {error}")
                    again |= error.again
                except FaultError as error:
                    if not isinstance(error.fault, ChecksumMismatch):
                        raise
                    mismatches.append(error.fault)
                    tried.append(f"{url}: another file, of SHA-256 {error.fault.actual}")
    except _LateError as error:
        raise FaultError(DownloadFailed(mirrors[0], "; ".join([*tried, str(error)]), str(target))) from error
    except OSError as error:
        raise FaultError(_unwritable(mirrors[0], target, error)) from error
    if len(mismatches) == len(mirrors):
        raise FaultError(mismatches[-1])
    raise FaultError(DownloadFailed(mirrors[0], "; ".join(tried), str(target), again))


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.  Fails: `FileMissing`."""
    with open_file(str(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(target: Path, sha256: str, url: str) -> bool:
    """Whether the file exists; anything else there, such as a folder or a device, is a fault, and is left alone."""
    try:
        return target.exists() and digest(target) == sha256
    except FaultError as error:
        reason = f"{target}: {getattr(error.fault, 'reason', error.fault)}"
        raise FaultError(DownloadFailed(url, reason, str(target), again=False)) from error


def _unwritable(url: str, target: Path, error: OSError) -> DownloadFailed:
    reason = f"{error.filename or target.parent}: {error.strerror or type(error).__name__}"
    return DownloadFailed(url, reason, str(target), again=error.errno == errno.ENOSPC)


@dataclass
class _Download:
    """A download into a `.part` file, which survives a failure."""

    part: IO[bytes]
    sha256: str
    size: int | None
    timeout: float
    watch: _Watch
    tag: str | None = field(default=None, init=False)
    """The version of the file that this mirror started to send: its ETag or modification date."""

    def complete(self, url: str) -> None:
        """Download the file from this mirror until it is complete, with the right checksum."""
        failures, most = 0, self._have()
        for _ in range(_MOST):
            inherited = self._have()  # bytes from an earlier program or another mirror, maybe of another file
            try:
                self._receive(url)
                actual = self._digest()
                if actual == self.sha256:
                    return
                self._truncate()
                if not inherited:
                    raise FaultError(ChecksumMismatch(url, self.sha256, actual))
                continue
            except BrokenError as error:
                failures = failures + 1 if self._have() <= most else 1
                most = max(most, self._have())
                if not error.again or failures == _TRIES:
                    raise
            self.watch.sleep(_WAIT * 2.0 ** (failures - 1))
        raise BrokenError(f"broken {_MOST} times")

    def _receive(self, url: str) -> None:
        """The rest of the file, or all of it if the server cannot resume."""
        have = self._have()
        if self.size is not None and have >= self.size:
            return  # complete, or another file: the checksum decides
        # No compression in transit: the checksum is of the file's own bytes.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.tag:
                headers["If-Range"] = self.tag
        with Arriving(url, headers, self.timeout, self.watch.runtime.clock.now, self.watch.check) as answer:
            head = answer.head()
            if self._accepts(head, have):
                self._write(head, answer, url)

    def _accepts(self, response: Any, have: int) -> bool:
        """Whether to read the body; the part file then ends where the body starts."""
        status, headers = response.status_code, response.headers
        sent = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
        if status == 416 and have:
            if sent and sent[2] == str(have):
                return False  # the part file is complete
            self._truncate()
            raise BrokenError(f"the server has no bytes from {have:,} on")
        if status == 206 and not (sent and sent[1] == str(have)):
            self._truncate()
            raise BrokenError(
                f"asked for the bytes from {have:,} on, got {headers.get('Content-Range', 'no Content-Range')[:100]}"
            )
        if status not in (200, 206):
            raise BrokenError(f"HTTP {status} {response.reason}", again=status in (408, 425, 429) or status >= 500)
        total = self._total(response)
        if self.size is not None and total != self.size and total is not None:
            raise BrokenError(f"expected {self.size:,} bytes, got an answer of {total:,}", again=False)
        if status == 200:
            self._truncate()  # the whole file: the server does not support ranges, or its file has changed
        etag = headers.get("ETag", "")
        self.tag = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
        return True

    def _write(self, response: Any, answer: Arriving, url: str) -> None:
        have, total = self._have(), self._total(response)
        total = self.size if total is None else total
        try:
            with _bar(total, have, url.rsplit("/", 1)[-1], self.watch.runtime) as bar:
                for piece in answer.pieces():
                    self.part.write(piece)
                    have += len(piece)
                    bar.update(len(piece))
                    if total is not None and have > total:
                        self._truncate()
                        raise BrokenError(f"expected {total:,} bytes, got more", again=False)
                    self.watch.check()
        finally:
            self.part.flush()
        if total is not None and have < total:
            raise BrokenError(f"the connection ended after {have:,} of {total:,} bytes")

    def _total(self, response: Any) -> int | None:
        """The size of the whole file, if the answer gives it."""
        length = response.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]+", length):
            return None
        if len(length) > 18:
            raise BrokenError(f"a malformed answer: a Content-Length of {len(length):,} digits", again=False)
        return int(length) + (self._have() if response.status_code == 206 else 0)

    def _digest(self) -> str:
        """The SHA-256 of the open file, whatever has its name by now."""
        self.part.flush()
        self.part.seek(0)
        return hashlib.file_digest(cast(Any, self.part), "sha256").hexdigest()

    def _have(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def _truncate(self) -> None:
        self.part.seek(0)
        self.part.truncate()


def _bar(total: int | None, have: int, name: str, runtime: Runtime) -> Any:
    """The progress in percent, or in bytes if the server does not give the size."""
    tqdm = need("tqdm", "datasets").tqdm
    # tqdm's monitor thread would outlive the program.
    quiet = type("bar", (tqdm,), {"monitor_interval": 0})
    every = 0.1 if sys.stderr.isatty() else 5.0
    return quiet(
        total=total, initial=have, desc=name, unit="B", unit_scale=True, mininterval=every, disable=runtime.log is None
    )
