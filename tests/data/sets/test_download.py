"""fetch, from a server on this machine that cuts, stalls, corrupts, redirects and lies."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import fetch
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import ChecksumMismatch, DownloadFailed, Interrupted

DATA = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


class Clock:
    """A clock whose sleeps return at once and are recorded."""

    def __init__(self):
        self.slept = []

    def now(self):
        return time.monotonic()

    def sleep(self, seconds, cancel):
        self.slept.append(seconds)
        time.sleep(0.001)


class Handler(BaseHTTPRequestHandler):
    """Answers the next request by the server's script; without an entry, it serves the file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        act = server.script.pop(0) if server.script else {}
        data, status = act.get("data", DATA), act.get("status")
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        etag = act.get("etag", server.etag)
        fresh = self.headers.get("If-Range") in (None, etag)
        if status is None and asked and fresh and not act.get("no_ranges"):
            start = int(asked[1])
            status = 206 if start < len(data) else 416
        headers = {"ETag": etag} if etag else {}
        if status == 206:
            headers["Content-Range"] = act.get("content_range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if status == 416:
            headers["Content-Range"] = f"bytes */{len(data)}"
        body = data[start:] if status in (None, 206) else b"sorry"
        if "location" in act:
            status, body = 302, b""
            headers["Location"] = act["location"]
        headers["Content-Length"] = act.get("length", str(len(body)))
        headers.update(act.get("headers", {}))
        self.send_response(status or 200)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if "Content-Length" not in headers or headers["Content-Length"] is None or "cut" in act:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: act.get("cut", act.get("stall", len(body)))])
        if "stall" in act:
            self.wfile.flush()
            server.released.wait(10)
            self.close_connection = True
        if "hold" in act:
            act["hold"]()


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.seen, server.etag, server.released = [], [], '"v1"', threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def run(program, clock=None, **options):
    return program.run(Runtime(log=None, clock=clock or Clock(), **options))


def value(program):
    outcome = run(program)
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def fault(program, **options):
    outcome = run(program, **options)
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def ranges(server):
    return [headers.get("Range") for _, headers in server.seen]


def test_a_file_is_downloaded_once(server, tmp_path):
    path = tmp_path / "deep" / "er" / "file.gz"
    assert value(fetch(server.url + "/file.gz", path, sha256=SHA)) == path
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["file.gz"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert value(fetch(server.url + "/file.gz", path, sha256=SHA)) == path
    assert len(server.seen) == 1


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_happens_before_run(server, tmp_path):
    fetch(server.url, tmp_path / "a", sha256=SHA)
    assert not server.seen and not list(tmp_path.iterdir())


def test_a_file_of_other_content_is_replaced(server, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    value(fetch(server.url, path, sha256=SHA))
    assert path.read_bytes() == DATA


def test_a_cut_download_resumes_where_it_stopped(server, tmp_path):
    server.script += [{"cut": 100_000}, {"cut": 50_001}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert ranges(server) == [None, "bytes=100000-", "bytes=150001-"]
    assert server.seen[1][1]["If-Range"] == '"v1"'
    assert server.seen[0][1]["Accept-Encoding"] == "identity"


def test_a_download_survives_many_cuts_as_long_as_new_bytes_arrive(server, tmp_path):
    server.script += [{"cut": 30_000}] * 9
    clock = Clock()
    assert is_successful(run(fetch(server.url, tmp_path / "a", sha256=SHA), clock))
    assert clock.slept == [0.5] * 9


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 100_000), max_size=6), ranged=st.booleans(), tag=st.sampled_from(['"v1"', 'W/"v1"', None]))
def test_after_any_cut_the_file_is_correct_or_the_failure_typed(server, tmp_path, cuts, ranged, tag):
    path = tmp_path / "a"
    path.unlink(missing_ok=True)
    server.script[:] = [{"cut": cut, "no_ranges": not ranged, "etag": tag} for cut in cuts]
    outcome = run(fetch(server.url, path, sha256=SHA))
    if is_successful(outcome):
        assert path.read_bytes() == DATA
    else:
        assert isinstance(unsafe_perform_io(outcome.failure()), DownloadFailed)
        assert not path.exists()


def test_a_later_program_resumes_too(server, tmp_path):
    server.script += [{"cut": 1000}, {"status": 404}]
    found = fault(fetch(server.url + "/a.gz", tmp_path / "a.gz", sha256=SHA))
    assert isinstance(found, DownloadFailed)
    assert "HTTP 404" in found.reason and found.path == str(tmp_path / "a.gz")
    assert (tmp_path / "a.gz.part").read_bytes() == DATA[:1000]
    value(fetch(server.url + "/a.gz", tmp_path / "a.gz", sha256=SHA))
    assert ranges(server)[-1] == "bytes=1000-"
    assert [p.name for p in tmp_path.iterdir()] == ["a.gz"]


