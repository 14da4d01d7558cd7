"""Servers that lie, drip and hang, and other files at the paths of a download; on 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
import time

import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import fetch
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import ChecksumMismatch, DownloadFailed, Interrupted

pytest.importorskip("requests")
DATA = np.random.default_rng(0).bytes(50_000)
SHA = hashlib.sha256(DATA).hexdigest()
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(DATA) + DATA


class Clock:
    def now(self):
        return time.monotonic()

    def sleep(self, seconds, cancel):
        time.sleep(0.001)


class Server:
    """Answers every request by its script for the path: bytes, or a function of the connection."""

    def __init__(self):
        self.script, self.seen, self.ended = {}, [], threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.threads = [threading.Thread(target=self.serve)]
        self.threads[0].start()

    def serve(self):
        while True:
            connection, _ = self.listening.accept()
            if self.ended.is_set():
                connection.close()
                return
            self.threads.append(threading.Thread(target=self.answer, args=(connection,)))
            self.threads[-1].start()

    def answer(self, connection):
        with connection:
            asked = b""
            while b"\r\n\r\n" not in asked and (more := connection.recv(65536)):
                asked += more
            path = asked.split(b" ")[1].decode() if asked else ""
            self.seen.append(path)
            act = self.script.get(path, GOOD)
            with contextlib.suppress(OSError):  # the client may have disconnected
                act(connection) if callable(act) else connection.sendall(act)

    def drip(self, piece, head=b"", seconds=0.05):
        def act(connection):
            connection.sendall(head)
            while not self.ended.wait(seconds):
                connection.sendall(piece)

        return act

    def close(self):
        self.ended.set()
        socket.create_connection(self.listening.getsockname()).close()
        for thread in self.threads:
            thread.join(10)
        self.listening.close()


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    server = Server()
    yield server
    server.close()


def run(program, **options):
    return program.run(Runtime(log=None, clock=Clock(), **options))


def fault(program, **options):
    outcome = run(program, **options)
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
MALFORMED = {
    "a location that is none": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "an IPv6 bracket": b"HTTP/1.1 301 Moved\r\nLocation: http://[::1]:80:80/x\r\nContent-Length: 0\r\n\r\n",
    "a port that is none": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/x\r\nContent-Length: 0\r\n\r\n",
    "a port of letters": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:x/\r\nContent-Length: 0\r\n\r\n",
    "a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "another scheme": b"HTTP/1.1 302 Found\r\nLocation: gopher://a/b\r\nContent-Length: 0\r\n\r\n",
    "a location in Latin-1": b"HTTP/1.1 302 Found\r\nLocation: /\xff\xfe\r\nContent-Length: 0\r\n\r\n",
    "a long label": b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 70 + b"." * 3 + b"/\r\nContent-Length: 0\r\n\r\n",
    "a null": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1\x00/\r\nContent-Length: 0\r\n\r\n",
    "a length of 5,000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + DATA,
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "a length in letters": HEAD + b"Content-Length: many\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "a negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n",
    "a chunk of letters": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "a huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 300 + b"\r\nabc",
    "a chunk of many digits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 70_000 + b"\r\nabc",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of many digits": b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n",
    "a status of 99": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.0\r\n",
    "nothing": b"",
    "zeros": b"\0" * 1000,
    "a line without end": b"HTTP/1.1 200 " + b"a" * 100_000,
    "many headers": HEAD + b"".join(b"X-%d: 1\r\n" % i for i in range(300)) + b"\r\n",
    "a header without a colon": HEAD + b"nonsense\r\n\r\n",
    "a range that was not asked for": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 9-10/11\r\nContent-Length: 2\r\n\r\nab",
    "a reason with escapes": b"HTTP/1.1 500 \x1b[31mred\r\nContent-Length: 0\r\n\r\n",
    "another file": HEAD + b"Content-Length: 5\r\n\r\nabcde",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("size", [None, pytest.param(len(DATA), marks=pytest.mark.slow)])
def test_after_any_malformed_answer_the_next_mirror_is_tried(server, tmp_path, name, size):
    server.script["/bad"] = MALFORMED[name]
    outcome = run(fetch([server.url + "/bad", server.url + "/good"], tmp_path / "a", sha256=SHA, size=size, timeout=5))
    assert is_successful(outcome), outcome
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.seen[-1] == "/good" and [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_of_the_only_mirror_is_a_typed_failure(server, tmp_path, name):
    server.script["/bad"] = MALFORMED[name]
    found = fault(fetch(server.url + "/bad", tmp_path / "a", sha256=SHA, timeout=5))
    assert isinstance(found, DownloadFailed | ChecksumMismatch)
    assert "\x1b" not in str(found) and len(str(found)) < 1000 and not (tmp_path / "a").exists()


def test_the_body_of_a_redirect_is_not_read(server, tmp_path):
    head = f"HTTP/1.1 302 Found\r\nLocation: {server.url}/good\r\n\r\n".encode()
    server.script["/bad"] = server.drip(b"x" * 10**6, head, 0.001)
    started = time.monotonic()
    assert is_successful(run(fetch(server.url + "/bad", tmp_path / "a", sha256=SHA, timeout=5)))
    assert time.monotonic() - started < 5


# ------------------------------------------------------------------------------- servers that keep one waiting


@pytest.mark.slow
@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 50000\r\n\r\n", HEAD + b"\r\n", HEAD, b"HTTP/1.1 200 "])
def test_a_server_that_drips_is_given_up(server, tmp_path, head):
    server.script["/bad"] = server.drip(b"x", head)
    started = time.monotonic()
    assert is_successful(run(fetch([server.url + "/bad", server.url + "/good"], tmp_path / "a", sha256=SHA, timeout=0.5)))
    assert time.monotonic() - started < 8 and (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 50000000\r\n\r\n", HEAD])
def test_a_deadline_limits_the_whole_download(server, tmp_path, head):
    server.script["/bad"] = server.drip(b"X-A: 1\r\n" * 5, head)
    started = time.monotonic()
    found = fault(fetch(server.url + "/bad", tmp_path / "a", sha256=SHA, timeout=30, deadline=0.5))
    assert time.monotonic() - started < 3
    assert isinstance(found, DownloadFailed) and found.again and "not done within 0.5 seconds" in found.reason


def test_the_deadline_covers_all_mirrors_and_waiting_for_other_processes(server, tmp_path):
    server.script["/bad"] = server.drip(b"x" * 5000, HEAD + b"Content-Length: 50000000\r\n\r\n")
    program = fetch([server.url + "/bad"] * 9, tmp_path / "a", sha256=SHA, timeout=30, deadline=1)
    threads = [threading.Thread(target=run, args=(program,)) for _ in range(3)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - started < 8
    assert (tmp_path / "a.part").stat().st_size > 0  # is kept for the next time


@pytest.mark.parametrize(
    "head", [b"", HEAD, HEAD + b"Content-Length: 50000\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n"]
)
@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_stop_ends_a_download_at_once(server, tmp_path, head, piece):
    def silent(connection):
        connection.sendall(head)
        server.ended.wait(20)

    server.script["/bad"] = server.drip(piece, head, 0.2) if piece else silent
    cancel = CancelToken()
    timer = threading.Timer(0.3, cancel.cancel)
    timer.start()
    started = time.monotonic()
    found = fault(fetch(server.url + "/bad", tmp_path / "a", sha256=SHA, timeout=20), cancel=cancel)
    assert isinstance(found, Interrupted) and time.monotonic() - started < 1.3
    timer.join()


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5", None])
def test_wrong_deadlines_raise_at_once(tmp_path, seconds):
    with pytest.raises((ValueError, TypeError), match="seconds"):
        fetch("http://a", tmp_path / "a", sha256=SHA, deadline=seconds)


# ------------------------------------------------------------------------------- what stands where it would write


def stranger(path, kind, other):
    """Something at `path` that is not from a download, and its target `other`."""
    other.write_bytes(b"precious")
    match kind:
        case "link":
            path.symlink_to(other)
        case "link to nothing":
            path.symlink_to(other.with_name("nothing"))
        case "hard link":
            os.link(other, path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link to a folder":
            other.with_name("folder").mkdir()
            path.symlink_to(other.with_name("folder"))
        case "link to itself":
            path.symlink_to(path.name)


KINDS = ["link", "link to nothing", "hard link", "pipe", "folder", "link to a folder", "link to itself"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("works", [True, False])
def test_other_files_with_the_name_of_the_part_are_left_unchanged(server, tmp_path, kind, works):
    (tmp_path / "files").mkdir()
    other, target = tmp_path / "other", tmp_path / "files" / "a"
    stranger(tmp_path / "files" / "a.part", kind, other)
    before = os.lstat(tmp_path / "files" / "a.part")
    if not works:
        server.script["/x"] = HEAD + b"Content-Length: 90000\r\n\r\n" + DATA
    outcome = run(fetch(server.url + "/x", target, sha256=SHA, timeout=5))
    assert is_successful(outcome) is works
    assert other.read_bytes() == b"precious" and not (tmp_path / "nothing").exists()
    assert os.path.samestat(os.lstat(tmp_path / "files" / "a.part"), before)
    assert sorted(os.listdir(tmp_path / "files")) == (["a", "a.part"] if works else ["a.part"])
    if works:
        assert target.read_bytes() == DATA and not target.is_symlink()


@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "link to itself"])
def test_a_link_at_the_final_name_is_replaced_and_not_followed(server, tmp_path, kind):
    stranger(tmp_path / "a", kind, tmp_path / "other")
    assert is_successful(run(fetch(server.url, tmp_path / "a", sha256=SHA)))
    assert (tmp_path / "other").read_bytes() == b"precious" and not (tmp_path / "nothing").exists()
    assert (tmp_path / "a").read_bytes() == DATA and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a folder"])
def test_a_folder_or_device_at_the_final_name_is_a_fault_at_once(server, tmp_path, kind):
    stranger(tmp_path / "a", kind, tmp_path / "other")
    before = os.lstat(tmp_path / "a")
    found = fault(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert isinstance(found, DownloadFailed) and not found.again
    assert os.path.samestat(os.lstat(tmp_path / "a"), before)
    assert not (tmp_path / "folder").exists() or not os.listdir(tmp_path / "folder")


def test_a_part_that_is_replaced_while_it_is_written_does_no_harm(server, tmp_path):
    (tmp_path / "other").write_bytes(b"precious")

    def act(connection):
        connection.sendall(GOOD[:30_000])
        time.sleep(0.2)
        os.unlink(tmp_path / "a.part")
        (tmp_path / "a.part").symlink_to(tmp_path / "other")
        connection.sendall(GOOD[30_000:])

    server.script["/x"] = act
    outcome = run(fetch(server.url + "/x", tmp_path / "a", sha256=SHA, timeout=5))
    assert (tmp_path / "other").read_bytes() == b"precious" and (tmp_path / "a.part").is_symlink()
    found = unsafe_perform_io(outcome.failure())
    assert isinstance(found, DownloadFailed) and "replaced" in found.reason and not (tmp_path / "a").exists()


def test_a_part_of_an_earlier_program_is_resumed(server, tmp_path):
    (tmp_path / "a.part").write_bytes(DATA[:20_000])

    def act(connection):
        rest = DATA[20_000:]
        head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 20000-49999/50000\r\nContent-Length: %d\r\n\r\n" % len(rest)
        connection.sendall(head + rest)

    server.script["/x"] = act
    assert is_successful(run(fetch(server.url + "/x", tmp_path / "a", sha256=SHA)))
    assert re.fullmatch("a", *os.listdir(tmp_path))
