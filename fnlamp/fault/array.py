"""Arrays with the wrong shape or dtype."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class _Mismatch(Fault):
    expected: str
    actual: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return self._say(f"expected {self.expected}, got {self.actual}{hint}")


@dataclass(frozen=True)
class ShapeMismatch(_Mismatch):
    """An array has the wrong shape.

    >>> print(ShapeMismatch("(32, 4)", "(32, 3)", where="linear"))
    linear: expected (32, 4), got (32, 3)
    """


@dataclass(frozen=True)
class DtypeMismatch(_Mismatch):
    """An array has a dtype that would need a conversion that the caller did not ask for.

    >>> print(DtypeMismatch("numbers", "the dtype object", where="minibatches"))
    minibatches: expected numbers, got the dtype object
    """


@dataclass(frozen=True)
class PredictionMismatch(_Mismatch):
    """A prediction is of the wrong kind for the loss, such as logits for a loss of log-probabilities.

    >>> print(PredictionMismatch("log-probabilities", "numbers above 0", "end the model in nn.log_softmax"))
    expected log-probabilities, got numbers above 0; end the model in nn.log_softmax
    """


@dataclass(frozen=True)
class SizesMismatch(Fault):
    """The sizes of a split do not add up to the number of rows, or its fractions to 1.

    >>> print(SizesMismatch(10, (6, 3)))
    expected sizes that add up to 10 rows, or fractions to 1, got 6 + 3 = 9
    """

    rows: int
    sizes: tuple[float, ...]

    def __str__(self) -> str:
        shown = f"{' + '.join(map(str, self.sizes))} = {sum(self.sizes):,}"
        return self._say(f"expected sizes that add up to {self.rows:,} rows, or fractions to 1, got {shown}")
