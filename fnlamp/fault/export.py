"""Models that cannot be exported, and exported programs that cannot run here."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class NotExportable(Fault):
    """A model, or a part of it, has no form in the format of the file.

    >>> print(NotExportable("a layer that needs the number of rows", "give batch_size="))
    expected a model that can be exported, got a layer that needs the number of rows; give batch_size=
    """

    reason: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return self._say(f"expected a model that can be exported, got {self.reason}{hint}")


@dataclass(frozen=True)
class WrongPlatform(Fault):
    """An exported program is for other platforms than those of this machine.

    >>> print(WrongPlatform(("cuda",), ("cpu",)))
    expected a machine with one of cuda, got one with cpu; export the model with platforms=("cpu",)
    """

    expected: tuple[str, ...]
    actual: tuple[str, ...]

    def __str__(self) -> str:
        here = ", ".join(self.actual)
        hint = f'export the model with platforms=("{self.actual[0]}",)'
        return self._say(f"expected a machine with one of {', '.join(self.expected)}, got one with {here}; {hint}")
