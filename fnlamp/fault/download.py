"""Downloads."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class DownloadFailed(Fault):
    """No mirror served the file; `reason` gives each mirror's answer, `path` is where the file is expected.

    `again` says whether another attempt may succeed: after a broken connection, not if the file or the folder does not exist.

    >>> print(DownloadFailed("https://example.org/x.gz", "status 404", "x.gz", again=False))
    https://example.org/x.gz: cannot be downloaded (status 404); put the file at x.gz by hand
    """

    url: str
    reason: str
    path: str
    again: bool = True

    def __str__(self) -> str:
        again = "run it again to resume, or " if self.again else ""
        return self._say(f"{self.url}: cannot be downloaded ({self.reason}); {again}put the file at {self.path} by hand")


@dataclass(frozen=True)
class ChecksumMismatch(Fault):
    """The bytes at `path`, a file or a URL, are damaged or belong to a different file.

    >>> print(ChecksumMismatch("x.gz", "ab12", "cd34"))
    x.gz: expected the SHA-256 ab12, got cd34; move it away, and it is downloaded again
    """

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        hint = "try another mirror" if "://" in self.path else "move it away, and it is downloaded again"
        return self._say(f"{self.path}: expected the SHA-256 {self.expected}, got {self.actual}; {hint}")
