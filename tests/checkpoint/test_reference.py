"""docs/reference/checkpoint.md lists exactly the public names, each with its parameters."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import fnlamp.checkpoint
from fnlamp.checkpoint import Writer

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "checkpoint.md").read_text()
LISTED = dict(re.findall(r"^\| `(\w+)(?:\((.*?)\))?` \| \S.* \|$", PAGE, re.MULTILINE))
PUBLIC = {name for name, value in vars(fnlamp.checkpoint).items() if not name.startswith("_") and not inspect.ismodule(value)}
METHODS = {name for name in vars(Writer) if not name.startswith("_")} | {"busy"}


def test_the_page_lists_exactly_the_public_names():
    assert set(LISTED) == PUBLIC | METHODS


def test_each_name_is_listed_with_its_parameters():
    for name, parameters in LISTED.items():
        public = getattr(fnlamp.checkpoint, name, None) or getattr(Writer, name, None)
        if parameters or (name in METHODS and callable(public)):
            actual = [each for each in inspect.signature(public).parameters if each != "self"]
            assert parameters == ", ".join(actual), name
