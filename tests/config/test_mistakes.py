"""Mistakes in a config, and what each says: the dotted path, the formula, the near names."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Result

from fnlamp.config import computed, group, options, resolve
from fnlamp.fault import (
    CyclicFields,
    FormulaFailed,
    MissingValue,
    NotAnOverride,
    TypeMismatch,
    UnknownField,
    UnknownNeed,
    UnknownOption,
)


class Device(Enum):
    CPU = 1
    GPU = 2


@group
class Mlp:
    hidden: tuple[int, ...] = (64, 32)
    drop_rate: float = 0.1


@group
class Cnn:
    kernel: int = 5
    size: int = computed(lambda kernel: (28 - kernel) // 2)


@group
class Optimizer:
    learning_rate: float = 0.01
    rule: str = options({"sgd": "sgdw", "adam": "adamw"}, default="sgd")


@group
class Loop:
    epochs: int = 10
    rows: int = 60_000
    parts: int = 10
    rows_each: int = computed(lambda rows, parts: rows // parts)
    steps: int = computed(lambda epochs, rows_each: epochs * rows_each)
    device: Device = Device.CPU
    folder: Path | None = None
    model: Mlp | Cnn = Mlp()
    optimizer: Optimizer


@group
class Undeclared(Loop):
    rate: float = computed(lambda momentm, learning_rate: momentm * learning_rate)
    momentum: float = 0.9


@group
class Undeclared2(Loop):
    rate: float = computed(lambda rate: rate, "optimizer.learning_rte")


@group
class Circle(Loop):
    epochs: int = computed(lambda steps: steps // 10)


@group
class Kernels(Loop):
    conv1_kernel: int


@group
class Wrong(Loop):
    size: int = computed(lambda rows: rows / 7.5)


@group
class Untyped(Loop):
    rows: int = "many"  # type: ignore[assignment]


def forgotten(loop):
    replace(loop, epochs=1)


def misspelt(loop):
    return replace(loop, epoch=1)


MISTAKES = [
    (
        "a misspelt field",
        (Loop, "epocs=3"),
        UnknownField,
        "epocs: expected a field of Loop, got none of that name; near names: epochs",
    ),
    (
        "a misspelt field of a nested group",
        (Loop, "optimizer.learning_rte=0.1"),
        UnknownField,
        "optimizer.learning_rte: expected a field of Optimizer, got none of that name; near names: learning_rate",
    ),
    (
        "a field of a nested group without its path",
        (Loop, "learning_rate=0.1"),
        UnknownField,
        "learning_rate: expected a field of Loop, got none of that name; near names: optimizer.learning_rate",
    ),
    (
        "a field of another option",
        (Loop, "model.kernel=3"),
        UnknownField,
        "model.kernel: expected a field of Mlp, got none of that name; the fields are hidden, drop_rate; "
        "kernel is a field of the option cnn of model: choose that first",
    ),
    (
        "a path into a number",
        (Loop, "epochs.first=3"),
        UnknownField,
        "epochs.first: expected a field of int, which has no fields, got none of that name",
    ),
    (
        "a misspelt field in a mapping of mappings",
        (Loop, {"model": {"cnn": {"kernal": 3}}}),
        UnknownField,
        "model.kernal: expected a field of Cnn, got none of that name; near names: kernel",
    ),
    (
        "a formula with a misspelt need",
        (Undeclared,),
        UnknownNeed,
        "rate: its formula lambda momentm, learning_rate (FILE) needs momentm: expected a field of its group or of one around "
        "it, got none of that name; near names: momentum",
    ),
    (
        "a formula with a misspelt path",
        (Undeclared2,),
        UnknownNeed,
        "rate: its formula lambda rate (FILE) needs optimizer.learning_rte: expected a field of its group or of one around it, "
        "got none of that name; near names: learning_rate",
    ),
    (
        "formulas that need each other",
        (Circle,),
        CyclicFields,
        "epochs: expected fields that can be computed one after the other, got a cycle: epochs -> steps -> epochs, by "
        "lambda steps (FILE), lambda epochs, rows_each (FILE); override one of them",
    ),
    (
        "a formula that raises",
        (Loop, "parts=0"),
        FormulaFailed,
        "rows_each: its formula lambda rows, parts (FILE) failed for rows=60000, parts=0: "
        "ZeroDivisionError: integer division or modulo by zero",
    ),
    (
        "a formula of the wrong type",
        (Wrong,),
        TypeMismatch,
        "size: expected int, got 8000.0 (float) from its formula lambda rows (FILE)",
    ),
    ("a default of the wrong type", (Untyped,), TypeMismatch, "rows: expected int, got 'many' (str)"),
    (
        "an argument of the wrong type",
        (Loop(epochs="3", optimizer=Optimizer()),),
        TypeMismatch,
        "epochs: expected int, got '3' (str)",
    ),
    ("a truth value for a number", (Loop, {"epochs": True}), TypeMismatch, "epochs: expected int, got True (bool)"),
    ("text that is not a number", (Loop, "epochs=3.5"), TypeMismatch, "epochs: expected int, got '3.5' (text)"),
    (
        "text that is not a list of numbers",
        (Loop, "model.hidden=64,x"),
        TypeMismatch,
        "model.hidden: expected tuple[int, ...], got '64,x' (text)",
    ),
    (
        "text for a group",
        (Loop, "optimizer=adam"),
        TypeMismatch,
        "optimizer: expected Optimizer, whose fields are set one by one, got 'adam' (text)",
    ),
    (
        "an option that does not exist",
        (Loop, "optimizer.rule=adm"),
        UnknownOption,
        "optimizer.rule: expected one of sgd, adam, got 'adm'; near names: adam",
    ),
    (
        "a group that is not an option",
        (Loop, "model=cnm"),
        UnknownOption,
        "model: expected one of mlp, cnn, got 'cnm'; near names: cnn",
    ),
    ("a name that an enum lacks", (Loop, "device=gpus"), UnknownOption, "device: expected one of CPU, GPU, got 'gpus'"),
    (
        "a required value that is missing",
        (Kernels,),
        MissingValue,
        "conv1_kernel: expected a value (int), got none; it has no default: set it, as in conv1_kernel=...",
    ),
    (
        "an override without an equals sign",
        (Loop, "epochs 3"),
        NotAnOverride,
        "expected path=value, such as model.hidden=64, got 'epochs 3'",
    ),
    (
        "a change that returns nothing",
        (Loop, forgotten),
        TypeMismatch,
        "the change forgotten (FILE): expected Loop, got None (NoneType)",
    ),
    (
        "a change that misspells a field",
        (Loop, misspelt),
        FormulaFailed,
        "the change misspelt (FILE) failed: TypeError: Loop.epoch: expected a field of Loop, got none of that name; "
        "near names: epochs",
    ),
    (
        "a value for a path into a computed field",
        (Loop, "steps.first=1"),
        UnknownField,
        "steps.first: expected a field of int, which has no fields, got none of that name; "
        "steps is computed as a whole, by lambda epochs, rows_each (FILE)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES])
def test_a_mistake_is_a_fault_with_this_message(call, kind, message):
    config, *changes = call
    result = resolve(config, *changes)
    assert isinstance(result, Failure)
    fault = result.failure()
    told = re.sub(r"(test_mistakes|group).py:\d+", "FILE", str(fault)).removesuffix(" (dataclasses.py:1501)")
    assert (type(fault), re.sub(r" \((dataclasses.py:\d+|FILE)\)$", "", told)) == (kind, re.sub(r" \(FILE\)$", "", message))
    assert resolve(config, *changes) == result


def test_the_trace_of_a_formula_names_the_line_that_raised():
    def share_of(rows: int) -> int:
        return int(f"{rows} rows")

    @group
    class Shared:
        rows: int = 3
        share: int = computed(share_of)

    fault = resolve(Shared).failure()
    message = r"share_of (FILE) failed for rows=3: ValueError: invalid literal for int() with base 10: '3 rows' (FILE)"
    assert re.sub(r"test_mistakes.py:\d+", "FILE", str(fault)).endswith(message)
    assert "in share_of" in fault.trace and fault == replace(fault, trace="")


def test_an_interruption_of_a_formula_is_not_a_fault():
    def stop() -> int:
        raise KeyboardInterrupt

    @group
    class Stopped:
        x: int = computed(stop)

    with pytest.raises(KeyboardInterrupt):
        resolve(Stopped)


def test_groups_in_a_list_would_keep_their_formulas_so_they_are_refused():
    @group
    class Listed:
        models: list[Cnn]

    assert resolve(Listed(models=[Cnn()])) == Failure(TypeMismatch("models", "a tuple, if groups are inside", "a list"))


PATHS = [
    "epochs",
    "model",
    "model.hidden",
    "model.cnn.kernel",
    "model.kernel",
    "optimizer",
    "optimizer.rule",
    "steps",
    "folder",
    "",
]
TEXTS = (
    st.sampled_from(["", "3", "-1", "none", "x", "64,32", "[1, 2", "[1]", "{a = 1}", "cnn", "mlp", "adam", "1e400"]) | st.text()
)
VALUES = st.none() | st.integers() | st.floats() | st.text() | st.sampled_from([True, Mlp(), Cnn(), Loop, (), ("a",), object()])
MAPPINGS = st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(["hidden", "cnn", *PATHS]), inner, max_size=3))
CHANGES = (
    st.text()
    | st.builds("{}={}".format, st.sampled_from(PATHS) | st.text(), TEXTS)
    | st.dictionaries(st.sampled_from(PATHS), MAPPINGS, max_size=3)
)


@given(st.lists(CHANGES, max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_change_whatever_makes_resolve_raise(changes):
    result = resolve(Loop, *changes)
    assert isinstance(result, Result) and str(result)
