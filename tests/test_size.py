"""A function fits a screen, and a file is read in one sitting."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fnlamp"
FILES = sorted(ROOT.rglob("*.py"))
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str, tree: ast.AST) -> set[int]:
    """The numbers of the lines with code: neither blank, nor a comment, nor a docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.broad
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_more_than_350_lines_and_no_function_more_than_40_of_code(path):
    text = path.read_text()
    tree = ast.parse(text)
    code = code_lines(text, tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {node.name: len(code & set(range(node.body[0].lineno, (node.end_lineno or 0) + 1))) for node in functions}
    assert {name: size for name, size in sizes.items() if size > 40} == {}
    assert len(text.splitlines()) <= 350


def test_the_lines_of_a_function_are_counted_without_docstring_and_comments():
    text = 'def f(\n    a,\n):\n    """One.\n\n    Two."""\n    # why\n    x = (\n        a  # here\n    )\n\n    return x\n'
    assert code_lines(text, ast.parse(text)) == {1, 2, 3, 8, 9, 10, 12}
