"""The bulk parser against `float`, cell by cell and bit by bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fnlamp.data.readers import bulk
from fnlamp.data.readers.bulk import parse


@pytest.fixture(params=["numpy", "pyarrow"], autouse=True)
def engine(request, monkeypatch):
    """With pyarrow also for the smallest table, and without it."""
    monkeypatch.setattr(bulk, "_MANY", 0)
    if request.param == "numpy":
        monkeypatch.setattr(bulk, "_arrow", lambda lines, count: None)
    return request.param


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def model(cells):
    if not all(NUMBER.fullmatch(cell) for row in cells for cell in row):
        return None
    values = np.array([[float(cell) for cell in row] for row in cells], np.float64)
    return values if np.isfinite(values).all() else None


def text(cells, separator=","):
    return "".join(separator.join(row) + "\n" for row in cells).encode()


def same(cells, separator=","):
    width = len(cells[0])
    got, want = parse(text(cells, separator), width, separator.encode()), model(cells)
    assert (got is None) == (want is None), (cells, got, want)
    if want is not None:
        # Integers have no -0, so a table with -0 is not returned as integers.
        np.testing.assert_array_equal(got.astype(np.float64).view(np.int64), want.view(np.int64), str(cells))


JUNK = st.text("0123456789+-.eE", max_size=7)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
DECIMALS = st.from_regex(r"\A-?[0-9]{0,12}\.[0-9]{0,12}\Z")
LONG = st.from_regex(r"\A-?[0-9]{1,19}\.[0-9]{1,24}\Z")
SHORT = st.integers(-(2**64), 2**64).map(str) | st.integers(-5, 300).map(str)
CELLS = [JUNK, FLOATS, DECIMALS, LONG, SHORT, FLOATS | DECIMALS | SHORT, SHORT | JUNK]


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_cell_equals_float_of_it_or_the_block_is_refused(data):
    cell = data.draw(st.sampled_from(CELLS))
    width = data.draw(st.integers(1, 4))
    same(
        data.draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=5)),
        data.draw(st.sampled_from(",;\t |")),
    )


@pytest.mark.parametrize(
    "cell",
    [
        "-",
        "+",
        ".",
        "-.",
        "",
        "1-2",
        "--1",
        "+-1",
        ".-5",
        "1.-5",
        "1.+5",
        "1.2.3",
        "1e",
        "1e+",
        "e5",
        "1e400",
        "1e5e3",
        "9" * 400,
    ],
)
@pytest.mark.parametrize("fill", ["1", "1.5", "1e3", "-0"])
def test_a_malformed_cell_is_refused_at_every_position(cell, fill):
    for at in range(6):
        cells = [[fill, fill], [fill, fill], [fill, fill]]
        cells[at // 2][at % 2] = cell
        assert parse(text(cells), 2, b",") is None, cells


def test_pyarrow_reads_plain_decimals_at_once(engine):
    np.testing.assert_array_equal(parse(b"1.5,-2,3e4\n-0,.25,+7\n", 3, b","), [[1.5, -2, 3e4], [0, 0.25, 7]])
    if engine == "pyarrow":
        np.testing.assert_array_equal(bulk._arrow(b"1.5\n-2\n3e4\n", 3), [1.5, -2, 3e4])
        assert np.signbit(bulk._arrow(b"-0\n", 1)[0])


def test_a_small_table_does_not_wait_for_pyarrow(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(bulk, "_arrow", None)  # calling it would be an error
    assert bulk.parse(b"1.5\n", 1, b",") == 1.5


@pytest.mark.parametrize("longest", range(1, 12))
def test_runs_of_digits_of_every_length(longest):
    rng = np.random.default_rng(longest)
    cells = [[str(rng.integers(0, 10 ** rng.integers(1, longest + 1))) for _ in range(3)] for _ in range(50)]
    cells[7][1] = "0" * longest
    cells[9][2] = "9" * longest
    same(cells)
    same(cells, "|")


@pytest.mark.parametrize(
    "cell",
    [
        "-0",
        "-0.0",
        "-.0",
        "9007199254740993",
        "9007199254740993.0",
        "0.1e-5",
        "5.",
        ".5",
        "007",
        "1e-400",
        "123456789012345678901234567890",
        "0.00000000000000000000000001",
        "9223372036854775807",
        "-9223372036854775808",
        "4611686018427387904.5",
        "0.500000000000000166533453693773481063544750213623046875",
    ],
)
def test_a_hard_cell_is_rounded_as_float_does(cell):
    same([[cell]])
    same([["1", cell], ["2.5", "-3"]])


@pytest.mark.parametrize(
    "rows",
    [
        b"1,2\n3\n",
        b"1\n2,3\n",
        b"1,2,3\n4\n",
        b"1,2\n\n",
        b"\n1,2\n",
        b"1,2\r\n",
        b'1,"2"\n',
        b"1, 2\n",
        b"1,1_0\n",
        b"1,0x1\n",
        b"1,nan\n",
        b"1,inf\n",
        b"1,2#\n",
        b"1;2\n",
        b"1,2\x0c\n",
        b"1,\xd9\xa3\n",
    ],
)
def test_another_shape_or_character_is_refused(rows):
    assert parse(rows, 2, b",") is None


def test_random_decimals_are_rounded_as_float_does():
    rng = np.random.default_rng(0)
    for digits in (3, 8, 15, 16, 17, 18):
        whole, places = rng.integers(-(10**digits), 10**digits, 10_000), rng.integers(0, digits + 1, 10_000)
        same([[decimal(w, k)] for w, k in zip(whole.tolist(), places.tolist(), strict=True)])
    same([[repr(x)] for x in rng.normal(size=20_000).tolist()])


def decimal(whole, places):
    digits = str(abs(whole)).rjust(places + 1, "0")
    return "-" * (whole < 0) + digits[: len(digits) - places] + "." * (places > 0) + digits[len(digits) - places :]
