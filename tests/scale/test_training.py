"""Training in real processes: the numbers of one, and a harmed process is a fault that names it in the others."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("training.py")
SLOW = pytest.mark.slow
LONGEST = 15.0
"""Seconds from the harm to the end of the last other process's run."""
HARMS = int(os.environ.get("FNLAMP_HARMS", "3"))
"""Random moments at which a process is harmed; each takes a quarter of a minute."""
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def run(count, **options):
    """The outcomes by process (`None`: of the program without a cluster), and the launcher's text."""
    settings = {"model": "mlp", "layout": "copies", "epochs": 4, "folder": None, "resume": False, "how": "", "victim": -1}
    settings |= {"after": 0, "wait": 0.0, "moment": "", "deadline": 10.0, "alone": count is None} | options
    launch = [] if count is None else ["-m", "fnlamp_command", "launch", "-n", str(count), "--grace", "16"]
    command = [sys.executable, *launch, str(SCRIPT), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    lines = [line.partition("] ") if count else ("[0", "", line) for line in done.stdout.splitlines()]
    outcomes = {int(place[1:]): json.loads(text) for place, _, text in lines if text.startswith("{")}
    return outcomes, done.stdout + done.stderr


def apart(outcome, one):
    curves = np.array(outcome["curve"]) / np.array(one["curve"]) - 1
    weights, expected = np.array(outcome["weights"]), np.array(one["weights"])
    return max(float(np.abs(curves).max()), float(np.linalg.norm(weights - expected) / np.linalg.norm(expected)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "model", "layout"),
    [
        (2, "mlp", "full"),
        pytest.param(3, "mlp", "copies", marks=SLOW),  # 32 rows do not divide by 3
        pytest.param(2, "gpt", "tensor", marks=SLOW),
    ],
)
def test_processes_have_the_numbers_of_one(count, model, layout):
    one, _ = run(None, model=model)
    several, told = run(count, model=model, layout=layout)
    assert several.keys() == {*range(count)}, told
    for process, outcome in several.items():
        assert outcome["kind"] == "Success", told
        assert apart(outcome, one[0]) < 1e-5, process
        assert outcome["curve"] == several[0]["curve"]
        assert outcome["weights"] == several[0]["weights"]


def harmed(tmp_path, how, victim, after, wait=0.0, count=4):
    """The others end in time with a fault that names the victim and their last good state; returns the seconds it took."""
    moment, folder = tmp_path / "moment", tmp_path / "saves"
    options = {"how": how, "victim": victim, "after": after, "wait": wait, "moment": str(moment), "folder": str(folder)}
    outcomes, text = run(count, epochs=10**6, deadline=5.0, **options)
    others = {*range(count)} - {victim}
    assert outcomes.keys() >= others, text
    kinds = {"kill": {"ProcessLost"}, "stop": {"ProcessLost"}, "slow": {"ProcessLate"}}[how]
    for process in others:
        assert outcomes[process]["kind"] in kinds, text
        assert outcomes[process]["named"] == [victim], text
    reached = {outcomes[process]["steps"] for process in others}
    assert len(reached) == 1, f"last good states after {reached} steps"
    took = max(outcomes[process]["at"] for process in others) - float(moment.read_text())
    assert took < LONGEST, text
    return took, reached.pop(), str(folder)


@SLOW
@pytest.mark.parametrize("case", range(HARMS))
def test_a_process_harmed_at_a_random_moment_ends_the_others_soon_and_by_name(tmp_path, case):
    draw = random.Random(case)
    how, victim = ("kill", "stop", "slow")[case % 3], draw.randrange(4)
    took, _, _ = harmed(tmp_path, how, victim, draw.randrange(10, 40), draw.random() / 10)
    print(f"{how} of process {victim}: {took:.1f} s")


@SLOW
@pytest.mark.parametrize("count", [3, 2])
def test_a_run_that_lost_a_process_resumes_with_fewer(tmp_path, count):
    """Saved by process 0, whose last save resumes on fewer processes: to the numbers of a run of one, each row once."""
    _, reached, folder = harmed(tmp_path, "kill", 3, 20)
    epochs = max(reached // 7 + 3, 6)  # of 7 steps
    resumed, text = run(count, folder=folder, resume=True, epochs=epochs, how="calm")
    one, _ = run(None, epochs=epochs, how="calm")
    for process in range(count):
        assert resumed[process]["kind"] == "Success", text
        assert [epoch[2] for epoch in resumed[process]["curve"]] == [203] * epochs
        assert apart(resumed[process], one[0]) < 1e-5
