"""Acceptance runs on MNIST: the folder with the IDX files is named by FNLAMP_MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    folder = os.environ.get("FNLAMP_MNIST")
    if folder is None:
        pytest.skip("FNLAMP_MNIST names no folder with MNIST's IDX files")
    return Path(folder)
