"""Optional packages and displays that this machine lacks."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class ExtraMissing(Fault):
    """A required optional package is not installed.

    >>> print(ExtraMissing("pandas", "parquet"))
    expected the package pandas, got none: install it with pip install 'fnlamp[parquet]'
    """

    package: str
    extra: str

    def __str__(self) -> str:
        return self._say(f"expected the package {self.package}, got none: install it with pip install 'fnlamp[{self.extra}]'")


@dataclass(frozen=True)
class NoDisplay(Fault):
    """matplotlib's `backend` cannot open a window.

    >>> print(NoDisplay("agg"))
    expected a display, got matplotlib's backend agg, without one; give a path to write to
    """

    backend: str

    def __str__(self) -> str:
        return self._say(f"expected a display, got matplotlib's backend {self.backend}, without one; give a path to write to")
