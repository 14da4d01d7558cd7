"""Files over HTTP: checked by SHA-256, continued where a broken download stopped, from the first mirror that works."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

from returns.result import Failure, Result, Success

from fnlamp.data.file import openable
from fnlamp.data.option import path_of, seconds_of, several
from fnlamp.effect import Effect, Interrupted, Runtime
from fnlamp.extra import need
from fnlamp.fault import ChecksumMismatch, DownloadFailed, ExtraMissing, FaultError

_TRIES: Final = 3
"""How often a mirror is tried in a row without a single new byte."""
_CHUNK: Final = 2**15
_POLL: Final = 0.1
_WAIT: Final = 0.5
"""Seconds: between two looks at a file that another process downloads; before a second try, and twice that before a third."""


def fetch(
    urls: str | Sequence[str],
    path: str | PathLike[str],
    *,
    sha256: str,
    size: int | None = None,
    timeout: float = 20.0,
) -> Effect[Path, DownloadFailed | ChecksumMismatch | ExtraMissing]:
    """The file at `path`, downloaded unless it is there already with that SHA-256; a file of other content is replaced.

    `urls` are mirrors, tried in order, each again as long as it sends new bytes. What a broken download left, `path` + ".part",
    is continued, by this program or a later one; the file appears under its own name when it is whole and checked. Two
    processes that fetch one file share the work: one downloads, the other waits. `size`, in bytes, rejects a wrong answer
    early. A server that is silent for `timeout` seconds is given up, and Ctrl-C is not heard while it is. Progress goes to
    standard error, in percent, unless `Runtime.log` is `None`. Fails: `DownloadFailed`; `ChecksumMismatch` if every mirror
    has another file; `ExtraMissing` without the extra `datasets`. Reference: RFC 9110, section 14, on ranges.

    >>> program = fetch("https://example.org/numbers.gz", "numbers.gz", sha256=64 * "0")  # nothing is downloaded yet
    """
    mirrors = (urls,) if isinstance(urls, str) else several("urls", urls)
    if not mirrors:
        raise ValueError("fetch needs at least one URL")
    timeout = seconds_of(timeout)
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"a SHA-256 is 64 lower-case hexadecimal digits, got {sha256!r}")
    target = Path(path_of(path))

    def run(runtime: Runtime) -> Result[Path, Any] | Interrupted:
        try:
            return Success(_fetched(mirrors, target, sha256, size, timeout, runtime))
        except FaultError as error:
            return Failure(error.fault)
        except _StopError:
            return Interrupted()

    return Effect.call(run)


class _StopError(Exception):
    """The program was interrupted; what came so far is kept."""


class _BrokenError(Exception):
    """A try that failed; `again` tells whether this mirror may do better next time."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


def _fetched(mirrors: tuple[str, ...], target: Path, sha256: str, size: int | None, timeout: float, runtime: Runtime) -> Path:
    try:
        openable(str(target))
    except FaultError as error:
        raise FaultError(DownloadFailed(mirrors[0], str(error.fault), ascii(str(target))[1:-1], again=False)) from error
    tried: list[str] = []
    again = False
    mismatches: list[ChecksumMismatch] = []
    try:
        if _is_there(target, sha256):
            return target
        pooch = need("pooch", "datasets")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".part"), runtime) as part, _silent_pooch():
            if _is_there(target, sha256):  # by the process that held the lock
                return target
            folder = target.parent.absolute()  # pooch would take "~" for the home folder
            for url in mirrors:
                download = _Download(part, sha256, size, timeout, runtime)
                try:
                    download.complete(url)
                    # pooch checks it once more, and moves it to its place in one step.
                    pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=folder, downloader=download)
                    return target
                except _BrokenError as error:
                    tried.append(f"{url}: {error}")
                    again |= error.again
                except FaultError as error:
                    if not isinstance(error.fault, ChecksumMismatch):
                        raise
                    mismatches.append(error.fault)
                    tried.append(f"{url}: another file, of SHA-256 {error.fault.actual}")
    except OSError as error:
        raise FaultError(_unwritable(mirrors[0], target, error)) from error
    if len(mismatches) == len(mirrors):
        raise FaultError(mismatches[-1])
    raise FaultError(DownloadFailed(mirrors[0], "; ".join(tried), str(target), again))


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(target: Path, sha256: str) -> bool:
    return target.exists() and digest(target) == sha256


def _unwritable(url: str, target: Path, error: OSError) -> DownloadFailed:
    reason = f"{error.filename or target.parent}: {error.strerror or type(error).__name__}"
    return DownloadFailed(url, reason, str(target), again=error.errno == errno.ENOSPC)


