"""The state of a repository: all changes are recorded, no secret is, and git changes nothing and never holds a run up."""

from __future__ import annotations

import hashlib
import linecache
import os
import pathlib
import subprocess
import time

import pytest

from fnlamp.experiment import git, surroundings


def run_git(folder: pathlib.Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "repository"
    folder.mkdir()
    run_git(folder, "init", "-q", "-b", "main")
    return folder


def commit(folder: pathlib.Path, **files: str) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "-m", "first")


def contents(folder: pathlib.Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files}


def test_staged_unstaged_and_untracked_changes_are_recorded_and_nothing_is_changed(repository):
    commit(repository, staged="old\n", unstaged="old\n", gone="old\n")
    (repository / ".gitignore").write_text("ignored\n")
    (repository / "staged").write_text("new staged\n")
    run_git(repository, "add", "staged")
    (repository / "unstaged").write_text("new unstaged\n")
    (repository / "gone").unlink()
    (repository / "ignored").write_text("x")
    (repository / "sub").mkdir()
    (repository / "sub" / "a file \u00e9").write_text("text")
    (repository / "sub" / "link").symlink_to("/etc/passwd")
    (repository / "binary").write_bytes(b"\0\1")
    run_git(repository, "remote", "add", "origin", "https://me:s3cret@example.com/a.git")
    os.utime(repository / "unstaged", (0, 0))  # git would refresh its index for it
    before = contents(repository)
    state = git.state_of(str(repository / "sub"))
    assert contents(repository) == before
    assert state.facts == {
        "root": str(repository),
        "commit": run_git(repository, "rev-parse", "HEAD").strip(),
        "branch": "main",
        "remote": "https://example.com/a.git",
        "dirty": True,
        "diff": "whole",
        "untracked": 4,
    }
    diff = state.diff.decode()
    assert "+new staged" in diff and "+new unstaged" in diff and "deleted file" in diff and "ignored" not in diff
    assert set(state.untracked) == {".gitignore", "binary", "sub/a file \u00e9", "sub/link"}
    assert state.untracked["sub/a file \u00e9"] == {"bytes": 4, "sha256": hashlib.sha256(b"text").hexdigest(), "text": "text"}
    assert "text" not in state.untracked["binary"] and state.untracked["sub/link"] == {}


def test_the_diff_applies(repository, tmp_path):
    commit(repository, a="1\n2\n3\n")
    (repository / "a").write_text("1\nchanged\n3\n")
    state = git.state_of(str(repository))
    run_git(repository, "checkout", "-q", "--", "a")
    (tmp_path / "source.diff").write_bytes(state.diff)
    run_git(repository, "apply", str(tmp_path / "source.diff"))
    assert (repository / "a").read_text() == "1\nchanged\n3\n"


def test_a_repository_without_a_commit_is_recorded_against_nothing(repository):
    (repository / "a").write_text("staged\n")
    run_git(repository, "add", "a")
    before = contents(repository)
    state = git.state_of(str(repository))
    assert state.facts["commit"] is None and state.facts["branch"] == "main" and b"+staged" in state.diff
    assert contents(repository) == before


def test_a_clean_repository_and_a_detached_head(repository):
    commit(repository, a="x")
    run_git(repository, "checkout", "-q", "--detach")
    facts = git.state_of(str(repository)).facts
    assert facts["dirty"] is False and facts["branch"] is None and facts["remote"] is None


def test_a_submodule_is_recorded_by_its_commit(repository, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    run_git(other, "init", "-q")
    commit(other, a="x")
    commit(repository, b="y")
    run_git(repository, "submodule", "add", "-q", str(other), "part")
    run_git(repository, "commit", "-q", "-m", "second")
    (repository / "part" / "a").write_text("changed")
    assert b"-dirty" in git.state_of(str(repository)).diff


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "id_rsa", "server.pem", "my_secrets.json", "credentials", ".netrc", "a/token.txt"]
)
def test_files_whose_names_suggest_a_secret_are_listed_without_contents(repository, name):
    path = repository / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("s3cret")
    assert git.state_of(str(repository)).untracked == {name: {"bytes": 6}}


def test_ordinary_names_are_recorded(repository):
    for name in ("tokenizer.py", "environment.yml", "keys.py", "id_generator.py"):
        (repository / name).write_text("code")
    assert all(each["text"] == "code" for each in git.state_of(str(repository)).untracked.values())


@pytest.mark.parametrize("name", ["runs", "my runs [1]*", "deep/b?"])
def test_the_runs_themselves_are_left_out(repository, name):
    commit(repository, a="x")
    (repository / name / "demo").mkdir(parents=True)
    (repository / name / "demo" / "run.json").write_text("{}")
    (repository / "other").write_text("x")
    assert git.state_of(str(repository)).facts["untracked"] == 2
    state = git.state_of(str(repository), str(repository / name))
    assert list(state.untracked) == ["other"]
    assert git.state_of(str(repository), str(repository)).facts["untracked"] == 2
    assert git.state_of(str(repository), str(repository.parent / "else")).facts["untracked"] == 2


def test_much_is_cut(repository, monkeypatch):
    commit(repository, a="x\n")
    (repository / "a").write_text("y\n" * 1000)
    (repository / "large").write_text("z" * 1000)
    monkeypatch.setattr(git, "MOST_DIFF", 500)
    monkeypatch.setattr(git, "MOST_FILE", 999)
    state = git.state_of(str(repository))
    assert len(state.diff) == 500 and state.facts["diff"] == "cut"
    assert state.untracked["large"] == {"bytes": 1000}


def test_no_program_of_the_repository_is_run(repository, tmp_path):
    commit(repository, a="x\n")
    (repository / "a").write_text("y\n")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    script.chmod(0o755)
    for name in ("diff.external", "core.fsmonitor", "core.pager", "pager.diff", "diff.x.textconv", "diff.x.command"):
        run_git(repository, "config", name, str(script))
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text("* diff=x\n")
    assert b"+y" in git.state_of(str(repository)).diff and not (tmp_path / "executed").exists()


def test_variables_of_git_do_not_lead_elsewhere(repository, monkeypatch, tmp_path):
    commit(repository, a="x\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "none"))
    assert git.state_of(str(repository)).facts["root"] == str(repository)


def test_without_git_or_a_repository_the_facts_say_so(tmp_path, monkeypatch):
    assert "not a git repository" in git.state_of(str(tmp_path)).facts["missing"]
    assert "not a folder" in git.state_of(str(tmp_path / "none")).facts["missing"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.state_of(str(tmp_path)).facts == {"missing": "git is not installed"}


@pytest.mark.parametrize("slow", ["rev-parse", "diff", "ls-files"])
def test_a_slow_git_is_left(repository, tmp_path, monkeypatch, slow):
    commit(repository, a="x\n")
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncase "$*" in *{slow}*) exec sleep 60;; esac\nexec {real} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "PATIENCE", 0.2)
    start = time.monotonic()
    facts = git.state_of(str(repository)).facts
    assert time.monotonic() - start < 5
    assert "too long" in facts.get("missing", "") + facts.get("diff", "")


def test_the_source_of_a_file_and_of_a_cell_of_a_notebook(tmp_path):
    path = tmp_path / "train.py"
    path.write_text("x = 1\n")
    assert surroundings.sources(str(path))["train.py"] == b"x = 1\n"
    name = "<ipython-input-1-abc>"
    linecache.cache[name] = (6, None, ["y = 2\n"], name)
    assert b"y = 2\n" in surroundings.sources(name).values()
    assert surroundings.sources("<stdin>") == {}
