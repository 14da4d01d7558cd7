"""Processes that save in shards: one is killed during a save, and fewer resume from the save before."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from outcomes import needs

SCRIPT = pathlib.Path(__file__).with_name("sharding.py")


def run(count, **options):
    """The outcomes by process (`None`: of the program without a cluster), and the launcher's text."""
    settings = {"layout": "full", "epochs": 3, "folder": None, "resume": False, "victim": -1, "alone": count is None}
    launch = [] if count is None else ["-m", "fnlamp_command", "launch", "-n", str(count), "--grace", "16"]
    command = [sys.executable, *launch, str(SCRIPT), json.dumps({**settings, "pause": 0.0, **options})]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    lines = [line.partition("] ") if count else ("[0", "", line) for line in done.stdout.splitlines()]
    return {int(place[1:]): json.loads(text) for place, _, text in lines if text.startswith("{")}, done.stdout + done.stderr


@needs("orbax")
@pytest.mark.slow
def test_a_process_killed_during_a_save_leaves_the_one_before_and_fewer_resume(tmp_path):
    outcomes, text = run(4, folder=str(tmp_path), victim=3, epochs=10**6, pause=0.5)
    for process in range(3):
        assert outcomes[process]["kind"] == "ProcessLost", text
        assert "process 3" in outcomes[process]["text"]
    names = [path.name for path in tmp_path.iterdir() if path.suffix == ".orbax"]
    assert names == ["000000000007-1.orbax"], "one whole save, after the first epoch"
    parts = [path.name for path in (tmp_path / names[0] / "arrays").glob("ocdbt.process_*")]
    assert sorted(parts) == [f"ocdbt.process_{process}" for process in range(4)]
    resumed, text = run(2, folder=str(tmp_path), resume=True)
    one, _ = run(None)
    for process in range(2):
        assert resumed[process]["kind"] == "Success", text
        assert resumed[process]["cut"] > 0
        assert [epoch[2] for epoch in resumed[process]["curve"]] == [203] * 3
        found, expected = (np.array(each["weights"]) for each in (resumed[process], one[0]))
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
        np.testing.assert_allclose(resumed[process]["curve"], one[0]["curve"], rtol=1e-5)
    assert resumed[0]["saved"].endswith("000000000021-3.orbax")
    assert not list(tmp_path.glob(".save-*")), "what the killed run left is removed"
