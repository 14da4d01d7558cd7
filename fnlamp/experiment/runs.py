"""Recorded runs as a value: tables and arrays."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar, final

from fnlamp import track
from fnlamp.checkpoint.replace import expanded
from fnlamp.effect import Effect, Outline, Unknown, collect
from fnlamp.experiment.folder import LINES, RunRecord
from fnlamp.experiment.index import chosen, listing
from fnlamp.experiment.where import MISSING, Column, in_order, selected
from fnlamp.fault import (
    FaultError,
    FileCorrupt,
    FileMissing,
    NotAFilter,
    OutOfMemory,
    RunAmbiguous,
    RunMissing,
    UnknownColumn,
    printable,
)
from fnlamp.given import several, text, whole

A = TypeVar("A")

RunsFault = FileMissing | NotAFilter | UnknownColumn
"""The faults of listing runs."""
HistoryFault = FileMissing | FileCorrupt | OutOfMemory


def runs(
    folder: str | PathLike[str] = "runs",
    name: str | None = None,
    *,
    where: str | Iterable[str] = (),
    tags: Iterable[str] = (),
    sort: str = "created",
) -> Effect[Runs, RunsFault]:
    """The runs recorded in a folder, oldest first: those of one experiment, if it is named, that match all filters.

    A filter compares a field, a setting or a metric with a value: `config.learning_rate<0.1`, `validation.accuracy>0.9`,
    `lowest(validation.loss)<0.2`, `status=crashed`, `note~baseline`, `created>2026-05-02`. The signs are `<`, `<=`, `>`, `>=`,
    `=`, `!=` and `~`, for a text that contains another. A run without the value does not match.
    Fails: `FileMissing` for a folder that does not exist; `NotAFilter`; `UnknownColumn`, with the near names.

    >>> import tempfile
    >>> from fnlamp import track
    >>> from fnlamp.effect import collect
    >>> from fnlamp.experiment import experiment
    >>> folder = tempfile.mkdtemp()
    >>> each = [experiment("a", track.measure({"loss": rate}, step=1), {"rate": rate}, folder=folder) for rate in (0.1, 0.2)]
    >>> found = collect(each).then(runs(folder, where="config.rate>0.1")).run_or_raise(Runtime(log=None))
    >>> found.config("rate"), found.table()["last(loss)"]
    ([0.2], [0.2])
    """
    path = expanded(folder, "runs: folder")
    within = None if name is None else text("runs: name", name)
    filters = (where,) if isinstance(where, str) else several("runs: where", where)
    wanted, by = several("runs: tags", tags), text("runs: sort", sort)

    def read() -> Runs:
        found = selected(listing(os.path.abspath(path), within), filters, tags=wanted)
        return Runs(in_order(found, by), path)

    line = f"list the runs in {printable(path)}"
    return Effect.checked(read).named(line).outlined(lambda: Outline((line,), Unknown("the contents of a folder are unknown")))


@final
class Runs(Sequence[RunRecord]):
    """Runs as a sequence of `RunRecord`s, and as tables and arrays.

    `runs[0]` is a record, `runs[:10]` and `runs.among(ids)` fewer runs, `runs.get("9f4c1a")` the record of that id.
    """

    def __init__(self, records: Iterable[RunRecord], folder: str = "runs") -> None:
        self._records, self._folder = tuple(records), folder

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self._records)

    def __getitem__(self, at: Any) -> Any:
        """The run at a place, with an id or its beginning or end, or the runs of a slice."""
        if isinstance(at, slice):
            return Runs(self._records[at], self._folder)
        if isinstance(at, str):
            return self._chosen(at)
        return self._records[at]

    def _chosen(self, id: str) -> RunRecord:
        try:
            return chosen(self._records, id, self._folder)
        except FaultError as error:
            raise KeyError(str(error.fault)) from None

    def find(self, id: str) -> Effect[RunRecord, RunMissing | RunAmbiguous]:
        """The run whose id is this text, or begins or ends with it.  Fails: `RunMissing`, `RunAmbiguous`."""
        wanted = text("find: id", id)
        return Effect.checked(lambda: chosen(self._records, wanted, self._folder))

    def table(self) -> dict[str, list[Any]]:
        """A column for each field, setting (`config.rate`) and figure (`last(train.loss)`), with `None` where a run has none.

        >>> Runs([RunRecord("runs/a/1", "1", "a", "completed", 0.0, config={"rate": 0.1})]).table()["config.rate"]
        [0.1]
        """
        fields = ("id", "name", "status", "created", "seconds", "tags", "note", "step", "epoch", "folder")
        columns = {name: [getattr(each, name) for each in self] for name in fields}
        columns |= {f"config.{name}": self.config(name) for name in _names(each.config for each in self)}
        for name in _names(each.last for each in self):
            for kind in ("last", "lowest", "highest"):
                columns[f"{kind}({name})"] = self._column(Column(name, kind))
        return columns

    def config(self, path: str) -> list[Any]:
        """The value of a setting in each run; `None` in those without it.  Raises: `KeyError` if no run has it."""
        self._check(path, _names(each.config for each in self), "setting")
        return self._column(Column(path, "config"))

    def histories(self) -> Effect[Mapping[str, track.History], HistoryFault]:
        """What each run recorded, by id; nothing for a run that recorded nothing.  Fails: `FileCorrupt`, `OutOfMemory`."""
        found = [each.id for each in self]
        # A run that was copied to another experiment has its id twice.
        ids = [each.id if found.count(each.id) == 1 else f"{each.name}/{each.id}" for each in self]
        return collect(map(_history, self)).map(lambda histories: dict(zip(ids, histories, strict=True)))

    def scalars(self, name: str, lane: int = 0) -> Effect[Mapping[str, track.Series], HistoryFault | UnknownColumn]:
        """The series of a metric in each run that has it, by id: arrays of steps, values, times and epochs.

        Fails: `UnknownColumn` if no run has it; `FileCorrupt`, `OutOfMemory`.
        """
        wanted, of = text("scalars: name", name), whole("scalars: lane", lane, 0)

        def found(histories: Mapping[str, track.History]) -> Effect[dict[str, track.Series], UnknownColumn]:
            have = {id: series for id, each in histories.items() for series in _series(each, wanted, of)}
            if have or not histories:
                return Effect.from_value(have)
            known = sorted({other for each in histories.values() for other in each.names})
            return Effect.from_failure(UnknownColumn(wanted, tuple(difflib.get_close_matches(wanted, known, 3))))

        return self.histories().bind(found)

    def __repr__(self) -> str:
        return f"<Runs: {len(self):,} in {self._folder}>"

    def _column(self, column: Column) -> list[Any]:
        values = [column.of(each) for each in self]
        return [None if value is MISSING else value for value in values]

    def _check(self, name: str, known: list[str], what: str) -> None:
        if self._records and name not in known:
            near = difflib.get_close_matches(str(name), known, 3) or known[:10]
            raise KeyError(f"no run has the {what} {name!r}; names here: {', '.join(map(repr, near)) or 'none'}")


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in mappings for name in each))


def _series(history: track.History, name: str, lane: int) -> list[track.Series]:
    """The series, if there is one."""
    try:
        return [history.scalars(name, lane)]
    except KeyError:
        return []


def _history(record: RunRecord) -> Effect[track.History, HistoryFault]:
    path = os.path.join(record.folder, LINES)

    def none(fault: HistoryFault) -> Effect[track.History, HistoryFault]:
        return Effect.from_value(track.History({}, ())) if isinstance(fault, FileMissing) else Effect.from_failure(fault)

    return track.history(path).lash(none)
