"""A folder of runs for tests that need no git, no list of packages and no disk that survives a crash."""

from __future__ import annotations

import os
import pathlib

import pytest

from fnlamp.experiment import git, surroundings


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(git, "state_of", lambda *_: git.GitState({"missing": "not looked at"}))
    monkeypatch.setattr(surroundings, "packages", lambda: {"jax": "0"})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine does not crash here
    return str(tmp_path / "runs")
