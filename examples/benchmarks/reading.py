"""The speed of reading files into arrays, compared with code by hand, pandas and pyarrow."""

from __future__ import annotations

import contextlib
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from generated import IDX, csv_file, mnist_files
from paired import Finding, Rounds, fastest, ratios, take_turns
from returns.unsafe import unsafe_perform_io
from terms import Given, Outcome

from fnlamp import data
from fnlamp.effect import Effect, Runtime

QUIET = Runtime(log=None)


def value(program: Effect[Any, Any]) -> Any:
    return unsafe_perform_io(program.run(QUIET).unwrap())


def idx(given: Given) -> Outcome:
    """MNIST's four IDX files."""
    files, origin = mnist_files(given.mnist, given.work, given.scale)

    def ours(number: int) -> list[Any]:
        return [value(data.read_idx(path)) for path in files.values()]

    def by_hand(number: int) -> list[Any]:
        return [_plain(path, len(IDX[name])) for name, path in files.items()]

    for one, other in zip(ours(0), by_hand(0), strict=True):
        np.testing.assert_array_equal(one, other)
    seconds = take_turns({"fnlamp": ours, "gzip and frombuffer": by_hand}, given.rounds)
    faster = ratios(seconds["gzip and frombuffer"], seconds["fnlamp"])
    found = Finding.of("MNIST's IDX files, against gzip and numpy.frombuffer", "times as fast", faster, 1.0, note=origin)
    return Outcome([found], {"seconds": seconds, "files": origin})


def _plain(path: Path, axes: int) -> Any:
    with gzip.open(path) as file:
        raw = file.read()
    shape = np.frombuffer(raw, ">u4", axes, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def csv(given: Given) -> Outcome:
    """10,000 rows of a label and 784 pixels, packed, with the extra `tables` and without it.

    The others' time ends with their own tables; fnlamp's with a float32 array of the features and one of the labels, with
    every cell checked.
    """
    import pandas
    import pyarrow.csv

    path, origin = csv_file(given.mnist, given.work, given.scale)
    read = data.read_csv(path, label="label")

    def plain(number: int) -> Any:
        with without("pyarrow"):
            return value(read)

    others = {
        "pandas": lambda number: pandas.read_csv(path, engine="c"),
        "pyarrow": lambda number: pyarrow.csv.read_csv(path),
        "pyarrow, to float32": lambda number: _as_float32(pyarrow.csv.read_csv(path)),
    }
    expected = others["pandas"](0).to_numpy()
    for table in (value(read), plain(0)):
        np.testing.assert_array_equal(table.features, expected[:, 1:].astype(np.float32))
        np.testing.assert_array_equal(table.label, expected[:, 0])
    seconds: Rounds = take_turns({"fnlamp": lambda number: value(read), "fnlamp without tables": plain, **others}, given.rounds)
    best = fastest(seconds, ["pandas", "pyarrow"])
    findings = [
        Finding.of(f"CSV {how} the extra, against {best}", "times its time", values, most, at_least=False, note=origin)
        for how, most, values in (
            ("with", 1.2, ratios(seconds["fnlamp"], seconds[best])),
            ("without", 5.0, ratios(seconds["fnlamp without tables"], seconds[best])),
        )
    ]
    return Outcome(findings, {"seconds": seconds, "file": origin, "fastest": best})


def _as_float32(table: Any) -> Any:
    return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float32)


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Makes imports of the package and its modules fail, as if it were not installed."""
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    sys.modules.update(dict.fromkeys([package, *hidden]))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        sys.modules.update(hidden)
