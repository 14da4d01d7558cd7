"""Who may import whom: the architecture, as a walk over the imports."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fnlamp"
BASE = {"elsewhere", "fault", "arrays", "tree", "given", "convert", "identity"}
LAYERS = BASE | {"mode", "tag", "layer"}
EFFECT = BASE | {"effect"}
ALLOWED = {
    "elsewhere": set(),
    "fault": set(),
    "arrays": {"fault"},
    "code": set(),
    "identity": {"code"},
    "tree": {"arrays"},
    "given": {"arrays"},
    "convert": {"fault", "arrays", "given"},
    "mode": BASE,
    "tag": BASE,
    "layer": LAYERS | {"nn"},  # `>>` is a combinator, imported where it is called
    "nn": LAYERS | {"nn"},
    "augment": BASE,
    "machine": set(),
    "extra": {"fault"},
    "loss": LAYERS,
    "optim": BASE | {"tag", "optim"},
    "effect": EFFECT,
    "stream": EFFECT | {"stream"},
    "data": EFFECT | {"stream", "extra", "machine", "data"},
    "plots": EFFECT | {"extra"},
    "train": LAYERS | EFFECT | {"nn", "loss", "optim", "stream", "train"},
}
PURE = {
    "elsewhere",
    "fault",
    "arrays",
    "code",
    "identity",
    "tree",
    "given",
    "convert",
    "mode",
    "tag",
    "layer",
    "nn",
    "loss",
    "optim",
    "augment",
}
INSTALLED = {"jax", "numpy", "returns", "typing_extensions", "fnlamp"}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_below_it(path):
    here, names = room(path), imported(path)
    if here == "__init__":
        return
    rooms = {name.split(".")[1] for name in names if name.startswith("fnlamp.")}
    assert rooms - {here} <= ALLOWED[here]
    packages = {name.split(".")[0] for name in names}
    assert packages - set(sys.stdlib_module_names) <= INSTALLED
    if here in PURE:
        assert "returns" not in packages
    if here in {"effect", "stream", "data"}:
        assert "jax" not in packages


def test_every_room_has_a_place_in_the_order():
    assert {room(path) for path in FILES} == {*ALLOWED, "__init__"}


def test_importing_fnlamp_computes_nothing():
    import subprocess

    code = "import fnlamp, jax; assert not jax.live_arrays(); assert 'torch' not in __import__('sys').modules"
    subprocess.run([sys.executable, "-c", code], check=True)
