"""Which rows a process reads."""

from __future__ import annotations

from fnlamp.given import whole


def rows_of_process(rows: int, process: int, processes: int) -> range:
    """The rows, of `rows` in all, that are those of process number `process` of `processes`: contiguous, none lost, none twice.

    The processes' numbers of rows differ by at most one; the first ones have the longer parts.

    >>> [rows_of_process(10, process, 4) for process in range(4)]
    [range(0, 3), range(3, 6), range(6, 8), range(8, 10)]
    """
    rows, processes, process = whole("rows", rows, 0), whole("processes", processes), whole("process", process, 0)
    if process >= processes:
        raise ValueError(f"process is one of 0 to {processes - 1}, got {process}; it needs the number of a process, from 0")
    size, longer = divmod(rows, processes)
    start = process * size + min(process, longer)
    return range(start, start + size + (process < longer))
