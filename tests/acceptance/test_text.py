"""lamp's own test of text generation by an LSTM on The Time Machine, and nanoGPT's of Shakespeare.

FNLAMP_TEXT names the folder of timemachine.txt and tinyshakespeare.txt.
"""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def test_the_lstm_learns_the_time_machine(tmp_path):
    """lamp asserts a training loss below 3.0 after 15 epochs; the entropy of single characters is 3.1."""
    folder = os.environ.get("FNLAMP_TEXT")
    if folder is None:
        pytest.skip("FNLAMP_TEXT names no folder with timemachine.txt")
    path = tmp_path / "losses.json"
    arguments = ["--text", str(Path(folder) / "timemachine.txt"), "--model", "lamp", "--epochs", "15", "--length", "1"]
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "character_model.py"))
    assert example["main"]([*arguments, "--json", str(path)]) == 0
    losses = json.loads(path.read_text())["losses"]
    print(losses[-1])
    assert len(losses) == 15
    assert losses[-1]["train"] < 2.6


def test_the_gpt_learns_shakespeare(tmp_path, monkeypatch):
    """nanoGPT's README states a validation loss of 1.88 for these sizes and 2,000 steps."""
    folder = os.environ.get("FNLAMP_TEXT")
    if folder is None or not (Path(folder) / "tinyshakespeare.txt").exists():
        pytest.skip("FNLAMP_TEXT names no folder with tinyshakespeare.txt")
    path = tmp_path / "figures.json"
    examples = Path(__file__).parents[2] / "examples"
    monkeypatch.syspath_prepend(examples)  # as Python does for a script
    example = runpy.run_path(str(examples / "gpt.py"))
    assert example["main"](["--data", str(Path(folder) / "tinyshakespeare.txt"), "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    print(figures)
    assert figures["steps"] == 2000
    assert figures["validation_loss"] <= 1.88
