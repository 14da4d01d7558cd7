"""The parts of the site besides the pages of docs/: the project's files, the examples, the docstrings of every public name."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PROJECT = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^()\s]+)(\))")


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the generated pages."""
    pages = {place: (ROOT / name).read_text() for name, place in PROJECT.items()}
    examples = ROOT / "examples"
    programs = {file.relative_to(examples): file for file in [*sorted(examples.glob("*.py")), *sorted(examples.glob("*/*.py"))]}
    pages |= {f"examples/{name.with_suffix('.md')}": source(file) for name, file in programs.items()}
    pages["examples/index.md"] = "# Examples\n\n" + "".join(f"- [`{name}`]({name.with_suffix('.md')})\n" for name in programs)
    pages |= {f"api/{room.rpartition('.')[2]}.md": docstrings(room) for room in rooms()}
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    files.append(File.generated(config, "style.css", content=(Path(__file__).parent / "style.css").read_text()))
    return files


def rooms() -> list[str]:
    """fnlamp, the modules that it imports as its own, the weights of models, and the faults."""
    code = ast.parse((ROOT / "fnlamp" / "__init__.py").read_text())
    imports = [node for node in code.body if isinstance(node, ast.ImportFrom) and node.module == "fnlamp"]
    return [
        "fnlamp",
        *(f"fnlamp.{alias.name}" for node in imports for alias in node.names),
        "fnlamp.models.weights",
        "fnlamp.fault",
    ]


def source(file: Path) -> str:
    return f"# {file.name}\n\n```python\n{file.read_text()}```\n"


def docstrings(module: str) -> str:
    """A page with the docstring of every public name of the module."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    code = ast.parse(file.read_text())
    names = sorted(public(code, module, package=path.is_dir()).items(), key=lambda pair: pair[0].lower())
    blocks = "".join(f"::: {place}\n\n" for _, place in names)
    return f"# {module}\n\n{ast.get_docstring(code) or ''}\n\n{blocks}"


def public(code: ast.Module, module: str, *, package: bool) -> dict[str, str]:
    """Where each public name is defined: the imports of a package, without modules; the definitions of a module."""
    places: dict[str, str] = {}
    for node in code.body:
        if isinstance(node, ast.ImportFrom) and package and node.module not in ("fnlamp", "fnlamp.models"):
            places |= {alias.asname: f"{node.module}.{alias.name}" for alias in node.names if alias.asname}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            places[node.name] = f"{module}.{node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            places |= {target.id: f"{module}.{target.id}" for target in targets if isinstance(target, ast.Name)}
    return {name: place for name, place in places.items() if not name.startswith("_")}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository become links of the site; examples at a prompt are highlighted as such."""
    at = page.file.src_uri
    here = {place: name for name, place in PROJECT.items()}.get(at, f"docs/{at}")
    if not at.startswith(("api/", "examples/")):
        parts = re.split(f"({FENCE.pattern})", markdown, flags=FENCE.flags)
        markdown = "".join(
            part if part.startswith("```") else LINK.sub(lambda found: relinked(found, here, at), part) for part in parts
        )
    return markdown.replace("```python\n>>>", "```pycon\n>>>")


def relinked(found: re.Match[str], here: str, at: str) -> str:
    """A link of the file `here` in the repository, as the page `at` writes it."""
    path, mark, anchor = found[2].partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return found[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    if target in PROJECT:
        target = PROJECT[target]
    elif target == "examples":
        target = "examples/index.md"
    elif target.startswith("examples/"):
        target = target.removesuffix(".py") + ".md"
    else:
        target = target.removeprefix("docs/")
    return found[1] + posixpath.relpath(target, posixpath.dirname(at) or ".") + mark + anchor + found[3]