@dataclass
class _Download:
    """A download into a `.part` file, which survives a failure; pooch calls it for the whole file."""

    part: IO[bytes]
    sha256: str
    size: int | None
    timeout: float
    runtime: Runtime
    tag: str | None = field(default=None, init=False)
    """What identifies the version of the file that this mirror began to send."""

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        os.replace(self.part.name, output_file)

    def complete(self, url: str) -> None:
        """All of the file, with the right checksum, from this mirror."""
        requests = need("requests", "datasets")
        failures, most = 0, self._have()
        with requests.Session() as session:
            while True:
                inherited = self._have()  # bytes that may be of another file: an earlier program's, or another mirror's
                try:
                    self._receive(session, url)
                    self.part.flush()
                    actual = digest(Path(self.part.name))
                    if actual == self.sha256:
                        return
                    self._truncate()
                    if not inherited:
                        raise FaultError(ChecksumMismatch(url, self.sha256, actual))
                    continue
                except _BrokenError as error:
                    failures = failures + 1 if self._have() <= most else 1
                    most = max(most, self._have())
                    if not error.again or failures == _TRIES:
                        raise
                self.runtime.clock.sleep(_WAIT * 2.0 ** (failures - 1), self.runtime.cancel)
                self._stop_if_asked()

    def _receive(self, session: Any, url: str) -> None:
        """The rest of the file, or all of it where the server does not continue."""
        requests, urllib3 = need("requests", "datasets"), need("urllib3", "datasets")
        have = self._have()
        if self.size is not None and have >= self.size:
            return  # whole, or of another file: the checksum tells
        # The bytes as they are: a server that packs on the way would change what the checksum is taken of.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.tag:
                headers["If-Range"] = self.tag
        try:
            with session.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
                if self._accepts(response, have):
                    self._write(response, url)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            again = isinstance(error, requests.ConnectionError | requests.Timeout | urllib3.exceptions.HTTPError)
            raise _BrokenError(_why(error, self.timeout), again) from error

    def _accepts(self, response: Any, have: int) -> bool:
        """Whether the body is to be read; the part file then ends where the body begins."""
        status, headers = response.status_code, response.headers
        sent = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
        if status == 416 and have:
            if sent and sent[2] == str(have):
                return False  # all of it is here
            self._truncate()
            raise _BrokenError(f"the server has no bytes from {have:,} on")
        if status == 206 and not (sent and sent[1] == str(have)):
            self._truncate()
            raise _BrokenError(
                f"asked for the bytes from {have:,} on, got {headers.get('Content-Range') or 'no Content-Range'}"
            )
        if status not in (200, 206):
            raise _BrokenError(f"HTTP {status} {response.reason}", again=status in (408, 425, 429) or status >= 500)
        total = self._total(response)
        if self.size is not None and total != self.size and total is not None:
            raise _BrokenError(f"expected {self.size:,} bytes, got an answer of {total:,}", again=False)
        if status == 200:
            self._truncate()  # the whole file: the server does not know ranges, or its file has changed
        etag = headers.get("ETag", "")
        self.tag = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
        return True

    def _write(self, response: Any, url: str) -> None:
        have, total = self._have(), self._total(response)
        total = self.size if total is None else total
        with _bar(total, have, url.rsplit("/", 1)[-1], self.runtime) as bar:
            response.raw.enforce_content_length = False  # it would throw away what came with the end of the connection
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                self.part.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if total is not None and have > total:
                    self._truncate()
                    raise _BrokenError(f"expected {total:,} bytes, got more", again=False)
                self._stop_if_asked()
        self.part.flush()
        if total is not None and have < total:
            raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes")

    def _total(self, response: Any) -> int | None:
        """The bytes of the whole file, as far as the answer tells."""
        length = response.headers.get("Content-Length", "")
        before = self._have() if response.status_code == 206 else 0
        return before + int(length) if length.isdecimal() else None

    def _stop_if_asked(self) -> None:
        if self.runtime.cancel.requested:
            raise _StopError

    def _have(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def _truncate(self) -> None:
        self.part.seek(0)
        self.part.truncate()


def _why(error: BaseException, timeout: float) -> str:
    requests, urllib3 = need("requests", "datasets"), need("urllib3", "datasets")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"the server was silent for {timeout:g} seconds"
    inner: BaseException | None = error  # the outer ones only repeat the URL and the addresses of objects
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _locked(path: Path, runtime: Runtime) -> Iterator[IO[bytes]]:
    """The part file, open for reading and writing and locked against other processes; left empty, it is removed."""
    file = _opened(path, runtime)
    with file:
        try:
            yield file
        finally:
            file.flush()
            if _same(file, path) and os.fstat(file.fileno()).st_size == 0:
                path.unlink()


def _opened(path: Path, runtime: Runtime) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            while not _lock(file):
                runtime.clock.sleep(_POLL, runtime.cancel)
                if runtime.cancel.requested:
                    raise _StopError
            if _same(file, path):
                return file
        except BaseException:  # an interruption too: nobody else has the file yet, to close it
            file.close()
            raise
        file.close()  # who held the lock has finished: the part has become the file, or has been removed


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _silent_pooch() -> Iterator[None]:
    """pooch tells each download on standard error, where the progress is."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger = need("pooch", "datasets").get_logger()
    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _bar(total: int | None, have: int, name: str, runtime: Runtime) -> Any:
    """The progress in percent, and in bytes where the server does not tell how many there are."""
    tqdm = need("tqdm", "datasets").tqdm
    # A thread that watches over bars would outlive the program.
    quiet = type("bar", (tqdm,), {"monitor_interval": 0})
    every = 0.1 if sys.stderr.isatty() else 5.0
    return quiet(
        total=total, initial=have, desc=name, unit="B", unit_scale=True, mininterval=every, disable=runtime.log is None
    )
