"""User programs are typed without help: by mypy with the plugin of returns and without it, and by pyright.

`programs/` holds valid programs (`assert_type` in them states the exact types), `errors/` mistakes: a line that ends in
`# error: <text>` is reported with that text, and no other line is.
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))
ERRORS = sorted((HERE / "errors").glob("*.py"))

PLUGIN = """[mypy]
strict = True
plugins = returns.contrib.mypy.returns_plugin
"""


def mypy_reports(directory: Path, *, plugin: bool) -> dict[tuple[str, int], list[str]]:
    """The output of `mypy --strict` for the programs and the mistakes, by file and line."""
    pytest.importorskip("mypy", reason="mypy is not installed; it comes with fnlamp[dev]")
    config = directory / "mypy.ini"
    config.write_text(PLUGIN if plugin else "[mypy]\nstrict = True\n")
    cache = ROOT / ".mypy_cache" / f"typing-{'with' if plugin else 'without'}-plugin"
    options = [
        f"--config-file={config}",
        f"--cache-dir={cache}",
        "--follow-imports=silent",
        "--no-pretty",
        "--hide-error-context",
    ]
    files = [str(path) for path in (*PROGRAMS, *ERRORS)]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", *files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    reports: dict[tuple[str, int], list[str]] = defaultdict(list)
    for report in run.stdout.splitlines():
        found = re.match(r"(.+?):(\d+): (error|note): (.*)", report)
        assert found is not None, report
        if found[3] == "error":
            reports[Path(found[1]).name, int(found[2])].append(found[4])
    return reports


def marked(path: Path) -> dict[tuple[str, int], str]:
    """The texts behind `# error:`, by file and line."""
    lines = enumerate(path.read_text().splitlines(), start=1)
    return {(path.name, number): line.split("# error: ")[1] for number, line in lines if "# error: " in line}


@pytest.fixture(scope="module", params=[True, False], ids=["with the plugin", "without the plugin"])
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[str]]:
    return mypy_reports(tmp_path_factory.mktemp("mypy"), plugin=request.param)


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_mypy_accepts_a_good_program(reports: dict[tuple[str, int], list[str]], path: Path) -> None:
    assert {place: texts for place, texts in reports.items() if place[0] == path.name} == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_mypy_reports_each_mistake_on_its_line_and_nothing_else(reports: dict[tuple[str, int], list[str]], path: Path) -> None:
    found = {place: texts for place, texts in reports.items() if place[0] == path.name}
    expected = marked(path)
    assert found.keys() == expected.keys(), found
    for place, text in expected.items():
        assert any(text in report for report in found[place]), (place, text, found[place])


@pytest.mark.slow
def test_pyright_accepts_the_good_programs() -> None:
    pytest.importorskip("pyright", reason="pyright is not installed; it comes with fnlamp[dev]")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(ROOT)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.startswith("{"), run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(PROGRAMS)
    assert [
        (entry["file"], entry["range"]["start"]["line"] + 1, entry["message"]) for entry in report["generalDiagnostics"]
    ] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_good_program_runs(path: Path) -> None:
    runpy.run_path(str(path), run_name="__main__")
