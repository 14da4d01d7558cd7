"""docs/reference/epochs.md lists exactly the parameters of `epochs`, in their order, with their defaults."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fnlamp import train

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "epochs.md"
TABLE = PAGE.read_text().partition("## Arguments")[2].partition("\n## ")[0]
ROWS = [tuple(cell.strip() for cell in line.split(" | ")) for line in re.findall(r"^\| (`.*) \|$", TABLE, re.MULTILINE)]
PARAMETERS = inspect.signature(train.epochs).parameters


def test_the_page_lists_exactly_the_parameters():
    assert [name for name, *_ in ROWS] == [f"`{name}`" for name in PARAMETERS]
    assert all(len(row) == 4 and all(row) for row in ROWS)


def test_each_default_is_the_actual_one():
    for name, _, default, _ in ROWS:
        actual = PARAMETERS[name.strip("`")].default
        if actual is inspect.Parameter.empty:
            assert default == "required", name
        elif name == "`schedule`":
            assert (default, actual(0)) == ("`optim.constant(1.0)`", 1.0)
        elif name in ("`metrics`", "`train_metrics`", "`folds`", "`indicators`"):
            assert (default, dict(actual)) == ("`{}`", {})
        else:
            assert default == f"`{actual!r}`", name
