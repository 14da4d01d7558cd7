"""Several real processes, one of which is killed, stopped, slow, failing or interrupted: the others end soon and name it."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

STEPS = pathlib.Path(__file__).with_name("steps.py")
HARMS = int(os.environ.get("FNLAMP_HARMS", "4"))
LONGEST = 15.0
"""Seconds from the harm to the end of the last other process's run."""


@dataclass
class Launched:
    code: int
    outcomes: dict[int, dict[str, Any]]  # by process
    took: float  # from the harm to the last outcome
    ended: float  # from the last outcome to the end of the launcher
    text: str


def launched(
    tmp_path: pathlib.Path, count: int, how: str, victim: int, after: float, *, deadline: float = 3.0, steps: int = 10**6
) -> Launched:
    moment = tmp_path / "moment"
    settings = {"how": how, "victim": victim, "after": after, "deadline": deadline, "steps": steps, "moment": str(moment)}
    # The grace is for a stopped victim, which does not end by itself; the others have ended long before.
    command = [sys.executable, "-m", "fnlamp_command", "launch", "-n", str(count), "--grace", "16"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, str(STEPS), json.dumps(settings)], capture_output=True, text=True, timeout=170, env=environment
    )
    now = time.time()
    lines = [line.partition("] ") for line in done.stdout.splitlines()]
    outcomes = {int(place[1:]): json.loads(text) for place, _, text in lines if text.startswith("{")}
    last = max((outcome["at"] for process, outcome in outcomes.items() if process != victim), default=now)
    harmed = float(moment.read_text()) if moment.exists() else last
    return Launched(done.returncode, outcomes, last - harmed, now - last, done.stdout + done.stderr)


def check_ended(run: Launched, count: int, victim: int, kinds: set[str]) -> None:
    """All the others have ended in time with a fault that names the victim, with their last good state, the same in all."""
    others = {*range(count)} - {victim}
    assert run.outcomes.keys() >= others, run.text
    for process in others:
        outcome = run.outcomes[process]
        assert outcome["kind"] in kinds, run.text
        assert outcome["named"] == [victim], run.text
        assert outcome["state"] == outcome["steps"], run.text
    # A process reaches step k + 1 only if all have come to it: the last good states are at most one step apart.
    reached = [run.outcomes[process]["steps"] for process in others]
    assert max(reached) - min(reached) <= 1, run.text
    assert run.took < LONGEST, run.text
    assert "Terminating process" not in run.text, "JAX aborted a process"
    assert "FATAL" not in run.text, "Python aborted a process"
    assert run.code != 0


@pytest.mark.slow
def test_all_processes_meet_and_end_together(tmp_path):
    run = launched(tmp_path, 3, "none", -1, 0.0, steps=20)
    assert [run.outcomes[process]["kind"] for process in range(3)] == ["Success"] * 3, run.text
    assert {one["steps"] for one in run.outcomes.values()} == {20}
    # The store has one sign of life of each, and at most the keys of the last two meetings: it does not grow with them.
    assert run.outcomes[0]["keys"] <= 3 * 3
    assert run.code == 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_is_named_by_the_others(tmp_path, victim):
    run = launched(tmp_path, 3, "kill", victim, 0.3)
    check_ended(run, 3, victim, {"ProcessLost"})
    assert f"process {victim} was killed by signal 9 (SIGKILL)" in run.text
    assert run.ended < 5.0, "a process hung at its exit"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_stopped_process_is_named_by_the_others(tmp_path, victim):
    check_ended(launched(tmp_path, 3, "stop", victim, 0.3), 3, victim, {"ProcessLost"})


@pytest.mark.slow
def test_a_slow_process_is_named_with_what_it_does(tmp_path):
    run = launched(tmp_path, 2, "slow", 1, 0.3)
    check_ended(run, 2, 1, {"ProcessLate"})
    assert "process 1 was last seen reading its batch" in run.outcomes[0]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_failure_in_one_process_is_told_to_the_others(tmp_path, victim):
    run = launched(tmp_path, 3, "fail", victim, 0.3)
    check_ended(run, 3, victim, {"ProcessFailed"})
    assert run.outcomes[victim]["kind"] == "EmptyEpoch"
    assert run.took < 5.0
    assert all("EmptyEpoch: expected at least one batch" in run.outcomes[other]["text"] for other in {0, 1, 2} - {victim})


@pytest.mark.parametrize(
    ("how", "victim"),
    [
        ("interrupt", 1),
        pytest.param("interrupt", 0, marks=pytest.mark.slow),
        pytest.param("terminate", 2, marks=pytest.mark.slow),
    ],
)
def test_an_interruption_of_one_process_stops_all_at_the_same_step(tmp_path, how, victim):
    run = launched(tmp_path, 3, how, victim, 0.3)
    assert {one["kind"] for one in run.outcomes.values()} == {"Interrupted"}, run.text
    assert len(run.outcomes) == 3
    assert len({one["state"] for one in run.outcomes.values()}) == 1, run.text
    assert run.took < 5.0


@pytest.mark.slow
@pytest.mark.parametrize("case", range(HARMS))
def test_harm_at_a_random_moment_of_a_run_of_four(tmp_path, case):
    draw = random.Random(case)
    how, victim = draw.choice(["kill", "stop", "slow"]), draw.randrange(4)
    run = launched(tmp_path, 4, how, victim, draw.uniform(0.05, 2.0), deadline=10.0)
    check_ended(run, 4, victim, {"ProcessLate"} if how == "slow" else {"ProcessLost"})
