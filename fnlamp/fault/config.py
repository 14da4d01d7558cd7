"""Configs: fields that do not exist, values that do not fit, formulas that fail or need each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class UnknownField(Fault):
    """An override names a field, at the dotted `path`, that its group does not have.

    `near` are the names like it, `known` those of all fields of `group`, which is empty for a value without fields.

    >>> print(UnknownField("model.hiden", "Mlp", ("hidden",), ("hidden", "rate")))
    model.hiden: expected a field of Mlp, got none of that name; near names: hidden
    """

    path: str
    group: str
    near: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        fields = _near(self.near) or _listed("the fields are", self.known)
        return self._say(f"{self.path}: expected a field of {self.group}, got none of that name{fields}{hint}")


@dataclass(frozen=True)
class UnknownNeed(Fault):
    """The `formula` of a computed field needs a `name` that neither its group nor a group around it has.

    >>> print(UnknownNeed("steps", "total (train.py:3)", "epoch", ("epochs",)))
    steps: its formula total (train.py:3) needs epoch: expected a field of its group or of one around it, got none of that ...
    """

    path: str
    formula: str
    name: str
    near: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self._say(
            f"{self.path}: its formula {self.formula} needs {self.name}: expected a field of its group or of one around it, "
            f"got none of that name{_near(self.near) or _listed('the fields are', self.known)}"
        )


@dataclass(frozen=True)
class CyclicFields(Fault):
    """Computed fields need each other. `cycle` are their paths, the first one again at the end.

    >>> print(CyclicFields(("steps", "epochs", "steps"), ("lambda epochs (a.py:3)", "lambda steps (a.py:4)")))
    steps: expected fields that can be computed one after the other, got a cycle: steps -> epochs -> steps, by ...
    """

    cycle: tuple[str, ...]
    formulas: tuple[str, ...]

    def __str__(self) -> str:
        return self._say(
            f"{self.cycle[0]}: expected fields that can be computed one after the other, got a cycle: "
            f"{' -> '.join(self.cycle)}, by {', '.join(self.formulas)}; override one of them"
        )


@dataclass(frozen=True)
class FormulaFailed(Fault):
    """The `formula` of a computed field raised an exception for the values in `given`, or a change did; `trace` says where.

    >>> print(FormulaFailed("steps", "share (a.py:3)", "ZeroDivisionError: division by zero", "rows=10, parts=0"))
    steps: its formula share (a.py:3) failed for rows=10, parts=0: ZeroDivisionError: division by zero
    """

    path: str
    formula: str
    what: str
    given: str = ""
    trace: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        subject = f"{self.path}: its formula {self.formula}" if self.formula else self.path
        given = f" for {self.given}" if self.given else ""
        return self._say(f"{subject} failed{given}: {self.what}")


@dataclass(frozen=True)
class TypeMismatch(Fault):
    """A value is not of its field's type; `formula` is what computed it, if anything did.

    >>> print(TypeMismatch("epochs", "int", "'3.5' (text)"))
    epochs: expected int, got '3.5' (text)
    """

    path: str
    expected: str
    actual: str
    formula: str = ""

    def __str__(self) -> str:
        source = f" from its formula {self.formula}" if self.formula else ""
        return self._say(f"{self.path}: expected {self.expected}, got {self.actual}{source}")


@dataclass(frozen=True)
class MissingValue(Fault):
    """A field without a default has no value.

    >>> print(MissingValue("model.kernel", "int"))
    model.kernel: expected a value (int), got none; it has no default: set it, as in model.kernel=...
    """

    path: str
    expected: str

    def __str__(self) -> str:
        return self._say(
            f"{self.path}: expected a value ({self.expected}), got none; it has no default: set it, as in {self.path}=..."
        )


@dataclass(frozen=True)
class UnknownOption(Fault):
    """A text is not the name of one of a field's `options`.

    >>> print(UnknownOption("optimizer", "adm", ("sgd", "adam"), ("adam",)))
    optimizer: expected one of sgd, adam, got 'adm'; near names: adam
    """

    path: str
    actual: str
    options: tuple[str, ...]
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self._say(f"{self.path}: expected one of {', '.join(self.options)}, got {self.actual!r}{_near(self.near)}")


@dataclass(frozen=True)
class NotAnOverride(Fault):
    """A text does not have the form of an override, or an argument that of the command line.

    >>> print(NotAnOverride("epochs 3", "path=value, such as model.hidden=64"))
    expected path=value, such as model.hidden=64, got 'epochs 3'
    """

    actual: str
    expected: str

    def __str__(self) -> str:
        return self._say(f"expected {self.expected}, got {self.actual!r}")


def _near(names: tuple[str, ...]) -> str:
    return f"; near names: {', '.join(names)}" if names else ""


def _listed(what: str, names: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"; {what} {', '.join(names[:most])}{more}" if names else ""


ConfigError = (
    UnknownField | UnknownNeed | CyclicFields | FormulaFailed | TypeMismatch | MissingValue | UnknownOption | NotAnOverride
)
"""The faults of a config: each has the dotted path of the field, and the formula or the near names."""
