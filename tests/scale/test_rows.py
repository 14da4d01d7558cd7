"""The rows of a process: a partition in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnlamp.scale import rows_of_process


@given(st.integers(0, 10**4), st.integers(1, 300))
def test_no_row_is_lost_or_taken_twice_and_the_parts_are_equal_but_for_one(rows, processes):
    parts = [rows_of_process(rows, process, processes) for process in range(processes)]
    assert [row for part in parts for row in part] == [*range(rows)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(10**12, 10**15), st.integers(1, 10**4), st.data())
def test_large_numbers_are_exact(rows, processes, data):
    process = data.draw(st.integers(0, processes - 1))
    part = rows_of_process(rows, process, processes)
    before = rows_of_process(rows, process - 1, processes) if process else range(0)
    assert part.start == before.stop
    assert len(part) in (rows // processes, rows // processes + 1)
    assert process < processes - 1 or part.stop == rows


def test_a_process_that_is_not_one_of_them_is_refused():
    with pytest.raises(ValueError, match="process is one of 0 to 3, got 4"):
        rows_of_process(10, 4, 4)
