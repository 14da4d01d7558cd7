"""docs/reference/effect.md lists exactly the public methods of `Effect`, each with its parameters."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from returns.primitives.laws import Lawful

from fnlamp.effect import Effect

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "effect.md"
LISTED = re.findall(r"^\| `(\w+)\((.*?)\)` \| \S.* \|$", PAGE.read_text(), re.MULTILINE)


def test_the_page_lists_exactly_the_public_methods():
    public = {name for name in dir(Effect) if not name.startswith("_")}
    inherited = {name for name in dir(Lawful) if not name.startswith("_")}
    names = [name for name, _ in LISTED]
    assert len(set(names)) == len(names)
    assert set(names) == public - inherited


def test_each_method_is_listed_with_its_parameters():
    for name, parameters in LISTED:
        actual = [each for each in inspect.signature(getattr(Effect, name)).parameters if each != "self"]
        assert parameters == ", ".join(actual), name
