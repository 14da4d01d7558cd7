"""Nothing public is left out of the catalogue."""

from __future__ import annotations

import ast
from pathlib import Path

import catalogue

import fnlamp


def public(room):
    if not hasattr(room, "__path__"):  # a file: what it defines
        tree = ast.parse(Path(room.__file__).read_text())
        return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")}
    tree = ast.parse(Path(room.__file__).read_text())
    return {alias.asname for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names if alias.asname}


def listed(cases):
    return {name.split()[0] for name in cases}


def test_every_layer_is_listed():
    assert (public(fnlamp.nn) | public(fnlamp.models) | {"in_training", "freeze", "lora"}) - catalogue.NO_LAYERS == listed(
        catalogue.LAYERS
    )


def test_every_loss_is_listed():
    assert public(fnlamp.loss) - catalogue.NO_LOSSES == listed(catalogue.LOSSES)


def test_every_rule_is_listed():
    expected = listed(catalogue.RULES) | listed(catalogue.WRAPPERS) | listed(catalogue.SCHEDULES)
    assert public(fnlamp.optim) - catalogue.NO_RULES == expected


def test_every_schedule_is_listed():
    assert public(fnlamp.optim.schedule) - {"Schedule", "Summary", "checked", "summary", "table"} == listed(catalogue.SCHEDULES)


def test_every_stream_is_listed():
    assert public(fnlamp.stream) - catalogue.NO_STREAMS == listed(catalogue.STREAMS) | listed(catalogue.ACQUIRED) | listed(
        catalogue.ONCE
    )
