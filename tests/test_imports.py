"""Who may import whom: the architecture, as a walk over the imports."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1] / "fnlamp"
BASE = {"elsewhere", "fault", "arrays", "tree", "given", "convert", "identity"}
LAYERS = BASE | {"mode", "tag", "layer", "logits", "summary"}
EFFECT = BASE | {"effect"}
ALLOWED = {
    "elsewhere": set(),
    "fault": set(),
    "arrays": {"fault"},
    "identity": set(),
    "tree": {"arrays"},
    "given": {"arrays"},
    "convert": {"fault", "arrays", "given"},
    "mode": BASE,
    "tag": BASE,
    "layer": BASE | {"mode", "tag"},
    "logits": BASE,
    "summary": LAYERS,
    "graph": BASE,
    "nn": LAYERS | {"graph", "nn"},
    "models": LAYERS | {"nn", "models"},
    "augment": BASE | {"mode", "layer"},
    "surgery": LAYERS | {"nn", "surgery"},
    "machine": set(),
    "extra": {"fault"},
    "loss": LAYERS,
    "optim": BASE | {"tag", "optim"},
    "effect": EFFECT,
    "stream": EFFECT | {"stream"},
    "checkpoint": EFFECT | {"extra", "checkpoint"},
    "track": EFFECT | {"extra", "machine", "track"},
    "config": {"fault", "given", "extra", "effect", "config"},
    "experiment": EFFECT | {"extra", "machine", "config", "track", "checkpoint", "experiment"},
    "sweep": EFFECT | {"extra", "config", "track", "checkpoint", "experiment", "train", "sweep"},
    "scale": EFFECT | {"scale"},
    "data": EFFECT | {"graph", "stream", "extra", "machine", "data"},
    "plots": EFFECT | {"extra", "optim", "track", "train", "plots"},
    "generate": LAYERS | EFFECT | {"data", "train", "generate"},
    "train": LAYERS
    | EFFECT
    | {"nn", "models", "loss", "optim", "stream", "checkpoint", "data", "track", "extra", "scale", "train"},
}
PURE = {
    "elsewhere",
    "fault",
    "arrays",
    "identity",
    "tree",
    "given",
    "convert",
    "mode",
    "tag",
    "layer",
    "logits",
    "summary",
    "graph",
    "nn",
    "models",
    "loss",
    "optim",
    "augment",
    "surgery",
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
    if here in {"effect", "stream", "data", "config"}:
        assert "jax" not in packages


DATA = {
    "option": set(),
    "readers": {"option"},
    "sets": {"option", "readers"},
    "text": {"option", "readers"},
    "loading": set(),
    "graphs": {"option", "readers"},
}
"""The packages inside `data`, and the others that each may import."""


@pytest.mark.parametrize("path", [path for path in FILES if room(path) == "data"], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_of_data_imports_only_the_rooms_below_it(path):
    parts = path.relative_to(ROOT / "data").parts
    here = parts[0].removesuffix(".py")
    if here != "__init__":
        rooms = {name.split(".")[2] for name in imported(path) if name.startswith("fnlamp.data.")}
        assert rooms - {here} <= DATA[here]


@pytest.mark.parametrize("path", sorted((ROOT / "nn" / "lowering").glob("*.py")), ids=lambda path: path.name)
def test_kernels_do_not_import_layers(path):
    assert all(name.startswith("fnlamp.nn.lowering") for name in imported(path) if name.startswith("fnlamp.nn"))
    assert not {"fnlamp.layer", "fnlamp.mode", "fnlamp.tag"} & imported(path)


def modules() -> dict[str, Path]:
    """The files by the names that they are imported by."""
    named = {".".join(("fnlamp", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def arrows() -> dict[str, set[str]]:
    """Which files each file imports, inside functions and for type checkers too."""
    found, files = {}, modules()
    for module, path in files.items():
        names = imported(path)
        # `from fnlamp.nn.lowering import im2col` counts as the file, not as its package, which each file inside loads first.
        taken = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
        found[module] = {next(filter(files.__contains__, above(name)), module) for name in taken} - {module, "fnlamp"}
    return found


def above(name: str) -> list[str]:
    """The name and the names that contain it: a function, its file, its package."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def test_no_files_import_each_other_in_a_circle():
    remaining = arrows()
    while free := {module for module, names in remaining.items() if not names & remaining.keys()}:
        remaining = {module: names for module, names in remaining.items() if module not in free}
    assert not remaining, f"these import each other: {sorted(remaining)}"


def test_every_room_has_a_place_in_the_order():
    assert {room(path) for path in FILES} == {*ALLOWED, "__init__"}


TWO_MEANINGS = {
    "identity": "a loss; fnlamp.identity is internal",
    "experiment": "the function is what the package of that name is for",
    "generate": "the function is what the package of that name is for",
    "top_k": "of checkpoints, and of tokens: the field has one name for both",
    "sweep": "the function is what the package of that name is for",
}
"""Public names that mean two things, with the reason."""


def public(path: Path) -> dict[str, Any]:
    """The names that a package exports in its `__init__.py`, or that a module of one file defines, with their values."""
    module = importlib.import_module(
        ".".join(("fnlamp", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    )
    body = ast.parse(path.read_text()).body
    if path.name == "__init__.py":
        aliases = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
        names = {alias.name for alias in aliases if alias.asname == alias.name}
    else:
        names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        names |= {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
        names |= {
            each.id for node in body if isinstance(node, ast.Assign) for each in node.targets if isinstance(each, ast.Name)
        }
    return {name: getattr(module, name) for name in names if not name.startswith("_")}


def test_a_public_name_means_one_thing():
    places = [ROOT / "__init__.py", *ROOT.glob("*/__init__.py"), ROOT / "augment.py"]
    meanings: dict[str, list[tuple[str, Any]]] = {}
    for path in places:
        for name, value in public(path).items():
            meanings.setdefault(name, []).append((room(path), value))
    several = {
        name: [package for package, _ in found]
        for name, found in meanings.items()
        if any(value is not found[0][1] for _, value in found)
    }
    assert {name: packages for name, packages in several.items() if name not in TWO_MEANINGS} == {}
    assert set(TWO_MEANINGS) <= set(several), "an exception that is not needed any more"


def test_importing_fnlamp_computes_nothing():
    import subprocess

    code = "import fnlamp, jax; assert not jax.live_arrays(); assert not {'torch', 'tyro'} & {*__import__('sys').modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
