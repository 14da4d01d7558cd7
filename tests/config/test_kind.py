"""Values of each type: from Python, from text, and from TOML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NewType, Protocol, TypeVar

import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp.config.kind import Misfit, accepted, all_parsed, described, parsed, plain

Rows = NewType("Rows", int)
T = TypeVar("T")


class Device(Enum):
    CPU = 1
    GPU = 2


class Reads(Protocol):
    def read(self) -> str: ...


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "64", 64),
        (int, "-3", -3),
        (int, "1_000", 1_000),
        (float, "1e-3", 1e-3),
        (float, "3", 3.0),
        (float, "inf", float("inf")),
        (complex, "1j", 1j),
        (bool, "true", True),
        (bool, "False", False),
        (str, "", ""),
        (str, "a=b, c", "a=b, c"),
        (str, "none", "none"),
        (int | None, "none", None),
        (int | None, "None", None),
        (int | None, "0", 0),
        (str | None, "none", None),
        (str | int, "3", 3),
        (str | int, "x", "x"),
        (int | float, "3", 3),
        (int | float, "3.5", 3.5),
        (Path, "a/b", Path("a/b")),
        (Device, "GPU", Device.GPU),
        (Device, "gpu", Device.GPU),
        (Literal["a", 3], "3", 3),
        (Literal[Device.CPU], "CPU", Device.CPU),
        (Annotated[int, "rows"], "3", 3),
        (Final[int], "3", 3),
        (Rows, "3", 3),
        (Any, "x", "x"),
        (tuple[int, ...], "64,32", (64, 32)),
        (tuple[int, ...], "64, 32", (64, 32)),
        (tuple[int, ...], "[64, 32]", (64, 32)),
        (tuple[int, ...], "", ()),
        (tuple[int, str], "3,a", (3, "a")),
        (list[float], "1", [1.0]),
        (Sequence[str], '["a, b", "c"]', ("a, b", "c")),
        (set[int], "1,1", {1}),
        (frozenset[Device], "cpu", frozenset({Device.CPU})),
        (tuple[tuple[int, int], ...], "[[1, 2], [3, 4]]", ((1, 2), (3, 4))),
        (tuple[int, ...] | None, "3", (3,)),
        (dict[str, int], "{a = 1}", {"a": 1}),
        (Mapping[str, tuple[int, ...]], "{a = [1, 2]}", {"a": (1, 2)}),
    ],
    ids=str,
)
def test_text_is_parsed_by_the_type(kind, text, value):
    found = parsed(kind, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "3.5"),
        (int, ""),
        (int, "true"),
        (float, "fast"),
        (bool, "1"),
        (bool, "yes"),
        (int | None, "x"),
        (Device, "tpu"),
        (Literal["a"], "b"),
        (tuple[int, ...], "a"),
        (tuple[int, ...], "[1, 2"),
        (tuple[int, str], "3"),
        (dict[str, int], "a"),
        (dict[str, int], "{a = 'x'}"),
        (type(None), "x"),
        (Callable[[int], int], "print"),
        (np.ndarray, "1"),
        (type[int], "int"),
    ],
    ids=str,
)
def test_text_that_does_not_fit_the_type_is_refused(kind, text):
    with pytest.raises(Misfit):
        parsed(kind, text)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 3, 3),
        (int, np.int64(3), 3),
        (int, np.array(3), 3),
        (float, 3, 3.0),
        (float, np.float32(0.5), 0.5),
        (float, jnp.asarray(0.5), 0.5),
        (bool, np.True_, True),
        (int | float, 3, 3),
        (float | int, 3, 3),
        (float | None, 3, 3.0),
        (Device, Device.CPU, Device.CPU),
        (Literal[1], 1, 1),
        (tuple[float, ...], (1, 2), (1.0, 2.0)),
        (list[int], [1], [1]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Sequence[int], range(3), range(3)),
        (Callable[[int], int], abs, abs),
        (type[int], bool, bool),
        (type, int, int),
        (Reads, 3, 3),  # a protocol cannot be checked
        (T, 3, 3),
        (Any, None, None),
        (object, None, None),
        (None, None, None),
        (tuple, (1, "a"), (1, "a")),
    ],
    ids=str,
)
def test_values_of_the_type_are_accepted(kind, value, expected):
    found = accepted(kind, value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 3.0),
        (int, "3"),
        (int, np.float64(3)),
        (int, np.array([3])),
        (int, None),
        (float, "3"),
        (float, True),
        (float, 10**400),
        (bool, 1),
        (str, 3),
        (str, Path("a")),
        (Path, "a"),
        (Device, "CPU"),
        (Device, 1),
        (Literal[1], True),
        (Literal["a"], "b"),
        (tuple[int, ...], [1]),
        (tuple[int, ...], (1, "a")),
        (tuple[int, int], (1,)),
        (list[int], (1,)),
        (list[int], 3),
        (Sequence[str], "ab"),
        (dict[str, int], {1: 1}),
        (dict[str, int], [("a", 1)]),
        (Callable[[int], int], 3),
        (type[int], str),
        (int | None, "x"),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(kind, value):
    with pytest.raises(Misfit):
        accepted(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 3, 3.0),
        (str, "3", "3"),
        (Device, "gpu", Device.GPU),
        (Literal["a"], "a", "a"),
        (Path, "a", Path("a")),
        (Path | None, "a", Path("a")),
        (int | None, "none", None),
        (str | None, "none", "none"),
        (tuple[Path, ...], ["a"], (Path("a"),)),
        (frozenset[int], [1], frozenset({1})),
        (dict[str, tuple[int, ...]], {"a": [1]}, {"a": (1,)}),
        (tuple[int, ...] | int, [1], (1,)),
    ],
    ids=str,
)
def test_values_of_toml_become_values_of_the_type(kind, value, expected):
    found = plain(kind, value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(("kind", "value"), [(int, "3"), (int, 3.0), (float, "3"), (bool, "true"), (tuple[int, ...], "1,2")])
def test_text_in_toml_is_text(kind, value):
    with pytest.raises(Misfit):
        plain(kind, value)


@pytest.mark.parametrize(
    ("kind", "texts", "value"),
    [
        (int, ("3",), 3),
        (bool, (), True),
        (bool, ("false",), False),
        (tuple[int, ...], ("1", "2"), (1, 2)),
        (tuple[int, ...], (), ()),
        (tuple[int, ...], ("1,2",), (1, 2)),
        (tuple[int, ...] | None, ("1", "2"), (1, 2)),
        (list[str], ("a", "b"), ["a", "b"]),
    ],
    ids=str,
)
def test_the_arguments_after_a_flag(kind, texts, value):
    assert all_parsed(kind, texts) == value


def test_too_many_arguments_after_a_flag():
    for texts in ((), ("1", "2")):
        with pytest.raises(Misfit):
            all_parsed(int, texts)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (int | None, "int | None"),
        (tuple[int, ...], "tuple[int, ...]"),
        (dict[str, Device], "dict[str, Device]"),
        (Callable[[int], str], "Callable[..., str]"),
        (Literal["a", 1], "one of 'a', 1"),
        (Any, "Any"),
        (None, "None"),
        (T, "T"),
    ],
    ids=str,
)
def test_a_type_is_described_as_it_is_written(kind, text):
    assert described(kind) == text
