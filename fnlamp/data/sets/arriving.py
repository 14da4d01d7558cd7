"""An HTTP answer, received by its own thread, so that the caller can poll while it waits, and stop."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urljoin

from fnlamp.effect.runtime import GLANCE
from fnlamp.extra import need

_CHUNK: Final = 2**16
_REDIRECTS: Final = 20
_SLOW: Final = 1024
"""Bytes that must arrive in each `timeout` (at least a second); a server that sends fewer is given up."""


class BrokenError(Exception):
    """A failed attempt; `again` says whether another attempt at this mirror may succeed."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason if len(reason) <= 300 else reason[:297] + "...")
        self.again = again


class Arriving:
    """One answer: its head, then its bytes as they arrive.

    `check` is called some twenty times a second while nothing arrives, and may raise. A server is given up if it is silent for
    `timeout` seconds, sends no head within three times as many, or sends next to nothing for `timeout` seconds.
    Raises: `BrokenError` for any misbehaviour of a server.
    """

    def __init__(
        self, url: str, headers: dict[str, str], timeout: float, now: Callable[[], float], check: Callable[[], None]
    ) -> None:
        self.timeout, self.now, self.check = timeout, now, check
        self._queue: queue.Queue[Any] = queue.Queue(16)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url, headers), daemon=True, name="fnlamp download")
        need("requests", "datasets"), need("urllib3", "datasets")

    def __enter__(self) -> Arriving:
        try:
            self._thread.start()
        except RuntimeError as error:
            raise BrokenError(f"no thread to wait for it ({error})") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join(GLANCE)  # a thread that hangs ends at its connection's timeout

    def head(self) -> Any:
        """The status, the reason and the headers."""
        began = self.now()
        return self._next(lambda: self._late(began))

    def pieces(self) -> Iterator[bytes]:
        """The bytes in pieces, as they arrive."""
        began, received = self.now(), 0
        while piece := self._next(lambda: None):
            received += len(piece)
            if self.now() - began > max(self.timeout, 1.0):
                if received < _SLOW:
                    raise BrokenError(f"only {received:,} bytes in {self.now() - began:.1f} seconds", again=False)
                began, received = self.now(), 0
            yield piece

    def _late(self, began: float) -> None:
        if self.now() - began > max(3 * self.timeout, 1.0):
            raise BrokenError(f"no answer within {3 * self.timeout:g} seconds", again=False)

    def _next(self, look: Callable[[], None]) -> Any:
        while True:
            try:
                found = self._queue.get(timeout=GLANCE)
            except queue.Empty:
                look()
                self.check()
                continue
            if isinstance(found, BaseException):
                raise _broken(found, self.timeout) from found
            return found

    # ---- in the thread

    def _run(self, url: str, headers: dict[str, str]) -> None:
        try:
            with need("requests", "datasets").Session() as session, self._answer(session, url, headers) as response:
                self._put(response)
                raw = response.raw
                raw.enforce_content_length = False  # it would discard the last bytes before a broken connection
                read = getattr(raw, "read1", raw.read)  # returns the bytes that have arrived, however few
                while piece := read(_CHUNK, decode_content=False):
                    if _below_zero(raw):
                        raise BrokenError("a malformed answer: a chunk of negative length", again=False)
                    self._put(piece)
                self._put(b"")
        except _GoneError:
            pass
        except BaseException as error:  # raised in the waiting thread
            self._put_last(error)

    def _answer(self, session: Any, url: str, headers: dict[str, str]) -> Any:
        """The answer after redirects, which are followed here, without reading their bodies."""
        session.resolve_redirects = lambda *arguments, **options: iter(())  # requests' own reads bodies, even endless ones
        for _ in range(_REDIRECTS):
            response = session.get(url, headers=headers, stream=True, timeout=self.timeout, allow_redirects=False)
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            url = urljoin(url, target)
        raise BrokenError(f"more than {_REDIRECTS} redirects", again=False)

    def _put(self, item: Any) -> None:
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=GLANCE)
                return
            except queue.Full:
                pass
        raise _GoneError

    def _put_last(self, error: BaseException) -> None:
        with contextlib.suppress(_GoneError):
            self._put(error)


class _GoneError(Exception):
    """The waiting thread has left."""


def _below_zero(raw: Any) -> bool:
    left = getattr(getattr(raw, "_original_response", None), "chunk_left", None)
    return isinstance(left, int) and left < 0


def _broken(error: BaseException, timeout: float) -> BrokenError:
    """An error of the connection, or of the library that parses the answer, as a `BrokenError`."""
    requests, urllib3 = need("requests", "datasets"), need("urllib3", "datasets")
    if isinstance(error, BrokenError):
        return error
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return BrokenError(f"the server was silent for {timeout:g} seconds")
    again = isinstance(error, requests.ConnectionError | urllib3.exceptions.HTTPError | OSError)
    if isinstance(error, requests.RequestException) and not isinstance(error, requests.ConnectionError):
        again = False
    inner: BaseException | None = error  # outer errors only repeat the URL and addresses of objects
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return BrokenError(inner.strerror, again)
        inner = inner.__cause__ or inner.__context__
    said = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "a connection", str(error)) or type(error).__name__
    return BrokenError(said if again else f"a malformed answer or address: {said}", again)