def test_a_part_of_another_file_costs_one_more_attempt(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert ranges(server) == ["bytes=1000-", None]


@pytest.mark.parametrize("known", [None, len(DATA)])
@pytest.mark.parametrize("part", [DATA, DATA + b"x", b"y" * len(DATA)], ids=["whole", "longer", "wrong"])
def test_a_part_that_seems_complete(server, tmp_path, part, known):
    (tmp_path / "a.part").write_bytes(part)
    value(fetch(server.url, tmp_path / "a", sha256=SHA, size=known))
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.script += [{"cut": 1000, "no_ranges": True}, {"no_ranges": True}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("sent", ["bytes 0-299999/300000", "bytes 5-9/300000", "nonsense", None])
def test_a_wrong_content_range_is_not_trusted(server, tmp_path, sent):
    server.script += [{"cut": 1000}, {"content_range": sent}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert ranges(server) == [None, "bytes=1000-", None]


def test_a_file_that_changes_during_a_download_starts_over(server, tmp_path):
    server.script += [{"cut": 1000, "data": b"z" * len(DATA), "etag": '"v0"'}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert server.seen[1][1]["If-Range"] == '"v0"'
    assert len(server.seen) == 2


def test_a_changed_file_without_an_etag_is_detected_by_its_checksum(server, tmp_path):
    server.etag = None
    server.script += [{"cut": 1000, "data": b"z" * len(DATA)}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert ranges(server) == [None, "bytes=1000-", None]


def test_a_stalled_server_is_given_up_and_tried_again(server, tmp_path):
    server.script += [{"stall": 100_000}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA, timeout=0.2))
    assert (tmp_path / "a").read_bytes() == DATA
    assert len(server.seen) == 2


def test_a_server_that_never_answers_is_a_fault(server, tmp_path):
    server.script += [{"stall": 0}] * 3
    clock = Clock()
    found = fault(fetch(server.url, tmp_path / "a", sha256=SHA, timeout=0.1), clock=clock)
    assert isinstance(found, DownloadFailed)
    assert "silent for 0.1 seconds" in str(found)
    assert clock.slept == [0.5, 1.0]
    assert not list(tmp_path.iterdir())


def test_a_corrupt_file_is_not_kept(server, tmp_path):
    server.script += [{"data": b"!" + DATA[1:]}]
    found = fault(fetch(server.url, tmp_path / "a", sha256=SHA))
    wrong = hashlib.sha256(b"!" + DATA[1:]).hexdigest()
    assert found == ChecksumMismatch(server.url, SHA, wrong)
    assert not list(tmp_path.iterdir())


def test_a_corrupt_mirror_leads_to_the_next(server, tmp_path):
    server.script += [{"data": DATA[::-1]}]
    value(fetch([server.url + "/1", server.url + "/2"], tmp_path / "a", sha256=SHA))
    assert [path for path, _ in server.seen] == ["/1", "/2"]


def test_the_next_mirror_continues_after_the_bytes_of_the_first(server, tmp_path):
    server.script += [{"cut": 1000}, {"status": 410}]
    value(fetch([server.url + "/1", server.url + "/2"], tmp_path / "a", sha256=SHA))
    assert [(path, headers.get("Range")) for path, headers in server.seen][-1] == ("/2", "bytes=1000-")
    assert "If-Range" not in server.seen[-1][1]  # the tag belongs to the first mirror


def test_the_failure_of_every_mirror_is_reported(server, tmp_path):
    server.script += [{"status": 404}, {"data": b"another file"}]
    urls = [server.url + "/1", server.url + "/2", "http://127.0.0.1:9/3"]
    found = fault(fetch(urls, tmp_path / "a", sha256=SHA))
    assert isinstance(found, DownloadFailed)
    assert found.url == urls[0]
    assert "/1: HTTP 404 Not Found; " in found.reason
    assert "/2: another file, of SHA-256" in found.reason
    assert "/3: Connection refused" in found.reason
    assert "put the file at" in str(found)


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (403, 1), (404, 1), (429, 3), (500, 3), (503, 3)])
def test_a_temporary_error_is_tried_again(server, tmp_path, status, requests):
    server.script += [{"status": status}] * 3
    assert isinstance(fault(fetch(server.url, tmp_path / "a", sha256=SHA)), DownloadFailed)
    assert len(server.seen) == requests
    assert not list(tmp_path.iterdir())


def test_redirects_are_followed_and_loops_are_a_fault(server, tmp_path):
    server.script += [{"location": "/elsewhere"}]
    value(fetch(server.url + "/here", tmp_path / "a", sha256=SHA))
    assert [path for path, _ in server.seen] == ["/here", "/elsewhere"]
    server.script += [{"location": "/here"}] * 40
    assert "redirect" in fault(fetch(server.url + "/here", tmp_path / "b", sha256=SHA)).reason


def test_a_known_size_rejects_another_answer_before_it_is_read(server, tmp_path):
    server.script += [{"length": "5000000000", "data": b"x", "cut": 1}]
    found = fault(fetch(server.url, tmp_path / "a", sha256=SHA, size=len(DATA)))
    assert "expected 300,000 bytes, got an answer of 5,000,000,000" in found.reason


def test_an_error_page_does_not_lose_the_received_bytes(server, tmp_path):
    server.script += [{"cut": 1000}, {"data": b"please log in", "no_ranges": True}]
    assert isinstance(fault(fetch(server.url, tmp_path / "a", sha256=SHA, size=len(DATA))), DownloadFailed)
    assert (tmp_path / "a.part").read_bytes() == DATA[:1000]


def test_bytes_beyond_the_size_are_not_written(server, tmp_path):
    server.script += [{"length": None, "data": DATA * 3}]
    found = fault(fetch(server.url, tmp_path / "a", sha256=SHA, size=len(DATA)))
    assert "expected 300,000 bytes, got more" in found.reason
    assert not list(tmp_path.iterdir())


def test_an_answer_of_unknown_length(server, tmp_path):
    server.script += [{"length": None}]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_packed_file_is_kept_packed_although_the_server_declares_an_encoding(server, tmp_path):
    server.script += [{"headers": {"Content-Encoding": "gzip"}}]
    value(fetch(server.url, tmp_path / "a.gz", sha256=SHA))
    assert (tmp_path / "a.gz").read_bytes() == DATA


def test_a_folder_that_cannot_be_written(server, tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere, the user nobody may not
    try:
        found = fault(fetch(server.url, tmp_path / "a", sha256=SHA))
    finally:
        os.seteuid(user)
    assert isinstance(found, DownloadFailed) and "Permission denied" in found.reason


def test_a_parent_that_is_not_a_folder(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, why in ((tmp_path / "file" / "a", "Not a directory|File exists"), (tmp_path, "Is a directory")):
        found = fault(fetch(server.url, path, sha256=SHA))
        assert isinstance(found, DownloadFailed) and re.search(why, found.reason)


def test_a_full_disk(server, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        found = fault(fetch(server.url, tmp_path / "a", sha256=SHA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(found, DownloadFailed) and "File too large" in found.reason
    value(fetch(server.url, tmp_path / "a", sha256=SHA))


def test_an_interruption_keeps_the_received_bytes(server, tmp_path):
    cancel = CancelToken()
    server.script += [{"stall": 100_000, "hold": lambda: None}]
    timer = threading.Timer(0.1, cancel.cancel)
    timer.start()
    outcome = run(fetch(server.url, tmp_path / "a", sha256=SHA, timeout=0.3), cancel=cancel)
    timer.join()
    assert isinstance(unsafe_perform_io(outcome.failure()), Interrupted)
    assert (tmp_path / "a.part").stat().st_size > 0
    value(fetch(server.url, tmp_path / "a", sha256=SHA))


FETCH = """
import sys
from fnlamp.data import fetch
from fnlamp.effect import Runtime
url, path, sha = sys.argv[1:]
fetch(url, path, sha256=sha).run(Runtime(log=None)).unwrap()
"""


@pytest.mark.slow
def test_two_processes_at_once_share_one_download(server, tmp_path):
    server.script += [{"cut": 100_000}, {"cut": 100_000}]
    command = [sys.executable, "-c", FETCH, server.url, str(tmp_path / "a"), SHA]
    processes = [subprocess.Popen(command, env={**os.environ, "NO_PROXY": "*"}) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "a").read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert len(server.seen) == 3


@pytest.mark.slow
def test_a_killed_process_leaves_a_part_that_the_next_one_resumes(server, tmp_path):
    server.script += [{"stall": 2**17}]
    command = [sys.executable, "-c", FETCH, server.url, str(tmp_path / "a"), SHA]
    with subprocess.Popen(command, env={**os.environ, "NO_PROXY": "*"}) as process:
        part = tmp_path / "a.part"
        while not part.exists() or part.stat().st_size < 2**16:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]
    value(fetch(server.url, tmp_path / "a", sha256=SHA))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert int(re.fullmatch(r"bytes=(\d+)-", ranges(server)[-1])[1]) >= 2**16


def test_threads_share_one_download_too(server, tmp_path):
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(run(fetch(server.url, tmp_path / "a", sha256=SHA)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4 and all(map(is_successful, outcomes))
    assert len(server.seen) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_progress_is_in_percent_on_standard_error_and_silence_is_silent(server, tmp_path, capfd):
    value(fetch(server.url + "/a", tmp_path / "a", sha256=SHA))
    assert capfd.readouterr() == ("", "")
    lines = []
    assert is_successful(fetch(server.url + "/name.gz", tmp_path / "b", sha256=SHA).run(Runtime(log=lines.append)))
    out, err = capfd.readouterr()
    assert out == "" and "name.gz: 100%" in err
    assert "Downloading data" not in err  # pooch's own line


def test_wrong_arguments_are_bugs(tmp_path):
    with pytest.raises(ValueError, match="SHA-256"):
        fetch("http://a", tmp_path / "a", sha256="md5")
    with pytest.raises(ValueError, match="URL"):
        fetch([], tmp_path / "a", sha256=SHA)


@pytest.mark.parametrize("url", ["no url", "http://", "gopher://a/b", "http://[::1/x"])
def test_a_malformed_url_is_a_fault(url, tmp_path):
    assert isinstance(fault(fetch(url, tmp_path / "a", sha256=SHA)), DownloadFailed)
