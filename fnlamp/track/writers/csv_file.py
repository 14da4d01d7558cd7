"""The writer of scalars as CSV, a row for each."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Final

from fnlamp.given import path_of
from fnlamp.track.entry import Entry, cancelled
from fnlamp.track.place import replacing
from fnlamp.track.writers.output import Output, called

HEADER: Final = ["name", "lane", "step", "epoch", "time", "value"]


def csv_file(path: str | PathLike[str]) -> Output:
    """Write scalars to a CSV file with the columns name, lane, step, epoch, time, value; other values are left out.

    A path that ends in `.csv`, or `metrics.csv` in this folder. After the run, each name, lane and step has one row, also if
    the run resumed.

    >>> from fnlamp import track
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
    >>> _ = track.tracked(track.measure({"loss": 0.5}, step=10, epoch=1), track.csv_file(path)).run()
    >>> path.read_text().splitlines()
    ['name,lane,step,epoch,time,value', 'loss,0,10,1,...,0.5']
    """
    name = os.path.expanduser(path_of(path))
    name = os.path.abspath(name if name.endswith(".csv") else os.path.join(name, "metrics.csv"))

    @contextlib.contextmanager
    def open_csv() -> Iterator[Callable[[Sequence[Entry]], None]]:
        table = _Table(name)
        try:
            yield table.write
        finally:
            table.close()

    return called(f"csv_file({path})", open_csv)


class _Table:
    """The file, to which rows are appended; rows that do not count any more are removed when it is opened and closed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: dict[tuple[str, int], int] = {}  # the last step of each name and lane
        self._twice = False  # whether a row may be there twice
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            self._replace([])
        rows = self._rows()
        self._replace(rows)
        for row in rows:
            self._last[row[0], int(row[1])] = int(row[2])

    def write(self, entries: Sequence[Entry]) -> None:
        text = io.StringIO()
        put = csv.writer(text, lineterminator="\n")
        for entry in entries:
            if (start := cancelled(entry)) is not None:
                self._append(text.getvalue())
                text.seek(0)
                text.truncate()
                self._cut(entry.step, start)
            epoch = "" if entry.epoch is None else entry.epoch
            for name, value in entry.values.items():
                if type(value) is float:
                    self._twice = self._twice or entry.step <= self._last.get((name, entry.lane), -1)
                    self._last[name, entry.lane] = entry.step
                    put.writerow((name, entry.lane, entry.step, epoch, repr(entry.time), repr(value)))
        self._append(text.getvalue())

    def close(self) -> None:
        if self._twice:
            self._replace(self._rows())

    def _append(self, text: str) -> None:
        """One write, so that a kill cuts at most the last row.  Raises: `OSError`; the file then ends where it did."""
        if not text:
            return
        with open(self._path, "ab") as file:
            end = file.seek(0, os.SEEK_END)
            if not end:  # it was removed
                text = f"{','.join(HEADER)}\n{text}"
            try:
                file.write(text.encode())
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def _cut(self, step: int, start: str) -> None:
        self._replace([row for row in self._rows() if int(row[2]) <= step or not row[0].startswith(start)])
        for name, lane in self._last:
            if name.startswith(start):
                self._last[name, lane] = min(self._last[name, lane], step)

    def _rows(self) -> list[list[str]]:
        """The rows that count, in the order of the file.  Raises: `RuntimeError` for a file of something else."""
        with open(self._path, newline="", encoding="utf-8") as file:
            whole, _, _ = file.read().rpartition("\n")
        found = [*csv.reader(io.StringIO(whole))]
        rows = found[1:]
        if found[:1] != [HEADER]:
            raise RuntimeError("expected a CSV file that a tracker wrote, got another one, which stays as it is")
        latest = {(row[0], row[1], row[2]): row for row in rows}
        return list(latest.values())

    def _replace(self, rows: list[list[str]]) -> None:
        """Give the file these rows, at once."""
        with replacing(self._path) as part, open(part, "x", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
        self._twice = False
