"""`fnlamp launch`: numbered lines, exit codes, signals, and no process left behind."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = [sys.executable, "-m", "fnlamp_command", "launch"]
WHO = "import os, sys, time, signal; me = int(os.environ['FNLAMP_PROCESS'])\n"


@pytest.fixture
def launch(tmp_path):
    def run(code: str, *arguments: str, count: int = 2, grace: float = 20.0) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program.py"
        program.write_text(WHO + code)
        command = [*LAUNCH, "-n", str(count), "--grace", str(grace), str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def alive(process: int) -> bool:
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def gone(process: int) -> bool:
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(process)


def test_lines_are_numbered_and_arguments_and_places_are_passed(launch):
    done = launch(
        "print(me, sys.argv[1:], os.environ['FNLAMP_PROCESSES'])\nsys.stderr.write('no newline')", "--rate", "-n", count=3
    )
    assert sorted(done.stdout.splitlines()) == [f"[{each}] {each} ['--rate', '-n'] 3" for each in range(3)]
    assert sorted(done.stderr.splitlines()) == [f"[{each}] no newline" for each in range(3)]
    assert done.returncode == 0


def test_the_first_failure_is_reported_and_the_others_may_end_by_themselves(launch):
    done = launch("sys.exit(5) if me == 1 else time.sleep(1.0); print('ended')")
    assert "fnlamp: process 1 ended with exit code 5; the others have 20 s to end" in done.stderr
    assert done.stdout == "[0] ended\n"
    assert done.returncode == 5


@pytest.mark.slow
def test_what_does_not_end_is_stopped_and_then_killed(launch):
    start = time.monotonic()
    done = launch(
        "os.kill(os.getpid(), 9) if me == 0 else signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", grace=0.5
    )
    assert done.returncode == 128 + 9
    assert "process 0 was killed by signal 9 (SIGKILL)" in done.stderr
    assert "fnlamp: stopping 1\nfnlamp: killing 1\n" in done.stderr
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process_once(tmp_path, number):
    program = tmp_path / "program.py"
    program.write_text(
        WHO + "seen = []\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, lambda n, f: seen.append(n))\n"
        "print('ready')\nwhile not seen: time.sleep(0.05)\ntime.sleep(0.5); print('seen', *map(int, seen))\n"
    )
    with subprocess.Popen([*LAUNCH, "-n", "2", str(program)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline().endswith("ready\n")
        child.send_signal(number)
        assert sorted(child.stdout.read().splitlines()) == [f"[{each}] seen {int(number)}" for each in range(2)]
    assert child.returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has no signal at a parent's death")
def test_no_process_is_left_when_the_launcher_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WHO + "print(os.getpid())\ntime.sleep(60)\n")
    with subprocess.Popen([*LAUNCH, "-n", "2", str(program)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        started = [int(child.stdout.readline().split()[1]) for _ in range(2)]
        assert all(map(alive, started))
        child.kill()
    assert all(map(gone, started))


def test_what_a_process_has_started_ends_with_it(launch):
    code = "import subprocess\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    done = launch(code, count=1)
    assert gone(int(done.stdout.split()[1]))
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0", "a.py"], "expected a whole number of 1 or more, got 0"),
        (["-n", "2", "missing.py"], "expected a Python file, got missing.py"),
        (["a.py"], "required: -n"),
    ],
)
def test_wrong_usage_is_said(words, message):
    done = subprocess.run([*LAUNCH, *words], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2
    assert message in done.stderr
