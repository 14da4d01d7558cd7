"""A run on eight virtual devices that saves in shards: resumed on as many bit for bit, and on fewer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from outcomes import needs

SCRIPT = Path(__file__).with_name("sharded_saves.py")


@needs("orbax")
@pytest.mark.slow
def test_a_run_of_eight_devices_resumes_on_eight_two_and_one(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    steps = found.pop("steps")
    assert steps[0] == 5 and {7, 14} <= {*steps}
    for (distance, devices, samples, saved), count in zip(found.values(), (8, 2, 1), strict=True):
        assert devices == count
        assert distance == 0 if count == 8 else 0 < distance < 1e-5
        assert samples == [203, 203]
        assert saved.startswith("000000000014-")
