"""`fnlamp runs export`: runs, or their scalars, as a CSV or Parquet file."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.experiment.command import output, pick, recorded
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.runs import Runs
from fnlamp.extra import need


def arguments(parser: argparse.ArgumentParser) -> None:
    pick.some(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="a file that ends in .csv or .parquet")
    parser.add_argument(
        "--what",
        choices=("scalars", "runs"),
        default="scalars",
        help="a row for each value of each metric, or for each run (default: scalars)",
    )


def run(options: argparse.Namespace) -> None:
    path = expanded(options.out)
    if not path.endswith((".csv", ".parquet")):
        options.usage("--out is a file that ends in .csv or .parquet")
    records = pick.the_runs(options)
    columns = scalars(records) if options.what == "scalars" else table(records)
    content = _parquet(columns) if path.endswith(".parquet") else _csv(columns)
    replaced(path, lambda file: file.write(content))
    rows = len(next(iter(columns.values())))
    if options.json:
        output.say_json({"path": path, "rows": rows})
    else:
        output.say(f"{path}: {rows:,} rows")


def scalars(records: Sequence[RunRecord]) -> dict[str, Any]:
    """A row for each value: run, metric, lane, step, epoch, time, value."""
    parts: dict[str, list[Any]] = {name: [] for name in ("run", "metric", "lane", "step", "epoch", "time", "value")}
    for id, history in recorded.histories(records).items():
        for lane in history.lanes:
            for name in history.names:
                try:
                    series = history.scalars(name, lane)
                except KeyError:  # not a scalar, or not in this lane
                    continue
                parts["run"] += [id] * len(series)
                parts["metric"] += [name] * len(series)
                parts["lane"].append(np.full(len(series), lane))
                for column in ("step", "epoch", "time", "value"):
                    parts[column].append(getattr(series, f"{column}s"))
    numbers = {name: np.concatenate(parts[name]) if parts[name] else np.zeros(0) for name in list(parts)[2:]}
    return {"run": parts["run"], "metric": parts["metric"], **numbers}


def table(records: Sequence[RunRecord]) -> dict[str, Any]:
    """A row for each run; a column with values of several types becomes text."""
    found = {}
    for name, values in Runs(records).table().items():
        kinds = {type(value) for value in values if value is not None}
        plain = kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool})
        found[name] = values if plain else [None if value is None else output.cell(value) for value in values]
    return found


def _csv(columns: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(each.tolist() if isinstance(each, np.ndarray) else each for each in columns.values()), strict=True))
    return text.getvalue().encode("utf-8", "backslashreplace")


def _parquet(columns: Mapping[str, Any]) -> bytes:
    """Fails: `ExtraMissing` without the extra `tables`."""
    arrow, parquet = need("pyarrow", "tables"), need("pyarrow.parquet", "tables")
    file = io.BytesIO()
    arrays = {
        name: [_utf8(each) for each in values] if isinstance(values, list) else values for name, values in columns.items()
    }
    parquet.write_table(arrow.table(arrays), file)
    return file.getvalue()


def _utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
