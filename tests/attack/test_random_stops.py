"""Stops at random moments of a run with processes, prefetch and a download: each ends soon, typed, and with its state."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import http.server
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from returns.result import Success

from fnlamp import loss, nn, optim, stream, train
from fnlamp.data import fetch, loader, processes
from fnlamp.effect import Effect, Interrupted, Resource, Runtime

pytest.importorskip("requests")

SOON = 1.0
EPOCHS, ROWS, BATCH = 2, 32, 4
FILE = np.random.default_rng(0).bytes(40_000)
X = np.random.default_rng(1).standard_normal((ROWS, 4)).astype(np.float32)


class Drips(http.server.BaseHTTPRequestHandler):
    """The file in five pieces, a hundredth of a second apart."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        for start in range(0, len(FILE), 8000):
            time.sleep(0.01)
            try:
                self.wfile.write(FILE[start : start + 8000])
            except OSError:  # the client has disconnected
                return

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drips)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/file"
    server.shutdown()
    thread.join()
    server.server_close()


class Slowly:
    """Rows that take a few milliseconds each, in a worker."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> Any:
        time.sleep(0.003)
        return X[row], np.int32(row % 3)


class Attack:
    """A run, and the first time at which it could stop: the start of workers is not cut short."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.starting, self.started = float("inf"), float("inf")
        self.reports = 0

    def mark(self, name: str) -> Effect[None, Any]:
        return Effect.suspend(lambda: setattr(self, name, time.monotonic()))

    def download(self, name: str) -> Effect[Path, Any]:
        return fetch(self.url, self.folder / name, sha256=hashlib.sha256(FILE).hexdigest(), timeout=5)

    def program(self, resume: Any = None) -> Effect[Any, Any]:
        started = processes(2).bind(
            lambda team: Resource.make(self.mark("started"), lambda *_: Effect.from_value(None)).map(lambda _: team)
        )

        def with_file(path: Path) -> Effect[Any, Any]:
            assert path.read_bytes() == FILE  # a download that succeeds is whole
            return self.mark("starting").bind(lambda _: started.use(lambda team: self.training(team, resume)))

        return self.download("first").bind(with_file)

    def training(self, team: Any, resume: Any) -> Effect[Any, Any]:
        def batches(context: train.LoopContext) -> Resource[stream.BatchStream, Any]:
            rows = loader(Slowly(), batch_size=BATCH, shuffle=True, seed=context.seed, workers=team)
            return rows.bind(lambda batches: batches.prefetch(2))

        return train.epochs(
            model=MODEL,
            optimizer=optim.adamw(1e-2),
            train_batches=batches,
            epochs=EPOCHS,
            resume=resume,
            on_epoch=self.on_epoch,
        )

    def on_epoch(self, report: train.EpochReport) -> Effect[Path, Any]:
        self.reports += 1
        return self.download(f"after {report.epoch}")

    def safe_point_after(self, moment: float) -> float:
        return self.started if self.starting <= moment < self.started < float("inf") else moment


MODEL = train.supervised(nn.linear(8) >> nn.tanh >> nn.dropout(0.1) >> nn.linear(3), loss.cross_entropy())


def left_behind() -> tuple[int, int, int]:
    """The number of memory files and sockets, of workers and of threads."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # a thread has closed it, or it is the descriptor of this listing
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split() if server else []
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("fnlamp")]
    return sum("memfd" in link for link in links), len(children), len(threads)


def more(now: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return any(a > b for a, b in zip(now, before, strict=True))


def stopped(attack: Attack, kind: str, after: float) -> tuple[Any, float]:
    """The exit of the run, stopped after that many seconds, and the time of the stop."""
    runtime = Runtime(log=None, signals=(signal.SIGINT, signal.SIGTERM))
    stops: dict[str, Callable[[], object]] = {
        "cancel": runtime.cancel.cancel,
        "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
        "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    }
    moments: list[float] = []

    def stop() -> None:
        moments.append(time.monotonic())
        stops[kind]()

    timer = threading.Timer(after, stop)
    try:
        exit = Effect.suspend(timer.start).then(attack.program()).run_exit(runtime)
        ended = time.monotonic()
        timer.cancel()
        timer.join()
    finally:
        timer.cancel()
    return exit, ended - attack.safe_point_after(moments[0]) if moments else 0.0


def leaves(trained: Any) -> list[Any]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((trained.params, trained.state.optimizer_state))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_stop_at_any_moment_ends_the_run_soon_and_typed_with_its_state(url: str, tmp_path: Path) -> None:
    def attack(number: int) -> Attack:
        folder = tmp_path / str(number)
        folder.mkdir()
        return Attack(url, folder)

    runs, quiet = 60, Runtime(log=None)
    assert isinstance(attack(-1).program().run_exit(quiet), Success)  # compiles, and starts the server of the workers
    began = time.monotonic()
    whole = attack(-2).program().run_exit(quiet)
    seconds = time.monotonic() - began
    assert isinstance(whole, Success)
    expected = leaves(whole.unwrap())
    before = left_behind()
    chance = random.Random(7)
    waits, ends, phases = [], [], {"finished": 0, "download": 0, "training": 0}
    for number in range(runs):
        kind = ("cancel", "SIGINT", "SIGTERM")[number % 3]
        moment = seconds * (number + chance.random()) / runs  # random within each of `runs` equal parts of the time
        run = attack(number)
        exit, waited = stopped(run, kind, moment)
        where = (number, kind, moment, exit)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, where
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, where
        if isinstance(exit, Success):
            phases["finished"] += 1
            continue
        assert isinstance(exit, Interrupted), where
        waits.append(waited)
        assert waited < SOON, where
        state = exit.state
        if state is None:  # there is none before the training
            assert not run.reports, where
            phases["download"] += 1
            continue
        phases["training"] += 1
        assert all(np.isfinite(leaf).all() for leaf in leaves(state)), where
        assert len(state.curve) in (run.reports, run.reports + 1), where
        ends.append((number, state))
        until = time.monotonic() + 2
        while more(now := left_behind(), before) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.02)
        assert not more(now, before), (where, now, before)
    print(f"{runs} runs of {seconds:.2f} s: {phases}; ended after {np.median(waits):.3f} s, at most {max(waits):.3f} s")
    assert phases["training"] >= runs // 4
    assert phases["download"]
    for number, state in chance.sample(ends, min(len(ends), 2)):
        resumed = attack(1000 + number).program(resume=state).run_exit(quiet)
        assert isinstance(resumed, Success), resumed
        for a, b in zip(leaves(resumed.unwrap()), expected, strict=True):
            np.testing.assert_array_equal(a, b)
