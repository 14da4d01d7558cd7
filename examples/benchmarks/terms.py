"""What every case of the loading benchmark is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paired import Finding


@dataclass(frozen=True)
class Given:
    """The settings. `scale` multiplies the sizes of what is made up; `times` is how often what must never fail is tried."""

    work: Path
    mnist: Path | None = None
    rounds: int = 15
    times: int = 50
    gigabytes: float = 8.0
    scale: float = 1.0
    grain: bool = True


@dataclass(frozen=True)
class Outcome:
    """Figures beside targets, and all that was measured."""

    findings: list[Finding]
    figures: dict[str, Any] = field(default_factory=dict)
