"""Sweeps whose processes are killed."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys
import time

import pytest

from fnlamp.experiment.index import listing

HERE = pathlib.Path(__file__).parent


def started(folder: pathlib.Path) -> subprocess.Popen[str]:
    """A process that is about to work on the sweep."""
    process = subprocess.Popen(
        [sys.executable, HERE / "killed_sweep.py", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def finished(folder: pathlib.Path) -> list[str]:
    output, _ = started(folder).communicate(timeout=300)
    assert output.splitlines()[-1].startswith("best"), output
    return output.splitlines()


@pytest.mark.slow
def test_a_sweep_that_is_killed_10_times_has_the_same_12_results(tmp_path):
    expected, killed = finished(tmp_path / "whole"), 0
    assert len(expected) == 13 and len({line.split()[-1] for line in expected}) == 12
    random.seed(0)
    for _ in range(10):
        process = started(tmp_path / "killed")
        time.sleep(random.uniform(0.0, 2.4))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert finished(tmp_path / "killed") == expected
    records = listing(str(tmp_path / "killed"), "killed")
    assert sorted(each.lane for each in records) == list(range(12))
    assert {each.status for each in records} == {"completed"} and killed == 10
