"""Which process this is, from arguments, from `fnlamp launch` and from SLURM; and what is said if it is not known."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fnlamp.fault import ClusterUndefined, FaultError
from fnlamp.scale.place import ALONE, place
from fnlamp.scale.relay import Relay

NAMES = ("FNLAMP_ADDRESS", "FNLAMP_PROCESSES", "FNLAMP_PROCESS", "JAX_COORDINATOR_ADDRESS")
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "node[003-006]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in (*NAMES, *SLURM, "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_with_nothing_said_there_is_one_process():
    assert place(None, None, None, 10.0) is ALONE
    assert place("node1:1", 1, None, 10.0) is ALONE


def test_arguments_come_before_what_the_launcher_says(monkeypatch):
    assert place("node1:1", 2, 1, 10.0)[:3] == ("node1:1", 2, 1)
    for name, value in zip(NAMES, ("127.0.0.1:7", "4", "2"), strict=False):
        monkeypatch.setenv(name, value)
    assert place(None, None, None, 10.0) == ("127.0.0.1:7", 4, 2, None, True)
    assert place(None, None, 3, 10.0).process == 3


def test_slurm_is_detected_as_jax_does_but_not_under_the_launcher(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert place(None, None, None, 10.0) == ("node003:61441", 4, 3, [1], False)
    for name, value in zip(NAMES, ("127.0.0.1:7", "2", "0"), strict=False):
        monkeypatch.setenv(name, value)
    assert place(None, None, None, 10.0) == ("127.0.0.1:7", 2, 0, None, True)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("node1:1", 2, None), "the number of this process"),
        (("node1:1", None, None), "the number of processes and the number of this process"),
        ((None, 2, 1), "the address"),
        (("node1:1", 2, 2), "the number of this process, which is 2 of 2"),
    ],
)
def test_what_is_missing_is_named(given, missing):
    with pytest.raises(FaultError) as caught:
        place(*given, 10.0)
    assert caught.value.fault == ClusterUndefined(missing)


def test_a_variable_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setenv("FNLAMP_PROCESS", "two")
    with pytest.raises(FaultError, match="FNLAMP_PROCESS, which is 'two'"):
        place("node1:1", 4, None, 10.0)


@pytest.mark.slow
def test_a_cluster_entered_too_late_or_without_a_port_is_a_fault():
    code = """
import sys
from fnlamp.effect import Effect, Runtime
from fnlamp.scale import cluster
body = lambda here: Effect.from_value(1)
print(type(cluster("node1", 2, 1).use(body).run_exit(Runtime(log=None)).failure()).__name__)
import jax
jax.numpy.zeros(1)
print(type(cluster("node1:1", 2, 1).use(body).run_exit(Runtime(log=None)).failure()).__name__)
print(cluster(None, 1).use(body).run_exit(Runtime(log=None)).unwrap())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ClusterUndefined", "JaxStarted", "1"]


JOIN = """
import sys
from fnlamp.effect import Effect, Runtime
from fnlamp.scale import cluster
process, port = map(int, sys.argv[1:])
program = cluster(f"127.0.0.1:{port}", 2, process, join=2.0).use(lambda here: Effect.from_value(1))
print(program.run_exit(Runtime(log=None)).failure())
sys.exit(4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_whose_others_do_not_start_ends_with_a_fault(process):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = subprocess.run([sys.executable, "-c", JOIN, str(process), str(port)], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"expected 2 processes to join the coordinator at 127.0.0.1:{port} within 2 s, got: not all")
    assert done.returncode == 4, done.stderr


INTERRUPTED = """
import sys, time
from fnlamp.effect import Effect, Runtime
from fnlamp.scale import cluster
program = cluster(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]), join=100.0).use(lambda here: Effect.from_value(1))
print("joining", flush=True)
exit = program.run_exit(Runtime(log=None))
print(type(exit).__name__, time.time(), flush=True)
sys.exit(6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_waits_for_the_others_stops_at_a_signal(process):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    command = [sys.executable, "-c", INTERRUPTED, str(process), port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "joining\n"
        time.sleep(3.0)
        sent = time.time()
        child.send_signal(signal.SIGINT)
        kind, at = child.stdout.readline().split()
        assert kind == "Interrupted"
        assert float(at) - sent < 1.0
        _, errors = child.communicate(timeout=60.0)
    assert child.returncode == 6, errors


@pytest.mark.slow
def test_a_coordinator_whose_port_is_in_use_says_so():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", JOIN, "0", port], capture_output=True, text=True, timeout=120)
    assert "process 0 cannot listen" in done.stdout
    assert "in use" in done.stdout
    assert done.returncode == 4


def served(server: socket.socket, seen: list[bytes]) -> None:
    connection, _ = server.accept()
    seen.append(connection.recv(5))
    connection.sendall(seen[-1].upper())
    connection.recv(1)
    connection.close()


def test_the_relay_forwards_and_keeps_the_connection_when_the_far_end_goes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen: list[bytes] = []
        thread = threading.Thread(target=served, args=(server, seen))
        thread.start()
        relay = Relay("127.0.0.1", server.getsockname()[1])
        host, port = relay.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10.0) as near:
            near.sendall(b"hello")
            assert near.recv(5) == b"HELLO"
            relay.joined.set()
            assert not relay.closed.is_set()
            near.sendall(b"x")  # and the far end closes
            assert relay.closed.wait(10.0)
            near.settimeout(0.2)
            with pytest.raises(TimeoutError):  # silent, but open
                near.recv(1)
        thread.join()
        relay.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=10.0)


def test_before_all_have_joined_the_relay_passes_on_that_there_is_no_coordinator():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    relay = Relay("127.0.0.1", port)
    host, here = relay.address.split(":")
    with socket.create_connection((host, int(here)), timeout=10.0) as near:
        assert near.recv(1) == b""
    assert not relay.closed.is_set()
    relay.stop()
