"""The settings and results of each case of the loading benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paired import Finding


@dataclass(frozen=True)
class Given:
    """The settings. `scale` multiplies the sizes of generated data; `times` is the number of trials of what must never fail."""

    work: Path
    mnist: Path | None = None
    rounds: int = 15
    times: int = 50
    gigabytes: float = 8.0
    scale: float = 1.0
    grain: bool = True


@dataclass(frozen=True)
class Outcome:
    """Figures with their targets, and all measurements."""

    findings: list[Finding]
    figures: dict[str, Any] = field(default_factory=dict)
