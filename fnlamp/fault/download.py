"""Files from servers."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class DownloadFailed(Fault):
    """No mirror gave the file; `reason` tells of each what came, `path` is where the file is looked for.

    `again` tells whether another try may do better: after a broken connection, not where there is no such file or place.

    >>> print(DownloadFailed("https://example.org/x.gz", "status 404", "x.gz", again=False))
    https://example.org/x.gz: cannot be downloaded (status 404); put the file at x.gz by hand
    """

    url: str
    reason: str
    path: str
    again: bool = True

    def __str__(self) -> str:
        again = "run it again, which goes on where it stopped, or " if self.again else ""
        return self._say(f"{self.url}: cannot be downloaded ({self.reason}); {again}put the file at {self.path} by hand")


@dataclass(frozen=True)
class ChecksumMismatch(Fault):
    """The bytes at `path`, a file or a URL, are damaged or of another file than the one that is meant.

    >>> print(ChecksumMismatch("x.gz", "ab12", "cd34"))
    x.gz: expected the SHA-256 ab12, got cd34; move it away, and it is downloaded anew
    """

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        hint = "try another mirror" if "://" in self.path else "move it away, and it is downloaded anew"
        return self._say(f"{self.path}: expected the SHA-256 {self.expected}, got {self.actual}; {hint}")
