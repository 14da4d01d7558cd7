"""Situations in which other libraries trained wrongly on many devices: `Sharded` has the numbers of NumPy in float64.

docs/explanation/sharding.md lists them with their reports. The mistake's result is computed too, and is far from the right one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("sharded_situations.py")
DISTANCES = ("uneven_rows", "ignored_rows", "accumulated", "clipped", "batch_norm", "metrics", "averaged", "scheduled")
CLOSE, FAR = 1e-5, 1e-3

pytestmark = pytest.mark.slow


@cache
def found():
    """What the functions of the script return, in a process that sees eight devices."""
    names = (*DISTANCES, "dropout", "resumed", "stopped")
    done = subprocess.run([sys.executable, str(SCRIPT), *names], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("situation", DISTANCES)
def test_a_run_has_the_numbers_of_numpy_and_not_those_of_the_mistake(situation):
    run, mistake = found()[situation]
    assert run < CLOSE
    assert mistake > FAR


def test_devices_have_different_dropout_masks_and_those_of_one_device():
    eight, full, one = np.array(found()["dropout"])
    assert np.allclose(eight, np.round(eight), atol=1e-4)
    assert ((eight > 0.5) & (eight < 7.5)).any()  # neither kept on all devices nor on none
    assert np.allclose(eight, one, atol=1e-4)
    assert np.allclose(full, one, atol=1e-4)


def test_each_row_is_seen_once_by_a_run_that_continues_on_another_number_of_devices():
    resumed = found()["resumed"]
    assert resumed["step"] < 3  # in the middle of the epoch
    assert np.allclose(resumed["visits"], 1, atol=1e-5)


def test_early_stopping_is_decided_by_the_rows_of_all_devices():
    stopped = found()["stopped"]
    assert stopped["runs"] == [stopped["right"]] * 2
    assert 2 < stopped["right"] < 40
    assert len({stopped["right"], *stopped["by device"]}) > 2
